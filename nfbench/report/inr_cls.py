"""The picture of an `inr_cls` run: a confusion matrix, and a row of test images as their networks render them."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

RIGHT, WRONG = "#1a7f37", "#c1121f"


def draw(folder: Path) -> Path:
    """Draws `test.png` from `predictions.csv` and, where there is one, `samples.npz`.

    Args:
        folder: a run folder.

    Returns:
        The path of the picture.
    """
    with (folder / "predictions.csv").open() as handle:
        rows = [tuple(int(value) for value in row) for row in list(csv.reader(handle))[1:]]
    table = np.array(rows, dtype=np.int64)  # (N, 4): image index, view, true class, predicted class
    samples = folder / "samples.npz"
    figure = Figure(figsize=(9, 7.2 if samples.exists() else 5.6), layout="constrained")
    if samples.exists():
        top, bottom = figure.subfigures(2, 1, height_ratios=[5, 1.7])  # type: ignore[misc]  # an array of two
        with np.load(samples) as found:
            _images(bottom, found["images"], found["index"], found["view"], table)
    else:
        top = figure.subfigures(1, 1)
    _confusion(top, table)
    path = folder / "test.png"
    figure.savefig(path, dpi=130)
    return path


def _confusion(figure, table: NDArray[np.int64]) -> None:  # type: ignore[no-untyped-def]  # matplotlib has no types
    true, predicted = table[:, 2], table[:, 3]
    classes = int(max(true.max(), predicted.max())) + 1
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (true, predicted), 1)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        dark = shares[row, column] > 0.5
        axes.text(column, row, counts[row, column], ha="center", va="center", color="w" if dark else "k", fontsize=9)
    axes.set(xticks=range(classes), yticks=range(classes), xlabel="predicted class", ylabel="true class")
    accuracy = (true == predicted).mean()
    axes.set_title(f"test accuracy {accuracy:.1%} on {len(table)} networks")
    figure.colorbar(image, ax=axes, label="share of the true class")


def _images(  # type: ignore[no-untyped-def]  # matplotlib has no types
    figure, images: NDArray[np.float32], index: NDArray[np.int64], view: NDArray[np.int64], table: NDArray[np.int64]
) -> None:
    known = {(int(i), int(v)): (int(t), int(p)) for i, v, t, p in table}
    figure.suptitle("test images as rendered from the weights the model saw", fontsize=10)
    for axes, picture, item, seen in zip(
        np.atleast_1d(figure.subplots(1, len(images))), images, index, view, strict=True
    ):
        true, predicted = known[int(item), int(seen)]
        axes.imshow(np.clip(picture.squeeze(), 0, 1), cmap="gray", vmin=0, vmax=1)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"true {true}\npred. {predicted}", fontsize=9, color=RIGHT if true == predicted else WRONG)
