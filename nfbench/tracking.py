"""What is written down while a run goes on: `metrics.csv` always, Weights & Biases where the config says so.

The only place that imports wandb, and only when it is used. W&B is a view; the CSV and `summary.json` are the record.
"""

import csv
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from uuid import uuid4

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig

from nfbench.report.run_folder import write_atomically

MODES = ("disabled", "offline", "online")


class MetricsCSV(Callback):
    """A row an epoch, written before that epoch's checkpoint; a resume keeps the rows of the epochs it goes on from.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the rows of earlier epochs; those that will be done again are dropped."""
        self.rows = []
        if self.path.exists() and trainer.current_epoch > 0:
            with self.path.open(newline="") as handle:
                self.rows = [row for row in csv.DictReader(handle) if int(row["epoch"]) < trainer.current_epoch]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that this epoch has validation metrics of its own."""
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the row of this epoch and writes the file, whole or not at all."""
        row: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        if trainer.optimizers:
            row["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.6g}"
        for key, value in sorted(trainer.callback_metrics.items()):
            if key.endswith(("_step", "_epoch")) or (key.startswith("val/") and not self._validated):
                continue
            row[key] = f"{float(value):.6g}"
        self._validated = False
        self.rows.append(row)
        columns = list(dict.fromkeys(key for each in self.rows for key in each))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, text.getvalue())


@contextmanager
def wandb_logger(cfg: DictConfig, folder: Path, about: Mapping[str, Any]) -> Iterator[WandbLogger | None]:
    """The W&B run of this run folder, closed at the end so that the next job of a sweep gets its own.

    Args:
        cfg: the `logger` group.
        folder: the run folder; W&B's files lie below it.
        about: task, model, zoo, seed and whatever else the W&B run's config should show.

    Raises:
        ValueError: for an unknown mode, or `online` on a machine without an API key.
    """
    if cfg.mode not in MODES:
        raise ValueError(f"logger.mode={cfg.mode!r} is unknown: choose one of {', '.join(MODES)}")
    if cfg.mode == "disabled":
        yield None
        return
    import wandb

    if cfg.mode == "online" and not _has_key():
        raise ValueError(
            "logger=online needs a Weights & Biases account: run `wandb login` once, or set WANDB_API_KEY. "
            "Without one, leave logger=offline (the default) or use logger=csv"
        )
    os.environ.setdefault("WANDB_SILENT", "true")  # else it prints a screen of links at the end of each run
    run = wandb.init(
        mode=cfg.mode,
        dir=str(folder),
        project=cfg.project,
        entity=cfg.entity,
        group=cfg.group or f"{about['task']}/{about['model']}-{about['zoo']}",
        job_type="train",
        name=f"{about['model']}-{about['zoo']}-seed{about['seed']}",
        tags=[str(about["task"]), str(about["model"]), str(about["zoo"]), *cfg.tags],
        config=dict(about),
        id=_run_id(folder) if cfg.mode == "online" else None,  # offline W&B knows no resume
        resume="allow" if cfg.mode == "online" else None,
        reinit="finish_previous",
    )
    try:
        yield WandbLogger(experiment=run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def _has_key() -> bool:
    """Whether this machine can send runs, told without asking anybody: by the variable or what `wandb login` left."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host is not None and netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


def _run_id(folder: Path) -> str:
    """The id under which a resumed run goes on with its W&B run."""
    file = folder / "wandb_id"
    if not file.exists():
        write_atomically(file, uuid4().hex[:12])
    return file.read_text().strip()
