"""Neural functional networks of linear layers (NFN), reading the weights of networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nfbench.layers import (
    GaussianFourierFeatures,
    HNPLinear,
    HNPPool,
    IOSinusoidalEncoding,
    NPLinear,
    NPPool,
    Pointwise,
)
from nfbench.models.head import MLPHead
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures

LAYERS = ("np", "hnp", "pt")
IO_ENCODINGS = ("sinusoidal", "embed", "none")
POOLS: dict[str, type[HNPPool] | type[NPPool]] = {"hnp": HNPPool, "np": NPPool}


class NFN(nn.Module):
    """Fourier features, input/output encoding, linear NF-layers with ReLU, pooling, MLP head (NFN, Sec. 3.1 and 3.2).

    Args:
        spec: networks that go in, C = 1.
        out_dim: outputs.
        layer: "np" (NFN_NP), "hnp" (NFN_HNP) or "pt" (NFN_PT, pointwise).
        widths: channels after each NF-layer.
        fourier_size: columns of the Fourier map (the features have twice as many channels), 0 for raw weights.
        fourier_scale: standard deviation of the Fourier map.
        io: how inputs and outputs are told apart: "sinusoidal" codes appended to the features, "embed" for learned
            embeddings inside each NP layer (the CNN zoo's nets), or "none".
        io_max_freq: of the sinusoidal codes.
        io_num_bands: of the sinusoidal codes.
        pool: "hnp" keeps inputs and outputs apart (the authors' code), "np" is the paper's pool of NFN_NP.
        init: of NP layers, see `NPLinear`; the others have "fan_in" only.
        head_width: hidden width of the head.
        head_dropout: dropout of the head.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, out_dim). Invariant to hidden-neuron permutations.

    Raises:
        ValueError: an unknown layer, io or pool, or one that does not go with the layer.
    """

    symmetry = "invariant"

    def __init__(
        self,
        spec: NetworkSpec,
        out_dim: int,
        layer: str = "np",
        widths: Sequence[int] = (512, 512, 512),
        fourier_size: int = 128,
        fourier_scale: float = 10.0,
        io: str = "sinusoidal",
        io_max_freq: float = 10.0,
        io_num_bands: int = 6,
        pool: str = "hnp",
        init: str = "fan_in",
        head_width: int = 1000,
        head_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        for name, value, allowed in (("layer", layer, LAYERS), ("io", io, IO_ENCODINGS), ("pool", pool, [*POOLS])):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if layer != "np" and (io == "embed" or init != "fan_in"):
            raise ValueError(
                f"layer={layer!r} goes with io='sinusoidal' or 'none' and init='fan_in', got {io!r}, {init!r}"
            )
        self.fourier = GaussianFourierFeatures(1, fourier_size, fourier_scale) if fourier_size else nn.Identity()
        channels = 2 * fourier_size or 1
        self.encode: nn.Module = nn.Identity()
        if io == "sinusoidal":
            self.encode = IOSinusoidalEncoding(spec, io_max_freq, io_num_bands)
            channels += self.encode.extra_channels

        def make(c_in: int, c_out: int) -> nn.Module:
            if layer == "np":
                return NPLinear(spec, c_in, c_out, init, io_embed=io == "embed")
            return HNPLinear(spec, c_in, c_out) if layer == "hnp" else Pointwise(spec, c_in, c_out)

        self.layers = nn.ModuleList(make(i, o) for i, o in pairwise([channels, *widths]))
        pooling = POOLS[pool](spec)
        self.pool = pooling
        self.head = MLPHead(pooling.num_outputs * [channels, *widths][-1], out_dim, head_width, dropout=head_dropout)

    def forward(self, features: WeightSpaceFeatures) -> Tensor:
        x = self.encode(self.fourier(features))
        for layer in self.layers:
            x = layer(x).map(torch.relu)
        return self.head(self.pool(x))
