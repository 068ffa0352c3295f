"""A conditional variational autoencoder of sparsity masks, given a network's initialisation (NFN, Sec. 3.3).

B networks, C latent channels, T all weights and biases of one network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nfbench.layers import ChannelLayerNorm, IOSinusoidalEncoding, LearnedPosEmbedding, NFTBlock, Pointwise
from nfbench.models.nfn import NORMS, nf_layer, one_of
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures

LAYERS = ("np", "pt", "nft")
IO_ENCODINGS = ("sinusoidal", "none")
MOST_LOG_VARIANCE = 10.0  # of the posterior, either way: its exponential stays finite
KEPT_A_LAYER = {"np": 6, "pt": 5, "nft": 16}  # tensors like a layer's output that its backward pass needs at its peak


class ReLU(nn.Module):
    """max(x, 0) of every feature; any shape."""

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        return x.map(torch.relu)


class TicketVAE(nn.Module):
    """Encoder q(Z | U0, M) and decoder p(M | U0, Z), with C latent channels for each weight and bias (NFN, App. D.2).

    The paper's text gives the decoder "the original mask", its formula the initialisation U0: this is the formula, so
    that a mask can be drawn for a new initialisation. Networks are independent of each other: with checkpointing they
    go through the layers a few at a time, whose activations are computed again in the backward pass, so that memory
    hardly grows with the batch.

    Args:
        spec: networks that go in.
        out_dim: None; other tasks do not go with this model.
        layer: "np" (NFN_NP), "pt" (NFN_PT, pointwise) or "nft" (NFT blocks).
        width: channels.
        num_layers: NF-layers of the encoder and of the decoder, the last of which gives their outputs; of "nft" the
            number of blocks, between a pointwise layer and another one.
        latent: C.
        norm: between NF-layer and ReLU: "simple" (over channels) or "none"; "nft" has its own.
        io: "sinusoidal" codes of inputs and outputs appended to what goes in, or "none"; "nft" has learned ones.
        io_max_freq: of the codes.
        io_num_bands: of the codes.
        init: of NP layers, see `NPLinear`; the others have "fan_in" only.
        num_heads: of the attention of "nft".
        ff_factor: hidden channels of the feed-forward parts of "nft", as a multiple of width.
        checkpointing: whether activations are computed again in the backward pass.
        networks_at_once: that go through the layers together; with checkpointing this, not the batch, decides the
            memory that a step takes.

    Shapes:
        features: weights (B, R, S, K, 1), biases (B, R, 1); masks, logits (B, T); latents (B, T, C). Encoder and
        decoder are equivariant to hidden-neuron permutations.

    Raises:
        ValueError: an out_dim, an unknown layer, norm or io, sizes below 1.
    """

    symmetry = "hnp"

    draws_masks = True  # and answers nothing else: `forward` takes a mask and noise

    def __init__(
        self,
        spec: NetworkSpec,
        out_dim: int | None = None,
        layer: str = "np",
        width: int = 64,
        num_layers: int = 4,
        latent: int = 5,
        norm: str = "simple",
        io: str = "none",
        io_max_freq: float = 10.0,
        io_num_bands: int = 6,
        init: str = "fan_in",
        num_heads: int = 4,
        ff_factor: int = 2,
        checkpointing: bool = True,
        networks_at_once: int = 1,
    ) -> None:
        super().__init__()
        if out_dim is not None:
            raise ValueError("model=vae/... draws masks, and no other outputs: it goes with task=tickets")
        one_of("model.layer", layer, LAYERS)
        one_of("model.norm", norm, ("simple", "none"))
        one_of("model.io", io, IO_ENCODINGS)
        sizes = {"width": width, "num_layers": num_layers, "latent": latent, "networks_at_once": networks_at_once}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"model.{name}={size} must be 1 or more")
        self.spec, self.latent, self.layer, self.width = spec, latent, layer, width
        self.checkpointing, self.networks_at_once = checkpointing, networks_at_once
        self.kept = KEPT_A_LAYER[layer] * num_layers

        def linear(c_in: int, c_out: int) -> nn.Module:
            return nf_layer(spec, c_in, c_out, layer, init)

        def make(c_in: int, c_out: int) -> nn.Sequential:
            if layer == "nft":
                blocks = [NFTBlock(spec, width, num_heads, ff_factor) for _ in range(num_layers)]
                ends = ChannelLayerNorm(spec, width), Pointwise(spec, width, c_out)
                return nn.Sequential(Pointwise(spec, c_in, width), LearnedPosEmbedding(spec, width), *blocks, *ends)
            stack = nn.Sequential()
            if io == "sinusoidal":
                stack.append(codes := IOSinusoidalEncoding(spec, io_max_freq, io_num_bands))
                c_in += codes.extra_channels
            for _ in range(num_layers - 1):
                stack.append(linear(c_in, width))
                if norm in NORMS:
                    stack.append(NORMS[norm](spec, width))
                stack.append(ReLU())
                c_in = width
            return stack.append(linear(c_in, c_out))

        self.encoder, self.decoder = make(2, 2 * latent), make(1 + latent, 1)

    def encode(self, features: WeightSpaceFeatures, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, T, C) of q(Z | U0, M)."""
        pair = torch.stack([features.flatten().squeeze(-1), mask], -1)  # (B, T, 2)
        mean, log_variance = self._run(self.encoder, pair).chunk(2, -1)
        return mean, log_variance.clamp(-MOST_LOG_VARIANCE, MOST_LOG_VARIANCE)

    def decode(self, features: WeightSpaceFeatures, z: Tensor) -> Tensor:
        """Logits (B, T) of p(M | U0, Z); it is given no mask."""
        return self._run(self.decoder, torch.cat([features.flatten(), z], -1)).squeeze(-1)

    def forward(self, features: WeightSpaceFeatures, mask: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, T), and mean and log-variance (B, T, C) of the posterior, whose draw takes the standard normal
        ``noise`` (B, T, C).
        """
        mean, log_variance = self.encode(features, mask)
        return self.decode(features, mean + (log_variance / 2).exp() * noise), mean, log_variance

    def _run(self, stack: nn.Module, x: Tensor) -> Tensor:
        """(B, T, C_in) -> (B, T, C_out)."""

        def through(part: Tensor) -> Tensor:
            return stack(WeightSpaceFeatures.from_flat(self.spec, part)).flatten()

        parts = x.split(self.networks_at_once)
        if self.checkpointing and torch.is_grad_enabled():
            return torch.cat([checkpoint(through, part, use_reentrant=False) for part in parts])
        return torch.cat([through(part) for part in parts])

    def step_bytes(self, batch_size: int) -> int:
        """About how much memory a training step takes, in bytes of float32; libraries and data come on top of that."""
        at_once = min(self.networks_at_once, batch_size) if self.checkpointing else 2 * batch_size
        layers = at_once * self.kept * self.width
        ends = batch_size * (10 * self.latent + 12)  # inputs, outputs and latents, with their gradients
        weights = 4 * sum(p.numel() for p in self.parameters())  # with gradients and Adam's moments
        return 4 * (self.spec.num_params * (layers + ends) + weights)
