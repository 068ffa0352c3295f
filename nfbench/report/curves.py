"""Learning curves of published results: a score of validation against the examples seen."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nfbench.report.labels import own_words
from nfbench.report.results import config_key

# Of Okabe and Ito, told apart by colour-blind readers, too.
MARKERS = ("", "o", "s", "^", "D", "v")  # of configs that colour and dashes do not tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def draw_curves(path: Path, summaries: Iterable[Mapping[str, Any]], column: str, title: str = "") -> list[str]:
    """A line for each config: the mean over seeds, their range as a band; dashed where networks are not canonicalised.

    Configs that have model, canonical form and augmentation in common have markers, and in their labels the overrides
    in which their commands differ.

    Args:
        path: the PNG to write.
        summaries: published results with `curves` (scripts/publish.py); those without are left out.
        column: of the curves, such as `val/acc`.
        title: on top.

    Returns:
        The label of each line.

    Raises:
        ValueError: no result has that column; says which there are.
    """
    given = [summary for summary in summaries if "curves" in summary]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for summary in given:
        if column in summary["curves"]:
            groups.setdefault((*_of_line(summary), config_key(summary)), []).append(summary)
    if not groups:
        known = sorted({name for summary in given for name in summary["curves"]})
        raise ValueError(
            f"no result has a curve of {column}. "
            + (f"There are curves of {', '.join(known)}" if known else "None has curves: publish its run again")
        )
    models = sorted({model for model, *_ in groups})
    figure = Figure(figsize=(9.2, 4.4), layout="constrained")
    axes = figure.subplots()
    labels = []
    for name in sorted(groups):
        model, raw, extra, _ = name
        namesakes = [other for other in sorted(groups) if other[:-1] == name[:-1]]
        words = dict(zip(namesakes, own_words([groups[other] for other in namesakes]), strict=True))
        runs, own = groups[name], words[name]
        seen, values = _aligned(runs, column)
        label = ", ".join([f"{model}{', as they are' if raw else ''}{f', {extra}' if extra else ''}", *own])
        label += f" ({len(runs)} seed{'s' if len(runs) > 1 else ''})"
        colour = COLOURS[models.index(model) % len(COLOURS)]
        place = sorted(namesakes, key=lambda other: len(words[other])).index(name)  # the plainest has none
        marker = MARKERS[place % len(MARKERS)]
        axes.plot(
            seen, values.mean(0), color=colour, linestyle="--" if raw else "-", linewidth=1.5, label=label,
            marker=marker, markersize=3.5,
        )  # fmt: skip
        if len(runs) > 1:
            axes.fill_between(seen, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        labels.append(label)
    axes.set(xlabel="training examples seen", ylabel=column, title=title, xlim=(0, None))
    axes.title.set_fontsize(10)
    axes.grid(color="0.9", linewidth=0.6)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.legend(fontsize=7.5, frameon=False, loc="outside right upper")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return labels


def _of_line(summary: Mapping[str, Any]) -> tuple[str, bool, str]:
    """Model, whether its networks are left as they are, and what else sets it apart."""
    augmented = summary.get("augmentations", "none")
    return summary["model"], not summary.get("canonicalized"), "" if augmented == "none" else "augmented"


def _aligned(runs: Sequence[Mapping[str, Any]], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Examples seen (E,) and values (runs, E), of the epochs in which all of the runs have one."""
    curves = [[np.nan if value is None else value for value in run["curves"][column]] for run in runs]
    if runs[0]["config"].get("ckpt_path"):  # the epochs before belong to another run, and were seen all the same
        curves = [[np.nan] * (run["epochs"] - len(own)) + own for run, own in zip(runs, curves, strict=True)]
    epochs = min(map(len, curves))
    each = runs[0]["examples_seen"] / len(curves[0])
    values = np.array([own[:epochs] for own in curves])
    there = ~np.isnan(values).any(0)  # no line goes through what was not validated
    return each * np.arange(1, epochs + 1)[there], values[:, there]
