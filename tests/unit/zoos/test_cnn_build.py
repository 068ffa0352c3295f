"""Zoos of classifiers: built, resumed, in shards; their columns, and what a task gets of them."""

import json

import numpy as np
import pytest

from nfbench.report.zoo import describe
from nfbench.zoos import cnn_build
from nfbench.zoos.cnn import CnnZoo, check_spec
from nfbench.zoos.shards import Shard, build_shard, merge_shards
from nfbench.zoos.statistics import inspect_zoo
from nfbench.zoos.store import read_zoo

CNN = "1-16c3-16c3-16c3-10:relu"


@pytest.fixture
def make_zoo(tmp_path, monkeypatch):
    """12 runs of 3 checkpoints on doubled digits, in chunks of 3 runs; keyword arguments override."""
    monkeypatch.setattr(cnn_build, "RUNS_A_THREAD", 3)
    monkeypatch.setattr(cnn_build, "CHUNK_IMAGES", dict.fromkeys(cnn_build.CHUNK_IMAGES, 1))

    def make(name: str = "zoo", **overrides) -> CnnZoo:
        values = {
            "source": "digits",
            "spec": CNN,
            "size": "tiny",
            "num_runs": 12,
            "epochs": 2,
            "fit_batch_size": 100,
            "num_train": 300,
            "num_eval": 100,
            "zoo_dir": str(tmp_path),
            "file": str(tmp_path / f"{name}.h5"),
            "threads": 1,
        }
        return CnnZoo(**{**values, **overrides})

    return make


def assert_same(first, second) -> None:
    for name in ("params", "label", "index", "view"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert first.extra.keys() == second.extra.keys()
    for name, values in first.extra.items():
        assert np.array_equal(values, second.extra[name]), name
    assert first.manifest == second.manifest
    assert first.attributes == second.attributes


def test_columns_are_those_of_the_published_zoo(make_zoo):
    zoo = make_zoo()
    zoo.prepare_data()
    data = read_zoo(zoo.path)
    assert data.params.shape == (36, 4970)
    assert data.index.tolist() == np.repeat(range(12), 3).tolist()
    assert data.view.tolist() == [0, 1, 2] * 12
    assert (data.label == -1).all()
    published = {
        "config.activation", "config.b_init", "config.dataset", "config.dnn_architecture", "config.dropout",
        "config.epochs", "config.init_std", "config.l2reg", "config.learning_rate", "config.num_layers",
        "config.num_units", "config.optimizer", "config.random_seed", "config.train_fraction", "config.w_init", "step",
        "test_accuracy", "test_loss", "train_accuracy", "train_loss",
    }  # fmt: skip
    assert set(data.extra) == published | {"config.attempt"}
    assert data.extra["step"].tolist() == [0, 1, 2] * 12
    assert set(data.extra["config.activation"]) == {"relu", "tanh"}
    assert data.extra["config.num_units"].tolist() == [16] * 36
    accuracy = data.extra["test_accuracy"]
    assert (accuracy >= 0).all()
    assert (accuracy <= 1).all()
    assert data.manifest["num_networks"] == 36


def test_a_resumed_build_is_the_same(make_zoo, monkeypatch):
    whole, broken = make_zoo("whole"), make_zoo("broken")
    whole.prepare_data()
    real, calls = cnn_build.train_runs, []

    def killed(*args, **kwargs):
        calls.append(args[3])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(cnn_build, "train_runs", killed)
    with pytest.raises(KeyboardInterrupt):
        broken.prepare_data()
    assert not broken.path.exists()
    broken.prepare_data()
    assert calls == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [6, 7, 8], [9, 10, 11]]
    assert_same(read_zoo(whole.path), read_zoo(broken.path))


def test_merged_shards_are_the_same(make_zoo):
    whole, parts, other = make_zoo("whole"), make_zoo("parts"), make_zoo("other", zoo_seed=1)
    whole.prepare_data()
    for shard in ("2/2", "1/2"):
        said = build_shard(parts.path, parts.plan, Shard.parse(shard), parts.data_dir, 1)
    assert "merge joins them" in said
    assert "mean test accuracy" in said
    assert_same(read_zoo(whole.path), merge_shards(parts.path, parts.plan, parts.data_dir))
    other.prepare_data()
    with pytest.raises(AssertionError):
        assert_same(read_zoo(whole.path), read_zoo(other.path))
    with pytest.raises(ValueError, match="holds another zoo"):
        make_zoo("other").prepare_data()


def test_a_damaged_chunk_is_named(make_zoo):
    zoo = make_zoo()
    build_shard(zoo.path, zoo.plan, Shard(1, 1), zoo.data_dir, 1)
    folder = zoo.path.with_name("zoo.h5.partial")
    chunk = folder / "chunk-00001.npz"
    content = dict(np.load(chunk))
    np.savez(chunk, **{**content, "index": content["index"] + 1})
    with pytest.raises(ValueError, match=r"chunk-00001\.npz does not hold the networks"):
        merge_shards(zoo.path, zoo.plan, zoo.data_dir)


def test_batches_for_a_task(make_zoo):
    zoo = make_zoo(standardize="layer", steps="all", batch_size=4)
    zoo.prepare_data()
    zoo.setup("fit")
    data, seen = read_zoo(zoo.path), {}
    loaders = {"train": zoo.train_dataloader(), "val": zoo.val_dataloader(), "test": zoo.test_dataloader()}
    for name, loader in loaders.items():
        for batch in loader:
            seen.setdefault(name, []).extend(batch.index.tolist())
            rows = batch.index * 3 + batch.view
            assert np.array_equal(batch.target, data.extra["test_accuracy"][rows])
            assert zoo.groups(batch.index, batch.view) == data.extra["config.activation"][rows].tolist()
    assert sum(map(len, seen.values())) == 36
    assert len(set().union(*seen.values())) == sum(len(set(runs)) for runs in seen.values()) == 12
    assert zoo.protocol["definition"].startswith("built:tiny+")
    assert zoo.protocol["runs"] == 12


def test_mlps_are_split_by_run(make_zoo):
    zoo = make_zoo(spec="256-8-10:relu", checkpoints=2, num_runs=20, epochs=3, steps="all", num_train=100)
    zoo.prepare_data()
    zoo.setup("fit")
    data = read_zoo(zoo.path)
    assert data.params.shape == (40, 256 * 8 + 8 + 90)
    assert data.extra["config.dnn_architecture"].tolist() == ["fcn"] * 40
    assert data.extra["config.num_layers"].tolist() == [1] * 40
    assert [len(part) for part in zoo.split.parts.values()] == [16, 2, 2]
    assert sorted(zoo.split.test) == [4, 14]
    assert (np.diff(data.extra["step"].reshape(20, 2)) > 0).all()


def test_inspection(make_zoo):
    zoo = make_zoo()
    zoo.prepare_data()
    facts = inspect_zoo(zoo.path, "data", zoo.plan.manifest()).facts
    data = read_zoo(zoo.path)
    final = data.extra["test_accuracy"][data.extra["step"] == 2]
    assert facts["accuracy"]["2"]["50"] == pytest.approx(float(np.median(final)), rel=1e-6)
    assert list(facts["accuracy"]) == ["0", "1", "2"]
    text = describe(json.loads(json.dumps(facts)))
    assert "36 networks" in text
    assert "12 runs, no classes, up to 3 checkpoints" in text
    assert "test accuracy, epoch   2:" in text


def test_names(make_zoo, tmp_path):
    assert make_zoo(file=None).path.name == (
        "cnn_digits-tiny+num_runs=12+epochs=2+fit_batch_size=100+num_train=300+num_eval=100.h5"
    )
    plain = {"source": "mnist", "size": "cpu", "zoo_dir": str(tmp_path)}
    assert CnnZoo(spec=CNN, **plain).path == tmp_path / "cnn_mnist-cpu.h5"
    assert CnnZoo(spec=CNN, **plain, epochs=18).path == tmp_path / "cnn_mnist-cpu.h5", "the size's own number"
    assert CnnZoo(spec="784-128-128-10:relu", **plain, zoo_seed=2).path.name == "784-128-128-10_mnist-cpu-seed2.h5"


def test_images_that_are_too_small():
    assert check_spec("1-16c3-16c3-16c3-10:relu", "digits").num_params == 4970
    with pytest.raises(ValueError, match="digits has too few pixels"):
        check_spec("1-16c3-16c3-16c3-16c3-10:relu", "digits")


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ("3-16c3-10:relu", "cifar10"),
        ("784-10:relu", "cifar10"),
        ("1-16c3-16c3:relu", "mnist"),
        ("784-128-9:relu", "mnist"),
    ],
)
def test_networks_that_do_not_fit(spec, source):
    with pytest.raises(ValueError, match=f"does not classify {source}"):
        check_spec(spec, source)
    assert check_spec("1024-128-10:relu", "cifar10").num_params == 1024 * 128 + 128 + 1290
