"""The Small CNN Zoo: four times 30,000 small CNNs with their test accuracies, at nine steps of training.

Unterthiner et al., Predicting Neural Network Accuracy from Weights, arXiv 2002.11448 (google-research,
dnn_predict_accuracy); CC BY 4.0. ``cifar10.tar.xz`` and the others unpack to a folder with

    weights.npy      (rows, 4970), a network a row; 5 GB, so it is memory-mapped and never read as a whole
    metrics.csv.gz   a line a row: step, test_accuracy, ..., the run's config.*, and modeldir, which names the run
    layout.csv       varname, start_idx, end_idx, shape: where in a row each tensor is, in TensorFlow's order

TensorFlow keeps a convolution as (height, width, in, out) and a dense kernel as (in, out); rows are put in torch's
order. ``index`` is the run, counted as the runs appear; ``view`` the rank of the row's step among the steps that are
kept. ``row`` says which line of the files it was. All metrics become columns; there are no classes, so label is -1.

``split_csv`` is the authors' order of all rows from NFN's repository (predict_gen_data_splits/): the final networks in
this order, the second half for testing, of the first half 80 % for training after a fixed shuffle. It was written with
a header that is read as row 0 there, so row 0 comes twice; here the header is left out. That makes the same split as
theirs unless row 0 is a final network.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import os
import random
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.importers.common import check_file, digest, file_sha256
from nfbench.zoos.importers.run import Block, Layout
from nfbench.zoos.store import STRING_BYTES

FINAL_STEP = 86
MOST_A_LINE = 4096  # bytes of metrics.csv: far more than its columns of numbers need
FILES = ("weights.npy", "metrics.csv.gz", "layout.csv")


class SmallCnnLayout(Layout):
    """One data set of the Small CNN Zoo.

    Args:
        path: the unpacked folder.
        step: only networks of this step of training; None: all.
        activation: only runs with this ``config.activation``; None: all. The zoo mixes relu and tanh, a spec has one:
            of a mixture it says relu, and the column ``config.activation`` has each network's own.
        split_csv: the authors' order of the rows; None: no column ``split``.

    Raises:
        ValueError: a file that is absent, damaged or doesn't fit the others; nothing left of the rows.
    """

    def __init__(
        self, path: Path, step: int | None = FINAL_STEP, activation: str | None = None, split_csv: Path | None = None
    ) -> None:
        self.path, self.split_csv = path, split_csv
        there = [check_file(path, path / name).name for name in FILES if os.path.lexists(path / name)]
        missing = [name for name in FILES if name not in there]
        if missing:
            raise ValueError(
                f"{path} has no {', '.join(missing)}: give the folder that the archive unpacks to "
                "(tar -xf cifar10.tar.xz), since weights.npy can only be memory-mapped outside it."
            )
        self.weights = _map(path / "weights.npy")
        metrics = read_metrics(path / "metrics.csv.gz", len(self.weights))
        kept = np.arange(len(self.weights))
        if step is not None:
            kept = kept[metrics["step"] == step]
        activations = metrics.get("config.activation", np.full(len(self.weights), "relu"))
        if activation is not None:
            kept = kept[activations[kept] == activation]
        if not len(kept):
            raise ValueError(
                f"{path}: no network has step {step} and activation {activation}. There are steps "
                f"{np.unique(metrics['step']).tolist()} and activations {np.unique(activations).tolist()}."
            )
        own = np.unique(activations[kept]).tolist()
        self.spec, self.take = read_layout(
            path / "layout.csv", self.weights.shape[1], own[0] if len(own) == 1 else "relu"
        )
        runs = np.unique(metrics.pop("modeldir", np.arange(len(self.weights))), return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(runs[1]))  # of each run, by its first row
        index, (steps, view) = rank[runs[2]], np.unique(metrics["step"][kept], return_inverse=True)
        order = np.lexsort((view, index[kept]))
        self.rows = kept[order]
        self.index, self.view = index[self.rows].astype(np.int64), view[order].astype(np.int64)
        short = {name: values for name, values in metrics.items() if values.dtype.itemsize <= 4 * STRING_BYTES}
        self.extra = {**{name: values[self.rows] for name, values in short.items()}, "row": self.rows}
        if split_csv is not None:
            self.extra["split"] = authors_split(split_csv, metrics["step"] == FINAL_STEP)[self.rows]
        self.manifest = {
            "layout": "small_cnn",
            "source": str(metrics["config.dataset"][0]) if "config.dataset" in metrics else path.name,
            "steps": steps.tolist(),
            "activations": own,
            "authors_split": split_csv is not None,
        }

    def identity(self) -> dict[str, Any]:
        files = [self.path / name for name in FILES] + ([self.split_csv] if self.split_csv else [])
        self.sums = [f"{file_sha256(file)}  {file.name}" for file in files]
        return {"folder": self.path.name, "files": len(files), "sha256": digest(self.sums)}

    def blocks(self, rows: int, skip: int) -> Iterator[Block]:
        for start in range(skip * rows, len(self.rows), rows):
            part = slice(start, start + rows)
            params = self.weights[self.rows[part]][:, self.take].astype(np.float32)
            finite = np.isfinite(params).all(axis=1)
            bad = self.rows[part][~finite].tolist()
            columns = {**self.extra, "index": self.index, "view": self.view, "label": np.full(len(self.rows), -1)}
            yield Block(
                {"params": params[finite], **{name: values[part][finite] for name, values in columns.items()}},
                [f"weights.npy, row {row}: has weights that are NaN or infinite" for row in bad],
            )


def read_metrics(path: Path, rows: int) -> dict[str, NDArray[Any]]:
    """The columns of the metrics: int64 or float32 where all values are numbers (empty: NaN), else text.

    Raises:
        ValueError: damaged, another number of lines than the weights have rows, or no column ``step``.
    """
    most = MOST_A_LINE * (rows + 1)
    try:
        with gzip.open(path) as file:  # a few KB can unpack to more than any memory
            content = file.read(most + 1)
        if len(content) > most:
            raise ValueError(f"more than {MOST_A_LINE} bytes for each of {rows} lines")
        reader = csv.reader(io.StringIO(content.decode(), newline=""))
        names = next(reader)
        lines = [line for line in reader if line]
    except (OSError, EOFError, zlib.error, ValueError, csv.Error, StopIteration) as error:
        raise ValueError(f"{path} is damaged or not a gzipped CSV ({error!r}).") from error
    if len(lines) != rows or any(len(line) != len(names) for line in lines) or "step" not in names:
        raise ValueError(
            f"{path} has {len(lines)} lines of {', '.join(names)}; needed: {rows}, as many as weights.npy has rows, "
            "all of one length, with a column step."
        )
    columns = zip(*lines, strict=True) if lines else ([] for _ in names)
    table = {name: _parse(values) for name, values in zip(names, columns, strict=True) if name.strip()}
    if table["step"].dtype.kind not in "if" or not (table["step"] % 1 == 0).all():
        raise ValueError(f"{path}: the column step has values that are not whole numbers.")
    return table | {"step": table["step"].astype(np.int64)}


def _parse(values: Any) -> NDArray[Any]:
    for kind in (np.int64, np.float32):
        try:
            return np.array([value or "nan" for value in values], dtype=np.str_).astype(kind)
        except ValueError:
            continue
    return np.array(values, dtype=np.str_)


def read_layout(path: Path, width: int, activation: str) -> tuple[NetworkSpec, NDArray[np.int64]]:
    """The spec that ``layout.csv`` describes, and where in a row of the file each number in torch's order is.

    Raises:
        ValueError: tensors that are no chain of convolutions and dense layers, or don't fill the row.
    """
    kernels: list[NDArray[np.int64]] = []
    biases: list[NDArray[np.int64]] = []
    total = 0
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                shape = ast.literal_eval(line["shape"])
                shape = tuple(int(n) for n in (shape if isinstance(shape, tuple | list) else (shape,)))
                start, end = int(line["start_idx"]), int(line["end_idx"])
                total += end - start
                if not 0 <= start <= end <= width or total > width:
                    raise ValueError(f"its variables don't fit a row of {width} numbers")
                at = np.arange(start, end).reshape(shape)
                if line["varname"].endswith("kernel:0"):
                    kernels.append(at.transpose({4: (3, 2, 0, 1), 2: (1, 0)}[at.ndim]))
                elif line["varname"].endswith("bias:0"):
                    biases.append(at)
                else:
                    raise ValueError(f"the variable {line['varname']!r} is neither a kernel nor a bias")
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"{path} doesn't describe a network: {error!r}.") from error
    sizes = [str(kernels[0].shape[1])] if kernels else []
    sizes += [f"{k.shape[0]}c{k.shape[2]}x{k.shape[3]}" if k.ndim == 4 else f"{k.shape[0]}" for k in kernels]
    places = [part.ravel() for pair in zip(kernels, biases, strict=False) for part in pair]
    take = np.concatenate([np.empty(0, np.int64), *places])
    fits = len(kernels) == len(biases) and all(b.shape == k.shape[:1] for k, b in zip(kernels, biases, strict=True))
    fits = fits and all(b.shape[0] == a.shape[1] for b, a in pairwise(kernels))
    if not fits or not np.array_equal(np.sort(take), np.arange(width)):
        raise ValueError(f"{path} doesn't describe a chain of layers that fill the {width} columns of weights.npy.")
    return NetworkSpec.parse(f"{'-'.join(sizes)}:{activation}"), take


def authors_split(path: Path, final: NDArray[np.bool_]) -> NDArray[np.str_]:
    """train, val, test or none for every row of the zoo, as NFN's code splits the final networks.

    Args:
        path: one row number a line, a permutation of all rows, perhaps after the header "0".
        final: (rows,) which rows are final networks.

    Raises:
        ValueError: not such a permutation.
    """
    try:
        order = np.array([int(line) for line in path.read_text().split()])
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a file of row numbers ({error}).") from error
    if len(order) == len(final) + 1 and order[0] == 0:
        order = order[1:]
    if not np.array_equal(np.sort(order), np.arange(len(final))):
        raise ValueError(
            f"{path} is not a permutation of the {len(final)} rows of this zoo (with or without a header): it has "
            f"{len(order)} lines. Is it the split of another data set?"
        )
    order = order[final[order]]
    half = int(0.5 * len(order))
    first = list(range(half))
    random.Random(0).shuffle(first)
    split = np.full(len(final), "none", dtype="U5")
    split[order[half:]] = "test"
    split[order[first[: int(0.8 * half)]]] = "train"
    split[order[first[int(0.8 * half) :]]] = "val"
    return split


def _map(path: Path) -> Any:
    try:
        weights = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged, cut off or not an array of numbers ({error}).") from error
    if weights.ndim != 2 or weights.dtype.kind != "f":
        raise ValueError(f"{path} has {weights.dtype} of shape {weights.shape}; needed: floats (rows, parameters).")
    return weights
