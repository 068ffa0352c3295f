"""The pictures of an `inr_edit` run: some test networks before and after, the errors of all, and an animation."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

ROWS = ("original", "target", "edited", "difference")
ZOOM, FRAME_MS, LAST_MS = 4, 150, 2000  # of the animation: screen pixels a pixel, milliseconds a frame, of the last


def draw(folder: Path) -> Path:
    """Draws `test.png`, and `edit.gif` where there are frames, from `predictions.csv` and `samples.npz`.

    Args:
        folder: a run folder.

    Returns:
        The path of `test.png`.
    """
    with (folder / "predictions.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    identity, edited = (np.array([float(row[name]) for row in rows]) for name in ("identity", "edited"))
    figure = Figure(figsize=(12, 8.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[2.2, 1])  # type: ignore[misc]  # an array of two
    with np.load(folder / "samples.npz") as found:
        _grid(top, found["images"], found["target"], found["edited"])
        frames = found.get("frames")
    _errors(bottom, identity, edited)
    path = folder / "test.png"
    figure.savefig(path, dpi=110)
    if frames is not None:
        _animate(folder / "edit.gif", frames)
    return path


def _grid(  # type: ignore[no-untyped-def]  # matplotlib has no types
    figure, original: NDArray[np.float32], target: NDArray[np.float32], edited: NDArray[np.float32]
) -> None:
    figure.suptitle("test networks as they draw, the edited image, what the edited network draws, and what is left")
    edited = edited.clip(0, 1)
    shown = (original.clip(0, 1), target, edited, np.abs(edited - target))
    grid = figure.subplots(len(ROWS), len(original), squeeze=False)
    for name, images, line in zip(ROWS, shown, grid, strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)


def _errors(figure, identity: NDArray[np.float64], edited: NDArray[np.float64]) -> None:  # type: ignore[no-untyped-def]
    axes = figure.subplots()
    positive = np.concatenate([identity, edited]).clip(1e-8)
    bins = np.geomspace(positive.min() * 0.99, positive.max() * 1.01, 80)
    for values, name, color in ((identity, "as they came", "0.6"), (edited, "edited", "#4477aa")):
        label = f"{name}: mean {values.mean():.4f}"
        axes.hist(values.clip(1e-8), bins=bins, color=color, alpha=0.7, label=label)
    axes.set(xscale="log", xlabel="mean squared error of a network's picture, pixels in [-1, 1]", ylabel="networks")
    axes.legend(title=f"{len(edited):,} test networks")


def _animate(path: Path, frames: NDArray[np.uint8]) -> None:
    """Epoch by epoch: networks as they came on top, edited in the middle, targets below."""
    large = frames.repeat(ZOOM, axis=1).repeat(ZOOM, axis=2)
    images = [Image.fromarray(frame.squeeze(-1) if frame.shape[-1] == 1 else frame) for frame in large]
    times = [FRAME_MS] * (len(images) - 1) + [LAST_MS]
    images[0].save(path, save_all=True, append_images=images[1:], duration=times, loop=0)
