"""Zoos of 3-D shapes: what is fitted, which shape goes where, motions of space, and folders of a user's clouds."""

import math

import numpy as np
import pytest
import torch
from kernels import needs_compiler

from nfbench.weightspace import (
    NetworkSpec,
    WeightSpaceFeatures,
    canonicalize,
    random_features,
    render,
    sample_spatial_motion,
    transform_coordinates,
)
from nfbench.zoos import ShapesZoo, build
from nfbench.zoos.augmentation import Augmentation
from nfbench.zoos.clouds import FolderClouds, sample_distances
from nfbench.zoos.fit import fit_sirens, init_params, layer_sizes, render_flat
from nfbench.zoos.recipe import make_recipe
from nfbench.zoos.store import read_zoo


@pytest.fixture
def make_zoo(tmp_path):
    """50 built-in shapes, 2 views and 20 steps, in the test's folder; keyword arguments override."""

    def make(**overrides) -> ShapesZoo:
        values = {"num_shapes": 50, "num_views": 2, "num_steps": 20, "widths": [8], "points": 64, "samples": 48,
                  "zoo_dir": str(tmp_path / "zoos"), "threads": 1}  # fmt: skip
        return ShapesZoo(**{**values, **overrides})

    return make


def ready(zoo: ShapesZoo) -> ShapesZoo:
    zoo.prepare_data()
    zoo.setup("fit")
    return zoo


def flat(loader):
    return torch.cat([b.features.flatten()[..., 0] for b in loader])


@pytest.mark.parametrize(("widths", "params"), [(None, 641), ([128, 128], 17_153)])
def test_the_published_networks(widths, params):
    zoo = ShapesZoo(widths=widths)
    assert zoo.spec.num_params == params
    assert zoo.spec.sizes[0] == 3
    assert zoo.recipe.num_steps == 1000
    assert not zoo.path.exists()
    assert zoo.protocol["dataset"] == "shapes"
    assert zoo.protocol["num_images"] == 4000
    assert zoo.protocol["clouds"] == "built-in 1, 1024 points, noise 0.01, pose any"


def own_coordinates(count, widths, steps):
    recipe, _ = make_recipe("shapes", widths=widths, num_steps=steps)
    random = np.random.default_rng(0)
    coords = random.uniform(-1, 1, (count, 40, 3)).astype(np.float32)
    distances = random.random((count, 40, 1), np.float32)
    ids = np.arange(count)
    return recipe, coords, distances, init_params(recipe, layer_sizes(recipe, 1, 3), "shapes", ids, 0 * ids)


@pytest.mark.parametrize("backend", [pytest.param("kernel", marks=needs_compiler), "torch"])
def test_each_network_is_fitted_at_its_own_coordinates(backend):
    recipe, coords, distances, start = own_coordinates(7, (16,), 30)
    together = fit_sirens(start, distances, coords, recipe, backend=backend, threads=2)
    for i in range(7):
        one = slice(i, i + 1)
        alone = fit_sirens(start[one], distances[one], coords[i], recipe, backend=backend, threads=1)
        np.testing.assert_allclose(together.params[i], alone.params[0], atol=1e-6)
    out = render_each(torch.from_numpy(together.params), (3, 16, 1), torch.from_numpy(coords), recipe)
    mse = (out - torch.from_numpy(distances)).square().mean((1, 2))
    np.testing.assert_allclose(together.psnr, -10 * torch.log10(mse), atol=1e-2)
    others = fit_sirens(start, distances, coords[::-1].copy(), recipe, backend=backend, threads=2)
    assert np.abs(others.params[0] - together.params[0]).max() > 1e-3


@needs_compiler
def test_backends_agree():
    recipe, coords, distances, start = own_coordinates(3, (16, 8), 10)
    results = [fit_sirens(start, distances, coords, recipe, backend=b).params for b in ("kernel", "torch")]
    np.testing.assert_allclose(*results, atol=1e-4)
    with pytest.raises(ValueError, match="don't fit together"):
        fit_sirens(start, distances, coords[:2], recipe)


def render_each(params, sizes, coords, recipe):
    return torch.cat([render_flat(params[i : i + 1], sizes, coords[i], recipe) for i in range(len(params))])


def test_networks_learn_the_distance(make_zoo):
    """At coordinates that no network was fitted at, squared errors are below a quarter of the spread."""
    zoo = ready(make_zoo(widths=[32], num_steps=300, samples=256, num_views=1))
    rows = [0, 4, 5, 8]
    pairs = [sample_distances(zoo.clouds.load(i), 256, 10_000 + i) for i in rows]
    coords, distances = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
    out = render_each(zoo.tables.raw[rows], zoo.plan.sizes, coords, zoo.recipe)
    assert (out - distances).square().mean() < distances.var() / 4
    wrong = render_each(zoo.tables.raw[rows[::-1]], zoo.plan.sizes, coords, zoo.recipe)
    assert (wrong - distances).square().mean() > 2 * (out - distances).square().mean()


def test_parts(make_zoo):
    """Eight to one to one, the same share of each class, all views together, and a smaller zoo is part of a larger."""
    zoo = make_zoo(num_shapes=200)
    sizes = {name: len(part) for name, part in zoo.split.parts.items()}
    assert sizes == {"train": 160, "val": 20, "test": 20}
    for part in zoo.split.parts.values():
        assert len(set(np.bincount(zoo.clouds.labels[part]))) == 1
    assert sorted(zoo.split.all_images) == list(range(200))
    smaller = make_zoo(num_shapes=120).split
    for name, part in zoo.split.parts.items():
        assert smaller.parts[name].tolist() == part[part < 120].tolist()
    small = ready(make_zoo(eval_views="all"))
    seen = [{(int(i), int(v)) for b in loader for i, v in zip(b.index, b.view, strict=True)}
            for loader in (small.val_dataloader(), small.test_dataloader())]  # fmt: skip
    assert [len(part) for part in seen] == [20, 20]
    assert not {i for i, _ in seen[0]} & {i for i, _ in seen[1]}
    for batch in small.test_dataloader():
        np.testing.assert_array_equal(batch.target, batch.index % 10)


def test_a_stopped_build_goes_on(make_zoo, monkeypatch):
    whole = make_zoo(file_name="whole")
    whole.prepare_data()
    monkeypatch.setattr(build, "CHUNK_NETWORKS", 16)
    real, calls = build.fit_sirens, []

    def stopped(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    zoo = make_zoo()
    with monkeypatch.context() as patch:
        patch.setattr(build, "fit_sirens", stopped)
        with pytest.raises(KeyboardInterrupt):
            zoo.prepare_data()
    zoo.prepare_data()
    first, second = (read_zoo(z.path, z.plan.manifest()) for z in (whole, zoo))
    np.testing.assert_array_equal(first.params, second.params)
    np.testing.assert_array_equal(first.label, second.label)


def test_another_zoo_has_another_name_and_is_refused(make_zoo):
    names = {make_zoo(**o).path.name for o in ({}, {"noise": 0.5}, {"pose": "none"}, {"points": 65}, {"samples": 49})}
    assert len(names) == 5
    make_zoo(file_name="mine").prepare_data()
    with pytest.raises(ValueError, match=r"another zoo[^$]*samples: asked for 49"):
        make_zoo(file_name="mine", samples=49).prepare_data()


@pytest.mark.parametrize("canonical", [False, True])
def test_augmented_networks_compute_the_moved_shape(make_zoo, canonical):
    amounts = {"rotation": 3.0, "scale": 0.2, "shift": 0.1, "turn": 1.0}
    zoo = ready(make_zoo(canonicalize=canonical, **{f"augment_{k}": v for k, v in amounts.items()}))
    loader = zoo.train_dataloader()
    rows, seed = next(iter(loader.sampler))
    found = next(iter(loader)).features
    matrix, shift = sample_spatial_motion(len(rows), torch.Generator().manual_seed(seed), **amounts)
    points = 2 * torch.rand(30, 3, generator=torch.Generator().manual_seed(1)) - 1
    moved = points @ matrix.mT + shift[:, None]
    expected = render_each(zoo.tables.raw[rows], zoo.plan.sizes, moved, zoo.recipe)
    at_points = render_flat(found.flatten()[..., 0], zoo.plan.sizes, points, zoo.recipe)
    torch.testing.assert_close(at_points, expected, atol=1e-4, rtol=0)
    still = render_flat(zoo.tables.raw[rows], zoo.plan.sizes, points, zoo.recipe)
    assert (at_points - still).abs().max() > 1e-2


def test_motions_of_space():
    x = random_features(NetworkSpec.parse("3-6-5-1:sine"), 64, 1, torch.Generator().manual_seed(0), torch.float64)
    x = x.map(lambda t: 0.1 * t)
    motion = Augmentation(rotation=3.0, scale=0.5, shift=0.3, turn=3.0)
    moved = motion.move_picture(x, torch.Generator().manual_seed(2))
    matrix, shift = sample_spatial_motion(64, torch.Generator().manual_seed(2), 3.0, 0.5, 0.3, 3.0)
    points = torch.rand(9, 3, dtype=torch.float64)
    expected = render(x, points @ matrix.mT.double() + shift[:, None].double())
    torch.testing.assert_close(render(moved, points), expected, rtol=0, atol=1e-9)
    assert (render(moved, points) - render(x, points)).abs().amax((1, 2)).min() > 1e-3
    assert Augmentation().move_picture(x, torch.Generator()) is x

    factor = torch.linalg.det(matrix).pow(1 / 3)
    torch.testing.assert_close(matrix @ matrix.mT, factor.square()[:, None, None] * torch.eye(3).expand(64, 3, 3))
    assert 1 / 1.5 <= factor.min() < 0.8
    assert 1.25 < factor.max() <= 1.5
    assert 0.2 < shift.abs().max() <= 0.3
    turned, _ = sample_spatial_motion(64, torch.Generator().manual_seed(2), turn=1.0)
    torch.testing.assert_close(turned[:, 2], torch.tensor([0.0, 0.0, 1.0]).expand(64, 3))
    assert float(turned[:, 0, 0].acos().max()) <= 1 + 1e-6
    rotated, _ = sample_spatial_motion(500, torch.Generator().manual_seed(2), rotation=1.0)
    angle = ((rotated.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).acos()
    assert float(angle.max()) <= 1 + 1e-3
    assert float(angle.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(rotated.mean(0)[0, 1].abs()) < 0.1, "axes have no favourite direction"


def test_canonical_form_of_networks_of_space():
    x = random_features(NetworkSpec.parse("3-6-1:sine"), 8, 1, torch.Generator().manual_seed(0), torch.float64)
    points = torch.rand(9, 3, dtype=torch.float64)
    y = canonicalize(x, 10.0, 10.0)
    assert (x.flatten() - y.flatten()).abs().max() > 0.1
    torch.testing.assert_close(render(y, points, 10.0), render(x, points, 10.0), rtol=0, atol=1e-9)
    assert (render(canonicalize(x, 20.0), points, 10.0) - render(x, points, 10.0)).abs().max() > 1e-2


def test_pictures_show_the_shape(make_zoo):
    """Where points of the cloud are, seen along y, the picture is brighter than elsewhere."""
    zoo = ready(make_zoo(widths=[64], num_steps=400, samples=512, num_views=1, pose="none", standardize="layer"))
    batch = next(iter(zoo.test_dataloader()))
    pictures = zoo.render(batch.features)
    assert pictures.shape == (10, *zoo.image_shape)
    assert 0 <= float(pictures.min()) < float(pictures.max()) <= 1
    for picture, index in zip(pictures[..., 0], batch.index.tolist(), strict=True):
        cloud = zoo.clouds.load(index)
        side = len(picture) - 1
        column = np.clip(np.rint((cloud[:, 0] + 1) / 2 * side), 0, side).astype(int)
        row = np.clip(np.rint((1 - cloud[:, 2]) / 2 * side), 0, side).astype(int)
        assert picture[row, column].mean() > 0.5
        assert picture[row, column].mean() > picture.mean() + 0.2


def test_a_users_clouds(tmp_path, make_zoo):
    random = np.random.default_rng(0)
    for name, scale in (("flat", (1, 1, 0.1)), ("long", (0.1, 0.1, 1))):
        (tmp_path / "clouds" / name).mkdir(parents=True)
        for i in range(6):
            np.save(tmp_path / "clouds" / name / f"{i}.npy", 7 + random.normal(size=(40, 3)) * scale)
    folder = str(tmp_path / "clouds")
    zoo = ready(make_zoo(clouds=folder, num_shapes=None))
    assert (zoo.num_classes, zoo.protocol["dataset"], zoo.protocol["num_images"]) == (2, "clouds", 12)
    assert {name: len(part) for name, part in zoo.split.parts.items()} == {"train": 8, "val": 2, "test": 2}
    names = {i: path.parent.name for i, path in enumerate(FolderClouds(folder).paths)}
    for batch in (*zoo.train_dataloader(), *zoo.val_dataloader(), *zoo.test_dataloader()):
        assert [("flat", "long")[k] for k in batch.target.tolist()] == [names[i] for i in batch.index.tolist()]
    assert zoo.protocol["images"].startswith("12 files (SHA-256 ")
    with pytest.raises(ValueError, match=r"8 shapes leave .*'test': 0.* give 5 shapes or more"):
        make_zoo(clouds=folder, num_shapes=8)
    np.save(tmp_path / "clouds" / "flat" / "new.npy", np.full((40, 3), math.nan))
    other = make_zoo(clouds=folder, num_shapes=None)
    assert other.path != zoo.path
    with pytest.raises(ValueError, match=r"new\.npy has 40 points \(of 40\) with NaN"):
        other.prepare_data()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pose": "up"}, "none, upright, any"),
        ({"noise": -1.0}, r"zoo\.noise=-1\.0 must be a number, 0 or more"),
        ({"noise": math.nan}, r"zoo\.noise=nan"),
        ({"points": 3}, r"zoo\.points=3 must be 16 or more"),
        ({"samples": 0}, r"zoo\.samples=0"),
        ({"num_shapes": 0}, r"zoo\.num_shapes=0 must be 1 or more"),
        ({"num_shapes": 40}, r"40 shapes leave .*'test': 0"),
        ({"clouds": "/nowhere"}, "is no folder"),
        ({"definition": "siren"}, "shapes, custom"),
        ({"augment_turn": -1.0}, r"zoo\.augment_turn=-1\.0"),
        ({"eval_views": "two"}, "one, all"),
        ({"num_views": 0}, "1 or more"),
    ],
)
def test_bad_values_are_named(make_zoo, values, message):
    with pytest.raises(ValueError, match=message):
        make_zoo(**values)


def test_augmentations_are_in_the_protocol(make_zoo):
    zoo = make_zoo(augment_rotation=3.0, augment_turn=1.5, augment_permute=True)
    assert zoo.protocol["augmentations"] == "rotation 3, turn 1.5, permute"


def test_moving_needs_coordinates_that_fit():
    x = WeightSpaceFeatures.from_flat(NetworkSpec.parse("3-2-1:sine"), torch.rand(2, 11))
    with pytest.raises(ValueError, match="for 2 networks of 3 inputs"):
        transform_coordinates(x, torch.eye(2).expand(2, 2, 2), torch.zeros(2, 2))
