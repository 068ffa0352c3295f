"""Two models on the same test items: the difference of a metric, by a paired bootstrap over the items.

Every resample draws as many items as there are, with replacement, the same ones for both models; the metric of each is
computed on them, averaged over its seeds, and the difference is taken. The 95 % interval is that of the middle 95 % of
these differences. It says how the result depends on which networks were in the test, and with several seeds a side not
how it depends on the seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfbench.report.results import collect, config_key, read_rows
from nfbench.report.tables import protocol

Floats = NDArray[np.float64]
CHUNK = 4_000_000  # numbers of a block: 32 MB
# What may differ between two models on one zoo.
_OWN = ("metric", "images", "origin")
_ID = ("index", "view")


@dataclass(frozen=True)
class Comparison:
    """What the bootstrap found.

    Attributes:
        metric: compared.
        a, b: the metric of either side, mean over its seeds, on all items.
        low, high: the 95 % interval of a - b.
        share: two-sided: twice the share of resamples in which the difference has the other sign or is zero, at most 1.
        items: in the test.
        seeds: of either side.
        resamples: how many.
    """

    metric: str
    a: float
    b: float
    low: float
    high: float
    share: float
    items: int
    seeds: tuple[int, int]
    resamples: int

    @property
    def difference(self) -> float:
        """a - b."""
        return self.a - self.b


def accuracy(weights: Floats, columns: dict[str, Floats]) -> Floats:
    """Share of right classes, (R,), of resamples (R, N) that count how often each item was drawn."""
    return _mean(weights, (columns["true"] == columns["predicted"]).astype(np.float64))


def _mean(weights: Floats, values: Floats) -> Floats:
    return np.asarray(weights @ values / weights.sum(1))


def r2(weights: Floats, columns: dict[str, Floats]) -> Floats:
    """1 - sum (t - p)² / sum (t - mean t)²."""
    true, error = columns["true"], columns["true"] - columns["predicted"]
    count = weights.sum(1)
    spread = weights @ true**2 - (weights @ true) ** 2 / count
    return np.asarray(1 - weights @ error**2 / np.where(spread > 0, spread, np.nan))


def kendall_tau(weights: Floats, columns: dict[str, Floats]) -> Floats:
    """Tau-b. An item that was drawn twice is tied with itself, in truth and prediction."""
    true, predicted = columns["true"], columns["predicted"]
    single = weights.astype(np.float32)  # counts: sums of a row stay exact
    ordered = np.zeros(len(weights))
    block = max(CHUNK // len(true), 1)
    for start in range(0, len(true), block):  # of the matrix of pairs
        part = slice(start, start + block)
        signs = np.sign(true[part, None] - true) * np.sign(predicted[part, None] - predicted)  # (block, N)
        ordered += (weights[:, part] * (single @ signs.T.astype(np.float32))).sum(1)
    count = weights.sum(1) ** 2
    untied = [count - _tied(weights, values) for values in (true, predicted)]
    scale = np.sqrt(untied[0] * untied[1])
    return np.asarray(np.divide(ordered, scale, out=np.zeros_like(ordered), where=scale > 0))


def _tied(weights: Floats, values: Floats) -> Floats:
    """Pairs (both orders, and each with itself) of equal values, (R,)."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    return np.asarray((np.add.reduceat(weights[:, order], starts, axis=1) ** 2).sum(1))


def _column(name: str) -> Callable[[Floats, dict[str, Floats]], Floats]:
    return lambda weights, columns: _mean(weights, columns[name])


# task -> metric -> its value on resamples, and the columns that are the same for all models of a zoo
METRICS: dict[str, dict[str, Callable[[Floats, dict[str, Floats]], Floats]]] = {
    "inr_cls": {"test/acc": accuracy},
    "inr2array_cls": {"test/acc": accuracy},
    "inr2array": {"test/psnr": _column("psnr")},
    "cnn_gen": {"test/kendall_tau": kendall_tau, "test/r2": r2},
    "inr_edit": {"test/mse": _column("edited")},
    "tickets": {"test/acc": _column("accuracy")},
}
_SHARED = {"inr_edit": "identity", "tickets": "dense"}


def compare(
    ours: Sequence[Path], theirs: Sequence[Path], metric: str | None = None, resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """The difference between two models, each of one run or of several seeds.

    Args:
        ours, theirs: run folders; those of one side differ by the seed alone.
        metric: one of `METRICS` of the task; None: the task's own.
        resamples: of the test items.
        seed: of the resampling.

    Raises:
        ValueError: folders without results, of other zoos or test items, or a metric that the task has not.
    """
    if resamples < 1:
        raise ValueError(f"{resamples} resamples are too few: take 10,000, or at least 1")
    sides = [[_result(folder) for folder in side] for side in (ours, theirs)]
    first = sides[0][0]
    for side in sides:
        for folder, summary in side[1:]:
            if (summary["model"], config_key(summary)) != (side[0][1]["model"], config_key(side[0][1])):
                raise ValueError(
                    f"{side[0][0]} and {folder}, both of one side, differ by more than the seed: give one model's seeds"
                )
    for folder, summary in (*sides[0], *sides[1]):
        _same_zoo(first, (folder, summary))
    task = str(first[1]["task"])
    known = METRICS.get(task)
    if known is None:
        raise ValueError(f"runs of task {task} can't be compared item by item: there are {', '.join(METRICS)}")
    name = metric or str(first[1]["metric"])
    if name not in known:
        raise ValueError(f"metric {name} is not computed item by item for {task}: choose one of {', '.join(known)}")
    columns = [[_columns(folder, task) for folder, _ in side] for side in sides]
    reference = columns[0][0]
    for side, tables in zip(sides, columns, strict=True):
        for (folder, _), table in zip(side, tables, strict=True):
            _same_items(first[0], reference, folder, table)
    (value, other), drawn = _draw([[known[name]] * len(side) for side in columns], columns, resamples, seed)
    change = drawn[0] - drawn[1]
    change = change[np.isfinite(change)]
    low, high = np.quantile(change, [0.025, 0.975])
    share = min(1.0, 2 * min((change <= 0).mean(), (change >= 0).mean()))
    seeds = (len(ours), len(theirs))
    return Comparison(
        name, value, other, float(low), float(high), float(share), len(reference["index"]), seeds, resamples
    )


def _draw(
    metrics: list[list[Callable[[Floats, dict[str, Floats]], Floats]]], columns: Any, resamples: int, seed: int
) -> tuple[list[float], list[Floats]]:
    """Metrics on all items, and on resamples; the same items are drawn for both sides."""
    count = len(columns[0][0]["index"])
    rng = np.random.default_rng(seed)

    def both(weights: Floats) -> list[Floats]:
        return [
            np.mean([each(weights, table) for each, table in zip(side, tables, strict=True)], axis=0)
            for side, tables in zip(metrics, columns, strict=True)
        ]

    values = [float(value[0]) for value in both(np.ones((1, count)))]
    parts = []
    for start in range(0, resamples, step := max(CHUNK // count, 1)):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
        parts.append(both(weights))
    return values, [np.concatenate([part[side] for part in parts]) for side in (0, 1)]


def _result(folder: Path) -> tuple[Path, dict[str, Any]]:
    if not (folder / "summary.json").is_file():
        raise ValueError(f"{folder} has no summary.json: give the folders of finished runs")
    found = collect([folder / "summary.json"])
    if not found.runs:
        raise ValueError("\n".join(found.problems) or f"{folder} is no run of training")
    return folder, dict(found.runs[0].summary)


def _same_zoo(first: tuple[Path, dict[str, Any]], other: tuple[Path, dict[str, Any]]) -> None:
    ours, theirs = ({k: v for k, v in protocol(s).items() if k not in _OWN} for _, s in (first, other))
    differ = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if differ:
        lines = [f"  {name}: {ours.get(name)} and {theirs.get(name)}" for name in differ]
        raise ValueError(
            "\n".join([f"{first[0]} and {other[0]} are not of the same zoo and test:", *lines, "Give runs on one zoo"])
        )


def _columns(folder: Path, task: str) -> dict[str, Floats]:
    """The columns of `predictions.csv`, in the order of the items."""
    rows = read_rows(folder / "predictions.csv")
    if not rows:
        raise ValueError(f"{folder} has no predictions.csv: train the run again with rerun=true")
    dense: list[dict[str, str]] = []
    if task == "tickets":
        dense = [row for row in rows if row["source"] == "dense"]
        rows = [row for row in rows if row["source"] == "model"]
    names = [name for name in rows[0] if name in (*_ID, "true", "predicted", "psnr", "identity", "edited", "accuracy")]
    table = {name: np.array([float(row[name]) for row in rows]) for name in names}
    order = np.lexsort((table["view"], table["index"]))
    table = {name: values[order] for name, values in table.items()}
    if shared := _SHARED.get(task):
        if dense:
            keys = np.lexsort([[float(row[name]) for row in dense] for name in reversed(_ID)])
            table[shared] = np.array([float(row["accuracy"]) for row in dense])[keys]
        table["true"] = table[shared]
    return table


def _same_items(folder: Path, ours: dict[str, Floats], other: Path, theirs: dict[str, Floats]) -> None:
    for name, what in (("index", "test items"), ("view", "test items"), ("true", "true values")):
        if name not in ours and name not in theirs:
            continue
        a, b = ours.get(name), theirs.get(name)
        # Numbers of another machine may differ in the last digits; classes and indices do not.
        if a is None or b is None or a.shape != b.shape or not np.allclose(a, b, rtol=1e-3, atol=1e-6):
            counts = f"{len(ours['index']):,} and {len(theirs['index']):,}"
            raise ValueError(
                f"{folder} and {other} have other {what} ({counts} rows of predictions.csv): only runs that were "
                "tested on the same networks can be compared item by item"
            )
