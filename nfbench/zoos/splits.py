"""Which images are for training, validation and testing: fixed rules on the image index, the same for every seed.

Named splits, in image indices (official training images, then official test images):

==========  ==================================================================================================
digits      a fixed permutation of the 1,797 images, then 1,197 / 200 / 400
official    MNIST, Fashion, CIFAR-10: 0-44,999 / 45,000-49,999 / all official test images
nfn         as the NFN code splits: 45,000 / 5,000 / everything after up to 60,000 (MNIST, CIFAR-10) or 70,000
            (Fashion: 20,000 test images). For MNIST the "test" images are therefore official training images
            50,000-59,999.
inr2array   as nfn, but Fashion 55,000 / 5,000 / 10,000
dws         55,000 / 5,000 / 10,000 (MNIST, Fashion); CIFAR-10 as official
==========  ==================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfbench.zoos.images import SOURCES, source_info

SPLITS = ("digits", "official", "nfn", "inr2array", "dws")
_STREAM = 20230228  # fixed for ever: a change would move images between splits


@dataclass(frozen=True)
class Split:
    """Image indices of each part, in the fixed order in which subsets take them."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def parts(self) -> dict[str, NDArray[np.int64]]:
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def all_images(self) -> NDArray[np.int64]:
        return np.concatenate([self.train, self.val, self.test])


def default_split(source: str, definition: str) -> str:
    """The split that is used when none is named."""
    if source == "digits":
        return "digits"
    if definition.startswith("dws"):
        return "dws"
    return "nfn" if definition == "nfn" and source == "fashion" else "official"


def split_names(source: str) -> tuple[str, ...]:
    """The named splits of a source; none where the source is not known here."""
    if source not in SOURCES:
        return ()
    return ("digits",) if source == "digits" else tuple(s for s in SPLITS if s != "digits")


def _ranges(source: str, split: str) -> tuple[range, range, range]:
    if split in ("nfn", "inr2array", "dws") and source == "fashion":
        if split == "nfn":
            return range(45_000), range(45_000, 50_000), range(50_000, 70_000)
        return range(55_000), range(55_000, 60_000), range(60_000, 70_000)
    if split == "dws" and source == "mnist":
        return range(55_000), range(55_000, 60_000), range(60_000, 70_000)
    if split in ("nfn", "inr2array"):
        return range(45_000), range(45_000, 50_000), range(50_000, 60_000)
    first_test = 50_000 if source == "cifar10" else 60_000
    return range(45_000), range(45_000, 50_000), range(first_test, first_test + 10_000)


def make_split(source: str, split: str, num_images: int | None = None) -> Split:
    """The split's image indices, or those of a nested subset of ``num_images`` images.

    A subset keeps the proportions of the parts; a larger subset contains every smaller one, part by part.

    Raises:
        ValueError: an unknown split, or one that this source doesn't have; too few or too many images.
    """
    info = source_info(source)
    allowed = split_names(source)
    if split not in allowed:
        raise ValueError(
            f"zoo.split={split!r} is not known for zoo.source={source}. Choose one of: {', '.join(allowed)}."
        )
    stream = np.random.Generator(np.random.PCG64(_STREAM))
    if source == "digits":
        order = stream.permutation(info.num_images)
        parts = [order[:1197], order[1197:1397], order[1397:]]
    else:
        parts = [stream.permutation(np.arange(r.start, r.stop)) for r in _ranges(source, split)]
    parts = nested_parts(parts, num_images, "zoo.num_images", "images")
    return Split(*(p.astype(np.int64) for p in parts))


def nested_parts(parts: list[NDArray[np.int64]], count: int | None, key: str, what: str) -> list[NDArray[np.int64]]:
    """The first items of each of three parts, ``count`` together, in the parts' proportions; None: all.

    A larger count has every item of a smaller one, part by part.

    Raises:
        ValueError: too few or too many; names ``key``, and ``what`` is counted.
    """
    total = sum(map(len, parts))
    if count is None or count == total:
        return parts
    if not 3 <= count <= total:
        raise ValueError(f"{key}={count}: this split has {total} {what}; give 3 to {total}, or null.")
    # All items in one order in which every prefix has the parts' proportions.
    place = np.concatenate([(np.arange(len(p)) + 0.5) / len(p) for p in parts])
    part = np.repeat(np.arange(3), [len(p) for p in parts])
    counts = np.bincount(part[np.argsort(place, kind="stable")[:count]], minlength=3)
    if not counts.all():
        raise ValueError(
            f"{key}={count} leaves {counts.tolist()} {what} for train, val and test: each needs at least one, so give "
            "more."
        )
    return [p[:n] for p, n in zip(parts, counts, strict=True)]
