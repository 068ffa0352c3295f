"""The store beyond the zoos that are built here: the first format, further columns, what it refuses."""

import json

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


@pytest.mark.parametrize("name", ["", "_hidden", ".", "a/b"])
def test_names_that_a_file_cannot_hold(tmp_path, name):
    with pytest.raises(ValueError, match="cannot have a column named"):
        write(tmp_path / "zoo.h5", **{name: np.zeros(5)})


def test_long_texts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="longer than 64 bytes"):
        write(tmp_path / "zoo.h5", name=np.array(["a", "b", "c", "d", "ä" * 33]))
