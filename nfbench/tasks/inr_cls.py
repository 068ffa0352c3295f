"""INR classification: which class of image a network shows, told from its weights alone.

Special here: test predictions are kept item by item in `predictions`, for pictures and paired comparisons.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from nfbench.tasks.base import Task
from nfbench.weightspace import ZooBatch


class InrClassification(Task):
    """Cross-entropy and accuracy over the classes of the image that a network represents.

    Args:
        num_classes: how many classes the zoo has.
        optimizer, lr, weight_decay, schedule, warmup_steps, warmup_share, ema_decay: see `Task`.
        label_smoothing: of the training loss.

    Raises:
        ValueError: for a zoo without classes, an unknown optimiser or schedule, or a number out of its range.
    """

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
        warmup_share: float = 0.1,
        label_smoothing: float = 0.0,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(
                "task=inr_cls needs networks of two classes or more. In this zoo all have the same class, or some have "
                "none (label -1): give each a label from 0, as in the column label of labels.csv, and import again."
            )
        self.save_hyperparameters()
        self.check_settings(label_smoothing=(0.0, 1.0))
        self.out_dim = num_classes
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")
        self.predictions: list[tuple[int, int, int, int]] = []  # image index, view, true class, predicted class

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
        logits = self.evaluated(batch.features)  # (B, classes)
        predicted = logits.argmax(-1)
        accuracy.update(predicted, batch.target)
        size = len(batch.target)
        self.log(f"{stage}/loss", cross_entropy(logits, batch.target), batch_size=size)
        self.log(f"{stage}/acc", accuracy, prog_bar=stage == "val", batch_size=size)
        return predicted
