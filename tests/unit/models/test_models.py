"""The contract of every model: output shape, declared symmetry, finite gradients, and the published sizes."""

import pytest
import torch

from nfbench import models
from nfbench.models import NFN, NFT, FlatMLP, NFNGated, StatNN
from nfbench.weightspace import NetworkSpec, random_features
from nfbench.weightspace.testing import assert_invariant, assert_not_equivariant

BUILD = {
    "NFN": lambda spec: NFN(spec, 4, widths=[8, 6], fourier_size=8, head_width=16),
    "NFN hnp": lambda spec: NFN(spec, 4, "hnp", widths=[8, 6], fourier_size=8, io="none", head_width=16),
    "NFN pt": lambda spec: NFN(spec, 4, "pt", widths=[8, 6], fourier_size=8, head_width=16),
    "NFN embed": lambda spec: NFN(spec, 4, widths=[8, 6], fourier_size=0, io="embed", head_width=16),
    "NFN raw, np pool": lambda spec: NFN(spec, 4, widths=[8], fourier_size=0, io="none", pool="np", head_width=16),
    "NFT": lambda spec: NFT(spec, 4, width=8, num_blocks=2, num_heads=2, num_queries=3, head_width=16),
    "NFNGated": lambda spec: NFNGated(spec, 4, width=8, num_blocks=2, head_width=16),
    "NFNGated hnp": lambda spec: NFNGated(spec, 4, "hnp", width=8, num_blocks=1, head_width=16),
    "StatNN": lambda spec: StatNN(spec, 4, width=16),
    "FlatMLP": lambda spec: FlatMLP(spec, 4, width=16),
}
SPECS = ["2-32-32-1:sine", "2-5-1:sine", "784-8-8-10:relu", "1-16c3-16c3-16c3-10:relu", "3-4c1x3-2c2:gelu"]


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_every_exported_model_is_tested():
    assert {name.split()[0] for name in BUILD} == set(models.__all__)


@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("name", BUILD)
def test_shape_and_gradients(name, text):
    torch.manual_seed(0)
    spec = NetworkSpec.parse(text)
    model = BUILD[name](spec)
    out = model(random_features(spec, 3, 1, torch.Generator().manual_seed(0)))
    assert out.shape == (3, 4)
    out.square().sum().backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    # Biases of the NP layers may cancel in a norm, but most parameters matter.
    assert sum(bool(g.any()) for g in gradients.values()) > 0.9 * len(gradients)


@pytest.mark.parametrize("name", [name for name in BUILD if name != "FlatMLP"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_invariant_to_hidden_permutations_only(name, dtype):
    assert BUILD[name](NetworkSpec.parse("2-3-1:sine")).symmetry == "invariant"
    assert_invariant(BUILD[name], dtype=dtype)
    if name not in ("StatNN", "NFN pt"):  # they see each tensor as a set
        assert_not_equivariant(BUILD[name], channels=1)


@pytest.mark.parametrize("name", ["NFN", "NFN hnp", "NFN pt", "NFN embed", "NFT", "FlatMLP"])
def test_inputs_and_outputs_are_told_apart(name):
    assert_not_equivariant(BUILD[name], channels=1, change="io")


def test_the_flat_baseline_declares_no_symmetry_and_has_none():
    assert FlatMLP.symmetry == "none"
    with pytest.raises(AssertionError, match="not hnp-invariant"):
        assert_invariant(BUILD["FlatMLP"], kinds=("dense",))


@pytest.mark.parametrize("name", BUILD)
def test_batch_rows_do_not_see_each_other(name):
    torch.manual_seed(0)
    spec = NetworkSpec.parse("2-4-3-1:sine")
    model = BUILD[name](spec).double().eval()
    x = random_features(spec, 5, 1, torch.Generator().manual_seed(0), torch.float64)
    assert torch.allclose(model(x)[2:4], model(x[[2, 3]]), rtol=1e-9)


def test_mlp_aug_permutes_in_training_only():
    spec = NetworkSpec.parse("2-4-3-1:sine")
    model = FlatMLP(spec, 4, width=16, permute=True)
    x = random_features(spec, 5, 1, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_published_sizes():
    assert count(StatNN(NetworkSpec.parse("1-16c3-16c3-16c3-10:relu"), 1)) == 1_059_001
    mnist, cifar = NetworkSpec.parse("2-32-32-1:sine"), NetworkSpec.parse("2-32-32-3:sine")
    assert count(NFN(mnist, 10)) == 45_668_650
    assert count(NFN(cifar, 10)) == 47_716_650
    assert count(NFN(mnist, 10, "hnp", io="none")) == 68_844_330
    assert count(NFN(cifar, 10, "hnp", io="none")) == 135_126_826
    cnn = {
        "spec": NetworkSpec.parse("1-16c3-16c3-16c3-10:relu"),
        "out_dim": 1,
        "widths": [16, 16, 5],
        "fourier_size": 0,
    }
    assert count(NFN(layer="hnp", io="none", **cnn)) == 2_811_743
    assert count(NFN(layer="np", io="embed", **cnn)) == 2_031_390
    assert count(NFN(layer="pt", io="none", **cnn)) == 1_341_481
    assert count(FlatMLP(mnist, 10)) == 2_197_010
    assert count(FlatMLP(cifar, 10)) == 2_263_010


def test_bad_arguments_say_what_is_allowed():
    spec = NetworkSpec.parse("2-3-1:sine")
    for wrong in ({"pool": "mean"}, {"layer": "linear"}, {"io": "sin"}):
        with pytest.raises(ValueError, match="must be one of"):
            NFN(spec, 4, **wrong)
    with pytest.raises(ValueError, match="layer='hnp' goes with"):
        NFN(spec, 4, "hnp", io="embed")
    with pytest.raises(ValueError, match="even, got 7"):
        NFT(spec, 4, width=7)
