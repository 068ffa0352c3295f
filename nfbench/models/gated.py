"""A residual network of gated linear NF-layers: ours, not the papers'."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nfbench.layers import (
    ChannelLayerNorm,
    GaussianFourierFeatures,
    HNPLinear,
    HNPPool,
    LearnedPosEmbedding,
    LearnedScale,
    NPLinear,
    Pointwise,
)
from nfbench.layers.checks import check_sizes
from nfbench.models.head import MLPHead
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures

LAYERS: dict[str, type[NPLinear] | type[HNPLinear]] = {"np": NPLinear, "hnp": HNPLinear}


class GatedBlock(nn.Module):
    """x + O(a(LN x) * silu(b(LN x))), a and b linear NF-layers in one, O pointwise.

    Products of two equivariant maps let a single block relate a weight to its row and column, where a linear layer with
    ReLU can only add them.

    Args:
        spec: networks that go in.
        channels: C of input and output.
        layer: "np" or "hnp".

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> the same.

    Raises:
        ValueError: an unknown layer.
    """

    def __init__(self, spec: NetworkSpec, channels: int, layer: str = "np") -> None:
        super().__init__()
        if layer not in LAYERS:
            raise ValueError(f"layer must be one of {', '.join(LAYERS)}, got {layer!r}")
        self.symmetry = layer
        self.norm = ChannelLayerNorm(spec, channels)
        self.mix = LAYERS[layer](spec, channels, 2 * channels)
        self.out = Pointwise(spec, channels, channels)

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        def gate(t: Tensor) -> Tensor:
            a, b = t.chunk(2, -1)
            return a * F.silu(b)

        return x + self.out(self.mix(self.norm(x)).map(gate))


class NFNGated(nn.Module):
    """Fourier features, learned embeddings, gated blocks, norm, HNP pooling, MLP head.

    Without out_dim it edits networks: a pointwise map to one channel and learned scales that start at 0.01 follow the
    norm, in place of pooling and head.

    Args:
        spec: networks that go in, C = 1.
        out_dim: outputs; None for a number for each weight and bias.
        layer: "np" or "hnp".
        width: channels, even.
        num_blocks: gated blocks.
        fourier_scale: standard deviation of the Fourier map.
        head_width: hidden width of the head.
        head_dropout: dropout of the head.
        head_activation: "relu" or "gelu", of the head.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, out_dim), invariant to hidden-neuron permutations; without
        out_dim the shapes of the input, equivariant.

    Raises:
        ValueError: an odd width, another size that is too small, an unknown layer, an unknown activation.
    """

    symmetry = "invariant"

    def __init__(
        self,
        spec: NetworkSpec,
        out_dim: int | None,
        layer: str = "np",
        width: int = 64,
        num_blocks: int = 3,
        fourier_scale: float = 0.3,
        head_width: int = 256,
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
        self.blocks = nn.ModuleList(GatedBlock(spec, width, layer) for _ in range(num_blocks))
        self.norm = ChannelLayerNorm(spec, width)
        if out_dim is None:
            self.symmetry = "hnp"
            self.readout = nn.Sequential(Pointwise(spec, width, 1), LearnedScale(spec))
        else:
            pool = HNPPool(spec)
            size = pool.num_outputs * width
            head = MLPHead(size, out_dim, head_width, dropout=head_dropout, activation=head_activation)
            self.readout = nn.Sequential(pool, head)

    def forward(self, features: WeightSpaceFeatures) -> Tensor | WeightSpaceFeatures:
        x = self.embed(self.fourier(features))
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x))
