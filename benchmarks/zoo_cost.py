"""What a zoo costs: networks and SIREN-steps a second for each definition, beside the machine's floor, and hours a zoo.

Networks are fitted as a build does it, with the definition's own architecture, range and step size, to random images,
for fewer steps than its recipe has; a step of a network costs the same at any time. Hours are extrapolated to 60,000
images of 10 views, once, with all steps (dws networks that reach 40 dB stop before). Takes about a minute.

    python benchmarks/zoo_cost.py [--rounds 5] [--threads 2] [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from siren_fit import machine_rates, processor_name

from nfbench.zoos.fit import available_cores, choose_backend, fit_sirens, init_params, layer_sizes, pixel_grid
from nfbench.zoos.images import source_info
from nfbench.zoos.recipe import make_recipe

RESULTS = Path(__file__).parent / "results" / "zoo_cost.json"
CASES = (
    ("digits", "digits"),
    ("nfn", "mnist"),
    ("nfn", "cifar10"),
    ("dws", "mnist"),
    ("dws_mnist", "mnist"),
    ("dws_fashion", "fashion"),
)
NETWORKS = 600_000  # 60,000 images of 10 views
SECONDS = 1.0  # about, of one measurement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts (default 5)")
    parser.add_argument("--threads", type=int, default=available_cores(), help="threads (default: all cores)")
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU's name")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    backend = choose_backend("auto", arguments.device)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    processor = processor_name() if arguments.device == "cpu" else torch.cuda.get_device_name(arguments.device)

    runs = []
    for definition, source in CASES:
        recipe, _ = make_recipe(definition)
        height, width, channels = source_info(source).shape
        sizes = layer_sizes(recipe, channels)
        coords = pixel_grid(height, width, recipe.grid)
        ids = np.arange(256 if arguments.device == "cpu" else 16_384)
        params = init_params(recipe, sizes, "benchmark", ids, 0 * ids)
        images = np.random.default_rng(0).random((len(ids), len(coords), channels), np.float32)

        def seconds(steps: int, params=params, images=images, coords=coords, recipe=recipe) -> float:
            start = time.perf_counter()
            short = replace(recipe, num_steps=steps, stop_psnr=None)
            fit_sirens(
                params, images, coords, short, device=arguments.device, threads=arguments.threads, backend=backend
            )
            return (time.perf_counter() - start) / (len(params) * steps)

        steps = max(10, min(recipe.num_steps, int(SECONDS / (len(ids) * seconds(10)))))
        runs.append((f"{definition}, {source}", recipe.num_steps, sizes, len(coords), steps, seconds))
    samples: list[list[float]] = [[] for _ in runs]
    products = sines = 0.0
    for _ in range(arguments.rounds):
        products, sines = map(max, (products, sines), machine_rates(arguments.threads))
        for found, (*_, steps, seconds) in zip(samples, runs, strict=True):
            found.append(seconds(steps))

    rows = []
    for found, (case, num_steps, sizes, points, _, _) in zip(samples, runs, strict=True):
        ours = statistics.median(found)
        floor = floor_seconds(sizes, points, products, sines)
        rows.append(
            {
                "case": case,
                "ours_s": ours,
                "other": "floor",
                "other_s": floor,
                "ratio": floor / ours,
                "floor_s": floor,
                "spec": "-".join(map(str, sizes)),
                "points": points,
                "steps": num_steps,
                "siren_steps_per_s": 1 / ours,
                "networks_per_s": 1 / (ours * num_steps),
                "hours_60k_x_10": NETWORKS * num_steps * ours / 3600,
                "backend": f"{backend} on {arguments.device}",
                "cores": available_cores(),
                "threads": arguments.threads,
                "processor": processor,
                "versions": versions,
            }
        )
    print(f"{processor}, {arguments.threads} threads, {backend} on {arguments.device}; the floor is of the CPU")
    print(
        f"{'definition, images':<22} {'steps':>6} {'SIREN-steps/s':>14} {'floor':>9} {'networks/s':>11} {'60k x 10':>9}"
    )
    for row in rows:
        print(
            f"{row['case']:<22} {row['steps']:>6} {row['siren_steps_per_s']:>14,.0f} {1 / row['floor_s']:>9,.0f} "
            f"{row['networks_per_s']:>11.1f} {row['hours_60k_x_10']:>7.1f} h"
        )
    if not torch.cuda.is_available():
        print("GPU (such as an H100): not measured, there is none here; --device cuda measures one")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {RESULTS}")


def floor_seconds(sizes: tuple[int, ...], points: int, products: float, sines: float) -> float:
    """Of a SIREN-step, as in siren_fit.py: multiply-adds at the rate of `torch.mm`, two sines a neuron and point."""
    layers = [a * b for a, b in pairwise(sizes)]
    return points * ((3 * sum(layers) - layers[0]) / products + 2 * sum(sizes[1:-1]) / sines)


if __name__ == "__main__":
    main()
