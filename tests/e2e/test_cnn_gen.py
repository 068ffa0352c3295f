"""From an archive in the published layout to a result: import, training, resume, the baseline of trees."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_cnn_archive import write_archive

from nfbench import train
from nfbench.config.build import build_zoo
from nfbench.report.run_folder import RunFolder
from nfbench.tasks.cnn_gen import CnnGeneralization
from nfbench.tasks.scores import kendall_tau, regression_scores
from nfbench.zoos.classifiers import ClassifierTables

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def zoo_dir(tmp_path_factory) -> Path:
    """A folder with small_cnn_cifar10.h5, imported with the script from an archive of 80 runs."""
    folder = tmp_path_factory.mktemp("small_cnn")
    archive = write_archive(folder / "cifar10", runs=80)
    command = ["scripts/import_zoo.py", "small_cnn", str(archive), "--split-csv", str(folder / "cifar10_split.csv")]
    out = ["--out", str(folder / "small_cnn_cifar10.h5")]
    subprocess.run([sys.executable, *command, *out], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def quick(zoo_dir, tmp_path) -> list[str]:
    return ["task=cnn_gen", "model=statnn", "zoo=small_cnn_cifar10", "model.width=32", "trainer.max_epochs=4",
            "threads=1", "logger=csv", f"zoo_dir={zoo_dir}", f"output_dir={tmp_path / 'outputs'}"]  # fmt: skip


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open() as handle:
        return list(csv.DictReader(handle))


def test_the_command_line(cli, quick, tmp_path) -> None:
    done = cli(*quick)
    assert done.returncode == 0, done.stderr
    assert "test/kendall_tau" in done.stdout
    (folder,) = (tmp_path / "outputs" / "cnn_gen").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    metrics = summary["metrics"]
    wanted = {*CnnGeneralization.metrics} - {f"val/{name}" for name in ("r2", "l1", "loss")}
    groups = {f"test/{score}/{name}" for score in ("kendall_tau", "r2", "l1") for name in ("relu", "tanh")}
    assert set(metrics) == wanted | groups
    tau, most = metrics["test/kendall_tau"], metrics["test/kendall_tau_max"]
    assert metrics["test/kendall_tau_share"] == pytest.approx(tau / most)
    assert 0 < most < 1, "some networks are at chance"
    assert (summary["num_train"], summary["num_val"], summary["num_test"]) == (32, 8, 40)
    assert summary["steps"] == "final"
    assert (folder / summary["picture"]).stat().st_size > 10_000
    rows = rows_of(folder)
    assert list(rows[0]) == ["index", "view", "true", "predicted", "activation"]
    for name in ("relu", "tanh", None):
        part = [row for row in rows if name in (None, row["activation"])]
        scores = regression_scores(*([float(row[key]) for row in part] for key in ("true", "predicted")))
        for score, value in scores.items():
            assert metrics[f"test/{score}" + (f"/{name}" if name else "")] == pytest.approx(value, abs=1e-5)


def test_it_learns_and_cannot_from_shuffled_targets(composed, quick, job, monkeypatch) -> None:
    cfg = composed(*quick, "trainer.max_epochs=30", "model.width=128", "task.lr=5e-3")
    right = train.run(cfg, job("right"))["metrics"]
    original = ClassifierTables.__init__

    def shuffled(self, zoo, data, device) -> None:
        original(self, zoo, data, device)
        rows = self.rows_of(self.split.train)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        self.label[rows] = self.label[rows][order]

    monkeypatch.setattr(ClassifierTables, "__init__", shuffled)
    wrong = train.run(cfg, job("wrong"))["metrics"]
    assert right["test/kendall_tau"] > 0.75
    assert right["test/kendall_tau"] > wrong["test/kendall_tau"] + 0.1
    assert right["test/l1"] < 0.05 < wrong["test/l1"]


EVERYTHING = ["zoo.augment_permute=true", "zoo.augment_noise=0.1", "zoo.augment_dropout=0.1", "model.dropout=0.2",
              "task.ema_decay=0.9", "task.schedule=cosine", "task.warmup_steps=1"]  # fmt: skip


def test_resume_is_exact(composed, quick, job, stop, assert_same_run) -> None:
    cfg = composed(*quick, *EVERYTHING)
    whole, part = job("whole"), job("part")
    summary = train.run(cfg, whole)
    stop(cfg, part, 2, 1)
    again = train.run(cfg, part)
    assert again["metrics"] == summary["metrics"]
    assert again["examples_seen"] == summary["examples_seen"] == 4 * 32
    assert_same_run(whole.folder, part.folder)


def test_the_best_epoch_is_that_of_validation_tau(composed, quick, job) -> None:
    summary = train.run(composed(*quick), job("best"))
    with (job("best").folder / "metrics.csv").open() as handle:
        taus = [float(row["val/kendall_tau"]) for row in csv.DictReader(handle)]
    assert summary["best_epoch"] == taus.index(max(taus))
    assert summary["metrics"]["val/kendall_tau"] == pytest.approx(max(taus), abs=1e-5)


TREES = ["model=gbm", "model.num_trees=40", "model.depths=[2,3]"]


@pytest.fixture
def trees(quick) -> list[str]:
    return [word for word in quick if not word.startswith("model")] + TREES


def test_trees_run_as_any_model_does(composed, trees, job) -> None:
    cfg = composed(*trees, "trainer.max_epochs=50")
    summary = train.run(cfg, job("gbm"))
    assert summary["epochs"] == 1, "there is nothing to train after the fit"
    assert summary["params"] == 0
    assert summary["metrics"]["test/kendall_tau"] > 0.75
    folder = RunFolder(job("gbm").folder)
    assert folder.best.exists()
    rows = rows_of(folder.path)
    assert len(rows) == 40
    true, predicted = ([float(row[key]) for row in rows] for key in ("true", "predicted"))
    assert kendall_tau(true, predicted) == pytest.approx(summary["metrics"]["test/kendall_tau"], abs=1e-6)
    assert train.run(cfg, job("gbm")) == summary, "the same command again"


def test_trees_that_were_stopped_go_on(composed, trees, job, monkeypatch) -> None:
    cfg = composed(*trees)
    whole = train.run(cfg, job("whole"))
    with monkeypatch.context() as patch:
        patch.setattr(train, "write_predictions", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            train.run(cfg, job("part"))
    with monkeypatch.context() as patch:
        patch.setattr("nfbench.tasks.cnn_gen.fit_trees", lambda *_, **__: pytest.fail("the checkpoint has the trees"))
        again = train.run(cfg, job("part"))
    assert again["metrics"] == whole["metrics"]


def test_what_does_not_go_together(composed, quick, trees, job, small) -> None:
    with pytest.raises(ValueError, match=r"task=cnn_gen needs a zoo with group_name"):
        train.run(composed(*small, "task=cnn_gen", "zoo=siren_digits"), job("a"))
    with pytest.raises(ValueError, match=r"task=inr_cls needs a zoo with num_classes"):
        train.run(composed(*quick, "task=inr_cls", "zoo=small_cnn_cifar10"), job("b"))
    with pytest.raises(ValueError, match="predicts one number of each network"):
        train.run(composed(*small, "model=gbm"), job("c"))
    with pytest.raises(ValueError, match=r"task\.metric=test/tau is unknown; did you mean"):
        train.run(composed(*quick, "task.metric=test/tau"), job("d"))
    with pytest.raises(ValueError, match=r"task\.schedule='linear' is unknown"):
        train.run(composed(*quick, "task.schedule=linear"), job("e"))


@pytest.mark.parametrize("name", ["nfn_hnp", "nfn_np", "nft", "statnn", "gbm"])
def test_the_published_settings(composed, quick, job, name: str) -> None:
    cfg = composed(f"experiment=cnn_gen_{name}")
    assert (cfg.zoo.batch_size, cfg.trainer.max_epochs, cfg.zoo.steps) == (8, 50, "final")
    assert cfg.zoo.standardize == {"nfn_np": "entry", "nft": "layer"}.get(name, "none")
    assert build_zoo(cfg.zoo).protocol["access"] == "weights"
    sizes = {"nft": ["model.width=8", "model.num_blocks=1"], "statnn": ["model.width=8"], "gbm": TREES[1:]}
    own = [word for word in quick if word.split("=")[0] in ("zoo_dir", "output_dir", "logger", "threads")]
    tiny = [*sizes.get(name, ["model.head_width=8"]), "trainer.max_epochs=1", "zoo.num_networks=24"]
    assert train.run(composed(f"experiment=cnn_gen_{name}", *tiny, *own), job("short"))["num_networks"] == 24
