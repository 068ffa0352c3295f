"""INR classification: which class of image a network shows, told from its weights alone.

Special here:
- the model is set from outside (`task.model = ...`), since it depends on both the zoo's spec and `out_dim`;
- with `ema_decay` > 0 a running mean of the weights is what is validated and tested; it lies in the checkpoint, so a
  resumed run keeps it to the bit;
- test predictions are kept item by item in `predictions`, for pictures and paired comparisons.
"""

import copy
import logging
import math
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from nfbench.weightspace import ZooBatch

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
SCHEDULES = ("cosine", "constant")
log = logging.getLogger(__name__)


class InrClassification(LightningModule):
    """Cross-entropy and accuracy over the classes of the image that a network represents.

    Args:
        num_classes: how many classes the zoo has.
        optimizer: `adamw` or `adam`.
        lr: peak learning rate.
        weight_decay: of the optimiser; on the matrices of `nn.Linear`, not on biases, norms, embeddings and queries.
        schedule: `cosine` (to zero at the last step) or `constant`, both after the warm-up.
        warmup_steps: steps of linear warm-up from zero; at most a tenth of the run is used, and the log says so.
        label_smoothing: of the training loss.
        ema_decay: decay a step of the averaged weights; 0 turns the averaging off.

    Raises:
        ValueError: for an unknown optimiser or schedule, or a number out of its range.
    """

    model: nn.Module
    metrics = ("val/acc", "val/loss", "test/acc", "test/loss")  # what `metric` and `monitor` may name

    def __init__(
        self,
        *,
        num_classes: int,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        schedule: str = "cosine",
        warmup_steps: int = 100,
        label_smoothing: float = 0.0,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"task.optimizer={optimizer!r} is unknown: choose one of {', '.join(OPTIMIZERS)}")
        if schedule not in SCHEDULES:
            raise ValueError(f"task.schedule={schedule!r} is unknown: choose one of {', '.join(SCHEDULES)}")
        for name, value, low, high in (
            ("lr", lr, 0.0, 10.0),
            ("weight_decay", weight_decay, 0.0, 100.0),
            ("warmup_steps", warmup_steps, 0, math.inf),
            ("label_smoothing", label_smoothing, 0.0, 1.0),
            ("ema_decay", ema_decay, 0.0, 0.999999),
        ):
            if not low <= value <= high:
                raise ValueError(f"task.{name}={value} is out of range: it lies between {low:g} and {high:g}")
        self.save_hyperparameters()
        self.out_dim = num_classes
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")
        self.averaged: nn.Module | None = None
        self.predictions: list[tuple[int, int, int, int]] = []  # image index, view, true class, predicted class

    def configure_model(self) -> None:
        """Makes the averaged copy of the model; Lightning calls it before it loads a checkpoint."""
        if self.hparams["ema_decay"] > 0 and self.averaged is None:
            self.averaged = copy.deepcopy(self.model).requires_grad_(False)

    def configure_optimizers(self) -> Any:
        """The optimiser and the learning rate of each step."""
        settings = self.hparams
        groups = decay_groups(self.model, settings["weight_decay"])
        optimizer = OPTIMIZERS[settings["optimizer"]](groups, lr=settings["lr"])
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        warmup = min(settings["warmup_steps"], total // 10)
        if warmup < settings["warmup_steps"]:
            log.info("warm-up: %d steps, a tenth of the run, instead of %d", warmup, settings["warmup_steps"])

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            if settings["schedule"] == "constant":
                return 1.0
            return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(total - warmup, 1), 1.0)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: ZooBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        logits = self.model(batch.features)  # (B, classes)
        loss = cross_entropy(logits, batch.target, label_smoothing=self.hparams["label_smoothing"])
        target = batch.target  # (B,), or (B, classes) shares where the zoo mixes networks: the largest one counts
        classes = target if target.ndim == 1 else target.argmax(-1)
        accuracy = (logits.argmax(-1) == classes).float().mean()
        size = len(batch.target)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=size)
        self.log("train/acc", accuracy, on_step=False, on_epoch=True, batch_size=size)
        return loss

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

    def validation_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Loss and accuracy of one batch."""
        self._evaluate(batch, "val", self.val_acc)

    def on_test_start(self) -> None:
        """Forgets the predictions of an earlier test."""
        self.predictions = []

    def test_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Loss, accuracy and the predictions of one batch."""
        predicted = self._evaluate(batch, "test", self.test_acc)
        columns = torch.stack([batch.index, batch.view, batch.target, predicted], dim=1)  # (B, 4)
        self.predictions += [(int(i), int(v), int(t), int(p)) for i, v, t, p in columns.tolist()]

    def _evaluate(self, batch: ZooBatch, stage: str, accuracy: MulticlassAccuracy) -> Tensor:
        model = self.model if self.averaged is None else self.averaged
        logits = model(batch.features)  # (B, classes)
        predicted = logits.argmax(-1)
        accuracy.update(predicted, batch.target)
        size = len(batch.target)
        self.log(f"{stage}/loss", cross_entropy(logits, batch.target), batch_size=size)
        self.log(f"{stage}/acc", accuracy, prog_bar=stage == "val", batch_size=size)
        return predicted


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The optimiser's parameter groups: the matrices of `nn.Linear` with weight decay, all others without."""
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) in matrices], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in matrices], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
