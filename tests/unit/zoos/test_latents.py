"""Latents of a zoo: each row against its network, the file, and what is refused."""

import h5py
import numpy as np
import pytest
import torch

from nfbench.zoos import SirenZoo
from nfbench.zoos.latents import LatentZoo


@pytest.fixture
def make(tmp_path):
    """make(...) -> a LatentZoo of 20 digits of 3 views whose "encoder" reshapes weights to (B, 3, 35)."""
    calls = []

    def encode(raw):
        calls.append(len(raw))
        return raw.unflatten(1, (3, 35)) * 2

    def build(name="latents.h5", about=None, zoo=None, **settings):
        zoo_settings = {"num_images": 20, "num_views": 3, "num_steps": 2, "batch_size": 6, "standardize": "layer"}
        siren = SirenZoo(
            source="digits", definition="digits", zoo_dir=str(tmp_path), threads=1, **{**zoo_settings, **(zoo or {})}
        )
        return LatentZoo(siren, encode, about or {"encoder_hash": "abc"}, tmp_path / name, **settings)

    build.calls = calls
    return build


def stopped(raw):
    raise RuntimeError("stopped")


def ready(zoo):
    zoo.prepare_data()
    zoo.setup()
    return zoo


def test_each_row_is_what_the_encoder_makes_of_that_network(make):
    zoo = ready(make(encode_batch_size=16))
    assert max(make.calls) == 16
    sirens = zoo.zoo.tables
    networks = {(i, v): row for i, v, row in zip(sirens.index.tolist(), sirens.view.tolist(), sirens.raw, strict=True)}
    seen = {}
    for name in ("train", "val", "test"):
        images = set()
        for batch in getattr(zoo, f"{name}_dataloader")():
            keys = zip(batch.index.tolist(), batch.view.tolist(), strict=True)
            for (i, v), latents, target in zip(keys, batch.features, batch.target, strict=True):
                assert torch.allclose(latents, networks[i, v].unflatten(0, (3, 35)) * 2, rtol=1e-4, atol=1e-6)
                assert target == sirens.label[sirens.index == i][0]
                images.add(i)
        seen[name] = images
        assert images == set(zoo.zoo.split.parts[name].tolist())
    assert len(zoo.data.label) == 3 * len(seen["train"]) + len(seen["val"]) + len(seen["test"])
    assert zoo.protocol["encoder_hash"] == "abc"
    assert zoo.protocol["latent_views"] == "all"
    assert zoo.protocol.items() >= zoo.zoo.protocol.items()


def test_one_view(make):
    zoo = ready(make(views="one"))
    train = zoo.data.rows_of("train")
    assert len(train) == len(zoo.zoo.split.train)
    assert not zoo.data.view[train].any()


def test_augmented_epochs_are_encoded_beside_the_plain_networks(make):
    zoo = ready(make(augmented_epochs=2, zoo={"augment_permute": True, "augment_shift": 0.2, "views_per_epoch": 2}))
    images = len(zoo.zoo.split.train)
    train = zoo.data.rows_of("train").reshape(images, -1)
    assert train.shape[1] == 3 + 2 * 2
    assert (zoo.data.index[train] == zoo.data.index[train][:, :1]).all()
    plain = zoo.data.latents[train[:, :3]].flatten(2)
    for k in range(3, 7):
        distance = (zoo.data.latents[train[:, k]].flatten(1)[:, None] - plain).abs().amax(2)
        assert (distance.amin(1) > 1e-3).all(), "moved"
    assert len({tuple(row.flatten().tolist()) for row in zoo.data.latents[train.ravel()]}) == images * 7
    with pytest.raises(ValueError, match="augmented_epochs needs networks of one class"):
        make(augmented_epochs=1, zoo={"augment_mixup": 0.2})


def test_the_order_is_of_seed_and_epoch(make):
    zoo = ready(make())

    def order(epoch):
        loader = zoo.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [batch.index.tolist() for batch in loader]

    assert order(0) == order(0) != order(1)


def test_the_file_is_read_again_and_says_its_encoder(make, tmp_path):
    first = ready(make())
    with h5py.File(tmp_path / "latents.h5") as file:
        assert file.attrs["encoder_hash"] == "abc"
        assert file["latents"].shape[1:] == (3, 35)
    made = len(make.calls)
    again = make()
    again.prepare_data()
    again.setup()
    assert len(make.calls) == made, "not encoded again"
    assert torch.equal(again.data.latents, first.data.latents)
    assert again.encode_s == first.encode_s
    assert not list(tmp_path.glob(".latents*"))


def test_what_a_result_says_of_its_data_does_not_depend_on_when_it_was_encoded(make):
    first = ready(make()).protocol
    again = ready(make()).protocol
    assert again == first
    assert "load_digits" in first["images"]


def test_latents_of_a_zoo_file_that_was_made_anew_of_other_images_are_refused(make, tmp_path):
    zoo = ready(make()).zoo
    ready(make())
    with h5py.File(zoo.path, "r+") as file:
        file.attrs["images_sha256"] = "0" * 64
    with pytest.raises(ValueError, match=r"latents.h5 holds latents of another file than .* is now"):
        ready(make())
    zoo.path.unlink()
    assert len(ready(make()).data.label), "without the zoo's file they are read"


def test_latents_of_others_are_refused_and_kept(make, tmp_path):
    ready(make())
    before = (tmp_path / "latents.h5").read_bytes()
    for other, key in (
        ({"about": {"encoder_hash": "xyz"}}, "encoder_hash"),
        ({"views": "one"}, "views"),
        ({"zoo": {"canonicalize": True}}, "canonicalized"),
        ({"zoo": {"zoo_seed": 1}}, "zoo_seed"),
    ):
        with pytest.raises(ValueError, match=rf"holds other latents \(they differ in .*{key}"):
            ready(make(**other))
    assert (tmp_path / "latents.h5").read_bytes() == before
    (tmp_path / "half.h5").write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match="not a whole file of latents"):
        ready(make(name="half.h5"))


def test_an_encoding_that_fails_leaves_no_file(make, tmp_path):
    zoo = make()
    zoo.encode = stopped
    with pytest.raises(RuntimeError, match="stopped"):
        ready(zoo)
    assert not list(tmp_path.glob("*latents*"))
    with pytest.raises(ValueError, match="not loaded yet"):
        _ = make().data
    assert np.isfinite(ready(make()).data.latents.numpy()).all()
