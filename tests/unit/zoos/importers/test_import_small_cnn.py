"""The Small CNN Zoo: TensorFlow's order, metrics, the authors' split with its stray first line."""

import gzip
import json
import os
import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures
from nfbench.zoos.importers import SmallCnnLayout, import_zoo
from nfbench.zoos.importers.small_cnn import authors_split
from nfbench.zoos.store import read_zoo


def forward_tf(row: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The CNN as TensorFlow computes it, in float64: (height, width, in, out) kernels, stride 2, no padding."""
    x, at = image[:, :, None], 0  # (H, W, channels)
    for inputs in (1, 16, 16):
        kernel = row[at : at + 9 * inputs * 16].reshape(3, 3, inputs, 16)
        bias = row[at + 9 * inputs * 16 : at + 9 * inputs * 16 + 16]
        at += 9 * inputs * 16 + 16
        size = (x.shape[0] - 3) // 2 + 1
        out = np.zeros((size, size, 16))
        for i in range(3):
            for j in range(3):
                out += x[i : i + 2 * size - 1 : 2, j : j + 2 * size - 1 : 2] @ kernel[i, j]
        x = np.maximum(out + bias, 0)
    return x.mean((0, 1)) @ row[at : at + 160].reshape(16, 10) + row[at + 160 :]


@pytest.mark.parametrize("bias_first", [False, True])
def test_networks_compute_the_same_in_torch(small_cnn, tmp_path, bias_first):
    folder = small_cnn(bias_first=bias_first)
    import_zoo(SmallCnnLayout(folder, activation="relu"), tmp_path / "zoo.h5")
    data = read_zoo(tmp_path / "zoo.h5")
    spec = NetworkSpec.parse(data.manifest["spec"])
    assert str(spec) == "1-16c3-16c3-16c3-10:relu"
    weights = np.load(folder / "weights.npy").astype(np.float64)
    if bias_first:  # put biases behind their kernels, for forward_tf
        sizes = [(16, 144), (16, 2304), (16, 2304), (10, 160)]
        starts = np.cumsum([0] + [a + b for a, b in sizes])
        pairs = zip(starts, sizes, strict=False)
        order = np.concatenate([np.r_[s + bias : s + bias + kernel, s : s + bias] for s, (bias, kernel) in pairs])
        weights = weights[:, order]
    image = np.random.default_rng(3).standard_normal((32, 32))
    for params, row in zip(data.params[:3].astype(np.float64), data.extra["row"], strict=False):
        state = WeightSpaceFeatures.from_flat(spec, torch.from_numpy(params[None])).to_state_dicts()[0]
        x = torch.from_numpy(image)[None, None]
        for i in range(3):
            x = F.conv2d(x, state[f"{i}.weight"], state[f"{i}.bias"], stride=2).relu()
        logits = F.linear(x.mean((2, 3)), state["3.weight"], state["3.bias"])[0]
        np.testing.assert_allclose(logits.numpy(), forward_tf(weights[row], image), rtol=1e-9, atol=1e-9)


def test_final_networks_with_their_metrics(small_cnn, tmp_path):
    folder = small_cnn()
    rows = json.loads((folder / "rows.json").read_text())
    import_zoo(SmallCnnLayout(folder), tmp_path / "zoo.h5")
    data = read_zoo(tmp_path / "zoo.h5")
    assert len(data.label) == 12
    assert set(data.extra["step"].tolist()) == {86}
    assert data.label.tolist() == [-1] * 12
    assert data.view.tolist() == [0] * 12
    assert data.index.tolist() == list(range(12)), "runs are counted as they appear"
    for i, row in enumerate(data.extra["row"].tolist()):
        run = rows[row][0]
        assert data.extra["config.activation"][i] == ("relu" if run % 3 else "tanh")
        assert data.extra["test_accuracy"][i] == np.float32((row + 1) / 100)
        assert data.extra["config.learning_rate"][i] == np.float32(0.001 * (run + 1))
        first = [r for r, _ in rows].index(run)
        earlier = {r for r, _ in rows[:first]}
        assert data.index[i] == len(earlier)
    assert data.extra["config.random_seed"].dtype == np.int64
    assert data.manifest["activations"] == ["relu", "tanh"]
    assert data.manifest["source"] == "cifar10"
    assert "modeldir" not in data.extra
    assert np.isnan(read_all(folder, tmp_path).extra["train_loss"]).sum() == 1, "an empty value is NaN"


def read_all(folder, tmp_path):
    import_zoo(SmallCnnLayout(folder, step=None), tmp_path / "all.h5")
    return read_zoo(tmp_path / "all.h5")


def test_all_steps_are_views_of_a_run(small_cnn, tmp_path):
    data = read_all(small_cnn(), tmp_path)
    assert data.index.tolist() == [run for run in range(12) for _ in range(3)]
    assert data.view.tolist() == [0, 1, 2] * 12
    assert data.extra["step"].tolist() == [0, 20, 86] * 12


def write_split(path, order, header=True):
    path.write_text("".join(f"{n}\n" for n in ([0] if header else []) + list(order)))
    return path


def reference_split(order: list[int], steps: list[int]) -> dict[int, str]:
    """What the authors' code does with the file: the header counts as row 0."""
    rows = [row for row in [0, *order] if steps[row] == 86]
    half = int(0.5 * len(rows))
    first = list(range(half))
    random.Random(0).shuffle(first)
    point = int(0.8 * half)
    parts = {"train": first[:point], "val": first[point:], "test": list(range(half, len(rows)))}
    return {rows[place]: part for part, places in parts.items() for place in places}


def test_authors_split(small_cnn, tmp_path):
    folder = small_cnn(runs=40)
    steps = [step for _, step in json.loads((folder / "rows.json").read_text())]
    assert steps[0] != 86, "where row 0 is final the authors' list has it twice"
    order = np.random.default_rng(5).permutation(len(steps)).tolist()
    path = write_split(tmp_path / "split.csv", order)
    import_zoo(SmallCnnLayout(folder, split_csv=path), tmp_path / "zoo.h5")
    data = read_zoo(tmp_path / "zoo.h5")
    found = dict(zip(data.extra["row"].tolist(), data.extra["split"].tolist(), strict=True))
    assert found == reference_split(order, steps)
    assert sorted(np.unique(data.extra["split"], return_counts=True)[1].tolist()) == [4, 16, 20]
    final = np.array(steps) == 86
    plain = write_split(tmp_path / "plain.csv", order, header=False)
    assert authors_split(plain, final).tolist() == authors_split(path, final).tolist()
    with pytest.raises(ValueError, match="not a permutation of the 120 rows"):
        authors_split(write_split(tmp_path / "short.csv", order[1:], header=False), final)
    with pytest.raises(ValueError, match="not a file of row numbers"):
        authors_split(folder / "layout.csv", final)


def test_nan_rows_are_named(small_cnn, tmp_path, capsys):
    folder = small_cnn()
    rows = json.loads((folder / "rows.json").read_text())
    bad = next(i for i, (_, step) in enumerate(rows) if step == 86)
    weights = np.load(folder / "weights.npy")
    weights[bad, 7] = np.inf
    np.save(folder / "weights.npy", weights)
    assert "11 networks" in import_zoo(SmallCnnLayout(folder), tmp_path / "zoo.h5")
    assert f"weights.npy, row {bad}: has weights that are NaN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("layout.csv", b"varname,start_idx,end_idx,shape\na/kernel:0,0,9,__import__('os').system('x')\n", "describe"),
        ("layout.csv", b'varname,start_idx,end_idx,shape\na/kernel:0,0,4,"(2, 2)"\n', "chain of layers that fill"),
        ("layout.csv", b'varname,start_idx,end_idx,shape\na/gamma:0,0,4,"(4,)"\n', "neither a kernel nor a bias"),
        ("metrics.csv.gz", b"step\n86\n", "damaged or not a gzipped CSV"),
        ("metrics.csv.gz", gzip.compress(b"step\n86\n" * 50)[:10] + b"\xff" * 40, "damaged or not a gzipped CSV"),
        ("metrics.csv.gz", gzip.compress(b"step\n" + bytes(10**7)), "more than 4096 bytes for each of"),
        ("weights.npy", b"hello", "damaged, cut off or not an array"),
    ],
)
def test_bad_files(small_cnn, file, content, message):
    folder = small_cnn()
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        SmallCnnLayout(folder)


def test_what_to_give(small_cnn, tmp_path):
    folder = small_cnn()
    with pytest.raises(ValueError, match=r"no network has step 40 .* There are steps \[0, 20, 86\]"):
        SmallCnnLayout(folder, step=40)
    (folder / "weights.npy").unlink()
    with pytest.raises(ValueError, match=r"has no weights\.npy: give the folder that the archive unpacks to"):
        SmallCnnLayout(folder)
    np.save(folder / "weights.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="not an array of numbers"):
        SmallCnnLayout(folder)


@pytest.mark.parametrize("name", ["weights.npy", "metrics.csv.gz", "layout.csv"])
def test_links_and_pipes_are_refused(small_cnn, tmp_path, name):
    folder = small_cnn()
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=f"{name}' is a link to .*this one is refused"):
        SmallCnnLayout(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"{name}' is a device"):
        SmallCnnLayout(folder)


@pytest.mark.parametrize("line", ['a/kernel:0,0,1000000000000000,"(1,)"', 'a/bias:0,-1000000000000000,0,"(1,)"'])
def test_places_are_checked_against_the_width(small_cnn, line):
    """Before as many numbers are made."""
    folder = small_cnn()
    (folder / "layout.csv").write_text(f"varname,start_idx,end_idx,shape\n{line}\n")
    with pytest.raises(ValueError, match="its variables don't fit a row of 4970 numbers"):
        SmallCnnLayout(folder)
