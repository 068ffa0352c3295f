"""CNN generalisation: the test accuracy of a classifier, told from its weights alone.

Special here:
- the model's one output is a logit: its sigmoid is the predicted accuracy, and the loss is binary cross-entropy against
  the true one (NFN, appendix D.1);
- ranks need all networks of a part, so metrics are made at the end of an epoch, from what was collected;
- a model that is not trained by gradient (`model.boosting` holds its settings) is fitted before the first step; the one
  epoch that follows only measures it, so that checkpoints, resume and the summary are those of any other model.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from nfbench.tasks.base import Task
from nfbench.tasks.boosting import fit_trees
from nfbench.tasks.scores import largest_tau, regression_scores
from nfbench.weightspace import ZooBatch

SCORES = ("kendall_tau", "r2", "l1", "loss")


class CnnGeneralization(Task):
    """Binary cross-entropy on test accuracies; Kendall's tau-b, R2 and L1 of the predictions.

    On the test set also `kendall_tau_max`, the largest tau-b that ties between the true accuracies leave to predictions
    without ties, `kendall_tau_share`, tau as a fraction of it, and the scores within each group of networks that the
    zoo tells apart, such as `test/kendall_tau/relu`.

    Args:
        group_name: what the zoo's groups are, such as "activation".
        optimizer, lr, weight_decay, schedule, warmup_steps, warmup_share, ema_decay: see `Task`.

    Raises:
        ValueError: for an unknown optimiser or schedule, or a number out of its range.
    """

    out_dim = 1
    metrics = (  # what `metric` and `monitor` may name
        *(f"{stage}/{score}" for stage in ("val", "test") for score in SCORES),
        "test/kendall_tau_max",
        "test/kendall_tau_share",
    )

    def __init__(
        self,
        *,
        group_name: str,
        optimizer: str = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        warmup_steps: int = 0,
        warmup_share: float = 0.1,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.check_settings()
        self.columns = ("index", "view", "true", "predicted", group_name)  # of `predictions`
        self.predictions: list[tuple[int, int, float, float, str]] = []
        self._seen: list[Tensor] = []  # (B, 4) index, view, true accuracy and logit of each batch

    @property
    def boosting(self) -> dict[str, Any] | None:
        """The settings of a model of boosted trees; None for a model that is trained by gradient."""
        return getattr(self.model, "boosting", None)

    def configure_optimizers(self) -> Any:
        """As every task; for a model of trees one that moves nothing: Lightning counts its steps."""
        if self.boosting is None:
            return super().configure_optimizers()
        self._idle = torch.zeros((), requires_grad=True)
        return torch.optim.SGD([self._idle], lr=0.0)

    def on_train_start(self) -> None:
        """Fits a model of trees, unless a checkpoint brought them."""
        model: Any = self.model  # trees: with `fitted`, `read` and `load_trees`
        if self.boosting is None or model.fitted:
            return
        zoo = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        parts = []
        for loader in (zoo.train_dataloader(), zoo.val_dataloader()):
            with torch.no_grad():
                pairs = [(model.read(batch.features), batch.target) for batch in loader]
            features, target = (torch.cat(part).float().cpu().numpy() for part in zip(*pairs, strict=True))
            parts.append((features, target))
        model.load_trees(fit_trees(*parts, **self.boosting, seed=torch.initial_seed() % 2**32))

    def training_step(self, batch: ZooBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        logits = self.model(batch.features)[:, 0]  # (B,)
        loss = binary_cross_entropy_with_logits(logits, batch.target)
        size = len(batch.target)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=size)
        l1 = (logits.sigmoid() - batch.target).abs().mean()
        self.log("train/l1", l1, on_step=False, on_epoch=True, batch_size=size)
        return loss if self.boosting is None else loss + self._idle

    def on_train_epoch_end(self) -> None:
        """As every task; a model of trees has no second epoch."""
        super().on_train_epoch_end()
        if self.boosting is not None:
            self.trainer.should_stop = True

    def on_validation_epoch_start(self) -> None:
        """Forgets the networks of an earlier validation."""
        self._seen = []

    def on_test_epoch_start(self) -> None:
        """Forgets the networks of an earlier test."""
        self._seen, self.predictions = [], []

    def validation_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Keeps what the epoch's scores are made of."""
        self._keep(batch)

    def test_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Keeps what the test's scores are made of."""
        self._keep(batch)

    def _keep(self, batch: ZooBatch) -> None:
        logits = self.evaluated(batch.features)[:, 0]
        columns = (batch.index, batch.view, batch.target, logits)
        self._seen.append(torch.stack([column.double().cpu() for column in columns], dim=1))

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of the epoch."""
        self._scores("val")

    def on_test_epoch_end(self) -> None:
        """Logs the scores of the test, of all networks and of each group, and keeps the predictions."""
        index, view, true, predicted = self._scores("test")
        largest = largest_tau(true)
        tau = regression_scores(true, predicted)["kendall_tau"]
        self.log_dict({"test/kendall_tau_max": largest, "test/kendall_tau_share": tau / largest if largest else 0.0})
        zoo = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        group = np.array(zoo.groups(torch.from_numpy(index), torch.from_numpy(view)))
        for name in np.unique(group[group != ""]).tolist():
            scores = regression_scores(true[group == name], predicted[group == name])
            self.log_dict({f"test/{score}/{name}": value for score, value in scores.items()})
        rows = zip(*(column.tolist() for column in (index, view, true, predicted, group)), strict=True)
        self.predictions = list(rows)

    def _scores(self, stage: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Logs them, and returns index, view, true and predicted accuracy (n,) of the networks they are of."""
        seen = torch.cat(self._seen)
        true, logits = seen[:, 2], seen[:, 3]
        predicted = logits.sigmoid()  # in float64, where it makes no ties
        scores = regression_scores(true.numpy(), predicted.numpy())
        scores["loss"] = float(binary_cross_entropy_with_logits(logits, true))
        self.log_dict({f"{stage}/{score}": value for score, value in scores.items()}, prog_bar=False)
        index, view = seen[:, :2].long().numpy().T
        return index, view, true.numpy(), predicted.numpy()
