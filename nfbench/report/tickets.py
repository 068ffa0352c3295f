"""The pictures of a `tickets` run: accuracies by mask, density by layer, score against weight; accuracy by sparsity."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

ORDER = ("dense", "imp", "model", "magnitude_layer", "magnitude", "random_layer", "random", "snip", "grasp")
DATA_SOURCES = ("imp", "snip", "grasp")  # have seen training images
COLORS = {
    "dense": "0.5", "imp": "#222222", "model": "#ee6677", "magnitude_layer": "#4477aa", "magnitude": "#88aaff",
    "random_layer": "#66ccee", "random": "#ccbb44", "snip": "#228833", "grasp": "#aa3377",
}  # fmt: skip
LAYER_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377")


def label(source: str) -> str:
    """The name of a mask's source as a picture shows it."""
    return f"{source}*" if source in DATA_SOURCES else source


def draw(folder: Path) -> Path:
    """Draws `test.png` from `predictions.csv` and, where it is there, `samples.npz`.

    Args:
        folder: a run folder.

    Returns:
        The path of the picture.
    """
    with (folder / "predictions.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    found = [name for name in ORDER if any(row["source"] == name for row in rows)]
    accuracy = {name: np.array([float(r["accuracy"]) for r in rows if r["source"] == name]) for name in found}
    density = {
        name: np.array([list(map(float, r["density"].split(";"))) for r in rows if r["source"] == name]).mean(0)
        for name in found
        if name != "dense"
    }
    samples = folder / "samples.npz"
    figure = Figure(figsize=(14 if samples.exists() else 10, 4.4), layout="constrained")
    axes = figure.subplots(1, 3 if samples.exists() else 2)
    _accuracies(axes[0], accuracy)
    _densities(axes[1], density)
    if samples.exists():
        with np.load(samples) as file:
            _scores(axes[2], file["layer"], file["weight"], file["score"])
    figure.suptitle(f"{len(accuracy[found[0]])} held-out initialisations; * has seen training images", fontsize=10)
    path = folder / "test.png"
    figure.savefig(path, dpi=130)
    return path


def _accuracies(axes, accuracy: dict[str, NDArray[np.float64]]) -> None:  # type: ignore[no-untyped-def]  # no types
    jitter = np.random.default_rng(0)
    for place, (name, values) in enumerate(reversed(accuracy.items())):
        heights = place + 0.25 * (jitter.random(len(values)) - 0.5)
        axes.scatter(100 * values, heights, s=8, alpha=0.5, color=COLORS[name], linewidths=0)
        axes.plot([100 * values.mean()] * 2, [place - 0.3, place + 0.3], color=COLORS[name], linewidth=2)
        axes.annotate(f"{100 * values.mean():.1f}", (100 * values.mean(), place + 0.32), fontsize=8, ha="center")
    axes.set_yticks(range(len(accuracy)), [label(name) for name in reversed(accuracy)])
    axes.set(xlabel="test accuracy after training, %", title="networks trained under each mask")
    axes.margins(y=0.1)


def _densities(axes, density: dict[str, NDArray[np.float64]]) -> None:  # type: ignore[no-untyped-def]  # no types
    for name, shares in density.items():
        axes.plot(range(1, len(shares) + 1), 100 * shares, "o-", markersize=4, color=COLORS[name], label=label(name))
    layers = range(1, max(map(len, density.values())) + 1)
    axes.set(xlabel="layer", ylabel="weights kept, %", yscale="symlog", xticks=layers, title="density of masks")
    axes.legend(fontsize=8)


def _scores(  # type: ignore[no-untyped-def]  # matplotlib has no types
    axes, layer: NDArray[np.int64], weight: NDArray[np.float32], score: NDArray[np.float32]
) -> None:
    for number in np.unique(layer).tolist():
        mine, color = layer == number, LAYER_COLORS[number % len(LAYER_COLORS)]
        axes.scatter(weight[mine], score[mine], s=3, alpha=0.5, color=color, linewidths=0, label=f"layer {number + 1}")
    axes.locator_params(axis="x", nbins=5)
    axes.set(xlabel="weight at initialisation", ylabel="mask score (logit), latent zero", title="one network")
    axes.legend(fontsize=8, markerscale=3)


def draw_curve(path: Path, rows: Sequence[Mapping[str, float | str]], title: str) -> None:
    """Draws accuracy against sparsity, a line a source of masks.

    Args:
        path: of the picture.
        rows: with ``source``, ``sparsity``, ``acc`` and ``acc_std``, shares between 0 and 1.
        title: of the picture.
    """
    figure = Figure(figsize=(6.5, 4.6), layout="constrained")
    axes = figure.subplots()
    for name in [name for name in ORDER if any(row["source"] == name for row in rows)]:
        mine = sorted((float(r["sparsity"]), float(r["acc"]), float(r["acc_std"])) for r in rows if r["source"] == name)
        sparsity, mean, std = (100 * np.array(column) for column in zip(*mine, strict=True))
        axes.plot(sparsity, mean, "o-", markersize=4, color=COLORS[name], label=label(name))
        axes.fill_between(sparsity, mean - std, mean + std, color=COLORS[name], alpha=0.15, linewidth=0)
    axes.set(xlabel="sparsity, %", ylabel="test accuracy after training, %", title=title)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)
