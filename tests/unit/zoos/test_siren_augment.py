"""Augmentations of a zoo: what they do to pictures, in which order, drawn from what, and how a result names them."""

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from nfbench.weightspace import (
    Mixup,
    NetworkSpec,
    WeightSpaceFeatures,
    canonicalize,
    random_features,
    sample_rigid_motion,
)
from nfbench.zoos import SirenRecipe, SirenZoo, build
from nfbench.zoos.augmentation import Augmentation
from nfbench.zoos.fit import pixel_grid, render_flat
from nfbench.zoos.images import ImageSet

EXACT = {
    "augment_rotation": 0.2,
    "augment_scale": 0.1,
    "augment_shift": 0.1,
    "augment_flip": "both",
    "augment_permute": True,
}
APPROXIMATE = {"augment_noise": 0.1, "augment_dropout": 0.05, "augment_mixup": 0.4}
# Pictures of float32 weights: sines of phases up to 30 rad, each wrong by 1e-6 of that, through two hidden layers.
PICTURE = {"atol": 1e-3, "rtol": 0.0}


def ready(zoo: SirenZoo) -> SirenZoo:
    zoo.prepare_data()
    zoo.setup("fit")
    return zoo


def epoch_of(zoo, epoch=0):
    loader = zoo.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def flat(batches):
    return torch.cat([b.features.flatten()[..., 0] for b in batches])


def stored(zoo, batches):
    """Rows of the zoo's tables, one for each network of the batches."""
    rows = {pair: i for i, pair in enumerate(zip(zoo.tables.index.tolist(), zoo.tables.view.tolist(), strict=True))}
    return [rows[pair] for b in batches for pair in zip(b.index.tolist(), b.view.tolist(), strict=True)]


def networks(channels, seed=0, batch_size=32):
    """Random sine networks in float64, and their pictures of 5 x 9 pixels: those coordinates are exact numbers."""
    generator = torch.Generator().manual_seed(seed)
    x = random_features(NetworkSpec.parse(f"2-6-5-{channels}:sine"), batch_size, 1, generator, torch.float64)
    return x.map(lambda t: 0.1 * t), generator


def picture(x, grid, moved=lambda points: points):
    recipe = SirenRecipe(widths=x.spec.sizes[1:-1], grid=grid)
    points = moved(torch.from_numpy(pixel_grid(5, 9, grid)).double())
    return render_flat(x.flatten()[..., 0], x.spec.sizes, points, recipe).reshape(x.batch_size, 5, 9, -1)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grid", ["ij", "xy"])
@pytest.mark.parametrize(("flip", "dims"), [("horizontal", (2,)), ("vertical", (1,)), ("both", (1, 2))])
def test_flips_mirror_the_picture_the_way_they_are_named(grid, flip, dims, channels):
    x, generator = networks(channels)
    before = picture(x, grid)
    after = picture(Augmentation(flip=flip).move_picture(x, generator, grid), grid)
    allowed = [(), *((d,) for d in dims), dims] if len(dims) > 1 else [(), dims]
    mirrored = [before.flip(d) if d else before for d in allowed]
    kinds = [min(range(len(allowed)), key=lambda k: float((after[i] - mirrored[k][i]).abs().max())) for i in range(32)]
    assert set(kinds) == set(range(len(allowed))), "each mirror image turns up, and so does the picture itself"
    close(after, torch.stack([mirrored[k][i] for i, k in enumerate(kinds)]))
    assert (before - before.flip(dims)).abs().amax((1, 2, 3)).min() > 1e-2


def test_a_mirrored_picture_is_moved():
    x, _ = networks(1)
    amounts = {"rotation": 0.3, "scale": 0.2, "shift": 0.1}
    found = picture(Augmentation(flip="horizontal", **amounts).move_picture(x, torch.Generator().manual_seed(0)), "ij")
    matrix, shift = sample_rigid_motion(32, torch.Generator().manual_seed(0), **amounts)
    mirror = torch.tensor([1.0, -1.0])

    def move(points):
        return points @ matrix.to(points).transpose(1, 2) + shift.to(points)[:, None]

    expected = (picture(x, "ij", move), picture(x, "ij", lambda points: mirror * move(points)))
    errors = torch.stack([(found - image).abs().amax((1, 2, 3)) for image in expected])
    assert float(errors.amin(0).max()) < 1e-9
    assert set(errors.argmin(0).tolist()) == {0, 1}
    other_order = picture(x, "ij", lambda points: move(mirror * points))
    assert float((other_order - expected[1]).abs().amax((1, 2, 3)).min()) > 1e-2


@pytest.mark.parametrize("channels", [1, 3])
def test_reparametrized_networks_compute_the_same(channels):
    x, generator = networks(channels)
    before = picture(x, "ij")
    for change in (Augmentation(permute=True), Augmentation(sine=True), Augmentation(permute=True, sine=True)):
        other = change.reparametrize(x, generator, 30.0, 30.0)
        assert (other.flatten() - x.flatten()).abs().amax((1, 2)).min() > 1e-2
        close(picture(other, "ij"), before)
    wrong = Augmentation(sine=True).reparametrize(x, generator, 30.0, 20.0)
    assert (picture(wrong, "ij") - before).abs().max() > 1e-2


def test_networks_without_sines_have_the_other_options():
    x = random_features(NetworkSpec.parse("1-4c3-5c2-3:relu"), 8, 1, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    augment = Augmentation(permute=True, noise=0.1, dropout=0.1, mixup=1.0)
    disturbed, mixup = augment.disturb(x, torch.ones(x.spec.num_params), generator)
    found = augment.reparametrize(disturbed, generator).check()
    assert mixup is not None
    for a, b in zip(found.weights, disturbed.weights, strict=True):
        torch.testing.assert_close(a.flatten(1).sort(1).values, b.flatten(1).sort(1).values)
    assert not torch.equal(found.flatten(), disturbed.flatten())


@pytest.mark.parametrize("grid", ["ij", "xy"])
def test_flipped_batches_show_mirrored_digits(make_zoo, grid):
    zoo = ready(make_zoo(num_steps=100, grid=grid, canonicalize=True, standardize="layer", augment_flip="horizontal"))
    batches = epoch_of(zoo)
    shown = zoo.render(WeightSpaceFeatures.from_flat(zoo.spec, flat(batches)))
    plain = zoo.render(WeightSpaceFeatures.from_flat(zoo.spec, zoo.tables.ready[stored(zoo, batches)]))
    errors = torch.stack([(shown - image).abs().amax((1, 2, 3)) for image in (plain, plain.flip(2))])
    assert float(errors.amin(0).max()) < PICTURE["atol"]
    assert set(errors.argmin(0).tolist()) == {0, 1}
    assert float((shown - plain.flip(1)).abs().amax((1, 2, 3)).min()) > 0.1


@pytest.mark.parametrize("options", [{"augment_permute": True}, {"augment_sine": True}])
def test_batches_of_other_weights_show_the_same_digits(make_zoo, options):
    zoo = ready(make_zoo(num_steps=100, standardize="layer", **options))
    batches = epoch_of(zoo)
    before = zoo.tables.ready[stored(zoo, batches)]
    assert float((flat(batches) - before).abs().amax(1).min()) > 0.1
    shown, plain = (zoo.render(WeightSpaceFeatures.from_flat(zoo.spec, f)) for f in (flat(batches), before))
    torch.testing.assert_close(shown, plain, **PICTURE)


@pytest.mark.parametrize("definition", ["nfn", "dws"])
def test_networks_of_three_colours(make_zoo, monkeypatch, definition):
    pixels = np.random.default_rng(0).random((60_000, 1, 1, 3), dtype=np.float32)
    images = ImageSet(np.broadcast_to(pixels, (60_000, 32, 32, 3)), np.arange(60_000) % 10, "random", "random")
    monkeypatch.setattr(build, "load_images", lambda *args: images)
    options = {"source": "cifar10", "definition": definition, "num_steps": 2, "file_name": None, "num_images": 20}
    exact = ready(make_zoo(**options, augment_flip="vertical", augment_permute=True, augment_sine=True))
    batches = epoch_of(exact)
    shown = exact.render(WeightSpaceFeatures.from_flat(exact.spec, flat(batches)))
    plain = exact.render(WeightSpaceFeatures.from_flat(exact.spec, exact.tables.ready[stored(exact, batches)]))
    errors = torch.stack([(shown - image).abs().amax((1, 2, 3)) for image in (plain, plain.flip(1))])
    assert shown.shape[1:] == (32, 32, 3)
    assert float(errors.amin(0).max()) < PICTURE["atol"]
    assert set(errors.argmin(0).tolist()) == {0, 1}


@pytest.mark.parametrize("standardize", ["none", "layer"])
def test_noise_is_relative_to_what_each_tensor_spreads(make_zoo, standardize):
    settings = {"canonicalize": True, "standardize": standardize, "num_views": 4, "views_per_epoch": 4}
    zoo = ready(make_zoo(**settings, augment_noise=0.2))
    clean = zoo.tables.ready[torch.from_numpy(zoo.tables.train_rows.ravel())]
    batches = epoch_of(zoo)
    added = flat(batches) - zoo.tables.ready[stored(zoo, batches)]
    for where in zoo.spec.scalar_slices():
        spread = float(clean[:, where].std(correction=0))
        wanted = 0.2 * spread if standardize == "none" else 0.2
        count = added[:, where].numel()
        assert float(added[:, where].std()) == pytest.approx(wanted, rel=4 / (2 * count) ** 0.5)


def test_dropped_weights_are_zero_before_standardisation(make_zoo):
    zoo = ready(make_zoo(canonicalize=True, standardize="layer", num_views=4, views_per_epoch=4, augment_dropout=0.3))
    batches = epoch_of(zoo)
    tables, found = zoo.tables, flat(batches)
    gone = (found * tables.std + tables.mean).abs() < 1e-6
    assert float(gone.double().mean()) == pytest.approx(0.3, abs=0.02)
    expected = torch.where(gone, -tables.mean / tables.std, tables.ready[stored(zoo, batches)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("canonicalize_it", [False, True])
def test_mixed_batches_have_mixed_targets(make_zoo, canonicalize_it):
    zoo = ready(make_zoo(canonicalize=canonicalize_it, standardize="layer", augment_mixup=1.0, batch_size=8))
    loader = zoo.train_dataloader()
    for (rows, seed), batch in zip(loader.sampler, loader, strict=True):
        mixup = Mixup.sample(len(rows), 1.0, torch.Generator().manual_seed(seed))
        labels = zoo.tables.label[rows]
        assert batch.target.shape == (len(rows), 10)
        assert batch.target.dtype == torch.float32
        torch.testing.assert_close(batch.target, mixup.mix(one_hot(labels, 10).float()))
        torch.testing.assert_close(batch.target.sum(1), torch.ones(len(rows)))
        assert torch.equal(batch.target.argmax(1), labels)
        mixed = mixup.mix(zoo.tables.ready[rows])
        torch.testing.assert_close(batch.features.flatten()[..., 0], mixed, atol=1e-5, rtol=1e-4)
    assert (batch.target.max(1).values < 1).any()


def test_a_batch_of_one_is_mixed_with_itself(make_zoo):
    zoo = ready(make_zoo(augment_mixup=1.0, batch_size=len(make_zoo().split.train) - 1))
    last = epoch_of(zoo)[-1]
    assert len(last.index) == 1
    torch.testing.assert_close(last.features.flatten()[..., 0], zoo.tables.raw[stored(zoo, [last])])
    torch.testing.assert_close(last.target, one_hot(zoo.tables.label[stored(zoo, [last])], 10).float())


@pytest.mark.parametrize("options", [{k: v} for k, v in APPROXIMATE.items()], ids=list(APPROXIMATE))
def test_approximate_ones_change_the_picture_and_say_so(make_zoo, options):
    zoo = ready(make_zoo(num_steps=100, canonicalize=True, **options))
    batches = epoch_of(zoo)
    shown = zoo.render(WeightSpaceFeatures.from_flat(zoo.spec, flat(batches)))
    plain = zoo.render(WeightSpaceFeatures.from_flat(zoo.spec, zoo.tables.ready[stored(zoo, batches)]))
    assert float((shown - plain).abs().max()) > 0.1
    ((name, value),) = options.items()
    assert zoo.protocol["augmentations"] == f"{name.removeprefix('augment_')} {value} (approximate)"


def test_protocol_names_what_is_on(make_zoo):
    assert make_zoo().protocol["augmentations"] == "none"
    assert make_zoo(**EXACT, **APPROXIMATE).protocol["augmentations"] == (
        "rotation 0.2, scale 0.1, shift 0.1, flip both, permute, "
        "noise 0.1 (approximate), dropout 0.05 (approximate), mixup 0.4 (approximate)"
    )
    assert make_zoo(augment_sine=True).protocol["augmentations"] == "sine"


def test_the_approximate_ones_come_after_the_canonical_form(make_zoo):
    """Permutation, the last of all, commutes with the canonical form; the mixture before it is canonical."""
    zoo = ready(make_zoo(**EXACT, canonicalize=True, augment_mixup=1.0, num_steps=100))
    recipe = zoo.recipe
    for batch in epoch_of(zoo):
        again = canonicalize(batch.features, recipe.w0_first, recipe.w0_hidden)
        torch.testing.assert_close(again.flatten(), batch.features.flatten(), atol=1e-5, rtol=1e-4)


def test_batches_depend_on_seed_epoch_and_number_alone(make_zoo):
    settings = {**EXACT, **APPROXIMATE, "batch_size": 8, "canonicalize": True, "standardize": "layer"}
    first, second = ready(make_zoo(**settings)), ready(make_zoo(**settings))
    torch.manual_seed(1)
    epoch_of(second)
    expected = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), expected), "the global generator is left alone"
    for a, b in zip(epoch_of(first, 5), epoch_of(second, 5), strict=True):
        assert torch.equal(a.features.flatten(), b.features.flatten())
        assert torch.equal(a.target, b.target)
    assert not torch.equal(flat(epoch_of(first, 5)), flat(epoch_of(first, 6)))
    assert not torch.equal(flat(epoch_of(first, 5)), flat(epoch_of(ready(make_zoo(**settings, seed=1)), 5)))


def test_validation_and_test_are_never_augmented(make_zoo):
    settings = {"canonicalize": True, "standardize": "layer"}
    plain, zoo = ready(make_zoo(**settings)), ready(make_zoo(**settings, **EXACT, **APPROXIMATE))
    for name in ("val_dataloader", "test_dataloader"):
        for a, b in zip(getattr(plain, name)(), getattr(zoo, name)(), strict=True):
            assert torch.equal(a.features.flatten(), b.features.flatten())
            assert torch.equal(a.target, b.target)
            assert b.target.dtype == torch.int64


def test_nothing_is_on_by_default(make_zoo):
    zoo = ready(make_zoo(standardize="layer"))
    batches = epoch_of(zoo)
    assert torch.equal(flat(batches), zoo.tables.ready[stored(zoo, batches)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"augment_flip": "left"}, "none, horizontal, vertical, both"),
        ({"augment_noise": -0.1}, r"zoo\.augment_noise=-0\.1 must be a number, 0 or more"),
        ({"augment_noise": float("inf")}, r"zoo\.augment_noise=inf"),
        ({"augment_dropout": 1.0}, r"zoo\.augment_dropout=1\.0 must be a probability"),
        ({"augment_dropout": -0.5}, "0 or more and below 1"),
        ({"augment_dropout": float("nan")}, r"zoo\.augment_dropout=nan"),
        ({"augment_mixup": -1.0}, r"zoo\.augment_mixup=-1\.0"),
        ({"augment_sine": True, "canonicalize": True}, r"zoo\.canonicalize=true"),
    ],
)
def test_bad_values_are_named(make_zoo, values, message):
    with pytest.raises(ValueError, match=message):
        make_zoo(**values)
