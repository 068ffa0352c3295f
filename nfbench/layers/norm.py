"""Norms over channels.

B networks, C channels, R rows, S columns, K kernel positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures


class ChannelLayerNorm(nn.Module):
    """Layer norm of every single weight and bias over its channels (and kernel positions), gain and shift per tensor.

    Args:
        spec: networks that go in.
        channels: C.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> the same. Equivariant to permutations of all neuron layers.
    """

    symmetry = "np"

    def __init__(self, spec: NetworkSpec, channels: int) -> None:
        super().__init__()
        self.weight_norms = nn.ModuleList(nn.LayerNorm((layer.taps, channels)) for layer in spec.layers)
        self.bias_norms = nn.ModuleList(nn.LayerNorm(channels) for _ in spec.layers)

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        weights = tuple(norm(w) for norm, w in zip(self.weight_norms, x.weights, strict=True))
        biases = tuple(norm(b) for norm, b in zip(self.bias_norms, x.biases, strict=True))
        return WeightSpaceFeatures(x.spec, weights, biases)


class SimpleLayerNorm(nn.Module):
    """`ChannelLayerNorm` as in the authors' code: divides by the unbiased standard deviation plus 1e-5.

    Slower than the fused `ChannelLayerNorm`, from which it differs by a factor sqrt((n - 1) / n) over n channels; for
    networks trained with the authors' package.

    Args:
        spec: networks that go in.
        channels: C; channels times kernel positions must be at least 2 for a standard deviation.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> the same. Equivariant to permutations of all neuron layers.

    Raises:
        ValueError: one channel.
    """

    symmetry = "np"

    def __init__(self, spec: NetworkSpec, channels: int) -> None:
        super().__init__()
        if channels < 2:
            raise ValueError(f"a norm over channels needs at least 2 of them, got {channels}")
        self.taps = [layer.taps for layer in spec.layers]
        sizes = [taps * channels for taps in self.taps]
        self.weight_gains = nn.ParameterList(torch.ones(size) for size in sizes)
        self.weight_shifts = nn.ParameterList(torch.zeros(size) for size in sizes)
        self.bias_gains = nn.ParameterList(torch.ones(channels) for _ in sizes)
        self.bias_shifts = nn.ParameterList(torch.zeros(channels) for _ in sizes)

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        def normalize(t: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
            std, mean = torch.std_mean(t, -1, keepdim=True)
            return (t - mean) / (std + 1e-5) * gain + shift

        weights = tuple(
            normalize(w.flatten(-2), gain, shift).view_as(w)
            for w, gain, shift in zip(x.weights, self.weight_gains, self.weight_shifts, strict=True)
        )
        biases = tuple(map(normalize, x.biases, self.bias_gains, self.bias_shifts))
        return WeightSpaceFeatures(x.spec, weights, biases)


class ParamLayerNorm(nn.Module):
    """Layer norm over channels and over what is not permuted: inputs of W_1, outputs of W_L and v_L.

    As in the authors' code, for convolutions too (kernel positions go with the channels).

    Args:
        spec: networks that go in.
        channels: C.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> the same. Equivariant to hidden-neuron permutations.
    """

    symmetry = "hnp"

    def __init__(self, spec: NetworkSpec, channels: int) -> None:
        super().__init__()
        first, last = spec.layers[0], spec.layers[-1]
        weight_shapes: list[tuple[int, ...]] = [(layer.taps, channels) for layer in spec.layers]
        bias_shapes: list[tuple[int, ...]] = [(channels,) for _ in spec.layers]
        weight_shapes[-1] = (last.out_size, last.taps, channels)
        bias_shapes[-1] = (last.out_size, channels)
        weight_shapes[0] = (first.in_size, first.taps, channels)
        self.weight_norms = nn.ModuleList(map(nn.LayerNorm, weight_shapes))
        self.bias_norms = nn.ModuleList(map(nn.LayerNorm, bias_shapes))

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        last = x.spec.num_layers - 1
        weights = []
        for i, (norm, w_BRSKC) in enumerate(zip(self.weight_norms, x.weights, strict=True)):
            by_column = i == last > 0  # columns of W_L belong to hidden neurons, its rows are outputs
            weights.append(norm(w_BRSKC.transpose(1, 2)).transpose(1, 2) if by_column else norm(w_BRSKC))
        biases = tuple(norm(b) for norm, b in zip(self.bias_norms, x.biases, strict=True))
        return WeightSpaceFeatures(x.spec, tuple(weights), biases)
