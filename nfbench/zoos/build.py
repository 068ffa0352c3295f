"""Builds a SIREN zoo: which networks it holds, chunk by chunk into the store, with one progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from nfbench import __version__
from nfbench.zoos.fit import choose_backend, fit_sirens, init_params, layer_sizes, num_params, pixel_grid
from nfbench.zoos.images import load_images, source_info
from nfbench.zoos.recipe import SirenRecipe
from nfbench.zoos.splits import make_split
from nfbench.zoos.store import PartialZoo, ZooData, build_lock, file_errors, read_zoo

SMALLEST_CHUNK, CHUNK_NETWORKS = 16, 2048  # fewest and most networks in a chunk
# And most work, in steps x pixels x parameters: about what a kill loses. The kernel does 5e10 a second on 2 cores (17
# us for a step of 2-32-32-1 on 784 pixels), so some 10 s; torch is about ten times slower there, and faster on a GPU.
CHUNK_WORK = {"kernel": 5e11, "torch": 5e10, "gpu": 5e13}


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

    def networks(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Image index and view of every network, sorted. Validation and test images have all views only if asked."""
        split = make_split(self.source, self.split, self.num_images)
        eval_views = self.num_views if self.eval_views == "all" else 1
        views = {"train": self.num_views, "val": eval_views, "test": eval_views}
        index = np.concatenate([np.repeat(part, views[name]) for name, part in split.parts.items()])
        view = np.concatenate([np.tile(np.arange(views[name]), len(part)) for name, part in split.parts.items()])
        order = np.lexsort((view, index))
        return index[order], view[order]

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


def open_zoo(path: Path, plan: ZooPlan, data_dir: str, threads: int | None = None, device: str = "cpu") -> ZooData:
    """Reads the zoo, after building it if it isn't there.

    Raises:
        ValueError: images that cannot be had, a file that is not this zoo, no space or no permission, a diverged fit.
    """
    manifest = plan.manifest()
    with file_errors(path):
        there = path.exists()
    if not there:
        with build_lock(path):
            if not path.exists():
                _build(path, plan, manifest, data_dir, threads, device)
    return read_zoo(path, manifest)


def _build(
    path: Path, plan: ZooPlan, manifest: dict[str, Any], data_dir: str, threads: int | None, device: str
) -> None:
    start = time.perf_counter()
    images = load_images(plan.source, data_dir)
    height, width, channels = images.pixels.shape[1:]
    coords = pixel_grid(height, width, plan.recipe.grid)
    index, view = plan.networks()
    work = max(1, plan.recipe.num_steps) * len(coords) * num_params(plan.sizes)
    backend = choose_backend("auto", device)
    most = min(CHUNK_NETWORKS, int(CHUNK_WORK[backend if device == "cpu" else "gpu"] / work))
    partial = PartialZoo(path, manifest, len(index), max(SMALLEST_CHUNK, most), images.fingerprint)
    total_psnr, done, kept = 0.0, 0, 0
    with (
        _told_when_stopped(path, partial),
        tqdm(
            total=len(index),
            desc=f"zoo {path.stem}",
            unit="net",
            smoothing=0.1,
            mininterval=0.2 if _is_terminal() else 10.0,
        ) as bar,
    ):

        def report(count: int, psnr: float) -> None:
            nonlocal total_psnr, done
            total_psnr, done = total_psnr + psnr, done + count
            bar.set_postfix_str(f"PSNR {total_psnr / done:.1f} dB", refresh=False)
            bar.update(count)

        for number, first in enumerate(range(0, len(index), partial.chunk)):
            rows = slice(first, min(first + partial.chunk, len(index)))
            if (old := partial.read(number)) is not None:
                kept += len(old["psnr"])
                bar.initial += len(old["psnr"])
                report(len(old["psnr"]), float(old["psnr"].sum()))
                continue
            params = init_params(plan.recipe, plan.sizes, plan.source, index[rows], view[rows])
            pixels = images.pixels[index[rows]].reshape(-1, height * width, channels)
            fit = fit_sirens(
                params, pixels, coords, plan.recipe, device=device, threads=threads, backend=backend, progress=report
            )
            _check_finite(fit.params, index[rows])
            columns: dict[str, NDArray[Any]] = {
                "params": fit.params,
                "psnr": fit.psnr,
                "steps": fit.steps,
                "index": index[rows],
                "view": view[rows],
                "label": images.labels[index[rows]],
            }
            partial.write(number, columns)
    versions = f"nfbench {__version__}, torch {torch.__version__}, h5py {h5py.__version__}, numpy {np.__version__}"
    with _told_when_stopped(path, partial):
        partial.assemble(
            {
                "origin": images.origin,
                "images_sha256": images.fingerprint,
                "versions": versions,
                "backend": f"{backend} on {device}",
            }
        )
    seconds = time.perf_counter() - start
    resumed = f" ({kept} kept from an earlier build)" if kept else ""
    print(
        f"zoo {path}: {len(index)} networks{resumed} of {images.origin}, mean PSNR {total_psnr / done:.1f} dB, "
        f"{seconds:.1f} s, {path.stat().st_size / 2**20:.0f} MiB",
        flush=True,
    )


@contextmanager
def _told_when_stopped(path: Path, partial: PartialZoo) -> Iterator[None]:
    """One line after Ctrl-C: what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        done = min(partial.num_networks, partial.num_finished() * partial.chunk)
        print(
            f"stopped building {path}: {done} of {partial.num_networks} networks are kept; run the same command again "
            "to go on from there",
            file=sys.stderr,
            flush=True,
        )
        raise


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
