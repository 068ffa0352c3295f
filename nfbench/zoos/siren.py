"""`SirenZoo`: implicit neural representations of images, built on the spot, as a Lightning DataModule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nfbench.weightspace import (
    NetworkSpec,
    WeightSpaceFeatures,
    ZooBatch,
    canonicalize,
    sample_rigid_motion,
    transform_coordinates,
)
from nfbench.zoos.build import ZooPlan, open_zoo
from nfbench.zoos.fit import pixel_grid, render_flat
from nfbench.zoos.images import source_info
from nfbench.zoos.recipe import make_recipe
from nfbench.zoos.sampler import BatchRows, OrderedSampler, ViewSampler
from nfbench.zoos.splits import default_split, make_split
from nfbench.zoos.store import ZooData

EVAL_VIEWS = ("one", "all")
STANDARDIZE = ("none", "layer")
MAP_ROWS = 8192  # networks canonicalised at once while the zoo is loaded


class SirenZoo(lightning.LightningDataModule):
    """SIRENs fitted to the images of one source, with labels; all of them one tensor on the device.

    The zoo's file is built by `prepare_data` if it isn't there. Images go to training, validation and test by their
    index alone, with all their views. A batch is made in this order: weights from the file; for training an exact
    random motion of the image (if any augmentation is on); canonical form (if ``canonicalize``); standardisation.

    Args:
        source: digits, mnist, fashion or cifar10.
        definition: digits, nfn, dws or custom: the recipe by name (see recipe.py).
        widths, w0_first, w0_hidden, init, init_scale, bias_init, output_offset, pixel_min, pixel_max, grid, optimizer,
            lr, num_steps, stop_psnr: fields of `SirenRecipe` that replace the definition's where not None
            (``stop_psnr=0``: never).
        zoo_seed: of the random inits.
        split: digits, official, nfn, inr2array or dws (see splits.py); None: by source and definition.
        num_images: a nested subset of the images with the split's proportions, the same for every seed; None: all.
        num_views: networks, from independent inits, of each training image.
        eval_views: ``one``: view 0 of validation and test images, as in the papers; ``all``: all views.
        canonicalize: bring every network to the canonical form of sine networks.
        augment_rotation, augment_scale, augment_shift: largest rotation (radians), relative change of size, and
            translation (the image is 2 wide) of training images.
        standardize: ``layer``: subtract mean and divide by standard deviation of each weight and bias tensor, two
            numbers a tensor, measured on (canonical) training networks without augmentation; ``none``.
        batch_size, eval_batch_size: networks a batch in training; in validation and testing.
        views_per_epoch: how many views of each training image an epoch visits.
        seed: of the order of batches, the choice of views and the augmentations.
        file_name: the zoo's file in ``zoo_dir`` is ``<file_name>.h5``; None: a name made of the values above.
        data_dir: where image files are looked for and downloaded to; the default ``data`` comes after
            ``$NFBENCH_DATA_DIR``, any other before it.
        zoo_dir: folder of the zoo files.
        threads: that fit networks; None: one a core.
        fit_device: ``cpu``, or a GPU's name to fit networks there.

    Raises:
        ValueError: a value that is not allowed, with those that are.
    """

    def __init__(
        self,
        *,
        source: str,
        definition: str,
        widths: Sequence[int] | None = None,
        w0_first: float | None = None,
        w0_hidden: float | None = None,
        init: str | None = None,
        init_scale: float | None = None,
        bias_init: str | None = None,
        output_offset: float | None = None,
        pixel_min: float | None = None,
        pixel_max: float | None = None,
        grid: str | None = None,
        optimizer: str | None = None,
        lr: float | None = None,
        num_steps: int | None = None,
        stop_psnr: float | None = None,
        zoo_seed: int = 0,
        split: str | None = None,
        num_images: int | None = None,
        num_views: int = 1,
        eval_views: str = "one",
        canonicalize: bool = False,
        augment_rotation: float = 0.0,
        augment_scale: float = 0.0,
        augment_shift: float = 0.0,
        standardize: str = "none",
        batch_size: int = 64,
        eval_batch_size: int = 512,
        views_per_epoch: int = 1,
        seed: int = 0,
        file_name: str | None = None,
        data_dir: str = "data",
        zoo_dir: str = "data/zoos",
        threads: int | None = None,
        fit_device: str = "cpu",
    ) -> None:
        super().__init__()
        info = source_info(source)
        self.recipe, self.label = make_recipe(
            definition, widths=tuple(widths) if widths is not None else None, w0_first=w0_first, w0_hidden=w0_hidden,
            init=init, init_scale=init_scale, bias_init=bias_init, output_offset=output_offset, pixel_min=pixel_min,
            pixel_max=pixel_max, grid=grid, optimizer=optimizer, lr=lr, num_steps=num_steps, stop_psnr=stop_psnr,
            seed=zoo_seed,
        )  # fmt: skip
        for name, value, allowed in (("eval_views", eval_views, EVAL_VIEWS), ("standardize", standardize, STANDARDIZE)):
            if value not in allowed:
                raise ValueError(f"zoo.{name}={value!r} is not known. Choose one of: {', '.join(allowed)}.")
        for name, count in (("num_views", num_views), ("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if count < 1:
                raise ValueError(f"zoo.{name}={count} must be 1 or more.")
        if not 1 <= views_per_epoch <= num_views:
            raise ValueError(f"zoo.views_per_epoch={views_per_epoch} must be between 1 and zoo.num_views={num_views}.")
        self.augment = {"rotation": augment_rotation, "scale": augment_scale, "shift": augment_shift}
        for name, amount in self.augment.items():
            if not (math.isfinite(amount) and amount >= 0):
                raise ValueError(f"zoo.augment_{name}={amount} must be a number, 0 or more.")
        if file_name is not None and (file_name in ("", ".", "..") or set(file_name) & set("/\\\0")):
            raise ValueError(
                f"zoo.file_name={file_name!r} must be a plain name such as my_zoo; its folder is set with zoo_dir=..."
            )
        split = split or default_split(source, definition)
        self.split = make_split(source, split, num_images)
        whole = num_images is None or num_images == len(make_split(source, split).all_images)
        self.plan = ZooPlan(source, split, self.recipe, None if whole else num_images, num_views, eval_views)
        self.image_shape, self.num_classes = info.shape, info.num_classes
        self.spec = NetworkSpec.parse("-".join(map(str, self.plan.sizes)) + ":sine")
        self.canonicalize, self.standardize = canonicalize, standardize
        self.batch_size, self.eval_batch_size, self.views_per_epoch = batch_size, eval_batch_size, views_per_epoch
        self.seed, self.data_dir, self.threads, self.fit_device = seed, data_dir, threads, fit_device
        self.path = Path(zoo_dir) / f"{file_name or self._default_name()}.h5"
        self._data: ZooData | None = None  # what prepare_data read, until the tables are made of it
        self._tables: ZooTables | None = None
        self._images: str | None = None

    def _default_name(self) -> str:
        plan, label = self.plan, self.label
        if len(label) > 60 or label == "custom":
            label = f"{label.split('+')[0]}-{replace(self.recipe, seed=0).hash[:10]}"
        name = f"{plan.source}-{label}-{plan.split}-{plan.num_images or 'all'}x{plan.num_views}"
        name += "-eval_all" if plan.eval_views == "all" and plan.num_views > 1 else ""
        return name + (f"-seed{self.recipe.seed}" if self.recipe.seed else "")

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """What a result must say about its data; known before any data is there, but for ``images``."""
        changes = [f"{name} {value:g}" for name, value in self.augment.items() if value]
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
            "augmentations": ", ".join(changes) or "none",
            "standardized": self.standardize,
            "recipe_hash": self.recipe.hash,
            "access": "weights",
            **({"images": self._images} if self._images else {}),
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
            sha256 = data.attributes.get("images_sha256", "unknown")
            self._images = f"{data.attributes.get('origin', 'unknown')} (SHA-256 {sha256[:12]})"

    @property
    def tables(self) -> ZooTables:
        if self._tables is None:
            raise ValueError("the zoo is not loaded yet: call prepare_data() and setup() first.")
        return self._tables

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

    def render(self, features: WeightSpaceFeatures) -> Tensor:
        """The images (B, H, W, channels) in [0, 1] that the networks of a batch (as loaders give it) compute."""
        flat = features.flatten()[..., 0]
        if self.standardize == "layer":
            flat = flat * self.tables.std.to(flat) + self.tables.mean.to(flat)
        height, width, channels = self.image_shape
        coords = torch.from_numpy(pixel_grid(height, width, self.recipe.grid))
        pixels = render_flat(flat, self.plan.sizes, coords.to(flat), self.recipe)
        return pixels.clamp(0, 1).reshape(-1, height, width, channels)


class ZooTables:
    """A loaded zoo: one row a network.

    ``raw`` (N, T): as in the file; ``ready`` (N, T): canonical and standardised as the zoo says; ``mean``, ``std``
    (T,): of the standardisation, constant within each weight and bias tensor.
    """

    def __init__(self, zoo: SirenZoo, data: ZooData, device: torch.device) -> None:
        self.device, self.spec, self.recipe = device, zoo.spec, zoo.recipe
        self.canonical, self.augment = zoo.canonicalize, zoo.augment
        self._index = data.index
        self.train_rows = self.rows_of(zoo.split.train).reshape(-1, zoo.plan.num_views)
        self.raw = torch.from_numpy(data.params).to(device)
        self.label, self.index = torch.from_numpy(data.label).to(device), torch.from_numpy(data.index).to(device)
        self.view, self.psnr = torch.from_numpy(data.view).to(device), torch.from_numpy(data.psnr)
        ready = torch.cat([self._canonical(part).flatten()[..., 0] for part in self._parts(self.raw)])
        self.mean = torch.zeros(self.raw.shape[1], device=device)
        self.std = torch.ones_like(self.mean)
        if zoo.standardize == "layer":
            train = ready[torch.from_numpy(self.train_rows.ravel()).to(device)].double()
            for where in self.spec.scalar_slices():
                self.mean[where] = train[:, where].mean().float()
                std = float(train[:, where].std(correction=0))
                self.std[where] = std if std > 1e-6 else 1.0  # a tensor of one value is only shifted
            ready = (ready - self.mean) / self.std
        self.ready = ready

    def rows_of(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of these images, image by image in the given order, views ascending."""
        first, last = np.searchsorted(self._index, images, "left"), np.searchsorted(self._index, images, "right")
        return np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])

    def _parts(self, flat: Tensor) -> list[WeightSpaceFeatures]:
        return [WeightSpaceFeatures.from_flat(self.spec, part) for part in flat.split(MAP_ROWS)]

    def _canonical(self, features: WeightSpaceFeatures) -> WeightSpaceFeatures:
        return canonicalize(features, self.recipe.w0_first, self.recipe.w0_hidden) if self.canonical else features

    def augmented(self, rows: Tensor, seed: int) -> Tensor:
        """Rows of the zoo (B, T) whose images are moved at random, then as in ``ready``."""
        features = WeightSpaceFeatures.from_flat(self.spec, self.raw[rows])
        # Drawn on the CPU, so that a seed means the same motion on every device.
        matrix, shift = sample_rigid_motion(len(rows), torch.Generator().manual_seed(seed), **self.augment)
        moved = transform_coordinates(features, matrix.to(self.raw), shift.to(self.raw))
        return (self._canonical(moved).flatten()[..., 0] - self.mean) / self.std


class ZooBatches(Dataset[ZooBatch]):
    """Indexed by a whole batch of rows at once."""

    def __init__(self, tables: ZooTables, train: bool) -> None:
        self.tables, self.moving = tables, train and any(tables.augment.values())

    def __getitem__(self, batch: BatchRows) -> ZooBatch:
        tables, rows = self.tables, batch.rows.to(self.tables.device)
        flat = tables.augmented(rows, batch.seed) if self.moving else tables.ready[rows]
        features = WeightSpaceFeatures.from_flat(tables.spec, flat)
        return ZooBatch(features, tables.label[rows], tables.index[rows], tables.view[rows])
