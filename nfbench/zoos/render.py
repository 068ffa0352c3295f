"""The error of pictures that sine networks draw, and its gradient in their weights, for whole batches.

On a CPU one pass of the compiled kernel that fits zoos gives both, network by network in the cache, in the forward pass
of autograd; elsewhere, in float64 or without a compiler it is `weightspace.render`, all networks at once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures, render
from nfbench.zoos.fit import TILE_BYTES
from nfbench.zoos.kernel import KernelUnavailable, load_kernel
from nfbench.zoos.recipe import SirenRecipe

BACKENDS = ("auto", "kernel", "torch")


def pixel_errors(
    flat: Tensor, spec: NetworkSpec, coords: Tensor, targets: Tensor, recipe: SirenRecipe, backend: str = "auto"
) -> Tensor:
    """Mean squared error (B,) of the values of SIRENs; differentiable in their weights, once with the kernel.

    Args:
        flat: weights (B, T).
        spec: of the networks: dense, sine.
        coords: (P, D).
        targets: (B, P, O), in the recipe's pixel range.
        recipe: frequencies and output offset.
        backend: ``kernel`` (1 to 3 coordinates, 1 to 4 outputs, 1 to 8 hidden layers), ``torch``, or ``auto``: the
            kernel for float32 on a CPU where it can be compiled.

    Raises:
        ValueError: an unknown backend, networks beyond the kernel.
        KernelUnavailable: for ``backend="kernel"`` without a working compiler.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not known. Choose one of: {', '.join(BACKENDS)}.")
    if backend == "kernel" or (backend == "auto" and _fits_kernel(flat, spec)):
        return _KernelErrors.apply(flat, spec, coords, targets, recipe)
    networks = WeightSpaceFeatures.from_flat(spec, flat)
    values = render(networks, coords, recipe.w0_first, recipe.w0_hidden, recipe.output_offset)  # (B, P, O)
    return (values - targets).square().mean((1, 2))


def _fits_kernel(flat: Tensor, spec: NetworkSpec) -> bool:
    small = spec.sizes[0] <= 3 and spec.sizes[-1] <= 4 and 2 <= spec.num_layers <= 9
    return flat.device.type == "cpu" and flat.dtype == torch.float32 and small and _has_kernel()


@cache
def _has_kernel() -> bool:
    try:
        load_kernel()
    except KernelUnavailable:
        return False
    return True


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "render")


class _KernelErrors(torch.autograd.Function):
    """The gradient is made in the forward pass, where sines and cosines are in the cache."""

    @staticmethod
    def forward(
        ctx: Any, flat: Tensor, spec: NetworkSpec, coords: Tensor, targets: Tensor, recipe: SirenRecipe
    ) -> Tensor:
        library = load_kernel()
        arrays = (flat, coords, targets)
        x, at, wanted = (np.ascontiguousarray(t.detach().numpy(), np.float32) for t in arrays)
        sizes = np.array(spec.sizes, np.int64)
        mse = np.empty(len(x))
        grad = np.empty_like(x) if ctx.needs_input_grad[0] else None

        def run(start: int, stop: int) -> int:
            return library.nfbench_siren_errors(
                stop - start, len(sizes), sizes.ctypes.data, len(at), at.ctypes.data, wanted[start:stop].ctypes.data,
                x[start:stop].ctypes.data, recipe.w0_first, recipe.w0_hidden, recipe.output_offset, TILE_BYTES,
                mse[start:stop].ctypes.data, None if grad is None else grad[start:stop].ctypes.data,
            )  # fmt: skip

        if 1 in (statuses := _in_threads(run, len(x))):
            raise ValueError(f"{spec} is beyond the kernel: 1-3 coordinates, 1-8 hidden layers, 1-4 outputs.")
        if 2 in statuses:
            raise MemoryError("no memory for rendering SIRENs")
        if grad is not None:
            ctx.save_for_backward(torch.from_numpy(grad))
        return torch.from_numpy(mse).to(flat.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grad_output.unsqueeze(1), None, None, None, None


def _in_threads(run: Callable[[int, int], int], count: int) -> list[int]:
    """Results of run(start, stop) over parts of ``count``, one for each of torch's threads."""
    threads = max(1, min(torch.get_num_threads(), count))
    ends = [count * i // threads for i in range(threads + 1)]
    if threads == 1:
        return [run(0, count)]
    return list(_pool(threads).map(run, ends[:-1], ends[1:]))
