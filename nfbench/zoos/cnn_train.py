"""Trains many small classifiers, each with its own hyper-parameters, and measures them along the way.

On CPUs the CNN of the Small CNN Zoo is trained by a compiled kernel, one network a core; all else by torch, in stacks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from ctypes import CDLL, c_double, c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.cnn_images import ClassifierImages
from nfbench.zoos.cnn_recipe import (
    ACTIVATIONS,
    ALPHA,
    BETA1,
    BETA2,
    EPS,
    OPTIMIZERS,
    CnnRecipe,
    Settings,
    draw_params,
    draw_settings,
    epoch_order,
)
from nfbench.zoos.fit import available_cores
from nfbench.zoos.kernel import KernelUnavailable, open_library

Ints = NDArray[np.int32]
METRICS = ("test_accuracy", "test_loss", "train_accuracy", "train_loss")
KERNEL_NETWORK = "1-16c3-16c3-16c3-10"  # the only one that the kernel knows
KERNEL_SOURCE, KERNEL_STATE = Path(__file__).with_name("cnn_kernel.cpp"), 2 * 5072
STACK = {"cpu": 8, "gpu": 128}  # networks that torch trains at once
MOST_ATTEMPTS = 20


@dataclass(frozen=True)
class Trained:
    """One run: its settings, the attempt that didn't diverge, epochs (V,), params (V, T) and ``METRICS`` (V, 4)."""

    run: int
    attempt: int
    settings: Settings
    epochs: tuple[int, ...]
    params: NDArray[np.float32]
    metrics: NDArray[np.float64]


class Stack(Protocol):
    """Networks that are trained together; see `nfbench.zoos.cnn_torch.TorchStack`."""

    @property
    def params(self) -> NDArray[np.floating]: ...
    def train(self, orders: Sequence[Ints]) -> None: ...
    def evaluate(self, rows: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...


class KernelStack:
    """One CNN 1-16-16-16-10 that the compiled kernel trains; arguments as of `TorchStack`, params (1, 4970) float32."""

    def __init__(
        self, images: ClassifierImages, settings: Sequence[Settings], params: NDArray[np.float32], library: CDLL
    ) -> None:
        (self.settings,) = settings
        self.images, self.library, self.step = images, library, 0
        self.flat = np.array(params, np.float32, order="C")
        self.state = np.zeros(KERNEL_STATE, np.float32)
        self.activation = ACTIVATIONS.index(self.settings.activation)
        self.about = (*images.pixels.shape[1:], images.pixels.ctypes.data, images.labels.ctypes.data)

    @property
    def params(self) -> NDArray[np.float32]:
        return self.flat.copy()

    def train(self, orders: Sequence[Ints]) -> None:
        (order,), own = orders, self.settings
        order = np.ascontiguousarray(order)
        decay2 = BETA2 if own.optimizer == "adam" else ALPHA
        status = self.library.nfbench_train_cnn(
            *self.about, order.ctypes.data, *order.shape, self.activation, OPTIMIZERS.index(own.optimizer),
            own.learning_rate, own.l2reg, BETA1, decay2, EPS, own.dropout, own.seed, self.step, self.flat.ctypes.data,
            self.state.ctypes.data,
        )  # fmt: skip
        _check(status)
        self.step += len(order)

    def evaluate(self, rows: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows, loss, right = np.ascontiguousarray(rows), np.zeros(1), np.zeros(1, np.int64)
        status = self.library.nfbench_evaluate_cnn(
            *self.about, rows.ctypes.data, len(rows), self.activation, self.flat.ctypes.data, loss.ctypes.data,
            right.ctypes.data,
        )  # fmt: skip
        _check(status)
        return loss / len(rows), right / len(rows)


def _check(status: int) -> None:
    if status == 2:
        raise MemoryError("no memory for training a CNN")
    if status:
        raise ValueError("these images are too small for three convolutions of stride 2: at least 15x15 are needed.")


@cache
def load_cnn_kernel() -> CDLL:
    """The compiled kernel. Raises `KernelUnavailable` with the reason."""
    library = open_library(KERNEL_SOURCE)
    library.nfbench_train_cnn.argtypes = [
        c_int64, c_int64, *[c_void_p] * 3, *[c_int64] * 4, *[c_double] * 6, c_int64, c_int64, c_void_p, c_void_p,
    ]  # fmt: skip
    library.nfbench_evaluate_cnn.argtypes = [c_int64, c_int64, *[c_void_p] * 3, c_int64, c_int64, *[c_void_p] * 3]
    library.nfbench_train_cnn.restype = library.nfbench_evaluate_cnn.restype = c_int
    return library


def choose_trainer(spec: NetworkSpec, backend: str = "auto", device: str = "cpu") -> str:
    """``kernel`` or ``torch``. Says so, once, when the CNN must do without the kernel on a CPU.

    Raises:
        ValueError: an unknown backend.
        KernelUnavailable: for ``kernel`` without a working compiler, or another network than the kernel's.
    """
    if backend not in ("auto", "kernel", "torch"):
        raise ValueError(f"backend={backend!r} is not known. Choose one of: auto, kernel, torch.")
    known = str(spec).partition(":")[0] == KERNEL_NETWORK
    if backend == "kernel" and not known:
        raise KernelUnavailable(f"the kernel trains {KERNEL_NETWORK}, not {spec}")
    if backend == "torch" or device != "cpu" or not known:
        return "torch"
    try:
        load_cnn_kernel()
    except KernelUnavailable as error:
        if backend == "kernel":
            raise
        _tell_fallback(" ".join(str(error).split()))
        return "torch"
    return "kernel"


@cache
def _tell_fallback(reason: str) -> None:
    print(
        f"training with torch, without the compiled kernel: {reason}; install g++ or clang++: zoos of CNNs are built "
        "about 8 to 15 times faster",
        file=sys.stderr,
        flush=True,
    )


def train_runs(
    recipe: CnnRecipe,
    spec: NetworkSpec,
    images: ClassifierImages,
    runs: Sequence[int],
    *,
    device: str = "cpu",
    threads: int | None = None,
    backend: str = "auto",
    progress: Callable[[Trained], None] | None = None,
) -> list[Trained]:
    """Trains runs, in any order; a run that diverges (NaN, infinite) is drawn anew, as often as needed.

    The kernel's result for a run depends on that run alone; torch's also on those it was stacked with, by rounding.

    Args:
        recipe: what to do.
        spec: architecture; its activation counts for nothing, each run draws its own.
        images: to train on and to measure with.
        runs: numbers of the runs.
        device: ``cpu`` or a GPU's name; a GPU uses torch.
        threads: of the kernel; None: one a core.
        backend: ``kernel``, ``torch`` or ``auto``.
        progress: called with each run as it is done.

    Returns:
        One result for each of ``runs``, in their order.

    Raises:
        ValueError: images that are too small; runs that diverge again and again.
    """
    kind = choose_trainer(spec, backend, device)
    stack = 1 if kind == "kernel" else STACK["cpu" if device == "cpu" else "gpu"]
    done: dict[int, Trained] = {}
    for attempt in range(MOST_ATTEMPTS):
        waiting = [(run, draw_settings(recipe, run, attempt)) for run in runs if run not in done]
        groups = _grouped(waiting, stack)

        def work(group: list[tuple[int, Settings]], attempt: int = attempt) -> list[Trained]:
            settings = [own for _, own in group]
            params = np.stack([draw_params(recipe, spec, own, run, attempt) for run, own in group])
            network: Stack
            if kind == "kernel":
                network = KernelStack(images, settings, params, load_cnn_kernel())
            else:
                from nfbench.zoos.cnn_torch import TorchStack

                network = TorchStack(spec, images, settings, params, device)
            return train_stack(recipe, spec, images, network, group, attempt)

        workers = (threads or available_cores()) if kind == "kernel" else 1
        for trained in _in_threads(workers, work, groups):
            for one in trained:
                done[one.run] = one
                if progress:
                    progress(one)
        if len(done) == len(runs):
            return [done[run] for run in runs]
    left = [run for run in runs if run not in done]
    raise ValueError(f"runs {left[:5]} of the zoo diverged {MOST_ATTEMPTS} times. Choose another zoo.zoo_seed.")


def train_stack(
    recipe: CnnRecipe,
    spec: NetworkSpec,
    images: ClassifierImages,
    stack: Stack,
    group: Sequence[tuple[int, Settings]],
    attempt: int,
) -> list[Trained]:
    """Trains a stack and keeps each run's checkpoints; leaves out the runs that diverged."""
    wanted = [recipe.checkpoint_epochs(run) for run, _ in group]
    part = images.part(group[0][1].train_fraction)
    params: list[list[NDArray[np.float32]]] = [[] for _ in group]
    metrics: list[list[list[float]]] = [[] for _ in group]
    weights = np.concatenate([np.arange(where.start, where.stop) for where in spec.scalar_slices()[::2]])
    last = max(epochs[-1] for epochs in wanted)
    for epoch in range(last + 1):
        now = stack.params
        if not np.isfinite(now).all(axis=1).any():
            return []
        if any(epoch in epochs for epochs in wanted):
            test_loss, test_accuracy = stack.evaluate(images.test)
            train_loss, train_accuracy = stack.evaluate(part[: recipe.num_eval])
            # As in the published table, losses include the L2 penalty that is trained with.
            penalty = [own.l2reg * float((row[weights].astype(np.float64) ** 2).sum())
                       for (_, own), row in zip(group, now, strict=True)]  # fmt: skip
            measured = np.stack([test_accuracy, test_loss + penalty, train_accuracy, train_loss + penalty], axis=1)
            for i, epochs in enumerate(wanted):
                if epoch in epochs:
                    params[i].append(now[i].astype(np.float32))
                    metrics[i].append(measured[i].tolist())
        if epoch < last:
            stack.train([epoch_order(recipe, part, run, attempt, epoch) for run, _ in group])
    trained = [
        Trained(run, attempt, own, epochs, np.stack(kept), np.array(values))
        for (run, own), epochs, kept, values in zip(group, wanted, params, metrics, strict=True)
    ]
    return [one for one in trained if np.isfinite(one.params).all() and np.isfinite(one.metrics).all()]


def _grouped(waiting: list[tuple[int, Settings]], size: int) -> list[list[tuple[int, Settings]]]:
    """Stacks of networks that can be trained together, those that take longest first."""

    def kind(item: tuple[int, Settings]) -> tuple[float, str, str]:
        return -item[1].train_fraction, item[1].activation, item[1].optimizer

    groups: list[list[tuple[int, Settings]]] = []
    for item in sorted(waiting, key=kind):
        if groups and len(groups[-1]) < size and kind(groups[-1][0]) == kind(item):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _in_threads(threads: int, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Results as they come. After an error or Ctrl-C, what runs is finished and the rest left."""
    items = iter(items)
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        pending: set[Future[Any]] = {pool.submit(work, item) for item in islice(items, threads)}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            pending |= {pool.submit(work, item) for item in islice(items, len(done))}
            for future in done:
                yield future.result()
