"""`WeightSpaceFeatures`: the weights and biases of a batch of networks, with channels, as one value.

Shapes, here and in every file of this package:
    B networks, C channels, R rows (outputs of a layer), S columns (inputs), K kernel positions (1 for a dense layer),
    T all weights and biases of one network, L layers.
    weights[i]: (B, R, S, K, C)     biases[i]: (B, R, C)     channels last in memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nfbench.weightspace.spec import NetworkSpec

Index = int | slice | Tensor | Sequence[int]


@dataclass(frozen=True, eq=False)
class WeightSpaceFeatures:
    """A feature for every weight and bias of a batch of networks.

    Args:
        spec: what networks they are.
        weights: for each layer (B, R, S, K, C).
        biases: for each layer (B, R, C).

    Raises:
        ValueError: not one weight and one bias for each layer of the spec (shapes are checked by `check`).
    """

    spec: NetworkSpec
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if not len(self.weights) == len(self.biases) == self.spec.num_layers:
            raise ValueError(
                f"{self.spec} has {self.spec.num_layers} layers, got {len(self.weights)} weights and "
                f"{len(self.biases)} biases"
            )

    @classmethod
    def from_flat(cls, spec: NetworkSpec, flat: Tensor) -> WeightSpaceFeatures:
        """From (B, T) or (B, T, C), in the order of `torch.nn.utils.parameters_to_vector`.

        Raises:
            ValueError: another number of parameters than the spec has.
        """
        if flat.ndim not in (2, 3) or flat.shape[1] != spec.num_params:
            raise ValueError(
                f"{spec} has {spec.num_params} parameters, so a batch of networks is (B, {spec.num_params}) or "
                f"(B, {spec.num_params}, C), got {tuple(flat.shape)}"
            )
        x_BTC = flat if flat.ndim == 3 else flat.unsqueeze(-1)
        parts = [x_BTC[:, where] for where in spec.scalar_slices()]
        weights = tuple(
            part.unflatten(1, (layer.out_size, layer.in_size, layer.taps))
            for layer, part in zip(spec.layers, parts[::2], strict=True)
        )
        return cls(spec, weights, tuple(parts[1::2]))

    @classmethod
    def from_state_dicts(cls, spec: NetworkSpec, states: Sequence[Mapping[str, Tensor]]) -> WeightSpaceFeatures:
        """From the `state_dict()` of each network, C = 1. Only the order weight, bias, ... counts, not the names.

        A layer without bias gets one of zeros. Networks with batch norm are read by `read_networks`.

        Raises:
            ValueError: an empty sequence, or a tensor that does not fit, named.
        """
        if not states:
            raise ValueError("no networks given: pass at least one state dict")
        complete = [_add_biases(state) for state in states]
        for state in complete:
            spec.check_state_dict(state)
        return cls.from_flat(spec, torch.stack([torch.cat([t.flatten() for t in s.values()]) for s in complete]))

    def to_state_dicts(self, names: Sequence[str] | None = None) -> list[dict[str, Tensor]]:
        """The inverse of `from_state_dicts`: one dict of tensors in PyTorch's shapes for each network.

        Args:
            names: keys, such as `list(module.state_dict())`; default `0.weight, 0.bias, 1.weight, ...`.

        Raises:
            ValueError: more than one channel, or not as many names as tensors.
        """
        if self.channels != 1:
            raise ValueError(f"a state dict holds one number for each parameter, these features have {self.channels}")
        keys = names or [f"{i}.{kind}" for i in range(self.spec.num_layers) for kind in ("weight", "bias")]
        shapes = self.spec.parameter_shapes()
        if len(keys) != len(shapes):
            raise ValueError(f"{self.spec} has {len(shapes)} tensors, got {len(keys)} names: {', '.join(keys)}")
        flat_BT = self.flatten().squeeze(-1)
        return [
            {k: row[w].reshape(s) for k, w, s in zip(keys, self.spec.scalar_slices(), shapes, strict=True)}
            for row in flat_BT
        ]

    def flatten(self) -> Tensor:
        """All weights and biases as (B, T, C), in the order of `from_flat`."""
        pairs = zip(self.weights, self.biases, strict=True)
        return torch.cat([part for w, b in pairs for part in (w.flatten(1, 3), b)], dim=1)

    def map(self, function: Callable[[Tensor], Tensor]) -> WeightSpaceFeatures:
        """Applies an elementwise (or channelwise) function to every weight and bias tensor."""
        return WeightSpaceFeatures(self.spec, tuple(map(function, self.weights)), tuple(map(function, self.biases)))

    def zip(self, other: WeightSpaceFeatures, function: Callable[[Tensor, Tensor], Tensor]) -> WeightSpaceFeatures:
        """Combines tensor by tensor with the features of networks of the same spec.

        Raises:
            ValueError: different specs.
        """
        if self.spec != other.spec:
            raise ValueError(f"features of different networks cannot be combined: {self.spec} and {other.spec}")
        return WeightSpaceFeatures(
            self.spec,
            tuple(map(function, self.weights, other.weights)),
            tuple(map(function, self.biases, other.biases)),
        )

    def __add__(self, other: WeightSpaceFeatures) -> WeightSpaceFeatures:
        return self.zip(other, torch.add)

    def __getitem__(self, index: Index) -> WeightSpaceFeatures:
        """Some of the networks, still as a batch: an int (NumPy's and a tensor's too) keeps a batch of one.

        Raises:
            IndexError: an int beyond the batch.
        """
        if not isinstance(index, slice | Sequence) and getattr(index, "ndim", 0) == 0:
            index = operator.index(index)
        if isinstance(index, int) and not -self.batch_size <= index < self.batch_size:
            raise IndexError(f"network {index} of a batch of {self.batch_size}")
        rows = slice(index, index + 1 or None) if isinstance(index, int) else index
        return self.map(lambda t: t[rows])

    def to(self, *args: Any, **kwargs: Any) -> WeightSpaceFeatures:
        """Device or dtype, as `Tensor.to`."""
        return self.map(lambda t: t.to(*args, **kwargs))

    def __len__(self) -> int:
        return self.batch_size

    @property
    def batch_size(self) -> int:
        return self.weights[0].shape[0]

    @property
    def channels(self) -> int:
        return self.weights[0].shape[-1]

    def check(self) -> WeightSpaceFeatures:
        """Returns itself when every shape fits the spec.

        Raises:
            ValueError: names the first tensor that does not, and the shape it should have.
        """
        batch, channels = self.batch_size, self.channels
        for i, layer in enumerate(self.spec.layers):
            expected = {
                "weight": (self.weights[i], (batch, layer.out_size, layer.in_size, layer.taps, channels)),
                "bias": (self.biases[i], (batch, layer.out_size, channels)),
            }
            for kind, (tensor, shape) in expected.items():
                if tuple(tensor.shape) != shape:
                    raise ValueError(f"the {kind} of layer {i} of {self.spec} is {tuple(tensor.shape)}, needs {shape}")
        return self


def _add_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds zeros where a weight, which always has more than one dimension, is followed by another one or by nothing."""
    complete: dict[str, Tensor] = {}
    for (name, tensor), following in zip_longest(state.items(), [*state.values()][1:]):
        complete[name] = tensor
        if tensor.ndim > 1 and (following is None or following.ndim > 1):
            complete[f"{name} (zero bias)"] = tensor.new_zeros(len(tensor))
    return complete


class ZooBatch(NamedTuple):
    """What a zoo hands to a task.

    Attributes:
        features: the networks, C = 1.
        target: (B,) class index (int64) or value (float32); (B, classes) float32 shares where networks were mixed.
        index: (B,) int64, which item of the data set the network belongs to.
        view: (B,) int64, which of that item's networks.
    """

    features: WeightSpaceFeatures
    target: Tensor
    index: Tensor  # type: ignore[assignment]  # a field, not tuple.index
    view: Tensor


def random_features(
    spec: NetworkSpec,
    batch_size: int,
    channels: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> WeightSpaceFeatures:
    """Standard normal features for tests and benchmarks."""
    flat = torch.randn(batch_size, spec.num_params, channels, generator=generator, dtype=dtype)
    return WeightSpaceFeatures.from_flat(spec, flat).map(lambda t: t.contiguous())
