"""The baseline that sees weights as a flat vector."""

from __future__ import annotations

from torch import Tensor, nn

from nfbench.models.head import MLPHead
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures


class FlatMLP(nn.Module):
    """An MLP on all weights and biases in one vector (NFN, App. D.3). Not invariant to anything.

    The authors' configuration puts a sigmoid between its output and the softmax cross-entropy; this one does not.

    Args:
        spec: networks that go in, C = 1.
        out_dim: outputs.
        width: hidden width.
        dropout: before the second and third Linear.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, out_dim).
    """

    symmetry = "none"

    def __init__(self, spec: NetworkSpec, out_dim: int, width: int = 1000, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = MLPHead(spec.num_params, out_dim, width, dropout=dropout)

    def forward(self, features: WeightSpaceFeatures) -> Tensor:
        return self.net(features.flatten())
