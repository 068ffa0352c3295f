"""What a change is worth: a table of all results whose command is that of one row and some overrides more."""

import statistics
from collections.abc import Sequence

from nfbench.report.published import larger_is_better
from nfbench.report.results import typed
from nfbench.report.tables import Row, Table, overrides
from nfbench.report.write_tables import display, markdown_row, seed_values

COLUMNS = ("change", "ours", "difference", "seeds", "examples seen", "training", "command")
# What rows beside one another have in common; `views` is one of the things that change.
SAME = (
    "task", "dataset", "definition", "metric", "size", "access", "split", "eval_views", "num_images", "num_train",
    "num_test",
)  # fmt: skip


def ablations(tables: Sequence[Table], command: str) -> str:
    """The rows that differ from one by overrides that were added to its command, best first, as a Markdown table.

    Their zoos may differ in views, so that the rows come from several protocols; the networks of the test are the same
    in all of them. `difference` is the mean over the seeds that both have, and its standard deviation.

    Args:
        tables: what `make_tables` gave.
        command: the overrides of the row to compare with, such as `task=inr_cls model=nft`.

    Raises:
        ValueError: no row has that command, or none has more overrides than it.
    """
    own = set(typed(command))
    rows = [
        (set(overrides(row)), row, table) for table in tables if not table.published for row in table.rows if row.runs
    ]
    base = next(((row, table) for words, row, table in rows if words == own), None)
    if base is None:
        raise ValueError(f"no result of {command}: publish its runs, or mend the mark")
    first, table = base
    changed = [
        (" ".join(sorted(words - own)), row) for words, row, other in rows
        if words > own and all(other.facts.get(name) == table.facts.get(name) for name in SAME)
    ]  # fmt: skip
    if not changed:
        raise ValueError(f"no result has the overrides {command} and more: publish such runs, or mend the mark")
    up = 1 if larger_is_better(table.metric) else -1
    changed.sort(key=lambda one: -up * (one[1].mean or 0.0))
    facts = "; ".join(f"{name.replace('_', ' ')} {table.facts[name]}" for name in SAME if name in table.facts)
    lines = [f"**`{command}` and what is changed in it** (our protocol)", ""]
    lines += [f"{facts}; without a change: {first.prepared}.", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    for change, row in [("none", first), *changed]:
        shown = {"change": f"`{change}`" if change != "none" else "none", "seeds": seed_values(row)}
        lines.append(markdown_row({**display(table, row), **shown, "difference": _difference(row, first)}, COLUMNS))
    return "\n".join(["", *lines, "", ""])


def _difference(row: Row, base: Row) -> str:
    seeds = sorted(set(row.values) & set(base.values))
    if row is base or not seeds:
        return "–"
    pairs = [row.values[seed] - base.values[seed] for seed in seeds]
    spread = f" ± {statistics.stdev(pairs):.4f}" if len(pairs) > 1 else ""
    return f"{statistics.mean(pairs):+.4f}{spread}"
