"""`LatentZoo`: what a trained encoder makes of the networks of a zoo, as a DataModule of its own.

Everything is encoded once, in large batches, into one HDF5 file: ``latents`` (N, M, C) float32; ``label``, ``index``,
``view``, ``part`` (N,) int64 (0 training, 1 validation, 2 test). Its attributes say which encoder (hash) and which zoo;
a file of others is refused, so a run that goes on reads what it wrote. A process that dies leaves no file: encoding
starts again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nfbench.weightspace import ZooBatch
from nfbench.zoos.inr import InrZoo
from nfbench.zoos.sampler import BatchRows, OrderedSampler, ViewSampler
from nfbench.zoos.store import file_errors, read_fingerprint, to_json, write_atomically
from nfbench.zoos.tables import ZooBatches

FORMAT = "nfbench latents 1"
COLUMNS = ("latents", "label", "index", "view", "part")
IMAGES = "images"  # of a zoo's protocol: known once the zoo itself was read
PARTS = ("train", "val", "test")


class LatentBatch(NamedTuple):
    """What a `LatentZoo` hands to a task: a `ZooBatch` with latent arrays (B, M, C) in place of networks."""

    features: Tensor
    target: Tensor
    index: Tensor  # type: ignore[assignment]  # a field, not tuple.index
    view: Tensor


@dataclass
class Latents(Dataset[LatentBatch]):
    """All columns of the file, on one device, indexed by a whole batch of rows at once."""

    latents: Tensor
    label: Tensor
    index: Tensor
    view: Tensor
    part: Tensor

    def __getitem__(self, batch: BatchRows) -> LatentBatch:
        rows = batch.rows.to(self.label.device)
        return LatentBatch(self.latents[rows], self.label[rows], self.index[rows], self.view[rows])

    def to(self, device: torch.device) -> Latents:
        """All columns on this device."""
        return Latents(*(getattr(self, name).to(device) for name in COLUMNS))

    def rows_of(self, part: str) -> Tensor:
        """Rows of a part, on the CPU, by image index; of one image as they were encoded."""
        rows = (self.part == PARTS.index(part)).nonzero()[:, 0]
        return rows[self.index[rows].argsort(stable=True)].cpu()


class LatentZoo(lightning.LightningDataModule):
    """Latent arrays of the networks of a zoo, with its split, its classes and its order of batches.

    Args:
        zoo: the networks. Its batch_size, eval_batch_size, views_per_epoch and seed are used here too.
        encode: weights (B, T) without standardisation, on any device -> latents (B, M, C).
        about: the encoder in a result's words, with its hash as ``encoder_hash``.
        path: the file.
        views: of each training image that are encoded: ``all`` or ``one``, the first.
        augmented_epochs: this many epochs of the zoo's augmented training networks are encoded beside these.
        encode_batch_size: networks at once.

    Raises:
        ValueError: an augmentation that mixes classes, with augmented_epochs.
    """

    def __init__(
        self,
        zoo: InrZoo,
        encode: Callable[[Tensor], Tensor],
        about: Mapping[str, str | int | float | bool],
        path: Path,
        views: str = "all",
        augmented_epochs: int = 0,
        encode_batch_size: int = 512,
    ) -> None:
        super().__init__()
        if augmented_epochs and zoo.augment.mixup:
            raise ValueError("task.augmented_epochs needs networks of one class each: set zoo.augment_mixup=0")
        self.zoo, self.encode, self.about, self.path = zoo, encode, dict(about), path
        self.views, self.augmented_epochs, self.encode_batch_size = views, augmented_epochs, encode_batch_size
        self.spec, self.num_classes = zoo.spec, zoo.num_classes
        self.encode_s, self._images = 0.0, ""
        self._latents: Latents | None = None

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """What a result must say about its data."""
        kept: dict[str, str | int] = {"latent_views": self.views, "latent_augmented_epochs": self.augmented_epochs}
        if self._images:  # also where the zoo itself was not read, since the latents were there
            kept[IMAGES] = self._images
        return {**self.zoo.protocol, **self.about, **kept, "encode_s": self.encode_s}

    @property
    def key(self) -> str:
        """Which latents: the file must have the same."""
        said = {k: v for k, v in self.zoo.protocol.items() if k != IMAGES}  # known before any data is there
        seed = self.zoo.seed if self.augmented_epochs else None
        facts = {"zoo_seed": self.zoo.recipe.seed, "views": self.views, "augmented_epochs": self.augmented_epochs}
        return to_json({**said, **facts, "seed": seed, "encoder_hash": self.about["encoder_hash"]})

    def prepare_data(self) -> None:
        """Builds the zoo's file if it is needed and isn't there."""
        if not self.path.exists():
            self.zoo.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Encodes the zoo, if that was not done before, and puts all latents on the trainer's device, once."""
        if self._latents is not None:
            return
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        if not self.path.exists():
            self.zoo.trainer = self.trainer
            self.zoo.setup(stage)
            began = time.monotonic()
            with file_errors(self.path):
                write_atomically(self.path, lambda file: self._write(file, began))
        self._latents = self._read().to(device)

    def _batches(self) -> Iterator[tuple[int, ZooBatch]]:
        """All networks that are encoded, batch by batch, with the number of their part."""
        zoo, tables, size = self.zoo, self.zoo.tables, self.encode_batch_size
        train = tables.train_rows if self.views == "all" else tables.train_rows[:, :1]
        rows = [train.ravel(), *(tables.rows_of(part) for part in (zoo.split.val, zoo.split.test))]
        plain = ZooBatches(tables, train=False)
        for number, part in enumerate(rows):
            yield from ((number, plain[batch]) for batch in OrderedSampler(part, size))
        moved = ZooBatches(tables, train=True)
        sampler = ViewSampler(train, size, min(zoo.views_per_epoch, train.shape[1]), zoo.seed)
        for epoch in range(self.augmented_epochs):
            sampler.set_epoch(epoch)
            yield from ((0, moved[batch]) for batch in sampler)

    def _write(self, path: Path, began: float) -> None:
        with h5py.File(path, "w") as file:
            for number, batch in self._batches():
                latents = self.encode(self.zoo.raw_weights(batch.features))
                columns = {
                    "latents": latents, "label": batch.target, "index": batch.index, "view": batch.view,
                    "part": torch.full_like(batch.index, number),
                }  # fmt: skip
                for name, values in columns.items():
                    array = values.cpu().numpy()
                    if name not in file:
                        shape = array.shape[1:]
                        file.create_dataset(name, (0, *shape), array.dtype, maxshape=(None, *shape), fletcher32=True)
                    file[name].resize(len(file[name]) + len(array), axis=0)
                    file[name][-len(array) :] = array
            file.attrs["format"], file.attrs["key"] = FORMAT, self.key
            file.attrs["encoder_hash"] = self.about["encoder_hash"]
            file.attrs[IMAGES] = self.zoo.protocol.get(IMAGES, "")
            file.attrs["zoo"] = read_fingerprint(self.zoo.path) or ""
            file.attrs["encode_s"] = round(time.monotonic() - began, 2)

    def _read(self) -> Latents:
        """The file's columns.

        Raises:
            ValueError: a damaged file, or latents of another encoder or zoo.
        """
        advice = "It was not changed: move it away, and the latents are made again."
        try:
            with h5py.File(self.path, "r") as file:
                found: dict[str, Any] = dict(file.attrs)
                columns = {name: torch.from_numpy(file[name][()]) for name in COLUMNS}
        except (OSError, RuntimeError, KeyError) as error:
            raise ValueError(f"{self.path} is not a whole file of latents ({error}). {advice}") from error
        if found.get("format") != FORMAT or found.get("key") != self.key:
            there, here = json.loads(found.get("key", "{}")), json.loads(self.key)
            names = [name for name in here if here[name] != there.get(name)]
            raise ValueError(f"{self.path} holds other latents (they differ in {', '.join(names)}). {advice}")
        if (now := read_fingerprint(self.zoo.path)) not in (None, found.get("zoo", now)):
            raise ValueError(f"{self.path} holds latents of another file than {self.zoo.path} is now. {advice}")
        self.encode_s, self._images = float(found["encode_s"]), str(found.get(IMAGES, ""))
        return Latents(**columns)

    @property
    def data(self) -> Latents:
        if self._latents is None:
            raise ValueError("the latents are not loaded yet: call prepare_data() and setup() first.")
        return self._latents

    def train_dataloader(self) -> DataLoader[LatentBatch]:
        zoo, rows = self.zoo, self.data.rows_of("train").numpy()
        grid = rows.reshape(len(zoo.split.train), -1)
        shown = min(zoo.views_per_epoch, grid.shape[1])
        return self._loader(ViewSampler(grid, zoo.batch_size, shown, zoo.seed))

    def val_dataloader(self) -> DataLoader[LatentBatch]:
        return self._loader(OrderedSampler(self.data.rows_of("val").numpy(), self.zoo.eval_batch_size))

    def test_dataloader(self) -> DataLoader[LatentBatch]:
        return self._loader(OrderedSampler(self.data.rows_of("test").numpy(), self.zoo.eval_batch_size))

    def _loader(self, sampler: ViewSampler | OrderedSampler) -> DataLoader[LatentBatch]:
        generator = torch.Generator().manual_seed(self.zoo.seed)
        return DataLoader(self.data, batch_size=None, sampler=sampler, num_workers=0, generator=generator)
