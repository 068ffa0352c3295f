"""The DataModule: what a batch is, which order, which images, and what canonicalising and augmenting keep."""

import inspect
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures, sample_rigid_motion, transform_coordinates
from nfbench.zoos import SirenZoo, build
from nfbench.zoos.fit import pixel_grid, render_flat
from nfbench.zoos.images import load_images
from nfbench.zoos.store import read_zoo


def ready(zoo: SirenZoo) -> SirenZoo:
    zoo.prepare_data()
    zoo.setup("fit")
    return zoo


def epoch_of(zoo, epoch):
    loader = zoo.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_spec_and_protocol_are_known_before_data(make_zoo):
    zoo = make_zoo(definition="dws", num_steps=200, canonicalize=True, augment_rotation=0.2)
    assert zoo.spec == NetworkSpec.parse("2-32-32-1:sine")
    assert zoo.num_classes == 10
    assert not zoo.path.exists()
    protocol = zoo.protocol
    assert protocol["definition"] == "dws+num_steps=200"
    assert (protocol["views"], protocol["num_images"], protocol["canonicalized"]) == (2, 30, True)
    assert protocol["augmentations"] == "rotation 0.2"
    assert protocol["access"] == "weights"
    assert SirenZoo(source="cifar10", definition="nfn").spec == NetworkSpec.parse("2-32-32-3:sine")


def test_arguments_are_plain_keywords():
    parameters = list(inspect.signature(SirenZoo.__init__).parameters.values())[1:]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters)


def test_epoch_shows_each_training_image_once(make_zoo):
    zoo = ready(make_zoo(batch_size=8))
    batches = epoch_of(zoo, 0)
    seen = torch.cat([b.index for b in batches])
    assert sorted(seen.tolist()) == sorted(zoo.split.train.tolist())
    assert len(batches) == len(zoo.train_dataloader())
    labels = load_images("digits").labels
    for batch in [*batches, *zoo.val_dataloader(), *zoo.test_dataloader()]:
        assert batch.features.spec == zoo.spec
        assert batch.features.batch_size == len(batch.target) == len(batch.view)
        np.testing.assert_array_equal(batch.target.numpy(), labels[batch.index.numpy()])


def test_views_per_epoch(make_zoo):
    zoo = ready(make_zoo(num_views=3, views_per_epoch=2, batch_size=8))
    pairs = [(i, v) for b in epoch_of(zoo, 0) for i, v in zip(b.index.tolist(), b.view.tolist(), strict=True)]
    assert len(set(pairs)) == len(pairs) == 2 * len(zoo.split.train)
    assert {v for e in range(4) for b in epoch_of(zoo, e) for v in b.view.tolist()} == {0, 1, 2}


def test_parts_share_no_image(make_zoo):
    zoo = ready(make_zoo(eval_views="all"))
    parts = [
        {int(i) for b in loader for i in b.index}
        for loader in (epoch_of(zoo, 0), zoo.val_dataloader(), zoo.test_dataloader())
    ]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 30
    assert [int(v) for b in zoo.test_dataloader() for v in b.view][:4] == [0, 1, 0, 1]
    one = ready(make_zoo(eval_views="one", file_name="one"))
    assert {int(v) for b in one.test_dataloader() for v in b.view} == {0}


def test_order_depends_on_seed_and_epoch_alone(make_zoo):
    settings = {"batch_size": 8, "augment_rotation": 0.2, "augment_shift": 0.1, "canonicalize": True}
    first, second = ready(make_zoo(**settings)), ready(make_zoo(**settings))
    torch.manual_seed(1)
    epoch_of(second, 0)
    torch.rand(3)
    for a, b in zip(epoch_of(first, 5), epoch_of(second, 5), strict=True):
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.view, b.view)
        assert torch.equal(a.features.flatten(), b.features.flatten())
    order = [torch.cat([b.index for b in epoch_of(first, e)]).tolist() for e in (5, 6)]
    assert order[0] != order[1]
    other = ready(make_zoo(**settings, seed=1))
    assert torch.cat([b.index for b in epoch_of(other, 5)]).tolist() != order[0]
    assert np.array_equal(other.split.train, first.split.train)


def test_loading_leaves_the_global_generator_alone(make_zoo):
    zoo = ready(make_zoo(augment_rotation=0.2))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    epoch_of(zoo, 0)
    assert torch.equal(torch.rand(2), expected)


def test_render_reproduces_the_images(make_zoo):
    zoo = ready(make_zoo(num_steps=400, canonicalize=True, standardize="layer"))
    pixels = torch.from_numpy(load_images("digits").pixels)
    for batch in zoo.test_dataloader():
        images = zoo.render(batch.features)
        assert images.shape == (len(batch.index), 8, 8, 1)
        psnr = -10 * torch.log10((images - pixels[batch.index]).square().mean())
        assert psnr > 25


def test_stored_psnr_is_that_of_the_rendering(make_zoo):
    zoo = ready(make_zoo(num_steps=100))
    tables = zoo.tables
    coords = torch.from_numpy(pixel_grid(8, 8))
    pixels = torch.from_numpy(load_images("digits").pixels)[tables.index].flatten(1, 2)
    rendered = render_flat(tables.raw, (2, 8, 8, 1), coords, zoo.recipe)
    psnr = -10 * torch.log10((rendered - pixels).square().mean(dim=(1, 2)))
    torch.testing.assert_close(psnr, tables.psnr, atol=1e-2, rtol=0)


def test_canonical_networks_compute_the_same(make_zoo):
    plain, canonical = ready(make_zoo()), ready(make_zoo(canonicalize=True))
    assert not torch.equal(plain.tables.ready, canonical.tables.ready)
    for a, b in zip(plain.test_dataloader(), canonical.test_dataloader(), strict=True):
        torch.testing.assert_close(plain.render(a.features), canonical.render(b.features), atol=1e-4, rtol=0)


@pytest.mark.parametrize("canonicalize", [False, True])
def test_augmented_networks_compute_the_moved_image(make_zoo, canonicalize):
    """The motion of a batch is its seed's; its networks evaluated on the grid are the originals on the moved grid."""
    amounts = {"rotation": 0.3, "scale": 0.2, "shift": 0.1}
    zoo = ready(make_zoo(canonicalize=canonicalize, **{f"augment_{k}": v for k, v in amounts.items()}))
    loader = zoo.train_dataloader()
    rows, seed = next(iter(loader.sampler))
    batch = next(iter(loader))
    matrix, shift = sample_rigid_motion(len(rows), torch.Generator().manual_seed(seed), **amounts)
    grid = torch.from_numpy(pixel_grid(8, 8))
    moved = grid @ matrix.transpose(1, 2) + shift[:, None]
    expected = render_flat(zoo.tables.raw[rows], (2, 8, 8, 1), moved, zoo.recipe)
    found = render_flat(batch.features.flatten()[..., 0], (2, 8, 8, 1), grid, zoo.recipe)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    same = transform_coordinates(WeightSpaceFeatures.from_flat(zoo.spec, zoo.tables.raw[rows]), matrix, shift)
    assert same.flatten().shape == batch.features.flatten().shape
    epochs = [epoch_of(zoo, e)[0].features.flatten() for e in (0, 1)]
    assert not torch.equal(*epochs)


def test_standardized_layers(make_zoo):
    zoo = ready(make_zoo(standardize="layer", canonicalize=True))
    train = zoo.tables.ready[torch.from_numpy(zoo.tables.train_rows.ravel())]
    for where in zoo.spec.scalar_slices():
        assert abs(float(train[:, where].mean())) < 1e-4
        assert float(train[:, where].std(correction=0)) == pytest.approx(1, abs=1e-3)
        assert len(zoo.tables.std[where].unique()) == 1  # one number a tensor: neurons stay exchangeable


def test_scaled_layers_keep_zero_and_signs(make_zoo):
    zoo = ready(make_zoo(standardize="scale"))
    assert zoo.protocol["standardized"] == "scale"
    rows = torch.from_numpy(zoo.tables.train_rows.ravel())
    train, raw = zoo.tables.ready[rows], zoo.tables.raw[rows]
    assert torch.equal(train.sign(), raw.sign())
    assert not zoo.tables.mean.any()
    for where in zoo.spec.scalar_slices():
        assert float(train[:, where].square().mean()) == pytest.approx(1, abs=1e-3)
        assert len(zoo.tables.std[where].unique()) == 1
    features = WeightSpaceFeatures.from_flat(zoo.spec, train)
    torch.testing.assert_close(zoo.raw_weights(features), raw)


def test_standardizing_one_network_gives_no_nan(make_zoo):
    zoo = make_zoo(standardize="layer", num_views=1)
    zoo.split = replace(zoo.split, train=zoo.split.train[:1])
    assert ready(zoo).tables.ready.isfinite().all()


def test_file_is_read_once_a_run(make_zoo, monkeypatch):
    reads = []
    monkeypatch.setattr(build, "read_zoo", lambda *args: reads.append(1) or read_zoo(*args))
    zoo = make_zoo(optimizer="adam")
    for stage in ("fit", "test"):
        zoo.prepare_data()
        zoo.setup(stage)
    assert len(reads) == 1
    assert zoo._data is None


def test_protocol_names_the_images_once_loaded(make_zoo):
    zoo = make_zoo()
    assert "images" not in zoo.protocol
    fingerprint = load_images("digits").fingerprint
    assert ready(zoo).protocol["images"] == f"scikit-learn load_digits (SHA-256 {fingerprint[:12]})"


def test_true_images_are_those_that_were_fitted(make_zoo):
    zoo = ready(make_zoo())
    pixels = torch.from_numpy(load_images("digits").pixels).flatten(1, 2)
    assert torch.equal(zoo.true_images(torch.tensor([3, 5])), pixels[[3, 5]])
    other = make_zoo()
    with h5py.File(other.path, "r+") as file:
        file.attrs["images_sha256"] = "0" * 64
    with pytest.raises(ValueError, match="not those that the networks were fitted to"):
        ready(other).true_images(torch.tensor([3]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "svhn"}, "digits, mnist, fashion, cifar10"),
        ({"definition": "siren"}, "digits, nfn, dws, dws_mnist, dws_fashion"),
        ({"eval_views": "two"}, "one, all"),
        ({"standardize": "entry"}, "none, layer"),
        ({"num_views": 0}, "1 or more"),
        ({"views_per_epoch": 3}, r"between 1 and zoo\.num_views=2"),
        ({"augment_scale": -1.0}, "0 or more"),
        ({"augment_shift": float("nan")}, r"zoo\.augment_shift=nan"),
        ({"optimizer": "sgd"}, "Choose one of: adam"),
        ({"file_name": "../other"}, "plain name"),
        ({"file_name": ".."}, "plain name"),
        ({"file_name": "folder/zoo"}, "plain name"),
        ({"split": "nfn"}, r"zoo\.split"),
        ({"num_images": 10**6}, "give 3 to 1797"),
    ],
)
def test_bad_values_are_named(make_zoo, values, message):
    with pytest.raises(ValueError, match=message):
        make_zoo(**values)


def test_loaders_before_setup(make_zoo):
    with pytest.raises(ValueError, match=r"prepare_data\(\) and setup\(\)"):
        make_zoo().train_dataloader()
