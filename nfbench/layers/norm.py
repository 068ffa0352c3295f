"""Norms over channels.

B networks, C channels, R rows, S columns, K kernel positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures

EPS = 1e-5  # of the authors' layer norm, added to the standard deviation
TINY = 1e-30  # added to variances, so that constant channels give zero and not NaN


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


class _AuthorsLayerNorm(torch.autograd.Function):
    """(x - mean) / (std + EPS) * gain + shift over the last axis, std the unbiased one.

    Plain operations pass over the features ten times. Instead the fused layer norm gives x^ = (x - mean) r, with
    1 / r = sqrt((n - 1) / n) std, and x^ f is what is wanted for f = 1 / (sqrt(n / (n - 1)) + EPS r).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        size = x.shape[-1]
        scaled, mean, inverse = torch.native_layer_norm(x, (size,), gain, None, TINY)
        factor = ((size / (size - 1)) ** 0.5 + EPS * inverse).reciprocal_()
        ctx.save_for_backward(x, gain, mean, inverse, factor)
        return torch.addcmul(shift, scaled, factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (grad,) = grads
        x, gain, mean, inverse, factor = ctx.saved_tensors
        size = x.shape[-1]
        grad_x, grad_gain, _ = torch.ops.aten.native_layer_norm_backward(
            grad * factor, x, (size,), mean, inverse, gain, None, (True, True, False)
        )
        # f depends on x too: df / dx = f^2 EPS r^2 x^ / n.
        normed = torch.native_layer_norm(x, (size,), None, None, TINY)[0]
        along = (grad * normed) @ gain
        grad_x.addcmul_(normed, along.unsqueeze(-1) * (factor * inverse) ** 2 * (EPS / size))
        return grad_x, grad_gain, grad.flatten(0, -2).sum(0)


class SimpleLayerNorm(nn.Module):
    """`ChannelLayerNorm` as in the authors' code: divides by the unbiased standard deviation plus 1e-5.

    It differs from `ChannelLayerNorm` by a factor sqrt((n - 1) / n) over n channels, and is slower and differentiable
    once; for networks trained with the authors' package.

    Args:
        spec: networks that go in.
        channels: C, at least 2 for a standard deviation.

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
        weights = tuple(
            _AuthorsLayerNorm.apply(w.flatten(-2).to(gain), gain, shift).view_as(w)
            for w, gain, shift in zip(x.weights, self.weight_gains, self.weight_shifts, strict=True)
        )
        biases = tuple(
            _AuthorsLayerNorm.apply(b.to(gain), gain, shift)
            for b, gain, shift in zip(x.biases, self.bias_gains, self.bias_shifts, strict=True)
        )
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
