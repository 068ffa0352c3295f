"""Training on zoo files: which networks are used for what, and what a file must say."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from archives import DwsInr, NfnSiren, grid, nfn_files, saved, write_folder, write_tar, write_zip
from hydra.errors import HydraException
from torch import nn
from torch.nn.utils import parameters_to_vector

from nfbench import train
from nfbench.config.build import build_task, build_zoo
from nfbench.config.identity import config_hash
from nfbench.weightspace import ZooBatch, canonicalize
from nfbench.zoos import InrFileZoo, ShapesZoo
from nfbench.zoos.export import export_zoo
from nfbench.zoos.importers import ArenaLayout, DwsLayout, FolderLayout, NfnLayout, SmallCnnLayout, import_zoo
from nfbench.zoos.store import read_zoo

# Of nfn's split of MNIST: images 0-44,999 train, 45,000-49,999 val, 50,000-59,999 test. (label, index, copy)
IMAGES = [(0, 0), (1, 7), (2, 11), (0, 44_999), (1, 45_000), (2, 49_999), (0, 50_000), (1, 59_998), (2, 59_999)]
KEYS = [(label, i, copy) for label, i in IMAGES for copy in ((-1, 0, 1) if i < 45_000 else (-1,))]
Nets = dict[tuple[int, int, int], nn.Module]


@pytest.fixture
def nets() -> Nets:
    torch.manual_seed(0)
    return {key: NfnSiren(width=4) for key in KEYS}


@pytest.fixture
def nfn(tmp_path: Path) -> Callable[..., str]:
    """nfn(nets) -> the imported file; ``damage``: names of members that are broken."""

    def make(nets: Nets, name: str = "nfn", damage: tuple[str, ...] = ()) -> str:
        files = {key: b"junk" if key.endswith(damage) and damage else data for key, data in nfn_files(nets).items()}
        path = write_tar(tmp_path / f"{name}_mnist.tar", files)
        import_zoo(NfnLayout(path, spec="2-4-4-1:sine"), tmp_path / f"{name}.h5")
        return str(tmp_path / f"{name}.h5")

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., str]:
    """folder("file,label\\n...") -> the imported file of twelve SIRENs n0.pth, ..., of which nothing more is known."""

    def make(table: str, name: str = "folder", **options) -> str:
        torch.manual_seed(1)
        files = {f"n{i}.pth": saved(NfnSiren(width=4).state_dict()) for i in range(24)}
        write_folder(tmp_path / name, files | {"labels.csv": table.encode()})
        layout = FolderLayout(tmp_path / name, **{"activation": "sine", **options})
        import_zoo(layout, tmp_path / f"{name}.h5")
        return str(tmp_path / f"{name}.h5")

    return make


CLASSES = "file,label\n" + "".join(f"n{i}.pth,{i % 2}\n" for i in range(24))


def ready(file: str, **options) -> InrFileZoo:
    zoo = InrFileZoo(file=file, **options)
    zoo.prepare_data()
    zoo.setup()
    return zoo


def rows_of(batches: list[ZooBatch]) -> dict[tuple[int, int, int], np.ndarray]:
    """(label, index, view) -> weights, each once."""
    found = [
        ((*key,), row)
        for b in batches
        for key, row in zip(
            torch.stack([b.target, b.index, b.view], 1).tolist(), b.features.flatten()[..., 0].numpy(), strict=True
        )
    ]
    assert len(dict(found)) == len(found), "no network comes twice"
    return dict(found)


def sets(zoo: InrFileZoo) -> dict[str, list[int]]:
    return {part: sorted(index.tolist()) for part, index in zoo.split.parts.items()}


def test_batches_are_the_archives_networks_bit_for_bit(nets, nfn, caplog):
    with caplog.at_level(logging.INFO):
        zoo = ready(nfn(nets), views_per_epoch=3, batch_size=5)
    assert str(zoo.spec) == "2-4-4-1:sine"
    assert sets(zoo) == {"train": [0, 7, 11, 44_999], "val": [45_000, 49_999], "test": [50_000, 59_998, 59_999]}
    batches = {"train": zoo.train_dataloader(), "val": zoo.val_dataloader(), "test": zoo.test_dataloader()}
    found = {part: rows_of(list(loader)) for part, loader in batches.items()}
    assert set(found["train"]) == {(label, i, v) for label, i in IMAGES[:4] for v in range(3)}
    for rows in found.values():
        for (label, index, view), row in rows.items():
            net = nets[label, index, view - 1]
            np.testing.assert_array_equal(row, parameters_to_vector(net.parameters()).detach().numpy())
    assert sum(map(len, found.values())) == len(nets)
    assert "4 / 2 / 3 items" in caplog.text
    assert "59991 items of the split are not in the file (train 44996, val 4998, test 9997)" in caplog.text


def test_protocol_says_which_file(nets, nfn, tmp_path):
    zoo = InrFileZoo(file=nfn(nets))
    said = zoo.protocol
    assert (said["dataset"], said["definition"], said["split"], said["views"]) == ("mnist", "published (nfn)", "nfn", 3)
    assert (said["num_train"], said["num_images"], said["num_missing"]) == (4, 9, 59_991)
    assert said["file"] == "nfn.h5"
    side = json.loads((tmp_path / "nfn.manifest.json").read_text())
    assert said["sha256"] == side["import"]["sha256"]
    assert said["recipe_hash"] == side["recipe_hash"]
    zoo.setup()
    assert zoo.protocol["images"] == f"imported from nfn_mnist.tar ({side['import']['sha256'][:12]})"


def test_views_of_training_images(nets, nfn):
    def views(zoo: InrFileZoo, part: str = "train") -> dict[int, list[int]]:
        zoo.setup()
        zoo.views_per_epoch = zoo.plan.num_views
        loader = {"train": zoo.train_dataloader, "val": zoo.val_dataloader, "test": zoo.test_dataloader}[part]()
        found: dict[int, list[int]] = {}
        for _, index, view in sorted(rows_of(list(loader))):
            found.setdefault(index, []).append(view)
        return found

    del nets[1, 7, 0]  # image 7 lacks a copy
    nets[1, 59_998, 0] = nets.pop((1, 59_998, -1))  # a test image without its base network, but two copies
    nets[1, 59_998, 1] = NfnSiren(width=4)
    file = nfn(nets)
    assert views(InrFileZoo(file=file)) == {0: [0, 1], 7: [0, 2], 11: [0, 1], 44_999: [0, 1]}
    assert views(InrFileZoo(file=file, num_views=3)) == {0: [0, 1, 2], 11: [0, 1, 2], 44_999: [0, 1, 2]}
    assert views(InrFileZoo(file=file, num_views=1)) == {0: [0], 7: [0], 11: [0], 44_999: [0]}
    copies = InrFileZoo(file=file, first_view=1)  # as NFN's own loader
    assert views(copies) == {0: [1], 7: [2], 11: [1], 44_999: [1]}
    assert copies.protocol["first_view"] == 1
    assert views(copies, "test") == {50_000: [0], 59_998: [1], 59_999: [0]}, "others have what is there"
    assert views(InrFileZoo(file=file, eval_views="all"), "test") == {50_000: [0], 59_998: [1, 2], 59_999: [0]}
    for options, message in (
        ({"num_views": 4}, "no training item of this file has 4 networks"),
        ({"first_view": 3}, r"has 1 networks .* from view 3 on .* 0 at most"),
        ({"num_views": 0}, "zoo.num_views=0 must be 1 or more"),
        ({"views_per_epoch": 3}, "between 1 and zoo.num_views=2"),
        ({"eval_views": "two"}, "Choose one of: one, all"),
    ):
        with pytest.raises(ValueError, match=message):
            InrFileZoo(file=file, **options)


def test_what_is_left_out_is_said(nets, nfn, caplog):
    file = nfn(nets, damage=("_2s/net59999.pth", "aug1_0s/net44999.pth"))
    with caplog.at_level(logging.INFO):
        assert InrFileZoo(file=file, num_views=3).num_missing == 59_992
    assert "1 training items with fewer networks are left out" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert sets(InrFileZoo(file=file))["test"] == [50_000, 59_998]
    assert "up to 3 are there: zoo.num_views=3 would leave out 1 items" in caplog.text


def test_splits_by_name(nets, nfn):
    file = nfn(nets)
    with pytest.raises(ValueError, match=r"zoo.split=official has no test items .* none of them .it has 0 to 59999"):
        InrFileZoo(file=file, split="official")
    with pytest.raises(ValueError, match=r"'nfm' is not known.*: official, nfn, inr2array, dws, tens"):
        InrFileZoo(file=file, split="nfm")
    with pytest.raises(ValueError, match="'file' is not known"):
        InrFileZoo(file=file, split="file")
    assert InrFileZoo(file=file, split="inr2array").protocol["split"] == "inr2array"


def test_dws_fashion_has_a_split_of_its_own(tmp_path):
    torch.manual_seed(3)
    names = [f"{part}/model_{i}.pth" for part in ("train", "test") for i in range(6)]
    files = {f"fmnist_inrs/{name}": saved({**DwsInr().state_dict(), "label": 4}) for name in names}
    where = dict(zip(("train", "val", "none", "test"), np.split(np.array(names), [5, 7, 9]), strict=True))
    split = {part: [f"/home/u/fmnist_inrs/{name}" for name in found] for part, found in where.items() if part != "none"}
    files["fmnist_inrs/splits.json"] = json.dumps(split).encode()
    import_zoo(DwsLayout(write_zip(tmp_path / "fmnist_inrs.zip", files)), tmp_path / "zoo.h5")
    zoo = InrFileZoo(file=str(tmp_path / "zoo.h5"))
    assert sets(zoo) == {"train": [0, 1, 2, 3, 4], "val": [5, 60_000], "test": [60_003, 60_004, 60_005]}
    assert zoo.protocol["split"] == "file"
    assert zoo.protocol["definition"] == "published (dws)"
    assert zoo.protocol["num_missing"] == 0
    assert zoo.num_classes == 10, "the source's, though the file has one class"
    small = [sets(InrFileZoo(file=str(tmp_path / "zoo.h5"), num_images=n)) for n in (5, 8)]
    for part, items in small[0].items():
        assert set(items) < set(small[1][part]) | {0}, "a subset has the items of smaller ones"
    assert InrFileZoo(file=str(tmp_path / "zoo.h5"), num_images=5).protocol["num_images"] == 5


def test_a_folder_is_split_by_tens_of_each_class(folder):
    zoo = InrFileZoo(file=folder(CLASSES))
    assert sets(zoo)["val"] == [4, 5], "the third of each class"
    assert sets(zoo)["test"] == [8, 9]
    assert len(zoo.split.train) == 20
    assert zoo.num_classes == 2
    assert zoo.protocol["definition"] == "imported (folder)"
    assert zoo.protocol["recipe_hash"] == "unknown"


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["train"] * 23 + ["test"], "has test, train: it needs train, val, test"),
        (["train", "val", "test"] * 8, "puts networks of one item into several parts"),
    ],
)
def test_a_column_split_that_cannot_be_used(folder, column, message):
    lines = [f"n{i}.pth,{i % 2},{i // 2},{i % 2},{part}\n" for i, part in enumerate(column)]
    file = folder("file,label,index,view,split\n" + "".join(lines))
    with pytest.raises(ValueError, match=message):
        InrFileZoo(file=file)
    assert len(InrFileZoo(file=file, split="tens").split.all_images) == 12


OPTIONS = {"canonicalize": True, "standardize": "layer", "augment_rotation": 0.3, "augment_noise": 0.1, "batch_size": 7}


def test_a_zoo_built_here_gives_the_same_batches(make_zoo):
    built = make_zoo(**OPTIONS)
    built.prepare_data()
    built.setup()
    zoo = ready(str(built.path), **OPTIONS)
    assert {part: index.tolist() for part, index in zoo.split.parts.items()} == {
        part: index.tolist() for part, index in built.split.parts.items()
    }
    assert zoo.num_missing == 0, "of the subset that was built"
    same = ("dataset", "split", "views", "num_images", "augmentations", "recipe_hash", "images")
    assert {key: zoo.protocol[key] for key in same} == {key: built.protocol[key] for key in same}
    assert zoo.protocol["definition"] == "custom", "20 steps are no definition's"
    for ours, theirs in zip(zoo.train_dataloader(), built.train_dataloader(), strict=True):
        assert torch.equal(ours.features.flatten(), theirs.features.flatten())
        assert ours.index.tolist() == theirs.index.tolist()
    batch = next(iter(zoo.test_dataloader()))
    assert torch.equal(zoo.render(batch.features), built.render(batch.features))


def test_definitions_are_recognised(make_zoo):
    built = make_zoo(num_steps=None, num_images=15, zoo_seed=3)
    built.prepare_data()
    assert InrFileZoo(file=str(built.path)).protocol["definition"] == "digits"


def test_shapes_built_here(tmp_path):
    built = ShapesZoo(num_shapes=50, points=32, samples=16, num_steps=1, zoo_dir=str(tmp_path), file_name="shapes")
    built.prepare_data()
    zoo = InrFileZoo(file=str(built.path), augment_rotation=3.0)
    assert sets(zoo) == {part: index.tolist() for part, index in built.split.parts.items()}
    assert zoo.num_classes == 10
    assert zoo.no_picture == "3-128-1:sine is not a network of images"
    with pytest.raises(ValueError, match="networks of 3 coordinates"):
        InrFileZoo(file=str(built.path), augment_flip="both")


def test_what_a_file_does_not_say_must_be_given(folder):
    file = folder(CLASSES)
    for options, message in (
        ({"canonicalize": True}, r"canonicalize=true needs w0_first and w0_hidden.*zoo.w0_first=30 zoo.w0_hidden=30"),
        ({"canonicalize": True, "w0_first": 20.0}, r"needs w0_hidden of the networks, which folder.h5"),
        ({"augment_sine": True}, "zoo.augment_sine=true needs"),
        ({"augment_flip": "vertical"}, r"augment_flip=vertical needs grid.*zoo.grid=ij"),
        ({"grid": "yx"}, "Choose one of: ij, xy"),
        ({"w0_first": -1.0}, "must be a positive number"),
    ):
        with pytest.raises(ValueError, match=message):
            InrFileZoo(file=file, **options)
    InrFileZoo(file=file, augment_flip="both")  # both ways are the same on either grid
    zoo, raw = ready(file, canonicalize=True, w0_first=20.0, w0_hidden=10.0), ready(file)
    features = next(iter(raw.test_dataloader())).features
    wanted = canonicalize(features, 20.0, 10.0).flatten()
    assert torch.equal(next(iter(zoo.test_dataloader())).features.flatten(), wanted)
    other = ready(file, canonicalize=True, w0_first=30.0, w0_hidden=30.0)
    assert not torch.equal(next(iter(other.test_dataloader())).features.flatten(), wanted), "w0 counts"


def test_pictures(nets, nfn, folder, arena, tmp_path):
    zoo = ready(nfn(nets), standardize="layer")
    batch = next(iter(zoo.test_dataloader()))
    with torch.no_grad():
        net = nets[0, 50_000, -1].double()
        wanted = ((net(grid(28, 28, "ij")) + 1) / 2).clamp(0, 1).reshape(28, 28, 1)
    assert batch.index[0] == 50_000
    torch.testing.assert_close(zoo.render(batch.features)[0].double(), wanted, rtol=0, atol=1e-4)
    unknown = ready(folder(CLASSES))
    assert unknown.no_picture == "the size of images of folder is not known"
    with pytest.raises(ValueError, match="no pictures: the size"):
        unknown.render(batch.features)
    named = folder(CLASSES, "named", source="mnist")
    assert "doesn't say w0_first, w0_hidden, grid, output_offset" in str(InrFileZoo(file=named).no_picture)
    some = {"w0_first": 30, "w0_hidden": 30, "grid": "xy"}
    why = str(InrFileZoo(file=named, **some).no_picture)
    assert why.endswith("zoo.output_offset=0 zoo.pixel_min=0 zoo.pixel_max=1 gives it"), "no range is guessed"
    shown = ready(named, **some, output_offset=0.5, pixel_min=-1, pixel_max=1)
    assert (shown.no_picture, shown.image_shape) == (None, (28, 28, 1))
    assert shown.recipe.output_offset == 0.5
    export_zoo(read_zoo(Path(named)), tmp_path / "exported", "nfn")
    import_zoo(NfnLayout(tmp_path / "exported"), tmp_path / "again.h5")
    known = {**some, "output_offset": 0, "pixel_min": 0, "pixel_max": 1}
    for zoo in (shown, InrFileZoo(file=str(tmp_path / "again.h5"), **known)):
        with pytest.raises(ValueError, match=r"which image each network of \w+\.h5 shows: .*with a column index"):
            zoo.edits  # noqa: B018
    lines = "file,label,index\n" + "".join(f"n{i}.pth,{i % 2},{i}\n" for i in range(24))
    assert "erode" in InrFileZoo(file=folder(lines, "indexed", source="mnist"), **known).edits
    late = "".join(f'"n{i}.pth","{i % 2}","{1790 + i}"\n' for i in range(24))  # digits has 1,797 images
    beyond = ready(folder(f'"file","label","index"\n{late}', "beyond", source="digits"), **known)
    with pytest.raises(ValueError, match="of the images 1790 to 1813, and digits has images 0 to 1796"):
        beyond.edited_images("erode")
    for name, channels, why in (("MNIST", 1, None), ("CIFAR10", 3, "the networks give pixels that were standardised")):
        import_zoo(ArenaLayout(arena(name, channels, count=50)[0], num_signals=50), tmp_path / f"{name}.h5")
        field = InrFileZoo(file=str(tmp_path / f"{name}.h5"), split="tens", canonicalize=True)
        assert field.protocol["definition"] == "imported (arena)"
        assert str(field.no_picture).startswith(str(why))


def test_networks_without_a_class(folder, composed):
    zoo = InrFileZoo(file=folder("file,label\n" + "".join(f"n{i}.pth,{-(i == 3)}\n" for i in range(24))))
    assert zoo.num_classes == 0
    with pytest.raises(ValueError, match=r"task=inr_cls needs networks of two classes or more.*none \(label -1\)"):
        build_task(composed().task, zoo)


def test_files_that_cannot_be_used(small_cnn, folder, tmp_path):
    import_zoo(SmallCnnLayout(small_cnn()), tmp_path / "cnn.h5")
    (tmp_path / "text.h5").write_text("text")
    (tmp_path / "half.h5.partial").mkdir()
    relu = folder(CLASSES, "relu", activation="relu")
    for file, message in (
        (None, "give it with zoo.file="),
        (tmp_path / "none.h5", r"there is no zoo file .*In that folder: cnn.h5, relu.h5, text.h5"),
        (tmp_path / "no" / "none.h5", r"there is no zoo file .*scripts/import_zoo.py"),
        (tmp_path / "half.h5", "was stopped; run that command again"),
        (tmp_path / "cnn.h5", "zoo=inr_file reads INRs"),
        (relu, r"holds networks 2-4-4-1:relu.*--activation sine"),
        (tmp_path / "text.h5", r"not a whole zoo file.*Give another zoo.file"),
    ):
        with pytest.raises(ValueError, match=message):
            InrFileZoo(file=str(file) if file else None)
    bad = folder(CLASSES, "bad")
    with h5py.File(bad, "r+") as data:
        data.attrs["manifest"] = json.dumps({**json.loads(data.attrs["manifest"]), "recipe": {"w1": 3}})
    with pytest.raises(ValueError, match=r"recipe in the file's manifest cannot be read .*w1"):
        InrFileZoo(file=bad)


def test_a_run_is_named_after_what_the_file_holds(nets, nfn, composed, tmp_path):
    def cfg(file: object, *more: str):
        return composed("zoo=inr_file", f"zoo.file={file}", *more)

    first = nfn(nets)
    moved = shutil.copy(first, tmp_path / "moved.h5")
    nets[0, 0, -1] = NfnSiren(width=4)
    second = nfn(nets, "other")
    assert config_hash(cfg(first)) == config_hash(cfg(moved)) != config_hash(cfg(second))
    assert config_hash(cfg(tmp_path / "none.h5")) != config_hash(cfg("null")), "without a file its name stands"
    assert cfg("null").zoo.fingerprint is None
    mark = cfg(first).zoo.fingerprint
    assert build_zoo(cfg(moved, f"zoo.fingerprint={mark}").zoo).fingerprint == mark
    with pytest.raises(ValueError, match=f"not zoo.fingerprint={mark}: it holds other networks"):
        build_zoo(cfg(second, f"zoo.fingerprint={mark}").zoo)
    for key in ("file_name=x", "zoo_dir=x", "num_steps=3"):
        with pytest.raises(HydraException, match=key.partition("=")[0]):
            cfg(first, f"zoo.{key}")


SMALL = ("model=mlp", "model.width=8", "logger=csv", "trainer.max_epochs=1", "threads=1", "size=tiny", "zoo=inr_file")


def test_a_run_on_an_imported_zoo(nets, nfn, composed, job):
    summary = train.run(composed(*SMALL, f"zoo.file={nfn(nets)}", "zoo.views_per_epoch=3"), job("run"))
    assert summary["definition"] == "published (nfn)"
    assert summary["examples_seen"] == 12
    assert summary["file"] == "nfn.h5"
    assert summary["config"]["zoo"]["fingerprint"] == summary["fingerprint"]
    assert 0 <= summary["metrics"]["test/acc"] <= 1
    with np.load(job("run").folder / "samples.npz") as samples:
        assert samples["images"].shape == (3, 28, 28, 1)
        assert samples["index"].tolist() == [50_000, 59_998, 59_999]
    assert (job("run").folder / summary["picture"]).stat().st_size > 0


def test_a_run_on_networks_of_which_little_is_known(folder, composed, job, caplog):
    with caplog.at_level(logging.INFO):
        summary = train.run(composed(*SMALL, f"zoo.file={folder(CLASSES)}"), job("run"))
    assert "no pictures of test items: the size of images of folder is not known" in caplog.text
    assert not (job("run").folder / "samples.npz").exists()
    assert (job("run").folder / summary["picture"]).stat().st_size > 0, "the confusion matrix alone"


def test_too_few_items_for_tens(folder):
    file = folder("file,label\n" + "".join(f"n{i}.pth,{i % 6}\n" for i in range(24)))
    with pytest.raises(ValueError, match=r"this file has no class of 5 items or more"):
        InrFileZoo(file=file)
