"""The picture of an `inr2array` run: reconstructions under originals, neighbours by latents, a map of latents."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def draw(folder: Path) -> Path:
    """Draws `test.png` from `pictures.npz` and `predictions.csv`.

    Args:
        folder: a run folder.

    Returns:
        The path of the picture.
    """
    with (folder / "predictions.csv").open() as handle:
        psnr = [float(row["psnr"]) for row in csv.DictReader(handle)]
    with np.load(folder / "pictures.npz") as found:
        data = {name: found[name] for name in found.files}
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.15])  # type: ignore[misc]  # an array of two
    top, bottom = left.subfigures(2, 1, height_ratios=[1, 1.9])
    top.suptitle(f"test networks and their reconstructions, mean PSNR {np.mean(psnr):.1f} dB", fontsize=10)
    _rows(top, [data["original"], data["decoded"]])
    bottom.suptitle("test networks, and below each its neighbours by latent distance (class)", fontsize=10)
    near = data["neighbours"].swapaxes(0, 1)  # (K, S, H, W, channels)
    _rows(bottom, [data["original"], *near], [data["true"], *data["neighbours_true"].T])
    _map(right, data["components"], data["label"])
    path = folder / "test.png"
    figure.savefig(path, dpi=130)
    return path


def _rows(  # type: ignore[no-untyped-def]  # matplotlib has no types
    figure, rows: list[Floats], classes: list[NDArray[np.int64]] | None = None
) -> None:
    """Rows of images (S, H, W, channels), with classes (S,) above each; a class that differs from the first is red."""
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            axes[i, j].imshow(np.clip(picture.squeeze(), 0, 1), cmap="gray", vmin=0, vmax=1)
            axes[i, j].set(xticks=[], yticks=[])
            if classes is not None:
                color = "k" if classes[i][j] == classes[0][j] else "#c1121f"
                axes[i, j].set_title(str(classes[i][j]), fontsize=7, color=color, pad=1)


def _map(figure, components: Floats, label: NDArray[np.int64]) -> None:  # type: ignore[no-untyped-def]
    points, name = _two_dimensions(components)
    axes = figure.subplots()
    size = float(np.clip(4000 / len(points), 4, 25))
    for each in np.unique(label).tolist():
        chosen = points[label == each]
        axes.scatter(*chosen.T, s=size, color=f"C{each % 10}", alpha=0.7, linewidths=0, label=str(each))
    axes.set(xticks=[], yticks=[], title=f"latents of {len(points):,} test networks, {name}")
    axes.legend(title="class", fontsize=8, markerscale=1.5)


def _two_dimensions(components: Floats) -> tuple[Floats, str]:
    """Two coordinates of each latent array and how they came about: UMAP where it is installed, else PCA."""
    try:
        from umap import UMAP
    except ImportError:
        flat = components if components.shape[1] > 1 else np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
        return flat[:, :2], "first two principal components"
    neighbours = min(15, len(components) - 1)
    made = UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1).fit_transform(components)
    return np.asarray(made), f"UMAP of {components.shape[1]} principal components"
