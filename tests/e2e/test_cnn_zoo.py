"""A zoo of classifiers from the command line: shards, merge, inspect; and a task on one that it builds itself."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from nfbench import train
from nfbench.zoos.store import read_zoo

ROOT = Path(__file__).resolve().parents[2]
TINY = ["zoo=cnn_mnist", "zoo.source=digits", "zoo.size=tiny", "zoo.num_runs=40", "zoo.epochs=2", "zoo.num_train=200",
        "zoo.num_eval=100", "zoo.fit_batch_size=20", "threads=1"]  # fmt: skip


@pytest.fixture
def script(monkeypatch, capsys, tmp_path):
    """script("merge", ...) -> exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        commands, overrides = arguments[: "=" not in arguments[0]], arguments["=" not in arguments[0] :]
        file = f"zoo.file={tmp_path / 'tiny.h5'}"
        monkeypatch.setattr(sys, "argv", ["build_zoo.py", *commands, *TINY, file, *overrides])
        GlobalHydra.instance().clear()
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / "build_zoo.py"), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def test_shards_merge_inspect(script, tmp_path) -> None:
    code, out, error = script("build", "shard=1/2")
    assert code == 0, error
    code, _, error = script("merge")
    assert (code, "2/2 (" in error) == (1, True), error
    assert script("build", "shard=2/2")[0] == 0
    code, out, error = script("merge")
    assert code == 0, error
    data = read_zoo(tmp_path / "tiny.h5")
    assert f"{len(data.label)} networks" in out
    code, out, error = script("inspect")
    assert code == 0, error
    for part in ("120 networks 1-16c3-16c3", "40 runs", "test accuracy, epoch   2:", "weight 1", "bias 4"):
        assert part in out
    facts = json.loads((tmp_path / "tiny.inspect.json").read_text())
    assert list(facts["accuracy"]) == ["0", "1", "2"]


def test_a_task_builds_its_zoo(composed, job, tmp_path) -> None:
    cfg = composed("task=cnn_gen", "model=statnn", *TINY, f"zoo_dir={tmp_path}", "trainer.max_epochs=1", "logger=csv")
    summary = train.run(cfg, job("run"))
    (file,) = tmp_path.glob("cnn_digits-tiny+*.h5")
    assert len(read_zoo(file).label) == 120
    assert -1 <= summary["metrics"]["test/kendall_tau"] <= 1
