"""The baseline that sees weights as a flat vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nfbench.layers import LearnedScale
from nfbench.models.head import MLPHead
from nfbench.weightspace import NetworkSpec, NeuronPermutation, WeightSpaceFeatures


class FlatMLP(nn.Module):
    """An MLP on all weights and biases in one vector (NFN, App. D.3 and D.4). Not invariant to anything.

    Without out_dim it edits networks: as many outputs as inputs, times learned scales that start at 0.01.

    Args:
        spec: networks that go in, C = 1.
        out_dim: outputs; None for a number for each weight and bias.
        width: hidden width.
        num_hidden: hidden layers: 2 in the paper's classifiers, 3 in its editors, 4 in the authors' `mlp_med` and
            `mlp_big`.
        dropout: before every Linear but the first.
        permute: in training, permute the hidden neurons of every network at random (the papers' MLP_Aug); an editor's
            output is permuted back, so that it belongs to the network as it came.
        sigmoid: of the outputs, which the authors' classifiers have in front of the softmax cross-entropy.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, out_dim); without out_dim the shapes of the input.

    Raises:
        ValueError: a sigmoid without several outputs, no hidden layer, or a width below 1.
    """

    symmetry = "none"

    def __init__(
        self,
        spec: NetworkSpec,
        out_dim: int | None,
        width: int = 1000,
        num_hidden: int = 2,
        dropout: float = 0.0,
        permute: bool = False,
        sigmoid: bool = False,
    ) -> None:
        super().__init__()
        if sigmoid and out_dim in (None, 1):
            raise ValueError(
                "sigmoid=True is for classifiers: editors and predictors of one number need outputs of both signs; set "
                "sigmoid=False"
            )
        self.permute, self.sigmoid = permute, sigmoid
        out_features = spec.num_params if out_dim is None else out_dim
        self.net = MLPHead(spec.num_params, out_features, width, num_hidden, dropout)
        self.scale = LearnedScale(spec) if out_dim is None else None

    def forward(self, features: WeightSpaceFeatures) -> Tensor | WeightSpaceFeatures:
        permutation = None
        if self.permute and self.training:
            permutation = NeuronPermutation.sample(features.spec, features.batch_size)
            features = permutation.apply(features)
        out = self.net(features.flatten())
        if self.scale is None:
            return torch.sigmoid(out) if self.sigmoid else out
        edit = self.scale(WeightSpaceFeatures.from_flat(features.spec, out))
        return edit if permutation is None else permutation.invert().apply(edit)
