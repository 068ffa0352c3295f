"""What a run shows while it trains: a bar on a terminal, lines elsewhere, and none of Lightning's idle warnings."""

import logging
import sys
import time
import warnings
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from omegaconf import DictConfig
from tqdm import tqdm

log = logging.getLogger(__name__)


class EpochBar(TQDMProgressBar):
    """Lightning's bar on one line: validation is too short here for a bar of its own."""

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Names the epoch and how many there will be."""
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def init_validation_tqdm(self) -> Any:
        """No bar."""
        return tqdm(disable=True)

    def init_test_tqdm(self) -> Any:
        """No bar."""
        return tqdm(disable=True)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The loss of this step and the latest validation metric, nothing twice."""
        shown = super().get_metrics(trainer, pl_module)
        return {k.removesuffix("_step"): v for k, v in shown.items() if not k.endswith("_epoch") and k != "v_num"}


class EpochLines(Callback):
    """A line every few seconds instead of a bar, where the output goes to a file."""

    def __init__(self, every_s: float = 10.0) -> None:
        self.every_s = every_s
        self._next = 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the epoch's metrics, if the last line is a while ago or this is the last epoch."""
        final = trainer.current_epoch + 1 == trainer.max_epochs
        if time.monotonic() < self._next and not final:
            return
        self._next = time.monotonic() + self.every_s
        metrics = {k: v for k, v in sorted(trainer.callback_metrics.items()) if not k.endswith(("_step", "_epoch"))}
        shown = "  ".join(f"{key} {float(value):.4f}" for key, value in metrics.items())
        log.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, shown)


def progress(cfg: DictConfig) -> list[Callback]:
    """A bar on a terminal, lines elsewhere, nothing where it is turned off."""
    if not cfg.trainer.enable_progress_bar:
        return []
    return [EpochBar()] if sys.stdout.isatty() else [EpochLines()]


def quiet_lightning() -> None:
    """Keeps Lightning's useful warnings and hides those that are wrong or idle here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # its hints on devices, tips and restored paths
    idle = (
        ".*does not have many workers.*",  # the zoo is one tensor on the device: workers would slow it down
        ".*smaller than the logging interval.*",  # metrics.csv has a row an epoch in any case
        ".*Checkpoint directory .* exists and is not empty.*",  # that is what a resume is
        ".*The dirpath has changed from.*",  # ckpt_path=... of another folder, as asked for
        ".*could not find the monitored key.*",  # an epoch without validation; a key nobody logs is refused before
        ".*GPU available but not used.*",  # as asked for, or a Mac's
        ".*`srun` command is available.*",  # Slurm is installed, and this run was not meant for it
        ".*LeafSpec.*is deprecated.*",  # within Lightning, about torch's internals
    )
    for pattern in idle:
        warnings.filterwarnings("ignore", pattern)
