"""The neural functional Transformer (NFT) as a direct classifier or regressor."""

from __future__ import annotations

from torch import Tensor, nn

from nfbench.layers import CrossAttentionPool, GaussianFourierFeatures, LearnedPosEmbedding, NFTBlock
from nfbench.models.head import MLPHead
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures


class NFT(nn.Module):
    """Fourier features, learned embeddings, NFT blocks, cross-attention to learned queries, MLP head.

    The authors' repository names such a class in its configs but does not have it; blocks and embeddings are those of
    their Inr2Array encoder.

    Args:
        spec: networks that go in, C = 1.
        out_dim: outputs.
        width: channels, even (Fourier features give half sines, half cosines).
        num_blocks: NFT blocks.
        num_heads: heads of each attention.
        ff_factor: hidden channels of the blocks' feed-forward parts, as a multiple of width.
        dropout: in the blocks.
        fourier_scale: standard deviation of the Fourier map.
        num_queries: learned queries of the pooling.
        head_width: hidden width of the head.
        head_dropout: dropout of the head.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, out_dim). Invariant to hidden-neuron permutations.

    Raises:
        ValueError: an odd width, or a width that num_heads does not divide.
    """

    symmetry = "invariant"

    def __init__(
        self,
        spec: NetworkSpec,
        out_dim: int,
        width: int = 256,
        num_blocks: int = 4,
        num_heads: int = 4,
        ff_factor: int = 4,
        dropout: float = 0.0,
        fourier_scale: float = 3.0,
        num_queries: int = 16,
        head_width: int = 512,
        head_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width must be even, got {width}")
        self.fourier = GaussianFourierFeatures(1, width // 2, fourier_scale)
        self.embed = LearnedPosEmbedding(spec, width)
        self.blocks = nn.ModuleList(NFTBlock(spec, width, num_heads, ff_factor, dropout) for _ in range(num_blocks))
        self.pool = CrossAttentionPool(width, num_queries, num_heads, ff_factor, dropout)
        self.head = MLPHead(num_queries * width, out_dim, head_width, dropout=head_dropout)

    def forward(self, features: WeightSpaceFeatures) -> Tensor:
        x = self.embed(self.fourier(features))
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(x))
