"""Fixtures: a composed config, a run in this process, and a run from the command line, all in a temporary folder."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from nfbench.config import register
from nfbench.config.job import Job

ROOT = Path(__file__).resolve().parents[1]


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
        yield lambda *overrides: compose("config", overrides=list(overrides))


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
