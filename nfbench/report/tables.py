"""Results beside the published numbers: a table for each protocol, a row for each model, seeds together.

Numbers of two protocols are never in one table: its runs have the same task, data, definition, split, counts, metric,
access and size (`PROTOCOL`), and published ones the same task, data, zoo, views and metric. Seeds are together where
everything but the seed is equal (`config_key`, and `PREPARED` for what stands in a row).
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nfbench.report.labels import common_words, own_words
from nfbench.report.published import (
    Cell,
    anchor,
    data_differences,
    differences,
    family,
    larger_is_better,
    nearest,
    place,
    published,
)  # fmt: skip
from nfbench.report.results import Found, Run, Unfinished, config_key, typed

# What all runs of a table have in common, as far as their task knows it.
PROTOCOL = (
    "task", "dataset", "edit", "definition", "metric", "size", "access", "split", "views", "eval_views", "num_images",
    "num_networks", "runs", "steps", "num_train", "num_val", "num_test", "network", "sparsity", "scope", "prune_biases",
    "ticket_epochs", "recipe_hash", "fingerprint", "first_view", "num_missing", "clouds", "samples", "loss_target",
    "images", "origin",
)  # fmt: skip
# How a row's model got its networks: each row says it.
PREPARED = ("canonicalized", "standardized", "augmentations", "latent_views", "latent_augmented_epochs")
TASKS = ("inr_cls", "inr2array", "inr2array_cls", "inr_edit", "cnn_gen", "tickets", "measures")
_TITLE = {
    "dataset": "{}", "edit": "{}", "definition": "definition {}", "views": "{} views", "num_images": "{} images",
    "num_networks": "{} networks", "size": "size {}",
}  # fmt: skip


@dataclass
class Row:
    """A model in a table.

    Attributes:
        label: the model, and what tells it from others of its name.
        cell: the published number of this model, if there is one.
        best: the best published number of the same access.
        values: our results by seed.
        failed: seeds whose run has no result.
        missing: seeds that other rows have and this one has not.
        reasons: why ours can't be compared with `cell`; empty where it can.
        run: one of our runs, for all that is the same in them.
        runs: all of them.
        spread: in place of a spread over seeds, with `spread_kind`.
        note: what else to say.
        drawn: what is random in a result without training, in place of seeds.
        before: the command that makes what the row's own command reads, such as its encoder.
    """

    label: str
    cell: Cell | None = None
    best: Cell | None = None
    values: dict[int, float] = field(default_factory=dict)
    failed: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    run: Run | None = None
    runs: list[Run] = field(default_factory=list)
    spread: float | None = None
    spread_kind: str = "over seeds"
    note: str = ""
    drawn: str = "–"
    before: str = ""

    @property
    def mean(self) -> float | None:
        """Over seeds; None where nothing was run."""
        return statistics.mean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds; None of fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else self.spread

    @property
    def standard_error(self) -> float | None:
        """Of the mean over seeds."""
        count = len(self.values)
        return statistics.stdev(self.values.values()) / math.sqrt(count) if count > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours less the published number; None where that would compare different things."""
        return None if self.cell is None or self.mean is None or self.reasons else self.mean - self.cell.number

    @property
    def seeds(self) -> str:
        """`3` of three, or `3 of 5, missing 1, 4`; what is random where nothing was trained."""
        if self.run is None and not self.failed:
            return "not run"
        if self.run is not None and self.get("params") is None:
            return str(len(self.values)) if len(self.values) > 1 else self.drawn
        total = len(self.values) + len(self.failed) + len(self.missing)
        parts = [str(len(self.values))] if total == len(self.values) else [f"{len(self.values)} of {total}"]
        return ", ".join([*parts, *self.lacks])

    @property
    def lacks(self) -> list[str]:
        """`failed 2`, `missing 1, 4`: the seeds without a result."""
        named = (("failed", self.failed), ("missing", self.missing))
        return [f"{name} {', '.join(map(str, sorted(which)))}" for name, which in named if which]

    def get(self, name: str) -> Any:
        """What our runs say under a name; None where there are none or they don't say."""
        return None if self.run is None else self.run.summary.get(name)

    @property
    def prepared(self) -> str:
        """How the networks were prepared for the model."""
        if self.run is None:
            return ""
        parts = ["canonicalised"] * bool(self.get("canonicalized"))
        parts += [f"standardised: {self.get('standardized')}"] * (self.get("standardized") not in (None, "none"))
        parts += [f"augmented: {self.get('augmentations')}"] * (self.get("augmentations") not in (None, "none"))
        parts += [f"encoder {self.get('encoder')}"] * bool(self.get("encoder"))
        return "; ".join(parts) or ("raw" if self.get("standardized") else "")

    @property
    def command(self) -> str:
        """What makes this row, with its first seed."""
        own = str(self.get("command") or "") or (self.cell.command if self.cell else "")
        return f"{self.before} && {own}" if self.before else own


@dataclass
class Table:
    """Rows of one protocol.

    Attributes:
        task: of all rows.
        title: what it is of.
        facts: the protocol.
        metric: of all rows.
        rows: the best first.
        published: whether it is the protocol of a paper; else published numbers in it are of another one.
    """

    task: str
    title: str
    facts: dict[str, Any]
    metric: str
    rows: list[Row]
    published: bool


def protocol(summary: Mapping[str, Any], metric: str | None = None) -> dict[str, Any]:
    """What two results must have in common to stand in one table."""
    edit = ((summary.get("config") or {}).get("task") or {}).get("edit")
    said = {**summary, **({"edit": edit} if edit else {}), **({"metric": metric} if metric else {})}
    return {name: said[name] for name in PROTOCOL if name in said}


def make_tables(found: Found, seeds: Sequence[int] | None = None) -> tuple[list[Table], list[Unfinished]]:
    """All tables, those of the papers' protocols first within a task, and the unfinished runs of no row.

    Args:
        found: what `collect` gave.
        seeds: those that each row should have; None: all that some row of its table has.
    """
    groups = _groups(found.runs, found.problems)
    _name_encoders(groups.values())
    lost = [run for run in found.unfinished if not _adopt(run, groups)]
    for group in groups.values():
        for seed in group.values:
            group.failed = [failed for failed in group.failed if failed != seed]
    tables = [_paper_table(cells, groups) for cells in _by_protocol().values()]
    taken = {id(run) for table in tables for row in table.rows for run in row.runs}
    own: dict[str, list[Row]] = {}
    for row in groups.values():
        if not any(id(run) in taken for run in row.runs):
            own.setdefault(_key(row), []).append(row)
    for reference in found.references:
        own.setdefault(_matching(reference, own), []).append(_reference(reference))
    tables += [_own_table(rows) for rows in own.values()] + _measures(found.measures)
    for table in tables:
        _finish(table, seeds)
    _tell_apart(tables)
    return sorted(tables, key=_order), lost


def _groups(runs: Iterable[Run], problems: list[str]) -> dict[str, Row]:
    groups: dict[str, Row] = {}
    for run in sorted(runs, key=lambda run: int(run.summary["seed"])):
        kept = {name: run.summary.get(name) for name in PREPARED}
        key = repr((protocol(run.summary), kept, run.summary["model"], config_key(run.summary)))
        row, seed = groups.setdefault(key, Row(str(run.summary["model"]), run=run)), int(run.summary["seed"])
        if seed in row.values:  # of an encoder that was trained again, so with other weights
            problems.append(f"{run.path}: left out, since {row.runs[-1].path} is of the same config and seed {seed}")
            continue
        row.runs.append(run)
        row.values[seed] = run.value
    return groups


def _name_encoders(rows: Iterable[Row]) -> None:
    """Puts the command of its encoder's run before that of each row that reads one, where that run is at hand."""
    known = {}
    for row in (rows := list(rows)):
        for run in row.runs:
            name = "{task} {model}, seed {seed}, {config_hash}".format_map(run.summary)
            known[name] = str(run.summary.get("command"))
    for row in rows:
        row.before = known.get(str(row.get("encoder")), "")


def _adopt(run: Unfinished, groups: Mapping[str, Row]) -> bool:
    """Notes an unfinished run in the row whose other seeds it belongs with."""
    for row in groups.values():
        same = run.config_hash is not None and run.config_hash == row.get("config_hash")
        if run.config_hash is None and run.overrides is not None:
            same = run.overrides == typed(str(row.get("command")))
        if same and run.seed is not None:
            row.failed.append(run.seed)
            return True
    return False


def _key(row: Row) -> str:
    assert row.run is not None
    return repr(protocol(row.run.summary))


def _by_protocol() -> dict[tuple[str, ...], list[Cell]]:
    tables: dict[tuple[str, ...], list[Cell]] = {}
    for cell in published():
        tables.setdefault(cell.protocol, []).append(cell)
    return tables


def _paper_table(cells: list[Cell], groups: Mapping[str, Row]) -> Table:
    """The published numbers of a protocol, and our runs of the same data and size."""
    task, dataset, zoo, views, metric = cells[0].protocol
    rows = [Row(cell.model, cell) for cell in cells]
    for group in groups.values():
        assert group.run is not None
        summary = group.run.summary
        if summary["task"] != task or metric not in summary["metrics"] or place(summary)[0] != dataset:
            continue
        if data_differences(summary, cells[0]):
            continue
        own = next((row for row in rows if row.cell is not None and row.cell.model == family(summary)), None)
        cell = own.cell if own else None
        row = Row(group.label, cell, failed=list(group.failed), run=group.run, runs=group.runs, before=group.before)
        row.values = {int(run.summary["seed"]): float(run.summary["metrics"][metric]) for run in group.runs}
        row.reasons = differences(summary, cell) if cell else []
        if own is not None and not row.reasons and own.run is None:
            rows[rows.index(own)] = row
        else:
            rows.append(row)
        for base in rows:  # masks that no model made, which each run of `tickets` tests as well
            value = summary["metrics"].get(f"{metric}/{base.label}")
            if base.run is None and value is not None:
                base.values, base.run = {0: float(value)}, Run(group.run.path, {"command": summary["command"]})
    facts = {"task": task, "dataset": dataset, "zoo": zoo, "views": views, "metric": metric, "size": "full"}
    return Table(task, f"{dataset}, {zoo} zoo, {views} view{'s' * (views != '1')}", facts, metric, rows, True)


def _own_table(rows: list[Row]) -> Table:
    """Our runs of one protocol, which no paper has; the nearest published numbers beside them are marked as such."""
    first = next((row for row in rows if "params" in (row.run.summary if row.run else {})), rows[0])
    assert first.run is not None
    summary = first.run.summary
    metric, facts = str(summary["metric"]), protocol(summary)
    for row in rows:
        assert row.run is not None
        row.cell = nearest(row.run.summary, metric)
        row.reasons = differences(row.run.summary, row.cell) if row.cell else []
    accuracies = summary["metrics"]
    for name in [name.removeprefix("test/acc/") for name in accuracies if name.startswith("test/acc/")]:
        base = Row(name, nearest({**summary, "model": name}, metric), values={0: float(accuracies[f"test/acc/{name}"])})
        said = ("task", "command", "wall_s", "machine", *facts)
        base.run = Run(first.run.path, {"standardized": "none", **{k: summary[k] for k in said if k in summary}})
        base.drawn = f"{summary['num_test']} initialisations" if "num_test" in summary else "–"
        base.reasons = ["another protocol"] * (base.cell is not None)
        base.spread, base.spread_kind = accuracies.get(f"test/acc_std/{name}"), "over initialisations"
        base.note = "mask without a model, trained on the same networks; seconds are of its command, all rows together"
        rows.append(base)
    titled = [form.format(facts[name]) for name, form in _TITLE.items() if name in facts]
    return Table(str(summary["task"]), ", ".join(titled), facts, metric, rows, False)


def _matching(reference: Run, own: Mapping[str, list[Row]]) -> str:
    """The table of the same data that a result without training belongs in; a new one where there is none."""
    facts = protocol(reference.summary)
    for key, rows in own.items():
        other = protocol(rows[0].run.summary) if rows[0].run else {}
        # Not all say all: a bound has no size, and may be of some of the test networks only.
        if all(other.get(name) == value for name, value in facts.items()):
            return key
    return repr(facts)


def _reference(run: Run) -> Row:
    row = Row(str(run.summary["model"]), values={0: run.value}, run=run, runs=[run])
    measured = run.summary.get("measured")
    row.drawn = f"zoo seed {run.summary['seed']}"
    row.note = "not trained" + (f"; of {measured:,} test networks" if measured else "")
    return row


def _measures(runs: Iterable[Run]) -> list[Table]:
    """A table for each zoo and settings: how each measure ranks networks, seeds together."""
    groups: dict[str, tuple[dict[str, Any], dict[str, Row]]] = {}
    for run in runs:
        about = run.summary["about"]
        settings = {name: value for name, value in about["settings"].items() if name != "seed"}
        facts = {"dataset": about["images"]["source"], "zoo": about["zoo"], "steps": about["steps"],
                 "num_test": run.summary.get("test_networks"), "access": about["access"], **settings}  # fmt: skip
        _, rows = groups.setdefault(repr(facts), (facts, {}))
        for line in run.summary["table"]:
            row = rows.setdefault(line["measure"], Row(line["measure"], run=run))
            if line["tau_accuracy"] is not None:  # None: one value for all networks, which has no order
                row.values[int(about["settings"]["seed"])] = float(line["tau_accuracy"])
            row.runs.append(run)
            row.note = f"expected sign {line['expected_sign']:+d}" if line.get("expected_sign") else ""
    metric = "tau with test accuracy"
    return [Table("measures", f"{facts['dataset']}, zoo {facts['zoo']}", {"metric": metric, **facts}, metric,
                  list(rows.values()), False) for facts, rows in groups.values()]  # fmt: skip


def overrides(row: Row) -> list[str]:
    """The overrides that all seeds of a row were run with; not the encoder, which the row names beside."""
    return common_words([run.summary for run in row.runs])


def _finish(table: Table, seeds: Sequence[int] | None) -> None:
    """Missing seeds, anchors, labels and the order of the rows."""
    trained = [row for row in table.rows if row.get("params") is not None]
    wanted = set(seeds or ()) or {seed for row in trained for seed in (*row.values, *row.failed)}
    for row in trained:
        row.failed = sorted(set(row.failed))
        row.missing = sorted(wanted - set(row.values) - set(row.failed))
    for row in table.rows:
        access = row.cell.access if row.cell else row.get("access")
        if table.published:
            row.best = anchor(table.task, table.facts["dataset"], table.facts["zoo"], table.metric, str(access))
        elif row.run is not None and access and (row.cell is not None or row.get("params") is not None):
            row.best = anchor(table.task, *place(row.run.summary), table.metric, str(access))
    for name in {row.label for row in trained}:
        namesakes = [row for row in trained if row.label == name]
        words = own_words([[run.summary for run in row.runs] for row in namesakes])
        for row, own in zip(namesakes, words, strict=True):
            row.label = " ".join([name, *own])  # one that has nothing of its own keeps the plain name
    if table.task == "measures":  # of which the sign says nothing about how good they are
        table.rows.sort(key=lambda row: -abs(row.mean or 0))
        return
    up = 1 if larger_is_better(table.metric) else -1

    def value(row: Row) -> float:
        return row.mean if row.mean is not None else row.cell.number if row.cell else -up * math.inf

    table.rows.sort(key=lambda row: -up * value(row))


def _tell_apart(tables: list[Table]) -> None:
    """Tables of one title get the facts in which they differ."""
    for title in {(table.task, table.title) for table in tables}:
        same = [table for table in tables if (table.task, table.title) == title]
        names = {name for table in same for name in table.facts}
        differ = [name for name in PROTOCOL if name in names and len({repr(t.facts.get(name)) for t in same}) > 1]
        for table in same if len(same) > 1 else ():
            table.title += "".join(f", {name} {str(table.facts.get(name))[:16]}" for name in differ)


def _order(table: Table) -> tuple[Any, ...]:
    place = TASKS.index(table.task) if table.task in TASKS else len(TASKS)
    return (place, table.task, not table.published, table.title)


def paths(row: Row) -> list[Path]:
    """The files of a row."""
    return [run.path for run in row.runs]
