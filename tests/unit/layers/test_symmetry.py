"""Every layer has the symmetry it declares, and notices what is none."""

import pytest
import torch
from torch import nn

from nfbench import layers
from nfbench.layers import (
    ChannelDropout,
    ChannelLayerNorm,
    CrossAttentionPool,
    GaussianFourierFeatures,
    HNPLinear,
    HNPPool,
    IOSinusoidalEncoding,
    LearnedPosEmbedding,
    LearnedScale,
    NFTBlock,
    NPAttention,
    NPLinear,
    NPPool,
    ParamLayerNorm,
    Pointwise,
    ResBlock,
    SimpleLayerNorm,
    StatFeaturizer,
)
from nfbench.weightspace.testing import assert_equivariant, assert_invariant, assert_not_equivariant

EQUIVARIANT = {
    "NPLinear": lambda spec: NPLinear(spec, 4, 5),
    "NPLinear kaiming": lambda spec: NPLinear(spec, 4, 5, init="kaiming"),
    "HNPLinear": lambda spec: HNPLinear(spec, 4, 3),
    "HNPLinear full span": lambda spec: HNPLinear(spec, 4, 3, full_span=True),
    "NPLinear embedded": lambda spec: NPLinear(spec, 4, 5, io_embed=True),
    "NPAttention cross term": lambda spec: NPAttention(spec, 4, 2, point_head="none"),
    "NPAttention averages": lambda spec: NPAttention(spec, 4, 2, cross_term=False),
    "NPAttention all": lambda spec: NPAttention(spec, 4, 2, point_head="all"),
    "SimpleLayerNorm": lambda spec: SimpleLayerNorm(spec, 4),
    "ParamLayerNorm": lambda spec: ParamLayerNorm(spec, 4),
    "ChannelDropout": lambda _: ChannelDropout(0.5),
    "LearnedScale": LearnedScale,
    "ResBlock": lambda spec: ResBlock(NPLinear(spec, 4, 4), ChannelLayerNorm(spec, 4)),
    "Pointwise": lambda spec: Pointwise(spec, 4, 3),
    "NPAttention": lambda spec: NPAttention(spec, 4, num_heads=2),
    "NPAttention own projections": lambda spec: NPAttention(spec, 4, num_heads=1, share_projections=False),
    "NFTBlock": lambda spec: NFTBlock(spec, 4, num_heads=2),
    "ChannelLayerNorm": lambda spec: ChannelLayerNorm(spec, 4),
    "GaussianFourierFeatures": lambda spec: GaussianFourierFeatures(4, 6),
    "IOSinusoidalEncoding": lambda spec: IOSinusoidalEncoding(spec),
    "IOSinusoidalEncoding layers": lambda spec: IOSinusoidalEncoding(spec, enc_layers=True),
    "LearnedPosEmbedding": lambda spec: LearnedPosEmbedding(spec, 4),
}
INVARIANT = {
    "StatFeaturizer": StatFeaturizer,
    "NPPool": NPPool,
    "HNPPool": HNPPool,
    "CrossAttentionPool": lambda spec: CrossAttentionPool(4, num_queries=3, num_heads=2),
}
HNP_ONLY = {
    "NPLinear embedded",
    "ParamLayerNorm",
    "HNPLinear",
    "HNPLinear full span",
    "IOSinusoidalEncoding",
    "IOSinusoidalEncoding layers",
    "LearnedPosEmbedding",
    "HNPPool",
}
MIXES_POSITIONS = [
    "NPLinear embedded",
    "NPAttention cross term",
    "NPAttention all",
    "ResBlock",
    "NPLinear",
    "HNPLinear",
    "HNPLinear full span",
    "NPLinear kaiming",
    "NPAttention",
    "NPAttention own projections",
    "NFTBlock",
]


def test_every_exported_layer_is_tested():
    tested = {name.split()[0] for name in (*EQUIVARIANT, *INVARIANT)}
    assert tested == {name for name in layers.__all__ if name[0].isupper()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", EQUIVARIANT)
def test_equivariant(name, dtype):
    group = "hnp" if name in HNP_ONLY else "np"
    assert_equivariant(EQUIVARIANT[name], channels=4, group=group, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", INVARIANT)
def test_invariant(name, dtype):
    assert_invariant(INVARIANT[name], channels=4, group="hnp" if name in HNP_ONLY else "np", dtype=dtype)


@pytest.mark.parametrize("name", MIXES_POSITIONS)
@pytest.mark.parametrize("spec", ["3-5-4-2:sine", "2-4c3-3c3-5:relu"])
def test_uncoupled_permutations_are_noticed(name, spec):
    assert_not_equivariant(EQUIVARIANT[name], channels=4, spec=spec)


@pytest.mark.parametrize("name", sorted(HNP_ONLY - {"ParamLayerNorm"}))
def test_input_and_output_permutations_are_noticed(name):
    assert_not_equivariant({**EQUIVARIANT, **INVARIANT}[name], channels=4, change="io")


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_declared_symmetry(name):
    from nfbench.weightspace import NetworkSpec

    layer = EQUIVARIANT[name](NetworkSpec.parse("2-3-1:sine"))
    assert layer.symmetry == ("hnp" if name in HNP_ONLY else "np")


class RowOnly(nn.Module):
    """Not equivariant: it treats the first row in its own way."""

    def __init__(self, spec):
        super().__init__()

    def forward(self, x):
        return x.map(lambda t: torch.cat([2 * t[:, :1], t[:, 1:]], 1))


def test_the_test_kit_can_fail():
    with pytest.raises(AssertionError, match="not hnp-equivariant"):
        assert_equivariant(RowOnly, channels=2)
    with pytest.raises(AssertionError, match="not hnp-invariant"):
        assert_invariant(lambda spec: nn.Sequential(RowOnly(spec), HNPPool(spec)), channels=2)
    with pytest.raises(AssertionError, match="does not notice uncoupled"):
        assert_not_equivariant(EQUIVARIANT["Pointwise"], channels=4)
    with pytest.raises(ValueError, match="'uncoupled' or 'io'"):
        assert_not_equivariant(EQUIVARIANT["Pointwise"], channels=4, change="some")
