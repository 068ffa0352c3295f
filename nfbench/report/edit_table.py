"""The table of `inr_edit` results beside the published numbers, from summaries of runs and of bounds."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

ORDER = ("own_fit", "nft", "nfn_np", "nfn_hnp", "nfn_pt", "mlp_aug", "mlp", "identity")
# (dataset, edit) -> model -> test MSE, pixels in [-1, 1]. NFN: arXiv 2302.14040, table 6. NFT: arXiv 2305.13546, as
# reprinted in arXiv 2312.04501, table 2, which has 0.0693 and 0.0203 for NFN_NP.
PAPER = {
    ("mnist", "dilate"): {
        "nft": "0.0510 ± 0.0004", "nfn_np": "0.068", "nfn_hnp": "0.070", "nfn_pt": "0.197", "mlp": "0.306",
        "mlp_aug": "0.307",
    },
    ("cifar10", "contrast"): {
        "nft": "0.0200 ± 0.0002", "nfn_np": "0.020", "nfn_hnp": "0.021", "nfn_pt": "0.029", "mlp": "0.031",
        "mlp_aug": "0.029",
    },
}  # fmt: skip


def family(model: str) -> str:
    """`nfn_np` of `nfn_np_edit`: the published size has the same row in the papers."""
    return model.removesuffix("_edit")


def edit_table(summaries: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: a table for each dataset, definition and edit, a row for each model, seeds together.

    Args:
        summaries: `summary.json` of runs of `inr_edit`, and what `scripts/edit_bounds.py` writes.

    Raises:
        ValueError: a summary of another task.
    """
    cells: dict[tuple[str, ...], dict[tuple[Any, ...], list[Mapping[str, Any]]]] = {}
    for summary in summaries:
        if summary.get("task") != "inr_edit":
            raise ValueError(f"a summary of task {summary.get('task')!r}: give those of task inr_edit")
        cell = (summary["dataset"], summary["definition"], summary["config"]["task"]["edit"])
        row = (summary["model"], summary["num_train"], summary["canonicalized"], summary["standardized"])
        cells.setdefault(cell, {}).setdefault(row, []).append(summary)
    return "\n\n".join(_cell_table(cell, rows) for cell, rows in sorted(cells.items()))


def _cell_table(cell: tuple[str, ...], rows: Mapping[tuple[Any, ...], list[Mapping[str, Any]]]) -> str:
    dataset, definition, edit = cell
    paper = PAPER.get((dataset, edit), {})

    def place(row: tuple[Any, ...]) -> tuple[Any, ...]:
        name = family(row[0])
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
        model, num_train, canonical, standardized = row
        bound = "params" not in found[0]
        mse, unit = ([summary["metrics"][name] for summary in found] for name in ("test/mse", "test/mse_unit"))
        seeds = ", ".join(str(summary["seed"]) for summary in found)
        prepared = ", ".join((["canonical"] if canonical else []) + [standardized] * (standardized != "none")) or "raw"
        columns = [
            f"`{model}`", _spread(mse), _spread(unit), paper.get(family(model), "-"), "-" if bound else seeds,
            "-" if bound else f"{num_train:,}", "-" if bound else prepared,
            "-" if bound else f"{found[0]['params']:,}",
            "-" if bound else f"{statistics.mean(s['wall_s'] for s in found):.0f} s",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean
