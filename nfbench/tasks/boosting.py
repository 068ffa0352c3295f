"""Gradient boosting (Friedman 2001) by scikit-learn, as plain arrays that a model can keep in its checkpoint."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfbench.tasks.scores import kendall_tau

Part = tuple[NDArray[np.float32], NDArray[np.float32]]
Trees = dict[str, NDArray[np.float64] | NDArray[np.int64]]


def fit_trees(
    train: Part,
    val: Part,
    *,
    num_trees: int,
    depths: Sequence[int],
    learning_rate: float,
    subsample: float,
    max_features: float,
    seed: int,
) -> Trees:
    """Boosted regression trees for the squared error; validation tau chooses their depth and how many there are.

    Args:
        train: features (n, F) and targets (n,).
        val: the same; of tied choices the first is taken: the smaller depth, then the fewer trees.
        num_trees: at most.
        depths: of the trees, tried one after the other.
        learning_rate: shrinkage of each tree.
        subsample: share of the training set that each tree sees.
        max_features: share of the features that each node may split.
        seed: of the drawing of both.

    Returns:
        ``start``, a number; ``feature``, ``left``, ``right`` (trees, nodes) int64 and ``threshold``, ``value`` (trees,
        nodes) float64. A network goes to the left where its feature is at most the threshold. A leaf is its own child.
        The prediction is ``start`` plus the values of the leaves, shrunk already.
    """
    from sklearn.ensemble import GradientBoostingRegressor  # takes a second, and only trees need it

    best: tuple[float, int, Any] | None = None
    for depth in depths:
        boosted = GradientBoostingRegressor(
            n_estimators=num_trees,
            max_depth=depth,
            learning_rate=learning_rate,
            subsample=subsample,
            max_features=max_features,
            random_state=seed,
        ).fit(*train)
        for count, predicted in enumerate(boosted.staged_predict(val[0]), start=1):
            tau = kendall_tau(val[1], predicted)
            if best is None or tau > best[0]:
                best = tau, count, boosted
    assert best is not None, "a model of trees has at least one depth"
    return to_arrays(best[2], best[1], learning_rate)


def to_arrays(boosted: Any, count: int, learning_rate: float) -> Trees:
    """The first ``count`` trees of a fitted `GradientBoostingRegressor`; see `fit_trees`."""
    trees = [estimator.tree_ for estimator in boosted.estimators_[:count, 0]]
    nodes = max(tree.node_count for tree in trees)
    whole = np.tile(np.arange(nodes), (count, 1))
    left, right, feature = whole.copy(), whole.copy(), np.zeros_like(whole)
    threshold, value = np.zeros((count, nodes)), np.zeros((count, nodes))
    for i, tree in enumerate(trees):
        n = tree.node_count
        inner = np.flatnonzero(tree.children_left[:n] >= 0)
        left[i, inner], right[i, inner] = tree.children_left[inner], tree.children_right[inner]
        feature[i, inner], threshold[i, inner] = tree.feature[inner], tree.threshold[inner]
        value[i, :n] = learning_rate * tree.value[:, 0, 0]
    start = np.array(float(boosted.init_.constant_[0, 0]))
    return {"start": start, "feature": feature, "threshold": threshold, "left": left, "right": right, "value": value}
