"""A loaded zoo of INRs as tensors on the device, and the batches that are cut out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import Dataset

from nfbench.weightspace import Mixup, WeightSpaceFeatures, ZooBatch, canonicalize
from nfbench.zoos.sampler import BatchRows
from nfbench.zoos.store import ZooData

if TYPE_CHECKING:
    from nfbench.zoos.classifiers import ClassifierTables
    from nfbench.zoos.inr import InrZoo

MAP_ROWS = 8192  # networks canonicalised at once while the zoo is loaded


class ZooTables:
    """A loaded zoo: one row a network.

    ``raw`` (N, T): as in the file; ``ready`` (N, T): canonical and standardised as the zoo says; ``mean``, ``std``
    (T,): of the standardisation; ``spread`` (T,): standard deviation over the (canonical) training networks, zero where
    nothing needs it. These three are constant within each weight and bias tensor.
    """

    def __init__(self, zoo: InrZoo, data: ZooData, device: torch.device) -> None:
        self.device, self.spec, self.recipe = device, zoo.spec, zoo.recipe
        self.canonical, self.augment, self.num_classes = zoo.canonicalize, zoo.augment, zoo.num_classes
        self._index = data.index
        self.train_rows = self.rows_of(zoo.split.train).reshape(-1, zoo.plan.num_views)
        self.raw = torch.from_numpy(data.params).to(device)
        self.label, self.index = torch.from_numpy(data.label).to(device), torch.from_numpy(data.index).to(device)
        self.view, self.psnr = torch.from_numpy(data.view).to(device), torch.from_numpy(data.psnr)
        ready = self.raw  # the same memory where nothing is done to it
        if self.canonical:
            ready = torch.cat([self._canonical(part).flatten()[..., 0] for part in self._parts(self.raw)])
        self.mean = torch.zeros(self.raw.shape[1], device=device)
        self.std, self.spread = torch.ones_like(self.mean), torch.zeros_like(self.mean)
        if zoo.standardize != "none" or self.augment.noise:
            train = ready[torch.from_numpy(self.train_rows.ravel()).to(device)].double()
            for where in self.spec.scalar_slices():
                self.spread[where] = float(train[:, where].std(correction=0))
                if zoo.standardize == "layer":
                    self.mean[where] = train[:, where].mean().float()
                elif zoo.standardize == "scale":
                    self.std[where] = train[:, where].square().mean().sqrt().float()
        if zoo.standardize != "none":
            std = self.spread if zoo.standardize == "layer" else self.std
            self.std = torch.where(std > 1e-6, std, 1.0)  # a tensor of one value is only shifted
            ready = (ready - self.mean) / self.std
        self.ready = ready

    def rows_of(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of these images, image by image in the given order, views ascending."""
        first, last = np.searchsorted(self._index, images, "left"), np.searchsorted(self._index, images, "right")
        return np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])

    def rows_at(self, index: Tensor, view: Tensor) -> Tensor:
        """Rows (B,) of these networks."""
        views = int(self.view.max()) + 1
        return torch.searchsorted(self.index * views + self.view, index * views + view)

    def _parts(self, flat: Tensor) -> list[WeightSpaceFeatures]:
        return [WeightSpaceFeatures.from_flat(self.spec, part) for part in flat.split(MAP_ROWS)]

    def _canonical(self, features: WeightSpaceFeatures) -> WeightSpaceFeatures:
        return canonicalize(features, self.recipe.w0_first, self.recipe.w0_hidden) if self.canonical else features

    def augmented(self, rows: Tensor, seed: int) -> tuple[Tensor, Mixup | None]:
        """Rows of the zoo (B, T) as in ``ready``, but augmented, and the mixup (if any) that their targets need."""
        # Drawn on the CPU, so that a seed means the same on every device.
        generator, recipe = torch.Generator().manual_seed(seed), self.recipe
        networks = WeightSpaceFeatures.from_flat(self.spec, self.raw[rows])
        networks = self._canonical(self.augment.move_picture(networks, generator, recipe.grid))
        networks, mixup = self.augment.disturb(networks, self.spread, generator)
        networks = self.augment.reparametrize(networks, generator, recipe.w0_first, recipe.w0_hidden)
        return (networks.flatten()[..., 0] - self.mean) / self.std, mixup


class ZooBatches(Dataset[ZooBatch]):
    """Indexed by a whole batch of rows at once."""

    def __init__(self, tables: ZooTables | ClassifierTables, train: bool) -> None:
        self.tables, self.augmenting = tables, train and bool(tables.augment)

    def __getitem__(self, batch: BatchRows) -> ZooBatch:
        tables, rows = self.tables, batch.rows.to(self.tables.device)
        target = tables.label[rows]
        if self.augmenting:
            flat, mixup = tables.augmented(rows, batch.seed)
            if mixup is not None:
                target = mixup.mix(one_hot(target, tables.num_classes).to(flat))
        else:
            flat = tables.ready[rows]
        return ZooBatch(WeightSpaceFeatures.from_flat(tables.spec, flat), target, tables.index[rows], tables.view[rows])
