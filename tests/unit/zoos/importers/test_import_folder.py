"""A generic folder of state dicts with a table of labels."""

import numpy as np
import pytest
import torch
from archives import saved, write_folder, write_tar, write_zip
from safetensors.torch import save
from torch import nn
from torch.nn.utils import parameters_to_vector

from nfbench.zoos.importers import FolderLayout, common, import_zoo
from nfbench.zoos.importers.folder import read_labels
from nfbench.zoos.store import read_zoo


def cnn(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Linear(4, 2))


def row(net: nn.Module) -> np.ndarray:
    return parameters_to_vector(net.parameters()).detach().numpy()


TABLE = (
    "file,label,test_accuracy,optimizer,epochs\na.pth,3,0.91,adam,5\nsub/b.safetensors,0,,sgd,7\nc.pt,1,0.5,adam,9\n"
)


@pytest.fixture
def files() -> dict[str, bytes]:
    return {
        "a.pth": saved(cnn(0).state_dict()),
        "sub/b.safetensors": save(cnn(1).state_dict()),
        "c.pt": saved(cnn(2).state_dict()),
        "labels.csv": TABLE.encode(),
        "notes.txt": b"hello",
    }


@pytest.mark.parametrize("write", [write_folder, write_tar, write_zip])
def test_three_kinds_of_files(files, tmp_path, write):
    line = import_zoo(FolderLayout(write(tmp_path / "nets", files)), tmp_path / "zoo.h5")
    assert "3 networks of 1-4c3-4c3-2:relu, 0 broken, 2 other files" in line
    data = read_zoo(tmp_path / "zoo.h5")
    np.testing.assert_array_equal(data.params, np.stack([row(cnn(seed)) for seed in range(3)]))
    assert data.label.tolist() == [3, 0, 1]
    assert data.index.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(data.extra["test_accuracy"], np.float32([0.91, np.nan, 0.5]))
    assert data.extra["optimizer"].tolist() == ["adam", "sgd", "adam"]
    assert data.extra["epochs"].tolist() == [5, 7, 9]
    assert data.extra["epochs"].dtype == np.int64


def test_safetensors_of_many_layers_keep_their_order(tmp_path):
    """safetensors sorts by name: net.10 would come before net.2."""
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(3, 3), nn.ReLU())))
    files = {"a.safetensors": save(net.state_dict()), "labels.csv": b"file,label\na.safetensors,0\n"}
    import_zoo(FolderLayout(write_folder(tmp_path / "nets", files)), tmp_path / "zoo.h5")
    np.testing.assert_array_equal(read_zoo(tmp_path / "zoo.h5").params[0], row(net))


def test_index_view_and_another_table(files, tmp_path):
    del files["labels.csv"]
    folder = write_folder(tmp_path / "nets", files)
    with pytest.raises(ValueError, match=r"has no labels\.csv: add one with the columns file,label"):
        FolderLayout(folder)
    table = tmp_path / "mine.csv"
    table.write_text("file,index,view\na.pth,9,1\nsub/b.safetensors,9,0\nc.pt,2,0\n")
    import_zoo(FolderLayout(folder, labels=table, activation="tanh"), tmp_path / "zoo.h5")
    data = read_zoo(tmp_path / "zoo.h5")
    assert data.manifest["spec"].endswith(":tanh")
    assert (data.index.tolist(), data.view.tolist()) == ([2, 9, 9], [0, 0, 1])
    assert data.label.tolist() == [-1, -1, -1]
    np.testing.assert_array_equal(data.params, np.stack([row(cnn(seed)) for seed in (2, 1, 0)]))


def test_what_does_not_fit_is_named(files, tmp_path, capsys):
    files["other.pth"] = saved(cnn(5).state_dict())
    files["c.pt"] = saved(nn.Linear(2, 2).state_dict())
    files["labels.csv"] = (TABLE + "gone.pth,1,0.5,adam,9\n").encode()
    assert "2 networks" in import_zoo(FolderLayout(write_folder(tmp_path / "nets", files)), tmp_path / "zoo.h5")
    error = capsys.readouterr().err
    assert "other.pth: has no line in the table of labels" in error
    assert "c.pt: the state dict has 2 tensors" in error
    assert "gone.pth: is in the table of labels, but not there" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a line of different column names with 'file'"),
        ("name,label\na,1\n", "needs a line of different column names with 'file'"),
        ("file,params\na,1\n", "without 'params'"),
        ("file,label\na,0.5\n", "'label' of the table of labels must hold whole numbers"),
        ("file,label\na,1,2\n", "has 2 columns"),
        ("file,label\na,1\na,2\n", "names 'a' twice"),
        ("file,index\na,99999999999999999999\n", "whole numbers"),
        ('file,note\na,"' + 140_000 * "x", "no CSV: field larger than field limit"),
    ],
)
def test_tables_that_cannot_be_used(text, message):
    with pytest.raises(ValueError, match=message):
        read_labels(text)


def test_a_table_with_the_line_ends_of_an_old_mac():
    assert read_labels("file,label\ra,1\rb,2\r")["b"]["label"] == 2


def test_a_table_that_is_too_large_is_named(files, tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "nets", files)
    monkeypatch.setattr(common, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match=r"the table of labels of .*nets cannot be read \(has 0 MiB, more than"):
        FolderLayout(folder)


def test_no_readable_file(tmp_path):
    folder = write_folder(tmp_path / "nets", {"a.pth": b"junk", "labels.csv": b"file\na.pth\n"})
    with pytest.raises(ValueError, match=r"no file of a network can be read; the last: a\.pth is not a file of"):
        FolderLayout(folder)
    with pytest.raises(ValueError, match="unknown activation 'sinus'"):
        FolderLayout(folder, activation="sinus")


@pytest.mark.parametrize("rows", ["", "nets/"])
@pytest.mark.parametrize("write", [write_folder, write_tar, write_zip])
def test_one_top_folder(files, tmp_path, write, rows):
    """As ``tar czf nets.tgz nets/`` makes it: rows may leave the folder of the table out."""
    table = "".join(f"{rows if i else ''}{line}\n" for i, line in enumerate(TABLE.splitlines()))
    files["labels.csv"] = f"{table}{rows}gone.pt,1,0.5,adam,9\n".encode()
    path = write(tmp_path / "archive", {f"nets/{name}": data for name, data in files.items()})
    layout = FolderLayout(path)
    assert "3 networks of 1-4c3-4c3-2:relu, 1 broken, 2 other files" in import_zoo(layout, tmp_path / "zoo.h5")
    assert layout.missing() == [f"{rows}gone.pt: is in the table of labels, but not there"]
    data = read_zoo(tmp_path / "zoo.h5")
    assert data.label.tolist() == [3, 0, 1]
    np.testing.assert_array_equal(data.params, np.stack([row(cnn(seed)) for seed in range(3)]))
