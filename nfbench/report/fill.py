"""Tables of results within documents.

Between `<!-- results key=value ... -->` and `<!-- end of results -->` stand the tables with these facts; a key that is
not of a table but of its rows, such as `examples_seen`, leaves the other rows out, and `without=model.pool,zoo.views`
those whose command has an override that begins so. Between `<!-- ablations task=inr_cls model=nft -->` and the same end
stand the results whose command is this one and some overrides more.
"""

import re
import shlex
from collections.abc import Sequence

from nfbench.report.ablations import ablations
from nfbench.report.tables import Row, Table, overrides
from nfbench.report.write_tables import display, facts, kind, markdown_row, notes, seed_values

MARK = re.compile(r"(<!-- (?P<what>results|ablations) (?P<wanted>[^>]*?) -->\n).*?(<!-- end of results -->)", re.DOTALL)
COLUMNS = ("model", "ours", "seeds", "paper", "input", "parameters", "examples seen", "training", "command")


def fill(text: str, tables: Sequence[Table]) -> str:
    """The text with the tables that its marks ask for.

    Args:
        text: Markdown.
        tables: what `make_tables` gave. Tables without a result of ours are left out.

    Raises:
        ValueError: a mark that is not key=value, or that no result fits.
    """

    def replace(match: re.Match[str]) -> str:
        if match["what"] == "ablations":
            return match[1] + ablations(tables, match["wanted"]) + match[4]
        wanted = dict(key_value(word) for word in shlex.split(match["wanted"]))
        without = tuple(word for word in wanted.pop("without", "").split(",") if word)
        chosen = [(table, rows) for table in tables if (rows := _rows(table, wanted, without))]
        if not chosen:
            raise ValueError(f"no table of results has {match['wanted']}: publish its runs, or mend the mark")
        return match[1] + "\n".join(compact(table, rows) for table, rows in chosen) + match[4]

    return MARK.sub(replace, text)


def _rows(table: Table, wanted: dict[str, str], without: tuple[str, ...]) -> list[Row]:
    """The rows of a table that a mark asks for."""
    own = {"task": table.task, **table.facts}

    def fits(row: Row) -> bool:
        said = {key: own.get(key, row.get(key)) for key in wanted}
        return all(str(said[key]).lower() == value.lower() for key, value in wanted.items())

    rows = [row for row in table.rows if row.values and fits(row)]
    return [row for row in rows if not (row.runs and any(word.startswith(without) for word in overrides(row)))]


def compact(table: Table, rows: Sequence[Row]) -> str:
    """A table's title, protocol, some of its rows, and notes."""
    columns = [name for name in COLUMNS if name != "paper" or any(row.cell is not None for row in rows)]
    lines = [f"**{table.task}: {table.title}** ({kind(table)})", "", f"{facts(table)}.", ""]
    lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row in rows:
        lines.append(markdown_row(display(table, row) | {"seeds": seed_values(row)}, columns))
    if said := notes(rows):
        lines += ["", *(f"- {note}" for note in said)]
    return "\n".join(["", *lines, "", ""])


def key_value(word: str) -> tuple[str, str]:
    """`dataset=mnist` as a pair.

    Raises:
        ValueError: no such word.
    """
    key, equals, value = word.partition("=")
    if not key or not equals:
        raise ValueError(f"{word!r} is not key=value: write for example dataset=mnist")
    return key, value
