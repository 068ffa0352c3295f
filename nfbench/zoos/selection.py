"""Which networks of a zoo file are used: parts by item, then views of each item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfbench.zoos.splits import Split, make_split, nested_parts, split_names
from nfbench.zoos.store import ZooData

COLUMN = "file"  # the split that stands in the file, as a text column of this content:
PARTS = ("train", "val", "test")
TENS = "tens"  # of each ten items of a class, by index: the third validation, the fifth test, the rest training
_VAL, _TEST = 2, 4
_STREAM = 20231017  # fixed for ever: a change would move items into and out of subsets


@dataclass(frozen=True)
class Selection:
    """Networks of a file.

    Attributes:
        rows: of the file, ascending.
        split: its items, all of them in the file.
        num_views: networks of each training item.
        missing: items of the rule that the file lacks.
        summary: all this in one line.
    """

    rows: NDArray[np.int64]
    split: Split
    num_views: int
    missing: int
    summary: str


def choose_split(data: ZooData, name: str | None) -> str:
    """The rule's name; where none is given, the file's own column, else its manifest's if that is known, else `TENS`.

    Raises:
        ValueError: a rule that this zoo doesn't have.
    """
    own = (COLUMN,) if "split" in data.extra else ()
    allowed = (*own, *split_names(str(data.manifest.get("source"))), TENS)
    said = str(data.manifest.get("split"))
    chosen = name or (COLUMN if own else said if said in allowed else TENS)
    if chosen not in allowed:
        raise ValueError(f"zoo.split={chosen!r} is not known for this file. Choose one of: {', '.join(allowed)}.")
    return chosen


def split_items(data: ZooData, name: str, num_images: int | None) -> Split:
    """The items of a rule, whether or not the file has them, or those of a nested subset.

    Raises:
        ValueError: a column ``split`` that names other parts, or one item in two; too few or too many items.
    """
    manifest = data.manifest
    if num_images is None and name == manifest.get("split"):
        num_images = manifest.get("num_images")  # of a zoo that was built of a part of the images
    if name not in (COLUMN, TENS):
        return make_split(manifest["source"], name, num_images)
    parts = _parts_of_column(data) if name == COLUMN else _tens(data)
    stream = np.random.Generator(np.random.PCG64(_STREAM))
    return Split(*nested_parts([stream.permutation(part) for part in parts], num_images, "zoo.num_images", "items"))


def _parts_of_column(data: ZooData) -> list[NDArray[np.int64]]:
    found = [np.unique(data.index[data.extra["split"] == part]) for part in PARTS]
    if not all(map(len, found)):
        raise ValueError(
            f"the column split of this file has {', '.join(np.unique(data.extra['split']))}: it needs "
            f"{', '.join(PARTS)}. Choose another zoo.split."
        )
    if len(np.unique(np.concatenate(found))) < sum(map(len, found)):
        raise ValueError("the column split of this file puts networks of one item into several parts. Choose another "
                         "zoo.split.")  # fmt: skip
    return found


def _tens(data: ZooData) -> list[NDArray[np.int64]]:
    item, first = np.unique(data.index, return_index=True)
    label = data.label[first]
    order = np.argsort(label, kind="stable")  # by class, in each by index
    place = np.empty(len(item), np.int64)
    place[order] = _ranks(label[order]) % 10
    if place.max(initial=-1) < _TEST:
        raise ValueError(
            f"zoo.split={TENS} takes the third item of a class for validation and its fifth for testing, and this file "
            "has no class of 5 items or more. Give labels.csv a column split (train, val, test), and import again."
        )
    return [item[(place != _VAL) & (place != _TEST)], item[place == _VAL], item[place == _TEST]]


def _ranks(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the same group come before each, where groups are ascending."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups, "left")


def select(
    data: ZooData, name: str, items: Split, num_views: int | None = None, first_view: int = 0, eval_views: str = "one"
) -> Selection:
    """The networks of a split that a file has.

    Training items have the same number of networks each: the first ``num_views`` that are there from ``first_view``
    on; items with fewer are left out. Others have their first network, or all of them with ``eval_views="all"``.

    Args:
        data: the zoo.
        name: of the split, for messages.
        items: of the split.
        num_views: None: as many as every training item of the file has.
        first_view: of training.
        eval_views: ``one`` or ``all``.

    Raises:
        ValueError: a part of which nothing is in the file, or no training item with so many networks.
    """
    if num_views is not None and num_views < 1:
        raise ValueError(f"zoo.num_views={num_views} must be 1 or more, or null.")
    rows: dict[str, NDArray[np.int64]] = {}
    missing: dict[str, int] = {}
    for part, wanted in items.parts.items():
        rows[part] = np.flatnonzero(np.isin(data.index, wanted))
        missing[part] = int((~np.isin(wanted, data.index)).sum())
        if not len(rows[part]):
            raise ValueError(
                f"zoo.split={name} has no {part} items in this file: {len(wanted)} belong there, and the file has none "
                f"of them (it has {data.index[0]} to {data.index[-1]}). Choose another zoo.split."
            )
    train = rows["train"][data.view[rows["train"]] >= first_view]
    counts = np.unique(data.index[train], return_counts=True)[1]
    most = int(counts.max(initial=0))
    if most < (num_views or 1):
        raise ValueError(
            f"no training item of this file has {num_views or 1} networks (zoo.num_views) from view {first_view} on "
            f"(zoo.first_view): they have {most} at most."
        )
    used = num_views or int(counts.min())
    train = train[np.repeat(counts >= used, counts)]
    rows["train"] = train[_ranks(data.index[train]) < used]
    if eval_views == "one":
        for part in ("val", "test"):
            rows[part] = rows[part][_ranks(data.index[rows[part]]) == 0]
    split = Split(*(part[np.isin(part, data.index[rows[key]])] for key, part in items.parts.items()))
    sizes = " / ".join(str(len(part)) for part in split.parts.values())
    summary = f"split {name}: {sizes} items for training, validation and test, {used} networks of each training item"
    if total := sum(missing.values()):
        where = ", ".join(f"{part} {count}" for part, count in missing.items() if count)
        summary += f"; {total} items of the split are not in the file ({where})"
    if fewer := len(items.train) - missing["train"] - len(split.train):
        summary += f"; {fewer} training items with fewer networks are left out"
    elif most > used and num_views is None:
        summary += (
            f"; up to {most} are there: zoo.num_views={most} would leave out {int((counts < most).sum())} items that "
            "have fewer"
        )
    return Selection(np.sort(np.concatenate([*rows.values()])), split, used, total, summary)
