"""Small plots as SVG text: they take their colours from the page around them, and stay sharp on a phone."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH = 360  # of every plot, in its own units: a phone shows them about one to one
_SIDE, _ROW, _TOP, _AXIS = 14.0, 36.0, 6.0, 38.0
_LABEL = 54  # letters that fit above a row
COLORS = 8  # that the page defines: --c0 ...


@dataclass
class Dots:
    """A row of a dot plot.

    Attributes:
        label: above the row.
        values: points; their mean is a bar.
        paper: a published number.
        same: whether it is of the same protocol.
        spread: a whisker to both sides of the mean.
    """

    label: str
    values: Sequence[float]
    paper: float | None = None
    same: bool = False
    spread: float | None = None


@dataclass
class Curve:
    """Lines of one colour: (x, y) of each seed."""

    label: str
    lines: list[tuple[list[float], list[float]]] = field(default_factory=list)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within a range, at most so many."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (factor * step) < most)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """The same number of decimals for all, as few as tell them apart."""
    if max(map(abs, values), default=0) >= 10_000:
        return [f"{value / 1000:g}k" for value in values]
    for decimals in range(7):
        texts = [f"{value:.{decimals}f}" for value in values]
        if all(math.isclose(float(text), value, abs_tol=1e-9) for text, value in zip(texts, values, strict=True)):
            return texts
    return [f"{value:g}" for value in values]


def dot_plot(rows: Sequence[Dots], title: str) -> str:
    """Seeds as points, their mean as a bar, the published number as a diamond: hollow if it is of another protocol."""
    shown = [v for row in rows for v in (*row.values, *([row.paper] if row.paper is not None else []))]
    shown += [
        sum(row.values) / len(row.values) + s for row in rows if row.spread and row.values
        for s in (-row.spread, row.spread)
    ]  # fmt: skip
    low, high = min(shown), max(shown)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - margin, high + margin
    height = _TOP + _ROW * len(rows) + _AXIS

    def x(value: float) -> float:
        return _SIDE + (WIDTH - 2 * _SIDE) * (value - low) / (high - low)

    bottom = _TOP + _ROW * len(rows)
    parts = _x_axis(ticks(low, high), x, _TOP, bottom)
    for number, row in enumerate(rows):
        y = _TOP + _ROW * number + 25
        label = row.label if len(row.label) <= _LABEL else f"{row.label[: _LABEL - 1]}…"
        parts.append(f'<text class="label" x="{_SIDE}" y="{y - 11:.1f}">{_text(label)}</text>')
        parts.append(f'<line class="track" x1="{_SIDE}" x2="{WIDTH - _SIDE}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if row.paper is not None:
            at, kind = x(row.paper), "paper" if row.same else "paper other"
            what = f"published {row.paper:g}" + ("" if row.same else ", another protocol")
            parts.append(f'<path class="{kind}" d="M{at:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z">'
                         f"<title>{_text(what)}</title></path>")  # fmt: skip
        if row.values:
            mean = sum(row.values) / len(row.values)
            if row.spread:
                ends = f'x1="{x(mean - row.spread):.1f}" x2="{x(mean + row.spread):.1f}"'
                parts.append(f'<line class="whisker" {ends} y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<line class="mean" x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{y - 7:.1f}" y2="{y + 7:.1f}">'
                         f"<title>mean {mean:.4f}</title></line>")  # fmt: skip
            parts += [f'<circle class="seed" cx="{x(v):.1f}" cy="{y:.1f}" r="3.2"/>' for v in row.values]
    parts.append(f'<text class="axis-title" x="{WIDTH / 2}" y="{height - 5:.1f}">{_text(title)}</text>')
    return _svg(height, title, parts)


def curve_plot(curves: Sequence[Curve], title: str, x_title: str = "epoch", height: float = 230) -> str:
    """A colour a curve, a line a seed; the legend is the page's."""
    points = [(x, y) for curve in curves for xs, ys in curve.lines for x, y in zip(xs, ys, strict=True)]
    left_edge, right_edge = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - margin, high + margin
    heights = ticks(low, high)
    names = tick_labels(heights)
    left = 14 + 6.5 * max(map(len, names), default=0)
    bottom = height - _AXIS

    def x(value: float) -> float:
        return left + (WIDTH - _SIDE - left) * (value - left_edge) / ((right_edge - left_edge) or 1)

    def y(value: float) -> float:
        return bottom - (bottom - _TOP) * (value - low) / (high - low)

    parts = _x_axis([t for t in ticks(left_edge, right_edge) if t == int(t)] or [left_edge], x, _TOP, bottom)
    for value, name in zip(heights, names, strict=True):
        parts.append(
            f'<line class="grid" x1="{left:.1f}" x2="{WIDTH - _SIDE}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(f'<text class="tick end" x="{left - 5:.1f}" y="{y(value) + 3.5:.1f}">{_text(name)}</text>')
    for number, curve in enumerate(curves):
        dash = f' stroke-dasharray="{(5, 2, 8)[number // COLORS % 3]} 3"' if number >= COLORS else ""
        for xs, ys in curve.lines:
            path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, ys, strict=True))
            parts.append(f'<polyline class="curve" style="stroke:var(--c{number % COLORS})"{dash} points="{path}"/>')
    parts.append(
        f'<text class="axis-title" x="{(left + WIDTH - _SIDE) / 2:.1f}" y="{height - 5}">{_text(x_title)}</text>'
    )
    return _svg(height, title, parts)


def _x_axis(values: Sequence[float], x, top: float, bottom: float) -> list[str]:  # type: ignore[no-untyped-def]
    parts = []
    for value, name in zip(values, tick_labels(values), strict=True):
        parts.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top}" y2="{bottom:.1f}"/>')
        parts.append(f'<text class="tick" x="{x(value):.1f}" y="{bottom + 14:.1f}">{_text(name)}</text>')
    return parts


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{_text(title)}">'
    return "".join([head, *parts, "</svg>"])


def _text(text: str) -> str:
    return html.escape(text, quote=True)
