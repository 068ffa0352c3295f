"""Neural functional networks of linear layers (NFN): classifiers of networks, and editors of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nfbench.layers import (
    ChannelDropout,
    GaussianFourierFeatures,
    HNPLinear,
    HNPPool,
    IOSinusoidalEncoding,
    LearnedScale,
    NPLinear,
    NPPool,
    ParamLayerNorm,
    Pointwise,
    SimpleLayerNorm,
)
from nfbench.layers.checks import check_sizes
from nfbench.models.head import MLPHead
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures

LAYERS = ("np", "hnp", "pt")
IO_ENCODINGS = ("sinusoidal", "embed", "none")
POOLS: dict[str, type[HNPPool] | type[NPPool]] = {"hnp": HNPPool, "np": NPPool}
NORMS: dict[str, type[SimpleLayerNorm] | type[ParamLayerNorm]] = {"simple": SimpleLayerNorm, "param": ParamLayerNorm}


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raises a ValueError that lists the options, unless `value` is one."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def nf_layer(
    spec: NetworkSpec,
    in_channels: int,
    out_channels: int,
    layer: str,
    init: str = "fan_in",
    io_embed: bool = False,
    hnp_full_span: bool = False,
) -> NPLinear | HNPLinear | Pointwise:
    """The linear NF-layer of a name: "np", "hnp" or "pt" (pointwise).

    Raises:
        ValueError: an unknown layer, or an option that it does not have.
    """
    one_of("layer", layer, LAYERS)
    if layer != "np" and (io_embed or init != "fan_in"):
        raise ValueError(
            f"layer={layer!r} goes with io='sinusoidal' or 'none' and init='fan_in', got "
            f"{'io=embed' if io_embed else f'init={init}'}; layer='np' has both"
        )
    if layer != "hnp" and hnp_full_span:
        raise ValueError(f"hnp_full_span=True goes with layer='hnp', got {layer!r}")
    if layer == "np":
        return NPLinear(spec, in_channels, out_channels, init, io_embed)
    if layer == "hnp":
        return HNPLinear(spec, in_channels, out_channels, hnp_full_span)
    return Pointwise(spec, in_channels, out_channels)


class InputEncoding(nn.Sequential):
    """Fourier features of every weight and bias, then codes of inputs and outputs appended to them.

    Args:
        spec: networks that go in.
        fourier_size: columns of the Fourier map, 0 for raw weights.
        fourier_scale: standard deviation of the Fourier map.
        io: "sinusoidal" appends codes; "embed" and "none" don't.
        io_max_freq: of the codes.
        io_num_bands: of the codes.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> the same with out_channels. Equivariant to hidden-neuron
        permutations.

    Raises:
        ValueError: an unknown io, or a fourier_size below 0.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        fourier_size: int,
        fourier_scale: float,
        io: str,
        io_max_freq: float,
        io_num_bands: int,
    ) -> None:
        super().__init__()
        one_of("io", io, IO_ENCODINGS)
        check_sizes(0, fourier_size=fourier_size)
        self.out_channels = 2 * fourier_size or 1
        if fourier_size:
            self.append(GaussianFourierFeatures(1, fourier_size, fourier_scale))
        if io == "sinusoidal":
            codes = IOSinusoidalEncoding(spec, io_max_freq, io_num_bands)
            self.append(codes)
            self.out_channels += codes.extra_channels


class NFN(nn.Module):
    """Fourier features, input/output codes, linear NF-layers with ReLU, pooling, MLP head (NFN, Sec. 3.1 and 3.2).

    Without out_dim it edits networks (Sec. 3.4 and App. D.4, as in the authors' code): one more NF-layer to one channel
    and learned scales that start at 0.01, in place of pooling and head.

    Args:
        spec: networks that go in, C = 1.
        out_dim: outputs; None for a number for each weight and bias.
        layer: "np" (NFN_NP), "hnp" (NFN_HNP) or "pt" (NFN_PT, pointwise).
        widths: channels after each NF-layer (with None the one to one channel is not counted).
        fourier_size: columns of the Fourier map (the features have twice as many channels), 0 for raw weights.
        fourier_scale: standard deviation of the Fourier map.
        io: how inputs and outputs are told apart: "sinusoidal" codes appended to the features, "embed" for learned
            embeddings inside each NP layer (the CNN zoo's nets), or "none".
        io_max_freq: of the sinusoidal codes.
        io_num_bands: of the sinusoidal codes.
        norm: between NF-layer and ReLU: "simple" (over channels), "param" (and inputs, outputs), or "none".
        dropout: of whole channels after each ReLU.
        pool: "hnp" keeps inputs and outputs apart (the authors' code), "np" is the paper's pool of NFN_NP.
        init: of NP layers, see `NPLinear`; the others have "fan_in" only.
        hnp_full_span: of HNP layers, see `HNPLinear`; False is the authors' layer.
        head_width: hidden width of the head.
        head_dropout: dropout of the head.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, out_dim), invariant to hidden-neuron permutations; without
        out_dim the shapes of the input, equivariant.

    Raises:
        ValueError: an unknown layer, io, norm or pool, one that does not go with the layer, or too small a size.
    """

    symmetry = "invariant"

    def __init__(
        self,
        spec: NetworkSpec,
        out_dim: int | None,
        layer: str = "np",
        widths: Sequence[int] = (512, 512, 512),
        fourier_size: int = 128,
        fourier_scale: float = 10.0,
        io: str = "sinusoidal",
        io_max_freq: float = 10.0,
        io_num_bands: int = 6,
        norm: str = "none",
        dropout: float = 0.0,
        pool: str = "hnp",
        init: str = "fan_in",
        hnp_full_span: bool = False,
        head_width: int = 1000,
        head_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        one_of("pool", pool, [*POOLS])
        one_of("norm", norm, [*NORMS, "none"])

        def make(c_in: int, c_out: int) -> nn.Module:
            return nf_layer(spec, c_in, c_out, layer, init, io == "embed", hnp_full_span)

        for width in widths:
            check_sizes(widths=width)
        self.encode = InputEncoding(spec, fourier_size, fourier_scale, io, io_max_freq, io_num_bands)
        channels = [self.encode.out_channels, *widths]
        self.layers = nn.ModuleList(make(i, o) for i, o in pairwise(channels))
        self.norms = nn.ModuleList(NORMS[norm](spec, c) if norm in NORMS else nn.Identity() for c in widths)
        self.dropout = ChannelDropout(dropout)
        if out_dim is None:
            self.symmetry = "hnp"
            self.readout = nn.Sequential(make(channels[-1], 1), LearnedScale(spec))
        else:
            pooling = POOLS[pool](spec)
            head = MLPHead(pooling.num_outputs * channels[-1], out_dim, head_width, dropout=head_dropout)
            self.readout = nn.Sequential(pooling, head)

    def forward(self, features: WeightSpaceFeatures) -> Tensor | WeightSpaceFeatures:
        x = self.encode(features)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.dropout(norm(layer(x)).map(torch.relu))
        return self.readout(x)
