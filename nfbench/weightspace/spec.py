"""What kind of network is being read: the sizes of its layers, dense or convolutional, and its activation.

A `NetworkSpec` is to this package what `Irreps` is to e3nn: every layer, model and zoo is built from one.
Its text form is short enough for a config file: `2-32-32-1:sine` is a SIREN with two hidden layers,
`1-16c3-16c3-16c3-10:relu` a CNN with three 3x3 convolutions and one dense layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nfbench.weightspace.modules import find_layers

ACTIVATIONS = ("sine", "relu", "leaky_relu", "tanh", "gelu", "silu", "sigmoid", "identity")
_LAYER_TEXT = re.compile(r"^(\d+)(?:c(\d+)(?:x(\d+))?)?$")


@dataclass(frozen=True)
class LayerSpec:
    """One layer of the input network.

    Args:
        in_size: number of input neurons or channels, S.
        out_size: number of output neurons or channels, R.
        kernel: height and width of a convolution's kernel; None for a dense layer.
    """

    in_size: int
    out_size: int
    kernel: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if min(self.in_size, self.out_size, *(self.kernel or (1,))) < 1:
            raise ValueError(f"sizes of a layer must be at least 1, got {self}")

    @property
    def taps(self) -> int:
        """Number of kernel positions K: height x width of a convolution, 1 for a dense layer."""
        return self.kernel[0] * self.kernel[1] if self.kernel else 1

    @property
    def is_conv(self) -> bool:
        return self.kernel is not None

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight in PyTorch: (R, S) or (R, S, height, width)."""
        return (self.out_size, self.in_size, *(self.kernel or ()))

    @property
    def num_weights(self) -> int:
        return self.out_size * self.in_size * self.taps


@dataclass(frozen=True)
class NetworkSpec:
    """A feed-forward network: its layers from input to output, and the activation between them.

    Every layer has a bias; a network without one is read with biases of zero, which is the same function.

    Args:
        layers: at least one layer; each takes as many inputs as the one before it gives.
        activation: one of `ACTIVATIONS`, applied after every layer but the last.

    Raises:
        ValueError: no layers, sizes that do not fit together, or an unknown activation.
    """

    layers: tuple[LayerSpec, ...]
    activation: str = "relu"

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a network needs at least one layer, for example NetworkSpec.parse('2-32-32-1:sine')")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}; one of {', '.join(ACTIVATIONS)}")
        for i, (before, after) in enumerate(zip(self.layers, self.layers[1:], strict=False)):
            if before.out_size != after.in_size:
                raise ValueError(
                    f"layer {i} gives {before.out_size} outputs, but layer {i + 1} takes {after.in_size}; a dense "
                    "layer after a convolution is supported only where global pooling has removed the positions"
                )

    @classmethod
    def parse(cls, text: str) -> NetworkSpec:
        """Reads the text form: sizes joined by `-`, `c3` or `c3x5` behind a convolution's channels, `:activation`.

        Raises:
            ValueError: text of another form.
        """
        sizes, _, activation = text.strip().partition(":")
        matches = [_LAYER_TEXT.match(part) for part in sizes.split("-")]
        first = matches[0]
        if len(matches) < 2 or first is None or first[2] is not None or None in matches:
            raise ValueError(
                f"cannot read the network spec {text!r}; write sizes from input to output, for example "
                "'2-32-32-1:sine' (dense) or '1-16c3-16c3-10:relu' (3x3 convolutions, then dense)"
            )
        layers, in_size = [], int(first[1])
        for match in matches[1:]:
            assert match is not None
            kernel = (int(match[2]), int(match[3] or match[2])) if match[2] else None
            layers.append(LayerSpec(in_size, int(match[1]), kernel))
            in_size = int(match[1])
        return cls(tuple(layers), activation or "relu")

    @classmethod
    def from_module(cls, module: nn.Module, activation: str | None = None) -> NetworkSpec:
        """The spec of a network that `nfbench.weightspace.read_networks` can read: it has no batch norm left in it.

        Args:
            module: an `nn.Sequential` of Linear or Conv2d layers with one activation between any two; see there.
            activation: names activations whose class torch does not ship, such as a sine.

        Raises:
            ValueError: anything else, named: other modules, batch norm that cannot be folded into a layer, activations
                missing, doubled, mixed or behind the last layer.
        """
        found, name = find_layers(module, activation)
        return cls(tuple(LayerSpec(layer.in_size, layer.out_size, layer.kernel) for layer in found), name)

    @property
    def num_layers(self) -> int:
        """Number of layers with parameters, L."""
        return len(self.layers)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Neurons (or channels) of each neuron layer from input to output: n_0, ..., n_L."""
        return (self.layers[0].in_size, *(layer.out_size for layer in self.layers))

    @property
    def num_params(self) -> int:
        """Number of weights and biases, T."""
        return sum(layer.num_weights + layer.out_size for layer in self.layers)

    def parameter_shapes(self) -> list[tuple[int, ...]]:
        """Shapes in the order of `nn.Module.parameters()`: weight, bias, weight, bias, ..."""
        return [shape for layer in self.layers for shape in (layer.weight_shape, (layer.out_size,))]

    def scalar_slices(self) -> list[slice]:
        """Where each parameter tensor lies in the flat vector of T numbers, in the same order."""
        slices, start = [], 0
        for layer in self.layers:
            for size in (layer.num_weights, layer.out_size):
                slices.append(slice(start, start + size))
                start += size
        return slices

    def check_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Raises a ValueError that names the first tensor of `state` that does not fit this spec."""
        shapes = self.parameter_shapes()
        if len(state) != len(shapes):
            raise ValueError(
                f"the state dict has {len(state)} tensors ({', '.join(state)}), but {self} has {len(shapes)}: "
                "a weight and a bias for each layer. Networks with batch norm are read by read_networks(modules)"
            )
        for i, ((name, tensor), shape) in enumerate(zip(state.items(), shapes, strict=True)):
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name!r} has the shape {tuple(tensor.shape)}, but {self} needs {shape} there")
            if i % 2 and name.rpartition(".")[2] == "weight":  # of a PReLU, say, behind a layer without bias
                raise ValueError(f"{name!r} is where the bias of layer {i // 2} is due, but it is called a weight")

    def __str__(self) -> str:
        parts = [str(self.sizes[0])]
        for layer in self.layers:
            height, width = layer.kernel or (0, 0)
            suffix = "" if not layer.kernel else f"c{height}" if height == width else f"c{height}x{width}"
            parts.append(f"{layer.out_size}{suffix}")
        return f"{'-'.join(parts)}:{self.activation}"


def random_spec(generator: torch.Generator, kind: str = "dense", depth: tuple[int, int] = (2, 5)) -> NetworkSpec:
    """A random spec for tests: 2 to 5 layers of 1 to 9 neurons.

    Args:
        generator: where the randomness comes from.
        kind: "dense", or "conv" for convolutions (kernels 1 to 3, not always square) before one dense layer.
        depth: least and greatest number of layers.
    """

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    num_layers = integer(*depth)
    sizes = [integer(1, 9) for _ in range(num_layers + 1)]
    layers = []
    for i in range(num_layers):
        conv = kind == "conv" and i < num_layers - 1
        layers.append(LayerSpec(sizes[i], sizes[i + 1], (integer(1, 3), integer(1, 3)) if conv else None))
    return NetworkSpec(tuple(layers), "relu" if kind == "conv" else "sine")
