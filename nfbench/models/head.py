"""The MLP that ends a classifier or regressor."""

from __future__ import annotations

from torch import nn

from nfbench.layers.checks import check_dropouts, check_sizes

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class MLPHead(nn.Sequential):
    """Flatten, then `num_hidden` times (Linear to `width`, activation, dropout), then Linear to `out_dim`.

    Args:
        in_features: size of the flattened pooled features.
        out_dim: outputs.
        width: hidden width; the authors use 1,000.
        num_hidden: hidden layers; the authors use 2.
        dropout: before every Linear but the first.
        norm: layer norm before every activation (the authors' residual nets).
        activation: "relu" (the authors') or "gelu", which has a gradient a little below zero too.

    Shapes:
        (B, M, C) with M * C = in_features -> (B, out_dim).

    Raises:
        ValueError: no hidden layer, a width below 1, a dropout outside [0, 1), or an unknown activation.
    """

    def __init__(
        self,
        in_features: int,
        out_dim: int,
        width: int = 1000,
        num_hidden: int = 2,
        dropout: float = 0.0,
        norm: bool = False,
        activation: str = "relu",
    ) -> None:
        check_sizes(head_width=width, num_hidden=num_hidden)
        check_dropouts(head_dropout=dropout)
        if activation not in ACTIVATIONS:
            raise ValueError(f"head_activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        layers: list[nn.Module] = [nn.Flatten(1)]
        for i in range(num_hidden):
            layers.append(nn.Linear(width if i else in_features, width))
            layers += [nn.LayerNorm(width)] if norm else []
            layers += [ACTIVATIONS[activation](), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(width, out_dim))
