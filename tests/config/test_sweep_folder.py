"""A sweep goes on in its folder, however it is started; and runs of one process do not change each other."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from hydra.core.utils import JobReturn, JobStatus
from lightning.pytorch.accelerators import MPSAccelerator
from omegaconf import DictConfig

from nfbench import train
from nfbench.config import sweep
from nfbench.config.build import build_trainer
from nfbench.config.identity import sweep_hash

SWEEP = ["run.py", "-m", "model=nft,mlp", "seed=0,1"]


def hash_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr("sys.argv", [*SWEEP, *words])
    return sweep_hash()


def test_how_a_sweep_is_started_does_not_change_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    first = hash_of(monkeypatch)
    same = ["rerun=true", "launcher=slurm", "hydra.launcher.mem_gb=32", "+hydra.launcher.qos=x", "logger=csv",
            "threads=1", "sweep.skip_done=false", "logger.mode=online"]  # fmt: skip
    assert {hash_of(monkeypatch, word) for word in same} == {first}
    monkeypatch.setattr("sys.argv", [SWEEP[0], *SWEEP[2:], "launcher=submitit_local"])
    assert sweep_hash() == first, "launchers are a sweep without -m too"
    monkeypatch.setattr("sys.argv", [SWEEP[0], "--multirun", *SWEEP[2:]])
    assert sweep_hash() == first
    other = ["task.lr=1e-3", "hydra.sweeper.n_trials=9", "seed=0,1,2", "zoo.num_views=2", "logger.group=x"]
    assert len({hash_of(monkeypatch, word) for word in other} | {first}) == 6


class Executor:
    """In place of submitit's: jobs that are done at once."""

    batches: ClassVar[list[list[tuple]]] = []

    def __init__(self, **_: object) -> None: ...

    def update_parameters(self, **_: object) -> None: ...

    def map_array(self, _: object, *columns: Sequence[object]) -> list[SimpleNamespace]:
        rows = list(zip(*columns, strict=True))
        self.batches.append(rows)
        return [SimpleNamespace(job_id=str(row[2]), paths=SimpleNamespace(stderr=Path("log"))) for row in rows]


@pytest.mark.parametrize(
    ("given", "settings", "gpus"),
    [
        ("3,5", {"parallel": 2}, ["3", "5", "5", "5"]),
        ("3", {"parallel": 2}, ["3", "3", "3", "3"]),
        ("", {"parallel": 2}, [None] * 4),
        ("3,5", {"parallel": 2, "gpus_per_node": 1}, ["3", "5", "5", "5"]),
        ("3,5", {"parallel": 2, "gpus_per_node": 0}, [None] * 4),
    ],
)
def test_runs_at_the_same_time_have_a_gpu_each(monkeypatch, given: str, settings: dict, gpus: list) -> None:
    submitit = pytest.importorskip("submitit", reason="pip install -e '.[slurm]'")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[slurm]'")
    monkeypatch.setattr(submitit, "AutoExecutor", Executor)
    monkeypatch.setattr(Executor, "batches", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)

    def wait(jobs: dict, fill: Callable[[], None], _: object) -> None:
        while jobs:
            del jobs[max(jobs)]  # the first goes on to the end
            fill()

    monkeypatch.setattr(sweep, "_wait", wait)
    runs = [sweep.SweepRun(number, (), None, Path("x")) for number in range(4)]
    sweep.run_with_submitit(SimpleNamespace(params={"submitit_folder": "x", **settings}), runs, "local")
    rows = [row for batch in Executor.batches for row in batch]
    assert [row[2] for row in rows] == [0, 1, 2, 3]
    assert [row[-1] for row in rows] == gpus
    seen = []
    for gpu in gpus:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "of submitit")
        done = JobReturn(status=JobStatus.COMPLETED)
        call = lambda *words, done=done: seen.append((words, os.environ["CUDA_VISIBLE_DEVICES"])) or done  # noqa: E731
        sweep.in_submitit_job(SimpleNamespace(argv=sys.argv), call, ("a", "b", gpu))
    assert seen == [(("a", "b"), gpu or "of submitit") for gpu in gpus]


def test_no_run_at_a_time(monkeypatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[slurm]'")
    with pytest.raises(ValueError, match=r"hydra.launcher.parallel=0: give how many runs"):
        sweep.run_with_submitit(SimpleNamespace(params={"parallel": 0}), [], "local")


def test_threads_of_one_run_are_not_those_of_the_next(
    composed: Callable[..., DictConfig], small: list[str], job: Callable
) -> None:
    before = torch.get_num_threads()
    train.default_threads.cache_clear()  # as in a process that has run nothing yet
    try:
        one = train.run(composed(*small, f"threads={before + 1}"), job("one"))
        other = train.run(composed(*small, "seed=1", "threads=null"), job("other"))
    finally:
        torch.set_num_threads(before)
    assert (one["machine"]["threads"], other["machine"]["threads"]) == (before + 1, before)


@pytest.mark.filterwarnings("ignore:GPU available but not used")  # a run hides it, see quiet_lightning
def test_a_mac_trains_on_its_cpu(composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    trainer = build_trainer(composed("trainer.accelerator=auto").trainer, logger=False, enable_checkpointing=False)
    assert trainer.strategy.root_device.type == "cpu"
