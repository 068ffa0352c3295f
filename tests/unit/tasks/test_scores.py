"""Tau-b and what ties allow, held against their definitions."""

from itertools import combinations, permutations

import numpy as np
import pytest
from sklearn.metrics import r2_score

from nfbench.tasks.scores import kendall_tau, largest_tau, regression_scores


def tau_by_definition(true, predicted) -> float:
    pairs = list(combinations(range(len(true)), 2))
    signs = [(np.sign(true[i] - true[j]), np.sign(predicted[i] - predicted[j])) for i, j in pairs]
    total = sum(a * b for a, b in signs)
    untied = [sum(pair[side] != 0 for pair in signs) for side in (0, 1)]
    return total / np.sqrt(untied[0] * untied[1])


@pytest.mark.parametrize("seed", range(5))
def test_tau_counts_pairs(seed):
    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(0, 5, 20) / 10, rng.integers(0, 8, 20) / 10
    assert kendall_tau(true, predicted) == pytest.approx(tau_by_definition(true, predicted), abs=1e-9)
    assert kendall_tau(true, 3 * predicted**3) == pytest.approx(kendall_tau(true, predicted), abs=1e-12)
    assert kendall_tau(true, -predicted) == pytest.approx(-kendall_tau(true, predicted), abs=1e-12)


@pytest.mark.parametrize(
    "true", [[1, 2, 3, 4], [1, 1, 2, 3], [1, 1, 1, 2, 2], [0, 0, 0, 0, 5], [1, 1, 2, 2, 3, 3], [0.1] * 3 + [0.5]]
)
def test_the_largest_tau_is_that_of_the_best_order(true):
    best = max(tau_by_definition(true, order) for order in permutations(range(len(true))))
    assert largest_tau(np.array(true)) == pytest.approx(best, abs=1e-9)
    tied = kendall_tau(np.array(true), np.array(true))
    assert tied == pytest.approx(1.0), "predictions with the same ties are not bound by it"


def test_without_ties_one_can_be_reached():
    assert largest_tau(np.arange(7)) == 1.0
    assert largest_tau(np.ones(7)) == 0.0
    assert largest_tau(np.ones(1)) == 0.0


def test_nothing_to_rank_is_zero():
    assert kendall_tau(np.ones(4), np.arange(4)) == 0.0
    assert kendall_tau(np.arange(4), np.ones(4)) == 0.0


def test_r2_and_l1():
    rng = np.random.default_rng(0)
    true = rng.random(30).astype(np.float32)
    predicted = 0.8 * true + 0.3 * rng.random(30)
    scores = regression_scores(true, predicted)
    assert scores["r2"] == pytest.approx(r2_score(true, predicted), abs=1e-6)
    assert scores["l1"] == pytest.approx(np.abs(true - predicted).mean(), abs=1e-7)
    assert regression_scores(true, true + 5)["r2"] < 0, "an offset costs"
    assert regression_scores(np.ones(3), np.zeros(3)) == {"kendall_tau": 0.0, "r2": 0.0, "l1": 1.0}
