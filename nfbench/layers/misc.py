"""Small parts of the papers' networks: channel dropout, residual block, learned scale, weight statistics.

B networks, C channels, R rows, S columns, K kernel positions, L layers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nfbench.layers.checks import check_dropouts
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures


class ChannelDropout(nn.Module):
    """Drops whole channels (kernel positions apart) of a network's weight tensors, and single bias features.

    The authors' dropout inside NFN (`nn.Dropout2d` for weights, `nn.Dropout` for biases).

    Args:
        dropout: probability, from 0 to below 1.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> the same.

    Raises:
        ValueError: another probability.
    """

    symmetry = "np"

    def __init__(self, dropout: float) -> None:
        super().__init__()
        check_dropouts(dropout=dropout)
        self.dropout = dropout

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        if not self.training or not self.dropout:
            return x
        weights = []
        for w_BRSKC in x.weights:
            ones = w_BRSKC.new_ones(w_BRSKC.shape[0], 1, 1, *w_BRSKC.shape[-2:])
            weights.append(w_BRSKC * F.dropout(ones, self.dropout))
        return WeightSpaceFeatures(x.spec, tuple(weights), tuple(F.dropout(b, self.dropout) for b in x.biases))

    def extra_repr(self) -> str:
        return f"{self.dropout}"


class ResBlock(nn.Module):
    """x + dropout(activation(layer(norm(x)))), the authors' residual block.

    Args:
        layer: features -> features with the same channels.
        norm: features -> features.
        activation: elementwise.
        dropout: elementwise.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> the same. Equivariant to what layer and norm are equivariant to.
    """

    def __init__(
        self,
        layer: nn.Module,
        norm: nn.Module,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.activation = layer, norm, activation
        self.dropout = nn.Dropout(dropout)
        self.symmetry = layer.symmetry

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        return x + self.layer(self.norm(x)).map(lambda t: self.dropout(self.activation(t)))


class LearnedScale(nn.Module):
    """Multiplies by learned scalars: one for each weight and bias tensor (the authors' code), or one (the paper).

    The last step of editing networks, which start near the identity (NFN, App. D.4).

    Args:
        spec: networks that go in.
        init: of the scalars.
        shared: one scalar for all tensors.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> the same.
    """

    symmetry = "np"

    def __init__(self, spec: NetworkSpec, init: float = 0.01, shared: bool = False) -> None:
        super().__init__()
        count = 1 if shared else spec.num_layers
        self.weight_scales = nn.Parameter(torch.full((count,), init))
        self.bias_scales = self.weight_scales if shared else nn.Parameter(torch.full((count,), init))

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        num_layers = x.spec.num_layers
        to_weights, to_biases = (s.expand(num_layers).unbind() for s in (self.weight_scales, self.bias_scales))
        weights = tuple(w * s for w, s in zip(x.weights, to_weights, strict=True))
        return WeightSpaceFeatures(x.spec, weights, tuple(b * s for b, s in zip(x.biases, to_biases, strict=True)))


class StatFeaturizer(nn.Module):
    """Seven statistics of each weight and bias tensor: mean, variance, and the quantiles 0, 25, 50, 75, 100 %.

    The input of StatNN (Unterthiner et al. 2020; NFN, Sec. 3.1). The variance is the unbiased one, and zero for a
    tensor of one element (the authors' code gives NaN there).

    Args:
        spec: networks that go in.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> (B, num_outputs, C), num_outputs = 14 L. Invariant to permutations
        of all neuron layers, also to ones that do not belong together.
    """

    symmetry = "np"

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.num_outputs = 14 * spec.num_layers

    def forward(self, x: WeightSpaceFeatures) -> Tensor:
        pairs = zip(x.weights, x.biases, strict=True)
        return torch.cat([self._statistics(t) for w, b in pairs for t in (w.flatten(1, 3), b)], 1)

    def _statistics(self, t_BNC: Tensor) -> Tensor:
        variance, mean = torch.var_mean(t_BNC, 1, correction=int(t_BNC.shape[1] > 1))
        levels = torch.linspace(0, 1, 5, dtype=t_BNC.dtype, device=t_BNC.device)
        return torch.stack([mean, variance, *torch.quantile(t_BNC, levels, dim=1)], 1)
