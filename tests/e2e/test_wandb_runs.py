"""What offline W&B runs hold, read back from their files (offline_wandb.py says what that relies on)."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from offline_wandb import Offline, read_offline
from PIL import Image

from nfbench import train
from nfbench.wandb_runs import find_offline_runs


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture
def offline(small) -> list[str]:
    return [word for word in small if word != "logger=csv"] + ["logger=offline"]


def runs_in(folder: Path) -> list[Offline]:
    return [read_offline(each.folder) for each in find_offline_runs(folder)]


def table_rows(found: Offline, name: str) -> list[dict]:
    (path,) = found.media(name)
    table = json.loads(path.read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def epochs_of(found: Offline, name: str) -> dict[int, float]:
    return {int(row["epoch"]): row[name] for row in found.history if name in row}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as handle:
        return list(csv.DictReader(handle))


def test_config_metrics_pictures_and_tables(composed, offline, job) -> None:
    run = job("a")
    summary = train.run(composed(*offline, "logger.tags=[mine,tiny]"), run)
    (found,) = runs_in(run.folder)
    assert (found.run.project, found.run.job_type, found.exit_code) == ("nfbench", "train", 0)
    assert found.run.run_group == "inr_cls/mlp-siren_digits"
    assert sorted(found.run.tags) == ["inr_cls", "mine", "mlp", "siren_digits", "tiny"]
    assert found.run.display_name == "mlp-siren_digits-seed0"

    config = found.config
    protocol = "dataset definition views num_images canonicalized augmentations access size params task model zoo seed"
    for name in (*protocol.split(), "config_hash", "commit", "examples_seen"):
        assert config[name] == summary[name], name
    assert config["model/width"] == summary["config"]["model"]["width"]
    assert config["zoo/widths"] == [8, 8]
    assert config["cell"] == f"mlp on siren_digits ({summary['config_hash']})"
    assert not [name for name, value in config.items() if isinstance(value, dict) and name != "_wandb"], "one level"

    for name, value in summary["metrics"].items():
        assert found.summary[name] == found.summary[f"inr_cls/{name}"] == pytest.approx(value)
    assert found.summary["best_epoch"] == summary["best_epoch"]
    csv_rows = rows_of(run.folder / "metrics.csv")
    for name in ("val/acc", "inr_cls/val/acc"):
        wanted = {int(row["epoch"]): float(row["val/acc"]) for row in csv_rows}
        assert epochs_of(found, name) == pytest.approx(wanted, abs=1e-5)

    (picture,) = found.media("inr_cls/picture")
    assert picture.read_bytes() == (run.folder / "test.png").read_bytes()
    wanted_rows = rows_of(run.folder / "predictions.csv")
    assert table_rows(found, "inr_cls/predictions") == [{k: int(v) for k, v in row.items()} for row in wanted_rows]
    with np.load(run.folder / "samples.npz") as kept:
        images, index = kept["images"], kept["index"]
    samples = found.media("inr_cls/samples")
    assert len(samples) == len(images)
    for path, image in zip(samples, images, strict=True):
        assert np.abs(np.asarray(Image.open(path)) / 255 - image[:, :, 0].clip(0, 1)).max() < 0.51 / 255
    (wanted_row,) = [row for row in wanted_rows if int(row["index"]) == index[3]]
    caption = ", ".join(f"{name} {value}" for name, value in wanted_row.items())
    assert found.summary["inr_cls/samples"]["captions"][3] == caption
    assert (run.folder / "wandb" / "data").is_dir(), "what waits for an upload lies with the run"


def test_long_tables_are_sampled(composed, offline, job, monkeypatch) -> None:
    monkeypatch.setattr("nfbench.tracking.MOST_ROWS", 5)
    run = job("a")
    train.run(composed(*offline), run)
    found = table_rows(runs_in(run.folder)[0], "inr_cls/predictions")
    rows = rows_of(run.folder / "predictions.csv")
    assert len(found) == 5 < len(rows)
    assert (found[0]["index"], found[-1]["index"]) == (int(rows[0]["index"]), int(rows[-1]["index"]))


def test_two_runs_of_a_multirun_are_two_runs(cli, offline, tmp_path) -> None:
    sweep = tmp_path / "sweep"
    done = cli("-m", *offline, "seed=3,4", f"hydra.sweep.dir={sweep}", WANDB_API_KEY="")
    assert done.returncode == 0, done.stderr
    found = runs_in(sweep)
    assert [one.config["seed"] for one in found] == [3, 4]
    assert len({one.run.run_id for one in found}) == 2
    assert {one.run.run_group for one in found} == {"sweep-sweep"}
    assert len({one.config["cell"] for one in found}) == 1
    for one in found:
        summary = json.loads((one.folder.parents[1] / "summary.json").read_text())
        assert one.summary["test/loss"] == pytest.approx(summary["metrics"]["test/loss"])
        assert one.config["run_folder"] == one.folder.parents[1].name
        assert one.media("inr_cls/picture")

    command = [sys.executable, "-m", "wandb", "sync", "--dry-run"]
    folders = [str(one.folder) for one in found]
    listed = subprocess.run([*command, *folders], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "Would sync 2 run(s)" in listed.stdout + listed.stderr
    marker = next(found[0].folder.glob("run-*.wandb"))
    marker.with_name(f"{marker.name}.synced").touch()
    listed = subprocess.run([*command, *folders], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "Skipped 1 synced run(s)" in listed.stdout + listed.stderr, "wandb marks them as we take it"
    assert [one.state for one in find_offline_runs(sweep)] == ["synced", "open"]


def test_an_editing_run_has_frames_and_the_animation(composed, offline, job) -> None:
    run = job("edit")
    words = ("task=inr_edit", "zoo=siren_digits_edit", "model.width=16", "zoo.num_images=200", "trainer.max_epochs=3")
    train.run(composed(*offline, *words), run)
    (found,) = runs_in(run.folder)
    frames = [row["inr_edit/frames"] for row in found.history if "inr_edit/frames" in row]
    assert len(frames) == 3
    assert len({name for frame in frames for name in frame["filenames"]}) == 3
    (animation,) = found.media("inr_edit/animation")
    assert animation.read_bytes() == (run.folder / "edit.gif").read_bytes()
    assert np.asarray(Image.open(found.media("inr_edit/samples")[0])).shape == (8, 3 * 8)
    assert {"index", "view", "identity", "edited"} == set(table_rows(found, "inr_edit/predictions")[0])
    assert found.summary["inr_edit/test/mse"] == found.summary["test/mse"]


def test_a_resumed_run_tells_its_earlier_epochs_again(composed, offline, job, stop) -> None:
    run, cfg = job("part"), composed(*offline, "trainer.max_epochs=4")
    stop(cfg, run, 2, 1)
    train.run(cfg, run)
    first, second = runs_in(run.folder)
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert sorted(epochs_of(first, "inr_cls/val/acc")) == [0, 1]
    wanted = {int(row["epoch"]): float(row["val/loss"]) for row in rows_of(run.folder / "metrics.csv")}
    assert sorted(wanted) == [0, 1, 2, 3]
    for name in ("val/loss", "inr_cls/val/loss"):
        assert epochs_of(second, name) == pytest.approx(wanted, rel=1e-4)
    assert [one.state for one in find_offline_runs(run.folder)] == ["superseded", "open"]
    early = run.folder / "wandb" / "offline-run-29990101_000000-abcd"  # ended before it trained, and told nothing
    early.mkdir()
    (early / "run-abcd.wandb").write_bytes(b"")
    assert [one.state for one in find_offline_runs(run.folder)] == ["superseded", "open", "superseded"]


def test_a_run_that_was_stopped_in_its_test_tells_all_epochs(composed, offline, job, monkeypatch) -> None:
    run, cfg = job("part"), composed(*offline)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "test", stopped)
        with pytest.raises(KeyboardInterrupt):
            train.run(cfg, run)
    train.run(cfg, run)
    first, second = runs_in(run.folder)
    assert epochs_of(second, "val/loss") == pytest.approx(epochs_of(first, "val/loss"), rel=1e-4)
    assert "test/acc" in second.summary
    assert "test/acc" not in first.summary
    assert [one.state for one in find_offline_runs(run.folder)] == ["superseded", "open"]


def test_what_kind_of_job_it_is(composed, offline, job) -> None:
    train.run(composed(*offline), replace(job("tuned"), tuning=True, sweep=True))
    train.run(composed(*offline, "logger.job_type=ablation", "logger.group=mine"), job("named"))
    (tuned,), (named,) = runs_in(job("tuned").folder), runs_in(job("named").folder)
    assert tuned.run.job_type == "tune"
    assert (named.run.job_type, named.run.run_group) == ("ablation", "mine")
