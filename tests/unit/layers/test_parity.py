"""With copied parameters, outputs and gradients equal the authors' layers (PyPI `nfn` 0.1.2), to 1e-9 in float64.

Gradients with respect to the input, and to every parameter.
"""

import copy

import pytest
import torch

from nfbench.layers import (
    GaussianFourierFeatures,
    HNPLinear,
    HNPPool,
    IOSinusoidalEncoding,
    LearnedPosEmbedding,
    NPAttention,
    NPLinear,
    NPPool,
    ParamLayerNorm,
    Pointwise,
    SimpleLayerNorm,
    StatFeaturizer,
    from_nfn_state_dict,
    to_nfn_state_dict,
)
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures, random_features, random_spec

nfn_common = pytest.importorskip(
    "nfn.common", reason="needs the optional package nfn==0.1.2: pip install 'nfbench[parity]'"
)
nfn_layers = pytest.importorskip("nfn.layers")

F64 = torch.float64


def specs(kind, count=20):
    generator = torch.Generator().manual_seed(0)
    return [random_spec(generator, kind) for _ in range(count)]


def their_spec(spec):
    array = nfn_common.data.ArraySpec
    shapes = spec.parameter_shapes()
    return nfn_common.NetworkSpec([array(s) for s in shapes[::2]], [array(s) for s in shapes[1::2]])


def to_theirs(x):
    weights = []
    for w_BRSKC, layer in zip(x.weights, x.spec.layers, strict=True):
        w = w_BRSKC.permute(0, 4, 1, 2, 3)
        weights.append(w.unflatten(-1, layer.kernel) if layer.kernel else w.squeeze(-1))
    return nfn_common.WeightSpaceFeatures(weights, [b.transpose(1, 2) for b in x.biases])


def from_theirs(spec, y):
    weights = [(w.flatten(4) if w.ndim == 6 else w.unsqueeze(-1)).permute(0, 2, 3, 4, 1) for w in y.weights]
    return WeightSpaceFeatures(spec, tuple(weights), tuple(b.transpose(1, 2) for b in y.biases))


def assert_close(a, b, what):
    assert a.shape == b.shape, what
    assert (a - b).abs().max() <= 1e-9 * b.abs().max().clamp_min(1), what


def compare(spec, ours, theirs, channels, back=from_theirs, parameters=False):
    """Outputs, and the gradients of a random sum of them with respect to the input and, if asked, all parameters."""
    generator = torch.Generator().manual_seed(1)
    flat = random_features(spec, 2, channels, generator, F64).flatten().requires_grad_()
    x = WeightSpaceFeatures.from_flat(spec, flat)
    got, wanted = ours(x), back(spec, theirs(to_theirs(x)))
    if isinstance(got, WeightSpaceFeatures):
        got, wanted = got.flatten(), wanted.flatten()
    assert_close(got, wanted, "outputs")
    weights = torch.randn(got.shape, generator=generator, dtype=F64)
    of_ours, of_theirs = (
        torch.autograd.grad((y * weights).sum(), [flat, *(layer.parameters() if parameters else [])])
        for y, layer in ((got, ours), (wanted, theirs))
    )
    assert_close(of_ours[0], of_theirs[0], "gradients of the input")
    if parameters:
        compare_parameter_gradients(ours, of_ours[1:], theirs, of_theirs[1:])


def compare_parameter_gradients(ours, of_ours, theirs, of_theirs):
    """The two nets have the same numbers as parameters, ours in other places and none twice (`copy_and_compare` asserts
    both), so their gradients are the same numbers too, and go to their places as the parameters do.
    """
    gradients = copy.deepcopy(ours)
    gradients.load_state_dict({name: g for (name, _), g in zip(ours.named_parameters(), of_ours, strict=True)})
    placed = to_nfn_state_dict(gradients)
    for (name, _), gradient in zip(theirs.named_parameters(), of_theirs, strict=True):
        assert_close(placed[name].reshape(gradient.shape), gradient, f"gradient of {name}")
    assert any(gradient.any() for gradient in of_theirs)


def copy_and_compare(spec, ours, theirs, channels):
    ours, theirs = ours.to(F64), theirs.to(F64)
    ours.load_state_dict(from_nfn_state_dict(ours, theirs.state_dict()))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    back = to_nfn_state_dict(ours)
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(back[key].reshape(tensor.shape), tensor), key
    compare(spec, ours, theirs, channels, parameters=True)


def test_a_gradient_in_another_place_is_noticed():
    spec = NetworkSpec.parse("2-3-1:sine")
    ours, theirs = NPLinear(spec, 3, 2).to(F64), nfn_layers.NPLinear(their_spec(spec), 3, 2).to(F64)
    zeros = [torch.zeros_like(p) for p in theirs.parameters()]
    of_ours = {name: torch.zeros_like(p) for name, p in ours.named_parameters()}
    for name in of_ours:
        changed = of_ours | {name: of_ours[name].clone().index_fill_(0, torch.tensor(0), 1.0)}
        with pytest.raises(AssertionError, match="gradient of"):
            compare_parameter_gradients(ours, [*changed.values()], theirs, zeros)


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("name", ["NPLinear", "HNPLinear", "Pointwise"])
def test_linear_layers(name, kind):
    ours = {"NPLinear": NPLinear, "HNPLinear": HNPLinear, "Pointwise": Pointwise}[name]
    for spec in specs(kind):
        copy_and_compare(spec, ours(spec, 3, 2), getattr(nfn_layers, name)(their_spec(spec), 3, 2), 3)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_np_linear_with_embeddings(kind):
    for spec in specs(kind):
        ours, theirs = NPLinear(spec, 3, 2, io_embed=True), nfn_layers.NPLinear(their_spec(spec), 3, 2, io_embed=True)
        copy_and_compare(spec, ours, theirs, 3)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_norms(kind):
    for spec in specs(kind):
        theirs = nfn_layers.SimpleLayerNorm(their_spec(spec), 3)
        for p in theirs.parameters():
            torch.nn.init.normal_(p)
        copy_and_compare(spec, SimpleLayerNorm(spec, 3), theirs, 3)
        if kind == "dense":  # theirs does not do convolutions
            theirs = nfn_layers.ParamLayerNorm(their_spec(spec), 3).to(F64)
            compare(spec, ParamLayerNorm(spec, 3).to(F64), theirs, 3)


@pytest.fixture
def float64_by_default():
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64_by_default")  # theirs makes its levels in the default dtype
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_statistics(kind):
    for spec in specs(kind):
        if min(shape.numel() for shape in map(torch.Size, spec.parameter_shapes())) < 2:
            continue  # theirs gives NaN there
        theirs = nfn_layers.StatFeaturizer()

        def back(_, stats):  # (B, C, tensors * 7), statistics last
            return stats.transpose(1, 2)

        compare(spec, StatFeaturizer(spec), theirs, 3, back)


@pytest.mark.parametrize(("cross", "averages"), [(True, False), (False, True)])
@pytest.mark.parametrize(("kind", "share"), [("dense", True), ("conv", False)])
def test_attention_switches(kind, share, cross, averages):
    for spec in specs(kind):
        heads = "averages" if averages else "none"
        ours = NPAttention(spec, 4, 2, cross_term=cross, point_head=heads, share_projections=share)
        switches = {"ablate_crossterm": not cross, "ablate_diagonalterm": not averages}
        theirs = nfn_layers.NPAttention(their_spec(spec), 4, 2, share_projections=share, **switches)
        copy_and_compare(spec, ours, theirs, 4)


@pytest.mark.parametrize(("kind", "share"), [("dense", True), ("dense", False), ("conv", False)])
def test_attention(kind, share):
    for spec in specs(kind):
        ours = NPAttention(spec, 4, 2, share_projections=share)
        theirs = nfn_layers.NPAttention(their_spec(spec), 4, 2, share_projections=share)
        copy_and_compare(spec, ours, theirs, 4)


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("name", ["NPPool", "HNPPool"])
def test_pools(name, kind):
    ours = {"NPPool": NPPool, "HNPPool": HNPPool}[name]
    for spec in specs(kind):
        theirs = getattr(nfn_layers, name)(their_spec(spec))
        compare(spec, ours(spec), theirs, 3, back=lambda _, pooled: pooled.transpose(1, 2))


@pytest.mark.parametrize("enc_layers", [True, False])
def test_io_encoding(enc_layers):
    for spec in specs("dense") + specs("conv"):
        theirs = nfn_layers.IOSinusoidalEncoding(their_spec(spec), 10, 6, enc_layers=enc_layers)
        compare(spec, IOSinusoidalEncoding(spec, 10.0, 6, enc_layers).to(F64), theirs, 3)


def test_learned_embeddings_and_fourier_features():
    for spec in specs("dense") + specs("conv"):
        theirs = nfn_layers.LearnedPosEmbedding(their_spec(spec), 3).to(F64)
        ours = LearnedPosEmbedding(spec, 3).to(F64)
        copy_and_compare(spec, ours, theirs, 3)
        theirs = nfn_layers.GaussianFourierFeatureTransform(their_spec(spec), 3, 8, 2.0).to(F64)
        ours = GaussianFourierFeatures(3, 8, 2.0).to(F64)
        ours.frequencies.copy_(theirs._B)
        compare(spec, ours, theirs, 3)


def test_what_does_not_fit_is_named():
    spec = NetworkSpec.parse("2-3-1:sine")
    state = nfn_layers.NPLinear(their_spec(spec), 3, 2).state_dict()
    with pytest.raises(ValueError, match=r"no 'net\.layer_0\.weight'"):
        from_nfn_state_dict(NPLinear(spec, 3, 2), state, prefix="net.")
    with pytest.raises(ValueError, match="other sizes or channels"):
        from_nfn_state_dict(NPLinear(spec, 4, 2), state)
    with pytest.raises(ValueError, match="no counterpart"):
        to_nfn_state_dict(HNPLinear(spec, 1, 1, full_span=True))
