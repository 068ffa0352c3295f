"""Scripts that read results and runs, from the command line; what they compute is tested where it is computed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nfbench import machine, train

ROOT = Path(__file__).resolve().parents[2]


def script(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, f"scripts/{name}.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        timeout=600, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_tables_and_page_of_the_published_results(tmp_path) -> None:
    script("tables", "results", "--seeds", "0-3", "--out", tmp_path / "tables")
    text = (tmp_path / "tables" / "tables.md").read_text()
    assert "3 of 4, missing 3" in text
    assert "`python run.py task=inr_cls model=nft seed=0 threads=1`" in text
    for name in ("tables.csv", "tables.tex"):
        assert (tmp_path / "tables" / name).stat().st_size > 10_000
    script("report", "results", "--out", tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "task=inr_cls model=nft" in page
    assert "<svg" in page


def test_the_table_of_editing_is_that_of_its_page() -> None:
    rows = [line for line in script("edit_table").splitlines() if line.startswith("| `nfn_np`")]
    assert rows
    page = (ROOT / "docs" / "inr_edit.md").read_text()
    assert all(row in page for row in rows)


def test_two_runs_are_compared(composed, small, job) -> None:
    for seed in (0, 1):
        train.run(composed(*small, f"seed={seed}"), job(f"run{seed}"))
    folders = [job(f"run{seed}").folder for seed in (0, 1)]
    found = json.loads(script("compare", *folders, "--resamples", 200, "--json"))
    accuracies = [json.loads((folder / "summary.json").read_text())["metrics"]["test/acc"] for folder in folders]
    assert accuracies[0] - accuracies[1] == pytest.approx(found["difference"])


def test_a_commit_says_whether_files_were_changed(tmp_path, monkeypatch) -> None:
    package = tmp_path / "repository" / "nfbench"
    package.mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert machine.commit() is None

    def git(*words: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        return subprocess.run(["git", *who, *words], cwd=package, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    (package / "machine.py").write_text("first")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD").strip()
    (package / "notes.txt").write_text("a file that git does not know")
    assert machine.commit() == head
    (package / "machine.py").write_text("second")
    assert machine.commit() == head + "+"
