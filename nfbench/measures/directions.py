"""Random directions in weight space, normalised filter by filter (Li et al., arXiv 1712.09913, Sec. 4).

B networks, T weights and biases of one network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfbench.weightspace import NetworkSpec

NORMS = ("filter", "layer", "unit")


def filter_normalize(direction: Tensor, weight: Tensor, batch_dims: int = 0) -> Tensor:
    """d_ij <- d_ij / |d_ij| * |w_ij|, Frobenius norms over filter j of layer i (Li et al., Sec. 4).

    A filter is all that makes one output: a row of a dense layer, (S, height, width) of a convolution. A tensor of one
    number an output (a bias) has filters of one number.

    Args:
        direction, weight: (R, ...), behind `batch_dims` dimensions of networks.
    """
    return direction * (_length(weight, batch_dims + 1) / _length(direction, batch_dims + 1).clamp_min(1e-30))


def _length(tensor: Tensor, first: int) -> Tensor:
    """Length over the dimensions from `first` on, which are kept with size 1."""
    dims = tuple(range(first, tensor.ndim))
    return torch.linalg.vector_norm(tensor, dim=dims, keepdim=True) if dims else tensor.abs()


def random_direction(
    tensors: Sequence[Tensor], seed: int, norm: str = "filter", biases: bool = False, batch_dims: int = 0
) -> list[Tensor]:
    """One Gaussian direction beside given weights, scaled to them.

    With "filter", where a filter of the network is scaled by a, that of the direction is too. So the loss along it does
    not change when a ReLU network is rescaled without changing its function.

    Args:
        tensors: weights and biases as modules have them, behind `batch_dims` dimensions of networks, which all get the
            same Gaussian numbers.
        seed: the same seed is the same direction, on every device.
        norm: "filter", see `filter_normalize`; "layer": each tensor scaled to the length of the weights in it;
            "unit": not scaled to the weights, the whole direction has length 1.
        biases: whether tensors of one dimension move as well; the authors' code leaves them where they are
            (``--xignore biasbn``), which is the default here.

    Returns:
        Tensors of the same shapes.

    Raises:
        ValueError: an unknown norm.
    """
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is unknown: choose one of {', '.join(NORMS)}")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for weight in tensors:
        noise = torch.randn(weight.shape[batch_dims:], generator=generator, dtype=torch.float64).to(weight)
        direction = noise.expand_as(weight)
        if weight.ndim - batch_dims <= 1 and not biases:
            direction = torch.zeros_like(weight)
        elif norm == "filter":
            direction = filter_normalize(direction, weight, batch_dims)
        elif norm == "layer":
            scale = _length(weight, batch_dims) / _length(direction, batch_dims).clamp_min(1e-30)
            direction = direction * scale
        found.append(direction)
    if norm == "unit":
        squares = [_length(direction, batch_dims).flatten(batch_dims) ** 2 for direction in found]
        length = torch.cat(squares, -1).sum(-1).sqrt()
        found = [d / length.reshape(*length.shape, *[1] * (d.ndim - batch_dims)) for d in found]
    return found


def network_direction(
    spec: NetworkSpec, params_BT: Tensor, seed: int, norm: str = "filter", biases: bool = False
) -> Tensor:
    """`random_direction` for B networks as flat vectors: (B, T)."""
    tensors = [
        params_BT[:, where].unflatten(1, shape)
        for where, shape in zip(spec.scalar_slices(), spec.parameter_shapes(), strict=True)
    ]
    return torch.cat([d.flatten(1) for d in random_direction(tensors, seed, norm, biases, batch_dims=1)], 1)
