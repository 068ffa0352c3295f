"""The neural functional Transformer (NFT) as a direct classifier, regressor or editor of networks."""

from __future__ import annotations

from torch import Tensor, nn

from nfbench.layers import (
    ChannelLayerNorm,
    CrossAttentionPool,
    GaussianFourierFeatures,
    LearnedPosEmbedding,
    LearnedScale,
    NFTBlock,
    Pointwise,
)
from nfbench.layers.checks import check_sizes
from nfbench.models.head import MLPHead
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures


class NFT(nn.Module):
    """Fourier features, learned embeddings, NFT blocks, cross-attention to learned queries, MLP head.

    The authors' repository names such a class in its configs but does not have it; blocks and embeddings are those of
    their Inr2Array encoder. Without out_dim it edits networks, which their repository lacks too: norm, pointwise map to
    one channel and learned scales that start at 0.01, in place of pooling and head.

    Args:
        spec: networks that go in, C = 1.
        out_dim: outputs; None for a number for each weight and bias.
        width: channels, even (Fourier features give half sines, half cosines).
        num_blocks: NFT blocks.
        num_heads: heads of each attention.
        ff_factor: hidden channels of the blocks' feed-forward parts, as a multiple of width.
        dropout: in the blocks.
        cross_term: attention between rows and columns, see `NPAttention`; False is the authors' ablation.
        point_head: third head of the attention, see `NPAttention`: "averages" (the authors' code), "all" (Eq. 6 of the
            paper) or "none" (their ablation).
        fourier_scale: standard deviation of the Fourier map.
        num_queries: learned queries of the pooling.
        head_width: hidden width of the head.
        head_dropout: dropout of the head.
        head_activation: "relu" or "gelu", of the head.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, out_dim), invariant to hidden-neuron permutations; without
        out_dim the shapes of the input, equivariant.

    Raises:
        ValueError: an odd width, another size that is too small, a dropout outside [0, 1), a width that num_heads does
            not divide, no head of attention at all, or an unknown activation.
    """

    symmetry = "invariant"

    def __init__(
        self,
        spec: NetworkSpec,
        out_dim: int | None,
        width: int = 256,
        num_blocks: int = 4,
        num_heads: int = 4,
        ff_factor: int = 4,
        dropout: float = 0.0,
        cross_term: bool = True,
        point_head: str = "averages",
        fourier_scale: float = 3.0,
        num_queries: int = 16,
        head_width: int = 512,
        head_dropout: float = 0.0,
        head_activation: str = "relu",
    ) -> None:
        super().__init__()
        check_sizes(width=width)
        check_sizes(0, num_blocks=num_blocks)
        if width % 2:
            raise ValueError(f"width must be even, got {width}")
        self.fourier = GaussianFourierFeatures(1, width // 2, fourier_scale)
        self.embed = LearnedPosEmbedding(spec, width)
        self.blocks = nn.ModuleList(
            NFTBlock(spec, width, num_heads, ff_factor, dropout, cross_term, point_head) for _ in range(num_blocks)
        )
        if out_dim is None:
            self.symmetry = "hnp"
            self.readout = nn.Sequential(ChannelLayerNorm(spec, width), Pointwise(spec, width, 1), LearnedScale(spec))
        else:
            pool = CrossAttentionPool(width, num_queries, num_heads, ff_factor, dropout)
            size = num_queries * width
            head = MLPHead(size, out_dim, head_width, dropout=head_dropout, activation=head_activation)
            self.readout = nn.Sequential(pool, head)

    def forward(self, features: WeightSpaceFeatures) -> Tensor | WeightSpaceFeatures:
        x = self.embed(self.fourier(features))
        for block in self.blocks:
            x = block(x)
        return self.readout(x)
