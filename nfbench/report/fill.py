"""Tables of results within documents, between `<!-- results key=value ... -->` and `<!-- end of results -->`."""

import re
import shlex
from collections.abc import Sequence

from nfbench.report.tables import Row, Table
from nfbench.report.write_tables import display, facts, kind, markdown_row, notes

MARK = re.compile(r"(<!-- results (?P<wanted>[^>]*?) -->\n).*?(<!-- end of results -->)", re.DOTALL)
COLUMNS = ("model", "ours", "seeds", "paper", "input", "parameters", "examples seen", "training", "command")


def fill(text: str, tables: Sequence[Table]) -> str:
    """The text with the tables that its marks ask for: `task=inr_cls dataset=digits` asks for those with these facts.

    Args:
        text: Markdown.
        tables: what `make_tables` gave. Tables without a result of ours are left out.

    Raises:
        ValueError: a mark that is not key=value, or that no table with results has.
    """

    def replace(match: re.Match[str]) -> str:
        wanted = dict(key_value(word) for word in shlex.split(match["wanted"]))
        chosen = [t for t in tables if any(row.values for row in t.rows) and _has(t, wanted)]
        if not chosen:
            raise ValueError(f"no table of results has {match['wanted']}: publish its runs, or mend the mark")
        return match[1] + "\n".join(compact(table) for table in chosen) + match[3]

    return MARK.sub(replace, text)


def compact(table: Table) -> str:
    """A table's title, protocol, rows with results of ours, and notes."""
    rows = [row for row in table.rows if row.values]
    columns = [name for name in COLUMNS if name != "paper" or any(row.cell is not None for row in rows)]
    lines = [f"**{table.task}: {table.title}** ({kind(table)})", "", f"{facts(table)}.", ""]
    lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row in rows:
        lines.append(markdown_row(display(table, row) | {"seeds": _seeds(row)}, columns))
    if said := notes(table):
        lines += ["", *(f"- {note}" for note in said)]
    return "\n".join(["", *lines, "", ""])


def _seeds(row: Row) -> str:
    """`0: 0.92, 1: 0.91`: the result of each seed."""
    if row.get("params") is None:
        return row.seeds
    return ", ".join(f"{seed}: {value:.4f}" for seed, value in sorted(row.values.items()))


def _has(table: Table, wanted: dict[str, str]) -> bool:
    own = {"task": table.task, **table.facts}
    return all(str(own.get(key)).lower() == value.lower() for key, value in wanted.items())


def key_value(word: str) -> tuple[str, str]:
    """`dataset=mnist` as a pair.

    Raises:
        ValueError: no such word.
    """
    key, equals, value = word.partition("=")
    if not key or not equals:
        raise ValueError(f"{word!r} is not key=value: write for example dataset=mnist")
    return key, value
