"""Gradient-boosted trees on the statistics of the weights: the baseline that is no neural network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nfbench.layers import StatFeaturizer
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures

ARRAYS = ("feature", "left", "right", "threshold", "value")


class GBM(nn.Module):
    """Boosted regression trees on seven statistics of each tensor (as of Unterthiner et al. 2020, there with LightGBM).

    The trees are not trained by gradient: a task that sees `boosting`, their settings, fits them to what `read` gives
    and hands them to `load_trees`. They are buffers, so that a checkpoint has them. Before that the prediction is 0.5.

    Args:
        spec: networks that go in, C = 1.
        out_dim: 1.
        num_trees: at most; validation chooses how many.
        depths: of the trees, among which validation chooses.
        learning_rate: shrinkage of each tree.
        subsample: share of the training set that each tree sees.
        max_features: share of the features that each node may split.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, 1), the logit of the predicted share. Invariant to permutations
        within any tensor.

    Raises:
        ValueError: another out_dim, or settings out of their range.
    """

    symmetry = "invariant"
    start: Tensor
    feature: Tensor
    left: Tensor
    right: Tensor
    threshold: Tensor
    value: Tensor

    def __init__(
        self,
        spec: NetworkSpec,
        out_dim: int | None,
        num_trees: int = 500,
        depths: Sequence[int] = (2, 4, 6),
        learning_rate: float = 0.05,
        subsample: float = 0.5,
        max_features: float = 0.3,
    ) -> None:
        super().__init__()
        if out_dim != 1:
            raise ValueError(
                "model=gbm predicts one number of each network, as task=cnn_gen asks for; choose statnn, nfn_np, "
                "nfn_hnp, nft or mlp for other tasks"
            )
        if num_trees < 1 or not depths or min(depths) < 1 or max(depths) > 12:
            raise ValueError(
                f"model.num_trees={num_trees} must be 1 or more, and model.depths={list(depths)} lie between 1 and 12"
            )
        for name, share in (("learning_rate", learning_rate), ("subsample", subsample), ("max_features", max_features)):
            if not 0 < share <= 1:
                raise ValueError(f"model.{name}={share} must be above 0 and at most 1")
        self.boosting = {
            "num_trees": num_trees,
            "depths": list(depths),
            "learning_rate": learning_rate,
            "subsample": subsample,
            "max_features": max_features,
        }
        self.statistics = StatFeaturizer(spec)
        self.depth = max(depths)
        nodes = 2 ** (self.depth + 1) - 1
        self.register_buffer("start", torch.full((), torch.nan, dtype=torch.float64))
        for name in ARRAYS:
            kind = torch.float64 if name in ("threshold", "value") else torch.int64
            self.register_buffer(name, torch.zeros(num_trees, nodes, dtype=kind))

    @property
    def fitted(self) -> bool:
        """Whether there are trees."""
        return bool(self.start.isfinite())

    def load_trees(self, trees: Mapping[str, object]) -> None:
        """Takes trees, as many and as large as there is room for at most.

        Args:
            trees: ``start``; ``feature``, ``left``, ``right``, ``threshold``, ``value``, each (trees, nodes), where a
                leaf is its own child. A network goes to the left where its feature is at most the threshold.
        """
        self.start.fill_(torch.as_tensor(trees["start"]))
        for name in ARRAYS:
            array = torch.as_tensor(trees[name])
            getattr(self, name).zero_()[: array.shape[0], : array.shape[1]] = array

    def read(self, features: WeightSpaceFeatures) -> Tensor:
        """What the trees split: 14 L statistics (B, F)."""
        return self.statistics(features)[..., 0]

    def forward(self, features: WeightSpaceFeatures) -> Tensor:
        x_BF = self.read(features).double()
        tree = torch.arange(len(self.feature), device=x_BF.device)
        node_BN = torch.zeros(len(x_BF), len(tree), dtype=torch.int64, device=x_BF.device)
        for _ in range(self.depth):
            is_left = x_BF.gather(1, self.feature[tree, node_BN]) <= self.threshold[tree, node_BN]
            node_BN = torch.where(is_left, self.left[tree, node_BN], self.right[tree, node_BN])
        share_B1 = self.start.nan_to_num(0.5) + self.value[tree, node_BN].sum(1, keepdim=True)
        return share_B1.clamp(1e-6, 1 - 1e-6).logit().to(features.weights[0].dtype)
