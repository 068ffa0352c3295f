"""Zoos built in shards: the same as whole ones, whatever is started twice, killed, missing or damaged."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from killed_builds import kill_with_chunks

from nfbench.zoos import SirenZoo, build
from nfbench.zoos.shards import Shard, build_shard, merge_shards
from nfbench.zoos.store import file_lock, read_zoo

# Argument 1: folder; 2: shard; 3: seconds before each chunk.
SCRIPT = """
import sys, time
from nfbench.zoos import SirenZoo, build
from nfbench.zoos.shards import Shard, build_shard
real = build.fit_sirens
left = int(sys.argv[4])
def slow(*args, **kwargs):
    global left
    time.sleep(float(sys.argv[3]) if left else 3600)  # it waits there to be killed
    left -= 1
    return real(*args, **kwargs)
build.fit_sirens = slow
zoo = SirenZoo(source="digits", definition="digits", num_images=150, num_views=2, num_steps=20, zoo_dir=sys.argv[1],
               file_name="tiny", threads=1)
build.CHUNK_NETWORKS = 16
print(build_shard(zoo.path, zoo.plan, Shard.parse(sys.argv[2]), zoo.data_dir, 1))
"""


def start(folder: Path, shard: str, delay: float = 0.0, chunks: int = 1000) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), shard, str(delay), str(chunks)],
        cwd=Path(build.__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def build_one(zoo: SirenZoo, shard: str) -> str:
    return build_shard(zoo.path, zoo.plan, Shard.parse(shard), zoo.data_dir, 1)


def assert_same_datasets(first: Path, second: Path) -> None:
    """Names, types and bytes of all datasets, and what the zoos say about themselves."""
    with h5py.File(first) as a, h5py.File(second) as b:
        assert set(a) == set(b)
        for name in a:
            assert a[name].dtype == b[name].dtype
            assert a[name][()].tobytes() == b[name][()].tobytes(), name
        assert dict(a.attrs) == dict(b.attrs)


@pytest.fixture
def shards_zoo(make_zoo, monkeypatch):
    """A zoo of 5 chunks of 10 networks."""
    monkeypatch.setattr(build, "SMALLEST_CHUNK", 10)
    monkeypatch.setattr(build, "CHUNK_NETWORKS", 10)
    return make_zoo()


def test_merged_shards_are_what_one_process_builds(shards_zoo, make_zoo):
    whole = make_zoo(file_name="whole")
    whole.prepare_data()
    for shard in ("3/3", "1/3", "2/3"):
        build_one(shards_zoo, shard)
        assert not shards_zoo.path.exists()
    data = merge_shards(shards_zoo.path, shards_zoo.plan, shards_zoo.data_dir)
    assert len(data.label) == len(whole.plan.networks()[0])
    assert_same_datasets(whole.path, shards_zoo.path)
    assert not shards_zoo.path.with_name("tiny.h5.partial").exists()
    assert "the whole zoo is there" in build_one(shards_zoo, "1/3")
    assert len(merge_shards(shards_zoo.path, shards_zoo.plan, shards_zoo.data_dir).label) == len(data.label)


def test_other_networks_are_not_the_same(make_zoo):
    """The comparison above can fail."""
    one, other = make_zoo(file_name="one"), make_zoo(file_name="other", zoo_seed=1)
    one.prepare_data()
    other.prepare_data()
    with pytest.raises(AssertionError):
        assert_same_datasets(one.path, other.path)


def test_shards_side_by_side_and_one_twice(tmp_path):
    jobs = [start(tmp_path / "shards", shard, 0.1) for shard in ("1/2", "2/2", "2/2")]
    alone = start(tmp_path / "alone", "1/1")
    for job in (*jobs, alone):
        out, error = job.communicate(timeout=300)
        assert job.returncode == 0, error
        assert "PSNR" in out
    paths = [tmp_path / name / "tiny.h5" for name in ("shards", "alone")]
    for path in paths:
        zoo = SirenZoo(source="digits", definition="digits", num_images=150, num_views=2, num_steps=20,
                       zoo_dir=str(path.parent), file_name="tiny")  # fmt: skip
        merge_shards(path, zoo.plan, zoo.data_dir)
    assert_same_datasets(*paths)


def test_a_killed_shard_goes_on(tmp_path):
    job = start(tmp_path, "1/2", chunks=2)
    partial = tmp_path / "tiny.h5.partial"
    kill_with_chunks(job, partial, 2)
    out, error = start(tmp_path, "1/2").communicate(timeout=300)
    assert "kept from an earlier build" in out, error
    names = sorted(path.name for path in partial.glob("chunk-*.npz"))
    assert names == [f"chunk-{number:05d}.npz" for number in range(0, 2 * len(names), 2)]


def test_missing_shards_are_named(shards_zoo):
    with pytest.raises(ValueError, match=r"nothing of .* has been built yet"):
        merge_shards(shards_zoo.path, shards_zoo.plan, shards_zoo.data_dir)
    build_one(shards_zoo, "2/4")
    with pytest.raises(ValueError, match=r"Build these shards, then merge again: 1/4 \(\d of its chunks\), 3/4 .*4/4"):
        merge_shards(shards_zoo.path, shards_zoo.plan, shards_zoo.data_dir)
    assert not shards_zoo.path.exists()
    build_one(shards_zoo, "1/3")
    with pytest.raises(ValueError, match=r"several counts were built here: 3, 4\). Build without merge"):
        merge_shards(shards_zoo.path, shards_zoo.plan, shards_zoo.data_dir)
    shards_zoo.prepare_data()  # a whole build takes the shards over
    assert len(read_zoo(shards_zoo.path).label) == 50


def test_the_first_process_decides_the_chunks(shards_zoo, monkeypatch):
    """Machines of other speed choose other sizes; all chunks of a zoo have the first one's."""
    build_one(shards_zoo, "1/2")
    monkeypatch.setattr(build, "SMALLEST_CHUNK", 3)
    monkeypatch.setattr(build, "CHUNK_NETWORKS", 3)
    build_one(shards_zoo, "2/2")
    merge_shards(shards_zoo.path, shards_zoo.plan, shards_zoo.data_dir)


@pytest.mark.parametrize(("num_shards", "most"), [(3, 10), (4, 2048), (7, 5)])
def test_shards_have_the_same_number_of_chunks(make_zoo, monkeypatch, num_shards, most):
    monkeypatch.setattr(build, "SMALLEST_CHUNK", 1)
    monkeypatch.setattr(build, "CHUNK_NETWORKS", most)
    zoo = make_zoo(num_images=200)
    made = build.ZooBuild(zoo.path, zoo.plan, zoo.data_dir, num_shards=num_shards)
    parts = [Shard(number, num_shards).chunks(made.partial.num_chunks) for number in range(1, num_shards + 1)]
    assert sorted(number for part in parts for number in part) == list(range(made.partial.num_chunks))
    assert made.partial.chunk <= most
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert min(map(len, parts)) >= 1


def spoil(path: Path, name: str) -> None:
    with np.load(path) as file:
        columns = {key: file[key] for key in file.files}
    columns[name] = columns[name] + np.nan if name == "params" else columns[name] + 1
    np.savez(path, **columns)


@pytest.mark.parametrize("name", ["params", "index", "view", "label"])
def test_merging_checks_what_chunks_hold(shards_zoo, name):
    for shard in ("1/2", "2/2"):
        build_one(shards_zoo, shard)
    chunk = shards_zoo.path.with_name("tiny.h5.partial") / "chunk-00001.npz"
    spoil(chunk, name)
    with pytest.raises(ValueError, match=r"chunk-00001\.npz does not hold the networks that belong there: delete"):
        merge_shards(shards_zoo.path, shards_zoo.plan, shards_zoo.data_dir)
    assert not shards_zoo.path.exists()
    chunk.unlink()
    build_one(shards_zoo, "2/2")
    merge_shards(shards_zoo.path, shards_zoo.plan, shards_zoo.data_dir)


def test_another_recipe_is_another_zoo(shards_zoo, make_zoo):
    build_one(shards_zoo, "1/2")
    with pytest.raises(ValueError, match=r"unfinished build of another zoo[^$]*num_steps: asked for 30"):
        build_one(make_zoo(num_steps=30), "2/2")


def hold(path: Path, held, release) -> None:
    with file_lock(path):
        held.set()
        release.wait(30)


def test_a_chunk_that_another_process_builds_is_left_to_it_and_waited_for(shards_zoo):
    build_one(shards_zoo, "2/2")
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    lock = shards_zoo.path.with_name("tiny.h5.partial") / "chunk-00000.lock"
    other = context.Process(target=hold, args=(lock, held, release))
    other.start()
    assert held.wait(30)
    real, order = build.ZooBuild.finish_chunk, []

    def note(self, number, progress):
        order.append(number)
        release.set()
        real(self, number, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.ZooBuild, "finish_chunk", note)
        build_one(shards_zoo, "1/2")
    other.join()
    assert len(order) > 1
    assert order[-1] == 0, "the others first"
    merge_shards(shards_zoo.path, shards_zoo.plan, shards_zoo.data_dir)


@pytest.mark.parametrize("text", ["0/16", "17/16", "3", "3/", "a/b", "-1/3", "1/2/3", ""])
def test_bad_shards_say_how_they_are_numbered(text):
    with pytest.raises(ValueError, match=r"numbered from 1, such as 1/16, \.\.\. 16/16"):
        Shard.parse(text)
    assert Shard.parse("3/16") == Shard(3, 16)


def test_a_shard_without_a_chunk(shards_zoo):
    assert "0 networks" in build_one(shards_zoo, "60/60")
