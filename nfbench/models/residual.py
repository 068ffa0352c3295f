"""The residual network of linear NF-layers that is in the NFN authors' code and not in their paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nfbench.layers import LearnedScale, Pointwise, ResBlock, SimpleLayerNorm
from nfbench.layers.checks import check_dropouts, check_sizes
from nfbench.models.head import MLPHead
from nfbench.models.nfn import POOLS, InputEncoding, nf_layer, one_of
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures


class ResNFN(nn.Module):
    """Input encoding, NF-layer, residual blocks, NF-layer, pooling, MLP head (the authors' `InvariantResNFN`).

    As there, the first NF-layer lifts the channels and the last one follows the blocks, both with ReLU and without a
    norm or a sum; the num_layers - 2 between are x + dropout(relu(layer(norm(x)))), and the head has layer norms (their
    `res_io.yaml`: 4 layers of 512 channels, NP). Editing is ours, they have no such net: without out_dim the features
    are normed and mapped entry by entry to one channel, with learned scales that start at 0.01.

    Args:
        spec: networks that go in, C = 1.
        out_dim: outputs; None for a number for each weight and bias.
        layer: "np", "hnp" or "pt".
        width: channels, at least 2.
        num_layers: NF-layers in all, at least 2.
        fourier_size: columns of the Fourier map (the features have twice as many channels), 0 for raw weights.
        fourier_scale: standard deviation of the Fourier map.
        io: "sinusoidal", "embed" or "none", see `NFN`.
        io_max_freq: of the sinusoidal codes.
        io_num_bands: of the sinusoidal codes.
        dropout: elementwise, after each ReLU.
        pool: "hnp" or "np", see `NFN`.
        init: of NP layers, see `NPLinear`; the others have "fan_in" only.
        hnp_full_span: of HNP layers, see `HNPLinear`.
        head_width: hidden width of the head.
        head_dropout: dropout of the head.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, out_dim), invariant to hidden-neuron permutations; without
        out_dim the shapes of the input, equivariant.

    Raises:
        ValueError: fewer than 2 layers, a width below 2, a dropout outside [0, 1), an unknown layer, io or pool, or one
            that does not go with the layer.
    """

    symmetry = "invariant"

    def __init__(
        self,
        spec: NetworkSpec,
        out_dim: int | None,
        layer: str = "np",
        width: int = 512,
        num_layers: int = 4,
        fourier_size: int = 128,
        fourier_scale: float = 10.0,
        io: str = "sinusoidal",
        io_max_freq: float = 10.0,
        io_num_bands: int = 6,
        dropout: float = 0.0,
        pool: str = "hnp",
        init: str = "fan_in",
        hnp_full_span: bool = False,
        head_width: int = 1000,
        head_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        one_of("pool", pool, [*POOLS])
        check_sizes(width=width)
        check_dropouts(dropout=dropout)
        if num_layers < 2:
            raise ValueError(f"num_layers must be at least 2 (one before the blocks, one after them), got {num_layers}")

        def make(c_in: int) -> nn.Module:
            return nf_layer(spec, c_in, width, layer, init, io == "embed", hnp_full_span)

        self.encode = InputEncoding(spec, fourier_size, fourier_scale, io, io_max_freq, io_num_bands)
        self.lift = make(self.encode.out_channels)
        self.blocks = nn.Sequential(
            *(ResBlock(make(width), SimpleLayerNorm(spec, width), dropout=dropout) for _ in range(num_layers - 2))
        )
        self.last = make(width)
        self.dropout = nn.Dropout(dropout)
        if out_dim is None:
            self.symmetry = "hnp"
            self.readout = nn.Sequential(SimpleLayerNorm(spec, width), Pointwise(spec, width, 1), LearnedScale(spec))
        else:
            pooling = POOLS[pool](spec)
            head = MLPHead(pooling.num_outputs * width, out_dim, head_width, dropout=head_dropout, norm=True)
            self.readout = nn.Sequential(pooling, head)

    def _activate(self, t: Tensor) -> Tensor:
        return self.dropout(torch.relu(t))

    def forward(self, features: WeightSpaceFeatures) -> Tensor | WeightSpaceFeatures:
        x = self.lift(self.encode(features)).map(self._activate)
        return self.readout(self.last(self.blocks(x)).map(self._activate))
