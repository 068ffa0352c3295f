"""How fast a zoo is read: an epoch over 55,000 INRs 2-32-32-1 from the store, against one `torch.load` a network.

Ours is the DataModule's own loader: whole batches of 32 cut out of one tensor, in the order of an epoch, as networks
with labels. Theirs is the layout and the loading of the published zoos: a `.pth` file a network, a Dataset that loads
one file an item with `torch.load(weights_only=True)`, and a DataLoader with batches of 32, shuffled, with 0 and with 2
worker processes, whichever is faster. The weights are random numbers: reading does not depend on them. Everything was
written just before, so that both sides read from the system's cache of files, not from a disk. With fewer `--files`
than 55,000 their time is scaled up. The floor is one copy of the same bytes in memory. Freed memory is kept for the
next use, as in a training run of nfbench. Medians of several rounds, after one that warms up, in which the competitors
take turns. Takes about two and a half minutes. Motions of images are work that the other side does not do.

    python benchmarks/reading.py [--rounds 1] [--files 55000] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nfbench.allocator import keep_freed_memory
from nfbench.zoos import SirenZoo
from nfbench.zoos.store import PartialZoo, ZooData, read_zoo

RESULTS = Path(__file__).parent / "results" / "reading.json"
NETWORKS, BATCH, CHUNK = 55_000, 32, 2048
MOTIONS = {"augment_rotation": 0.2, "augment_scale": 0.1, "augment_shift": 0.1}
Item = tuple[list[Tensor], list[Tensor], int]


def make_zoo(folder: Path, **options: Any) -> SirenZoo:
    """MNIST in the split with 55,000 training images, a network an image; the images themselves are not needed."""
    return SirenZoo(source="mnist", definition="dws", split="dws", zoo_dir=str(folder), batch_size=BATCH, **options)


def write_store(zoo: SirenZoo) -> None:
    """All 70,000 networks (training, validation, test), written as a build writes them."""
    random = np.random.default_rng(0)
    index, view = zoo.plan.networks()
    zoo.path.parent.mkdir(parents=True, exist_ok=True)
    partial = PartialZoo(zoo.path, zoo.plan.manifest(), len(index), CHUNK)
    for number, first in enumerate(range(0, len(index), CHUNK)):
        rows = slice(first, min(first + CHUNK, len(index)))
        count = rows.stop - first
        params = random.normal(size=(count, zoo.spec.num_params)).astype(np.float32)
        columns = {"params": params, "label": index[rows] % 10, "index": index[rows], "view": view[rows],
                   "psnr": np.full(count, 30.0), "steps": np.full(count, 1000)}  # fmt: skip
        partial.write(number, columns)
    partial.assemble({"origin": "random numbers"})


def write_files(zoo: SirenZoo, data: ZooData, count: int, folder: Path) -> list[tuple[Path, int]]:
    """The published layout: ``randinit_smaller_<label>s/net<index>.pth``, each a state dict."""
    shapes = [shape for layer in zoo.spec.layers for shape in ((layer.out_size, layer.in_size), (layer.out_size,))]
    names = [f"net.{k}.{'linear.' if k < 2 else ''}{kind}" for k in range(3) for kind in ("weight", "bias")]
    sizes = [int(np.prod(shape)) for shape in shapes]
    files = []
    for flat, label, index in zip(data.params[:count], data.label.tolist(), data.index.tolist(), strict=False):
        path = folder / f"randinit_smaller_{label}s" / f"net{index}.pth"
        path.parent.mkdir(exist_ok=True)
        parts = torch.from_numpy(flat.copy()).split(sizes)
        torch.save({n: p.reshape(s).clone() for n, p, s in zip(names, parts, shapes, strict=True)}, path)
        files.append((path, label))
    return files


class FileZoo(Dataset[Item]):
    """One `torch.load` an item."""

    def __init__(self, files: list[tuple[Path, int]]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Item:
        path, label = self.files[row]
        state = torch.load(path, weights_only=True)
        weights = [value for name, value in state.items() if name.endswith("weight")]
        biases = [value for name, value in state.items() if name.endswith("bias")]
        return weights, biases, label


def seconds(run: Callable[[], int], networks: int) -> float:
    start = time.perf_counter()
    seen = run()
    taken = time.perf_counter() - start
    assert seen == networks, f"{seen} networks were read, not {networks}"
    return taken


def read_ours(zoo: SirenZoo) -> int:
    return sum(batch.features.batch_size for batch in zoo.train_dataloader())


def open_and_read(folder: Path) -> int:
    zoo = make_zoo(folder)
    zoo.prepare_data()
    zoo.setup("fit")
    return read_ours(zoo)


def read_theirs(files: list[tuple[Path, int]], workers: int) -> int:
    loader = DataLoader(FileZoo(files), batch_size=BATCH, shuffle=True, num_workers=workers)
    return sum(len(label) for _, _, label in loader)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="rounds; the median counts (default 1)")
    parser.add_argument("--files", type=int, default=NETWORKS, help=f".pth files to write (default {NETWORKS})")
    parser.add_argument("--folder", type=Path, help="where the files are written (default: the system's for such)")
    arguments = parser.parse_args()
    if not 1 <= arguments.files <= NETWORKS:
        parser.error(f"--files {arguments.files} must be between 1 and {NETWORKS}")
    keep_freed_memory()
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        zoo, moving = make_zoo(folder), make_zoo(folder, **MOTIONS)
        write_store(zoo)
        data = read_zoo(zoo.path, zoo.plan.manifest())
        files = write_files(zoo, data, arguments.files, folder)
        for each in (zoo, moving):
            each.prepare_data()
            each.setup("fit")
        source = data.params[:NETWORKS]
        target = np.empty_like(source)
        ours = {
            "opening the file and the first epoch": lambda: seconds(lambda: open_and_read(folder), NETWORKS),
            "an epoch": lambda: seconds(lambda: read_ours(zoo), NETWORKS),
            "an epoch, exact motions of the images": lambda: seconds(lambda: read_ours(moving), NETWORKS),
        }
        scale = NETWORKS / len(files)
        theirs = {
            workers: lambda workers=workers: scale * seconds(lambda: read_theirs(files, workers), len(files))
            for workers in (0, 2)
        }
        floor = {"floor": lambda: seconds(lambda: np.copyto(target, source) or len(target), NETWORKS)}
        samples: dict[Any, list[float]] = {}
        for number in range(arguments.rounds + 1):  # the first round warms up
            for key, run in {**ours, **theirs, **floor}.items():
                taken = run()
                if number:
                    samples.setdefault(key, []).append(taken)
    medians = {key: statistics.median(times) for key, times in samples.items()}
    workers = min(theirs, key=lambda key: medians[key])
    scaled = f" ({len(files)} files, time x{scale:g})" if len(files) < NETWORKS else ""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    versions |= {"h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version}
    for case in ours:
        rows.append(
            {
                "case": f"{NETWORKS} networks 2-32-32-1, {case}",
                "ours_s": medians[case],
                "other": f"torch.load a network, {workers} workers{scaled}",
                "other_s": medians[workers],
                "ratio": medians[workers] / medians[case],
                "floor_s": medians["floor"],
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "versions": versions,
            }
        )
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}; batches of {BATCH}; "
          f"torch.load with 0 workers {medians[0]:.1f} s, with 2 {medians[2]:.1f} s")  # fmt: skip
    print(f"{'case':<68} {'ours s':>8} {'floor s':>8}  {'other':<55} {'s':>6} {'ratio':>6}")
    for row in rows:
        print(f"{row['case']:<68} {row['ours_s']:>8.3f} {row['floor_s']:>8.3f}  {row['other']:<55} "
              f"{row['other_s']:>6.1f} {row['ratio']:>5.0f}x")  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
