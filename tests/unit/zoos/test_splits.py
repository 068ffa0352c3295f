"""Splits: fixed by the image index, disjoint, with nested subsets."""

import numpy as np
import pytest

from nfbench.config.build import build_zoo
from nfbench.zoos.splits import default_split, make_split

PUBLISHED = [
    ("digits", "digits", (1197, 200, 400)),
    ("mnist", "official", (45_000, 5_000, 10_000)),
    ("mnist", "nfn", (45_000, 5_000, 10_000)),
    ("mnist", "dws", (55_000, 5_000, 10_000)),
    ("fashion", "nfn", (45_000, 5_000, 20_000)),
    ("fashion", "inr2array", (55_000, 5_000, 10_000)),
    ("fashion", "dws", (55_000, 5_000, 10_000)),
    ("mnist", "inr2array", (45_000, 5_000, 10_000)),
    ("cifar10", "nfn", (45_000, 5_000, 10_000)),
    ("cifar10", "official", (45_000, 5_000, 10_000)),
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


@pytest.mark.parametrize(("source", "name", "sizes"), PUBLISHED[1:])
def test_parts_are_ranges_of_the_image_index(source, name, sizes):
    """0 .. train .. train + val .. and the test images after them, but for the official ones, which are the last."""
    train, val, test = (np.sort(part) for part in make_split(source, name).parts.values())
    first = (60_000 if source == "mnist" else 50_000) if name == "official" else sizes[0] + sizes[1]
    np.testing.assert_array_equal(train, np.arange(sizes[0]))
    np.testing.assert_array_equal(val, np.arange(sizes[0], sizes[0] + sizes[1]))
    np.testing.assert_array_equal(test, np.arange(first, first + sizes[2]))


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
    assert default_split("cifar10", "nfn") == "official"
    assert default_split("mnist", "dws") == "dws"
    assert default_split("fashion", "dws_fashion") == "dws"


def test_bad_values_say_what_is_allowed():
    with pytest.raises(ValueError, match="official, nfn, inr2array, dws"):
        make_split("mnist", "mine")
    with pytest.raises(ValueError, match="give 3 to 1797"):
        make_split("digits", "digits", 5000)
    with pytest.raises(ValueError, match="at least one"):
        make_split("mnist", "official", 3)


@pytest.mark.parametrize(
    ("zoo", "train", "others"),
    [("mnist", 10 * 45_000, 15_000), ("fashion", 10 * 45_000, 25_000), ("cifar10", 20 * 45_000, 15_000)],
)
def test_configs_have_the_published_number_of_networks(composed, zoo, train, others):
    """10 views of training images (CIFAR-10: 20), one of the others; NFN, appendix D.3."""
    plan = build_zoo(composed(f"zoo=siren_{zoo}").zoo).plan
    index, view = plan.networks()
    assert len(index) == train + others
    assert np.count_nonzero(view == 0) == len(plan.make_split().all_images)


def test_a_zoo_seed_changes_no_split(composed):
    one, two = (build_zoo(composed("zoo=siren_mnist", "zoo.num_images=500", *more).zoo)
                for more in ([], ["zoo.zoo_seed=3", "seed=5"]))  # fmt: skip
    np.testing.assert_array_equal(one.split.all_images, two.split.all_images)
    assert one.plan.recipe.hash != two.plan.recipe.hash
