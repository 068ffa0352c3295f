"""Builds a zoo of classifiers, chunk by chunk into the store: resumable and in shards, as zoos of SIRENs are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.build import VERSIONS, Build, Progress
from nfbench.zoos.cnn_images import DATASETS, load_classifier_images
from nfbench.zoos.cnn_recipe import FRACTIONS, CnnRecipe
from nfbench.zoos.cnn_train import METRICS, Trained, choose_trainer, train_runs
from nfbench.zoos.fit import available_cores
from nfbench.zoos.store import PartialZoo

# Images that a chunk's runs are trained on, together: some 20 s on 2 cores, which is about what a kill loses.
CHUNK_IMAGES = {"kernel": 6e6, "torch": 1e6, "gpu": 1e8}
RUNS_A_THREAD, CHUNK_RUNS = 4, 2048  # in a chunk: at least, so that no thread waits long for the others; at most


@dataclass(frozen=True)
class CnnPlan:
    """Which zoo: everything that decides its content. Networks (index, view) are (run, checkpoint)."""

    source: str
    spec: NetworkSpec
    recipe: CnnRecipe
    num_runs: int

    def networks(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Run and checkpoint of every network, sorted."""
        views = self.recipe.num_checkpoints
        return np.repeat(np.arange(self.num_runs), views), np.tile(np.arange(views), self.num_runs)

    def manifest(self) -> dict[str, Any]:
        """What a zoo file must say to be this zoo."""
        return {
            "kind": "classifiers",
            "source": self.source,
            "spec": str(self.spec),
            "num_params": self.spec.num_params,
            "num_runs": self.num_runs,
            "num_networks": self.num_runs * self.recipe.num_checkpoints,
            "recipe": self.recipe.to_plain(),
            "recipe_hash": self.recipe.hash,
        }

    def start_build(
        self, path: Path, data_dir: str, threads: int | None, device: str, num_shards: int | None = None
    ) -> CnnBuild:
        """See `ZooBuild`."""
        return CnnBuild(path, self, data_dir, threads, device, num_shards)


class AccuracyProgress(Progress):
    """Counts the networks that are done, on a bar that shows the mean test accuracy of all."""

    def report(self, count: int, psnr: float) -> None:
        """Adds networks, with the sum of their accuracies in place of PSNR."""
        self.total_psnr, self.done = self.total_psnr + psnr, self.done + count
        self.bar.set_postfix_str(f"accuracy {self.total_psnr / self.done:.3f}", refresh=False)
        self.bar.update(count)

    def summary(self) -> str:
        kept = f" ({self.kept} kept from an earlier build)" if self.kept else ""
        mean = f", mean test accuracy {self.total_psnr / self.done:.3f}" if self.done else ""
        return f"{self.done} networks{kept} of {self.origin}{mean}, {time.perf_counter() - self.start:.1f} s"


class CnnBuild(Build):
    """A zoo of classifiers that is being built; arguments as of `ZooBuild`.

    Raises:
        ValueError: images that cannot be had, or an unfinished build of another zoo.
    """

    def __init__(
        self,
        path: Path,
        plan: CnnPlan,
        data_dir: str,
        threads: int | None = None,
        device: str = "cpu",
        num_shards: int | None = None,
    ) -> None:
        recipe = plan.recipe
        self.path, self.plan, self.threads, self.device = path, plan, threads, device
        self.images = load_classifier_images(plan.source, data_dir, recipe.num_train, recipe.num_eval)
        self.origin, self.fingerprint = self.images.origin, self.images.fingerprint
        self.index, self.view = plan.networks()
        self.backend = choose_trainer(plan.spec, "auto", device)
        views = recipe.num_checkpoints
        a_run = recipe.epochs * len(self.images.train) * float(np.mean(FRACTIONS))
        most = CHUNK_IMAGES[self.backend if device == "cpu" else "gpu"] / a_run
        runs = max(RUNS_A_THREAD * (threads or available_cores()), min(CHUNK_RUNS, int(most)))
        if num_shards is not None:  # the same number of chunks for each
            runs = max(1, -(-plan.num_runs // (num_shards * -(-plan.num_runs // (num_shards * runs)))))
        self.partial = PartialZoo(
            path, plan.manifest(), len(self.index), runs * views, self.fingerprint, shared=num_shards is not None
        )

    def count_on(self, bar: tqdm) -> Progress:
        return AccuracyProgress(bar, self.origin)

    def finish_chunk(self, number: int, progress: Progress) -> None:
        """Trains the runs of a chunk and keeps them, or counts those that are there.

        Raises:
            ValueError: a damaged chunk, no space.
        """
        old = self.partial.read(number, only=("test_accuracy",))
        if old is not None:
            progress.keep(old["test_accuracy"])
            return
        plan, rows = self.plan, self.rows(number)
        runs = np.unique(self.index[rows]).tolist()
        trained = train_runs(
            plan.recipe, plan.spec, self.images, runs, device=self.device, threads=self.threads, backend=self.backend,
            progress=lambda run: progress.report(len(run.epochs), float(run.metrics[:, 0].sum())),
        )  # fmt: skip
        columns = make_columns(plan, trained) | {"index": self.index[rows], "view": self.view[rows]}
        notes = {"backend": [f"{self.backend} on {self.device}"], "versions": [VERSIONS]}
        self.partial.write(number, columns, notes)

    def check_chunk(self, number: int) -> None:
        """Raises ValueError for a chunk that is damaged or that holds other networks than planned."""
        columns = self.partial.read(number)
        assert columns is not None, "check_chunk() of a chunk that isn't there"
        rows = self.rows(number)
        shape = (rows.stop - rows.start, self.plan.spec.num_params)
        whole = columns["params"].shape == shape and np.isfinite(columns["params"]).all()
        same = np.array_equal(columns["index"], self.index[rows]) and np.array_equal(columns["view"], self.view[rows])
        if not (whole and same):
            raise ValueError(
                f"{self.partial.chunk_path(number)} does not hold the networks that belong there: delete this file and "
                "run again to rebuild it."
            )


def make_columns(plan: CnnPlan, trained: Sequence[Trained]) -> dict[str, NDArray[Any]]:
    """Columns of the store, a row a checkpoint, with the names and meanings of the Small CNN Zoo's metrics.

    ``config.attempt`` is ours: how many draws of the run diverged before this one. MLPs have a column ``split``, by
    run: one of ten is for testing, as in the paper with such zoos (90/10), and one for validation.
    """
    views = plan.recipe.num_checkpoints
    layers = plan.spec.layers
    hidden = sum(layer.is_conv for layer in layers) or len(layers) - 1
    is_conv = layers[0].is_conv
    config: dict[str, list[Any]] = {
        "activation": [one.settings.activation for one in trained],
        "optimizer": [one.settings.optimizer for one in trained],
        "learning_rate": [one.settings.learning_rate for one in trained],
        "l2reg": [one.settings.l2reg for one in trained],
        "dropout": [one.settings.dropout for one in trained],
        "w_init": [one.settings.w_init for one in trained],
        "init_std": [one.settings.init_std for one in trained],
        "train_fraction": [one.settings.train_fraction for one in trained],
        "attempt": [one.attempt for one in trained],
        "b_init": ["zeros"] * len(trained),
        "dataset": [DATASETS[plan.source]] * len(trained),
        "dnn_architecture": ["cnn" if is_conv else "fcn"] * len(trained),
        "epochs": [plan.recipe.epochs] * len(trained),
        "num_layers": [hidden] * len(trained),
        "num_units": [layers[0].out_size] * len(trained),
        "random_seed": [plan.recipe.seed] * len(trained),
    }
    metrics = np.concatenate([one.metrics for one in trained])
    columns: dict[str, NDArray[Any]] = {
        "params": np.concatenate([one.params for one in trained]),
        "label": np.full(len(metrics), -1),  # no classes
        "step": np.concatenate([one.epochs for one in trained]),
        **{f"config.{name}": np.repeat(np.array(values), views) for name, values in config.items()},
        **{name: metrics[:, i].astype(np.float32) for i, name in enumerate(METRICS)},
    }
    if not is_conv:
        tenth = np.repeat([one.run % 10 for one in trained], views)
        columns["split"] = np.select([tenth == 4, tenth == 9], ["test", "val"], "train")
    return columns
