"""Invariant pooling: from the weights of a network to one vector, or to a few.

B networks, C channels, R rows, S columns, K kernel positions, T all weights and biases, M queries, L layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nfbench.layers.checks import check_dropouts, check_sizes
from nfbench.layers.product import Linear
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures


class NPPool(nn.Module):
    """The mean of every weight tensor (each kernel position apart) and bias (NFN, Sec. 2.3).

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> (B, num_outputs, C); num_outputs = sum over layers of K + 1.
        Invariant to permutations of all neuron layers.
    """

    symmetry = "np"

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.num_outputs = sum(layer.taps + 1 for layer in spec.layers)

    def forward(self, x: WeightSpaceFeatures) -> Tensor:
        pairs = zip(x.weights, x.biases, strict=True)
        return torch.cat([part for w, b in pairs for part in (w.mean((1, 2)), b.mean(1, keepdim=True))], 1)


class HNPPool(nn.Module):
    """Means over hidden neurons only: inputs of W_1 and outputs of W_L and v_L are kept apart (NFN, Eq. 17).

    Like the authors' code it leaves out the full means of W_1, W_L and v_L, which follow from the others.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> (B, num_outputs, C). A 2-32-32-1 network gives 7, a 2-32-32-3
        network 11, the Small CNN Zoo's 50. Invariant to hidden-neuron permutations. Of a network of one layer, which
        has no hidden neurons, the means of rows and columns and the bias.
    """

    symmetry = "hnp"

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        first, last = spec.layers[0], spec.layers[-1]
        self.num_outputs = first.in_size * first.taps + last.out_size * (last.taps + 1)
        if spec.num_layers > 1:
            self.num_outputs += 1 + sum(layer.taps + 1 for layer in spec.layers[1:-1])

    def forward(self, x: WeightSpaceFeatures) -> Tensor:
        parts = [x.weights[0].mean(1).flatten(1, 2)]
        for i, bias_BRC in enumerate(x.biases[:-1]):
            parts += [x.weights[i].mean((1, 2))] if i > 0 else []
            parts.append(bias_BRC.mean(1, keepdim=True))
        parts += [x.weights[-1].mean(2).flatten(1, 2), x.biases[-1]]
        return torch.cat(parts, 1)


class _GEGLU(nn.Module):
    """a * gelu(b), a and b the halves of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return a * F.gelu(b)


class CrossAttentionPool(nn.Module):
    """M learned queries attend to all weights and biases: an invariant array of M vectors (NFT, Fig. 2).

    One pre-norm cross-attention with a residual and a pre-norm feed-forward with a residual, as in a Perceiver.

    Args:
        channels: C of the weights' features.
        num_queries: M.
        num_heads: heads of the cross-attention, a divisor of C.
        ff_factor: hidden width of the feed-forward part, as a multiple of C.
        dropout: of the feed-forward part.
        gated: GEGLU in the feed-forward part in place of GELU. With it and one head this is the authors' pooling.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> (B, M, C). Invariant to permutations of all neuron layers.

    Raises:
        ValueError: a size below 1, a dropout outside [0, 1), or channels not a multiple of num_heads.
    """

    symmetry = "np"

    def __init__(
        self,
        channels: int,
        num_queries: int,
        num_heads: int = 4,
        ff_factor: int = 4,
        dropout: float = 0.0,
        gated: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, num_queries=num_queries, num_heads=num_heads, ff_factor=ff_factor)
        check_dropouts(dropout=dropout)
        if channels % num_heads:
            raise ValueError(f"channels must be a multiple of num_heads, got {channels} and {num_heads}")
        self.num_heads, self.num_outputs = num_heads, num_queries
        self.queries = nn.Parameter(torch.randn(num_queries, channels))
        self.norm_queries, self.norm_tokens = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.to_q = Linear(channels, channels, bias=False)
        self.to_kv = Linear(channels, 2 * channels, bias=False)
        self.project = Linear(channels, channels)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(channels),
            Linear(channels, (1 + gated) * ff_factor * channels),
            _GEGLU() if gated else nn.GELU(),
            nn.Dropout(dropout),
            Linear(ff_factor * channels, channels),
        )

    def forward(self, x: WeightSpaceFeatures) -> Tensor:
        kv_BTHD = self.to_kv(self.norm_tokens(x.flatten())).unflatten(-1, (2, self.num_heads, -1))
        k, v = kv_BTHD.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, D)
        q_MHD = self.to_q(self.norm_queries(self.queries)).unflatten(-1, (self.num_heads, -1))
        q = q_MHD.transpose(0, 1).expand(k.shape[0], -1, -1, -1)  # (B, H, M, D)
        out_BMC = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out_BMC = self.queries + self.project(out_BMC)
        return out_BMC + self.feed_forward(out_BMC)
