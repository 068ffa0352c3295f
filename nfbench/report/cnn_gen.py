"""The picture of a `cnn_gen` run: predicted against true accuracy, and the residuals, group by group."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")


def draw(folder: Path) -> Path:
    """Draws `test.png` from `predictions.csv`, whose last column names the group of each network.

    Args:
        folder: a run folder.

    Returns:
        The path of the picture.
    """
    with (folder / "predictions.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    true, predicted = (np.array([float(row[name]) for row in rows]) for name in ("true", "predicted"))
    kind = list(rows[0])[-1]
    names = np.array([row[kind] for row in rows])
    groups = {name or "all": names == name for name in np.unique(names).tolist()}
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    _scatter(left, true, predicted, groups)
    _residuals(right, predicted - true, groups, kind)
    figure.suptitle(f"{len(true):,} test networks", fontsize=10)
    path = folder / "test.png"
    figure.savefig(path, dpi=130)
    return path


def _scatter(  # type: ignore[no-untyped-def]  # matplotlib has no types
    axes, true: NDArray[np.float64], predicted: NDArray[np.float64], groups: dict[str, NDArray[np.bool_]]
) -> None:
    size = float(np.clip(4000 / len(true), 2, 25))
    low, high = (float(bound(np.concatenate([true, predicted]))) for bound in (np.min, np.max))
    axes.plot([low, high], [low, high], color="0.6", linewidth=1, zorder=0)
    for color, (name, mask) in zip(COLORS * len(groups), groups.items(), strict=False):
        axes.scatter(true[mask], predicted[mask], s=size, alpha=0.5, color=color, linewidths=0, label=name)
    axes.set(xlabel="true test accuracy", ylabel="predicted test accuracy", aspect="equal")
    axes.legend(fontsize=9)


def _residuals(  # type: ignore[no-untyped-def]  # matplotlib has no types
    axes, residual: NDArray[np.float64], groups: dict[str, NDArray[np.bool_]], kind: str
) -> None:
    widest = max(float(np.abs(residual).max()), 1e-6)
    bins = np.linspace(-widest, widest, 61)
    for color, (name, mask) in zip(COLORS * len(groups), groups.items(), strict=False):
        part = residual[mask]
        label = f"{name}: {len(part):,}, mean {part.mean():+.3f}, mean size {np.abs(part).mean():.3f}"
        axes.hist(part, bins=bins, density=True, histtype="step", color=color, label=label)
    axes.axvline(0, color="0.6", linewidth=1, zorder=0)
    axes.set(xlabel="predicted - true", ylabel="density", yscale="log", title=f"residuals by {kind}")
    axes.legend(fontsize=9, loc="upper right")
