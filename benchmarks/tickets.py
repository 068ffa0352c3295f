"""How fast winning tickets are found: stacked networks against one nn.Module at a time, beside the arithmetic floor.

Same recipe for all: mini-batches of 128 images of 28x28, Adam, the network 784-128-128-10 (on a GPU also the CNN
3-128-128-128-128-10 on 32x32), dense and under a mask that keeps 5 % of the weights. Seconds are wall time of a
network's step, all cores in use, median of several rounds in which the competitors take turns. The others are one
nn.Module with torch.optim.Adam, fused or not, with all threads or a process a core: whichever is fastest here. None
of them pays for a loader: images are indexed as ours are. The peak memory of a training step of the VAE is printed
beside them. Takes about a minute on two cores.

    python benchmarks/tickets.py [--rounds 5] [--steps 60]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from siren_fit import machine_rates, processor_name
from torch import nn

from nfbench.allocator import keep_freed_memory
from nfbench.models import TicketVAE
from nfbench.weightspace import NetworkSpec, random_features
from nfbench.zoos.cnn_images import ClassifierImages
from nfbench.zoos.fit import available_cores
from nfbench.zoos.ticket_recipe import TicketRecipe
from nfbench.zoos.ticket_train import TicketTrainer, stack_size

RESULTS = Path(__file__).parent / "results" / "tickets.json"
MLP, CNN, BATCH = "784-128-128-10:relu", "3-128c3-128c3-128c3-128-10:relu", 128
POSITIONS = (225, 49, 9)  # of the CNN's outputs


def make_images(spec: str, steps: int) -> ClassifierImages:
    """Random images, as many as an epoch of so many steps has."""
    random = np.random.default_rng(0)
    shape = (32, 32, 3) if spec == CNN else (28, 28)
    pixels = random.random((BATCH * steps, *shape), np.float32) * 2 - 1
    rows = np.arange(len(pixels), dtype=np.int32)
    return ClassifierImages(pixels, random.integers(0, 10, len(rows)).astype(np.int32), rows, rows[:BATCH], "", "")


def make_trainer(spec: str, steps: int, device: str) -> TicketTrainer:
    recipe = TicketRecipe(epochs=1, batch_size=BATCH)
    return TicketTrainer(NetworkSpec.parse(spec), recipe, make_images(spec, steps), device)


def make_module(spec: str) -> nn.Sequential:
    parts: list[nn.Module] = []
    layers = NetworkSpec.parse(spec).layers
    for i, layer in enumerate(layers):
        if layer.kernel is not None:
            parts.append(nn.Conv2d(layer.in_size, layer.out_size, layer.kernel, 2))
        else:
            parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if i and layers[i - 1].is_conv else []
            parts.append(nn.Linear(layer.in_size, layer.out_size))
        parts += [nn.ReLU()] if i + 1 < len(layers) else []
    return nn.Sequential(*parts)


def train_module(spec: str, steps: int, threads: int, fused: bool, masked: bool, device: str = "cpu") -> float:
    """Seconds of `steps` steps of one network as an nn.Module; the first step warms up."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    trainer = make_trainer(spec, steps + 1, device)
    module = make_module(spec).to(device)
    optimizer = torch.optim.Adam(module.parameters(), 1e-3, fused=fused)
    masks = [(torch.rand_like(p) < 0.05).to(p) if p.dim() > 1 else torch.ones_like(p) for p in module.parameters()]
    batches = torch.from_numpy(trainer.recipe.batches(trainer.train_rows, 0)).to(device).long()
    for number, rows in enumerate(batches):
        if number == 1:
            synchronize(device)
            start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(trainer.pixels[rows]), trainer.labels[rows]).backward()
        if masked:
            for parameter, mask in zip(module.parameters(), masks, strict=True):
                assert parameter.grad is not None
                parameter.grad.mul_(mask)
        optimizer.step()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def time_ours(spec: str, steps: int, masked: bool, device: str, count: int) -> Callable[[], float]:
    """Seconds of a network's step in a stack of `count`."""
    trainer = make_trainer(spec, steps, device)
    params = trainer.draw_params(range(count))
    mask = trainer.pruning.keep_largest(trainer.spec, params.abs()) if masked else None
    trainer.stack = count

    def once() -> float:
        synchronize(device)
        start = time.perf_counter()
        trainer.train(params, mask)
        synchronize(device)
        return (time.perf_counter() - start) / (steps * count)

    once()
    return once


def time_others(
    pool: ProcessPoolExecutor, cores: int, spec: str, steps: int, masked: bool, device: str
) -> dict[str, Callable[[], float]]:
    """Each way of training one module at a time, by name: seconds of a network's step, all cores in use."""
    timers: dict[str, Callable[[], float]] = {}
    if device != "cpu":
        for fused in (True, False):
            name = f"one nn.Module at a time on the GPU{', fused Adam' if fused else ''}"
            timers[name] = lambda fused=fused: train_module(spec, steps, cores, fused, masked, device) / steps
        return timers
    for a_core, fused in product((False, True), (True, False)):

        def once(a_core: bool = a_core, fused: bool = fused) -> float:
            workers, threads = (cores, 1) if a_core else (1, cores)
            jobs = [pool.submit(train_module, spec, steps, threads, fused, masked) for _ in range(workers)]
            return max(job.result() for job in jobs) / (steps * workers)

        name = "a process a core" if a_core else f"{cores} threads"
        timers[f"one nn.Module at a time, {name}{', fused Adam' if fused else ''}"] = once
    return timers


def multiply_adds(spec: str) -> float:
    """Of a step of one network: forward, gradients of weights, and of all inputs but the images."""
    total = 0.0
    for i, layer in enumerate(NetworkSpec.parse(spec).layers):
        total += BATCH * layer.num_weights * (POSITIONS[i] if layer.is_conv else 1) * (3 if i else 2)
    return total


def gpu_rate() -> float:
    """Multiply-adds a second of large float32 products."""
    a = torch.randn(8192, 8192, device="cuda")
    times = []
    for _ in range(6):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 8192**3 / min(times[1:])


def vae_memory(layer: str, width: int) -> tuple[float, float]:
    """Peak memory in GiB of a training step of 4 networks 784-128-128-10 on a CPU, and its seconds; in a process."""
    keep_freed_memory()
    spec = NetworkSpec.parse(MLP)
    io = "sinusoidal" if layer == "np" else "none"
    model = TicketVAE(spec, layer=layer, width=width, num_layers=2 if layer == "nft" else 4, io=io)
    optimizer = torch.optim.Adam(model.parameters())
    features = random_features(spec, 4, 1, torch.Generator().manual_seed(0))
    mask = (torch.rand(4, spec.num_params) < 0.05).float()
    start = time.perf_counter()
    for _ in range(2):
        start = time.perf_counter()
        logits, mean, log_variance = model(features, mask, torch.randn(4, spec.num_params, model.latent))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, mask)
        (loss + (mean**2 + log_variance.exp() - 1 - log_variance).mean()).backward()
        optimizer.step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="of a training")
    parser.add_argument("--width", type=int, default=64, help="of the VAE whose memory is measured")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    cores, rows = available_cores(), []
    torch.set_num_threads(cores)
    products = machine_rates(cores)[0]
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    context = get_context("spawn")
    with ProcessPoolExecutor(cores, mp_context=context) as pool:
        for device, spec, masked in product(devices, (MLP, CNN), (False, True)):
            if device == "cpu" and spec == CNN:
                continue  # of 128 channels: minutes
            count = stack_size(NetworkSpec.parse(spec), device)
            name = f"{spec.partition(':')[0]} on {device}, {'masked' if masked else 'dense'}, {count} at once"
            timers = {"ours": time_ours(spec, options.steps, masked, device, count)}
            timers |= time_others(pool, cores, spec, options.steps, masked, device)
            found: dict[str, list[float]] = {key: [] for key in timers}
            for _ in range(options.rounds):
                for key, timer in timers.items():
                    found[key].append(timer())
            medians = {key: statistics.median(times) for key, times in found.items()}
            ours, best = medians.pop("ours"), min(medians, key=medians.__getitem__)
            rate = products if device == "cpu" else gpu_rate()
            row: dict[str, Any] = {
                "case": f"a step of {BATCH} images, {name}", "ours_s": ours, "other": best, "other_s": medians[best],
                "ratio": medians[best] / ours, "floor_s": multiply_adds(spec) / rate, "cores": cores,
                "threads": cores, "processor": processor_name(), "versions": versions,
                "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
            }  # fmt: skip
            rows.append(row)
    memory = {}
    for layer in ("pt", "np", "nft"):
        with ProcessPoolExecutor(1, mp_context=context) as pool:  # one of its own, for its peak
            memory[layer] = pool.submit(vae_memory, layer, options.width).result()
    print(f"{processor_name()}, {cores} cores; torch.mm {products / 1e9:.0f} G multiply-adds/s; ms a network's step")
    print(f"{'case':<72} {'ours':>8} {'floor':>8}  {'other':<56} {'theirs':>8}  ratio")
    for row in rows:
        print(
            f"{row['case']:<72} {1e3 * row['ours_s']:>8.4f} {1e3 * row['floor_s']:>8.4f}  {row['other']:<56} "
            f"{1e3 * row['other_s']:>8.4f} {row['ratio']:>5.1f}x"
        )
    for layer, (peak, seconds) in memory.items():
        print(
            f"VAE {layer}, {options.width} channels, 4 networks {MLP}: {peak:.2f} GiB at most, {seconds:.2f} s a step"
        )
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
