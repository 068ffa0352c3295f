"""Batches of zoo rows whose order depends on (seed, epoch) alone, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler


class BatchRows(NamedTuple):
    """Rows (B,) of the zoo that make a batch, and the seed of its augmentations."""

    rows: Tensor
    seed: int


class ViewSampler(Sampler[BatchRows]):
    """Shuffled images, ``views_per_epoch`` different views of each an epoch.

    Lightning calls `set_epoch` before each epoch, also after a resume.

    Args:
        rows: zoo rows (images, views).
        batch_size: of a batch; the last one of an epoch may be smaller.
        views_per_epoch: how many of its views each image shows in an epoch.
        seed: of order and views.
    """

    def __init__(self, rows: NDArray[np.int64], batch_size: int, views_per_epoch: int, seed: int) -> None:
        self.rows, self.batch_size, self.views_per_epoch, self.seed = rows, batch_size, views_per_epoch, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) * self.views_per_epoch // self.batch_size)

    def __iter__(self) -> Iterator[BatchRows]:
        epoch = self.epoch
        random = np.random.Generator(np.random.Philox(key=np.array([self.seed % 2**64, epoch], np.uint64)))
        images, views = self.rows.shape
        # The views_per_epoch smallest of random numbers: a random subset of views for each image.
        chosen = np.argpartition(random.random((images, views)), self.views_per_epoch - 1, axis=1)
        rows = np.take_along_axis(self.rows, chosen[:, : self.views_per_epoch], axis=1).ravel()
        rows = rows[random.permutation(len(rows))]
        for number in range(len(self)):
            batch = rows[number * self.batch_size : (number + 1) * self.batch_size]
            yield BatchRows(torch.from_numpy(batch), batch_seed(self.seed, epoch, number))


class OrderedSampler(Sampler[BatchRows]):
    """All rows once, in order: for validation and testing."""

    def __init__(self, rows: NDArray[np.int64], batch_size: int) -> None:
        self.rows, self.batch_size = rows, batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[BatchRows]:
        for start in range(0, len(self.rows), self.batch_size):
            yield BatchRows(torch.from_numpy(self.rows[start : start + self.batch_size]), 0)


def batch_seed(seed: int, epoch: int, number: int) -> int:
    """A seed for `torch.Generator` that depends on these three alone."""
    return int(np.random.SeedSequence([seed % 2**32, epoch, number]).generate_state(1, np.uint64)[0] >> 1)
