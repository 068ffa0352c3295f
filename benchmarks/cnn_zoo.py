"""How fast small CNNs are trained: ours against one nn.Module at a time, beside the machine's arithmetic floor.

Same recipe for all: the network 1-16-16-16-10 of the Small CNN Zoo, mini-batches of 512 images of 28x28, Adam, L2, half
of the runs with tanh, and dropout. Seconds are wall time of a network's step of 512 images, all cores in use,
compilation excluded, median of several rounds in which the competitors take turns. The others are one nn.Module with
torch.optim, with all threads or a process a core, channels last or not: whichever is fastest here. Our torch path,
which trains a stack of networks, is measured beside the kernel, and on a GPU where there is one. Takes a minute or two.

    python benchmarks/cnn_zoo.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from siren_fit import machine_rates, processor_name
from torch import nn

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.cnn_images import ClassifierImages
from nfbench.zoos.cnn_recipe import BETA1, BETA2, EPS, CnnRecipe, Settings, draw_params, epoch_order
from nfbench.zoos.cnn_torch import TorchStack
from nfbench.zoos.cnn_train import KernelStack, choose_trainer, load_cnn_kernel
from nfbench.zoos.fit import available_cores

RESULTS = Path(__file__).parent / "results" / "cnn_zoo.json"
SPEC, BATCH, SIDE, IMAGES = NetworkSpec.parse("1-16c3-16c3-16c3-10"), 512, 28, 20_000
RECIPE = CnnRecipe(batch_size=BATCH)
PLAIN = Settings("relu", "adam", 1e-3, 1e-4, 0.0, "he_normal", 0.1, 1.0)
CASES = {"no dropout": (PLAIN, replace(PLAIN, activation="tanh")),
         "dropout 0.3": (replace(PLAIN, dropout=0.3), replace(PLAIN, dropout=0.3, activation="tanh"))}  # fmt: skip


def make_images() -> ClassifierImages:
    random = np.random.default_rng(0)
    pixels = random.random((IMAGES, SIDE, SIDE), np.float32) * 2 - 1
    rows = np.arange(IMAGES, dtype=np.int32)
    return ClassifierImages(pixels, random.integers(0, 10, IMAGES).astype(np.int32), rows, rows[:100], "", "")


def orders_of(count: int, steps: int) -> list[Any]:
    rows = np.arange(BATCH * steps, dtype=np.int32)
    return [epoch_order(RECIPE, rows, run, 0, 0) for run in range(count)]


def train_modules(settings: Settings, steps: int, threads: int, channels_last: bool) -> float:
    """Seconds of `steps` steps of one network as an nn.Module."""
    torch.set_num_threads(threads)
    images = make_images()
    act = {"relu": nn.ReLU, "tanh": nn.Tanh}[settings.activation]
    parts: list[nn.Module] = []
    for channels in (1, 16, 16):
        parts += [nn.Conv2d(channels, 16, 3, 2), act()]
        parts += [nn.Dropout(settings.dropout)] if settings.dropout else []
    module = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = module.to(memory_format=layout)
    nn.utils.vector_to_parameters(torch.from_numpy(draw_params(RECIPE, SPEC, settings, 0)), module.parameters())
    weights = [p for p in module.parameters() if p.dim() > 1]
    biases = [p for p in module.parameters() if p.dim() == 1]
    # The same L2 as ours by the fastest way there is: weight_decay adds 2 * l2 * w to the gradient.
    groups = [{"params": weights, "weight_decay": 2 * settings.l2reg}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.Adam(groups, settings.learning_rate, (BETA1, BETA2), EPS)
    pixels, labels = torch.from_numpy(images.pixels)[:, None], torch.from_numpy(images.labels).long()
    (order,) = orders_of(1, steps + 1)
    for number, rows in enumerate(torch.from_numpy(order).long()):
        if number == 1:  # the first step warms up
            start = time.perf_counter()
        batch = pixels[rows].contiguous(memory_format=layout)
        loss = nn.functional.cross_entropy(module(batch), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def time_modules(pool: ProcessPoolExecutor, cores: int, case: tuple[Settings, ...]) -> dict[str, Callable[[], float]]:
    """Each way of training one module at a time, by name: seconds of a network's step, all cores in use."""
    timers: dict[str, Callable[[], float]] = {}
    for a_core, channels_last in product((False, True), (False, True)):

        def once(a_core: bool = a_core, channels_last: bool = channels_last) -> float:
            workers, threads, steps = (cores, 1, 12) if a_core else (1, cores, 12)
            rates = []
            for settings in case:
                jobs = [pool.submit(train_modules, settings, steps, threads, channels_last) for _ in range(workers)]
                rates.append(max(job.result() for job in jobs) / (steps * workers))
            return statistics.mean(rates)

        name = "a process a core" if a_core else f"{cores} threads"
        timers[f"one nn.Module at a time, {name}{', channels last' if channels_last else ''}"] = once
    return timers


def time_kernel(images: ClassifierImages, case: tuple[Settings, ...], cores: int) -> Callable[[], float]:
    steps = 39

    def train(settings: Settings) -> None:
        stack = KernelStack(images, [settings], draw_params(RECIPE, SPEC, settings, 0)[None], load_cnn_kernel())
        stack.train(orders_of(1, steps))

    def once() -> float:
        jobs = [settings for settings in case for _ in range(2 * cores)]
        start = time.perf_counter()
        with ThreadPoolExecutor(cores) as threads:
            list(threads.map(train, jobs))
        return (time.perf_counter() - start) / (steps * len(jobs))

    return once


def time_stack(images: ClassifierImages, case: tuple[Settings, ...], device: str, count: int) -> Callable[[], float]:
    steps = 2 if device == "cpu" else 20
    torch.set_num_threads(available_cores())

    def train(settings: Settings, steps: int) -> float:
        params = np.stack([draw_params(RECIPE, SPEC, settings, run) for run in range(count)])
        stack = TorchStack(SPEC, images, [settings] * count, params, device)
        orders = orders_of(count, steps)
        stack.train(orders_of(count, 1))
        float(stack.flat.sum())  # waits for a GPU
        start = time.perf_counter()
        stack.train(orders)
        float(stack.flat.sum())
        return (time.perf_counter() - start) / (steps * count)

    return lambda: statistics.mean(train(settings, steps) for settings in case)


def multiply_adds() -> int:
    """Of a step: forward and weight gradients, and input gradients but of the first layer."""
    side, total = SIDE, 0
    for number, layer in enumerate(SPEC.layers[:-1]):
        side = (side - 1) // 2
        total += side**2 * layer.num_weights * (3 if number else 2)
    return BATCH * (total + 3 * SPEC.layers[-1].num_weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts (default 5)")
    rounds, cores, images = parser.parse_args().rounds, available_cores(), make_images()
    torch.set_num_threads(cores)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    rows, products = [], 0.0
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        for name, case in CASES.items():
            others = time_modules(pool, cores, case)
            tried = {way: timer() for way, timer in others.items()}
            tried = {way: min(seconds, others[way]()) for way, seconds in tried.items()}  # the first started processes
            best = min(tried, key=lambda way: tried[way])
            timers = {"torch backend": time_stack(images, case, "cpu", 4), best: others[best]}
            if choose_trainer(SPEC) == "kernel":
                timers = {"kernel": time_kernel(images, case, cores), **timers}
            if torch.cuda.is_available():
                timers = {f"torch on {torch.cuda.get_device_name()}": time_stack(images, case, "cuda", 128), **timers}
            samples: dict[str, list[float]] = {way: [] for way in timers}
            for number in range(rounds + 1):  # the first round warms up
                products = max(products, machine_rates(cores)[0])
                for way, timer in timers.items():
                    seconds = timer()
                    if number:
                        samples[way].append(seconds)
            medians = {way: statistics.median(times) for way, times in samples.items()}
            for ours in [way for way in timers if way != best]:
                rows.append(
                    {
                        "case": f"a step of {BATCH} images, {name}, {ours}",
                        "ours_s": medians[ours],
                        "other": best,
                        "other_s": medians[best],
                        "ratio": medians[best] / medians[ours],
                        "floor_s": multiply_adds() / products,
                        "images_per_s": BATCH / medians[ours],
                        "other_images_per_s": BATCH / medians[best],
                        "networks_per_hour": 3600 * BATCH / medians[ours] / (18 * 0.4625 * 60_000),
                        "cores": cores,
                        "threads": cores,
                        "processor": processor_name(),
                        "versions": versions,
                    }
                )
    print(f"{processor_name()}, {cores} cores; torch.mm {products / 1e9:.0f} G multiply-adds/s; ms a step of {BATCH}")
    print(
        f"{'case':<52} {'ours':>7} {'floor':>7} {'images/s':>9} {'networks/h':>10}  {'other':<58} {'theirs':>7}  ratio"
    )
    for row in rows:
        print(
            f"{row['case']:<52} {1e3 * row['ours_s']:>7.3f} {1e3 * row['floor_s']:>7.3f} {row['images_per_s']:>9,.0f} "
            f"{row['networks_per_hour']:>10,.0f}  {row['other']:<58} {1e3 * row['other_s']:>7.2f} {row['ratio']:>5.1f}x"
        )
    print("networks/h: of 18 epochs of 46 % of 60,000 images on average (zoo.size=cpu), without measuring accuracies")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
