"""The contract of every model: output shape, declared symmetry and finite gradients, for outputs and for edits."""

import pytest
import torch

from nfbench import models
from nfbench.models import GMN, NFN, NFT, FlatMLP, NFNGated, ResNFN, StatNN
from nfbench.weightspace import NetworkSpec, NeuronPermutation, random_features
from nfbench.weightspace.testing import assert_equivariant, assert_invariant, assert_not_equivariant

BUILD = {
    "NFN": lambda spec, out=4: NFN(spec, out, widths=[8, 6], fourier_size=8, head_width=16),
    "NFN hnp": lambda spec, out=4: NFN(spec, out, "hnp", widths=[8, 6], fourier_size=8, io="none", head_width=16),
    "NFN full": lambda spec, out=4: NFN(
        spec, out, "hnp", widths=[8, 6], fourier_size=4, hnp_full_span=True, io="none", head_width=16
    ),
    "NFN pt": lambda spec, out=4: NFN(spec, out, "pt", widths=[8, 6], fourier_size=8, head_width=16),
    "NFN embed": lambda spec, out=4: NFN(spec, out, widths=[8, 6], fourier_size=0, io="embed", head_width=16),
    "NFN raw": lambda spec, out=4: NFN(spec, out, widths=[8], fourier_size=0, io="none", pool="np", head_width=16),
    "NFN simple": lambda spec, out=4: NFN(spec, out, widths=[8, 6], fourier_size=8, norm="simple", head_width=16),
    "NFN param": lambda spec, out=4: NFN(spec, out, widths=[8, 6], fourier_size=8, norm="param", head_width=16),
    "NFT": lambda spec, out=4: NFT(spec, out, width=8, num_blocks=2, num_heads=2, num_queries=3, head_width=16),
    "NFT all": lambda spec, out=4: NFT(
        spec, out, width=8, num_blocks=1, point_head="all", num_queries=3, head_width=16
    ),
    "NFT rows": lambda spec, out=4: NFT(
        spec, out, width=8, num_blocks=1, point_head="none", num_queries=3, head_width=16
    ),
    "NFNGated": lambda spec, out=4: NFNGated(spec, out, width=8, num_blocks=2, head_width=16),
    "NFNGated hnp": lambda spec, out=4: NFNGated(spec, out, "hnp", width=8, num_blocks=1, head_width=16),
    "GMN": lambda spec, out=4: GMN(spec, out, width=8, num_rounds=2, head_width=16),
    "GMN unsigned": lambda spec, out=4: GMN(spec, out, width=8, num_rounds=2, sign=False, head_width=16),
    "ResNFN": lambda spec, out=4: ResNFN(spec, out, width=8, num_layers=3, fourier_size=8, head_width=16),
    "ResNFN hnp": lambda spec, out=4: ResNFN(spec, out, "hnp", width=8, fourier_size=8, io="none", head_width=16),
    "StatNN": lambda spec, out=4: StatNN(spec, out, width=16),
    "FlatMLP": lambda spec, out=4: FlatMLP(spec, out, width=16),
    "FlatMLP deep": lambda spec, out=4: FlatMLP(spec, out, width=16, num_hidden=3),
}
EDITORS = [name for name in BUILD if name != "StatNN"]
SPECS = ["2-32-32-1:sine", "2-5-1:sine", "64-8-8-10:relu", "1-16c3-16c3-16c3-10:relu", "3-4c1x3-2c2:gelu"]


def test_every_exported_model_is_tested():
    elsewhere = {"TicketVAE"}  # has two inputs: test_ticket_vae.py
    assert {name.split()[0] for name in BUILD} == set(models.__all__) - elsewhere


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


@pytest.mark.parametrize("name", EDITORS)
@pytest.mark.parametrize("text", SPECS)
def test_shape_and_gradients_of_edits(name, text):
    torch.manual_seed(0)
    spec = NetworkSpec.parse(text)
    model = BUILD[name](spec, None)
    edit = model(random_features(spec, 3, 1, torch.Generator().manual_seed(0))).check()
    assert edit.spec == spec
    assert (edit.batch_size, edit.channels) == (3, 1)
    scale = next(p for key, p in model.named_parameters() if key.endswith("weight_scales"))
    assert torch.equal(scale, torch.full((spec.num_layers,), 0.01)), "they start near the network as it came"
    edit.flatten().square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert sum(bool(g.any()) for g in gradients) > 0.9 * len(gradients)


@pytest.mark.parametrize("name", [name for name in EDITORS if "MLP" not in name])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_edits_are_equivariant_to_hidden_permutations_only(name, dtype):
    def build(spec):
        return BUILD[name](spec, None)

    assert build(NetworkSpec.parse("2-3-1:sine")).symmetry == "hnp"
    assert_equivariant(build, channels=1, dtype=dtype)
    if name != "NFN raw":
        assert_not_equivariant(build, channels=1, change="io")
    if name != "NFN pt":  # it sees each hidden weight alone
        assert_not_equivariant(build, channels=1)


def test_flat_edits_have_no_symmetry():
    with pytest.raises(AssertionError, match="not hnp-equivariant"):
        assert_equivariant(lambda spec: BUILD["FlatMLP"](spec, None), channels=1, kinds=("dense",))
    assert BUILD["FlatMLP"](NetworkSpec.parse("2-3-1:sine"), None).symmetry == "none"


@pytest.mark.parametrize("name", [name for name in BUILD if "MLP" not in name])
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


def test_flat_edits_of_permuted_networks_are_permuted_back(monkeypatch):
    spec = NetworkSpec.parse("2-4-3-1:sine")
    generator = torch.Generator().manual_seed(0)
    model = FlatMLP(spec, None, width=16, permute=True).double()
    x = random_features(spec, 5, 1, generator, torch.float64)
    permutation = NeuronPermutation.sample(spec, 5, generator)
    monkeypatch.setattr(NeuronPermutation, "sample", lambda *_: permutation)
    edit, of_permuted = model(x), model.eval()(permutation.apply(x))
    assert torch.allclose(permutation.apply(edit).flatten(), of_permuted.flatten(), rtol=1e-9)
    assert not torch.allclose(edit.flatten(), of_permuted.flatten())


def test_sigmoid_of_the_authors_flat_classifier():
    spec = NetworkSpec.parse("2-4-3-1:sine")
    model = FlatMLP(spec, 4, width=16)
    x = random_features(spec, 5, 1, torch.Generator().manual_seed(0))
    plain = model(x)
    model.sigmoid = True
    assert torch.equal(model(x), plain.sigmoid())


def test_the_residual_net_is_the_authors_sequence():
    """Lift and ReLU, x + relu(layer(norm(x))), layer and ReLU: with blocks that give zero, two plain layers."""
    torch.manual_seed(0)
    spec = NetworkSpec.parse("2-4-3-1:sine")
    model = ResNFN(spec, 4, width=8, num_layers=4, head_width=16).double()
    x = random_features(spec, 5, 1, torch.Generator().manual_seed(0), torch.float64)
    lifted = model.lift(model.encode(x)).map(torch.relu)
    through = model.blocks(lifted)
    first = model.blocks[0]
    after_one = lifted + first.layer(first.norm(lifted)).map(torch.relu)
    assert torch.allclose(first(lifted).flatten(), after_one.flatten(), rtol=1e-9)
    assert torch.allclose(model(x), model.readout(model.last(through).map(torch.relu)), rtol=1e-9)
    for parameter in (p for block in model.blocks for p in block.layer.parameters()):
        torch.nn.init.zeros_(parameter)
    assert torch.equal(model.blocks(lifted).flatten(), lifted.flatten())
    assert not torch.equal(through.flatten(), lifted.flatten())


@pytest.mark.parametrize("make", [NFN, ResNFN])
def test_dropout_acts_in_training_only(make):
    torch.manual_seed(0)
    spec = NetworkSpec.parse("2-4-3-1:sine")
    x = random_features(spec, 5, 1, torch.Generator().manual_seed(0))
    sizes = {"widths": [8, 6]} if make is NFN else {"width": 8}
    model = make(spec, 4, fourier_size=8, dropout=0.5, head_width=16, head_dropout=0.0, **sizes)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_bad_arguments_say_what_is_allowed():
    spec = NetworkSpec.parse("2-3-1:sine")
    for wrong in ({"pool": "mean"}, {"layer": "linear"}, {"io": "sin"}, {"norm": "batch"}):
        with pytest.raises(ValueError, match="must be one of"):
            NFN(spec, 4, **wrong)
    for wrong in ({"pool": "mean"}, {"layer": "linear"}, {"io": "sin"}):
        with pytest.raises(ValueError, match="must be one of"):
            ResNFN(spec, 4, width=4, **wrong)
    with pytest.raises(ValueError, match="layer='hnp' goes with"):
        NFN(spec, 4, "hnp", io="embed")
    with pytest.raises(ValueError, match="even, got 7"):
        NFT(spec, 4, width=7)
    with pytest.raises(ValueError, match="hnp_full_span=True goes with layer='hnp', got 'np'"):
        NFN(spec, 4, hnp_full_span=True)
    with pytest.raises(ValueError, match="not 'none' without cross_term"):
        NFT(spec, 4, cross_term=False, point_head="none")
    with pytest.raises(ValueError, match=r"at least 2 .* got 1"):
        ResNFN(spec, 4, num_layers=1)
    with pytest.raises(ValueError, match="num_hidden must be at least 1, got 0"):
        FlatMLP(spec, 4, num_hidden=0)
    for out_dim in (None, 1):
        with pytest.raises(ValueError, match="sigmoid=True is for classifiers"):
            FlatMLP(spec, out_dim, sigmoid=True)
    with pytest.raises(ValueError, match="StatNN cannot edit"):
        StatNN(spec, None)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (NFT, {"width": 0}, "width must be at least 1, got 0"),
        (NFT, {"num_blocks": -1}, "num_blocks must be at least 0, got -1"),
        (NFT, {"num_heads": 0}, "num_heads must be at least 1, got 0"),
        (NFT, {"num_heads": -2}, "num_heads must be at least 1, got -2"),
        (NFT, {"num_queries": 0}, "num_queries must be at least 1, got 0"),
        (NFT, {"head_width": 0}, "head_width must be at least 1, got 0"),
        (NFT, {"dropout": 1.0}, r"dropout must be at least 0 and below 1, got 1\.0"),
        (NFT, {"head_dropout": -0.1}, r"head_dropout must be at least 0 and below 1, got -0\.1"),
        (NFNGated, {"width": -2}, "width must be at least 1, got -2"),
        (NFNGated, {"num_blocks": -1}, "num_blocks must be at least 0, got -1"),
        (NFN, {"widths": [8, 0]}, "widths must be at least 1, got 0"),
        (NFN, {"fourier_size": -4}, "fourier_size must be at least 0, got -4"),
        (NFN, {"dropout": 2}, "dropout must be at least 0 and below 1, got 2"),
        (ResNFN, {"width": 0}, "width must be at least 1, got 0"),
        (GMN, {"width": 0}, "width must be at least 1, got 0"),
        (GMN, {"num_functions": 0}, "num_functions must be at least 1, got 0"),
        (FlatMLP, {"width": 0}, "head_width must be at least 1, got 0"),
        (StatNN, {"width": 0}, "head_width must be at least 1, got 0"),
    ],
)
def test_sizes_that_would_make_another_net_or_none(model, options, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        model(NetworkSpec.parse("2-3-1:sine"), 4, **options)
