"""Builds a SIREN zoo: which networks it holds, chunk by chunk into the store, with one progress bar."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from nfbench import __version__
from nfbench.zoos.fit import choose_backend, fit_sirens, init_params, layer_sizes, num_params
from nfbench.zoos.images import load_images, source_info
from nfbench.zoos.recipe import SirenRecipe
from nfbench.zoos.splits import Split, make_split
from nfbench.zoos.store import PartialZoo, ZooData, build_lock, file_errors, read_zoo
from nfbench.zoos.targets import ImageTargets, Targets

SMALLEST_CHUNK, CHUNK_NETWORKS = 16, 2048  # fewest and most networks in a chunk
# And most work, in steps x pixels x parameters: about what a kill loses. The kernel does 5e10 a second on 2 cores (17
# us for a step of 2-32-32-1 on 784 pixels), so some 10 s; torch is about ten times slower there, and faster on a GPU.
CHUNK_WORK = {"kernel": 5e11, "torch": 5e10, "gpu": 5e13}
VERSIONS = f"nfbench {__version__}, torch {torch.__version__}, h5py {h5py.__version__}, numpy {np.__version__}"


@dataclass(frozen=True)
class ZooPlan:
    """Which zoo: everything that decides its content."""

    source: str
    split: str
    recipe: SirenRecipe
    num_images: int | None
    num_views: int
    eval_views: str

    @property
    def sizes(self) -> tuple[int, ...]:
        return layer_sizes(self.recipe, source_info(self.source).shape[2])

    def make_split(self) -> Split:
        """Which images are for training, validation and testing."""
        return make_split(self.source, self.split, self.num_images)

    def load(self, data_dir: str) -> Targets:
        """What the networks are fitted to. Raises ValueError where it cannot be had."""
        return ImageTargets(load_images(self.source, data_dir), self.recipe.grid)

    def networks(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Image index and view of every network, sorted. Validation and test images have all views only if asked."""
        parts = self.make_split().parts
        eval_views = self.num_views if self.eval_views == "all" else 1
        views = {"train": self.num_views, "val": eval_views, "test": eval_views}
        index = np.concatenate([np.repeat(part, views[name]) for name, part in parts.items()])
        view = np.concatenate([np.tile(np.arange(views[name]), len(part)) for name, part in parts.items()])
        order = np.lexsort((view, index))
        return index[order], view[order]

    def start_build(
        self, path: Path, data_dir: str, threads: int | None, device: str, num_shards: int | None = None
    ) -> ZooBuild:
        """See `ZooBuild`."""
        return ZooBuild(path, self, data_dir, threads, device, num_shards)

    def manifest(self) -> dict[str, Any]:
        """What a zoo file must say to be this zoo."""
        return {
            "source": self.source,
            "split": self.split,
            "num_images": self.num_images,
            "num_views": self.num_views,
            "eval_views": self.eval_views,
            "num_networks": len(self.networks()[0]),
            "num_params": num_params(self.sizes),
            "spec": "-".join(map(str, self.sizes)) + ":sine",
            "recipe": self.recipe.to_plain(),
            "recipe_hash": self.recipe.hash,
        }


class Plan(Protocol):
    """Which zoo, of any kind: everything that decides its content."""

    def manifest(self) -> dict[str, Any]:
        """What a zoo file must say to be this zoo."""

    def start_build(
        self, path: Path, data_dir: str, threads: int | None, device: str, num_shards: int | None = None
    ) -> Build:
        """Loads what the networks are made from, and finds the chunks that are there; see `ZooBuild`."""


def open_zoo(path: Path, plan: Plan, data_dir: str, threads: int | None = None, device: str = "cpu") -> ZooData:
    """Reads the zoo, after building it if it isn't there. Finished chunks and shards that are there are kept.

    Raises:
        ValueError: images that cannot be had, a file that is not this zoo, no space or no permission, a diverged fit.
    """
    manifest = plan.manifest()
    with file_errors(path):
        there = path.exists()
    if not there:
        with build_lock(path):
            if not path.exists():
                build = plan.start_build(path, data_dir, threads, device)
                with build.progress(f"zoo {path.stem}", range(build.partial.num_chunks)) as progress:
                    for number in range(build.partial.num_chunks):
                        build.finish_chunk(number, progress)
                    build.assemble()
                print(f"zoo {path}: {progress.summary()}, {path.stat().st_size / 2**20:.0f} MiB", flush=True)
    return read_zoo(path, manifest)


class Build(ABC):
    """A zoo of any kind that is being built.

    Attributes:
        path: the HDF5 file that it will be.
        partial: the chunks that are finished.
        index, view: (N,) of all its networks, sorted.
        origin, fingerprint: of the data that networks are made from.
    """

    path: Path
    partial: PartialZoo
    index: NDArray[np.int64]
    view: NDArray[np.int64]
    origin: str
    fingerprint: str

    @abstractmethod
    def finish_chunk(self, number: int, progress: Progress) -> None:
        """Makes the networks of a chunk and keeps them, or counts those that are there.

        Raises:
            ValueError: a damaged chunk, a diverged fit, no space.
        """

    @abstractmethod
    def check_chunk(self, number: int) -> None:
        """Raises ValueError for a chunk that is damaged or that holds other networks than planned."""

    def rows(self, number: int) -> slice:
        """The rows of the zoo that are chunk ``number``."""
        first = number * self.partial.chunk
        return slice(first, min(first + self.partial.chunk, len(self.index)))

    def assemble(self) -> None:
        """Joins all chunks to the zoo's file."""
        found: dict[str, set[str]] = {"_backend": set(), "_versions": set()}  # processes may have been of several kinds
        for number in range(self.partial.num_chunks):
            for name, texts in (self.partial.read(number, only=found) or {}).items():
                found[name] |= set(texts.tolist())
        said = {name.removeprefix("_"): "; ".join(sorted(texts)) for name, texts in found.items()}
        self.partial.assemble({"origin": self.origin, "images_sha256": self.fingerprint, **said})

    @contextmanager
    def progress(self, title: str, chunks: range) -> Iterator[Progress]:
        """A bar for the networks of these chunks. After Ctrl-C, one line says what is kept."""
        count = sum(rows.stop - rows.start for rows in map(self.rows, chunks))
        every = 0.2 if _is_terminal() else 10.0
        try:
            with tqdm(total=count, desc=title, unit="net", smoothing=0.1, mininterval=every) as bar:
                yield self.count_on(bar)
        except KeyboardInterrupt:
            done = min(self.partial.num_networks, self.partial.num_finished() * self.partial.chunk)
            print(
                f"stopped building {self.path}: {done} of {self.partial.num_networks} networks are kept; run the same "
                "command again to go on from there",
                file=sys.stderr,
                flush=True,
            )
            raise

    def count_on(self, bar: tqdm) -> Progress:
        """What counts the networks that are done."""
        return Progress(bar, self.origin)


class ZooBuild(Build):
    """A zoo that is being built: what it is fitted to, its networks, and the chunks that are finished.

    Args:
        path: the HDF5 file that it will be.
        plan: which networks.
        data_dir: where the plan's data is.
        threads: of the fit; None: one a core.
        device: ``cpu`` or a GPU's name.
        num_shards: how many processes share the chunks; None: this one has the zoo alone.

    Raises:
        ValueError: data that cannot be had, or an unfinished build of another zoo.
    """

    def __init__(
        self,
        path: Path,
        plan: ZooPlan,
        data_dir: str,
        threads: int | None = None,
        device: str = "cpu",
        num_shards: int | None = None,
    ) -> None:
        self.path, self.plan, self.threads, self.device = path, plan, threads, device
        self.targets = plan.load(data_dir)
        self.origin, self.fingerprint = self.targets.origin, self.targets.fingerprint
        self.index, self.view = plan.networks()
        self.backend = choose_backend("auto", device)
        work = max(1, plan.recipe.num_steps) * self.targets.num_points * num_params(plan.sizes)
        most = min(CHUNK_NETWORKS, int(CHUNK_WORK[self.backend if device == "cpu" else "gpu"] / work))
        chunk = max(SMALLEST_CHUNK, most)
        if num_shards is not None:  # the same number of chunks for each
            count = len(self.index)
            chunk = max(SMALLEST_CHUNK, -(-count // (num_shards * -(-count // (num_shards * chunk)))))
        self.partial = PartialZoo(
            path, plan.manifest(), len(self.index), chunk, self.fingerprint, shared=num_shards is not None
        )

    def finish_chunk(self, number: int, progress: Progress) -> None:
        """Fits the networks of a chunk and keeps them, or counts those that are there.

        Raises:
            ValueError: a damaged chunk, a diverged fit, no space.
        """
        old = self.partial.read(number, only=("psnr",))
        if old is not None:
            progress.keep(old["psnr"])
            return
        index, view = self.index[self.rows(number)], self.view[self.rows(number)]
        params = init_params(self.plan.recipe, self.plan.sizes, self.plan.source, index, view)
        coords, values = self.targets.select(index)
        fit = fit_sirens(
            params, values, coords, self.plan.recipe,
            device=self.device, threads=self.threads, backend=self.backend, progress=progress.report,
        )  # fmt: skip
        _check_finite(fit.params, index)
        columns: dict[str, NDArray[Any]] = {
            "params": fit.params,
            "psnr": fit.psnr,
            "steps": fit.steps,
            "index": index,
            "view": view,
            "label": self.targets.labels[index],
        }
        notes = {"backend": [f"{self.backend} on {self.device}"], "versions": [VERSIONS]}
        self.partial.write(number, columns, notes)

    def check_chunk(self, number: int) -> None:
        """Raises ValueError for a chunk that is damaged or that holds other networks than planned."""
        columns = self.partial.read(number)
        assert columns is not None, "check_chunk() of a chunk that isn't there"
        rows = self.rows(number)
        index, shape = self.index[rows], (rows.stop - rows.start, num_params(self.plan.sizes))
        whole = columns["params"].shape == shape and np.isfinite(columns["params"]).all()
        same = np.array_equal(columns["index"], index) and np.array_equal(columns["view"], self.view[rows])
        if not (whole and same and np.array_equal(columns["label"], self.targets.labels[index])):
            raise ValueError(
                f"{self.partial.chunk_path(number)} does not hold the networks that belong there: delete this file and "
                "run again to rebuild it."
            )


class Progress:
    """Counts the networks that are done, on a bar that shows their mean PSNR."""

    def __init__(self, bar: tqdm, origin: str) -> None:
        self.bar, self.origin, self.start = bar, origin, time.perf_counter()
        self.total_psnr, self.done, self.kept = 0.0, 0, 0

    def report(self, count: int, psnr: float) -> None:
        """Adds networks that were just fitted, with the sum of their PSNR."""
        self.total_psnr, self.done = self.total_psnr + psnr, self.done + count
        self.bar.set_postfix_str(f"PSNR {self.total_psnr / self.done:.1f} dB", refresh=False)
        self.bar.update(count)

    def keep(self, psnr: NDArray[np.float32]) -> None:
        """Adds networks that were there before."""
        self.kept += len(psnr)
        self.bar.initial += len(psnr)
        self.report(len(psnr), float(psnr.sum()))

    def summary(self) -> str:
        """How many networks of what, how good, how long."""
        kept = f" ({self.kept} kept from an earlier build)" if self.kept else ""
        psnr = f", mean PSNR {self.total_psnr / self.done:.1f} dB" if self.done else ""
        return f"{self.done} networks{kept} of {self.origin}{psnr}, {time.perf_counter() - self.start:.1f} s"


def _is_terminal() -> bool:
    return sys.stderr.isatty()


def _check_finite(params: NDArray[np.float32], index: NDArray[np.int64]) -> None:
    bad = ~np.isfinite(params).all(axis=1)
    if bad.any():
        raise ValueError(
            f"fitting diverged: {int(bad.sum())} of {len(params)} networks have NaN weights (first: image "
            f"{int(index[bad][0])}). Lower zoo.lr. That makes another recipe, whose zoo is built from the beginning; "
            f"if you chose zoo.file_name, choose another one too."
        )
