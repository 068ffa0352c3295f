"""scripts/sync.py: which offline W&B runs it uploads, and what it says."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from nfbench.report.run_folder import RunFolder

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "sync.py"


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    """Two run folders, one of them with two attempts, and no account."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    for run, name in (("a", "20250101_000000-first"), ("a", "20250102_000000-again"), ("b", "20250101_000000-other")):
        folder = tmp_path / "outputs" / "inr_cls" / run / "wandb" / f"offline-run-{name}"
        folder.mkdir(parents=True)
        (folder / f"run-{name.partition('-')[2]}.wandb").write_bytes(b"records")
    return tmp_path / "outputs"


@pytest.fixture
def sync(monkeypatch):
    """`main` of the script; `calls`: folders that wandb was given; it marks their runs but for those in `fails`."""
    script = runpy.run_path(str(SCRIPT))
    calls: list[list[str]] = []
    fails: set[str] = set()

    def run(command, check) -> None:
        assert command[1:4] == ["-m", "wandb", "sync"]
        calls.append(command[4:])
        for folder in command[4:]:
            assert RunFolder(Path(folder).parents[1]).in_use(), "nobody resumes it meanwhile"
            (file,) = Path(folder).glob("run-*.wandb")
            if file.name not in fails:
                file.with_name(f"{file.name}.synced").touch()

    monkeypatch.setattr(script["subprocess"], "run", run)
    return SimpleNamespace(main=script["main"], calls=calls, fails=fails)


def names(call: list[str]) -> list[str]:
    return sorted(Path(folder).name.rpartition("-")[2] for folder in call)


def test_a_dry_run_lists_and_needs_no_account(sync, outputs, capsys) -> None:
    assert sync.main(["--dry-run"]) == "2 to upload (1 another attempt of this run has all of it)"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("outputs/inr_cls/a/wandb/offline-run-20250101_000000-first: another attempt")
    assert not sync.calls


def test_each_run_is_uploaded_once_and_an_older_attempt_never(sync, outputs, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert sync.main([]).startswith("uploaded 2 (")
    assert [names(call) for call in sync.calls] == [["again", "other"]]
    assert sync.main([]).startswith("0 to upload (2 uploaded before")
    assert len(sync.calls) == 1


def test_a_run_that_is_going_on_is_left_alone(sync, outputs, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with RunFolder(outputs / "inr_cls" / "a").locked():
        assert "1 going on" in sync.main([])
    assert [names(call) for call in sync.calls] == [["other"]]


def test_what_was_not_uploaded_is_named(sync, outputs, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    sync.fails.add("run-other.wandb")
    with pytest.raises(ValueError, match=r"1 of 2 runs were not uploaded whole(.|\n)*20250101_000000-other"):
        sync.main([])


def test_no_runs_and_no_account(sync, outputs, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"2 runs wait for an upload.*wandb login.*WANDB_API_KEY"):
        sync.main([])
    with pytest.raises(ValueError, match=r"no offline W&B runs under .*empty.*logger=offline"):
        sync.main([str(tmp_path / "empty")])
    assert not sync.calls
