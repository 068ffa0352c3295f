"""Inr2Array: an autoencoder that turns a SIREN into an array of latent vectors and those into SIRENs again (NFT)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nfbench.layers import (
    ChannelLayerNorm,
    CrossAttentionPool,
    GaussianFourierFeatures,
    HNPLinear,
    LearnedPosEmbedding,
    NFTBlock,
    NPLinear,
    ResBlock,
)
from nfbench.models.decoder import SirenDecoder
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures

BLOCKS = ("nft", "np", "np_residual", "hnp_residual")


class NPBlock(nn.Module):
    """relu(NPLinear(x)), the authors' "np" block.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> the same. Equivariant to permutations of all neuron layers.
    """

    symmetry = "np"

    def __init__(self, spec: NetworkSpec, channels: int) -> None:
        super().__init__()
        self.layer = NPLinear(spec, channels, channels)

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        return self.layer(x).map(torch.relu)


class Inr2ArrayEncoder(nn.Module):
    """Fourier features, learned embeddings, equivariant blocks, cross-attention to M learned queries.

    The sizes are the authors'. Of 21,200,640 parameters for MNIST's 2-32-32-1 (2-32-32-3: 21,201,152) 2,304 (2,816) are
    embeddings, 6 * 3,356,928 blocks and 1,056,768 pooling: queries 4,096, norms 1,024, Q, K, V and output maps 262,400,
    feed-forward part with its norm 789,248.

    Blocks normalise with `ChannelLayerNorm`, which differs from the authors' norm by a factor of 0.998 (`norm.py`).

    Args:
        spec: networks that go in, C = 1.
        num_latents: M; the authors' are 4, 16 or 64, for grids of 2 x 2, 4 x 4 or 8 x 8 SIRENs.
        spatial: False averages the M vectors to one (the authors' ablation).
        block: "nft"; or the authors' ablations "np" (NPLinear, ReLU), "np_residual" or "hnp_residual" (x +
            dropout(relu(linear(norm(x))))).
        width: channels of weights and of latent vectors, even.
        num_blocks: blocks.
        num_heads: heads of the NFT blocks' attention; the pooling has one.
        ff_factor: hidden channels of the NFT blocks' feed-forward parts, as a multiple of width; the pooling's is 4.
        dropout: in the blocks, but "np" has none. The authors use 0 for NFT blocks.
        fourier_scale: standard deviation of the Fourier map.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, M, width), or (B, 1, width) if not spatial. Invariant to
        hidden-neuron permutations.

    Raises:
        ValueError: an odd width, a width that num_heads does not divide, an unknown block, num_latents below 1.
    """

    symmetry = "invariant"

    def __init__(
        self,
        spec: NetworkSpec,
        num_latents: int = 16,
        spatial: bool = True,
        block: str = "nft",
        width: int = 256,
        num_blocks: int = 6,
        num_heads: int = 4,
        ff_factor: int = 4,
        dropout: float = 0.0,
        fourier_scale: float = 3.0,
    ) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width must be even, got {width}")
        if num_latents < 1 or block not in BLOCKS:
            raise ValueError(
                f"num_latents must be at least 1 and block one of {', '.join(BLOCKS)}, got {num_latents} and {block!r}"
            )
        self.spatial, self.num_outputs, self.width = spatial, num_latents if spatial else 1, width

        def make() -> nn.Module:
            if block == "nft":
                return NFTBlock(spec, width, num_heads, ff_factor, dropout)
            if block == "np":
                return NPBlock(spec, width)
            layer = NPLinear(spec, width, width) if block == "np_residual" else HNPLinear(spec, width, width)
            return ResBlock(layer, ChannelLayerNorm(spec, width), dropout=dropout)

        self.fourier = GaussianFourierFeatures(1, width // 2, fourier_scale)
        self.embed = LearnedPosEmbedding(spec, width)
        self.blocks = nn.ModuleList(make() for _ in range(num_blocks))
        self.pool = CrossAttentionPool(width, num_latents, num_heads=1, gated=True)

    def forward(self, features: WeightSpaceFeatures) -> Tensor:
        x = self.embed(self.fourier(features))
        for block in self.blocks:
            x = block(x)
        z_BMC = self.pool(x)
        return z_BMC if self.spatial else z_BMC.mean(1, keepdim=True)


class ModelEncoder(nn.Module):
    """A model of this package up to its readout, then the pooling of `Inr2ArrayEncoder`.

    With an `NFT` of width 256, 6 blocks, 4 heads, ff_factor 4 and fourier_scale 3 it is the published encoder.

    Args:
        spec: networks that go in, C = 1.
        model: an invariant model whose `readout` follows features of weights and biases: its readout is taken away.
        num_latents, spatial: see `Inr2ArrayEncoder`.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, M, C), or (B, 1, C) if not spatial; C is the model's last
        width. Invariant to hidden-neuron permutations.

    Raises:
        ValueError: a model that has no features of weights and biases, num_latents below 1.
    """

    symmetry = "invariant"

    def __init__(self, spec: NetworkSpec, model: nn.Module, num_latents: int = 16, spatial: bool = True) -> None:
        super().__init__()
        if getattr(model, "symmetry", None) != "invariant" or not hasattr(model, "readout"):
            raise ValueError(
                f"{type(model).__name__} cannot be an encoder: it has no equivariant layers before its output. Models "
                "that have: nft, nfn_np, nfn_hnp, nfn_pt, nfn_res, nfn_gated, gmn, and inr2array"
            )
        if num_latents < 1:
            raise ValueError(f"num_latents must be at least 1, got {num_latents}")
        model.readout = nn.Identity()
        with torch.no_grad():  # the features' channels, by trying
            self.width = model(WeightSpaceFeatures.from_flat(spec, torch.zeros(1, spec.num_params))).channels
        self.spatial, self.num_outputs = spatial, num_latents if spatial else 1
        self.model = model
        self.pool = CrossAttentionPool(self.width, num_latents, num_heads=1, gated=True)

    def forward(self, features: WeightSpaceFeatures) -> Tensor:
        z_BMC = self.pool(self.model(features))
        return z_BMC if self.spatial else z_BMC.mean(1, keepdim=True)


class LatentAutoencoder(nn.Module):
    """Encoder and decoder: from the weights of SIRENs to those of M SIRENs each, one for each cell of their image.

    `nfbench.weightspace.CellRenderer` draws what comes out, with side = sqrt(M). The loss is the mean squared error
    between that drawing and what the SIREN that went in draws.

    Args:
        encoder: an `Inr2ArrayEncoder` or a `ModelEncoder`.
        decoder: of vectors of the encoder's width.
        num_classes: outputs of `classify`, one linear map of the whole latent array, for joint training; 0: none.

    Shapes:
        weights (B, R, S, 1, 1), biases (B, R, 1) -> the same with B * M networks, the M of a network one after the
        other. Invariant to hidden-neuron permutations.
    """

    symmetry = "invariant"

    def __init__(self, encoder: Inr2ArrayEncoder | ModelEncoder, decoder: SirenDecoder, num_classes: int = 0) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.head = nn.Linear(encoder.num_outputs * encoder.width, num_classes) if num_classes else None

    def encode(self, features: WeightSpaceFeatures) -> Tensor:
        """The latent array (B, M, width)."""
        return self.encoder(features)

    def decode(self, latents: Tensor) -> WeightSpaceFeatures:
        """The SIRENs of a latent array (B, M, width): B * M networks."""
        return self.decoder(latents)

    def classify(self, latents: Tensor) -> Tensor:
        """The logits (B, num_classes) of a latent array (B, M, width)."""
        assert self.head is not None, "made without num_classes"
        return self.head(latents.flatten(1))

    def forward(self, features: WeightSpaceFeatures) -> WeightSpaceFeatures:
        return self.decode(self.encode(features))


class Inr2Array(LatentAutoencoder):
    """The autoencoder of the authors' code: `Inr2ArrayEncoder` and `SirenDecoder`.

    Args:
        spec: networks that go in and come out, dense and with sines, C = 1.
        num_latents, spatial, block, width, num_blocks, num_heads, ff_factor, dropout, fourier_scale: of the encoder,
            see `Inr2ArrayEncoder`.
        decoder, decoder_width, decoder_hidden, additive, w0_hidden: of the decoder, `kind`, `width`, `num_hidden`, ...
            of `SirenDecoder`.

    Shapes and symmetry: see `LatentAutoencoder`.

    Raises:
        ValueError: as the two parts.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        num_latents: int = 16,
        spatial: bool = True,
        block: str = "nft",
        width: int = 256,
        num_blocks: int = 6,
        num_heads: int = 4,
        ff_factor: int = 4,
        dropout: float = 0.0,
        fourier_scale: float = 3.0,
        decoder: str = "sitzmann",
        decoder_width: int = 256,
        decoder_hidden: int = 2,
        additive: bool = False,
        w0_hidden: float = 30.0,
    ) -> None:
        super().__init__(
            Inr2ArrayEncoder(
                spec, num_latents, spatial, block, width, num_blocks, num_heads, ff_factor, dropout, fourier_scale
            ),
            SirenDecoder(spec, width, decoder, decoder_width, decoder_hidden, additive, w0_hidden),
        )
