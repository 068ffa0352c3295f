"""A run that was stopped goes on as if it had not been: the final weights are equal to the bit."""

import csv
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from nfbench import train
from nfbench.report.run_folder import RunFolder
from nfbench.resume import KEY, AtomicCheckpointIO, read_checkpoint

# Everything that draws random numbers or keeps state is on.
EVERYTHING = [
    *("model=nft", "model.width=16", "model.num_blocks=1", "model.num_queries=2", "model.dropout=0.1"),
    *("task.ema_decay=0.9", "task.warmup_steps=2", "trainer.max_epochs=4", "trainer.enable_progress_bar=false"),
    *("zoo.augment_flip=both", "zoo.augment_permute=true", "zoo.augment_noise=0.1"),
    *("zoo.augment_dropout=0.1", "zoo.augment_mixup=0.2"),
]


@pytest.fixture
def straight(composed, small, job):
    """The config and the run that nobody stopped."""
    cfg = composed(*small, *EVERYTHING)
    return cfg, train.run(cfg, job("straight"))


@pytest.mark.parametrize("batch", [0, 2], ids=["between epochs", "within an epoch"])
def test_resume_is_exact(straight, job, stop, assert_same_run, batch: int) -> None:
    cfg, summary = straight
    part = job("part")
    stop(cfg, part, 2, batch)
    assert read_checkpoint(part.folder / "checkpoints" / "last.ckpt")["epoch"] == 1
    assert not (part.folder / "summary.json").exists()
    again = train.run(cfg, part)
    assert_same_run(job("straight").folder, part.folder)
    assert again["metrics"] == summary["metrics"]
    assert again["examples_seen"] == summary["examples_seen"] == 4 * 40
    with (part.folder / "metrics.csv").open() as handle:
        assert [row["epoch"] for row in csv.DictReader(handle)] == ["0", "1", "2", "3"]


def test_a_run_that_was_moved_keeps_its_best_epoch(composed, small, job, stop, tmp_path) -> None:
    cfg = composed(*small, "trainer.max_epochs=4")
    stop(cfg, job("there"), 2, 0)
    last = tmp_path / "there" / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)
    (name,) = [name for name in saved["callbacks"] if "'monitor': 'val/acc'" in name]
    assert name.startswith("ModelCheckpoint{"), "as in checkpoints of earlier versions"
    state = saved["callbacks"][name]
    state["best_model_score"] = state["kth_value"] = torch.tensor(2.0)  # no later epoch is better
    state["best_k_models"] = {path: torch.tensor(2.0) for path in state["best_k_models"]}
    torch.save(saved, last)
    (tmp_path / "there").rename(tmp_path / "here")
    best = (tmp_path / "here" / "checkpoints" / "best.ckpt").read_bytes()
    summary = train.run(cfg, job("here"))
    assert (tmp_path / "here" / "checkpoints" / "best.ckpt").read_bytes() == best
    assert summary["metrics"]["val/acc"] == 2
    assert (summary["epochs"], summary["best_epoch"] < 2) == (4, True)


KILL_IN_EPOCH = """
import os
from nfbench.resume import RunState
def hook(self, trainer, pl_module, given, batch_idx):
    if (trainer.current_epoch, batch_idx) == (1, 1):
        os.kill(os.getpid(), 9)
RunState.on_train_batch_start = hook
"""
KILL_IN_CHECKPOINT = """
import io, os, torch
save, calls = torch.save, []
def half(what, handle):
    calls.append(1)
    if len(calls) < 4:  # best and last of the first epoch, best or last of the second, then
        return save(what, handle)
    whole = io.BytesIO()
    save(what, whole)
    handle.write(whole.getvalue()[:1000])
    handle.flush()
    os.kill(os.getpid(), 9)
torch.save = half
"""


KILLS = {
    "epoch": (KILL_IN_EPOCH, -9, ""), "checkpoint": (KILL_IN_CHECKPOINT, -9, ""),
    "sigterm": (KILL_IN_EPOCH.replace("9", "15"), 128 + 15, "stopped by SIGTERM: the same command goes on"),
}  # fmt: skip


@pytest.mark.parametrize(("patch", "code", "said"), KILLS.values(), ids=KILLS.keys())
def test_a_kill_and_the_same_command_again(
    composed, job, cli, small, tmp_path, assert_same_run, patch: str, code: int, said: str
) -> None:
    arguments = [*small, "trainer.max_epochs=4"]
    train.run(composed(*arguments), job("whole"))
    killed = cli(*arguments, f"hydra.run.dir={tmp_path / 'part'}", patch=patch)
    assert killed.returncode == code
    assert said in killed.stderr
    assert read_checkpoint(tmp_path / "part" / "checkpoints" / "last.ckpt")["epoch"] >= 0
    again = cli(*arguments, f"hydra.run.dir={tmp_path / 'part'}")
    assert again.returncode == 0, again.stderr
    assert "going on from" in again.stdout
    assert_same_run(tmp_path / "whole", tmp_path / "part")


def test_ckpt_path_goes_on_and_names_what_differs(composed, small, job) -> None:
    cfg = composed(*small)
    train.run(cfg, job("first"))
    last = job("first").folder / "checkpoints" / "last.ckpt"
    longer = [*small, f"ckpt_path={last}", "trainer.max_epochs=4"]
    summary = train.run(composed(*longer), job("longer"))
    assert summary["examples_seen"] == 4 * 40
    for override, key in (("model.width=9", "model.width"), ("zoo.num_views=1", "zoo.num_views"),
                          ("task.lr=1", "task.lr"), ("seed=1", "seed"), ("model=nfn_np", "model.name")):  # fmt: skip
        with pytest.raises(ValueError, match=key):
            train.run(composed(*longer, override), job("other"))
    with pytest.raises(ValueError, match="nothing is left"):
        train.run(composed(*small, f"ckpt_path={last}"), job("none"))


def test_ckpt_path_brings_the_best_epoch_so_far(composed, small, job, caplog) -> None:
    first = train.run(composed(*small, "task.lr=1e-4"), job("first"))
    checkpoints = job("first").folder / "checkpoints"
    longer = ["task.lr=1e-4", f"ckpt_path={checkpoints / 'last.ckpt'}", "trainer.max_epochs=4"]
    for name in ("last", "best"):  # as if nothing after it could be better
        found = torch.load(checkpoints / f"{name}.ckpt", weights_only=True)
        (state,) = (state for state in found["callbacks"].values() if "best_k_models" in state and state["monitor"])
        state["best_model_score"] = torch.tensor(2.0)
        state["best_k_models"] = {path: torch.tensor(2.0) for path in state["best_k_models"]}
        state["kth_value"] = torch.tensor(2.0)
        torch.save(found, checkpoints / f"{name}.ckpt")
    again = train.run(composed(*small, *longer), job("longer"))
    assert (again["best_epoch"], again["epochs"]) == (first["best_epoch"], 4)
    assert again["metrics"]["test/acc"] == first["metrics"]["test/acc"]
    with pytest.raises(ValueError, match=r"steps behind it, and trainer\.max_steps=1: nothing is left to train"):
        train.run(composed(*small, *longer, "+trainer.max_steps=1"), job("none"))
    with caplog.at_level("INFO"):
        other = train.run(composed(*small, *longer, "+trainer.limit_val_batches=1"), job("other"))
    assert "its epochs had another trainer (trainer.limit_val_batches)" in caplog.text
    train.run(composed(*small, "task.lr=1e-4", "seed=1"), job("seed1"))
    shutil.copy(job("seed1").folder / "checkpoints" / "best.ckpt", checkpoints / "best.ckpt")
    with caplog.at_level("INFO"):
        strange = train.run(composed(*small, *longer), job("strange"))
    assert "best.ckpt beside it is of another run" in caplog.text
    assert min(other["best_epoch"], strange["best_epoch"]) >= first["epochs"]
    (checkpoints / "best.ckpt").unlink()
    with caplog.at_level("INFO"):
        alone = train.run(composed(*small, *longer, f"output_dir={checkpoints}"), job("alone"))
    assert "the best of these epochs is not beside it" in caplog.text
    assert alone["best_epoch"] >= first["epochs"]


def test_too_few_steps_for_a_result(composed, small, job) -> None:
    with pytest.raises(ValueError, match=r"nothing was validated.*first epoch: it has 2 steps.*max_steps is 1 "):
        train.run(composed(*small, "+trainer.max_steps=1", "zoo.batch_size=20"), job("short"))


def test_bad_checkpoints_are_refused_and_kept(composed, small, job, tmp_path) -> None:
    cfg = composed(*small)
    train.run(cfg, job("a"))
    good = (job("a").folder / "checkpoints" / "last.ckpt").read_bytes()
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"weights": torch.ones(2)}, foreign)
    cases = {"half": good[: len(good) // 2], "empty": b"", "text": b"hello", "foreign": foreign.read_bytes()}
    for name, content in cases.items():
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"move it away|not written by nfbench"):
            train.run(composed(*small, f"ckpt_path={path}"), job(f"from-{name}"))
        assert path.read_bytes() == content
    assert KEY in torch.load(job("a").folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_folder_belongs_to_one_run(composed, small, job) -> None:
    folder = job("busy").folder
    with RunFolder(folder).locked(), pytest.raises(ValueError, match="in use by process"):
        train.run(composed(*small), job("busy"))
    train.run(composed(*small), job("busy"))
    with pytest.raises(ValueError, match="another config"):
        train.run(composed(*small, "task.lr=0.1"), job("busy"))
    assert not (folder.parent / "busy.1").exists()


def test_rerun_sets_aside_and_deletes_nothing(composed, small, job) -> None:
    cfg = composed(*small, "rerun=true")
    for _ in range(3):
        train.run(cfg, job("r"))
    folder = job("r").folder
    assert all((folder.with_name(name) / "summary.json").exists() for name in ("r", "r.1", "r.2"))


def test_rerun_goes_on_with_an_unfinished_run(composed, small, job, stop) -> None:
    cfg = composed(*small, "rerun=true")
    stop(cfg, job("u"), 1, 0)
    assert train.run(cfg, job("u"))["examples_seen"] == 2 * 40
    assert not job("u").folder.with_name("u.1").exists()


def test_rerun_moves_nothing_but_a_runs_own_files(composed, small, job) -> None:
    folder = job("mine").folder
    for name in ("thesis.tex", "data"):
        (folder / name).write_text("years of work")
    cfg = composed(*small, "rerun=true")
    train.run(cfg, job("mine"))
    for name in ("landscape.h5", "along.png"):  # drawn of these weights by scripts/landscape.py
        (folder / name).touch()
    train.run(cfg, job("mine"))
    for name in ("summary.json", "landscape.h5", "along.png"):
        assert (folder.with_name("mine.1") / name).exists()
    assert not (folder / "landscape.h5").exists()
    for name in ("thesis.tex", "data"):
        assert (folder / name).read_text() == "years of work"
        assert not (folder.with_name("mine.1") / name).exists()
    assert RunFolder(job("empty").folder).set_aside() is None


def test_a_picture_that_fails_costs_no_result(composed, small, job, monkeypatch) -> None:
    cfg = composed(*small)
    with monkeypatch.context() as patch:
        patch.setattr("nfbench.report.inr_cls.draw", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train.run(cfg, job("p"))
    assert RunFolder(job("p").folder).summary()["picture"] is None
    done = train.run(cfg, job("p"))
    assert done["picture"] == "test.png"
    assert RunFolder(job("p").folder).summary() == done


def test_a_loss_that_is_no_number_stops_the_run(composed, small, job, monkeypatch) -> None:
    monkeypatch.setattr("nfbench.tasks.inr_cls.cross_entropy", lambda logits, *_, **__: logits.sum() * float("nan"))
    with pytest.raises(ValueError, match=r"training loss is nan.*lower task\.lr"):
        train.run(composed(*small), job("nan"))
    assert not (job("nan").folder / "checkpoints").exists()


def test_a_signal_does_not_cut_a_checkpoint_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    seen: list[bool] = []

    def stop(number: int, frame: object) -> None:
        seen.append(path.exists())
        raise SystemExit(1)

    def flush(descriptor: int) -> None:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert not seen, "in the middle of the file"

    before = signal.signal(signal.SIGUSR2, stop)
    monkeypatch.setattr(os, "fsync", flush)
    try:
        with pytest.raises(SystemExit):
            AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(3)}, path)
    finally:
        assert signal.signal(signal.SIGUSR2, before) is stop
    assert seen == [True], "once, when the file was there"
    assert torch.load(path, weights_only=True)["weights"].shape == (3,)
