"""A sweep goes on in its folder, however it is started; and runs of one process do not change each other."""

from collections.abc import Callable

import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator
from omegaconf import DictConfig

from nfbench import train
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
    other = ["task.lr=1e-3", "hydra.sweeper.n_trials=9", "seed=0,1,2", "zoo.num_views=2", "logger.group=x"]
    assert len({hash_of(monkeypatch, word) for word in other} | {first}) == 6


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
