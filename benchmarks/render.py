"""How fast a batch of SIRENs is drawn and differentiated: ours against `torch.func.vmap` of a SIREN module.

Every competitor takes the same weights and images to the mean squared error of each picture and to the gradient of
their sum in the weights: what a step of task=inr_edit asks for beside its model. Seconds are wall time per network, all
threads in use, median of several rounds in which the competitors take turns. Takes about a minute.

    python benchmarks/render.py [--rounds 15] [--threads N] [--batch 32]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from siren_fit import machine_rates, processor_name
from torch import Tensor, nn
from torch.func import functional_call, vmap

from nfbench.allocator import keep_freed_memory
from nfbench.weightspace import NetworkSpec
from nfbench.zoos.fit import available_cores, choose_backend, init_params, pixel_grid
from nfbench.zoos.recipe import SirenRecipe
from nfbench.zoos.render import pixel_errors

RESULTS = Path(__file__).parent / "results" / "render.json"
CASES = (("2-32-32-1", 28), ("2-32-32-3", 32))  # the published SIRENs of MNIST and of CIFAR-10
VMAP = "torch.func.vmap of an nn.Module"


class Sine(nn.Module):
    def __init__(self, w0: float) -> None:
        super().__init__()
        self.w0 = w0

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.w0 * x)


class Case:
    """A batch of fresh networks, and images for them."""

    def __init__(self, text: str, side: int, batch: int) -> None:
        self.spec = NetworkSpec.parse(f"{text}:sine")
        self.name = f"{text}, {side**2} pixels, {batch} networks"
        self.recipe = SirenRecipe(self.spec.sizes[1:-1])
        ids = np.arange(batch)
        self.flat = torch.from_numpy(init_params(self.recipe, self.spec.sizes, "benchmark", ids, 0 * ids))
        self.coords = torch.from_numpy(pixel_grid(side, side))
        generator = torch.Generator().manual_seed(0)
        self.targets = torch.rand(batch, side**2, self.spec.sizes[-1], generator=generator)

    def ours(self, backend: str) -> Callable[[], Tensor]:
        def once() -> Tensor:
            flat = self.flat.clone().requires_grad_()
            pixel_errors(flat, self.spec, self.coords, self.targets, self.recipe, backend).sum().backward()
            return flat.grad

        return once

    def vmap_of_a_module(self) -> Callable[[], Tensor]:
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(self.spec.sizes):
            layers += [nn.Linear(fan_in, fan_out), Sine(self.recipe.w0_first)]
        module = nn.Sequential(*layers[:-1])
        names = [name for name, _ in module.named_parameters()]

        def error(parameters: dict[str, Tensor], target: Tensor) -> Tensor:
            return (functional_call(module, parameters, (self.coords,)) - target).square().mean()

        errors = vmap(error)

        def once() -> Tensor:
            flat = self.flat.clone().requires_grad_()
            slices, shapes = self.spec.scalar_slices(), self.spec.parameter_shapes()
            parts = {k: flat[:, w].unflatten(1, s) for k, w, s in zip(names, slices, shapes, strict=True)}
            errors(parts, self.targets).sum().backward()
            return flat.grad

        return once

    def floor(self, products: float, sines: float) -> float:
        """Seconds a network of the multiply-adds (forward, weight gradient, input gradient but of the first layer) at
        the rate of `torch.mm`, and of a sine and a cosine for each hidden neuron and pixel at that of `torch.sin`.
        """
        layers = [a * b for a, b in pairwise(self.spec.sizes)]
        pixels, hidden = len(self.coords), sum(self.spec.sizes[1:-1])
        return pixels * ((3 * sum(layers) - layers[0]) / products + 2 * hidden / sines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds; the median counts (default 15)")
    parser.add_argument("--threads", type=int, default=available_cores(), help="threads (default: all cores)")
    parser.add_argument("--batch", type=int, default=32, help="networks at once (default 32, the papers' batch)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    backends = ["kernel", "torch"] if choose_backend() == "kernel" else ["torch"]
    about = {
        "cores": available_cores(),
        "threads": args.threads,
        "processor": processor_name(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    rows = []
    for text, side in CASES:
        case = Case(text, side, args.batch)
        runs = {**{backend: case.ours(backend) for backend in backends}, VMAP: case.vmap_of_a_module()}
        exact = runs["torch"]()
        for name, run in runs.items():
            worst = (run() - exact).abs().max() / exact.abs().max()
            assert worst < 1e-4, f"{name} has another gradient: {worst:.1e}"
        samples: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.rounds):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                samples[name].append((time.perf_counter() - began) / args.batch)
        floor = case.floor(*machine_rates(args.threads))
        seconds = {name: statistics.median(times) for name, times in samples.items()}
        for backend in backends:
            ratio = seconds[VMAP] / seconds[backend]
            row = {"case": f"{case.name}, {backend} backend", "ours_s": seconds[backend], "other": VMAP}
            rows.append({**row, "other_s": seconds[VMAP], "ratio": ratio, "floor_s": floor, **about})
    print(f"{about['processor']}, {args.threads} threads; networks drawn and differentiated a second")
    print(f"{'case':<50} {'ours':>8} {'floor':>8} {'vmap':>8} {'ratio':>7}")
    for row in rows:
        rates = " ".join(f"{1 / row[key]:>8,.0f}" for key in ("ours_s", "floor_s", "other_s"))
        print(f"{row['case']:<50} {rates} {row['ratio']:>6.1f}x")
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
