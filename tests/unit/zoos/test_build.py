"""Builds that are killed, disturbed, or meet files that are not theirs."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from killed_builds import kill_with_chunks

from nfbench.zoos import SirenZoo, build, store
from nfbench.zoos.images import ImageSet, source_info
from nfbench.zoos.store import COLUMNS, read_zoo

# A build with small chunks; argument 2 makes it slow, and argument 3 lets it wait for its end after so many of them.
SCRIPT = """
import sys, time
from nfbench.zoos import SirenZoo, build
build.CHUNK_NETWORKS = 16
real = build.fit_sirens
left = int(sys.argv[3])
def slow(*args, **kwargs):
    global left
    time.sleep(float(sys.argv[2]) if left else 3600)
    left -= 1
    return real(*args, **kwargs)
build.fit_sirens = slow
SirenZoo(source="digits", definition="digits", num_images=150, num_views=2, num_steps=20, zoo_dir=sys.argv[1],
         file_name="tiny", threads=1).prepare_data()
"""


def start_build(folder: Path, delay: float = 0.0, chunks: int = 1000) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(delay), str(chunks)]
    root = Path(build.__file__).parents[2]
    return subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def columns(path: Path) -> dict:
    data = read_zoo(path)
    return {name: getattr(data, name) for name in COLUMNS}


def test_killed_build_continues_and_is_identical(tmp_path):
    whole = start_build(tmp_path / "whole")
    killed = start_build(tmp_path / "killed", chunks=3)
    partial = tmp_path / "killed" / "tiny.h5.partial"
    kill_with_chunks(killed, partial, 3)
    assert not (tmp_path / "killed" / "tiny.h5").exists()
    # As kills in the middle of a write leave them.
    (partial / ".chunk-00009.npz.1.tmp").write_bytes(b"half a chunk")
    (tmp_path / "killed" / ".tiny.h5.1a2b3c4d.tmp").write_bytes(b"half a zoo")

    again = start_build(tmp_path / "killed")
    out, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    assert f"{16 * 3} kept" in out
    assert whole.wait(300) == 0
    whole.communicate()
    first, second = columns(tmp_path / "whole" / "tiny.h5"), columns(tmp_path / "killed" / "tiny.h5")
    for name in COLUMNS:
        np.testing.assert_array_equal(first[name], second[name])
    assert not partial.exists()
    assert not list((tmp_path / "killed").glob(".*.tmp"))


def test_two_builds_at_once(tmp_path):
    builds = [start_build(tmp_path, 0.05) for _ in range(2)]
    outputs = [b.communicate(timeout=300) for b in builds]
    assert [b.returncode for b in builds] == [0, 0], outputs
    assert sum("networks" in out for out, _ in outputs) == 1, "one process builds, the other finds it whole"
    assert len(read_zoo(tmp_path / "tiny.h5").label) > 150


def test_chunks_make_no_difference(make_zoo, monkeypatch):
    make_zoo(file_name="one").prepare_data()
    monkeypatch.setattr(build, "CHUNK_NETWORKS", 7)
    zoo = make_zoo(file_name="many")
    zoo.prepare_data()
    first, second = columns(zoo.path.with_name("one.h5")), columns(zoo.path)
    for name in COLUMNS:
        np.testing.assert_array_equal(first[name], second[name])


def test_smaller_zoo_is_part_of_a_larger(make_zoo):
    small, large = make_zoo(file_name="small"), make_zoo(file_name="large", num_images=60, num_views=3)
    small.prepare_data()
    large.prepare_data()
    a, b = columns(small.path), columns(large.path)
    where = {key: row for row, key in enumerate(zip(b["index"].tolist(), b["view"].tolist(), strict=True))}
    rows = [where[key] for key in zip(a["index"].tolist(), a["view"].tolist(), strict=True)]
    for name in COLUMNS:
        np.testing.assert_array_equal(a[name], b[name][rows])


def test_other_recipe_under_the_same_name(make_zoo):
    make_zoo().prepare_data()
    other = make_zoo(num_steps=30, num_views=1)
    before = other.path.read_bytes()
    with pytest.raises(ValueError, match="another zoo") as error:
        other.prepare_data()
    text = str(error.value)
    assert "recipe.num_steps: asked for 30, the file has 20" in text
    assert "num_views: asked for 1, the file has 2" in text
    assert "zoo.file_name" in text
    assert other.path.read_bytes() == before


def test_unfinished_build_of_another_zoo(make_zoo, monkeypatch):
    zoo = make_zoo()
    monkeypatch.setattr(store.PartialZoo, "assemble", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        zoo.prepare_data()
    with pytest.raises(ValueError, match=r"unfinished build of another zoo[^$]*num_steps: asked for 30"):
        make_zoo(num_steps=30).prepare_data()
    assert list(zoo.path.with_name("tiny.h5.partial").glob("chunk-*"))


def test_unfinished_build_of_other_images(make_zoo, monkeypatch):
    """Exact and approximate CIFAR-10 images have the same names, but never share a zoo."""
    zoo = make_zoo()
    with monkeypatch.context() as patch:
        patch.setattr(store.PartialZoo, "assemble", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            zoo.prepare_data()
    real = build.load_images
    monkeypatch.setattr(build, "load_images", lambda *args: replace(real(*args), fingerprint="other"))
    with pytest.raises(ValueError, match=r"unfinished build of another zoo[^$]*images: asked for other"):
        zoo.prepare_data()


def test_ctrl_c_says_what_is_kept_and_goes_on(make_zoo, monkeypatch, capsys):
    monkeypatch.setattr(build, "CHUNK_NETWORKS", 16)
    real, calls = build.fit_sirens, []

    def stopped(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(build, "fit_sirens", stopped)
    zoo = make_zoo()
    with pytest.raises(KeyboardInterrupt):
        zoo.prepare_data()
    assert "16 of 50 networks are kept; run the same command again" in capsys.readouterr().err
    monkeypatch.setattr(build, "CHUNK_NETWORKS", 20)  # the chunks that are there decide
    zoo.prepare_data()
    assert "16 kept from an earlier build" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["mnist", "fashion", "cifar10"])
def test_a_kill_loses_ten_seconds_at_most(source, tmp_path, monkeypatch):
    """The kernel takes about 17 us for a step of 784 pixels x 1185 parameters on 2 cores."""
    seen = []

    def note(path, manifest, count, chunk, images, shared):
        seen.append(chunk)
        raise KeyboardInterrupt

    shape = source_info(source).shape
    monkeypatch.setattr(build, "PartialZoo", note)
    monkeypatch.setattr(build, "choose_backend", lambda *args: "kernel")
    monkeypatch.setattr(build, "load_images", lambda *args: ImageSet(np.zeros((1, *shape)), np.zeros(1), "", ""))
    zoo = SirenZoo(source=source, definition="nfn", zoo_dir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        zoo.prepare_data()
    network = 17e-6 * zoo.recipe.num_steps * (shape[0] * shape[1] / 784) * (zoo.spec.num_params / 1185)
    assert 3 < seen[0] * network < 11


DAMAGES = ["truncated", "text", "empty", "foreign", "rows", "folder", "flipped", "manifest", "list"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_file_that_is_no_whole_zoo(make_zoo, damage):
    make_zoo().prepare_data()
    zoo = make_zoo()
    content = zoo.path.read_bytes()
    if damage == "foreign":
        with h5py.File(zoo.path, "w") as file:
            file["x"] = np.zeros(3)
    elif damage == "rows":
        with h5py.File(zoo.path, "r+") as file:
            label = file["label"][1:]
            del file["label"]
            file["label"] = label
    elif damage == "flipped":  # a byte in the middle of the weights
        with h5py.File(zoo.path, "r") as file:
            block = file["params"].id.get_chunk_info(0)
        at = block.byte_offset + block.size // 2
        zoo.path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif damage in ("manifest", "list"):
        with h5py.File(zoo.path, "r+") as file:
            file.attrs["manifest"] = "{" if damage == "manifest" else "[1, 2]"
    elif damage == "folder":
        zoo.path.unlink()
        zoo.path.mkdir()
    else:
        zoo.path.write_bytes({"truncated": content[: len(content) // 2], "text": b"hello", "empty": b""}[damage])
    before = zoo.path.read_bytes() if zoo.path.is_file() else None
    with pytest.raises(ValueError, match=r"not a whole zoo|not a zoo|lacks networks") as error:
        zoo.prepare_data()
    assert "It was not changed" in str(error.value)
    assert before is None or zoo.path.read_bytes() == before


def test_damaged_metadata_never_escapes(make_zoo):
    """Bytes turned over anywhere: the zoo's own error, or a whole read of a part that holds nothing of the zoo."""
    zoo = make_zoo()
    zoo.prepare_data()
    content = zoo.path.read_bytes()
    messages = []
    for at in range(0, len(content), len(content) // 150):
        zoo.path.write_bytes(content[:at] + bytes(255 - b for b in content[at : at + 8]) + content[at + 8 :])
        try:
            read_zoo(zoo.path, zoo.plan.manifest())
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(str(zoo.path) in message for message in messages)


def test_nan_weights_are_counted(make_zoo):
    zoo = make_zoo()
    zoo.prepare_data()
    with h5py.File(zoo.path, "r+") as file:
        file["params"][3, :2] = np.nan
        file["params"][5, 0] = np.inf
    with pytest.raises(ValueError, match="3 weights that are NaN or infinite, in 2 of"):
        make_zoo().prepare_data()


def test_diverged_fit_is_an_error(make_zoo):
    zoo = make_zoo(lr=1e38)
    with pytest.raises(ValueError, match=r"diverged.*zoo\.lr"):
        zoo.prepare_data()
    assert not zoo.path.exists()


def test_no_space_keeps_what_is_done(make_zoo, monkeypatch):
    monkeypatch.setattr(build, "CHUNK_NETWORKS", 10)
    real, calls = np.savez, []

    def full_disk(*args, **kwargs):
        calls.append(1)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*args, **kwargs)

    monkeypatch.setattr(store.np, "savez", full_disk)
    zoo = make_zoo()
    with pytest.raises(ValueError, match=r"No space left on device[^$]*2 of \d chunks are kept"):
        zoo.prepare_data()
    assert sorted(p.name for p in zoo.path.with_name("tiny.h5.partial").iterdir()) == [
        "chunk-00000.npz", "chunk-00001.npz", "manifest.json",
    ]  # fmt: skip
    monkeypatch.setattr(store.np, "savez", real)
    zoo.prepare_data()
    assert zoo.path.exists()


def test_no_space_for_the_file_itself(make_zoo, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    zoo = make_zoo()
    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", full_disk)
        with pytest.raises(ValueError, match="No space left on device"):
            zoo.prepare_data()
    assert not zoo.path.exists()
    zoo.prepare_data()


def test_folder_that_cannot_be_made(make_zoo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="cannot write the zoo") as error:
        make_zoo(zoo_dir=str(tmp_path / "file" / "zoos")).prepare_data()
    assert "zoo_dir=" in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(make_zoo, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(ValueError, match="Permission denied"):
        make_zoo(zoo_dir=str(folder)).prepare_data()


def test_damaged_chunk_is_named(make_zoo, monkeypatch):
    zoo = make_zoo()
    with monkeypatch.context() as patch:
        patch.setattr(store.PartialZoo, "assemble", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            zoo.prepare_data()
    chunk = zoo.path.with_name("tiny.h5.partial") / "chunk-00000.npz"
    chunk.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"chunk-00000\.npz is damaged"):
        zoo.prepare_data()
