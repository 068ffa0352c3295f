"""All results on one page: `index.html` with its plots, pictures, styles and script inside; it loads nothing."""

import base64
import html
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from nfbench.report.published import Cell
from nfbench.report.results import Run, Unfinished, read_rows
from nfbench.report.run_folder import write_atomically
from nfbench.report.svg import COLORS, Curve, Dots, curve_plot, dot_plot
from nfbench.report.tables import TASKS, Row, Table, paths
from nfbench.report.write_tables import difference, display, facts, kind, notes, ours, seconds

HERE = Path(__file__).parent
COLUMNS = (
    "model",
    "ours",
    "seeds",
    "paper",
    "difference",
    "best published",
    "parameters",
    "training",
    "protocol, command",
)
ABOUT = {
    "inr_cls": "the class of the image, or the 3-D shape, that an implicit network represents",
    "inr2array": "an autoencoder from an implicit network's weights to an array of latent vectors",
    "inr2array_cls": "the class from that array",
    "inr_edit": "the weights of the edited image's network",
    "cnn_gen": "the test accuracy of a classifier, from its weights",
    "tickets": "winning tickets: a sparse mask, from the initialisation",
    "measures": "measures that look at the networks from outside, and how they rank test accuracy",
}
PICTURES, PICTURE_WIDTH = 3, 720  # a table; pixels
POINTS = 200  # of a curve
SHOWN = (
    "definition", "split", "views", "eval_views", "num_images", "num_networks", "num_train", "num_test", "access",
    "canonicalized", "standardized", "augmentations", "encoder", "size", "epochs", "examples_seen", "commit",
    "config_hash",
)  # fmt: skip


def write_page(out: Path, tables: Sequence[Table], lost: Sequence[Unfinished], problems: Sequence[str]) -> Path:
    """Writes `index.html` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "index.html", page(tables, lost, problems))
    return out / "index.html"


def page(tables: Sequence[Table], lost: Sequence[Unfinished], problems: Sequence[str]) -> str:
    """The page. All that comes from files is escaped."""
    known = [task for task in TASKS if any(table.task == task for table in tables)]
    tasks = [*known, *sorted({table.task for table in tables} - set(known))]
    runs = sum(len(row.runs) for table in tables for row in table.rows if row.get("params") is not None)
    links = "".join(f'<a href="#{_text(task)}">{_text(task)}</a>' for task in tasks)
    sections = "".join(_section(task, [table for table in tables if table.task == task]) for task in tasks)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nfbench: results beside the papers</title>
<style>
{(HERE / "page.css").read_text()}</style>
</head>
<body>
<h1>nfbench: results beside the papers</h1>
<p>{runs:,} runs, {len(tables)} protocols. Each table is one protocol; the line under its title holds for all of our
numbers in it. Ours: mean ± standard deviation over seeds. A published number of another protocol is marked, and no
difference is taken from it. Click a heading to sort.</p>
<nav>{links}</nav>
{sections}{_rest(lost, problems)}
<script>
{(HERE / "page.js").read_text()}</script>
</body>
</html>
"""


def _section(task: str, tables: Sequence[Table]) -> str:
    mine = [table for table in tables if any(row.mean is not None for row in table.rows)]
    others = [table for table in tables if table not in mine]
    about = f"<p>{_text(ABOUT[task])}.</p>" if task in ABOUT else ""
    parts = [f'<section><h2 id="{_text(task)}">{_text(task)}</h2>{about}', *map(_table, mine)]
    if others:
        counted = f"{len(others)} published protocol{'s' * (len(others) != 1)} without a run of ours"
        inside = "".join(map(_table, others))
        parts.append(f'<details class="more-tables"><summary>{counted}</summary>{inside}</details>')
    return "".join([*parts, "</section>\n"])


def _table(table: Table) -> str:
    badge = f'<span class="badge{" paper" if table.published else ""}">{kind(table)}</span>'
    head = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in COLUMNS[:-1])
    head += f'<th scope="col">{COLUMNS[-1]}</th>'
    rows = "".join(_row(table, row) for row in table.rows)
    said = "".join(f"<li>{_text(note.replace('`', ''))}</li>" for note in notes(table.rows))
    return (
        f'<h3>{_text(table.title)} {badge}</h3><p class="facts">{_text(facts(table))}.</p>{_plots(table)}'
        f'<div class="box" tabindex="0" role="region" aria-label="{_text(table.title)}"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>" + (f'<ul class="notes">{said}</ul>' if said else "")
    ) + _pictures(table)


def _row(table: Table, row: Row) -> str:
    shown, cell, best = display(table, row), row.cell, row.best
    wall = seconds(row)
    error = f"standard error {shown['standard error']}" if row.standard_error is not None else ""
    if cell is not None:
        runs = f", {cell.runs} runs" if cell.runs else ""
        spread = f"± is {cell.spread_kind}{runs}" if cell.spread else ""
        where = (
            "" if table.published else f"another protocol: {cell.zoo} zoo, {cell.views} view{'s' * (cell.views != '1')}"
        )
        paper = _td(cell.value, cell.shown, "; ".join(filter(None, (spread, where))), "num")
    else:
        paper = _td("", "–")
    bad = bool(row.failed or row.missing)
    if row.difference is not None:
        change = _td(row.difference, difference(row), "ours less the paper's", "num")
    else:
        change = _td("", "–", difference(row) if row.reasons and row.mean is not None else "")
    anchor = (
        _td(best.value, best.shown, f"{best.model}, {_data(best)}, access {best.access}", "num") if best
        else _td("", "–")
    )  # fmt: skip
    mean_s = sum(wall) / len(wall) if wall else None
    trained, _, machine = shown["training"].partition(", ")
    cells = [
        _td(row.label, row.label, row.note, "model"),
        _td("" if row.mean is None else row.mean, ours(row), error, "num"),
        _td("" if row.mean is None else len(row.values), *_halves(shown["seeds"]), kind="warn" if bad else ""),
        paper, change, anchor,
        _td(row.get("params") if row.get("params") is not None else "", shown["parameters"], kind="num"),
        _td("" if mean_s is None else mean_s, trained, machine, "num"),
        f"<td>{_details(row)}</td>",
    ]  # fmt: skip
    return f"<tr>{''.join(cells)}</tr>"


def _halves(seeds: str) -> tuple[str, str]:
    first, _, rest = seeds.partition(", ")
    return first, rest


def _data(cell: Cell) -> str:
    return f"{cell.zoo} zoo, {cell.views} view{'s' * (cell.views != '1')}"


def _td(value: Any, text: str, more: str = "", kind: str = "") -> str:
    below = f'<span class="more">{_text(more)}</span>' if more else ""
    shown = _text(text)
    if kind == "model":  # may break after these
        shown = re.sub(r"([.=_/])", r"\1<wbr>", shown)
    return f'<td class="{kind}" data-value="{_text(str(value))}">{shown}{below}</td>'


def _details(row: Row) -> str:
    said = {name: row.get(name) for name in SHOWN if row.get(name) is not None}
    if row.runs and row.values and row.get("params") is not None:
        said["seeds"] = ", ".join(f"{seed}: {value:.4f}" for seed, value in row.values.items())
    if row.runs:
        said["files"] = ", ".join(f"{path.parent.name}/{path.name}" for path in paths(row))
    if row.cell is not None:
        said["paper"] = f"{row.cell.source} ({row.cell.confidence})"
    lines = "".join(
        f"<dt>{_text(name.replace('_', ' '))}</dt><dd>{_text(_plain(value))}</dd>" for name, value in said.items()
    )
    command = (
        f'<code class="command">{_text(row.command)}</code><button type="button" class="copy">copy</button>'
        if row.command
        else ""
    )
    return f"<details><summary>show</summary><dl>{lines}</dl>{command}</details>" if lines or command else "–"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plots(table: Table) -> str:
    rows = [row for row in table.rows if row.mean is not None]
    if not rows:
        return ""
    dots = [
        Dots(row.label, list(row.values.values()), row.cell.number if row.cell else None, not row.reasons, row.spread)
        for row in (table.rows if table.published else rows)
    ]
    figures = [_figure("each seed, and the mean", dot_plot(dots, table.metric) + _dot_legend(dots))]
    if curves := _curves(rows):
        name, found = curves
        figures.append(_figure(f"{name}, a line a seed", curve_plot(found, name) + _curve_legend(found)))
    return f'<div class="plots">{"".join(figures)}</div>'


def _figure(caption: str, inside: str) -> str:
    return f"<figure><figcaption>{_text(caption)}</figcaption>{inside}</figure>"


def _dot_legend(dots: Sequence[Dots]) -> str:
    parts = ['<b class="dot">●</b> a seed', "<b>┃</b> mean"]
    parts += ['<b class="dot">━</b> standard deviation over initialisations'] * any(row.spread for row in dots)
    parts += ['<b class="diamond">◆</b> published'] * any(row.paper is not None and row.same for row in dots)
    other = any(row.paper is not None and not row.same for row in dots)
    parts += ['<b class="diamond">◇</b> published, another protocol'] * other
    return f'<p class="legend">{"".join(f"<span>{part}</span>" for part in parts)}</p>'


def _curve_legend(curves: Sequence[Curve]) -> str:
    parts = [
        f'<span><i style="border-color:var(--c{number % COLORS})'
        f'{";border-top-style:dashed" if number >= COLORS else ""}"></i>{_text(curve.label)}</span>'
        for number, curve in enumerate(curves)
    ]
    return f'<p class="legend">{"".join(parts)}</p>'


def _curves(rows: Sequence[Row]) -> tuple[str, list[Curve]] | None:
    """The metric that chose the epoch, from run folders or published curves."""
    names = [str(((row.get("config") or {}).get("task") or {}).get("monitor")) for row in rows if row.get("config")]
    if not names:
        return None
    curves = []
    for row in rows:
        curve = Curve(row.label)
        for run in row.runs:
            found = _curve(run, names[0])
            found = found[:: max(math.ceil(len(found) / POINTS), 1)]
            if len(found) > 1:
                curve.lines.append(([x for x, _ in found], [y for _, y in found]))
        if curve.lines:
            curves.append(curve)
    return (names[0], curves) if curves else None


def _curve(run: Run, name: str) -> list[tuple[float, float]]:
    """(epoch, value) where there is a value."""
    if run.folder:
        lines = read_rows(run.folder / "metrics.csv")
        found = [(_float(line.get("epoch")), _float(line.get(name))) for line in lines]
    else:
        values = run.summary.get("curves", {}).get(name, [])
        found = [(float(epoch), value) for epoch, value in enumerate(values) if value is not None]
    return [(x, y) for x, y in found if math.isfinite(x) and math.isfinite(y)]


def _float(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _pictures(table: Table) -> str:
    """The pictures of some runs whose folders are at hand, the best rows' first."""
    figures: list[str] = []
    for row in table.rows:
        for run in row.runs[:1]:
            path = run.folder / str(run.summary.get("picture") or "test.png") if run.folder else None
            if path is None or len(figures) == PICTURES or not (data := _downsized(path)):
                continue
            caption = f"{row.label}, seed {run.summary['seed']}: {path.name}"
            figures.append(_figure(caption, f'<img loading="lazy" alt="{_text(caption)}" src="{data}">'))
    if not figures:
        return ""
    counted = f"pictures of {len(figures)} runs" if len(figures) > 1 else "picture of a run"
    return (
        f'<details class="pictures"><summary>{counted}</summary><div class="plots">{"".join(figures)}</div></details>'
    )


def _downsized(path: Path) -> str:
    """A picture as the text of a `src`; empty where there is none that can be read."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except OSError:
        return ""
    if small.width > PICTURE_WIDTH:
        small = small.resize(
            (PICTURE_WIDTH, round(small.height * PICTURE_WIDTH / small.width)), Image.Resampling.LANCZOS
        )
    packed = io.BytesIO()
    small.quantize(96).save(packed, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(packed.getvalue()).decode()}"


def _rest(lost: Sequence[Unfinished], problems: Sequence[str]) -> str:
    parts = []
    if lost:
        lines = "".join(
            f"<li>{_text(run.folder.name)}: {_text(' '.join(run.overrides or ()) or 'nothing of it is known')}</li>"
            for run in lost
        )
        parts.append(f"<section><h2>Runs without a result, of no row above</h2><ul>{lines}</ul></section>\n")
    if problems:
        lines = "".join(f"<li>{_text(problem)}</li>" for problem in problems)
        parts.append(f"<section><h2>Files that were not used, or not as they are</h2><ul>{lines}</ul></section>\n")
    return "".join(parts)


def _text(text: str) -> str:
    return html.escape(text, quote=True)
