"""Fixtures: a composed config, a run in this process, and a run from the command line, all in a temporary folder."""

import copy
import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# ruff: noqa: E402
# Settings of whoever runs the tests are gone before anything reads them: results are compared to the bit, which takes a
# CPU, and messages as they come.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
for _name in [name for name in os.environ if name.startswith(("WANDB", "HYDRA", "SLURM", "NFBENCH_TRUST"))]:
    del os.environ[_name]

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from nfbench import train
from nfbench.config import register
from nfbench.config.job import Job
from nfbench.resume import RunState, read_checkpoint

ROOT = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # workers share the cores, with the runs that they start
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names a case of bytes after its argument: two workers must agree on every name, and a gzip holds the time."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Takes away the handlers that a Hydra job in this process left behind: their streams are closed by now."""
    yield
    for handler in logging.getLogger().handlers[:]:
        if type(handler) in (logging.StreamHandler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            handler.close()


@pytest.fixture
def composed() -> Iterator[Callable[..., DictConfig]]:
    """composed("model=mlp", ...) -> the config that run.py would see."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield lambda *overrides: copy.deepcopy(_composed(overrides))


@functools.cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """A composition takes 0.4 s, and tests ask for the same ones; what it interpolates is resolved when it is read."""
    return compose("config", overrides=list(overrides))


@pytest.fixture(scope="session")
def zoo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of zoos for the whole session: each is built once."""
    return tmp_path_factory.mktemp("zoos")


@pytest.fixture
def small(zoo_dir: Path, tmp_path: Path) -> list[str]:
    """Overrides that make a run take about a second and write nowhere else."""
    return ["experiment=smoke", "model=mlp", "logger=csv", f"zoo_dir={zoo_dir}", f"output_dir={tmp_path / 'outputs'}"]


@pytest.fixture
def job(tmp_path: Path) -> Callable[[str], Job]:
    """job("a") -> a job whose run folder is `a`."""

    def make(name: str) -> Job:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Job(folder, "python run.py", (), sweep=False, hydra_yaml="hydra: {}\n")

    return make


class Stopped(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """stop(cfg, job, epoch, batch) trains until just before that batch, where the run dies."""

    def run(cfg: DictConfig, job: Job, epoch: int, batch: int) -> None:
        original = RunState.on_train_batch_start

        def hook(self: RunState, trainer: Any, pl_module: Any, given: Any, batch_idx: int) -> None:
            if (trainer.current_epoch, batch_idx) == (epoch, batch):
                raise Stopped
            original(self, trainer, pl_module, given, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(RunState, "on_train_batch_start", hook)
            with pytest.raises(Stopped):
                train.run(cfg, job)

    return run


@pytest.fixture
def assert_same_run() -> Callable[[Path, Path], None]:
    """assert_same_run(one, other): two run folders, their last and best weights to the bit, metrics and predictions."""

    def check(one: Path, other: Path) -> None:
        for name in ("last", "best"):
            a, b = (read_checkpoint(p / "checkpoints" / f"{name}.ckpt")["state_dict"] for p in (one, other))
            assert a.keys() == b.keys()
            for key in a:
                assert torch.equal(a[key], b[key]), (name, key)
        for name in ("metrics.csv", "predictions.csv"):
            assert (one / name).read_text() == (other / name).read_text(), name

    return check


@pytest.fixture
def cli() -> Callable[..., Any]:
    """cli("task=inr_cls", ...) -> the finished process; `patch` is Python that runs before run.py does."""

    def run(*arguments: str, patch: str = "", timeout_s: float = 300, **env: str) -> "subprocess.CompletedProcess[str]":
        start = f"import runpy, sys\nsys.argv = {['run.py', *arguments]!r}\n{patch}\n"
        start += "runpy.run_path('run.py', run_name='__main__')"
        command = [sys.executable, "-c", start] if patch else [sys.executable, "run.py", *arguments]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA"))}
        environment |= {"PYTHONPATH": str(ROOT), "NETRC": os.devnull, **env}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    return run
