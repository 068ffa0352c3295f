"""Fits stacked SIRENs with torch: the path for GPUs, and for CPUs without a compiler.

Forward and backward are written out, so that a step is a few batched products and no autograd graph; the step is
compiled on GPUs, where a compiler exists. Networks go in chunks, small enough for the cache (CPU) or the memory (GPU).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfbench.zoos.recipe import BETA1, BETA2, EPS, SirenRecipe

Step = Callable[..., tuple[Tensor, ...]]
CPU_CHUNK_BYTES, GPU_CHUNK_BYTES = 16 * 2**20, 4 * 2**30
CHECK_EVERY = 50  # steps between looks at whether all networks of a chunk have reached stop_psnr


def fit_torch(
    params: NDArray[np.float32],
    targets: NDArray[np.float32],
    coords: NDArray[np.float32],
    sizes: Sequence[int],
    recipe: SirenRecipe,
    device: str = "cpu",
    finished: Callable[[NDArray[np.float64]], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    """Fits N networks: params (N, T), targets (N, P, O), coords (P, D) or (N, P, D) -> params, squared errors, steps.

    ``finished`` is called with the mean squared errors of each chunk of networks when it is done.
    """
    per_network = 4 * targets.shape[1] * 4 * sum(sizes[1:])
    chunk = max(1, (CPU_CHUNK_BYTES if device == "cpu" else GPU_CHUNK_BYTES) // per_network)
    step: Step = _step if device == "cpu" else compiled_step()
    fitted, errors, counts = [], [], []
    grid = torch.from_numpy(coords).to(device)
    for start in range(0, len(params), chunk):
        rows = slice(start, start + chunk)
        flat = torch.from_numpy(params[rows].copy()).to(device)
        target = torch.from_numpy(np.ascontiguousarray(targets[rows])).to(device)
        own = grid if grid.ndim == 2 else grid[rows]
        flat, mse, taken = _fit_chunk(step, flat, target, own, tuple(sizes), recipe)
        fitted.append(flat.cpu().numpy())
        errors.append(mse.double().cpu().numpy())
        counts.append(taken.cpu().numpy())
        if finished:
            finished(errors[-1])
    return np.concatenate(fitted), np.concatenate(errors), np.concatenate(counts)


@cache
def compiled_step() -> Step:
    """`_step`, compiled; from the first time that compiling fails, as it is, after one line that says why."""
    step: Step = torch.compile(_step)

    def run(*arguments: Any) -> tuple[Tensor, ...]:
        nonlocal step
        try:
            return step(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # what a missing or broken compiler raises has no common class
            if step is _step:
                raise
            reason = str(error).strip().partition("\n")[0]
            print(f"fitting without torch.compile, which failed: {reason}", file=sys.stderr, flush=True)
            step = _step
            return step(*arguments)

    return run


@torch.no_grad()
def _fit_chunk(
    step: Step,
    flat: Tensor,
    target: Tensor,
    coords: Tensor,
    sizes: tuple[int, ...],
    recipe: SirenRecipe,
) -> tuple[Tensor, Tensor, Tensor]:
    first, second = torch.zeros_like(flat), torch.zeros_like(flat)
    running = torch.ones(len(flat), 1, dtype=torch.bool, device=flat.device)
    taken = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
    w0, offset = (recipe.w0_first, recipe.w0_hidden), recipe.output_offset
    # The numbers that change with the step go in as tensors: plain floats would make torch.compile start again.
    counts = torch.arange(1, recipe.num_steps + 1, dtype=torch.float64)
    step_sizes = (recipe.lr / (1 - BETA1**counts)).to(flat)
    corrections = (1 - BETA2**counts).sqrt().to(flat)
    for t, (step_size, correction) in enumerate(zip(step_sizes, corrections, strict=True), start=1):
        new, new_first, new_second, mse = step(
            flat, first, second, target, coords, sizes, w0, offset, step_size, correction
        )
        if recipe.stop_psnr is None:
            flat, first, second = new, new_first, new_second
            continue
        running = running & (mse > recipe.stop_mse)[:, None]
        flat = torch.where(running, new, flat)
        first, second = new_first, new_second  # a network that is done is never moved again: its moments are free
        taken += running[:, 0]
        if t % CHECK_EVERY == 0 and not bool(running.any()):
            break
    if recipe.stop_psnr is None:
        taken += recipe.num_steps
    return flat, _forward(flat, target, coords, sizes, w0, offset)[0], taken


def _forward(
    flat: Tensor, target: Tensor, coords: Tensor, sizes: tuple[int, ...], w0: tuple[float, float], offset: float
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Mean squared errors (N,), residual (N, P, O), and each layer's weights, inputs (N, P, S) and phases."""
    hidden = coords.expand(len(flat), -1, -1)
    weights: list[Tensor] = []
    inputs: list[Tensor] = []
    phases: list[Tensor] = []
    at = 0
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        weights.append(flat[:, at : at + fan_in * fan_out].reshape(-1, fan_out, fan_in))
        at += fan_in * fan_out
        inputs.append(hidden)
        hidden = torch.baddbmm(flat[:, None, at : at + fan_out], hidden, weights[-1].transpose(1, 2))
        at += fan_out
        if i < len(sizes) - 2:
            phases.append(w0[min(i, 1)] * hidden)
            hidden = torch.sin(phases[-1])
    residual = hidden + offset - target
    return residual.square().mean(dim=(1, 2)), residual, weights, inputs, phases


def _step(
    flat: Tensor,
    first: Tensor,
    second: Tensor,
    target: Tensor,
    coords: Tensor,
    sizes: tuple[int, ...],
    w0: tuple[float, float],
    offset: float,
    step_size: Tensor,
    correction: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One full-batch step of ``torch.optim.Adam`` for all networks -> (flat, moments, mse before the step)."""
    mse, residual, weights, inputs, phases = _forward(flat, target, coords, sizes, w0, offset)
    delta = residual * (2 / (target.shape[1] * target.shape[2]))  # (N, P, O)
    grads: list[Tensor] = []
    for i in range(len(weights) - 1, -1, -1):
        grads[:0] = [torch.bmm(delta.transpose(1, 2), inputs[i]).flatten(1), delta.sum(dim=1)]
        if i:
            delta = torch.bmm(delta, weights[i]) * torch.cos(phases[i - 1]) * w0[min(i - 1, 1)]
    grad = torch.cat(grads, dim=1)
    first = torch.lerp(first, grad, 1 - BETA1)
    second = BETA2 * second + (1 - BETA2) * grad.square()
    return flat - step_size * first / (second.sqrt() / correction + EPS), first, second, mse
