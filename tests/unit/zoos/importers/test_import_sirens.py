"""NFN's, DWSNets' and Neural Field Arena's SIRENs: every published layout, and renderings against the networks."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from archives import DwsInr, NfnSiren, grid, nfn_files, saved, write_folder, write_tar, write_zip
from torch import Tensor, nn

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.fit import pixel_grid, render_flat
from nfbench.zoos.importers import ArenaLayout, DwsLayout, NfnLayout, import_zoo
from nfbench.zoos.importers.nfn import guess_source
from nfbench.zoos.recipe import SirenRecipe
from nfbench.zoos.selection import choose_split
from nfbench.zoos.store import ZooData, read_zoo


def render(data: ZooData, height: int, width: int) -> Tensor:
    """All networks of a zoo, (N, P, channels) in float64, by nothing but what its file says."""
    recipe = SirenRecipe(**data.manifest["recipe"])
    coords = torch.from_numpy(pixel_grid(height, width, recipe.grid))
    torch.testing.assert_close(coords.double(), grid(height, width, recipe.grid), rtol=0, atol=1e-7)
    sizes = NetworkSpec.parse(data.manifest["spec"]).sizes
    return render_flat(torch.from_numpy(data.params).double(), sizes, grid(height, width, recipe.grid), recipe)


def direct(nets: Sequence[nn.Module], order: str, size: int = 28) -> Tensor:
    """What the original classes compute, in float64."""
    with torch.no_grad():
        return torch.stack([net.double()(grid(size, size, order)) for net in nets])


def keys(data: ZooData) -> list[tuple[int, int, int]]:
    return list(zip(data.index.tolist(), data.view.tolist(), data.label.tolist(), strict=True))


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "zip", "folder"])
def test_nfn_layout(nfn_nets, tmp_path, kind):
    files = nfn_files(nfn_nets) | {"siren_mnist_wts/README": b"hello", "siren_mnist_wts/.net5.pth": b"junk"}
    write = {"tar": write_tar, "zip": write_zip, "folder": write_folder}
    if kind in write:
        path = write[kind](tmp_path / "siren_mnist_wts", files)
    else:
        path = write_tar(tmp_path / f"siren_mnist_wts.{kind}", files, f"w:{kind[4:]}")
    line = import_zoo(NfnLayout(path), tmp_path / "zoo.h5")
    assert "6 networks of 2-32-32-1:sine, 0 broken, 2 other files" in line
    data = read_zoo(tmp_path / "zoo.h5")
    # copies never replace first networks, though their folders' names begin alike
    assert keys(data) == [(0, 0, 0), (5, 0, 7), (5, 2, 7), (11, 0, 7), (59_999, 0, 2), (59_999, 4, 7)]
    by_key = {(index, copy + 1): net for (_, index, copy), net in nfn_nets.items()}
    nets = [by_key[index, view] for index, view, _ in keys(data)]
    images = (direct(nets, "ij") + 1) / 2
    torch.testing.assert_close(render(data, 28, 28), images, rtol=0, atol=1e-9)
    assert not torch.allclose(render(data, 28, 28)[1], images[2], atol=1e-3), "the views differ"
    assert data.manifest["split"] == "nfn"
    assert data.manifest["definition"] == "nfn"


def test_nfn_cifar_has_three_channels(tmp_path):
    torch.manual_seed(1)
    net = NfnSiren(channels=3)
    path = write_tar(tmp_path / "siren_cifar_wts.tar", nfn_files({(3, 50_000, -1): net}, "siren_cifar_wts"))
    import_zoo(NfnLayout(path), tmp_path / "zoo.h5")
    data = read_zoo(tmp_path / "zoo.h5")
    assert data.manifest["source"] == "cifar10"
    torch.testing.assert_close(render(data, 32, 32), (direct([net], "ij", 32) + 1) / 2, rtol=0, atol=1e-9)


def test_nfn_source_must_be_known(tmp_path, nfn_nets):
    path = write_tar(tmp_path / "weights.tar", nfn_files(nfn_nets))
    with pytest.raises(ValueError, match="add --source, one of"):
        NfnLayout(path)
    assert NfnLayout(path, source="fashion").manifest["source"] == "fashion"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("siren_mnist_wts.tar", "mnist"), ("mnist-inrs.zip", "mnist"), ("MNIST", "mnist"), ("fmnist_inrs", "fashion"),
        ("siren_fashion_wts.tar", "fashion"), ("FashionMNIST", "fashion"), ("fashion_mnist", "fashion"),
        ("siren_cifar_wts.tar", "cifar10"), ("CIFAR10", "cifar10"), ("cifar-10", "cifar10"),
        ("siren_cifar100_wts.tar", None), ("cifar_100", None), ("kmnist", None), ("EMNIST", None), ("mnist3d", None),
        ("cifar.100", None), ("siren_cifar(100)", None), ("CIFAR 100", None), ("siren_cifar_wts_2.tar", "cifar10"),
    ],
)  # fmt: skip
def test_the_source_is_a_whole_word_of_the_name(name, source):
    if source:
        assert guess_source(Path(name)) == source
    else:
        with pytest.raises(ValueError, match="doesn't tell which images these are: add --source"):
            guess_source(Path(name))


def test_the_folder_above_names_no_other_images(arena):
    folder, _ = arena("MNIST", 1)
    above = folder.parent / "mnist"
    above.mkdir()
    for name, known in (("KMNIST", False), ("fields", True)):
        moved = folder.rename(above / name)
        if known:
            assert ArenaLayout(moved).manifest["source"] == "mnist"
        else:
            with pytest.raises(ValueError, match="KMNIST doesn't tell which images these are: add --source"):
                ArenaLayout(moved)
        folder = moved


def test_fields_of_other_channels_than_the_images_of_their_name(arena):
    folder, _ = arena("MNIST", 3)
    with pytest.raises(ValueError, match=r"holds fields of 3 channels, and images of mnist have 1: say with --source"):
        ArenaLayout(folder)


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_dws_mnist_layout(tmp_path, write):
    torch.manual_seed(2)
    nets = {"training_2_23089": DwsInr(), "testing_9_17": DwsInr(), "training_0_5": DwsInr()}
    files = {f"mnist-inrs/mnist_png_{k}/checkpoints/model_final.pth": saved(n.state_dict()) for k, n in nets.items()}
    files |= {"__MACOSX/mnist-inrs/mnist_png_training_0_6/checkpoints/model_final.pth": b"junk"}
    import_zoo(DwsLayout(write(tmp_path / "mnist-inrs", files)), tmp_path / "zoo.h5")
    data = read_zoo(tmp_path / "zoo.h5")
    assert keys(data) == [(5, 0, 0), (23_089, 0, 2), (60_017, 0, 9)]
    order = [nets["training_0_5"], nets["training_2_23089"], nets["testing_9_17"]]
    torch.testing.assert_close(render(data, 28, 28), direct(order, "xy"), rtol=0, atol=1e-9)
    assert data.manifest["split"] == "dws"
    assert "split" not in data.extra


@pytest.mark.parametrize("label", [4, torch.tensor(4)])
def test_dws_fashion_layout(tmp_path, label):
    torch.manual_seed(3)
    nets = [DwsInr() for _ in range(4)]
    names = ["train/model_7.pth", "train/model_10.pth", "test/model_7.pth", "train/model_8.pth"]
    files = {
        f"fmnist_inrs/{name}": saved({**net.state_dict(), "label": label})
        for name, net in zip(names, nets, strict=True)
    }
    split = {"train": ["/home/u/fmnist_inrs/train/model_7.pth"], "val": ["/home/u/fmnist_inrs/train/model_10.pth"],
             "test": ["/home/u/fmnist_inrs/test/model_7.pth"]}  # fmt: skip
    files["fmnist_inrs/splits.json"] = json.dumps(split).encode()
    import_zoo(DwsLayout(write_zip(tmp_path / "fmnist_inrs.zip", files)), tmp_path / "zoo.h5")
    data = read_zoo(tmp_path / "zoo.h5")
    assert keys(data) == [(7, 0, 4), (8, 0, 4), (10, 0, 4), (60_007, 0, 4)]
    assert data.extra["split"].tolist() == ["train", "none", "val", "test"]
    images = direct([nets[i] for i in (0, 3, 1, 2)], "xy")
    torch.testing.assert_close(render(data, 28, 28), images, rtol=0, atol=1e-9)


def test_dws_without_label_or_with_a_bad_split(tmp_path):
    files = {"train/model_1.pth": saved(DwsInr().state_dict()), "train/model_2.pth": saved({"label": 3})}
    for name, label in (("3", float("inf")), ("4", 2**70)):
        files[f"train/model_{name}.pth"] = saved({**DwsInr().state_dict(), "label": label})
    said = (
        r"train/model_1.pth: has no label(.|\n)*model_3.pth: has no label: inf(.|\n)*model_4.pth: has the label 11805"
    )
    with pytest.raises(ValueError, match=rf"all 4 networks are broken:\s+{said}"):
        import_zoo(DwsLayout(write_zip(tmp_path / "fmnist.zip", files)), tmp_path / "zoo.h5")
    with pytest.raises(ValueError, match=r"splits\.json is not a split"):
        DwsLayout(write_zip(tmp_path / "fmnist_2.zip", files | {"splits.json": b'{"train": 3}'}))
    with pytest.raises(ValueError, match="mnist and fashion only"):
        DwsLayout(tmp_path / "cifar.zip")


def arena_field(params: np.ndarray, coords: Tensor, w0: float, channels: int) -> Tensor:
    """A field as flax computes it: x @ kernel + bias, from the row in the order of param_config."""
    sizes, at, x = (2, 5, 5, channels), 0, coords
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        bias = torch.from_numpy(params[at : at + outputs])
        kernel = torch.from_numpy(params[at + outputs : at + outputs + inputs * outputs]).reshape(inputs, outputs)
        at += outputs * (inputs + 1)
        x = x @ kernel + bias
        x = torch.sin(w0 * x) if i < 2 else x
    return x


@pytest.mark.parametrize("channels", [1, 3])
def test_arena_layout(arena, tmp_path, channels):
    folder, params = arena("MNIST" if channels == 1 else "CIFAR10", channels)
    import_zoo(ArenaLayout(folder, num_signals=5), tmp_path / "zoo.h5")
    data = read_zoo(tmp_path / "zoo.h5")
    assert data.manifest["spec"] == f"2-5-5-{channels}:sine"
    # seven fields of five images: the last two are second views
    assert keys(data) == [(0, 0, 0), (0, 1, 5), (1, 0, 1), (1, 1, 6), (2, 0, 2), (3, 0, 3), (4, 0, 4)]
    fields = params[[0, 5, 1, 6, 2, 3, 4]]
    images = torch.stack([arena_field(row, grid(28, 28, "xy"), 8.0, channels) for row in fields.astype(np.float64)])
    if channels == 1:
        images = images * data.manifest["pixel_std"][0] + data.manifest["pixel_mean"][0]  # to [0, 1], as they fitted
    torch.testing.assert_close(render(data, 28, 28), images, rtol=0, atol=1e-9)


def test_arena_needs_w0_and_sirens(arena):
    folder, _ = arena(nef=False)
    with pytest.raises(ValueError, match="give it with --w0"):
        ArenaLayout(folder)
    assert ArenaLayout(folder, w0=30).manifest["recipe"]["w0_first"] == 30
    for file in folder.glob("*.hdf5"):
        with h5py.File(file, "r+") as data:
            data["param_config"][0] = json.dumps([("linears_0.kernel", (2, 5))])
    with pytest.raises(ValueError, match="only SIRENs are imported"):
        ArenaLayout(folder, w0=30)
    with pytest.raises(ValueError, match=r"has no files such as nefs_0-2000\.hdf5"):
        ArenaLayout(folder.parent, w0=30)


def test_arena_broken_rows_and_files(arena, tmp_path, capsys):
    folder, _ = arena(count=9, per_file=3)
    with h5py.File(folder / "nefs_0-3.hdf5", "r+") as file:
        file["params"][1, 2] = np.nan
    (folder / "nefs_3-6.hdf5").write_bytes(b"not HDF5")
    line = import_zoo(ArenaLayout(folder), tmp_path / "zoo.h5")
    assert "5 networks" in line
    assert "2 broken" in line
    error = capsys.readouterr().err
    assert "nefs_0-3.hdf5, row 1: has weights that are NaN" in error
    assert "nefs_3-6.hdf5: cannot be read" in error
    assert read_zoo(tmp_path / "zoo.h5").index.tolist() == [0, 2, 6, 7, 8]
    with pytest.raises(ValueError, match=r"nefs_0-3.hdf5, row 1"):
        import_zoo(ArenaLayout(folder), tmp_path / "strict.h5", strict=True)


def test_arena_refuses_data_of_other_files(arena, tmp_path, capsys):
    folder, params = arena(count=6, per_file=3)
    secret = Path(tmp_path / "secret.hdf5")
    with h5py.File(secret, "w") as file:
        file["params"] = params[:3]
    with h5py.File(folder / "nefs_0-3.hdf5", "r+") as file:
        del file["params"]
        file["params"] = h5py.ExternalLink(str(secret), "params")
    import_zoo(ArenaLayout(folder), tmp_path / "zoo.h5")
    assert "not a plain dataset of this file: refused" in capsys.readouterr().err
    assert read_zoo(tmp_path / "zoo.h5").index.tolist() == [3, 4, 5]


@pytest.mark.parametrize("name", ["nefs_4-7.hdf5", "nef.json"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_arena_refuses_links_and_pipes(arena, tmp_path, name, kind):
    folder, _ = arena()
    (folder / name).rename(tmp_path / "outside")
    if kind == "link":
        (folder / name).symlink_to(tmp_path / "outside")
    else:
        os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"{name}' is a (link to|device).*this one is refused"):
        ArenaLayout(folder)
    if name != "nef.json" and kind == "pipe":
        with pytest.raises(ValueError, match="is a device"):
            ArenaLayout(folder / name)


def test_nfn_refuses_a_link_as_its_description(tmp_path, nfn_nets):
    folder = write_folder(tmp_path / "mnist", nfn_files(nfn_nets))
    (tmp_path / "secret.json").write_text('{"manifest": {"source": "fashion"}}')
    (folder / "zoo.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ValueError, match=r"zoo\.json' is a link to .*this one is refused"):
        NfnLayout(folder)


def test_arena_rows_that_were_never_written(arena, tmp_path, capsys):
    """A file of some KB can declare so many that the list of their blocks alone fills the memory."""
    folder, _ = arena(count=6, per_file=3)
    with h5py.File(folder / "nefs_3-6.hdf5", "r+") as file:
        width = file["params"].shape[1]
        del file["params"]
        file.create_dataset("params", (10**15, width), np.float32, chunks=(1, width))
    import_zoo(ArenaLayout(folder), tmp_path / "zoo.h5")
    assert "nefs_3-6.hdf5: cannot be read: 'params' (1000000000000000, " in capsys.readouterr().err
    assert read_zoo(tmp_path / "zoo.h5").index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"shape": (3, 10**12), "chunks": (1, 1)}, "'labels' (3, 1000000000000) would be 24000000000000 bytes, and 0 "),
        ({"data": np.zeros((3, 4), np.int64)}, "has 12 labels for 3 networks"),
    ],
)
def test_arena_labels_of_another_number(arena, tmp_path, capsys, labels, said):
    folder, _ = arena(count=6, per_file=3)
    with h5py.File(folder / "nefs_3-6.hdf5", "r+") as file:
        del file["labels"]
        file.create_dataset("labels", **{"dtype": np.int64, **labels})
    import_zoo(ArenaLayout(folder), tmp_path / "zoo.h5")
    text = capsys.readouterr().err
    assert "nefs_3-6.hdf5: " in text
    assert said in text


@pytest.mark.parametrize("shape", [(2, 10**14), (10**7, 10**7, 10**7), (-2, -5)])
def test_arena_shapes_are_checked_against_the_rows(arena, shape):
    folder, _ = arena()
    for path in folder.glob("*.hdf5"):
        with h5py.File(path, "r+") as file:
            file["param_config"][0] = json.dumps([("kernel_net_0.linear.kernel", shape)])
    with pytest.raises(
        ValueError, match=r"has the shape .* of 'kernel_net_0\.linear\.kernel': too much for 51 numbers"
    ):
        ArenaLayout(folder)


@pytest.mark.parametrize("source", ["celeba", "digits"])
def test_arena_of_other_images_says_only_what_is_known(arena, tmp_path, source):
    folder, _ = arena(count=20, per_file=20)
    with h5py.File(folder / "nefs_0-20.hdf5", "r+") as file:
        file["labels"][:] = 0
    import_zoo(ArenaLayout(folder, source=source, num_signals=20), tmp_path / "zoo.h5")
    data = read_zoo(tmp_path / "zoo.h5")
    assert "split" not in data.manifest
    assert choose_split(data, None) == "tens"
    assert data.manifest["recipe_known"] == ["widths", "w0_first", "w0_hidden", "grid", "output_offset"]
    assert "pixel_mean" not in data.manifest
    old = replace(data, manifest={**data.manifest, "split": "official"})  # as imports said before
    assert choose_split(old, None) == "tens"


def test_arena_of_known_images_keeps_its_split_and_range(arena):
    for name, channels, split in (("MNIST", 1, "dws"), ("CIFAR10", 3, "official")):
        said = ArenaLayout(arena(name, channels)[0]).manifest
        assert said["split"] == split
        assert {"pixel_min", "pixel_max"} < set(said["recipe_known"])
        assert said["pixel_mean"]
