"""What can be said of W&B runs without wandb: the names that runs and dashboards share, and offline runs on the disk.

wandb puts an offline run into `<run folder>/wandb/offline-run-<time>-<id>/`, its records into `run-<id>.wandb` there,
and `run-<id>.wandb.synced` beside it once all of it was uploaded.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from nfbench.report.run_folder import RunFolder

CELL = "cell"  # key of the config that is the same for all seeds of one experiment, and no others
MEDIA = ("picture", "samples", "frames", "animation")  # of these a run has what its task has
TABLE = "predictions"
TOLD = "nfbench-told"  # in the folder of an offline run that knows of all epochs before it


def panel_key(task: str, name: str) -> str:
    """The name of something of a task in W&B, such as `inr_cls/val/acc`.

    Tasks share names of metrics, and a panel shows all runs that have a name: with the task in it, its own alone.
    """
    return f"{task}/{name}"


def flatten(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A nested config as one level with keys such as `model/width`, which W&B can filter and group by."""
    rows: dict[str, Any] = {}
    for name, value in config.items():
        path = f"{above}{name}"
        rows |= flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return rows


def has_key() -> bool:
    """Whether this machine can send runs, told without asking anybody: by the variable or what `wandb login` left."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host is not None and netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


@dataclass(frozen=True)
class OfflineRun:
    """An offline W&B run.

    Attributes:
        folder: `offline-run-...`.
        file: its records.
        run: the run folder it lies in.
        superseded: another attempt of the same run, the last that trained, has all of it.
    """

    folder: Path
    file: Path
    run: RunFolder
    superseded: bool

    @property
    def synced(self) -> bool:
        """Whether wandb has uploaded it."""
        return self.file.with_name(f"{self.file.name}.synced").exists()

    @property
    def state(self) -> str:
        """`synced`, `superseded`, `running` (its records are still being written) or `open`, to be uploaded."""
        if self.synced:
            return "synced"
        if self.superseded:
            return "superseded"
        return "running" if self.run.in_use() else "open"


def find_offline_runs(top: Path) -> list[OfflineRun]:
    """All offline runs below a folder; those of one run folder in the order of their start."""
    found = []
    for wandb_folder in sorted({file.parents[1] for file in top.rglob("wandb/offline-run-*/run-*.wandb")}):
        files = sorted(wandb_folder.glob("offline-run-*/run-*.wandb"), key=_start)
        run = RunFolder(wandb_folder.parent)
        whole = [file for file in files if file.with_name(TOLD).exists()] or files
        found += [OfflineRun(file.parent, file, run, superseded=file != whole[-1]) for file in files]
    return found


def _start(file: Path) -> tuple[str, int]:
    """The second in which a run began, from its folder's name; of two within one, the time of its last record."""
    return file.parent.name.rpartition("-")[0], file.stat().st_mtime_ns
