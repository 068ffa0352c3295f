"""Inr2Array: an autoencoder of INRs, from weights to an array of latent vectors and from each vector to a SIREN (NFT).

Special here:
- the loss compares drawings, not weights: what the decoded SIRENs draw, a cell of the image each, with what the network
  that went in draws (`loss_target=inr`) or with the image it was fitted to (`loss_target=image`), in the networks' own
  range of values;
- mean and scale of the zoo's standardisation are in the checkpoint, so that the encoder reads other zoos as this one;
- `pictures` has what the run's picture is made of: reconstructions, neighbours among the latents, and their map.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from nfbench.tasks.base import Task
from nfbench.weightspace import CellRenderer, NetworkSpec, WeightSpaceFeatures, ZooBatch, render
from nfbench.weightspace.render import TILINGS

LOSS_TARGETS = ("inr", "image")
KEPT = 2000  # test networks whose latents are mapped
SHOWN, NEIGHBOURS, COMPONENTS = 8, 5, 30


class Inr2ArrayTask(Task):
    """Mean squared error and PSNR of the reconstruction, and with `joint_weight` the classes from the latents.

    PSNR in dB, peak = the range that the zoo's pixels were fitted in: the mean of the networks' own, against the
    target of the loss.

    Args:
        num_classes: of the zoo; read with joint_weight only.
        num_latents: M, a square number if spatial.
        spatial: one SIREN for each cell of a sqrt(M) x sqrt(M) grid; False: the mean of the M vectors, one SIREN.
        decoder, decoder_width, decoder_hidden, additive: `kind`, `width`, `num_hidden`, ... of `SirenDecoder`.
        tiling: of the cells, see `nfbench.weightspace.nearest_cells`.
        loss_target: "inr" or "image"; the latter not with augmentations that move or mix pictures.
        joint_weight: of the cross-entropy of a linear classifier of the latents; 0: none.
        optimizer, lr, weight_decay, schedule, warmup_steps, warmup_share, ema_decay: see `Task`.

    Raises:
        ValueError: a value that is not allowed; a zoo whose networks show no images, or have no classes but need them.
    """

    out_dim = None
    metrics = tuple(f"{stage}/{score}" for stage in ("val", "test") for score in ("psnr", "loss", "acc"))
    coords: Tensor
    mean: Tensor
    std: Tensor
    columns = ("index", "view", "true", "psnr")  # of `predictions`

    def __init__(
        self,
        *,
        num_classes: int,
        num_latents: int = 16,
        spatial: bool = True,
        decoder: str = "sitzmann",
        decoder_width: int = 256,
        decoder_hidden: int = 2,
        additive: bool = False,
        tiling: str = "corners",
        loss_target: str = "inr",
        joint_weight: float = 0.0,
        optimizer: str = "adamw",
        lr: float = 1e-4,
        weight_decay: float = 0.01,
        schedule: str = "cosine",
        warmup_steps: int = 10_000,
        warmup_share: float = 0.1,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not joint_weight:
            self.metrics = tuple(name for name in self.metrics if not name.endswith("/acc"))
        self.check_settings(joint_weight=(0.0, math.inf), num_latents=(1, math.inf))
        for name, value, allowed in (("loss_target", loss_target, LOSS_TARGETS), ("tiling", tiling, TILINGS)):
            if value not in allowed:
                raise ValueError(f"task.{name}={value!r} is unknown: choose one of {', '.join(allowed)}")
        if spatial and math.isqrt(num_latents) ** 2 != num_latents:
            raise ValueError(
                f"task.num_latents={num_latents} makes no square grid: give 1, 4, 9, 16, ... or task.spatial=false"
            )
        if joint_weight and num_classes < 2:
            raise ValueError("task.joint_weight needs networks with classes, which this zoo has not: set it to 0")
        self.renderer: CellRenderer | None = None
        self.predictions: list[tuple[int, int, int, float]] = []
        self.pictures: dict[str, Any] = {}
        self._kept: list[tuple[Tensor, ...]] = []

    def latents(self, w0_hidden: float = 30.0) -> dict[str, Any]:
        """What the model must have beside the encoder's layers, for `build_model`.

        Args:
            w0_hidden: of the zoo's networks, for the start of an additive decoder.
        """
        given = self.hparams
        return {
            "num_latents": given["num_latents"],
            "spatial": given["spatial"],
            "decoder": {
                "kind": given["decoder"],
                "width": given["decoder_width"],
                "num_hidden": given["decoder_hidden"],
                "additive": given["additive"],
                "w0_hidden": w0_hidden,
            },
            "num_classes": given["num_classes"] if given["joint_weight"] else 0,
        }

    @property
    def protocol(self) -> dict[str, str]:
        """What a result must say: loss and PSNR are against the INR's drawing or against the image."""
        return {"loss_target": self.hparams["loss_target"]}

    def check_zoo(self, zoo: Any) -> None:
        """Refuses networks that show no images, and targets that do not move with the networks."""
        why = getattr(zoo, "no_picture", None) or (
            f"networks {zoo.spec} are not of images" if zoo.spec.sizes[0] != 2 else None
        )
        if why:
            raise ValueError(f"task=inr2array needs networks that show images: {why}. Choose another zoo")
        moved = [name for name in ("rotation", "scale", "shift", "mixup") if getattr(zoo.augment, name)]
        moved += ["flip"] * (zoo.augment.flip != "none")
        if self.hparams["loss_target"] == "image":
            if not hasattr(zoo, "true_images"):
                raise ValueError(
                    "task.loss_target=image needs images, and this zoo has none: take task.loss_target=inr"
                )
            if moved:
                raise ValueError(
                    f"task.loss_target=image: zoo.augment_{moved[0]} changes what networks show and not the images. "
                    "Turn it off, or take task.loss_target=inr"
                )

    def setup(self, stage: str) -> None:
        """Learns from the zoo how its networks are drawn."""
        zoo: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        self.check_zoo(zoo)
        if self.renderer is not None:
            return
        recipe = zoo.recipe
        side = math.isqrt(self.hparams["num_latents"]) if self.hparams["spatial"] else 1
        self.how = {key: getattr(recipe, key) for key in ("w0_first", "w0_hidden", "output_offset")}
        self.peak, self.floor = recipe.pixel_max - recipe.pixel_min, recipe.pixel_min
        self.image_shape: tuple[int, int, int] = zoo.image_shape
        coords = zoo.coordinates
        self.register_buffer("coords", coords, persistent=False)
        self.renderer = CellRenderer(coords, side, self.hparams["tiling"], **self.how)
        self.register_buffer("mean", zoo.tables.mean.cpu().clone())
        self.register_buffer("std", zoo.tables.std.cpu().clone())

    def original(self, features: WeightSpaceFeatures) -> Tensor:
        """What networks of a batch draw: (B, P, O), in their own range."""
        flat = features.flatten()[..., 0] * self.std + self.mean
        return render(WeightSpaceFeatures.from_flat(features.spec, flat), self.coords, **self.how)

    @torch.no_grad()
    def wanted(self, batch: ZooBatch) -> Tensor:
        """The target (B, P, O)."""
        if self.hparams["loss_target"] == "inr":
            return self.original(batch.features)
        zoo: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        images: Tensor = zoo.true_images(batch.index.cpu())  # (B, P, O) in [0, 1]
        return (images * self.peak + self.floor).to(self.coords)

    def reconstruct(self, model: Any, features: WeightSpaceFeatures) -> tuple[Tensor, Tensor]:
        """Latents (B, M, C) and what their SIRENs draw (B, P, O)."""
        assert self.renderer is not None, "setup was called"
        z_BMC = model.encode(features)
        return z_BMC, self.renderer(model.decode(z_BMC))

    def training_step(self, batch: ZooBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        latents, drawn = self.reconstruct(self.model, batch.features)
        size = len(batch.target)
        loss = mse_loss(drawn, self.wanted(batch))
        self.log("train/mse", loss, on_step=False, on_epoch=True, batch_size=size)
        if weight := self.hparams["joint_weight"]:
            model: Any = self.model
            loss = loss + weight * cross_entropy(model.classify(latents), batch.target)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=size)
        return loss

    def validation_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Loss and PSNR of one batch."""
        self._evaluate(batch, "val")

    def on_test_start(self) -> None:
        """Forgets an earlier test."""
        self.predictions, self.pictures, self._kept = [], {}, []

    def test_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Loss and PSNR of one batch, and what the picture needs of it."""
        latents, psnr = self._evaluate(batch, "test")
        columns = (batch.index, batch.view, batch.target, psnr)
        self.predictions += list(zip(*(column.tolist() for column in columns), strict=True))
        if sum(len(part[0]) for part in self._kept) < KEPT:
            flat = batch.features.flatten()[..., 0]
            self._kept.append((latents.flatten(1).float().cpu(), flat.float().cpu(), batch.target.cpu()))

    def _evaluate(self, batch: ZooBatch, stage: str) -> tuple[Tensor, Tensor]:
        """Logs the scores; the latents (B, M, C) and PSNR (B,) of the batch."""
        model: Any = self.evaluated
        latents, drawn = self.reconstruct(model, batch.features)
        mse = (drawn - self.wanted(batch)).square().mean((1, 2))  # (B,)
        psnr = 10 * torch.log10(self.peak**2 / mse.clamp(min=1e-12))
        size = len(mse)
        self.log(f"{stage}/loss", mse.mean(), batch_size=size)
        self.log(f"{stage}/psnr", psnr.mean(), prog_bar=stage == "val", batch_size=size)
        if self.hparams["joint_weight"]:
            right = (model.classify(latents).argmax(-1) == batch.target).float()
            self.log(f"{stage}/acc", right.mean(), batch_size=size)
        return latents, psnr

    @torch.no_grad()
    def on_test_epoch_end(self) -> None:
        """Draws a few test networks, their reconstructions and their neighbours, and maps the latents."""
        latents, flat, target = (torch.cat(parts)[:KEPT] for parts in zip(*self._kept, strict=True))
        shown = torch.linspace(0, len(latents) - 1, min(SHOWN, len(latents))).long()
        distances = torch.cdist(latents[shown], latents)
        distances[torch.arange(len(shown)), shown] = torch.inf  # itself
        near = distances.topk(min(NEIGHBOURS, len(latents) - 1), largest=False).indices  # (S, K)
        zoo: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        spec: NetworkSpec = zoo.spec

        def pictures(rows: Tensor, decoded: bool = False) -> Tensor:
            features = WeightSpaceFeatures.from_flat(spec, flat[rows].to(self.coords))
            drawn = self.reconstruct(self.evaluated, features)[1] if decoded else self.original(features)
            return ((drawn - self.floor) / self.peak).clamp(0, 1).float().cpu().reshape(-1, *self.image_shape)

        found = {
            "original": pictures(shown),
            "decoded": pictures(shown, decoded=True),
            "neighbours": pictures(near.flatten()).unflatten(0, tuple(near.shape)),
            "true": target[shown],
            "neighbours_true": target[near],
            "components": principal_components(latents, COMPONENTS),
            "label": target,
        }
        self.pictures = {name: value.numpy() for name, value in found.items()}
        self._kept = []


def principal_components(rows: Tensor, count: int) -> Tensor:
    """The first principal components (N, count) of rows (N, D), largest first; fewer where N is smaller.

    From the Gram matrix, which is small where D is large. Each component's entry of largest size is positive.
    """
    centred = (rows - rows.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred @ centred.T)  # ascending
    count = min(count, len(rows))
    parts = vectors[:, -count:].flip(1) * values[-count:].flip(0).clamp(min=0).sqrt()
    largest = parts.gather(0, parts.abs().argmax(0, keepdim=True))
    return (parts * torch.where(largest < 0, -1.0, 1.0)).float()
