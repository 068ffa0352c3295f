"""The file of measures while it is being made, and which networks are ranked."""

import runpy
from pathlib import Path

import h5py
import numpy as np
import pytest

from nfbench.zoos.measures import PartialMeasures, measures_lock, read_measures
from nfbench.zoos.store import ZooData, file_lock

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[3] / "scripts" / "measure_zoo.py"))
ABOUT = {"zoo": "a", "settings": {}}


def started(path: Path) -> PartialMeasures:
    partial = PartialMeasures(path, ABOUT, 2)
    for number in range(2):
        partial.write(number, {"l2_norm": np.float32([number, 2])})
    return partial


def test_a_whole_file(tmp_path):
    partial = started(tmp_path / "m.h5")
    partial.assemble(np.arange(1, 5), 5)
    columns, about = read_measures(tmp_path / "m.h5")
    np.testing.assert_array_equal(columns["l2_norm"], [np.nan, 0, 2, 1, 2])
    assert about == ABOUT
    assert not partial.folder.exists()


def test_a_damaged_chunk_is_named(tmp_path):
    partial = started(tmp_path / "m.h5")
    (partial.folder / "chunk-00001.npz").write_bytes(b"PK junk")
    with pytest.raises(ValueError, match=r"chunk-00001\.npz is damaged .*delete this file and run again"):
        partial.assemble(np.arange(4), 4)
    assert (partial.folder / "chunk-00000.npz").exists()


def test_chunks_of_unknown_settings_are_not_used(tmp_path):
    partial = started(tmp_path / "m.h5")
    (partial.folder / "about.json").unlink()
    with pytest.raises(ValueError, match=r"chunks but no about\.json"):
        PartialMeasures(tmp_path / "m.h5", {"zoo": "b", "settings": {}}, 2)


def test_links_are_refused(tmp_path):
    started(tmp_path / "m.h5").assemble(np.arange(4), 4)
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file["other"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "params")
    with pytest.raises(ValueError, match="not a plain dataset"):
        read_measures(tmp_path / "m.h5")


def test_one_process_at_a_time(tmp_path):
    lock = tmp_path / "m.h5.lock"
    with measures_lock(tmp_path / "m.h5"), file_lock(lock, wait=False) as held:
        assert not held
    with file_lock(lock, wait=False) as held:
        assert held


def test_the_script_holds_the_lock(tmp_path, monkeypatch):
    """Whatever it measures, nobody else does at that time."""
    seen = []

    class Noted(PartialMeasures):
        def __init__(self, path, *rest):
            with file_lock(path.with_name(path.name + ".lock"), wait=False) as held:
                seen.append(held)
            raise ValueError("far enough")

    spec, count = "1-2c3-10:relu", 4
    data = ZooData(
        np.zeros((count, 50), np.float32), np.full(count, -1), np.arange(count), np.zeros(count, np.int64),
        {"test_accuracy": np.zeros(count, np.float32)}, {"spec": spec, "source": "digits"}, {"manifest": "{}"},
    )  # fmt: skip
    main = SCRIPT["main"]
    monkeypatch.setitem(main.__globals__, "PartialMeasures", Noted)
    monkeypatch.setitem(main.__globals__, "read_zoo", lambda path: data)
    monkeypatch.setitem(main.__globals__, "zoo_path", lambda words: tmp_path / "zoo.h5")
    with pytest.raises(ValueError, match="far enough"):
        main(["zoo.h5", "--images", "10"])
    assert seen == [False]


def test_all_steps_of_the_test_runs_are_ranked():
    """In the authors' split only final networks have a part; their runs' other checkpoints come along."""
    index = np.repeat(np.arange(10), 3)
    final = np.tile([False, False, True], 10)
    part = np.where(index < 4, "train", np.where(index < 6, "val", "test"))
    accuracy = np.linspace(0, 1, 30).astype(np.float32)
    extra = {"test_accuracy": accuracy, "split": np.where(final, part, "none")}
    data = ZooData(np.zeros((30, 1), np.float32), np.full(30, -1), index, np.tile(np.arange(3), 10), extra, {}, {})
    for rows, count in ((np.arange(30), 12), (np.flatnonzero(final), 4)):
        found = SCRIPT["rank"](data, {"l2_norm": -accuracy}, rows)
        assert found["test_networks"] == found["table"][0]["networks"] == count
        assert found["table"][0]["tau_accuracy"] == pytest.approx(-1)
