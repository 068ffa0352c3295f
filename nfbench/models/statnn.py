"""The statistics baseline of generalization prediction."""

from __future__ import annotations

from torch import Tensor, nn

from nfbench.layers import StatFeaturizer
from nfbench.models.head import MLPHead
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures


class StatNN(nn.Module):
    """An MLP on seven statistics of each weight and bias tensor (Unterthiner et al. 2020; NFN, Sec. 3.1).

    Args:
        spec: networks that go in, C = 1.
        out_dim: outputs; not None: statistics forget which weight is which.
        width: hidden width.
        dropout: before the second and third Linear.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, out_dim). Invariant to permutations within any tensor.

    Raises:
        ValueError: out_dim None.
    """

    symmetry = "invariant"

    def __init__(self, spec: NetworkSpec, out_dim: int | None, width: int = 1000, dropout: float = 0.0) -> None:
        super().__init__()
        if out_dim is None:
            raise ValueError(
                "StatNN cannot edit networks: its statistics don't say which weight is which; choose nfn_np, nfn_hnp, "
                "nfn_pt, nfn_res, nfn_gated, gmn, nft or mlp"
            )
        self.statistics = StatFeaturizer(spec)
        self.head = MLPHead(self.statistics.num_outputs, out_dim, width, dropout=dropout)

    def forward(self, features: WeightSpaceFeatures) -> Tensor:
        return self.head(self.statistics(features))
