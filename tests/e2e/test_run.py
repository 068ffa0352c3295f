"""The main command, from the command line: files, messages, exit codes."""

import csv
import json
import os
import re
import shlex
from pathlib import Path

import pytest

from nfbench import train

ROOT = Path(__file__).resolve().parents[2]


def only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    assert len(found) == 1, found
    return found[0]


def test_a_run_leaves_what_the_design_says_and_the_same_command_does_not_train_twice(cli, small, tmp_path) -> None:
    done = cli("task=inr_cls", *small)
    assert done.returncode == 0, done.stderr
    folder = only(tmp_path, "outputs/inr_cls/mlp-siren_digits-seed0-*")
    for name in (".hydra/config.yaml", "run.log", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (folder / name).stat().st_size > 0, name
    assert (folder / "test.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((folder / "summary.json").read_text())
    asked = (
        "task dataset definition views num_images canonicalized augmentations access model seed size metrics params "
        "examples_seen wall_s peak_memory_mb machine versions commit config_hash command config best_epoch"
    )
    assert not set(asked.split()) - set(summary)
    assert summary["size"] == "tiny"
    assert summary["examples_seen"] == 2 * 40
    with (folder / "predictions.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    right = sum(row["true"] == row["predicted"] for row in rows)
    assert summary["metrics"]["test/acc"] == pytest.approx(right / len(rows))
    result = done.stdout.strip().splitlines()[-1]
    for part in ("test/acc", f"{right / len(rows):.4f}", str(folder), "test.png"):
        assert part in result
    assert "Warning" not in done.stderr

    before = (folder / "metrics.csv").stat().st_mtime_ns
    again = cli("task=inr_cls", *small)
    assert again.returncode == 0
    assert "finished before" in again.stdout
    assert "rerun=true" in again.stdout
    assert result in again.stdout
    assert (folder / "metrics.csv").stat().st_mtime_ns == before

    anew = cli("task=inr_cls", *small, "rerun=true")
    assert anew.returncode == 0, anew.stderr
    assert (folder.with_name(folder.name + ".1") / "summary.json").exists()
    old = (folder.with_name(folder.name + ".1") / "metrics.csv").read_text()
    assert (folder / "metrics.csv").read_text() == old, "the same seed gives the same numbers"


def test_a_model_and_a_config_from_elsewhere(cli, small, tmp_path) -> None:
    mine = tmp_path / "my conf"
    (mine / "experiment").mkdir(parents=True)
    (mine / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults: [smoke]\ntask: {lr: 0.02}\n")
    document = (ROOT / "docs" / "adding.md").read_text()
    (model,) = re.findall(r"```python\n(# mine.py\n.*?)```", document, re.DOTALL)
    (config,) = re.findall(r"```yaml\n(# my_conf/model/foo.yaml\n.*?)```", document, re.DOTALL)
    (tmp_path / "mine.py").write_text(f"import torch\n{model}")
    (mine / "model").mkdir()
    (mine / "model" / "foo.yaml").write_text(config)
    words = {"experiment=smoke": "experiment=mine", "model=mlp": "model=foo"}
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = cli("--config-dir", str(mine), *[words.get(word, word) for word in small], PYTHONPATH=paths)
    assert done.returncode == 0, done.stderr
    summary = json.loads(only(tmp_path, "outputs/inr_cls/foo-*/summary.json").read_text())
    assert summary["config"]["task"]["lr"] == 0.02
    assert summary["config"]["model"] == {"name": "foo", "target": "mine.Net", "depth": 3}
    assert shlex.split(summary["command"])[:5] == ["python", "run.py", "--config-dir", str(mine), "experiment=mine"]


def test_a_model_that_counts_on_signs_is_told_what_breaks_them(composed, small, job, caplog) -> None:
    words = [*small, "model=gmn", "model.width=8", "model.head_width=8", "model.num_rounds=1", "trainer.max_epochs=1"]
    with caplog.at_level("INFO"):
        for standardize in ("layer", "scale"):
            train.run(composed(*words, f"zoo.standardize={standardize}"), job(standardize))
    told = [record.message for record in caplog.records if "counts on signs" in record.message]
    assert told == ["the model counts on signs of neurons, which zoo.standardize=layer breaks: take scale"]


def test_a_task_from_elsewhere_may_name_its_metrics_as_it_likes(composed) -> None:
    train.check_metrics(composed("task.monitor=val_loss", "task.mode=min"), None)


def test_a_sweep_outlives_a_failed_job_and_tells(cli, small, tmp_path) -> None:
    done = cli("-m", *small, "seed=0,1", "task.optimizer=sgdd,adam", "hydra.sweep.dir=" + str(tmp_path / "sweep"))
    assert done.returncode == 1
    assert done.stderr.count("task.optimizer='sgdd' is unknown: choose one of adamw, adam") == 2
    assert "Traceback" not in done.stderr
    names = sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert [name[0] for name in names] == list("0123")
    finished = sorted(path.parent.name[0] for path in (tmp_path / "sweep").glob("*/summary.json"))
    assert finished == ["1", "3"]
    assert "Traceback" in (tmp_path / "sweep" / names[0] / "run.log").read_text()


def test_two_jobs_of_a_sweep_are_two_wandb_runs(cli, small, tmp_path) -> None:
    small.remove("logger=csv")
    done = cli("-m", *small, "seed=0,1", "hydra.sweep.dir=" + str(tmp_path / "sweep"), WANDB_API_KEY="")
    assert done.returncode == 0, done.stderr
    files = list((tmp_path / "sweep").glob("*/wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 2
    assert len({file.parents[2] for file in files}) == 2
    assert all(b"val/acc" in file.read_bytes() for file in files)


def test_online_without_a_key_says_what_to_do(cli, small, tmp_path) -> None:
    small.remove("logger=csv")
    done = cli(*small, "logger=online", WANDB_API_KEY="")
    assert done.returncode == 1
    for part in ("wandb login", "WANDB_API_KEY", "logger=offline"):
        assert part in done.stderr


def test_trainer_flags_pass_through(cli, small, tmp_path) -> None:
    done = cli(*small, "+trainer.limit_train_batches=1")
    assert done.returncode == 0, done.stderr
    summary = json.loads(only(tmp_path, "outputs/*/*/summary.json").read_text())
    assert summary["examples_seen"] == 2 * 16
    wrong = cli(*small, "+trainer.fast_dev_runn=true")
    assert wrong.returncode == 1
    assert "did you mean fast_dev_run?" in wrong.stderr


def test_the_same_sweep_again_skips_what_is_finished(cli, small, tmp_path) -> None:
    sweep = [small[0], "-m", *small[1:], "seed=range(2)"]  # -m may stand anywhere
    first = cli(*sweep)
    assert first.returncode == 0, first.stderr
    folder = only(tmp_path, "outputs/multirun/*")
    files = sorted(folder.glob("*/metrics.csv"))
    assert len(files) == 2
    before = [file.stat().st_mtime_ns for file in files]
    (files[1].parent / "summary.json").unlink()
    again = cli(*sweep)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished before") == 1
    assert only(tmp_path, "outputs/multirun/*") == folder
    assert files[0].stat().st_mtime_ns == before[0]
    assert (files[1].parent / "summary.json").exists()
