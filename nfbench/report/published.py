"""The published numbers of `paper_numbers.csv`: what they are of, the best of them, whether a run is of the same."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nfbench.report.results import read_rows, typed

NUMBERS = Path(__file__).with_name("paper_numbers.csv")
SMALLER_IS_BETTER = ("mse", "mse_unit", "loss", "l1")
# Suffixes of our models' names that say which published size they are.
_SIZES = ("_edit", "_cnn", "_scale3")
_TICKETS = {"mnist": "imp95_mlp", "cifar10": "imp95_cnn"}
_FULL = {"inr": 45_000, "small_cnn": 11_995}  # networks or images to train on, at least


@dataclass(frozen=True)
class Cell:
    """A published number, as the columns of the file name it; `value` and `spread` as printed, `command` makes ours."""

    task: str
    dataset: str
    zoo: str
    model: str
    views: str
    access: str
    metric: str
    value: str
    spread: str
    spread_kind: str
    runs: str
    source: str
    confidence: str
    note: str
    command: str

    @property
    def number(self) -> float:
        """The value."""
        return float(self.value)

    @property
    def shown(self) -> str:
        """Value and spread."""
        return f"{self.value} ± {self.spread}" if self.spread else self.value

    @property
    def protocol(self) -> tuple[str, ...]:
        """What numbers of one table have in common."""
        return (self.task, self.dataset, self.zoo, self.views, self.metric)


@cache
def published() -> tuple[Cell, ...]:
    """All rows of the file."""
    return tuple(Cell(**row) for row in read_rows(NUMBERS))


def larger_is_better(metric: str) -> bool:
    """Whether a metric is an accuracy or a correlation rather than an error."""
    return metric.split("/")[1] not in SMALLER_IS_BETTER


def best(cells: Iterable[Cell]) -> Cell | None:
    """The best of cells of one metric; None of none."""
    found = sorted(cells, key=lambda cell: cell.number)
    return None if not found else found[-1] if larger_is_better(found[0].metric) else found[0]


def anchor(task: str, dataset: str, zoo: str, metric: str, access: str) -> Cell | None:
    """The best published number of the same data, metric and access; of any zoo where this one has none."""
    same = [c for c in published() if (c.task, c.dataset, c.metric, c.access) == (task, dataset, metric, access)]
    return best([cell for cell in same if cell.zoo == zoo] or same)


def family(summary: Mapping[str, Any]) -> str:
    """The model's name in the papers: `nfn_np` of `nfn_np_edit`."""
    name = str(summary["model"])
    for suffix in _SIZES:
        name = name.removesuffix(suffix)
    model = (summary.get("config") or {}).get("model") or {}
    if name in ("mlp", "mlp_aug") and model.get("width") in (4000, 8000):
        name += f"_{model['width']}"
    if name == "nfn_pt" and summary["task"] == "tickets" and model.get("norm") == "none":
        name += "_no_norm"
    return name


def place(summary: Mapping[str, Any]) -> tuple[str, str]:
    """Data set and zoo of a run, in the words of the numbers file; a zoo that no paper has keeps its own name."""
    task, dataset, definition = (str(summary.get(key)) for key in ("task", "dataset", "definition"))
    config = summary.get("config") or {}
    if task == "tickets":
        return dataset, _TICKETS.get(dataset, "imp95")
    if task == "cnn_gen":
        name = str(summary.get("zoo"))
        if name in ("mlp3_mnist", "mlp5_mnist"):
            return dataset, name[:4]
        return dataset if dataset.endswith("gs") else f"{dataset}gs", definition
    zoo = "dws" if definition in ("dws", "dws_mnist", "dws_fashion") else definition
    if task == "inr_edit":
        return f"{dataset}_{(config.get('task') or {}).get('edit')}", zoo
    return dataset, zoo


def nearest(summary: Mapping[str, Any], metric: str) -> Cell | None:
    """The published number of the same model and data, of the same zoo if there is one, read rather than reprinted."""
    dataset, zoo = place(summary)
    wanted = (summary["task"], dataset, family(summary), metric)
    found = [cell for cell in published() if (cell.task, cell.dataset, cell.model, cell.metric) == wanted]
    found.sort(
        key=lambda cell: (cell.zoo != zoo, cell.views != str(summary.get("views", 1)), cell.confidence != "read")
    )
    return found[0] if found else None


def _other_split(split: object, cell: Cell) -> bool:
    """Whether a split has other items in its parts than that of a published number."""
    if cell.zoo == "small_cnn":
        return split != "the file's own"
    source = cell.dataset.split("_")[0]
    if "inr" not in cell.task or source not in ("mnist", "fashion"):
        return False  # on CIFAR-10 all splits are the same, and other zoos have one split each
    wanted = "dws" if cell.zoo == "dws" else "inr2array" if cell.task == "inr2array_cls" else "nfn"
    same = {"nfn", "inr2array"} if source == "mnist" else set()  # on MNIST these two are one
    return split != wanted and {split, wanted} != same


def data_differences(summary: Mapping[str, Any], cell: Cell) -> list[str]:
    """What keeps a run's data from being those of a published number; empty where they are."""
    dataset, zoo = place(summary)
    reasons = [] if summary.get("size") == "full" else [f"size {summary.get('size')}"]
    if dataset != cell.dataset:
        reasons.append(f"data {dataset}")
    if zoo != cell.zoo:
        reasons.append(f"definition {summary.get('definition')}")
    if summary["task"] in ("inr_cls", "inr2array_cls") and str(summary.get("views")) != cell.views:
        reasons.append(f"views {summary.get('views')}")
    if _other_split(summary.get("split"), cell):
        reasons.append(f"split {summary.get('split')}")
    least = _FULL.get("small_cnn" if cell.zoo == "small_cnn" else "inr" if "inr" in cell.task else "", 0)
    if summary.get("num_train", 0) < least and not cell.dataset.endswith("net10"):
        reasons.append(f"{summary.get('num_train', 0):,} to train on")
    built = str(summary.get("definition", ""))
    if cell.zoo in ("mlp3", "mlp5", *_TICKETS.values()) and built not in ("built:full", "imp1:full"):
        reasons.append(f"definition {built}")
    if summary.get("access") != cell.access and cell.access != "-":
        reasons.append(f"access {summary.get('access')}")
    return reasons


def differences(summary: Mapping[str, Any], cell: Cell) -> list[str]:
    """What keeps a run from comparing with a published number: its data, or what was typed beyond the command."""
    reasons = data_differences(summary, cell)
    if summary.get("canonicalized"):
        reasons.append("canonicalised")
    theirs, ours = typed(cell.command), typed(str(summary.get("command", "")))
    if not cell.command:
        reasons.append("no command of ours is of its settings")
    elif any(word.startswith("experiment=") and word not in ours for word in theirs):
        reasons.append("other settings than " + next(word for word in theirs if word.startswith("experiment=")))
    else:
        extra = [word for word in ours if word not in theirs and not word.startswith("encoder=")]
        extra += [f"not {word}" for word in theirs if word not in ours and not word.startswith("encoder=")]
        # Where the data differ that is said already.
        reasons += [word for word in extra if not (reasons and word.removeprefix("not ").startswith("zoo"))]
    return list(dict.fromkeys(reasons))
