"""INR editing: the weights of an image's network become those of the edited image's (NFN, section 3.4, app. D.4).

Special here:
- the edit is added: U' = U + F(U), with the learned scales gamma inside the model. U is what the zoo gives, so where it
  is canonical and standardised the edit is made in that space and taken back from there: in the test the edited
  networks are put back in the place of the file's own (an exact symmetry), and these are measured;
- the error is that of the picture which U' draws against the true image as edited by OpenCV, pixels in [-1, 1];
- a few validation pictures of each epoch are kept, in the checkpoint too, for the animation of the run.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor, nn

from nfbench.tasks.base import Task
from nfbench.weightspace import WeightSpaceFeatures, ZooBatch

FRAME_IMAGES, MOST_FRAMES = 6, 60  # of the animation


class InrEditing(Task):
    """Mean squared error between the pictures of edited networks and edited images.

    `mse` is of pixels in [-1, 1], as in the papers; `mse_unit` of pixels in [0, 1], a quarter of it. `identity` is the
    error of the networks as they came.

    Args:
        edits: what the zoo's images can be edited to.
        edit: one of these.
        optimizer, lr, weight_decay, schedule, warmup_steps, warmup_share, ema_decay: see `Task`.

    Raises:
        ValueError: an unknown edit, optimiser or schedule, or a number out of its range.
    """

    out_dim = None
    metrics = (  # what `metric` and `monitor` may name
        *("val/mse", "val/mse_unit", "test/mse", "test/mse_unit"),
        *("test/identity_mse", "test/identity_mse_unit"),
    )
    columns = ("index", "view", "identity", "edited")  # of `predictions`

    def __init__(
        self,
        *,
        edits: Sequence[str],
        edit: str = "dilate",
        optimizer: str = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        warmup_steps: int = 1000,
        warmup_share: float = 0.1,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if edit not in edits:
            raise ValueError(f"task.edit={edit!r} is unknown for these images: choose one of {', '.join(edits)}")
        self.save_hyperparameters()
        self.check_settings()
        self.predictions: list[tuple[int, int, float, float]] = []
        self.frames: list[NDArray[np.uint8]] = []  # (3 H, n W, channels): networks as they came, edited, targets
        self._targets: Any = None  # items (B,) -> edited images (B, P, channels) in [-1, 1]

    @property
    def zoo(self) -> Any:
        """The zoo of this run, which draws."""
        return self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it

    def setup(self, stage: str) -> None:
        """Gets the edited images, once; ``stage`` makes no difference."""
        if self._targets is None:
            self._targets = self.zoo.edited_images(self.hparams["edit"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the frames of the animation."""
        checkpoint["frames"] = [torch.from_numpy(frame) for frame in self.frames]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the frames of the epochs before."""
        self.frames = [frame.numpy() for frame in checkpoint["frames"]]

    def training_step(self, batch: ZooBatch, batch_idx: int) -> Tensor:
        """The error of one batch."""
        edited = self._edit(self.model, batch.features)
        loss = self.zoo.errors(self.zoo.raw_weights(edited), self._targets(batch.index)).mean()
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(batch.index))
        return loss

    def validation_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """The error of one batch, and the epoch's frame."""
        edited = self._edit(self.evaluated, batch.features)
        errors = self.zoo.errors(self.zoo.raw_weights(edited), self._targets(batch.index))  # (B,)
        self._log_mse("val/mse", errors, prog_bar=True)
        fitting = self.trainer.state.fn == TrainerFn.FITTING  # not where the chosen epoch is validated again
        if fitting and batch_idx == 0 and self._is_frame():
            self._keep_frame(batch, edited)

    def _is_frame(self) -> bool:
        """Whether this validation makes a frame: about 60 do, or ever fewer where the run has no end."""
        between = self.trainer.check_val_every_n_epoch or 1
        number, epochs = (self.current_epoch + 1) // between - 1, self.trainer.max_epochs or 1
        if epochs < 0:
            return number % (1 << max(0, number.bit_length() - 5)) == 0
        return number % max(1, -(-(epochs // between) // MOST_FRAMES)) == 0

    def on_test_start(self) -> None:
        """Forgets the predictions of an earlier test."""
        self.predictions = []

    def test_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """The errors of one batch, edited and not, in the place of the file's networks."""
        index, view = batch.index, batch.view
        both = (batch.features, self._edit(self.evaluated, batch.features))
        identity, edited = (self.zoo.errors(self.zoo.own_weights(x, index, view), self._targets(index)) for x in both)
        self._log_mse("test/mse", edited)
        self._log_mse("test/identity_mse", identity)
        columns = (column.tolist() for column in (index, view, identity, edited))
        self.predictions += list(zip(*columns, strict=True))

    @torch.no_grad()
    def sample_arrays(self, batch: ZooBatch) -> dict[str, NDArray[Any]]:
        """Of some test networks: images (B, H, W, channels) in [0, 1], wanted and edited, and edited weights (B, T).

        The weights are those of the edited networks in the place of the file's own.
        """
        here = next(self.evaluated.parameters()).device  # after a test, Lightning has moved the model off a GPU
        edited = self._edit(self.evaluated, batch.features.to(here)).to(batch.index.device)
        shown = {
            "target": self._images(batch.index),
            "edited": self.zoo.render(edited),
            "weights": self.zoo.own_weights(edited, batch.index, batch.view),
        }
        return {name: values.float().cpu().numpy() for name, values in shown.items()}

    def _edit(self, model: nn.Module, features: WeightSpaceFeatures) -> WeightSpaceFeatures:
        return features + model(features)

    def _images(self, index: Tensor) -> Tensor:
        return ((self._targets(index) + 1) / 2).unflatten(1, self.zoo.image_shape[:2])

    def _log_mse(self, name: str, errors: Tensor, prog_bar: bool = False) -> None:
        self.log(name, errors.mean(), prog_bar=prog_bar, batch_size=len(errors))
        self.log(f"{name}_unit", errors.mean() / 4, batch_size=len(errors))

    def _keep_frame(self, batch: ZooBatch, edited: WeightSpaceFeatures) -> None:
        some = slice(0, FRAME_IMAGES)
        rows = (self.zoo.render(batch.features[some]), self.zoo.render(edited[some]), self._images(batch.index[some]))
        strip = torch.cat([torch.cat(list(images), dim=1) for images in rows])  # (3 H, n W, channels)
        self.frames.append((strip * 255).round().byte().cpu().numpy())
