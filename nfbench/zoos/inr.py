"""`InrZoo`: what all DataModules of fitted implicit neural representations share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures, ZooBatch, canonical_form
from nfbench.zoos.augmentation import Augmentation
from nfbench.zoos.build import ZooPlan, open_zoo
from nfbench.zoos.edits import EditedImages, cached_edit, edits_for
from nfbench.zoos.fit import pixel_grid, render_flat
from nfbench.zoos.images import SOURCES, load_images
from nfbench.zoos.reader import NetworkReader
from nfbench.zoos.render import pixel_errors
from nfbench.zoos.sampler import OrderedSampler, ViewSampler
from nfbench.zoos.store import ZooData
from nfbench.zoos.tables import ZooBatches, ZooTables

EVAL_VIEWS = ("one", "all")
STANDARDIZE = ("none", "layer", "scale")


class InrZoo(lightning.LightningDataModule):
    """Sine networks fitted to items (images, shapes) with labels; all of them one tensor on the device.

    The zoo's file is built by `prepare_data` if it isn't there. Items go to training, validation and test by their
    index alone, with all their views. A subclass makes the plan, and `render` where the items are no images; `SirenZoo`
    explains the arguments that are not listed here, and how a batch is made.

    Args:
        plan: which networks.
        label: the recipe's, as `make_recipe` gives it.
        name: of the data, in the default name of the file; ``subset``: which items, in the same place.
        num_classes: of the items.
        image_shape: (H, W, channels) of what `render` gives.
        augment: what happens to training networks.

    Raises:
        ValueError: a value that is not allowed, with those that are.
    """

    def __init__(
        self,
        *,
        plan: ZooPlan,
        label: str,
        name: str,
        subset: str,
        num_classes: int,
        image_shape: tuple[int, int, int],
        augment: Augmentation,
        canonicalize: bool,
        standardize: str,
        batch_size: int,
        eval_batch_size: int,
        views_per_epoch: int,
        seed: int,
        file_name: str | None,
        data_dir: str,
        zoo_dir: str,
        threads: int | None,
        fit_device: str,
    ) -> None:
        super().__init__()
        views = plan.num_views
        for key, value, allowed in (
            ("eval_views", plan.eval_views, EVAL_VIEWS),
            ("standardize", standardize, STANDARDIZE),
        ):
            if value not in allowed:
                raise ValueError(f"zoo.{key}={value!r} is not known. Choose one of: {', '.join(allowed)}.")
        for key, count in (("num_views", views), ("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if count < 1:
                raise ValueError(f"zoo.{key}={count} must be 1 or more.")
        if not 1 <= views_per_epoch <= views:
            raise ValueError(f"zoo.views_per_epoch={views_per_epoch} must be between 1 and zoo.num_views={views}.")
        if augment.sine and canonicalize:
            raise ValueError(
                "zoo.augment_sine=true puts back the signs and phases that zoo.canonicalize=true takes out of all "
                "networks: set one of them to false."
            )
        if file_name is not None and (file_name in ("", ".", "..") or set(file_name) & set("/\\\0")):
            raise ValueError(
                f"zoo.file_name={file_name!r} must be a plain name such as my_zoo; its folder is set with zoo_dir=..."
            )
        self.plan, self.recipe, self.label, self.augment = plan, plan.recipe, label, augment
        self.split = plan.make_split()
        self.num_classes, self.image_shape = num_classes, image_shape
        self.spec = NetworkSpec.parse("-".join(map(str, plan.sizes)) + ":sine")
        self.canonicalize, self.standardize = canonicalize, standardize
        self.batch_size, self.eval_batch_size, self.views_per_epoch = batch_size, eval_batch_size, views_per_epoch
        self.seed, self.data_dir, self.threads, self.fit_device = seed, data_dir, threads, fit_device
        self.path = Path(zoo_dir) / f"{file_name or self._default_name(name, subset)}.h5"
        self._data: ZooData | None = None  # what prepare_data read, until the tables are made of it
        self._tables: ZooTables | None = None
        self._origin: str | None = None
        self._images_sha256: str | None = None

    def _default_name(self, name: str, subset: str) -> str:
        plan, label = self.plan, self.label
        if len(label) > 60 or label == "custom":
            label = f"{label.split('+')[0]}-{replace(self.recipe, seed=0).hash[:10]}"
        name = f"{name}-{label}-{subset}x{plan.num_views}"
        name += "-eval_all" if plan.eval_views == "all" and plan.num_views > 1 else ""
        return name + (f"-seed{self.recipe.seed}" if self.recipe.seed else "")

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """What a result must say about its data; known before any data is there, but for ``images``."""
        return {
            "dataset": self.plan.source,
            "definition": self.label,
            "split": self.plan.split,
            "views": self.plan.num_views,
            "eval_views": self.plan.eval_views,
            "num_images": len(self.split.all_images),
            "num_train": len(self.split.train),
            "num_val": len(self.split.val),
            "num_test": len(self.split.test),
            "canonicalized": self.canonicalize,
            "augmentations": self.augment.describe(),
            "standardized": self.standardize,
            "recipe_hash": self.recipe.hash,
            "access": "weights",
            **({"images": self._origin} if self._origin else {}),
        }

    def prepare_data(self) -> None:
        """Builds the zoo's file if it isn't there, and checks it."""
        if self._tables is None:
            self._data = self._open()

    def _open(self) -> ZooData:
        return self._data or open_zoo(self.path, self.plan, self.data_dir, self.threads, self.fit_device)

    def setup(self, stage: str | None = None) -> None:
        """Puts the whole zoo on the trainer's device, once. ``stage`` makes no difference."""
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        if self._tables is None or self._tables.device != device:
            data = self._open()
            self._tables, self._data = ZooTables(self, data, device), None
            self._images_sha256 = sha256 = data.attributes.get("images_sha256")  # an import says its own in the origin
            self._origin = data.attributes.get("origin", "unknown") + (f" (SHA-256 {sha256[:12]})" if sha256 else "")

    @property
    def tables(self) -> ZooTables:
        if self._tables is None:
            raise ValueError("the zoo is not loaded yet: call prepare_data() and setup() first.")
        return self._tables

    @property
    def reader(self) -> NetworkReader:
        """How other networks become what a model of this zoo reads; after `setup`."""
        tables, shape = self.tables, self.image_shape
        if getattr(self, "no_picture", None) or self.spec.sizes[0] != 2:
            shape = (0, 0, 0)
        return NetworkReader(self.spec, tables.mean, tables.std, self.canonicalize, self.recipe, shape)

    def train_dataloader(self) -> DataLoader[ZooBatch]:
        sampler = ViewSampler(self.tables.train_rows, self.batch_size, self.views_per_epoch, self.seed)
        return self._loader(sampler, train=True)

    def val_dataloader(self) -> DataLoader[ZooBatch]:
        return self._loader(OrderedSampler(self.tables.rows_of(self.split.val), self.eval_batch_size))

    def test_dataloader(self) -> DataLoader[ZooBatch]:
        return self._loader(OrderedSampler(self.tables.rows_of(self.split.test), self.eval_batch_size))

    def _loader(self, sampler: ViewSampler | OrderedSampler, train: bool = False) -> DataLoader[ZooBatch]:
        # Batches come whole from the dataset. The generator keeps the loader from drawing on the global one.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(
            ZooBatches(self.tables, train), batch_size=None, sampler=sampler, num_workers=0, generator=generator
        )

    @property
    def coordinates(self) -> Tensor:
        """(P, 2): where the pixels of an image are, row by row. Of zoos whose networks show images."""
        height, width, _ = self.image_shape
        return torch.from_numpy(pixel_grid(height, width, self.recipe.grid))

    def render(self, features: WeightSpaceFeatures) -> Tensor:
        """The images (B, H, W, channels) in [0, 1] that the networks of a batch (as loaders give it) compute."""
        height, width, channels = self.image_shape
        flat = self.raw_weights(features)
        pixels = render_flat(flat, self.plan.sizes, self.coordinates.to(flat), self.recipe)
        return pixels.clamp(0, 1).reshape(-1, height, width, channels)

    def raw_weights(self, features: WeightSpaceFeatures) -> Tensor:
        """Weights (B, T) of the networks of a batch, without the standardisation."""
        flat = features.flatten()[..., 0]
        if self.standardize != "none":
            flat = flat * self.tables.std.to(flat) + self.tables.mean.to(flat)
        return flat

    def own_weights(self, features: WeightSpaceFeatures, index: Tensor, view: Tensor) -> Tensor:
        """Weights (B, T) of edits of networks, in the place where those networks lie in the file.

        Args:
            features: what became of networks of a batch (as loaders of validation and test give it): canonical and
                standardised as the zoo says.
            index, view: (B,) of those networks.
        """
        flat = self.raw_weights(features)
        if not self.canonicalize:
            return flat
        raw = WeightSpaceFeatures.from_flat(self.spec, self.tables.raw[self.tables.rows_at(index, view)].to(flat))
        form = canonical_form(raw, self.recipe.w0_first, self.recipe.w0_hidden)
        return form.undo(WeightSpaceFeatures.from_flat(self.spec, flat)).flatten()[..., 0]

    @property
    def edits(self) -> tuple[str, ...]:
        """The edits that `edited_images` has.

        Raises:
            ValueError: networks of no images, or images that move in training, so that nobody knows their edit.
        """
        if self.plan.source not in SOURCES or (why := getattr(self, "no_picture", None)):
            reason = f": {why}" if self.plan.source in SOURCES else ""
            raise ValueError(f"task=inr_edit needs networks of known images, these are of {self.plan.source}{reason}")
        augment = self.augment
        if augment.rotation or augment.scale or augment.shift or augment.flip != "none" or augment.mixup:
            raise ValueError(
                "task=inr_edit holds edited networks against edited images, which don't move along: set "
                "zoo.augment_rotation, augment_scale, augment_shift and augment_mixup to 0, zoo.augment_flip to none; "
                "zoo=siren_digits_edit has them so"
            )
        return edits_for(self.image_shape[2])

    def edited_images(self, edit: str) -> EditedImages:
        """The edited images of all items, made once and kept in a file beside the zoo; after `setup`."""
        source, device = self.plan.source, self.tables.device
        pixels = cached_edit(
            edit, self.path.parent / "edits", source, self._images_sha256, lambda: load_images(source, self.data_dir)
        )
        index = np.sort(self.split.all_images)
        if index[0] < 0 or index[-1] >= len(pixels):
            raise ValueError(
                f"{self.path.name} has networks of the images {index[0]} to {index[-1]}, and {source} has images 0 to "
                f"{len(pixels) - 1}: its column index must be the position among the official training images followed "
                "by the test images."
            )
        return EditedImages(index, pixels[index], device)

    def errors(self, weights: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error (B,) of each network's picture, pixels in [-1, 1]; differentiable in the weights.

        Args:
            weights: (B, T), as `raw_weights` or `own_weights` gives them.
            targets: (B, P, channels) in [-1, 1].
        """
        recipe = self.recipe
        half = (recipe.pixel_max - recipe.pixel_min) / 2
        height, width, _ = self.image_shape
        coords = torch.from_numpy(pixel_grid(height, width, recipe.grid)).to(weights)
        return pixel_errors(weights, self.spec, coords, (targets + 1) * half + recipe.pixel_min, recipe) / half**2
