"""Seconds of one training step of Inr2Array, beside the authors' composition of their layers (PyPI `nfn` 0.1.2).

    python benchmarks/inr2array.py             # prints a table, writes benchmarks/results/inr2array.json
    python benchmarks/inr2array.py --batch 8   # a small batch alone; the published one is 64

A step draws the networks, encodes, decodes, draws again, and does loss, gradients and AdamW; published sizes (encoder
21,200,640 parameters, decoder 1,094,049 for MNIST), float32, both in turns in one process, median. Theirs is the public
training code in shape and order: their layers for Fourier features, embeddings, norms, attention and pointwise maps, a
Perceiver's cross-attention, hypernetworks, and a SIREN evaluated pixel by pixel with the weights of its cell under
`vmap`. It is written anew here, since their package does not contain these parts. The floor is the multiply-adds of our
step at the rate that `torch.mm` reaches on the largest product.
"""

import argparse
import itertools
import json
import math
import os
import platform
from collections.abc import Callable
from pathlib import Path

import nfn.common
import nfn.layers
import torch
import torch.nn.functional as F
from layers import TheirBlock, seconds
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nfbench.allocator import keep_freed_memory
from nfbench.models.decoder import SirenDecoder
from nfbench.models.inr2array import LatentAutoencoder, ModelEncoder
from nfbench.models.nft import NFT
from nfbench.weightspace import CellRenderer, NetworkSpec, random_features, render

# name, networks, side of the image, cells, decoder, additive
CASES = [
    ("MNIST", "2-32-32-1:sine", 28, 16, "sitzmann", False),
    ("MNIST 8x8", "2-32-32-1:sine", 28, 64, "sitzmann", False),
    ("CIFAR-10", "2-32-32-3:sine", 32, 16, "simple", True),
]
RESULTS = Path(__file__).parent / "results" / "inr2array.json"


class TheirPool(nn.Module):
    """One cross-attention of learned latents to all weights, as a Perceiver has it, and its feed-forward part."""

    def __init__(self, spec: nfn.common.NetworkSpec, channels: int, latents: int) -> None:
        super().__init__()
        self.flatten = nfn.layers.FlattenWeights(spec)
        self.latents = nn.Parameter(torch.randn(latents, channels))
        self.norm, self.norm_context, self.norm_ff = (nn.LayerNorm(channels) for _ in range(3))
        self.to_q, self.to_kv = (nn.Linear(channels, n * channels, bias=False) for n in (1, 2))
        self.to_out, self.expand = nn.Linear(channels, channels), nn.Linear(channels, 8 * channels)
        self.contract = nn.Linear(4 * channels, channels)

    def forward(self, x: nfn.common.WeightSpaceFeatures) -> Tensor:
        tokens, z = self.flatten(x), self.latents.expand(len(x.weights[0]), -1, -1)
        q, (k, v) = self.to_q(self.norm(z)), self.to_kv(self.norm_context(tokens)).chunk(2, -1)
        scores = torch.einsum("bmc,btc->bmt", q, k) / math.sqrt(q.shape[-1])
        z = z + self.to_out(torch.einsum("bmt,btc->bmc", scores.softmax(-1), v))
        a, b = self.expand(self.norm_ff(z)).chunk(2, -1)
        return z + self.contract(a * F.gelu(b))


def siren(params: list[Tensor], coords: Tensor) -> Tensor:
    """A SIREN of frequency 30 at points (P, 2), from weight, bias, ..."""
    for i in range(0, len(params), 2):
        coords = F.linear(coords, params[i], params[i + 1])
        coords = torch.sin(30 * coords) if i < len(params) - 2 else coords
    return coords


class Theirs(nn.Module):
    """Their autoencoder: networks (B, C = 1) -> the pixels (B, P, O) that the decoded SIRENs draw."""

    def __init__(self, text: str, coords: Tensor, cells: int, decoder: str, additive: bool) -> None:
        super().__init__()
        self.shapes = NetworkSpec.parse(text).parameter_shapes()
        array, layers = nfn.common.data.ArraySpec, nfn.layers
        spec = nfn.common.NetworkSpec([array(s) for s in self.shapes[::2]], [array(s) for s in self.shapes[1::2]])
        self.encoder = nn.Sequential(
            layers.GaussianFourierFeatureTransform(spec, 1, mapping_size=128, scale=3),
            layers.LearnedPosEmbedding(spec, 256),
            *(TheirBlock(spec, 256, 4, True) for _ in range(6)),
            TheirPool(spec, 256, cells),
        )
        self.sizes = [math.prod(shape) for shape in self.shapes]
        outputs = self.sizes if decoder == "sitzmann" else [sum(self.sizes)]
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, size))
            for size in outputs
        )
        self.base = nn.ParameterList([torch.randn(s) / 10 for s in self.shapes] if additive else [])
        self.scales = nn.ParameterList([torch.tensor(0.1) for _ in self.shapes] if additive else [])
        side = math.isqrt(cells)
        index = ((side - 1) * (coords + 1) / 2).round().long()
        self.cell, self.coords = index[:, 0] * side + index[:, 1], coords

    def forward(self, x: nfn.common.WeightSpaceFeatures) -> Tensor:
        z_BMC = self.encoder(x)
        flat = torch.cat([net(z_BMC.flatten(0, 1)) for net in self.decoder], -1).unflatten(0, z_BMC.shape[:2])
        params = [t.unflatten(-1, s) for t, s in zip(flat.split(self.sizes, -1), self.shapes, strict=True)]
        if len(self.base):
            params = [p * scale + base for p, base, scale in zip(params, self.base, self.scales, strict=True)]

        def draw(each: list[Tensor]) -> Tensor:
            at = [p[self.cell] for p in each]  # the weights of its cell for each pixel
            return torch.func.vmap(lambda p, coord: siren(p, coord[None])[0])(at, self.coords)

        return torch.func.vmap(draw)(params)


def make_steps(
    case: tuple[str, str, int, int, str, bool], batch: int
) -> tuple[list[Callable[[], float]], nn.Module, nn.Module]:
    """One training step of ours and of theirs, and the two models."""
    _, text, pixels, cells, decoder, additive = case
    spec = NetworkSpec.parse(text)
    x = random_features(spec, batch, 1, torch.Generator().manual_seed(0)).map(lambda t: t / 10)
    coords = torch.cartesian_prod(*2 * [torch.linspace(-1, 1, pixels)])
    torch.manual_seed(0)
    nft = NFT(spec, 1, width=256, num_blocks=6, num_heads=4, ff_factor=4, fourier_scale=3.0)
    ours = LatentAutoencoder(ModelEncoder(spec, nft, cells), SirenDecoder(spec, kind=decoder, additive=additive))
    renderer = CellRenderer(coords, math.isqrt(cells))
    theirs = Theirs(text, coords, cells, decoder, additive)
    weights = [w[..., 0, 0].unsqueeze(1).contiguous() for w in x.weights]  # (B, 1, R, S)
    their_x = nfn.common.WeightSpaceFeatures(weights, [b.transpose(1, 2).contiguous() for b in x.biases])
    their_flat = [t for w, b in zip(their_x.weights, their_x.biases, strict=True) for t in (w[:, 0], b[:, 0])]
    return (
        [
            _step(ours, lambda: renderer(ours(x)), lambda: render(x, coords)),
            _step(theirs, lambda: theirs(their_x), lambda: torch.func.vmap(lambda p: siren(p, coords))(their_flat)),
        ],
        ours,
        theirs,
    )


def _step(model: nn.Module, draw: Callable[[], Tensor], target: Callable[[], Tensor]) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)

    def run() -> float:
        with torch.no_grad():
            wanted = target()
        loss = F.mse_loss(draw(), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 64], help="networks a step; published: 64")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", type=int, default=len(CASES), help="how many of the cases")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    keep_freed_memory()
    about = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.platform(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "nfn": "0.1.2"},
    }
    rows = []
    print(f"{'case':<58}{'ours s':>9}{'nfn s':>9}{'ratio':>7}{'floor s':>9}")
    for case, batch in itertools.product(CASES[: args.cases], args.batch):
        name, text, pixels, cells, decoder, additive = case
        steps, ours, theirs = make_steps(case, batch)
        assert count(ours) == count(theirs), "the same sizes"
        with FlopCounterMode(display=False) as counter:
            steps[0]()
        a, b = torch.randn(batch * 1024, 256), torch.randn(256, 1024)
        rate = a.shape[0] * 256 * 1024 / seconds([lambda a=a, b=b: torch.mm(a, b)], 20)[0]
        floor = counter.get_total_flops() / 2 / rate
        ours_s, other_s = seconds(steps, args.repeats)
        label = f"{name}, {text}, {pixels} px, {cells} cells, {decoder}{' additive' * additive}, B {batch}"
        rows.append(
            {
                "case": label,
                "ours_s": ours_s,
                "other": "composition of nfn 0.1.2",
                "other_s": other_s,
                "ratio": other_s / ours_s,
                "floor_s": floor,
                "params": count(ours),
            }
            | about
        )
        print(f"{label:<58}{ours_s:>9.3f}{other_s:>9.3f}{other_s / ours_s:>7.2f}{floor:>9.3f}", flush=True)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
