"""How well predicted accuracies fit true ones: tau-b, R2 and L1, and what ties in the truth leave possible."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

Floats = NDArray[np.floating]


def kendall_tau(true: Floats, predicted: Floats) -> float:
    """Kendall's tau-b, in [-1, 1] (Kendall 1945): (P - Q) / sqrt((n0 - n1)(n0 - n2)).

    n0 = n(n-1)/2 pairs, of which P are in the same order in both, Q in opposite order, n1 tied in ``true`` and n2 tied
    in ``predicted``. Zero where either has no order at all: then tau-b is undefined and nothing was ranked.

    Args:
        true: (n,).
        predicted: (n,).
    """
    if min(len(np.unique(true)), len(np.unique(predicted))) < 2:
        return 0.0
    return float(kendalltau(true, predicted).statistic)


def largest_tau(true: Floats) -> float:
    """The largest tau-b that predictions without ties can have: sqrt((n0 - n1) / n0).

    Follows from tau-b with n2 = 0: at best every pair that is not tied in ``true`` is in order, P - Q = n0 - n1. Only
    predictions that are tied where the truth is could get above it.

    Args:
        true: (n,).
    """
    counts = np.unique(true, return_counts=True)[1].astype(np.float64)
    pairs = len(true) * (len(true) - 1) / 2
    return float(np.sqrt(1 - (counts * (counts - 1) / 2).sum() / pairs)) if pairs else 0.0


def regression_scores(true: Floats, predicted: Floats) -> dict[str, float]:
    """`kendall_tau`, `r2` and `l1` of predictions (n,) of true values (n,).

    r2 is the coefficient of determination 1 - sum (t - p)^2 / sum (t - mean t)^2, as scikit-learn and the NFN code have
    it: it can be negative, and an offset costs. Zero where all true values are the same. l1 is the mean of |t - p|.
    """
    true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    spread = ((true - true.mean()) ** 2).sum()
    return {
        "kendall_tau": kendall_tau(true, predicted),
        "r2": float(1 - ((true - predicted) ** 2).sum() / spread) if spread else 0.0,
        "l1": float(np.abs(true - predicted).mean()),
    }
