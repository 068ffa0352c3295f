"""Permutations, canonical form and coordinate transforms, against the functions that the networks compute."""

import math

import pytest
import torch

from nfbench.weightspace import (
    NetworkSpec,
    NeuronPermutation,
    WeightSpaceFeatures,
    canonical_form,
    canonicalize,
    permute_uncoupled,
    random_features,
    random_spec,
    sample_rigid_motion,
    transform_coordinates,
)

W0 = {"w0_first": 30.0, "w0_hidden": 20.0}


def run(features, points, w0_first=30.0, w0_hidden=20.0):
    """The networks' outputs (B, P, n_L) at points (B, P, n_0)."""
    h = points
    for i, (w, b) in enumerate(zip(features.weights, features.biases, strict=True)):
        z = h @ w[..., 0, 0].transpose(1, 2) + b.transpose(1, 2)
        h = z if i == features.spec.num_layers - 1 else torch.sin((w0_first if i == 0 else w0_hidden) * z)
    return h


def sine_networks(depth, seed=0, batch_size=4):
    generator = torch.Generator().manual_seed(100 * depth + seed)
    spec = random_spec(generator, "dense", (depth, depth))
    # A tenth of a standard normal: phases over several half-periods, weights that do not blow up rounding errors.
    return random_features(spec, batch_size, 1, generator, torch.float64).map(lambda t: 0.1 * t), generator


def close(a, b, tolerance=1e-9):
    assert torch.allclose(a, b, rtol=0, atol=tolerance), f"largest difference {(a - b).abs().max():.2e}"


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_permutations_form_a_group(kind):
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        spec = random_spec(generator, kind)
        x = random_features(spec, 3, 2, generator)
        first, second = (NeuronPermutation.sample(spec, 3, generator, "np") for _ in range(2))
        both = second.compose(first).apply(x)
        assert torch.equal(both.flatten(), second.apply(first.apply(x)).flatten())
        assert torch.equal(first.invert().apply(first.apply(x)).flatten(), x.flatten())


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_hidden_permutations_keep_the_function_and_others_do_not(depth):
    spec = NetworkSpec.parse("-".join(["3"] * (depth + 1)) + ":sine")
    generator = torch.Generator().manual_seed(depth)
    x = random_features(spec, 4, 1, generator, torch.float64)
    points = torch.rand(4, 7, 3, generator=generator, dtype=torch.float64)
    before = run(x, points)
    close(before, run(NeuronPermutation.sample(spec, 4, generator).apply(x), points))
    assert (before - run(permute_uncoupled(x, generator), points)).abs().max() > 1e-2


def test_unknown_group_is_refused():
    with pytest.raises(ValueError, match="'hnp'"):
        NeuronPermutation.sample(NetworkSpec.parse("2-3-1"), 1, group="all")


@pytest.mark.parametrize("text", ["2-5-1:sine", "2-2-1:sine", "2-3-3-1:sine"])
def test_permutations_of_other_networks_are_refused(text):
    permutation = NeuronPermutation.sample(NetworkSpec.parse("2-3-1:sine"), 1)
    with pytest.raises(ValueError, match=r"are of \(2, 3, 1\) neurons"):
        permutation.apply(random_features(NetworkSpec.parse(text), 1, 1, torch.Generator().manual_seed(0)))


def test_a_network_of_one_layer_is_its_own_canonical_form():
    x = random_features(NetworkSpec.parse("2-3:sine"), 4, 1, torch.Generator().manual_seed(0))
    assert torch.equal(canonicalize(x).flatten(), x.flatten())


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_canonical_form_computes_the_same_function(depth, seed):
    x, generator = sine_networks(depth, seed)
    points = torch.rand(4, 9, x.spec.sizes[0], generator=generator, dtype=torch.float64)
    close(run(x, points), run(canonicalize(x, **W0), points))


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_canonical_form_is_idempotent_and_commutes_with_permutations(depth, seed):
    x, generator = sine_networks(depth, seed)
    once = canonicalize(x, **W0)
    close(once.flatten(), canonicalize(once, **W0).flatten())
    permutation = NeuronPermutation.sample(x.spec, 4, generator)
    close(permutation.apply(once).flatten(), canonicalize(permutation.apply(x), **W0).flatten())


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_canonical_form_is_one_for_all_signs_and_phases(depth):
    x, generator = sine_networks(depth)
    weights, biases = [w.clone() for w in x.weights], [b.clone() for b in x.biases]
    for i in range(depth - 1):
        sign = torch.randint(0, 2, biases[i].shape, generator=generator) * 2.0 - 1
        turns = torch.randint(-3, 4, biases[i].shape, generator=generator).double()
        weights[i] *= sign[:, :, None, None]
        biases[i] = sign * biases[i] + turns * math.pi / (W0["w0_first"] if i == 0 else W0["w0_hidden"])
        outgoing = sign * (1 - 2 * (turns % 2))
        weights[i + 1] *= outgoing[:, None, :, :, None]
    other = WeightSpaceFeatures(x.spec, tuple(weights), tuple(biases))
    assert (other.flatten() - x.flatten()).abs().max() > 0.05
    close(canonicalize(x, **W0).flatten(), canonicalize(other, **W0).flatten())


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_canonical_phases_and_signs(depth):
    x = canonicalize(sine_networks(depth)[0], **W0)
    for i in range(depth - 1):
        phase = x.biases[i] * (W0["w0_first"] if i == 0 else W0["w0_hidden"])
        assert phase.abs().max() <= math.pi / 2 + 1e-9
    assert (x.weights[0][:, :, 0] > 0).all()
    if depth > 2:
        assert (x.weights[-1][:, 0] > 0).all()
    for w in x.weights[1 : depth - 2]:
        assert (w.sum(2) > 0).all()


def test_ties_in_the_sign_are_settled():
    spec = NetworkSpec.parse("2-3-1:sine")
    zero = WeightSpaceFeatures.from_flat(spec, torch.zeros(1, spec.num_params, dtype=torch.float64))
    assert torch.equal(canonicalize(zero).flatten(), zero.flatten())
    w = torch.zeros(1, 3, 2, 1, 1, dtype=torch.float64)
    w[0, 0, 1] = -0.5  # the first input weight is zero: the second decides
    x = WeightSpaceFeatures(spec, (w, torch.ones(1, 1, 3, 1, 1, dtype=torch.float64)), zero.biases)
    out = canonicalize(x)
    assert out.weights[0][0, 0, 1] == 0.5
    assert out.weights[1][0, 0, :, 0, 0].tolist() == [-1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_phases_at_the_end_of_the_interval_and_sums_of_zero_stay_settled(dtype):
    generator = torch.Generator().manual_seed(0)
    spec = NetworkSpec.parse("2-6-6-6-1:sine")
    x = random_features(spec, 200, 1, generator, dtype).map(lambda t: 0.1 * t)
    weights, biases = list(x.weights), list(x.biases)
    # Nothing to do for the first layer, so that the second one keeps its incoming sums of zero.
    weights[0], biases[0] = weights[0].abs(), 0 * biases[0]
    weights[1] = torch.cat([weights[1][:, :, :3], -weights[1][:, :, [2, 0, 1]]], 2)
    for i in (1, 2):
        odd = 2 * torch.randint(-3, 3, biases[i].shape, generator=generator) + 1
        biases[i] = odd.to(dtype) * (math.pi / 2 / W0["w0_hidden"])
    x = WeightSpaceFeatures(spec, tuple(weights), tuple(biases))
    once = canonicalize(x, **W0)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    close(once.flatten(), canonicalize(once, **W0).flatten(), tolerance)
    permutation = NeuronPermutation.sample(spec, 200, generator)
    close(permutation.apply(once).flatten(), canonicalize(permutation.apply(x), **W0).flatten(), tolerance)


@pytest.mark.parametrize(("text", "channels"), [("2-3-1:relu", 1), ("2-3c3-1:sine", 1), ("2-3-1:sine", 2)])
def test_only_dense_sine_networks_have_a_canonical_form(text, channels):
    x = random_features(NetworkSpec.parse(text), 1, channels, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="canonicalize=false"):
        canonicalize(x)


def test_coordinates_move_as_asked():
    generator = torch.Generator().manual_seed(0)
    spec = NetworkSpec.parse("2-5-4-1:sine")
    x = random_features(spec, 4, 1, generator, torch.float64)
    matrix, shift = (t.double() for t in sample_rigid_motion(4, generator, rotation=0.2, scale=0.1, shift=0.12))
    points = torch.rand(4, 9, 2, generator=generator, dtype=torch.float64)
    moved = transform_coordinates(x, matrix, shift)
    close(run(moved, points), run(x, points @ matrix.transpose(1, 2) + shift[:, None]))


def test_rigid_motions_stay_within_their_bounds():
    matrix, shift = sample_rigid_motion(2000, torch.Generator().manual_seed(0), rotation=0.2, scale=0.1, shift=0.12)
    factor = torch.linalg.det(matrix).sqrt()
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
    for value, low, high in ((factor, 1 / 1.1, 1.1), (angle, -0.2, 0.2), (shift, -0.12, 0.12)):
        assert value.min() == pytest.approx(low, abs=0.01 * (high - low))
        assert value.max() == pytest.approx(high, abs=0.01 * (high - low))
    identity, none = sample_rigid_motion(3, torch.Generator().manual_seed(0))
    assert torch.equal(identity, torch.eye(2).expand(3, 2, 2))
    assert not none.any()


def test_coordinate_transforms_refuse_what_does_not_fit():
    x = random_features(NetworkSpec.parse("2-3-1:sine"), 2, 1, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"matrix is \(2, 2, 2\)"):
        transform_coordinates(x, torch.eye(2), torch.zeros(2, 2))
    conv = random_features(NetworkSpec.parse("2-3c3-1:sine"), 2, 1, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="dense networks"):
        transform_coordinates(conv, torch.eye(2).expand(2, 2, 2), torch.zeros(2, 2))


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_the_way_back_from_the_canonical_form(depth):
    x, _ = sine_networks(depth)
    form = canonical_form(x, **W0)
    assert torch.equal(form.features.flatten(), canonicalize(x, **W0).flatten())
    back = form.undo(form.features)
    assert all(torch.equal(a, b) for a, b in zip(back.weights, x.weights, strict=True))
    close(back.flatten(), x.flatten())


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_an_edit_is_the_same_function_in_both_places(depth):
    x, generator = sine_networks(depth)
    form = canonical_form(x, **W0)
    edit = random_features(x.spec, 4, 1, generator, torch.float64).map(lambda t: 0.02 * t)
    edited = form.features + edit
    points = 2 * torch.rand(4, 9, x.spec.sizes[0], generator=generator, dtype=torch.float64) - 1
    expected = run(edited, points, **W0)
    close(run(form.undo(edited), points, **W0), expected, 1e-8)
    assert (run(x + edit, points, **W0) - expected).abs().max() > 1e-3, "without the signs it is another edit"
    assert (run(form.features, points, **W0) - expected).abs().max() > 1e-3
