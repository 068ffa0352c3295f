"""`Task`: how any model is trained, whatever the loss: the optimiser, the schedule, averaged weights.

Special here:
- the model is set from outside (`task.model = ...`), since it depends on both the zoo's spec and `out_dim`;
- with `ema_decay` > 0 a running mean of the weights is what is validated and tested; it lies in the checkpoint, so a
  resumed run keeps it to the bit.
"""

import copy
import logging
import math
from typing import Any

import torch
from lightning import LightningModule
from torch import nn

from nfbench.weightspace import ZooBatch

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
SCHEDULES = ("cosine", "constant")
log = logging.getLogger(__name__)


class Task(LightningModule):
    """What the tasks share. A subclass has the steps, and calls `save_hyperparameters` and then `check_settings`.

    Hyper-parameters of every task:
        optimizer: `adamw` or `adam`.
        lr: peak learning rate.
        weight_decay: of the optimiser; on the matrices of `nn.Linear`, not on biases, norms, embeddings and queries.
        schedule: `cosine` (to zero at the last step) or `constant`, both after the warm-up.
        warmup_steps: steps of linear warm-up from zero.
        warmup_share: of the run that the warm-up takes at most; where that makes it shorter, the log says so.
        ema_decay: decay a step of the averaged weights; 0 turns the averaging off.
    """

    model: nn.Module
    out_dim: int | None

    def __init__(self) -> None:
        super().__init__()
        self.averaged: nn.Module | None = None

    def check_settings(self, **limits: tuple[float, float]) -> None:
        """Raises ValueError for an unknown optimiser or schedule, or a number out of its range.

        Args:
            limits: least and greatest value of a task's own hyper-parameters.
        """
        for name, allowed in (("optimizer", tuple(OPTIMIZERS)), ("schedule", SCHEDULES)):
            if (value := self.hparams[name]) not in allowed:
                raise ValueError(f"task.{name}={value!r} is unknown: choose one of {', '.join(allowed)}")
        ranges = {
            "lr": (0.0, 10.0),
            "weight_decay": (0.0, 100.0),
            "warmup_steps": (0, math.inf),
            "warmup_share": (0.0, 1.0),
            **limits,
            "ema_decay": (0.0, 0.999999),
        }
        for name, (low, high) in ranges.items():
            if not low <= self.hparams[name] <= high:
                raise ValueError(
                    f"task.{name}={self.hparams[name]} is out of range: it lies between {low:g} and {high:g}"
                )

    @property
    def evaluated(self) -> nn.Module:
        """What is validated and tested: the model, or the running mean of its weights."""
        return self.model if self.averaged is None else self.averaged

    def configure_model(self) -> None:
        """Makes the averaged copy of the model; Lightning calls it before it loads a checkpoint."""
        if self.hparams["ema_decay"] > 0 and self.averaged is None:
            self.averaged = copy.deepcopy(self.model).requires_grad_(False)

    def check_model(self) -> None:
        """Refuses a model that is not for this task, before a zoo is built for it.

        Raises:
            ValueError: with what would do.
        """
        if getattr(self.model, "draws_masks", False):
            raise ValueError("model=vae/... draws masks, and no other outputs: it goes with task=tickets")

    def check_zoo(self, zoo: Any) -> None:  # most tasks take what has the facts they ask for
        """Refuses a zoo that is not for this task, before it is built.

        Raises:
            ValueError: with what would do.
        """

    def configure_optimizers(self) -> Any:
        """The optimiser and the learning rate of each step."""
        settings = self.hparams
        groups = decay_groups(self.model, settings["weight_decay"])
        optimizer = OPTIMIZERS[settings["optimizer"]](groups, lr=settings["lr"])
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps) and settings["schedule"] != "constant":
            raise ValueError(
                f"trainer.max_epochs={self.trainer.max_epochs} has no end, which task.schedule={settings['schedule']} "
                "counts down to: give trainer.max_epochs, +trainer.max_steps or task.schedule=constant"
            )
        total = max(int(steps), 1) if math.isfinite(steps) else 0
        warmup = settings["warmup_steps"]
        if total and warmup > (most := math.floor(settings["warmup_share"] * total)):
            log.info("warm-up: %d of %d steps, task.warmup_share of the run, instead of %d", most, total, warmup)
            warmup = most

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            if settings["schedule"] == "constant":
                return 1.0
            return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(total - warmup, 1), 1.0)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: ZooBatch, batch_idx: int) -> None:
        """Moves the averaged weights a step, faster in the first steps so that the random start is forgotten."""
        if self.averaged is None:
            return
        decay = min(self.hparams["ema_decay"], (1 + self.global_step) / (10 + self.global_step))
        for mean, now in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for kept, buffer in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
            kept.copy_(buffer)

    def on_train_epoch_end(self) -> None:
        """Stops a run whose loss is no number any more, before that reaches a checkpoint."""
        loss = self.trainer.callback_metrics.get("train/loss")
        if loss is not None and not torch.isfinite(loss):
            raise ValueError(
                f"the training loss is {loss.item()} in epoch {self.current_epoch}: lower task.lr "
                f"(now {self.hparams['lr']:g}) or set trainer.gradient_clip_val. The last good epoch is in last.ckpt"
            )


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The optimiser's parameter groups: the matrices of `nn.Linear` with weight decay, all others without."""
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) in matrices], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in matrices], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
