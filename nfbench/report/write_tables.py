"""Tables as Markdown, CSV and LaTeX."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nfbench.report.results import Unfinished
from nfbench.report.run_folder import write_atomically
from nfbench.report.tables import Row, Table

COLUMNS = (
    "model", "ours", "standard error", "seeds", "paper", "difference", "best published, same access", "input",
    "parameters", "examples seen", "training", "command",
)  # fmt: skip
# The longest facts of a protocol stand last and are the first to be cut.
_LONG = ("recipe_hash", "images", "origin")


def display(table: Table, row: Row) -> dict[str, str]:
    """A row as text, by column."""
    other = "" if table.published or row.cell is None else f" ({_where(row)})"
    wall = seconds(row)
    paper = "–"
    if row.cell is not None:
        runs = f", {row.cell.runs} runs" if row.cell.runs else ""
        kind = f" ({row.cell.spread_kind}{runs})" if row.cell.spread else ""
        paper = f"{row.cell.shown}{kind}{other}"
    best = row.best
    return {
        "model": row.label,
        "ours": ours(row),
        "standard error": _number(row.standard_error),
        "seeds": row.seeds,
        "paper": paper,
        "difference": "–" if row.difference is None and not row.reasons else difference(row),
        "best published, same access": "–" if best is None else f"{best.shown} ({best.model}, {_data(best)})",
        "input": row.prepared or "–",
        "parameters": _count(row.get("params")),
        "examples seen": _count(row.get("examples_seen")),
        "training": f"{_encoder_seconds(row)}{_typical(wall)} s, {machine(row)}" if wall else "–",
        "command": row.command or "–",
    }


def seconds(row: Row) -> list[float]:
    """What each run took, as far as they say; of a result without training, what its command took."""
    runs = row.runs or ([row.run] if row.run else [])
    return [run.summary["wall_s"] for run in runs if isinstance(run.summary.get("wall_s"), int | float)]


def _typical(wall: Sequence[float]) -> str:
    """The mean; the range where runs are far apart, as those on different machines are."""
    if max(wall) > 1.5 * min(wall):
        return f"{min(wall):,.0f}–{max(wall):,.0f}"
    return f"{sum(wall) / len(wall):,.0f}"


def _encoder_seconds(row: Row) -> str:
    """`250 + 40 + ` of a model whose encoder was trained before, and then encoded all networks."""
    found = ([run.summary[key] for run in row.runs if run.summary.get(key)] for key in ("encoder_wall_s", "encode_s"))
    return "".join(f"{_typical(spent)} + " for spent in found if spent)


def _where(row: Row) -> str:
    assert row.cell is not None
    return f"{_data(row.cell)}: another protocol"


def _data(cell: Any) -> str:
    return f"{cell.zoo} zoo" + (f", {cell.views} views" if cell.views != "1" else "")


def ours(row: Row) -> str:
    """Mean and standard deviation; a dash where nothing was run."""
    if row.mean is None:
        return "–"
    spread = f" ± {_number(row.std)}" if row.std is not None else ""
    kind = f" {row.spread_kind}" if row.std is not None and row.spread_kind != "over seeds" else ""
    return f"{_number(row.mean)}{spread}{kind}"


def seed_values(row: Row) -> str:
    """`0: 0.92, 1: 0.91, failed 2`: the result of each seed, and those that have none while other rows have them."""
    if row.get("params") is None:
        return row.seeds
    return ", ".join([*(f"{seed}: {value:.4f}" for seed, value in sorted(row.values.items())), *row.lacks])


def difference(row: Row) -> str:
    """Ours less the paper's, or why there is none."""
    if row.difference is not None:
        return f"{row.difference:+.4f}"
    return f"not comparable: {', '.join(row.reasons)}" if row.reasons and row.mean is not None else "–"


def machine(row: Row) -> str:
    """What it ran on."""
    about = row.get("machine") or {}
    if about.get("gpu"):
        return str(about["gpu"])
    threads = about.get("threads")
    return f"{threads} CPU thread{'s' * (threads != 1)}{_processors(row)}" if threads else "machine unknown"


def _processors(row: Row) -> str:
    """What the runs say of it, which older ones don't; with their seeds where they ran on different ones."""
    found: dict[str, list[str]] = {}
    runs = row.runs or ([row.run] if row.run else [])
    for run in runs:
        if name := (run.summary.get("machine") or {}).get("processor"):
            found.setdefault(re.sub(r"\((R|TM)\)| Processor| CPU", "", name), []).append(str(run.summary["seed"]))
    if [len(runs)] == [len(seeds) for seeds in found.values()]:
        return f" ({next(iter(found))})"
    return "".join(f"; seed {', '.join(seeds)} on {name}" for name, seeds in found.items())


def facts(table: Table) -> str:
    """The protocol of a table in a line."""
    names = [name for name in table.facts if name not in _LONG] + [name for name in _LONG if name in table.facts]
    return "; ".join(f"{name.replace('_', ' ')} {_short(name, table.facts[name])}" for name in names if name != "task")


def kind(table: Table) -> str:
    """Whose protocol a table is of."""
    return "published protocol" if table.published else "our protocol"


def notes(rows: Iterable[Row]) -> list[str]:
    """What rows have to say beside their numbers, and where the published ones are from."""
    said: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            said.setdefault(row.note, []).append(f"`{row.label}`")
        if (cell := row.cell) is not None:
            parts = (f"{cell.source} ({cell.confidence})", cell.note)
            said.setdefault("; ".join(filter(None, parts)), []).append(f"`{cell.model}` {cell.value}")
    return [f"{', '.join(dict.fromkeys(labels))}: {text}" for text, labels in said.items()]


def markdown(tables: Iterable[Table], lost: Sequence[Unfinished], problems: Sequence[str]) -> str:
    """All tables, the unfinished runs and the files that could not be used."""
    lines = ["# Results beside the published numbers", "", *_legend()]
    for table in tables:
        lines += ["", f"## {table.task}: {table.title} ({kind(table)})", "", f"{facts(table)}.", ""]
        lines += [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
        for row in table.rows:
            shown = display(table, row)
            lines.append(markdown_row(shown, COLUMNS))
        if said := notes(table.rows):
            lines += ["", *(f"- {note}" for note in said)]
    if lost:
        lines += ["", "## Runs without a result, of no row above", ""]
        lines += [f"- `{run.folder}`: {' '.join(run.overrides or ()) or 'nothing of it is known'}" for run in lost]
    if problems:
        lines += ["", "## Files that were not used, or not as they are", "", *(f"- {problem}" for problem in problems)]
    return "\n".join(lines) + "\n"


def markdown_row(shown: Mapping[str, str], columns: Sequence[str]) -> str:
    """A row as `display` gave it, with these columns."""
    cells = [f"`{shown[c]}`" if c in ("model", "command") and shown[c] != "–" else shown[c] for c in columns]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _legend() -> list[str]:
    return [
        "Each table is one protocol: the facts under its title hold for every number of ours in it. `ours` is mean and",
        "standard deviation over seeds. A paper's number of another protocol is marked as such and has no difference.",
        "`se` is a standard error, `std` a standard deviation; `unstated` means that the source does not say.",
    ]


def record(table: Table, row: Row) -> dict[str, Any]:
    """A row with raw numbers, for CSV and other programs."""
    cell, best = row.cell, row.best
    wall = seconds(row)
    asked = ("edit", "definition", "split", "views", "num_images", "num_train", "num_test", "access", "size")
    commits = sorted({str(run.summary.get("commit")) for run in row.runs if run.summary.get("commit")})
    versions = {str(run.summary["versions"].get("torch")) for run in row.runs if run.summary.get("versions")}
    return {
        "task": table.task, "table": table.title, "protocol": kind(table), "dataset": table.facts.get("dataset"),
        "model": row.label, "metric": table.metric,
        "ours_mean": row.mean, "ours_std": row.std,
        "ours_spread_kind": row.spread_kind if row.std is not None else None,
        "ours_se": row.standard_error, "n_seeds": len(row.values) if row.get("params") is not None else None,
        "seeds": " ".join(map(str, row.values)) if row.get("params") is not None else None,
        "failed_seeds": " ".join(map(str, row.failed)), "missing_seeds": " ".join(map(str, row.missing)),
        "paper": cell and cell.value, "paper_spread": cell and cell.spread,
        "paper_spread_kind": cell and cell.spread_kind,
        "paper_runs": cell and cell.runs, "paper_zoo": cell and cell.zoo, "paper_views": cell and cell.views,
        "paper_access": cell and cell.access, "paper_source": cell and cell.source,
        "paper_confidence": cell and cell.confidence, "paper_note": cell and cell.note,
        "difference": row.difference, "not_comparable": "; ".join(row.reasons),
        "best_published": best and best.value, "best_published_model": best and best.model,
        "best_published_zoo": best and best.zoo, "best_published_views": best and best.views,
        "best_published_source": best and best.source,
        **{name: row.get(name) if row.get(name) is not None else table.facts.get(name) for name in asked},
        "canonicalized": row.get("canonicalized"), "standardized": row.get("standardized"),
        "augmentations": row.get("augmentations"), "encoder": row.get("encoder"), "epochs": row.get("epochs"),
        "examples_seen": row.get("examples_seen"), "params": row.get("params"),
        "wall_s": sum(wall) / len(wall) if wall else None, "machine": machine(row) if wall else None,
        "peak_memory_mb": max((run.summary.get("peak_memory_mb") or 0 for run in row.runs), default=None) or None,
        "torch": " ".join(sorted(versions)), "commits": " ".join(commits), "config_hash": row.get("config_hash"),
        "note": row.note, "command": row.command,
    }  # fmt: skip


def as_csv(tables: Iterable[Table]) -> str:
    """All rows of all tables; empty where a row has nothing to say."""
    records = [record(table, row) for table in tables for row in table.rows]
    text = io.StringIO()
    if records:
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return text.getvalue()


LATEX = ("model", "ours", "seeds", "paper", "difference", "best published, same access", "input", "parameters")
_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def latex(tables: Iterable[Table]) -> str:
    """A `table` a protocol, for a document that uses `booktabs` and `graphicx`; commands stand in comments."""
    lines = [r"% \usepackage{booktabs,graphicx}"]
    for table in tables:
        lines += ["", r"\begin{table}[htbp]", r"\centering"]
        lines += [rf"\caption{{{escape(f'{table.task}: {table.title} ({kind(table)}). {table.metric}.')}}}"]
        lines += [r"\resizebox{\linewidth}{!}{%", rf"\begin{{tabular}}{{{'l' * len(LATEX)}}}", r"\toprule"]
        lines += [f"{' & '.join(LATEX)} " + r"\\", r"\midrule"]
        for row in table.rows:
            shown = display(table, row)
            lines.append(f"{' & '.join(escape(shown[c]) for c in LATEX)} " + r"\\")
        lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table}"]
        lines += [f"% {row.label}: {row.command}" for row in table.rows if row.command]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text.replace("\n", " "))


def write_tables(out: Path, tables: Sequence[Table], lost: Sequence[Unfinished], problems: Sequence[str]) -> list[Path]:
    """Writes `tables.md`, `tables.csv` and `tables.tex` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    texts = {"md": markdown(tables, lost, problems), "csv": as_csv(tables), "tex": latex(tables)}
    for ending, text in texts.items():
        write_atomically(out / f"tables.{ending}", text)
    return [out / f"tables.{ending}" for ending in texts]


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def _count(value: Any) -> str:
    return "–" if value is None else f"{value:,}"


def _short(name: str, value: Any) -> str:
    text = ("no", "yes")[value] if isinstance(value, bool) else f"{value:,}" if isinstance(value, int) else str(value)
    return f"{text[:16]}..." if name.endswith("hash") and len(text) > 19 else text
