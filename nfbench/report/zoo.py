"""A zoo for people: a text of its facts, and a picture of originals beside renderings over a histogram of PSNR."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray


def describe(facts: Mapping[str, Any]) -> str:
    """The facts that `nfbench.zoos.statistics.inspect_zoo` gives, as a few lines and a table."""
    classes, trained = facts["per_class"], facts.get("accuracy") is not None
    few, many = min(classes.values()), max(classes.values())
    spread = f"{len(classes)} classes of {few:,}" + (f" to {many:,}" if many > few else "") + " networks"
    spread = "no classes" if set(classes) == {"-1"} else spread
    lines = [
        f"{facts['zoo']}: {facts['networks']:,} networks {facts['spec']} of {facts['source']} ({facts['origin']})",
        f"{facts['images']:,} {'runs' if trained else 'images'}, {spread}, up to {facts['views']} "
        + ("checkpoints" if trained else "views"),
    ]
    if facts["psnr"]:
        quantiles = "  ".join(f"{q} %: {value:.1f}" for q, value in facts["psnr"].items())
        steps = f"; {facts['steps_mean']:,.0f} steps on average" if facts["steps_mean"] is not None else ""
        lines += [f"PSNR mean {facts['psnr_mean']:.2f} dB; quantiles  {quantiles}{steps}"]
    for step, values in (facts.get("accuracy") or {}).items():
        lines.append(f"test accuracy, epoch {step:>3}:  " + "  ".join(f"{q} %: {v:.3f}" for q, v in values.items()))
    beside = any(row["published_std"] is not None for row in facts["layers"])
    whose = f"   published, {facts['definition']}" if beside else ""
    lines += [f"{'':<10} {'mean':>9} {'std':>9}{whose}"]
    for row in facts["layers"]:
        line = f"{row['tensor']:<10} {row['mean']:>9.5f} {row['std']:>9.5f}"
        if beside:
            change = row["std"] / row["published_std"] - 1
            line += f"   {row['published_mean']:>9.5f} {row['published_std']:>9.5f}   std {change:+.1%}"
        lines.append(line)
    if facts["no_pictures"]:
        lines.append(f"no renderings: {facts['no_pictures']}")
    return "\n".join(lines)


def draw(
    path: Path,
    title: str,
    psnr: NDArray[np.float32],
    rows: NDArray[np.int64],
    originals: NDArray[np.float32] | None,
    renderings: NDArray[np.float32] | None,
) -> bool:
    """Writes the picture, a PNG.

    Args:
        path: where to.
        title: on top.
        psnr: (N,) in dB of all networks, NaN where unknown.
        rows: (n,) networks that are shown.
        originals, renderings: (n, H, W, channels) in [0, 1]; None: only the histogram.

    Returns:
        Whether there was anything to draw.
    """
    known = psnr[np.isfinite(psnr)]
    if originals is None and not len(known):
        return False
    figure = Figure(figsize=(9, 3.0 + (2.2 if originals is not None else 0)), layout="constrained")
    figure.suptitle(title, fontsize=10)
    top, bottom = figure.subfigures(2, 1, height_ratios=[2.2, 3]) if originals is not None else (None, figure)  # type: ignore[misc]
    if top is not None and originals is not None and renderings is not None:
        grid = top.subplots(2, len(rows), squeeze=False)
        names = ("original", "network" if not len(known) else "network, dB")
        for name, line, pictures in zip(names, grid, (originals, renderings), strict=True):
            for axes, picture, row in zip(line, pictures, rows, strict=True):
                axes.imshow(np.clip(picture.squeeze(), 0, 1), cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                if pictures is renderings and np.isfinite(psnr[row]):
                    axes.set_xlabel(f"{psnr[row]:.1f}", fontsize=8)
            line[0].set_ylabel(name, fontsize=9)
    axes = bottom.subplots()
    if len(known):
        axes.hist(known, bins=60, color="#4477aa")
        axes.axvline(float(known.mean()), color="#c1121f", linewidth=1, label=f"mean {known.mean():.1f} dB")
        axes.legend(fontsize=9)
    axes.set(xlabel="PSNR in dB", ylabel="networks")
    figure.savefig(path, dpi=130)
    return True
