"""Tuning by Optuna: on validation metrics, never with the test set."""

import csv
import json
import re

import pytest
import yaml

pytest.importorskip("optuna", reason="pip install -e '.[tune]'")

TRIALS = [
    "experiment=[smoke,tune_digits]",
    "model=mlp",
    "logger=csv",
    "trainer.max_epochs=2",
    "hydra.sweeper.n_trials=3",
]


@pytest.fixture
def tuning(small: list[str], tmp_path) -> list[str]:
    """Three trials of a tiny model."""
    folders = [each for each in small if each.startswith(("zoo_dir=", "output_dir="))]
    return ["-m", *TRIALS, *folders, f"hydra.sweep.dir={tmp_path / 'sweep'}"]


def test_three_trials_read_no_test_set(cli, tuning, tmp_path) -> None:
    no_test = "from lightning import Trainer\ndef test(*_, **__): raise AssertionError('tested')\nTrainer.test = test\n"
    done = cli(*tuning, patch=no_test)
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = tmp_path / "sweep"
    runs = [json.loads(path.read_text()) for path in sorted(sweep.glob("*/summary.json"))]
    assert len(runs) == 3
    assert len({run["config"]["task"]["lr"] for run in runs}) == 3
    for run in runs:
        assert run["metric"] == "val/acc"
        assert set(run["metrics"]) == {"val/acc"}
    for path in sweep.glob("*/metrics.csv"):
        with path.open() as file:
            assert not [name for name in next(csv.reader(file)) if name.startswith("test")]
    assert not [path for path in sweep.rglob("*") if path.name in ("predictions.csv", "test.png", "samples.npz")]

    best = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    assert best["best_value"] == max(run["metrics"]["val/acc"] for run in runs)
    (printed,) = re.findall(r"Best value: (\S+)", done.stdout)
    assert float(printed) == best["best_value"]
    assert f"Best parameters: {best['best_params']}" in done.stdout
    assert "Warning" not in done.stderr

    before = [path.stat().st_mtime_ns for path in sorted(sweep.glob("*/metrics.csv"))]
    again = cli(*tuning, patch=no_test)
    assert again.stdout.count("finished before") == 3, "the sampler is seeded: the same trials"
    assert f"Best value: {printed}" in again.stdout
    assert before == [path.stat().st_mtime_ns for path in sorted(sweep.glob("*/metrics.csv"))]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("test=true", "would read the test set: add test=false"),
        ("hydra.sweeper.direction=minimize", "give hydra.sweeper.direction=maximize"),
    ],
)
def test_what_would_make_tuning_dishonest_is_refused(cli, tuning, tmp_path, override: str, said: str) -> None:
    done = cli(*tuning, override)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "sweep").glob("*/metrics.csv"))
