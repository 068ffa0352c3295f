"""Exact augmentations of implicit neural representations: the image moves, the weights say so.

They act on the first layer alone: the network of x -> f(A x + t) has W_1 A for W_1 and b_1 + W_1 t for b_1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nfbench.weightspace.features import WeightSpaceFeatures


def transform_coordinates(features: WeightSpaceFeatures, matrix: Tensor, shift: Tensor) -> WeightSpaceFeatures:
    """The networks that compute x -> f(matrix x + shift), exactly.

    Args:
        features: B dense networks of D inputs, C = 1.
        matrix: (B, D, D).
        shift: (B, D), in units of the coordinates.

    Raises:
        ValueError: a convolution as first layer, or sizes that do not fit.
    """
    layer, batch = features.spec.layers[0], features.batch_size
    size = layer.in_size
    if layer.is_conv or features.channels != 1:
        raise ValueError(f"input coordinates can be moved for dense networks with C = 1, got {features.spec}")
    if matrix.shape != (batch, size, size) or shift.shape != (batch, size):
        raise ValueError(
            f"for {batch} networks of {size} inputs matrix is ({batch}, {size}, {size}) and shift ({batch}, {size}), "
            f"got {tuple(matrix.shape)} and {tuple(shift.shape)}"
        )
    w_BRS = features.weights[0][..., 0, 0]
    bias_BR1 = features.biases[0] + w_BRS @ shift.unsqueeze(-1)
    moved_BRS = (w_BRS @ matrix)[..., None, None]
    return WeightSpaceFeatures(features.spec, (moved_BRS, *features.weights[1:]), (bias_BR1, *features.biases[1:]))


def sample_rigid_motion(
    batch_size: int, generator: torch.Generator, rotation: float = 0.0, scale: float = 0.0, shift: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Random rotation, scaling and translation of the plane for `transform_coordinates`.

    Args:
        rotation: largest angle in radians, either way.
        scale: largest relative change of size; 0.1 gives factors from 1/1.1 to 1.1, uniform in the logarithm.
        shift: largest translation along each axis, in coordinate units (the image is 2 wide).

    Returns:
        matrix (B, 2, 2) and shift (B, 2).
    """
    uniform = 2 * torch.rand(4, batch_size, generator=generator, device=generator.device) - 1
    angle, log_scale, dx, dy = uniform.unbind()
    angle, factor = angle * rotation, (log_scale * torch.log1p(torch.tensor(scale))).exp()
    cos, sin = factor * angle.cos(), factor * angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    return matrix, shift * torch.stack([dx, dy], -1)
