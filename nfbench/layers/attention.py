"""Attention between weights (NFT, *Neural Functional Transformers*) and the block built on it.

B networks, H heads, D channels of a head, C = H * D, R rows, S columns, K kernel positions, F = K * C, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nfbench.layers.attend import cross_attention
from nfbench.layers.checks import check_dropouts, check_sizes
from nfbench.layers.linear import Pointwise
from nfbench.layers.norm import ChannelLayerNorm
from nfbench.layers.product import Linear, linear
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures

POINT_HEADS = ("averages", "all", "none")


class NPAttention(nn.Module):
    """Weight-space self-attention, equivariant to neuron permutations and to no other ones (NFT, Eqs. 4 to 6).

    For each neuron layer i = 0..L the tokens are the columns of W_i, the bias v_i and the rows of W_{i+1}, each a
    vector over the neurons of that layer; they attend to each other. A weight gets the sum of what it receives as
    part of a row and as part of a column. A third head attends between the 2 L means of all weights and biases (the
    authors' code; Eq. 6 of the paper has all single weights there). Like theirs, it has no output projection.

    Args:
        spec: networks that go in.
        channels: C of input and output.
        num_heads: H, divides C.
        dropout: of the attention weights between rows and columns.
        cross_term: attention between rows and columns; False drops it (the authors' ablation switch).
        point_head: the third head: "averages", "all" (Eq. 6: every single weight and bias attends to all others, by a
            kernel that does not hold the T x T scores) or "none".
        share_projections: one query/key/value map for all layers (dense networks only); None shares them exactly when
            no layer is a convolution. Otherwise each weight and bias has its own, and weights an output map C -> F.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> the same.

    Raises:
        ValueError: a size below 1, a dropout outside [0, 1), channels not a multiple of num_heads, an unknown
            point_head or no head at all, or shared projections for convolutions.
    """

    symmetry = "np"

    def __init__(
        self,
        spec: NetworkSpec,
        channels: int,
        num_heads: int = 8,
        dropout: float = 0.0,
        cross_term: bool = True,
        point_head: str = "averages",
        share_projections: bool | None = None,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, num_heads=num_heads)
        check_dropouts(dropout=dropout)
        if channels % num_heads:
            raise ValueError(f"channels must be a multiple of num_heads, got {channels} and {num_heads}")
        if point_head not in POINT_HEADS or not (cross_term or point_head != "none"):
            raise ValueError(
                f"point_head must be one of {', '.join(POINT_HEADS)}, and not 'none' without cross_term; "
                f"got {point_head!r} with cross_term={cross_term}"
            )
        self.cross_term, self.point_head = cross_term, point_head
        any_conv = any(layer.is_conv for layer in spec.layers)
        self.share_projections = not any_conv if share_projections is None else share_projections
        if self.share_projections and any_conv:
            raise ValueError(f"share_projections=True needs dense layers, got {spec}; set it to False")
        self.spec, self.channels, self.num_heads, self.dropout = spec, channels, num_heads, dropout
        if self.share_projections:
            self.to_qkv = Linear(channels, 3 * channels)
        else:
            taps = [layer.taps for layer in spec.layers]
            self.weight_to_qkv = nn.ModuleList(Linear(k * channels, 3 * channels) for k in taps)
            self.bias_to_qkv = nn.ModuleList(Linear(channels, 3 * channels) for _ in taps)
            self.unproject = nn.ModuleList(Linear(channels, k * channels) for k in taps)

    def _project(self, w_BRSF: Sequence[Tensor], b_BRC: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Queries, keys and values: of weights (B, R, S, 3, H, D), of biases (B, R, 3, H, D)."""
        if self.share_projections:
            weights, biases = [self.to_qkv(w) for w in w_BRSF], [self.to_qkv(b) for b in b_BRC]
        else:
            weights = [to_qkv(w) for to_qkv, w in zip(self.weight_to_qkv, w_BRSF, strict=True)]
            biases = [to_qkv(b) for to_qkv, b in zip(self.bias_to_qkv, b_BRC, strict=True)]
        heads = (3, self.num_heads, self.channels // self.num_heads)
        return [w.unflatten(-1, heads) for w in weights], [b.unflatten(-1, heads) for b in biases]

    def _between_all(self, qkv_w: Sequence[Tensor], qkv_b: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Attention between all entries: (B, R, S, C) for each weight, (B, R, C) for each bias."""
        flat = [t for w, b in zip(qkv_w, qkv_b, strict=True) for t in (w.flatten(1, 2), b)]
        q, k, v = torch.cat(flat, 1).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, entries, D)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).split([t.shape[1] for t in flat], 1)
        return [t.unflatten(1, w.shape[1:3]) for t, w in zip(out[::2], qkv_w, strict=True)], list(out[1::2])

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        w_BRSF = [w.flatten(-2) for w in x.weights]
        terms: list[tuple[list[Tensor], list[Tensor]]] = []
        if self.cross_term or self.point_head == "all":
            qkv_w, qkv_b = self._project(w_BRSF, x.biases)
        if self.cross_term:
            terms.append(cross_attention(qkv_w, qkv_b, self.dropout if self.training else 0.0))
        if self.point_head == "averages":  # the mean of a linear map is the map of the mean, which is smaller
            means_w = [w.sum((1, 2), keepdim=True) * (1 / (w.shape[1] * w.shape[2])) for w in w_BRSF]
            terms.append(self._between_all(*self._project(means_w, [b.mean(1, keepdim=True) for b in x.biases])))
        elif self.point_head == "all":
            terms.append(self._between_all(qkv_w, qkv_b))
        # The authors map rows, columns and the third head to the taps one by one, and so add that map's bias each time.
        num_biases = 2 * self.cross_term + (self.point_head != "none")

        weights, biases = [], []
        for i, layer in enumerate(self.spec.layers):
            y_BRSC, bias_BRC = terms[0][0][i], terms[0][1][i]
            for to_weights, to_biases in terms[1:]:  # in place: what cross_attention returns is nobody else's
                y_BRSC, bias_BRC = y_BRSC.add_(to_weights[i]), bias_BRC.add_(to_biases[i])
            y_BRSC = y_BRSC.expand(-1, layer.out_size, layer.in_size, -1)
            if not self.share_projections:
                unproject = self.unproject[i]
                assert isinstance(unproject, nn.Linear)
                y_BRSC = linear(y_BRSC, unproject.weight, num_biases * unproject.bias)
            weights.append(y_BRSC.unflatten(-1, (layer.taps, self.channels)))
            biases.append(bias_BRC.expand(-1, layer.out_size, -1))
        return WeightSpaceFeatures(x.spec, tuple(weights), tuple(biases))

    def extra_repr(self) -> str:
        return f"{self.spec}, {self.channels} channels, {self.num_heads} heads"


class NFTBlock(nn.Module):
    """Pre-norm Transformer block on weights: x + SA(LN(x)), then x + FF(LN(x)) with a pointwise two-layer FF (NFT).

    Args:
        spec: networks that go in.
        channels: C of input and output.
        num_heads: heads of the attention.
        ff_factor: hidden channels of the feed-forward part, as a multiple of C.
        dropout: after attention and feed-forward, and on attention weights.
        cross_term: of the attention, see `NPAttention`.
        point_head: of the attention, see `NPAttention`.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> the same.
    """

    symmetry = "np"

    def __init__(
        self,
        spec: NetworkSpec,
        channels: int,
        num_heads: int = 8,
        ff_factor: int = 4,
        dropout: float = 0.0,
        cross_term: bool = True,
        point_head: str = "averages",
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelLayerNorm(spec, channels), ChannelLayerNorm(spec, channels)
        self.attention = NPAttention(spec, channels, num_heads, dropout, cross_term, point_head)
        self.expand = Pointwise(spec, channels, ff_factor * channels)
        self.contract = Pointwise(spec, ff_factor * channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        x = x + self.attention(self.norm1(x)).map(self.dropout)
        return x + self.contract(self.expand(self.norm2(x)).map(F.gelu)).map(self.dropout)
