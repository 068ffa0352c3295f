"""Neural functional networks of linear layers (NFN), reading the weights of networks."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from nfbench.layers import GaussianFourierFeatures, HNPPool, IOSinusoidalEncoding, NPLinear, NPPool
from nfbench.models.head import MLPHead
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures

POOLS: dict[str, type[HNPPool] | type[NPPool]] = {"hnp": HNPPool, "np": NPPool}


class NFNNP(nn.Module):
    """NFN_NP: Fourier features, IO encoding, NP layers with ReLU, pooling, MLP head (NFN, Sec. 3.2 and App. D.3).

    Args:
        spec: networks that go in, C = 1.
        out_dim: outputs.
        width: channels of the NF-layers.
        num_layers: NF-layers.
        fourier_size: columns of the Fourier map (the features have twice as many channels), 0 for raw weights.
        fourier_scale: standard deviation of the Fourier map.
        io_max_freq: of the sinusoidal input/output encoding.
        io_num_bands: of the sinusoidal input/output encoding, 0 for none.
        pool: "hnp" keeps inputs and outputs apart (the authors' code), "np" is the paper's pool.
        init: of the NP layers, see `NPLinear`.
        head_width: hidden width of the head.
        head_dropout: dropout of the head.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, out_dim). Invariant to hidden-neuron permutations.

    Raises:
        ValueError: an unknown pool.
    """

    symmetry = "invariant"

    def __init__(
        self,
        spec: NetworkSpec,
        out_dim: int,
        width: int = 512,
        num_layers: int = 3,
        fourier_size: int = 128,
        fourier_scale: float = 10.0,
        io_max_freq: float = 10.0,
        io_num_bands: int = 6,
        pool: str = "hnp",
        init: str = "fan_in",
        head_width: int = 1000,
        head_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")
        self.fourier = GaussianFourierFeatures(1, fourier_size, fourier_scale) if fourier_size else nn.Identity()
        channels = 2 * fourier_size or 1
        self.encode: nn.Module = nn.Identity()
        if io_num_bands:
            self.encode = IOSinusoidalEncoding(spec, io_max_freq, io_num_bands)
            channels += self.encode.extra_channels
        sizes = [channels] + [width] * num_layers
        self.layers = nn.ModuleList(NPLinear(spec, i, o, init) for i, o in pairwise(sizes))
        pooling = POOLS[pool](spec)
        self.pool = pooling
        self.head = MLPHead(pooling.num_outputs * width, out_dim, head_width, dropout=head_dropout)

    def forward(self, features: WeightSpaceFeatures) -> Tensor:
        x = self.encode(self.fourier(features))
        for layer in self.layers:
            x = layer(x).map(torch.relu)
        return self.head(self.pool(x))
