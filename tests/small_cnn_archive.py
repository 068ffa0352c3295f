"""Writes a small archive in the layout of the Small CNN Zoo whose accuracies can be told from the weights."""

import csv
import gzip
import math
from pathlib import Path

import numpy as np

LAYERS = [((3, 3, 1, 16), "conv2d"), ((3, 3, 16, 16), "conv2d_1"), ((3, 3, 16, 16), "conv2d_2"), ((16, 10), "dense")]


def write_archive(folder: Path, runs: int = 60, steps: tuple[int, ...] = (0, 86), seed: int = 0) -> Path:
    """Weights of run r at the last step have a spread that its accuracy grows with; every fifth run is at chance.

    Returns:
        The folder; beside it lies `<folder>_split.csv`, a permutation of all rows after the authors' header.
    """
    folder.mkdir(parents=True)
    lines, at = [], 0
    for shape, name in LAYERS:
        for variable, part in ((f"{name}/kernel:0", shape), (f"{name}/bias:0", shape[-1:])):
            lines.append([len(lines), variable, at, at := at + math.prod(part), str(part)])
    with (folder / "layout.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["", "varname", "start_idx", "end_idx", "shape"], *lines])
    rng = np.random.default_rng(seed)
    rows = [(run, step) for step in steps for run in range(runs)]  # the first is no final network
    level = rng.uniform(0, 1, runs)
    level[::5] = 0.0
    done = np.array([steps.index(step) + 1 for _, step in rows]) / len(steps)
    own = level[[run for run, _ in rows]] * done
    weights = rng.standard_normal((len(rows), at)) * (0.05 + 0.25 * own)[:, None]
    np.save(folder / "weights.npy", weights.astype(np.float32))
    accuracy = np.round(0.1 + 0.6 * own, 3)
    with gzip.open(folder / "metrics.csv.gz", "wt", newline="") as file:
        out = csv.writer(file)
        out.writerow(["config.activation", "config.dataset", "modeldir", "step", "test_accuracy"])
        for (run, step), value in zip(rows, accuracy.tolist(), strict=True):
            out.writerow(["relu" if run % 3 else "tanh", folder.name, f"/runs/{run}", step, value])
    order = rng.permutation(len(rows)).tolist()
    folder.with_name(f"{folder.name}_split.csv").write_text("".join(f"{n}\n" for n in [0, *order]))
    return folder
