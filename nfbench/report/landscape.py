"""Pictures of the loss around a network's weights, and of its sharpness along a training run."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Values = NDArray[np.floating]
LEVELS = 18


def draw_landscape(path: Path, title: str, at: Values, lines: Values, surface: Values, loss_name: str) -> None:
    """Curves along single directions beside contours over two directions; log-spaced levels.

    Args:
        path: the PNG to write.
        title: on top.
        at: (G,) distances, in units of the directions.
        lines: (directions, G) losses along each direction.
        surface: (G, G) losses, the first direction along rows and the second along columns.
        loss_name: of the axis.
    """
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    left, right = figure.subplots(1, 2)
    for number, line in enumerate(lines):
        left.plot(at, np.where(np.isfinite(line), line, np.nan), linewidth=1.3, label=f"direction {number + 1}")
    left.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    left.set(xlabel="distance", ylabel=loss_name)
    if np.nanmin(lines) > 0 and np.nanmax(lines) > 30 * np.nanmin(lines):
        left.set_yscale("log")
    left.legend(fontsize=8)
    drawn = np.ma.masked_invalid(surface)
    low, high = float(drawn.min()), float(drawn.max())
    if high > low:
        spaced = np.geomspace if low > 0 and high > 1.2 * low else np.linspace
        levels = spaced(low, high, LEVELS)
        filled = right.contourf(at, at, drawn.T, levels=levels, cmap="viridis", norm=_norm(low, high))
        right.contour(at, at, drawn.T, levels=levels, colors="w", linewidths=0.5)
        ticks = levels[:: max(LEVELS // 6, 1)]
        bar = figure.colorbar(filled, ax=right, label=loss_name, ticks=ticks)
        bar.ax.minorticks_off()
        bar.ax.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    right.plot(0, 0, "r+", markersize=9)
    right.set(xlabel="direction 1", ylabel="direction 2", aspect="equal")
    figure.savefig(path, dpi=130)


def _norm(low: float, high: float):  # type: ignore[no-untyped-def]  # matplotlib has no types
    from matplotlib.colors import LogNorm, Normalize

    return LogNorm(low, high) if low > 0 and high > 1.2 * low else Normalize(low, high)


def draw_along(path: Path, title: str, step_name: str, columns: dict[str, Values]) -> None:
    """Largest eigenvalue with the line 2 / learning rate, Jacobian norm, and loss, against the step of training.

    Args:
        path: the PNG to write.
        title: on top.
        step_name: what a step is.
        columns: each (checkpoints,): step, hessian_top, jacobian_spectral, loss, learning_rate (NaN where unknown).
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = (
        ("hessian_top", "largest eigenvalue of the Hessian", "#4477aa"),
        ("jacobian_spectral", "mean spectral norm of the Jacobian", "#228833"),
        ("loss", "loss", "#aa3377"),
    )
    for axes, (name, label, color) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.plot(columns["step"], columns[name], "o-", color=color, markersize=4)
        axes.set(xlabel=step_name, ylabel=label)
        shown = columns[name]
        if name == "hessian_top" and np.isfinite(columns["learning_rate"]).any():
            edge = 2 / columns["learning_rate"]
            axes.plot(columns["step"], edge, "--", color="#c1121f", linewidth=1.2, label="2 / learning rate")
            axes.legend(fontsize=8)
            shown = np.concatenate([shown, edge])
        known = shown[np.isfinite(shown)]
        if len(known) and known.min() > 0 and known.max() > 30 * known.min():
            axes.set_yscale("log")
    figure.savefig(path, dpi=130)
