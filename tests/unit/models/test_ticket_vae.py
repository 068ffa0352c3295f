"""The VAE of masks: shapes, symmetry, checkpointing that changes no number, and no way for a mask into the decoder."""

import pytest
import torch

from nfbench.models import TicketVAE
from nfbench.weightspace import NetworkSpec, NeuronPermutation, WeightSpaceFeatures, random_features, random_spec

SPEC = NetworkSpec.parse("6-5-4:relu")
KINDS = {
    "pt": {"layer": "pt", "io": "none"},
    "np": {"layer": "np", "io": "sinusoidal", "init": "kaiming"},
    "nft": {"layer": "nft", "num_layers": 2, "num_heads": 2},
}


def make(spec: NetworkSpec, kind: str, **changes) -> TicketVAE:
    torch.manual_seed(0)
    return TicketVAE(spec, **{"width": 8, "latent": 3, "num_layers": 3, **KINDS[kind], **changes}).double()


def inputs(spec: NetworkSpec, count: int = 3) -> tuple[WeightSpaceFeatures, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = random_features(spec, count, 1, generator, torch.float64)
    mask = (torch.rand(count, spec.num_params, generator=generator) < 0.3).double()
    return features, mask, torch.randn(count, spec.num_params, 3, generator=generator, dtype=torch.float64)


def permuted(permutation: NeuronPermutation, flat: torch.Tensor, spec: NetworkSpec) -> torch.Tensor:
    return permutation.apply(WeightSpaceFeatures.from_flat(spec, flat)).flatten().squeeze(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", ["dense", "conv"])
def test_shapes_and_gradients(kind, of):
    spec = random_spec(torch.Generator().manual_seed(3), of)
    model = make(spec, kind)
    logits, mean, log_variance = model(*inputs(spec))
    assert logits.shape == (3, spec.num_params)
    assert mean.shape == log_variance.shape == (3, spec.num_params, 3)
    (logits.square().sum() + mean.sum() + log_variance.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_equivariance(kind):
    generator = torch.Generator().manual_seed(0)
    for of in ("dense", "conv"):
        spec = random_spec(generator, of)
        model, (features, mask, noise) = make(spec, kind), inputs(spec)
        moved = NeuronPermutation.sample(spec, 3, generator)
        logits, mean, _ = model(features, mask, noise)
        other, other_mean, _ = model(moved.apply(features), permuted(moved, mask, spec), permuted(moved, noise, spec))
        assert torch.allclose(other, permuted(moved, logits, spec), atol=1e-9)
        assert torch.allclose(other_mean, permuted(moved, mean, spec), atol=1e-9)


@pytest.mark.parametrize("kind", ["np", "nft"])
def test_inputs_are_told_apart(kind):
    model, (features, _, noise) = make(SPEC, kind), inputs(SPEC)
    order = torch.tensor([1, 0, 2, 3, 4, 5])

    def swapped(flat: torch.Tensor) -> torch.Tensor:
        x = WeightSpaceFeatures.from_flat(SPEC, flat)
        return WeightSpaceFeatures(SPEC, (x.weights[0][:, :, order], *x.weights[1:]), x.biases).flatten()

    both = WeightSpaceFeatures.from_flat(SPEC, swapped(features.flatten()))
    logits = swapped(model.decode(features, noise)[..., None])[..., 0]
    assert not torch.allclose(model.decode(both, swapped(noise)), logits, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_no_number(kind):
    results = []
    for checkpointing, at_once in ((True, 1), (True, 2), (False, 8)):
        model = make(SPEC, kind, checkpointing=checkpointing, networks_at_once=at_once)
        logits, mean, log_variance = model(*inputs(SPEC))
        (logits.square().sum() + mean.square().sum() + log_variance.sum()).backward()
        results.append((logits.detach(), [p.grad for p in model.parameters()]))
    for logits, grads in results[1:]:
        assert torch.allclose(logits, results[0][0], atol=1e-12)
        assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(grads, results[0][1], strict=True))


def test_a_pointwise_decoder_is_a_function_of_one_weight():
    model, (features, _, noise) = make(SPEC, "pt", norm="none"), inputs(SPEC)
    before = model.decode(features, noise)
    flat = features.flatten().clone()
    flat[:, 0] += 1
    after = model.decode(WeightSpaceFeatures.from_flat(SPEC, flat), noise)
    assert not torch.allclose(after[:, 0], before[:, 0])
    assert torch.equal(after[:, 1:], before[:, 1:])
    np_model = make(SPEC, "np")
    before, after = (np_model.decode(x, noise) for x in (features, WeightSpaceFeatures.from_flat(SPEC, flat)))
    assert not torch.allclose(after[:, 1:], before[:, 1:])


def test_the_memory_of_a_step_is_bounded():
    mnist, cifar = NetworkSpec.parse("784-128-128-10:relu"), NetworkSpec.parse("3-128c3-128c3-128c3-128-10:relu")
    with torch.device("meta"):
        for spec in (mnist, cifar):
            for kind in ("pt", "np", "nft"):
                model = TicketVAE(spec, **{**KINDS[kind], "num_heads": 4, "width": 64})
                assert model.step_bytes(4) < 8 * 2**30
        plain = TicketVAE(cifar, **KINDS["np"], width=64, checkpointing=False)
        assert plain.step_bytes(4) > 8 * 2**30, "without checkpointing it would not fit"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"out_dim": 3}, "task=tickets"), ({"layer": "hnp"}, "np, pt, nft"), ({"norm": "param"}, "simple, none"),
     ({"io": "embed"}, "sinusoidal, none"), ({"latent": 0}, r"model\.latent=0")],
)  # fmt: skip
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TicketVAE(SPEC, **changes)
