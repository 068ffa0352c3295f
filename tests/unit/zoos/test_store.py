"""The store beyond the zoos that are built here: the first format, further columns, what it refuses."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from nfbench.zoos.store import FIRST_FORMAT, FORMAT, PartialZoo, read_zoo

MANIFEST = {"num_networks": 5, "num_params": 3, "spec": "1-1-1:relu"}


def table(**more: np.ndarray) -> dict[str, np.ndarray]:
    params = np.arange(15, dtype=np.float32).reshape(5, 3)
    return {"params": params, "label": np.full(5, -1), "index": np.arange(5), "view": np.zeros(5, np.int64), **more}


def write(path, **more):
    zoo = PartialZoo(path, MANIFEST, 5, 2)
    columns = table(**more)
    for number in range(zoo.num_chunks):
        zoo.write(number, {name: values[2 * number : 2 * number + 2] for name, values in columns.items()})
    zoo.assemble({"origin": "a test"})
    return read_zoo(path)


def test_further_columns(tmp_path):
    names = np.array(["relu", "tänh", "", "a" * 64, "relu"])
    data = write(tmp_path / "zoo.h5", accuracy=np.linspace(0, 1, 5), name=names, rank=np.arange(5, dtype=np.int32))
    np.testing.assert_array_equal(data.params, table()["params"])
    assert data.extra["name"].tolist() == names.tolist()
    assert data.extra["accuracy"].dtype == np.float32
    assert data.extra["rank"].dtype == np.int64
    assert data.label.tolist() == [-1] * 5
    assert np.isnan(data.psnr).all()
    assert data.steps.tolist() == [-1] * 5
    assert data.attributes["format"] == FORMAT


def test_first_format_is_read(tmp_path):
    """A file as the first version wrote it: no list of columns, always PSNR and steps."""
    path = tmp_path / "old.h5"
    columns = table(psnr=np.linspace(20, 30, 5).astype(np.float32), steps=np.full(5, 200))
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, fletcher32=True, chunks=values.shape)
        file.attrs["format"] = FIRST_FORMAT
        file.attrs["manifest"] = json.dumps(MANIFEST)
    data = read_zoo(path, MANIFEST)
    np.testing.assert_array_equal(data.psnr, columns["psnr"])
    assert data.steps.tolist() == [200] * 5
    with h5py.File(path, "r+") as file:
        del file["psnr"]
    with pytest.raises(ValueError, match="not a whole zoo file"):
        read_zoo(path)


def test_a_listed_column_that_is_lost(tmp_path):
    write(tmp_path / "zoo.h5", accuracy=np.linspace(0, 1, 5))
    with h5py.File(tmp_path / "zoo.h5", "r+") as file:
        del file["accuracy"]
    with pytest.raises(ValueError, match="not a whole zoo file"):
        read_zoo(tmp_path / "zoo.h5")


def test_rows_that_are_declared_and_not_written(tmp_path):
    """A file of kilobytes that would fill the memory."""
    write(tmp_path / "zoo.h5")
    with h5py.File(tmp_path / "zoo.h5", "r+") as file:
        del file["params"]
        file.create_dataset("params", (10**12, 3), np.float32, chunks=(1000, 3))
    with pytest.raises(ValueError, match=r"'params' \(1000000000000, 3\) would be 12000000000000 bytes, and 0 are"):
        read_zoo(tmp_path / "zoo.h5")


@pytest.mark.parametrize("name", ["", "_hidden", ".", "a/b"])
def test_names_that_a_file_cannot_hold(tmp_path, name):
    with pytest.raises(ValueError, match="cannot have a column named"):
        write(tmp_path / "zoo.h5", **{name: np.zeros(5)})


def test_long_texts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="longer than 64 bytes"):
        write(tmp_path / "zoo.h5", name=np.array(["a", "b", "c", "d", "ä" * 33]))


@pytest.mark.parametrize("steps", range(5))
def test_a_kill_while_chunks_are_deleted_leaves_none_to_another_zoo(tmp_path, monkeypatch, steps):
    zoo = PartialZoo(tmp_path / "zoo.h5", MANIFEST, 5, 2)
    for number in range(3):
        zoo.write(number, {name: values[2 * number : 2 * number + 2] for name, values in table().items()})
    done, unlink = [], Path.unlink

    def stop(path, missing_ok=False):
        if path.parent == zoo.folder and not path.name.startswith("."):
            if len(done) == steps:
                raise KeyboardInterrupt
            done.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", stop)
    if steps < 4:  # three chunks and their manifest
        with pytest.raises(KeyboardInterrupt):
            zoo.assemble({})
        assert (zoo.folder / "manifest.json").exists()
    else:
        zoo.assemble({})
        assert not zoo.folder.exists()
    assert len(done) == steps
    assert len(read_zoo(zoo.path).label) == 5


@pytest.mark.parametrize("shared", [False, True])
def test_chunks_of_unknown_zoos_are_not_used(tmp_path, shared):
    zoo = PartialZoo(tmp_path / "zoo.h5", MANIFEST, 5, 2)
    zoo.write(0, {name: values[:2] for name, values in table().items()})
    (zoo.folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"chunks but no manifest\.json.*Move or delete that folder"):
        PartialZoo(zoo.path, {**MANIFEST, "spec": "another"}, 5, 2, shared=shared)
    assert zoo.chunk_path(0).exists()
    zoo.chunk_path(0).unlink()
    assert PartialZoo(zoo.path, {**MANIFEST, "spec": "another"}, 5, 2, shared=shared).num_finished() == 0


@pytest.mark.parametrize("kind", ["link", "virtual", "external", "group"])
def test_data_of_other_files_are_refused(tmp_path, kind):
    write(tmp_path / "zoo.h5")
    secret = np.full((5, 3), 7, np.float32)
    secret.tofile(tmp_path / "secret.raw")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["params"] = secret
    with h5py.File(tmp_path / "zoo.h5", "r+") as file:
        del file["params"]
        if kind == "link":
            file["params"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "params")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((5, 3), np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "params", (5, 3))
            file.create_virtual_dataset("params", layout)
        elif kind == "external":
            place = [(str(tmp_path / "secret.raw"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("params", (5, 3), np.float32, external=place)
        else:
            file["params"] = secret
            file["other"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/")
            file.attrs["columns"] = json.dumps(["params", "label", "index", "view", "other/params"])
    with pytest.raises(ValueError, match=r"not a plain dataset of this file: refused|no dataset 'other/params'"):
        read_zoo(tmp_path / "zoo.h5")
