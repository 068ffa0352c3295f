"""Splits: fixed by the image index, disjoint, with nested subsets."""

import numpy as np
import pytest

from nfbench.zoos.splits import default_split, make_split

PUBLISHED = [
    ("digits", "digits", (1197, 200, 400)),
    ("mnist", "official", (45_000, 5_000, 10_000)),
    ("mnist", "nfn", (45_000, 5_000, 10_000)),
    ("mnist", "dws", (55_000, 5_000, 10_000)),
    ("fashion", "nfn", (45_000, 5_000, 20_000)),
    ("fashion", "inr2array", (55_000, 5_000, 10_000)),
    ("cifar10", "nfn", (45_000, 5_000, 10_000)),
]


@pytest.mark.parametrize(("source", "name", "sizes"), PUBLISHED)
def test_sizes_are_as_published_and_parts_disjoint(source, name, sizes):
    split = make_split(source, name)
    assert (len(split.train), len(split.val), len(split.test)) == sizes
    assert len(np.unique(split.all_images)) == sum(sizes)


def test_mnist_test_images():
    assert make_split("mnist", "official").test.min() == 60_000
    published = make_split("mnist", "nfn").test
    assert (published.min(), published.max()) == (50_000, 59_999)


@pytest.mark.parametrize(("source", "name", "sizes"), PUBLISHED)
def test_subsets_are_nested_and_keep_proportions(source, name, sizes):
    before = None
    for count in (40, 41, 100, 1000, 1500):
        split = make_split(source, name, count)
        assert len(split.all_images) == count
        for part, size in zip(split.parts.values(), sizes, strict=True):
            assert abs(len(part) - count * size / sum(sizes)) <= 1
        if before is not None:
            for name_, part in before.parts.items():
                assert set(part) <= set(split.parts[name_])
        before = split


def test_digits_split_is_fixed_for_ever():
    split = make_split("digits", "digits")
    assert split.train[:3].tolist() == [927, 1102, 56]
    assert split.test[-3:].tolist() == [1108, 137, 1465]


def test_default_splits():
    assert default_split("digits", "digits") == "digits"
    assert default_split("mnist", "nfn") == "official"
    assert default_split("fashion", "nfn") == "nfn"
    assert default_split("mnist", "dws") == "dws"


def test_bad_values_say_what_is_allowed():
    with pytest.raises(ValueError, match="official, nfn, inr2array, dws"):
        make_split("mnist", "mine")
    with pytest.raises(ValueError, match="give 3 to 1797"):
        make_split("digits", "digits", 5000)
    with pytest.raises(ValueError, match="at least one"):
        make_split("mnist", "official", 3)
