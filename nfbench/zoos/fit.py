"""Fits thousands of SIRENs at once: random inits by (seed, image, view), the compiled kernel, and a torch fallback.

Shapes: ``N`` networks, ``P`` pixels, ``D`` coordinates, ``O`` channels of a pixel, ``T`` parameters of one network in
torch's order (W1, b1, W2, b2, ...; each row-major).
"""

from __future__ import annotations

import math
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfbench.zoos.kernel import KernelUnavailable, load_kernel
from nfbench.zoos.recipe import BETA1, BETA2, EPS, SirenRecipe

Floats = NDArray[np.float32]
TILE_BYTES = 32 * 1024  # sines and cosines of one tile of pixels: stays in a 48 kB L1 cache beside the weights


@dataclass
class FitResult:
    """``params`` (N, T) float32; ``psnr`` (N,) in dB on [0, 1] pixels, of these parameters; ``steps`` (N,) taken."""

    params: Floats
    psnr: NDArray[np.float32]
    steps: NDArray[np.int64]


def layer_sizes(recipe: SirenRecipe, channels: int, coordinates: int = 2) -> tuple[int, ...]:
    return (coordinates, *recipe.widths, channels)


def num_params(sizes: Sequence[int]) -> int:
    return sum(a * b + b for a, b in pairwise(sizes))


def pixel_grid(height: int, width: int, order: str = "ij") -> Floats:
    """Pixel coordinates (P, 2) from -1 to 1, pixels row by row; ``ij``: (row, column), ``xy``: (column, row)."""
    rows, columns = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    first, second = np.meshgrid(rows, columns, indexing="ij")
    if order == "xy":
        first, second = second, first
    return np.stack([first.ravel(), second.ravel()], axis=1).astype(np.float32)


def init_limits(recipe: SirenRecipe, sizes: Sequence[int]) -> Floats:
    """The bound (T,) of each parameter's uniform distribution around zero."""
    limits: list[Floats] = []
    last = len(sizes) - 2
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        w0 = recipe.w0_first if i == 0 else recipe.w0_hidden
        weight = math.sqrt(6 / fan_in) / w0
        if recipe.init == "siren" and i == 0:
            weight = 1 / fan_in
        if recipe.init == "uniform" and i == last:
            weight = 1 / math.sqrt(fan_in)
        bias = 0.0 if recipe.bias_init == "zero" and i < last else 1 / math.sqrt(fan_in)
        if i > 0:
            weight, bias = recipe.init_scale * weight, recipe.init_scale * bias
        limits += [np.full(fan_in * fan_out, weight, np.float32), np.full(fan_out, bias, np.float32)]
    return np.concatenate(limits)


def init_params(
    recipe: SirenRecipe, sizes: Sequence[int], source: str, index: NDArray[np.int64], view: NDArray[np.int64]
) -> Floats:
    """Initial parameters (N, T) of the networks of images ``index`` (N,) and views ``view`` (N,).

    Each network has its own stretch of a counter-based random stream, which depends on (seed, source, image, view)
    alone: not on which other networks are built, nor in which chunks.
    """
    limits = init_limits(recipe, sizes)
    key = [recipe.seed % 2**64, zlib.crc32(source.encode())]
    params = np.empty((len(index), len(limits)), np.float32)
    for row, i, v in zip(params, index.tolist(), view.tolist(), strict=True):
        stream = np.random.Philox(key=np.array(key, np.uint64), counter=np.array([0, 0, v, i], np.uint64))
        np.random.Generator(stream).random(dtype=np.float32, out=row)
    return (params * 2 - 1) * limits


def psnr_from_mse(mse: NDArray[np.float64], recipe: SirenRecipe) -> NDArray[np.float32]:
    """PSNR in dB (peak 1) on [0, 1] pixels from mean squared errors in the recipe's pixel range."""
    scaled = mse / (recipe.pixel_max - recipe.pixel_min) ** 2
    return (-10 * np.log10(np.maximum(scaled, 1e-12))).astype(np.float32)


def fit_sirens(
    params: Floats,
    images: Floats,
    coords: Floats,
    recipe: SirenRecipe,
    *,
    device: str = "cpu",
    threads: int | None = None,
    backend: str = "auto",
    progress: Callable[[int, float], None] | None = None,
) -> FitResult:
    """Fits one SIREN to each image, from given initial parameters.

    The result of a network depends on its own init and image only. The backends agree to float32 error.

    Args:
        params: initial parameters (N, T), not changed.
        images: targets (N, P, O) in [0, 1].
        coords: pixel coordinates (P, D) of all images, or (N, P, D).
        recipe: what to do.
        device: ``cpu`` or a GPU's name; a GPU uses torch.
        threads: of the kernel; default the number of cores this process may use.
        backend: ``kernel``, ``torch`` or ``auto`` (the kernel on CPUs if it can be compiled).
        progress: called as networks finish with (how many just finished, sum of their PSNR).

    Raises:
        ValueError: shapes that don't fit together, an unknown backend.
        KernelUnavailable: for ``backend="kernel"`` without a working compiler.
    """
    sizes = layer_sizes(recipe, images.shape[2], coords.shape[-1])
    fits = coords.shape[:-1] in (images.shape[1:2], images.shape[:2])
    if params.shape != (len(images), num_params(sizes)) or not fits:
        raise ValueError(
            f"params {params.shape}, images {images.shape} and coords {coords.shape} don't fit together: "
            f"a SIREN of sizes {sizes} has {num_params(sizes)} parameters."
        )
    targets = (images * np.float32(recipe.pixel_max - recipe.pixel_min) + np.float32(recipe.pixel_min)).astype(
        np.float32
    )
    if choose_backend(backend, device) == "kernel":
        return _fit_kernel(params, targets, coords, sizes, recipe, threads or available_cores(), progress)
    from nfbench.zoos.fit_torch import fit_torch

    def finished(mse: NDArray[np.float64]) -> None:
        if progress:
            progress(len(mse), float(psnr_from_mse(mse, recipe).sum()))

    fitted, mse, steps = fit_torch(params, targets, coords, sizes, recipe, device, finished)
    return FitResult(fitted, psnr_from_mse(mse, recipe), steps)


def choose_backend(backend: str = "auto", device: str = "cpu") -> str:
    """``kernel`` or ``torch``: what `fit_sirens` will use. Says so, once, when a CPU must do without the kernel."""
    if backend not in ("auto", "kernel", "torch"):
        raise ValueError(f"backend={backend!r} is not known. Choose one of: auto, kernel, torch.")
    if backend == "torch" or device != "cpu":
        return "torch"
    try:
        load_kernel()
    except KernelUnavailable as error:
        if backend == "kernel":
            raise
        _tell_fallback(" ".join(str(error).split()))
        return "torch"
    return "kernel"


@cache
def _tell_fallback(reason: str) -> None:
    print(
        f"fitting with torch, without the compiled kernel: {reason}; install g++ or clang++: zoos are built about 8 to "
        "60 times faster",
        file=sys.stderr,
        flush=True,
    )


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fit_kernel(
    params: Floats,
    targets: Floats,
    coords: Floats,
    sizes: Sequence[int],
    recipe: SirenRecipe,
    threads: int,
    progress: Callable[[int, float], None] | None,
) -> FitResult:
    library = load_kernel()
    params = np.array(params, np.float32, order="C")
    targets = np.ascontiguousarray(targets)
    coords = np.ascontiguousarray(coords, np.float32)
    widths = np.array(sizes, np.int64)
    mse, steps = np.empty(len(params)), np.empty(len(params), np.int64)
    # About 0.1 s of work a call, so that progress moves, Ctrl-C works, and the threads end at the same time.
    points = targets.shape[1]
    work = max(1, recipe.num_steps) * (points + 16) * num_params(sizes)
    group = max(1, min(int(5e9 / work), -(-len(params) // (4 * threads))))
    if own := coords.ndim == 3:  # a call has one set of coordinates
        group = 1

    def fit_group(start: int) -> slice:
        rows = slice(start, min(start + group, len(params)))
        status = library.nfbench_fit_sirens(
            rows.stop - start, len(widths), widths.ctypes.data, points, (coords[start] if own else coords).ctypes.data,
            targets[rows].ctypes.data, params[rows].ctypes.data, recipe.w0_first, recipe.w0_hidden,
            recipe.output_offset, recipe.lr, BETA1, BETA2, EPS, recipe.num_steps, recipe.stop_mse, TILE_BYTES,
            mse[rows].ctypes.data, steps[rows].ctypes.data,
        )  # fmt: skip
        if status == 2:
            raise MemoryError("no memory for fitting SIRENs")
        if status:
            raise ValueError(f"sizes {tuple(sizes)} are beyond the kernel: 1-3 coordinates, 1-8 widths, 1-4 channels.")
        return rows

    with ThreadPoolExecutor(threads) as pool:
        pending: set[Future[slice]] = {pool.submit(fit_group, start) for start in range(0, len(params), group)}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    rows = future.result()
                    if progress:
                        progress(rows.stop - rows.start, float(psnr_from_mse(mse[rows], recipe).sum()))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return FitResult(params, psnr_from_mse(mse, recipe), steps)


def render_flat(params: Tensor, sizes: Sequence[int], coords: Tensor, recipe: SirenRecipe) -> Tensor:
    """Evaluates SIRENs: params (N, T), coords (P, D) -> pixels (N, P, O) on the [0, 1] scale, not clamped."""
    hidden = coords.to(params).expand(len(params), -1, -1)  # (N, P, D)
    at = 0
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        weight = params[:, at : at + fan_in * fan_out].reshape(-1, fan_out, fan_in)
        at += fan_in * fan_out
        hidden = torch.baddbmm(params[:, None, at : at + fan_out], hidden, weight.transpose(1, 2))  # (N, P, fan_out)
        at += fan_out
        if i < len(sizes) - 2:
            hidden = torch.sin((recipe.w0_hidden if i else recipe.w0_first) * hidden)
    return (hidden + recipe.output_offset - recipe.pixel_min) / (recipe.pixel_max - recipe.pixel_min)
