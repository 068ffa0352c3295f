"""What is written down while a run goes on: `metrics.csv` always, Weights & Biases where the config says so.

The only place that imports wandb, and only when it is used. W&B is a view; the CSV and `summary.json` are the record.
"""

import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf

from nfbench.config.identity import config_hash
from nfbench.config.job import Job
from nfbench.report.run_folder import RunFolder, write_atomically
from nfbench.wandb_runs import CELL, TOLD, flatten, has_key, panel_key

MODES = ("disabled", "offline", "online")
DATA_DIR = "WANDB_DATA_DIR"
MOST_ROWS = 200  # of a table of predictions
# Keys of the config that `flatten` is not to show.
ELSEWHERE = ("logger", "sweep", "rerun", "task", "model", "zoo", "trainer")
X_AXIS = "trainer/global_step"


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
        self.rows = earlier_rows(self.path, trainer.current_epoch)

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


def earlier_rows(path: Path, epoch: int) -> list[dict[str, Any]]:
    """The rows of `metrics.csv` of the epochs before this one."""
    if epoch == 0 or not path.exists():
        return []
    with path.open(newline="") as handle:
        return [row for row in csv.DictReader(handle) if int(row["epoch"]) < epoch]


class WandbView(Callback):
    """What a W&B run gets in training beside what Lightning logs; nothing where there is no W&B run.

    Validation metrics under the name of the task too, so that a panel can show this task alone; the newest of the
    task's `frames`, if it has them; and offline, where W&B knows no resume, the epochs before this process began.

    Args:
        task: its name.
        folder: the run folder.
    """

    def __init__(self, task: str, folder: Path) -> None:
        self.task = task
        self.path = folder / "metrics.csv"
        self._frames = 0
        self._told = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells an offline run of the epochs of the processes before."""
        self._frames = len(getattr(pl_module, "frames", ()))
        self._tell(trainer, trainer.current_epoch)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells it here where nothing was left to train."""
        self._tell(trainer, sys.maxsize)

    def _tell(self, trainer: Trainer, epoch: int) -> None:
        logger = trainer.logger
        if self._told or not isinstance(logger, WandbLogger) or not logger.experiment.offline:
            return
        self._told = True
        for row in earlier_rows(self.path, epoch):
            metrics = {name: float(value) for name, value in row.items() if value and name != "step"}
            logger.log_metrics(metrics | self._own(metrics), step=int(row["step"]) - 1)
        (Path(logger.experiment.dir).parent / TOLD).touch()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the epoch's metrics and its frame."""
        logger = trainer.logger
        if not isinstance(logger, WandbLogger):
            return
        metrics = self._own({name: float(value) for name, value in trainer.callback_metrics.items()})
        step = trainer.global_step - 1  # as Lightning counts for the same epoch
        logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, step=step)
        frames: Any = getattr(pl_module, "frames", ())
        if len(frames) > self._frames:
            self._frames = len(frames)
            logger.log_image(panel_key(self.task, "frames"), [np.squeeze(frames[-1])], step=step)

    def _own(self, metrics: Mapping[str, float]) -> dict[str, float]:
        return {panel_key(self.task, name): value for name, value in metrics.items() if name.startswith("val/")}


class _Logger(WandbLogger):
    """Without the task's arguments in the W&B config: they are there as `task/...`, and `width` could be anything's."""

    def log_hyperparams(self, params: Any) -> None:
        """Nothing."""


@contextmanager
def wandb_logger(cfg: DictConfig, job: Job) -> Iterator[WandbLogger | None]:
    """The W&B run of this run folder, closed at the end so that the next job of a sweep gets its own.

    Its config is one level of plain keys to filter by: `task`, `model`, `zoo`, `seed`, `size`, ..., `model/width` and
    so on, and `cell`, which the seeds of one experiment share.

    Args:
        cfg: the composed config.
        job: the run folder, in which W&B's files lie, and whether it is one of a sweep.

    Raises:
        ValueError: for an unknown mode, or `online` on a machine without an API key.
    """
    wanted = cfg.logger
    if wanted.mode not in MODES:
        raise ValueError(f"logger.mode={wanted.mode!r} is unknown: choose one of {', '.join(MODES)}")
    if wanted.mode == "disabled":
        yield None
        return
    import wandb

    if wanted.mode == "online" and not has_key():
        raise ValueError(
            "logger=online needs a Weights & Biases account: run `wandb login` once, or set WANDB_API_KEY. "
            "Without one, leave logger=offline (the default) or use logger=csv"
        )
    os.environ.setdefault("WANDB_SILENT", "true")  # else it prints a screen of links at the end of each run
    own_data = DATA_DIR not in os.environ
    if own_data:  # tables wait there for their upload: with their run, not in the user's home
        os.environ[DATA_DIR] = str(job.folder / "wandb" / "data")
    task, model, zoo = (str(cfg[group].name) for group in ("task", "model", "zoo"))
    sweep = f"sweep-{job.folder.parent.name}" if job.sweep else None
    online = wanted.mode == "online"
    run = wandb.init(
        mode=wanted.mode,
        dir=str(job.folder),
        project=wanted.project,
        entity=wanted.entity,
        group=wanted.group or sweep or f"{task}/{model}-{zoo}",
        job_type=wanted.job_type or ("tune" if job.tuning else "train"),
        name=f"{model}-{zoo}-seed{cfg.seed}",
        tags=list(dict.fromkeys([task, model, zoo, str(cfg.size), *([sweep] if sweep else []), *wanted.tags])),
        config=wandb_config(cfg, job),
        id=_run_id(job.folder) if online else None,  # offline W&B knows no resume
        resume="allow" if online else None,
        reinit="finish_previous",
    )
    run.define_metric(X_AXIS)
    run.define_metric("*", step_metric=X_AXIS, step_sync=True)
    try:
        yield _Logger(experiment=run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    else:
        run.finish()
    finally:
        if own_data:
            del os.environ[DATA_DIR]


def wandb_config(cfg: DictConfig, job: Job) -> dict[str, Any]:
    """The resolved config on one level, and what tells this run from others."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    task, model, zoo, trainer = (plain[group] for group in ("task", "model", "zoo", "trainer"))
    found = config_hash(cfg)
    return {
        "task": task["name"],
        "model": model["name"],
        "zoo": zoo["name"],
        CELL: f"{model['name']} on {zoo['name']} ({found})",
        "config_hash": found,
        "command": job.command,
        "run_folder": job.folder.name,
        **{str(name): value for name, value in plain.items() if name not in ELSEWHERE},
        **flatten({"task": task, "model": model, "zoo": zoo, "trainer": trainer}),
    }


def log_protocol(logger: WandbLogger | None, protocol: Mapping[str, Any]) -> None:
    """Adds to the W&B config what a result must say about its data, such as its dataset and the access."""
    if logger is not None:
        logger.experiment.config.update(dict(protocol), allow_val_change=True)


def log_result(logger: WandbLogger | None, folder: RunFolder, summary: Mapping[str, Any]) -> None:
    """The end of a W&B run: protocol, metrics, pictures, and tables of test items, all from the files of the run."""
    if logger is None:
        return
    import wandb

    run, task = logger.experiment, str(summary["task"])
    log_protocol(logger, flatten({k: v for k, v in summary.items() if k not in ("metrics", "config")}))
    media: dict[str, Any] = {}
    if summary["picture"]:
        media["picture"] = wandb.Image(str(folder.path / summary["picture"]))
    if (animation := folder.path / "edit.gif").exists():
        media["animation"] = wandb.Video(str(animation), format="gif")
    columns, rows = _predictions(folder.path / "predictions.csv")
    if rows:
        some = np.unique(np.linspace(0, len(rows) - 1, min(MOST_ROWS, len(rows))).astype(int))
        media["predictions"] = wandb.Table(columns=columns, data=[rows[i] for i in some])
    samples = _samples(folder.path / "samples.npz", columns, rows)
    if images := [wandb.Image(image, caption=text) for image, text in samples]:
        media["samples"] = images
    run.log({panel_key(task, name): value for name, value in media.items()})
    counts = ("best_epoch", "epochs", "params", "examples_seen", "wall_s", "peak_memory_mb")
    metrics = summary["metrics"]
    run.summary.update({**metrics, **{panel_key(task, name): value for name, value in metrics.items()}})
    run.summary.update({name: summary[name] for name in counts})


def _predictions(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Names and rows of `predictions.csv`, numbers as numbers; nothing where there is none."""
    if not path.exists():
        return [], []
    with path.open(newline="") as handle:
        columns, *rows = csv.reader(handle)
    return columns, [[_number(value) for value in row] for row in rows]


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _samples(path: Path, columns: list[str], rows: list[list[Any]]) -> Iterator[tuple[Any, str]]:
    """Test items as bytes (H, W) or (H, W, 3), what was made of them beside them, and what is known of each.

    Nothing where there is no file, or one of something else than images.
    """
    if not path.exists():
        return
    known = {tuple(row[:2]): dict(zip(columns, row, strict=True)) for row in rows}
    with np.load(path) as file:
        shown = [file[name] for name in ("images", "target", "edited") if name in file]
        if "images" not in file or "view" not in file:
            return
        keys = list(zip(file["index"].tolist(), file["view"].tolist(), strict=True))
    for at, *images in zip(keys, *shown, strict=True):
        image = np.concatenate(images, axis=1)  # (H, n W, channels) in [0, 1]
        text = ", ".join(f"{name} {value}" for name, value in known[at].items())
        yield np.squeeze(np.rint(image.clip(0, 1) * 255).astype(np.uint8)), text


def _run_id(folder: Path) -> str:
    """The id under which a resumed run goes on with its W&B run."""
    file = folder / "wandb_id"
    if not file.exists():
        write_atomically(file, uuid4().hex[:12])
    return file.read_text().strip()
