"""Augmentations of weights: what exact ones do to the function, and that approximate ones do what they say."""

import math

import pytest
import torch

from nfbench.weightspace import (
    Mixup,
    NetworkSpec,
    SineSymmetry,
    WeightSpaceFeatures,
    add_noise,
    canonicalize,
    drop_weights,
    random_features,
    sample_flips,
    transform_coordinates,
)

W0 = {"w0_first": 30.0, "w0_hidden": 20.0}
DENSE, CONV = NetworkSpec.parse("2-6-5-3:sine"), NetworkSpec.parse("1-4c3-5c2-3:relu")


def run(x, points, w0_first=30.0, w0_hidden=20.0):
    """The networks' outputs (B, P, n_L) at points (B, P, n_0)."""
    h = points
    for i, (w, b) in enumerate(zip(x.weights, x.biases, strict=True)):
        z = h @ w[..., 0, 0].transpose(1, 2) + b.transpose(1, 2)
        h = z if i == x.spec.num_layers - 1 else torch.sin((w0_hidden if i else w0_first) * z)
    return h


def networks(spec=DENSE, batch_size=5, channels=1, seed=0):
    """Networks of weights around 0.1 (phases of several half-turns), points for them, and a generator."""
    generator = torch.Generator().manual_seed(seed)
    x = random_features(spec, batch_size, channels, generator, torch.float64).map(lambda t: 0.1 * t)
    return x, torch.rand(batch_size, 9, spec.sizes[0], generator=generator, dtype=torch.float64) - 0.5, generator


def far(a, b):
    return float((a - b).abs().max()) > 1e-2


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_flips_mirror_coordinates(axes):
    x, points, generator = networks(batch_size=200)
    matrix = sample_flips(200, 2, generator, axes).double()
    moved = transform_coordinates(x, matrix, torch.zeros(200, 2, dtype=torch.float64))
    signs = torch.diagonal(matrix, dim1=1, dim2=2)
    close(run(moved, points), run(x, points * signs[:, None]))
    mirrored = (signs < 0).any(1)
    assert far(run(moved, points)[mirrored], run(x, points)[mirrored])
    for axis in (0, 1):
        share = float((signs[:, axis] < 0).double().mean())
        assert 0.35 < share < 0.65 if axis in axes else share == 0


@pytest.mark.parametrize("text", ["2-7-1:sine", "2-6-5-3:sine", "3-4-4-4-2:sine", "2-3-4-3-4-1:sine"])
def test_sine_symmetry_keeps_the_function(text):
    x, points, generator = networks(NetworkSpec.parse(text))
    symmetry = SineSymmetry.sample(x.spec, 5, generator, max_turns=3)
    other = symmetry.apply(x, **W0)
    assert far(other.flatten(), x.flatten())
    close(run(other, points, **W0), run(x, points, **W0))
    close(canonicalize(other, **W0).flatten(), canonicalize(x, **W0).flatten())
    assert far(run(symmetry.apply(x, 20.0, 30.0), points), run(x, points)), "half-turns of another w0 change it"


def test_half_symmetries_change_the_function():
    """Turning phases, or changing signs, of incoming weights alone."""
    x, points, generator = networks()
    symmetry = SineSymmetry.sample(x.spec, 5, generator)
    moved = symmetry.apply(x, **W0)
    half = WeightSpaceFeatures(x.spec, (moved.weights[0], *x.weights[1:]), (moved.biases[0], *x.biases[1:]))
    assert far(run(half, points), run(x, points))


def test_sine_symmetry_draws_all_its_elements_alike():
    spec = NetworkSpec.parse("2-6-5-3:sine")
    symmetry = SineSymmetry.sample(spec, 500, torch.Generator().manual_seed(0))
    assert [tuple(t.shape) for t in symmetry.signs] == [(500, 6), (500, 5)]
    for values, allowed in ((symmetry.signs[0], (-1, 1)), (symmetry.turns[1], (-1, 0, 1))):
        assert set(values.unique().tolist()) == set(allowed)
        for value in allowed:
            assert float((values == value).double().mean()) == pytest.approx(1 / len(allowed), abs=0.05)


@pytest.mark.parametrize(("text", "channels"), [("2-3-1:relu", 1), ("2-3c3-1:sine", 1), ("2-3-1:sine", 2)])
def test_only_dense_sine_networks_have_the_symmetry(text, channels):
    x, _, generator = networks(NetworkSpec.parse(text), channels=channels)
    with pytest.raises(ValueError, match="augment_sine=false"):
        SineSymmetry.sample(x.spec, 5, generator).apply(x)


@pytest.mark.parametrize(("spec", "channels"), [(DENSE, 1), (CONV, 1), (CONV, 2)])
def test_noise_has_the_std_of_its_tensor(spec, channels):
    x, _, generator = networks(spec, batch_size=2000, channels=channels)
    slices = spec.scalar_slices()
    std = torch.zeros(spec.num_params)
    for i, where in enumerate(slices):
        std[where] = 0.1 * i  # none at all on the first tensor
    added = add_noise(x, std, generator).flatten() - x.flatten()
    assert not added[:, slices[0]].any()
    for i, where in enumerate(slices[1:], 1):
        assert float(added[:, where].std()) == pytest.approx(0.1 * i, rel=0.05)
        assert abs(float(added[:, where].mean())) < 0.01 * i
    same = [add_noise(x, std, torch.Generator().manual_seed(7)).flatten() for _ in range(2)]
    assert torch.equal(*same)


@pytest.mark.parametrize(("spec", "channels"), [(DENSE, 1), (CONV, 2)])
def test_dropout_zeroes_a_share_and_leaves_the_rest(spec, channels):
    x, _, generator = networks(spec, batch_size=1000, channels=channels)
    before, after = x.flatten(), drop_weights(x, 0.2, generator).flatten()
    gone = (after == 0).all(-1)
    assert torch.equal(after[~gone], before[~gone])
    for where in spec.scalar_slices():
        assert float(gone[:, where].double().mean()) == pytest.approx(0.2, abs=0.03)
    assert torch.equal(drop_weights(x, 0.0, generator).flatten(), before)


def test_noise_and_dropout_change_the_function():
    x, points, generator = networks()
    std = torch.full((x.spec.num_params,), 0.02)
    assert far(run(add_noise(x, std, generator), points), run(x, points))
    assert far(run(drop_weights(x, 0.1, generator), points), run(x, points))


@pytest.mark.parametrize("spec", [DENSE, CONV])
def test_mixup_averages_weights_and_targets_alike(spec):
    x, _, generator = networks(spec, batch_size=6, channels=2)
    mixup = Mixup.sample(6, 0.5, generator)
    assert sorted(mixup.partner.tolist()) == list(range(6))
    flat, targets = x.flatten(), torch.eye(4, dtype=torch.float64)[torch.tensor([0, 1, 2, 3, 0, 1])]
    mixed, mixed_targets = mixup.apply(x).check().flatten(), mixup.mix(targets)
    for i, (partner, share) in enumerate(zip(mixup.partner.tolist(), mixup.share.tolist(), strict=True)):
        close(mixed[i], share * flat[i] + (1 - share) * flat[partner])
        close(mixed_targets[i], share * targets[i] + (1 - share) * targets[partner])
    close(mixed_targets.sum(1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(mixed_targets.argmax(1), targets.argmax(1)), "a network is mostly itself"


@pytest.mark.parametrize("alpha", [0.1, 1.0, 20.0])
def test_mixup_shares_are_of_the_beta_distribution(alpha):
    share = Mixup.sample(4000, alpha, torch.Generator().manual_seed(0)).share
    assert 0.5 <= float(share.min()) <= float(share.max()) <= 1
    variance = 1 / (4 * (2 * alpha + 1))  # of Beta(alpha, alpha) around its mean of a half
    assert float((share - 0.5).square().mean()) == pytest.approx(variance, rel=0.1)
    again = Mixup.sample(4000, alpha, torch.Generator().manual_seed(0)).share
    assert torch.equal(share, again)


def test_mixup_computes_no_mean_of_functions():
    x, points, generator = networks()
    mixup = Mixup.sample(5, 1.0, generator)
    moved = mixup.partner != torch.arange(5)
    assert far(run(mixup.apply(x), points)[moved], mixup.mix(run(x, points))[moved])


@pytest.mark.parametrize("text", ["2-7-1:sine", "2-6-5-3:sine", "3-4-4-4-2:sine"])
def test_a_mixture_of_canonical_networks_is_canonical(text):
    x, _, generator = networks(NetworkSpec.parse(text), batch_size=50)
    mixup = Mixup.sample(50, 1.0, generator)
    mixed = mixup.apply(canonicalize(x, **W0))
    close(canonicalize(mixed, **W0).flatten(), mixed.flatten())
    raw = mixup.apply(x)
    assert far(canonicalize(raw, **W0).flatten(), raw.flatten())
    assert all(
        float((b * w0).abs().max()) <= math.pi / 2 for b, w0 in zip(mixed.biases[:-1], W0.values(), strict=False)
    )
