"""Builds a zoo of (initialisation, winning ticket) pairs, chunk by chunk into the store: resumable and in shards.

A row is a pair: ``params`` the initialisation, ``mask`` (N, T) uint8 the ticket that one step of iterative magnitude
pruning finds, ``dense_accuracy`` and ``ticket_accuracy`` after training without and with it. Held-out pairs have the
accuracies of the baselines' masks as well (``accuracy.random``, ...), all others NaN there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.build import VERSIONS, Build, Progress
from nfbench.zoos.cnn_build import AccuracyProgress
from nfbench.zoos.cnn_images import load_classifier_images
from nfbench.zoos.store import PartialZoo
from nfbench.zoos.ticket_recipe import BASELINES, PARTS, TicketRecipe
from nfbench.zoos.ticket_train import TicketTrainer, baseline_masks, stack_size


@dataclass(frozen=True)
class TicketPlan:
    """Which zoo: everything that decides its content. ``pairs``: how many for training, validation and testing."""

    source: str
    spec: NetworkSpec
    recipe: TicketRecipe
    pairs: tuple[int, int, int]

    @property
    def parts(self) -> NDArray[np.str_]:
        """The part of each pair: training pairs come first, held-out ones last."""
        return np.repeat(PARTS, self.pairs)

    def manifest(self) -> dict[str, Any]:
        """What a zoo file must say to be this zoo."""
        return {
            "kind": "tickets",
            "source": self.source,
            "spec": str(self.spec),
            "num_params": self.spec.num_params,
            "num_networks": sum(self.pairs),
            "pairs": list(self.pairs),
            "recipe": self.recipe.to_plain(),
            "recipe_hash": self.recipe.hash,
        }

    def make_trainer(self, data_dir: str, device: str) -> TicketTrainer:
        """Loads the images. Raises ValueError where they cannot be had."""
        images = load_classifier_images(self.source, data_dir, self.recipe.num_train, self.recipe.num_eval, gray=False)
        return TicketTrainer(self.spec, self.recipe, images, device)

    def start_build(
        self, path: Path, data_dir: str, threads: int | None, device: str, num_shards: int | None = None
    ) -> TicketBuild:
        """See `ZooBuild`."""
        return TicketBuild(path, self, data_dir, threads, device, num_shards)


class TicketBuild(Build):
    """A zoo of tickets that is being built; arguments as of `ZooBuild`, but that threads are torch's own.

    Raises:
        ValueError: images that cannot be had, or an unfinished build of another zoo.
    """

    def __init__(
        self,
        path: Path,
        plan: TicketPlan,
        data_dir: str,
        threads: int | None = None,
        device: str = "cpu",
        num_shards: int | None = None,
    ) -> None:
        self.path, self.plan, self.device = path, plan, device
        self.trainer = plan.make_trainer(data_dir, device)
        self.origin, self.fingerprint = self.trainer.origin, self.trainer.fingerprint
        count = sum(plan.pairs)
        self.index, self.view = np.arange(count), np.zeros(count, np.int64)
        chunk = stack_size(plan.spec, device)
        if num_shards is not None:  # the same number of chunks for each
            chunk = max(1, -(-count // (num_shards * -(-count // (num_shards * chunk)))))
        self.partial = PartialZoo(path, plan.manifest(), count, chunk, self.fingerprint, shared=num_shards is not None)

    def count_on(self, bar: tqdm) -> Progress:
        return AccuracyProgress(bar, self.origin)

    def finish_chunk(self, number: int, progress: Progress) -> None:
        """Finds the tickets of a chunk's pairs and keeps them, or counts those that are there.

        Raises:
            ValueError: a damaged chunk, a training that diverged, no space.
        """
        old = self.partial.read(number, only=("ticket_accuracy",))
        if old is not None:
            progress.keep(old["ticket_accuracy"])
            return
        columns = make_pairs(self.trainer, self.index[self.rows(number)].tolist(), self.plan.parts[self.rows(number)])
        notes = {"backend": [f"torch on {self.device}"], "versions": [VERSIONS]}
        self.partial.write(number, columns, notes)
        progress.report(len(columns["index"]), float(columns["ticket_accuracy"].sum()))

    def check_chunk(self, number: int) -> None:
        """Raises ValueError for a chunk that is damaged or that holds other networks than planned."""
        columns = self.partial.read(number)
        assert columns is not None, "check_chunk() of a chunk that isn't there"
        rows = self.rows(number)
        shape = (rows.stop - rows.start, self.plan.spec.num_params)
        whole = columns["params"].shape == columns["mask"].shape == shape and np.isfinite(columns["params"]).all()
        if not (whole and np.array_equal(columns["index"], self.index[rows])):
            raise ValueError(
                f"{self.partial.chunk_path(number)} does not hold the networks that belong there: delete this file and "
                "run again to rebuild it."
            )


def make_pairs(trainer: TicketTrainer, pairs: list[int], parts: NDArray[np.str_]) -> dict[str, NDArray[Any]]:
    """Columns of the store: train dense, keep the largest weights, rewind, train again; baselines of the test pairs.

    Raises:
        ValueError: a training that diverged.
    """
    init = trainer.draw_params(pairs)
    dense = trainer.train(init)
    if not dense.isfinite().all():
        raise ValueError(
            f"training diverged: {int((~dense.isfinite()).any(1).sum())} of {len(pairs)} networks have weights that "
            "are NaN or infinite. Lower zoo.lr: that makes another recipe, whose zoo is built from the beginning."
        )
    mask = trainer.pruning.keep_largest(trainer.spec, dense.abs())
    baselines = {name: np.full(len(pairs), np.nan, np.float32) for name in BASELINES}
    test = np.flatnonzero(parts == "test")
    if len(test):
        rows = torch.from_numpy(test).to(init.device)
        found = baseline_masks(trainer, init[rows], mask[rows], [pairs[i] for i in test])
        for name, masks in found.items():
            baselines[name][test] = trainer.masked_accuracy(init[rows], masks)
    return {
        "params": init.float().cpu().numpy(),
        "label": np.full(len(pairs), -1),
        "index": np.array(pairs),
        "view": np.zeros(len(pairs), np.int64),
        "mask": mask.to(torch.uint8).cpu().numpy(),
        "split": parts,
        "dense_accuracy": trainer.accuracy(dense),
        "ticket_accuracy": trainer.masked_accuracy(init, mask),
        **{f"accuracy.{name}": values for name, values in baselines.items()},
    }
