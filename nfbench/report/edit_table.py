"""The table of `inr_edit` results beside the published numbers, from summaries of runs and of bounds."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from nfbench.report.labels import own_words
from nfbench.report.published import family, published
from nfbench.report.results import config_key

ORDER = ("own_fit", "nft", "nfn_np", "nfn_hnp", "nfn_pt", "mlp_aug", "mlp", "identity")


def paper(dataset: str, edit: str) -> dict[str, str]:
    """Model -> published test MSE, pixels in [-1, 1]; of a number that was reprinted as well, the one that was read."""
    cells = [c for c in published() if (c.task, c.dataset, c.metric) == ("inr_edit", f"{dataset}_{edit}", "test/mse")]
    return {cell.model: cell.shown for cell in sorted(cells, key=lambda cell: cell.confidence == "read")}


def edit_table(summaries: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: a table for each dataset, definition and edit, a row for each model and settings, seeds together.

    Args:
        summaries: `summary.json` of runs of `inr_edit`, and what `scripts/edit_bounds.py` writes.

    Raises:
        ValueError: a summary of another task, or two of one run.
    """
    cells: dict[tuple[str, ...], dict[tuple[Any, ...], list[Mapping[str, Any]]]] = {}
    for summary in summaries:
        if summary.get("task") != "inr_edit":
            raise ValueError(f"a summary of task {summary.get('task')!r}: give those of task inr_edit")
        cell = (summary["dataset"], summary["definition"], summary["config"]["task"]["edit"])
        kept = [summary[name] for name in ("model", "num_train", "canonicalized", "standardized")]
        trained = "params" in summary
        what = config_key(summary) if trained else (str(summary.get("measured")), str(summary.get("recipe_hash")))
        same = cells.setdefault(cell, {}).setdefault((*kept, summary["num_test"], what), [])
        if trained and summary["seed"] in [other["seed"] for other in same]:
            raise ValueError(
                f"two results of {summary['model']} with seed {summary['seed']} and the same settings: give one of them"
            )
        same.append(summary)
    return "\n\n".join(_cell_table(cell, rows) for cell, rows in sorted(cells.items()))


def _cell_table(cell: tuple[str, ...], rows: Mapping[tuple[Any, ...], list[Mapping[str, Any]]]) -> str:
    dataset, definition, edit = cell
    numbers = paper(dataset, edit)

    def place(row: tuple[Any, ...]) -> tuple[Any, ...]:
        name = family(rows[row][0])
        return (ORDER.index(name) if name in ORDER else len(ORDER), *map(str, row))

    lines = [
        f"**{dataset}, {edit}** (definition {definition})",
        "",
        "| model | test MSE on [-1, 1] | on [0, 1] | paper, [-1, 1] | seeds | training networks | input | parameters | "
        "training |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=place):
        found = sorted(rows[row], key=lambda summary: summary["seed"])
        model, num_train, canonical, standardized, *_ = row
        bound = "params" not in found[0]
        mse, unit = ([summary["metrics"][name] for summary in found] for name in ("test/mse", "test/mse_unit"))
        seeds = ", ".join(str(summary["seed"]) for summary in found)
        prepared = ", ".join((["canonical"] if canonical else []) + [standardized] * (standardized != "none")) or "raw"
        alike = [other for other in rows if other[:4] == row[:4]]
        own = dict(zip(alike, own_words([rows[other] for other in alike]), strict=True))[row]
        columns = [
            f"`{' '.join([model, *own])}`", _spread(mse), _spread(unit), numbers.get(family(found[0]), "-"),
            "-" if bound else seeds,
            "-" if bound else f"{num_train:,}", "-" if bound else prepared,
            "-" if bound else f"{found[0]['params']:,}",
            "-" if bound else f"{statistics.mean(s['wall_s'] for s in found):.0f} s",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean
