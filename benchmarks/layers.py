"""Seconds of one forward and backward pass of each layer, beside the authors' layers (PyPI `nfn` 0.1.2).

    python benchmarks/layers.py            # prints a table, writes benchmarks/results/layers.json
    python benchmarks/layers.py --compile  # for one size of each network also with torch.compile, and what that takes

float32, both in turns in one process, median. The floor is the multiply-adds of our layer at the rate that `torch.mm`
reaches on the largest weight of the case; the best floor takes the rate of `nfbench.layers.product.linear`, which is
faster than `torch.mm` on some processors. Freed memory is kept for the next pass, as in a training run of nfbench: the
system's work for fresh pages would otherwise blur both. Peak memory is measured in a process of its own for each layer:
how far its resident memory rises over one pass.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nfn.common
import nfn.layers
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nfbench.allocator import keep_freed_memory
from nfbench.layers import HNPLinear, NFTBlock, NPAttention, NPLinear, SimpleLayerNorm
from nfbench.layers.product import linear
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures, random_features

SIREN, CNN = "2-32-32-1:sine", "1-16c3-16c3-16c3-10:relu"
CASES = [(SIREN, 32, 64), (SIREN, 32, 128), (SIREN, 8, 256), (CNN, 8, 16), (CNN, 32, 32)]
COMPILED = CASES[0], CASES[3]
RESULTS = Path(__file__).parent / "results" / "layers.json"


class TheirBlock(nn.Module):
    """The authors' NFT block, composed of their layers: pre-norm attention, then a pointwise feed-forward part."""

    def __init__(self, spec: nfn.common.NetworkSpec, channels: int, heads: int, share: bool) -> None:
        super().__init__()
        layers = nfn.layers
        self.norm1, self.norm2 = layers.SimpleLayerNorm(spec, channels), layers.SimpleLayerNorm(spec, channels)
        self.attention = layers.NPAttention(spec, channels, heads, share_projections=share)
        self.expand, self.act = layers.Pointwise(spec, channels, 4 * channels), layers.TupleOp(nn.GELU())
        self.contract = layers.Pointwise(spec, 4 * channels, channels)

    def forward(self, x: nfn.common.WeightSpaceFeatures) -> nfn.common.WeightSpaceFeatures:
        x = x + self.attention(self.norm1(x))
        return x + self.contract(self.act(self.expand(self.norm2(x))))


def layers_of(text: str, channels: int) -> dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]]:
    """For each layer how ours and theirs are made."""
    spec = NetworkSpec.parse(text)
    shapes, array = spec.parameter_shapes(), nfn.common.data.ArraySpec
    theirs = nfn.common.NetworkSpec([array(s) for s in shapes[::2]], [array(s) for s in shapes[1::2]])
    share = not any(layer.is_conv for layer in spec.layers)
    lib, c, heads = nfn.layers, channels, 4
    return {
        "NPLinear": (lambda: NPLinear(spec, c, c), lambda: lib.NPLinear(theirs, c, c)),
        "HNPLinear": (lambda: HNPLinear(spec, c, c), lambda: lib.HNPLinear(theirs, c, c)),
        "NPAttention": (
            lambda: NPAttention(spec, c, heads),
            lambda: lib.NPAttention(theirs, c, heads, share_projections=share),
        ),
        "SimpleLayerNorm": (lambda: SimpleLayerNorm(spec, c), lambda: lib.SimpleLayerNorm(theirs, c)),
        "NFT block": (lambda: NFTBlock(spec, c, heads, 4), lambda: TheirBlock(theirs, c, heads, share)),
    }


def inputs(text: str, batch: int, channels: int, ours: bool) -> tuple[object, list[Tensor]]:
    """Features as the layer takes them, and their tensors as leaves."""
    x = random_features(NetworkSpec.parse(text), batch, channels, torch.Generator().manual_seed(0))
    if ours:
        leaves = [t.requires_grad_() for t in (*x.weights, *x.biases)]
        return x, leaves
    weights = []
    for w_BRSKC, layer in zip(x.weights, x.spec.layers, strict=True):
        w = w_BRSKC.permute(0, 4, 1, 2, 3)
        weights.append((w.unflatten(-1, layer.kernel) if layer.kernel else w.squeeze(-1)).contiguous())
    biases = [b.transpose(1, 2).contiguous() for b in x.biases]
    return nfn.common.WeightSpaceFeatures(weights, biases), [t.requires_grad_() for t in (*weights, *biases)]


def make_pass(layer: nn.Module, x: object, leaves: list[Tensor]) -> Callable[[], None]:
    """One forward and backward pass, with gradients of parameters and inputs."""
    wanted = [*leaves, *layer.parameters()]
    y = layer(x)
    outputs = [*y.weights, *y.biases]
    grads = [torch.ones_like(t) for t in outputs]

    def run() -> None:
        y = layer(x)
        torch.autograd.grad([*y.weights, *y.biases], wanted, grads, allow_unused=True)

    return run


def seconds(runs: list[Callable[[], None]], repeats: int) -> list[float]:
    """Median seconds of each, all of them in turns."""
    times: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 2):
        for run, kept in zip(runs, times, strict=True):
            began = time.perf_counter()
            run()
            if repeat >= 2:
                kept.append(time.perf_counter() - began)
    return [statistics.median(kept) for kept in times]


def multiply_adds(layer: nn.Module, text: str, batch: int, channels: int) -> float:
    """Of the matrix products of one forward and backward pass."""
    x, _ = inputs(text, batch, channels, True)
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
        outputs = [*y.weights, *y.biases]
        torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])
    return counter.get_total_flops() / 2


def product_rates(spec: NetworkSpec, batch: int, channels: int) -> list[float]:
    """Multiply-adds a second of `torch.mm` and of our products on the largest weight of the case."""
    layer = max(spec.layers, key=lambda one: one.num_weights)
    size = layer.taps * channels
    a, b = torch.randn(batch * layer.out_size * layer.in_size, size), torch.randn(size, size)
    return [a.shape[0] * size * size / s for s in seconds([lambda: torch.mm(a, b), lambda: linear(a, b)], 20)]


def peak_megabytes(text: str, batch: int, channels: int, name: str, who: str) -> float:
    """The rise of resident memory over one pass, measured in a process of its own."""
    command = [sys.executable, __file__, "--memory", text, str(batch), str(channels), name, who]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(text: str, batch: int, channels: int, name: str, who: str) -> None:
    """Prints the rise of resident memory over the first pass, in MB (Linux)."""
    ours = who == "ours"
    layer = layers_of(text, channels)[name][not ours]()
    x, leaves = inputs(text, batch, channels, ours)
    small, small_leaves = inputs(text, 1, channels, ours)
    make_pass(layer, small, small_leaves)()  # loads what is loaded once

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1])

    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    y = layer(x)
    outputs = [*y.weights, *y.biases]
    wanted, grads = [*leaves, *layer.parameters()], [torch.ones_like(t) for t in outputs]
    torch.autograd.grad(outputs, wanted, grads, allow_unused=True)
    print((status("VmHWM") - before) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="also time torch.compile")
    parser.add_argument("--memory", nargs=5, metavar="ARG", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        text, batch, channels, name, who = args.memory
        measure_memory(text, int(batch), int(channels), name, who)
        return
    keep_freed_memory()
    about = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.platform(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "nfn": "0.1.2"},
    }
    rows = []
    columns = (("ours ms", 9), ("nfn ms", 9), ("ratio", 7), ("floor", 8), ("x floor", 9), ("memory", 8))
    columns += (("compiled", 10), ("compile s", 11))
    print(f"{'case':<52}" + "".join(f"{name:>{width}}" for name, width in columns))
    for text, batch, channels in CASES:
        rate, best_rate = product_rates(NetworkSpec.parse(text), batch, channels)
        for name, builders in layers_of(text, channels).items():
            ours, theirs = (
                make_pass(build(), *inputs(text, batch, channels, mine))
                for build, mine in zip(builders, (True, False), strict=True)
            )
            work = multiply_adds(builders[0](), text, batch, channels)
            floor = work / rate
            ours_s, other_s = seconds([ours, theirs], args.repeats)
            memory = [peak_megabytes(text, batch, channels, name, who) for who in ("ours", "theirs")]
            row = {
                "case": f"{name}, {text}, B {batch} C {channels}",
                "ours_s": ours_s,
                "other": "nfn 0.1.2",
                "other_s": other_s,
                "ratio": other_s / ours_s,
                "floor_s": floor,
                "best_floor_s": work / best_rate,
                "ours_peak_mb": memory[0],
                "other_peak_mb": memory[1],
            }
            if args.compile and (text, batch, channels) in COMPILED:
                row |= compiled(builders[0](), *inputs(text, batch, channels, True), repeats=args.repeats)
            rows.append(row | about)
            print(
                f"{row['case']:<52}{ours_s * 1e3:>9.2f}{other_s * 1e3:>9.2f}{row['ratio']:>7.2f}{floor * 1e3:>8.2f}"
                f"{ours_s / floor if floor else float('nan'):>9.2f}{memory[0] / memory[1]:>8.2f}"
                + ("" if "compiled_s" not in row else f"{row['compiled_s'] * 1e3:>10.2f}{row['compile_s']:>11.1f}"),
                flush=True,
            )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


def compiled(layer: nn.Module, x: WeightSpaceFeatures, leaves: list[Tensor], repeats: int) -> dict[str, float]:
    """Seconds of a pass under torch.compile, and of the first pass, which compiles."""
    began = time.perf_counter()
    layer.compile()
    run = make_pass(layer, x, leaves)
    run()
    return {"compile_s": time.perf_counter() - began, "compiled_s": seconds([run], repeats)[0]}


if __name__ == "__main__":
    main()
