"""Zoos of classifiers: what a batch holds, who is in which part, and what standardisation keeps."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_cnn_archive import write_archive

from nfbench.config.build import build_zoo
from nfbench.weightspace import NetworkSpec, NeuronPermutation, WeightSpaceFeatures, random_features
from nfbench.zoos.classifiers import _STREAM, ClassifierZoo, final, moments, split_runs
from nfbench.zoos.importers import FolderLayout, SmallCnnLayout, import_zoo
from nfbench.zoos.store import ZooData, fingerprint, read_zoo

SPEC = "1-16c3-16c3-16c3-10:relu"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """final.h5 (authors' split, final networks), all.h5 (the same, all steps), plain.h5 (all steps, no split)."""
    folder = tmp_path_factory.mktemp("classifiers")
    archive = write_archive(folder / "cifar10", runs=50, steps=(0, 20, 86))
    split = folder / "cifar10_split.csv"
    import_zoo(SmallCnnLayout(archive, split_csv=split), folder / "final.h5")
    import_zoo(SmallCnnLayout(archive, step=None, split_csv=split), folder / "all.h5")
    import_zoo(SmallCnnLayout(archive, step=None), folder / "plain.h5")
    return folder


@pytest.fixture
def make(files):
    def make(name: str = "final.h5", **changes) -> ClassifierZoo:
        settings = {
            "file": str(files / name), "source": "cifar10", "spec": SPEC, "steps": "final", "num_networks": None,
            "standardize": "none", "augment_permute": False, "augment_noise": 0.0, "augment_dropout": 0.0,
            "batch_size": 7, "eval_batch_size": 16, "seed": 0,
        }  # fmt: skip
        return ClassifierZoo(**{**settings, **changes})

    return make


def loaded(zoo: ClassifierZoo) -> ClassifierZoo:
    zoo.prepare_data()
    zoo.setup("fit")
    return zoo


def epoch_of(zoo: ClassifierZoo, epoch: int):
    loader = zoo.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def parts_of(zoo: ClassifierZoo) -> dict[str, list[tuple[int, int]]]:
    batches = {"train": epoch_of(zoo, 0), "val": zoo.val_dataloader(), "test": zoo.test_dataloader()}
    return {
        part: [pair for b in found for pair in zip(b.index.tolist(), b.view.tolist(), strict=True)]
        for part, found in batches.items()
    }


def test_batches_are_the_files_networks(make, files):
    zoo, data = loaded(make()), read_zoo(files / "final.h5")
    row = {int(run): i for i, run in enumerate(data.index)}
    for loader in (epoch_of(zoo, 0), zoo.val_dataloader(), zoo.test_dataloader()):
        for batch in loader:
            rows = [row[i] for i in batch.index.tolist()]
            assert torch.equal(batch.features.flatten()[..., 0], torch.from_numpy(data.params[rows]))
            assert batch.target.dtype == torch.float32
            assert torch.equal(batch.target, torch.from_numpy(data.extra["test_accuracy"][rows]))
            assert zoo.groups(batch.index, batch.view) == data.extra["config.activation"][rows].tolist()
    assert str(zoo.spec) == SPEC


def test_the_authors_split_is_kept(make, files):
    zoo, data = loaded(make()), read_zoo(files / "final.h5")
    for part, pairs in parts_of(zoo).items():
        assert {run for run, _ in pairs} == set(data.index[data.extra["split"] == part].tolist())
    assert [len(p) for p in parts_of(zoo).values()] == [20, 5, 25]
    assert zoo.protocol["split"] == "the file's own"
    assert (zoo.protocol["num_networks"], zoo.protocol["num_test"]) == (50, 25)


@pytest.mark.parametrize("name", ["all.h5", "plain.h5"])
def test_all_checkpoints_of_a_run_are_in_one_part(make, name):
    parts = parts_of(loaded(make(name, steps="all")))
    runs = {part: {run for run, _ in pairs} for part, pairs in parts.items()}
    assert [len(found) for found in runs.values()] == [20, 5, 25]
    assert len(set.union(*runs.values())) == 50, "no run is in two parts"
    for part, pairs in parts.items():
        assert sorted(pairs) == [(run, view) for run in sorted(runs[part]) for view in range(3)]


def test_final_networks_of_a_file_with_all(make):
    assert {part: sorted(run for run, _ in pairs) for part, pairs in parts_of(loaded(make("all.h5"))).items()} == {
        part: sorted(run for run, _ in pairs) for part, pairs in parts_of(loaded(make())).items()
    }
    assert {view for pairs in parts_of(loaded(make("all.h5"))).values() for _, view in pairs} == {2}


def test_the_last_network_of_each_run():
    """Runs end after different steps; without steps the last view counts. A run with one unknown step has others."""
    index, view = np.array([7, 3, 3, 7, 3, 5]), np.array([0, 1, 0, 1, 2, 0])
    empty = np.zeros((6, 1), np.float32)

    def last(manifest: dict[str, str], **extra: np.ndarray) -> list[int]:
        return np.flatnonzero(final(ZooData(empty, index, index, view, extra, manifest, {}))).tolist()

    folder = {"layout": "folder"}
    assert last(folder, step=np.array([10, 20, 10, 40, 30, 5])) == [3, 4, 5]
    assert last(folder, step=np.array([10, np.nan, 10, 40, np.nan, np.nan])) == [2, 3]
    assert last(folder) == [3, 4, 5]
    assert last({"kind": "classifiers"}, step=np.array([10, 20, 10, 40, 30, 5])) == [3, 4, 5]
    assert last({"layout": "small_cnn"}, step=np.array([86, 20, 10, 40, 86, 5])) == [0, 4], "as published"


@pytest.mark.parametrize("numbers", [[-3, 4, 8, 15, 16, 23], [20231206101112000 + i for i in range(6)]])
def test_runs_may_have_any_numbers(numbers):
    split, _ = split_runs(np.repeat(numbers, 2), None)
    assert sorted(np.concatenate([split.train, split.val, split.test]).tolist()) == numbers


def test_the_rule_is_half_and_80_20():
    index = np.repeat(np.arange(31), 2)
    split, rule = split_runs(index, None)
    order = np.random.Generator(np.random.PCG64(_STREAM)).permutation(31).tolist()
    first = order[:15]
    random.Random(0).shuffle(first)
    assert split.train.tolist() == first[:12]
    assert split.val.tolist() == first[12:]
    assert split.test.tolist() == order[15:]
    assert "by run" in rule


def test_subsets_are_nested(make):
    whole = loaded(make()).split
    before: dict[str, set[int]] = {"train": set(), "val": set(), "test": set()}
    for count in (10, 11, 30, 50):
        split = loaded(make(num_networks=count)).split
        parts = {part: set(runs.tolist()) for part, runs in split.parts.items()}
        assert sum(map(len, parts.values())) == count
        assert all(before[part] <= parts[part] <= set(whole.parts[part].tolist()) for part in parts)
        before = parts
    with pytest.raises(ValueError, match=r"zoo\.num_networks=51: this split has 50 runs"):
        loaded(make(num_networks=51))


def test_standardisation_is_of_the_training_networks(make, files):
    data = read_zoo(files / "final.h5")
    train = data.params[data.extra["split"] == "train"].astype(np.float64)
    entry = loaded(make(standardize="entry")).tables
    np.testing.assert_allclose(entry.ready, (data.params - train.mean(0)) / train.std(0), rtol=1e-4, atol=1e-5)
    layer = loaded(make(standardize="layer")).tables
    for where in entry.spec.scalar_slices():
        wanted = (data.params[:, where] - train[:, where].mean()) / train[:, where].std()
        np.testing.assert_allclose(layer.ready[:, where], wanted, rtol=1e-4, atol=1e-5)
    assert "breaks" in make(standardize="entry").protocol["standardized"]
    assert make(standardize="layer").protocol["standardized"] == "layer"


def test_a_position_of_one_value_is_only_shifted():
    spec = NetworkSpec.parse("1-2:relu")
    train = torch.tensor([[1.0, 5.0, 0.0, 2.0], [3.0, 5.0, 0.0, 2.0]])
    mean, std, _ = moments(spec, train, "entry")
    assert mean.tolist() == [2.0, 5.0, 0.0, 2.0]
    assert std.tolist() == [1.0, 1.0, 1.0, 1.0]
    with_spread = moments(spec, train * 2, "entry")[1]
    assert with_spread.tolist() == [2.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("standardize", "keeps"), [("none", True), ("layer", True), ("entry", False)])
def test_which_standardisation_keeps_the_symmetry(standardize, keeps):
    generator = torch.Generator().manual_seed(0)
    spec = NetworkSpec.parse("2-5-4-3:relu")
    networks = random_features(spec, 30, 1, generator, torch.float64).flatten()[..., 0] * torch.rand(
        spec.num_params, generator=generator, dtype=torch.float64
    )
    mean, std, _ = moments(spec, networks, standardize)
    permutation = NeuronPermutation.sample(spec, 30, generator)

    def standardized(features: WeightSpaceFeatures) -> WeightSpaceFeatures:
        return WeightSpaceFeatures.from_flat(spec, (features.flatten()[..., 0] - mean) / std)

    features = WeightSpaceFeatures.from_flat(spec, networks)
    one = standardized(permutation.apply(features)).flatten()
    other = permutation.apply(standardized(features)).flatten()
    assert torch.allclose(one, other, rtol=1e-9) == keeps


def test_augmentations_are_of_training_and_repeat(make):
    plain = loaded(make())
    zoo = loaded(make(augment_permute=True))
    assert "permute" in zoo.protocol["augmentations"]
    for a, b in zip(zoo.val_dataloader(), plain.val_dataloader(), strict=True):
        assert torch.equal(a.features.flatten(), b.features.flatten())
    for a, b, c in zip(epoch_of(zoo, 1), epoch_of(zoo, 1), epoch_of(plain, 1), strict=True):
        moved, raw = a.features.flatten(), c.features.flatten()
        assert torch.equal(moved, b.features.flatten())
        assert not torch.equal(moved, raw)
        assert torch.equal(a.index, c.index)
        for layer, other in zip(a.features.weights, c.features.weights, strict=True):
            assert torch.equal(layer.flatten(1).sort(1).values, other.flatten(1).sort(1).values), "the same numbers"


def test_noise_and_dropout_have_their_strengths(make):
    plain = torch.cat([b.features.flatten() for b in epoch_of(loaded(make()), 0)])[..., 0]
    noisy = torch.cat([b.features.flatten() for b in epoch_of(loaded(make(augment_noise=0.2)), 0)])[..., 0]
    spread = loaded(make(augment_noise=0.2)).tables.spread
    assert ((noisy - plain) / spread).std().item() == pytest.approx(0.2, rel=0.02)
    thin = torch.cat([b.features.flatten() for b in epoch_of(loaded(make(augment_dropout=0.3)), 0)])[..., 0]
    assert (thin == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_the_order_depends_on_seed_and_epoch(make):
    def order(zoo: ClassifierZoo, epoch: int) -> list[int]:
        return [i for b in epoch_of(zoo, epoch) for i in b.index.tolist()]

    zoo = loaded(make())
    assert order(zoo, 0) == order(zoo, 0)
    assert order(zoo, 0) != order(zoo, 1)
    assert order(loaded(make(seed=1)), 0) != order(zoo, 0)
    assert sorted(order(zoo, 0)) == sorted(order(zoo, 1))


def test_the_protocol_is_known_before_the_data(make):
    zoo = make()
    before = zoo.protocol
    assert before.items() <= loaded(zoo).protocol.items()
    assert all(isinstance(value, str | int | float | bool) for value in zoo.protocol.values())
    assert "imported from" in zoo.protocol["origin"]


def changed(data: ZooData, **columns) -> ZooData:
    return replace(data, extra={k: v for k, v in {**data.extra, **columns}.items() if v is not None})


def test_networks_without_accuracy_are_left_out(make, files, monkeypatch, caplog):
    data = read_zoo(files / "final.h5")
    accuracy = data.extra["test_accuracy"].copy()
    accuracy[3] = np.nan
    zoo = make()
    monkeypatch.setattr(zoo, "_open", lambda: changed(data, test_accuracy=accuracy))
    with caplog.at_level("INFO"):
        assert loaded(zoo).protocol["num_networks"] == 49
    assert "1 networks have no test_accuracy" in caplog.text
    assert int(data.index[3]) not in zoo.split.all_images.tolist()


def test_files_that_do_not_fit(make, files, monkeypatch):
    data = read_zoo(files / "all.h5")
    percent = changed(data, test_accuracy=data.extra["test_accuracy"] * 100)
    nothing = changed(data, test_accuracy=None)
    twice = data.extra["split"].copy()
    twice[:3] = ["train", "val", "test"]
    for wrong, message in (
        (percent, "shares between 0 and 1, not percent"),
        (nothing, "no column test_accuracy"),
        (changed(data, test_accuracy=np.full(len(data.params), "91%")), "must hold numbers"),
        (changed(data, split=twice), "one run in two parts"),
        (changed(data, split=np.where(data.extra["split"] == "val", "none", data.extra["split"])), "at least one"),
    ):
        zoo = make("all.h5", steps="all")
        monkeypatch.setattr(zoo, "_open", lambda wrong=wrong: wrong)
        with pytest.raises(ValueError, match=message):
            loaded(zoo)
    with pytest.raises(ValueError, match=r"holds networks 1-16c3.*set zoo\.spec"):
        loaded(make(spec="1-8c3-10:relu"))
    assert loaded(make(spec=SPEC.replace("relu", "tanh"))).protocol["num_networks"] == 50


def test_what_to_do_without_a_file(make, tmp_path):
    with pytest.raises(ValueError, match=r"get svhn_cropped\.tar\.xz .*svhn_split\.csv(.|\n)*small_cnn svhn_cropped"):
        make(source="svhn", file=str(tmp_path / "none.h5")).prepare_data()
    with pytest.raises(ValueError, match=r"fashion_mnist_split\.csv --step all"):
        make(source="fashion", steps="all", file=str(tmp_path / "none.h5")).prepare_data()
    with pytest.raises(ValueError, match=r"import_zoo\.py .*and name it with zoo\.file"):
        make(source="mine", file=str(tmp_path / "none.h5")).prepare_data()
    with pytest.raises(ValueError, match="not loaded yet"):
        make().split  # noqa: B018


def test_a_file_says_what_it_holds(make, files, tmp_path, composed, monkeypatch):
    spec = NetworkSpec.parse("4-3-10:tanh")
    for i, state in enumerate(random_features(spec, 12, 1, torch.Generator().manual_seed(0)).to_state_dicts()):
        torch.save(state, tmp_path / f"{i}.pth")
    lines = [f"{i}.pth,{i / 20}\n" for i in range(12)]
    (tmp_path / "labels.csv").write_text("".join(["file,test_accuracy\n", *lines]))
    import_zoo(FolderLayout(tmp_path, activation="tanh", source="wines"), tmp_path / "mine.h5")
    zoo = loaded(build_zoo(composed("zoo=classifier_file", f"zoo.file={tmp_path / 'mine.h5'}").zoo))
    assert (str(zoo.spec), zoo.source) == ("4-3-10:tanh", "wines")
    assert (zoo.protocol["dataset"], zoo.protocol["definition"]) == ("wines", "imported (folder)")
    assert [zoo.protocol[f"num_{part}"] for part in ("train", "val", "test")] == [4, 2, 6]
    batch = next(iter(zoo.test_dataloader()))
    assert torch.equal(batch.target, batch.index.float() / 20)
    same = loaded(make("final.h5", source=None, spec=None)).protocol
    assert same == loaded(make("final.h5")).protocol
    assert same["definition"] == "small_cnn"
    fashion = replace(read_zoo(files / "final.h5"), manifest={"layout": "small_cnn", "source": "fashion_mnist"})
    monkeypatch.setattr(ClassifierZoo, "_open", lambda zoo: fashion)
    assert make(source=None).source == "fashion", "as zoo=small_cnn_fashion says it"
    monkeypatch.undo()
    named = loaded(make(str(tmp_path / "mine.h5"), source="mine", spec="4-3-10:relu")).protocol
    assert (named["dataset"], named["definition"]) == ("mine", "imported (folder)"), "not the published zoo"


@pytest.mark.parametrize(("file", "message"), [("null", "zoo.file names no file"), ("no.h5", "there is no zoo no.h5")])
def test_a_file_that_should_say_what_it_holds_is_needed(composed, file, message):
    with pytest.raises(ValueError, match=f"{message}(.|\n)*import_zoo.py"):
        build_zoo(composed("zoo=classifier_file", f"zoo.file={file}").zoo)


def test_another_file_than_the_one_meant(make, files):
    known = fingerprint(read_zoo(files / "final.h5").attributes)
    assert loaded(make(fingerprint=known)).protocol["num_networks"] == 50
    with pytest.raises(ValueError, match="was exchanged"):
        make(fingerprint="0" * 16).prepare_data()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "last"}, "final, all"),
        ({"standardize": "weights"}, "none, layer, entry"),
        ({"batch_size": 0}, "must be 1 or more"),
        ({"augment_noise": -1.0}, "0 or more"),
    ],
)
def test_bad_options_say_what_is_allowed(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
