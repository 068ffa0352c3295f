"""Norms over channels.

B networks, C channels, R rows, S columns, K kernel positions.
"""

from __future__ import annotations

from torch import nn

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
