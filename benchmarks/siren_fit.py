"""How fast SIRENs are fitted: ours against one module at a time and against JAX, beside the machine's arithmetic floor.

Every competitor takes the same full-batch Adam steps from the same initial weights to the same images; seconds are
wall time per SIREN-step (one step of one network), all cores in use, compilation excluded, median of several rounds in
which the competitors take turns. JAX is optional (`pip install jax`). Takes about two minutes.

    python benchmarks/siren_fit.py [--rounds 5] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nfbench.zoos.fit import available_cores, choose_backend, fit_sirens, init_params, layer_sizes, pixel_grid
from nfbench.zoos.recipe import BETA1, BETA2, EPS, SirenRecipe

RESULTS = Path(__file__).parent / "results" / "siren_fit.json"


@dataclass
class Case:
    """One architecture and image size, with ``count`` networks to fit (as many as a zoo's chunk)."""

    name: str
    widths: tuple[int, ...]
    side: int
    count: int
    kernel_steps: int
    stacked_steps: int
    loop_steps: int

    def __post_init__(self) -> None:
        self.sizes = layer_sizes(self.recipe(1), 1)
        self.coords = pixel_grid(self.side, self.side)
        ids = np.arange(self.count)
        self.params = init_params(self.recipe(1), self.sizes, "benchmark", ids, 0 * ids)
        random = np.random.default_rng(0)
        self.images = random.random((self.count, self.side**2, 1), np.float32)

    def recipe(self, steps: int) -> SirenRecipe:
        return SirenRecipe(self.widths, lr=5e-4, num_steps=steps)


CASES = (
    Case("2-32-32-1, 784 pixels", (32, 32), 28, count=256, kernel_steps=200, stacked_steps=4, loop_steps=100),
    Case("2-8-8-1, 64 pixels", (8, 8), 8, count=4096, kernel_steps=400, stacked_steps=20, loop_steps=300),
)


class Sine(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(30.0 * x)


def time_ours(case: Case, backend: str, steps: int, threads: int) -> Callable[[], float]:
    def once() -> float:
        start = time.perf_counter()
        fit_sirens(case.params, case.images, case.coords, case.recipe(steps), backend=backend, threads=threads)
        return (time.perf_counter() - start) / (case.count * steps)

    return once


def time_loop(case: Case, threads: int) -> tuple[Callable[[], float], str]:
    """One `nn.Module` and one `torch.optim.Adam` at a time; one thread or all, whichever is faster."""
    coords = torch.from_numpy(case.coords)

    def once(with_threads: int) -> float:
        torch.set_num_threads(with_threads)
        start = time.perf_counter()
        for i in range(2):
            layers: list[nn.Module] = []
            for k, (a, b) in enumerate(pairwise(case.sizes)):
                layers += [nn.Linear(a, b)] + ([Sine()] if k < len(case.sizes) - 2 else [])
            module = nn.Sequential(*layers)
            nn.utils.vector_to_parameters(torch.tensor(case.params[i]), module.parameters())
            optimizer = torch.optim.Adam(module.parameters(), lr=5e-4)
            target = torch.from_numpy(case.images[i])
            for _ in range(case.loop_steps):
                loss = nn.functional.mse_loss(module(coords), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        seconds = (time.perf_counter() - start) / (2 * case.loop_steps)
        torch.set_num_threads(threads)
        return seconds

    best = min((1, threads), key=once)
    return lambda: once(best), f"one nn.Module at a time, {best} thread{'s' if best > 1 else ''}"


def jax_fitter(case: Case, count: int) -> Callable[[Any, Any, int], Any]:
    """`jax.jit(jax.vmap(...))` of the whole fit: Adam steps in a `fori_loop`; params (N, T), targets (N, P, 1)."""
    import jax
    import jax.numpy as jnp

    coords = jnp.asarray(case.coords)

    def loss(flat: Any, target: Any) -> Any:
        hidden, at = coords, 0
        for k, (a, b) in enumerate(pairwise(case.sizes)):
            weight = flat[at : at + a * b].reshape(b, a)
            hidden = hidden @ weight.T + flat[at + a * b : at + a * b + b]
            at += a * b + b
            if k < len(case.sizes) - 2:
                hidden = jnp.sin(30.0 * hidden)
        return jnp.mean((hidden - target) ** 2)

    gradient = jax.grad(loss)

    def fit(flat: Any, target: Any, steps: Any) -> Any:
        def step(t: Any, state: Any) -> Any:
            flat, first, second = state
            grad = gradient(flat, target)
            first = BETA1 * first + (1 - BETA1) * grad
            second = BETA2 * second + (1 - BETA2) * grad**2
            m = first / (1 - BETA1 ** (t + 1.0))
            v = second / (1 - BETA2 ** (t + 1.0))
            return flat - 5e-4 * m / (jnp.sqrt(v) + EPS), first, second

        return jax.lax.fori_loop(0, steps, step, (flat, jnp.zeros_like(flat), jnp.zeros_like(flat)))[0]

    return jax.jit(jax.vmap(fit, in_axes=(0, 0, None)))


def time_jax(case: Case) -> tuple[Callable[[], float], str]:
    """JAX with the batch of networks that suits it best, tried here; also checks that its result is ours."""
    fit = jax_fitter(case, case.count)
    ours = fit_sirens(case.params[:8], case.images[:8], case.coords, case.recipe(5)).params
    theirs = np.asarray(fit(case.params[:8], case.images[:8], 5))
    assert np.abs(ours - theirs).max() < 1e-4, "JAX and ours do not take the same steps"

    def seconds(count: int, steps: int) -> float:
        start = time.perf_counter()
        fit(case.params[:count], case.images[:count], steps).block_until_ready()
        return (time.perf_counter() - start) / (count * steps)

    tried: dict[int, float] = {}
    for count in (1, 4, 16, 64, 256, 1024):
        if count <= case.count:
            steps = max(4, case.stacked_steps * case.count // count // 4)
            seconds(count, 2)  # compiles
            tried[count] = seconds(count, steps)
    best = min(tried, key=lambda count: tried[count])
    steps = max(4, case.stacked_steps * case.count // best)
    return lambda: seconds(best, steps), f"jax.jit(jax.vmap), {best} at a time"


def machine_rates(threads: int) -> tuple[float, float]:
    """What this machine reaches with all threads: multiply-adds a second in `torch.mm`, sines a second in cache."""
    torch.set_num_threads(threads)
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    c = torch.empty_like(a)

    def best(run: Callable[[], Any], repeats: int) -> float:
        run()
        times = []
        for _ in range(7):
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            times.append((time.perf_counter() - start) / repeats)
        return min(times)

    products = 1024**3 / best(lambda: torch.mm(a, b, out=c), 5)
    # One thread on 16 kB, times the threads: small enough for L1, and no cost of starting threads.
    torch.set_num_threads(1)
    x, y = torch.rand(4096) * 6 - 3, torch.empty(4096)
    sines = 4096 / best(lambda: torch.sin(x, out=y), 2000) * threads
    torch.set_num_threads(threads)
    return products, sines


def floor_seconds(case: Case, products: float, sines: float) -> float:
    """Time a SIREN-step of the multiply-adds (forward, weight gradient, input gradient but of the first layer) at the
    rate of `torch.mm`, and of a sine and a cosine for each neuron and pixel at the rate of `torch.sin`.
    """
    pixels, sizes = len(case.coords), case.sizes
    layers = [a * b for a, b in pairwise(sizes)]
    multiply_adds = pixels * (3 * sum(layers) - layers[0])
    return multiply_adds / products + 2 * pixels * sum(case.widths) / sines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts (default 5)")
    parser.add_argument("--threads", type=int, default=available_cores(), help="threads (default: all cores)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    try:
        import jax

        versions["jax"] = jax.__version__
    except ImportError as error:
        print(f"skipped: JAX ({error}); `pip install jax` adds that comparison")
    main_backend = choose_backend()
    if main_backend != "kernel":
        print("no C++ compiler: only the torch backend is measured")

    rows = []
    products = sines = 0.0
    for case in CASES:
        ours = (
            {"kernel": time_ours(case, "kernel", case.kernel_steps, arguments.threads)}
            if main_backend == "kernel"
            else {}
        )
        ours["torch"] = time_ours(case, "torch", case.stacked_steps, arguments.threads)
        others = {}
        for timer, label in [time_loop(case, arguments.threads)] + ([time_jax(case)] if "jax" in versions else []):
            others[label] = timer
        timers = {**ours, **others}
        samples: dict[str, list[float]] = {name: [] for name in timers}
        for number in range(arguments.rounds + 1):  # the first round warms up
            products, sines = map(max, (products, sines), machine_rates(arguments.threads))
            for name, timer in timers.items():
                seconds = timer()
                if number:
                    samples[name].append(seconds)
        floor = floor_seconds(case, products, sines)
        medians = {name: statistics.median(times) for name, times in samples.items()}
        for backend in ours:
            for other in [*others, *(["ours, torch backend"] if backend == "kernel" else [])]:
                other_s = medians["torch"] if other.startswith("ours") else medians[other]
                rows.append(
                    {
                        "case": f"{case.name}, {backend} backend",
                        "ours_s": medians[backend],
                        "other": other,
                        "other_s": other_s,
                        "ratio": other_s / medians[backend],
                        "floor_s": floor,
                        "cores": available_cores(),
                        "threads": arguments.threads,
                        "processor": processor_name(),
                        "versions": versions,
                    }
                )
    print(f"{processor_name()}, {arguments.threads} threads; torch.mm {products / 1e9:.0f} G multiply-adds/s, "
          f"torch.sin {sines / 1e9:.2f} G/s; ms per SIREN-step")  # fmt: skip
    print(f"{'case':<40} {'ours':>9} {'floor':>9}  {'other':<34} {'theirs':>9} {'ratio':>7}")
    for row in rows:
        print(
            f"{row['case']:<40} {1e3 * row['ours_s']:>9.5f} {1e3 * row['floor_s']:>9.5f}  {row['other']:<34} "
            f"{1e3 * row['other_s']:>9.5f} {row['ratio']:>6.1f}x"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {RESULTS}")


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
