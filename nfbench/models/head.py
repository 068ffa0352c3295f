"""The MLP that ends a classifier or regressor."""

from __future__ import annotations

from torch import nn


class MLPHead(nn.Sequential):
    """Flatten, Linear to `width`, then `num_hidden` times (ReLU, dropout, Linear to `width`), ReLU, dropout, Linear.

    Args:
        in_features: size of the flattened pooled features.
        out_dim: outputs.
        width: hidden width; the authors use 1,000.
        num_hidden: square hidden layers; the authors use 1.
        dropout: before every Linear but the first.

    Shapes:
        (B, M, C) with M * C = in_features -> (B, out_dim).
    """

    def __init__(
        self, in_features: int, out_dim: int, width: int = 1000, num_hidden: int = 1, dropout: float = 0.0
    ) -> None:
        layers: list[nn.Module] = [nn.Flatten(1), nn.Linear(in_features, width)]
        for _ in range(num_hidden):
            layers += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width)]
        super().__init__(*layers, nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, out_dim))
