"""The baseline that sees weights as a flat vector."""

from __future__ import annotations

from torch import Tensor, nn

from nfbench.models.head import MLPHead
from nfbench.weightspace import NetworkSpec, NeuronPermutation, WeightSpaceFeatures


class FlatMLP(nn.Module):
    """An MLP on all weights and biases in one vector (NFN, App. D.3). Not invariant to anything.

    The authors' configuration puts a sigmoid between its output and the softmax cross-entropy; this one does not.

    Args:
        spec: networks that go in, C = 1.
        out_dim: outputs.
        width: hidden width.
        dropout: before the second and third Linear.
        permute: in training, permute the hidden neurons of every network at random (the papers' MLP_Aug).

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, out_dim).
    """

    symmetry = "none"

    def __init__(
        self, spec: NetworkSpec, out_dim: int, width: int = 1000, dropout: float = 0.0, permute: bool = False
    ) -> None:
        super().__init__()
        self.permute = permute
        self.net = MLPHead(spec.num_params, out_dim, width, dropout=dropout)

    def forward(self, features: WeightSpaceFeatures) -> Tensor:
        if self.permute and self.training:
            features = NeuronPermutation.sample(features.spec, features.batch_size).apply(features)
        return self.net(features.flatten())
