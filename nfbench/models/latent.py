"""The Transformer that classifies latent arrays of Inr2Array."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentTransformer(nn.Module):
    """Linear, learned positions, pre-norm Transformer layers; an MLP reads the first token (the authors' code).

    With Inr2Array's latents and ten classes it has the 38,260,746 parameters of the authors' code: Linear 256-512
    131,584, positions 64 * 512 = 32,768, twelve layers of 3,152,384 (attention 1,050,624, feed-forward 2,099,712, two
    norms 2,048; all with biases), MLP 512-512-10 267,786. There is no class token, the first latent vector's place
    takes its role, and no norm after the last layer. As in the authors' code all layers start equal:
    `nn.TransformerEncoder` copies one.

    Args:
        latent_dim: C of the latent vectors.
        out_dim: outputs.
        width: channels inside.
        num_blocks: Transformer layers.
        num_heads: heads of their attention.
        ff_width: hidden width of their feed-forward parts, GELU.
        dropout: in the layers.
        max_latents: positions there are.

    Shapes:
        (B, M, C), M up to max_latents, or (B, C) -> (B, out_dim). Not invariant: the order of latents is space.

    Raises:
        ValueError: a width that num_heads does not divide; more latents than positions.
    """

    symmetry = "none"

    def __init__(
        self,
        latent_dim: int = 256,
        out_dim: int = 10,
        width: int = 512,
        num_blocks: int = 12,
        num_heads: int = 4,
        ff_width: int = 2048,
        dropout: float = 0.1,
        max_latents: int = 64,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got {width} and {num_heads}")
        self.project = nn.Linear(latent_dim, width)
        self.positions = nn.Parameter(torch.randn(max_latents, width))
        layer = nn.TransformerEncoderLayer(
            width, num_heads, ff_width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        # Nested tensors are for padded batches; pre-norm layers cannot use them and torch would warn.
        self.blocks = nn.TransformerEncoder(layer, num_blocks, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out_dim))

    def forward(self, latents: Tensor) -> Tensor:
        z_BMC = latents if latents.ndim == 3 else latents.unsqueeze(1)
        if z_BMC.shape[1] > len(self.positions):
            raise ValueError(
                f"got {z_BMC.shape[1]} latents and have {len(self.positions)} positions; make max_latents larger"
            )
        x_BMC = self.blocks(self.project(z_BMC) + self.positions[: z_BMC.shape[1]])
        return self.head(x_BMC[:, 0])
