"""Where this run lives and how it was started, as plain values: what the rest of the package knows of Hydra."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

CONFIG_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")


@dataclass(frozen=True)
class Job:
    """One run of a command line.

    Attributes:
        folder: absolute path of the run folder; Hydra has made it.
        command: what was typed, with where the config is if that was; in a sweep, the same run on its own.
        overrides: the overrides of this run, such as `seed=1`.
        sweep: whether it is one of several.
        hydra_yaml: Hydra's own config, for `.hydra/hydra.yaml`.
        tuning: whether an optimiser of hyper-parameters chose the overrides.
    """

    folder: Path
    command: str
    overrides: tuple[str, ...]
    sweep: bool
    hydra_yaml: str
    tuning: bool = False

    def write_hydra_files(self, cfg: DictConfig) -> None:
        """Writes `.hydra/{config,overrides,hydra}.yaml`, the files that Hydra's own tools look for."""
        folder = self.folder / ".hydra"
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
        (folder / "overrides.yaml").write_text(OmegaConf.to_yaml(list(self.overrides)))
        (folder / "hydra.yaml").write_text(self.hydra_yaml)


def current_job() -> Job:
    """The run that Hydra has just started in this process."""
    hydra = HydraConfig.get()
    overrides = tuple(hydra.overrides.task)
    sweep = hydra.mode == RunMode.MULTIRUN
    alone = [each for each in overrides if not (sweep and each.startswith("launcher="))]
    alone += [each for each in hydra.overrides.hydra if each.startswith("hydra.searchpath=")]
    return Job(
        folder=Path(hydra.runtime.output_dir),
        command=shlex.join(["python", Path(sys.argv[0]).name, *_config_flags(sys.argv[1:]), *alone]),
        overrides=overrides,
        sweep=sweep,
        hydra_yaml=OmegaConf.to_yaml(OmegaConf.create({"hydra": OmegaConf.to_container(hydra, resolve=False)})),
        tuning=sweep and "optuna" in str(hydra.sweeper.get("_target_")),
    )


def _config_flags(words: Sequence[str]) -> list[str]:
    """Of a command line what says where the config is, each with its value."""
    found, left = [], iter(words)
    for word in left:
        if word.partition("=")[0] in CONFIG_FLAGS:
            found += [word] if "=" in word else [word, *islice(left, 1)]
    return found


def flags_first(words: Sequence[str]) -> list[str]:
    """A command line with -m before the overrides: argparse takes overrides from one side of it only."""
    flags = [word for word in words if word in ("-m", "--multirun")]
    return [*flags[:1], *(word for word in words if word not in flags)]


def validation_metric(summary: Mapping[str, Any]) -> float | None:
    """What a tuning sweep compares: the monitored metric at the best epoch. Never a test metric."""
    return summary["metrics"].get(summary["config"]["task"]["monitor"]) if summary else None
