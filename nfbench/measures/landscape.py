"""The loss around given weights: along lines, on planes, and its mean increase (sharpness).

B networks, T weights of a network, G points of a line or plane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nfbench.measures.forward import Losses

CHUNK = 32  # points that are evaluated at once


@torch.no_grad()
def sharpness(losses: Losses, params_BT: Tensor, directions: Sequence[Tensor], radius: float) -> Tensor:
    """L(w + radius * d) - L(w) for each direction d: (B, number of directions), in units of the loss.

    With filter-normalised directions (Li et al., Sec. 4) a radius of 0.1 moves each filter by a tenth of its
    length, and nothing changes when a ReLU network is rescaled without changing its function.

    Args:
        losses: (B, T) -> (B,).
        params_BT: the weights w.
        directions: each (B, T).
        radius: how far; in units of the directions.
    """
    here = losses(params_BT)
    return torch.stack([losses(params_BT + radius * direction) - here for direction in directions], 1)


@torch.no_grad()
def line(
    losses: Losses, params_T: Tensor, direction_T: Tensor, at_G: Tensor, done: Callable[[int], object] = int
) -> Tensor:
    """f(a) = L(w + a d) at the given a (Li et al., Sec. 2): (G,). ``done`` is called with each number of points."""
    return _evaluate(losses, params_T, direction_T.unsqueeze(0), at_G.unsqueeze(1), done)


@torch.no_grad()
def plane(
    losses: Losses,
    params_T: Tensor,
    first_T: Tensor,
    second_T: Tensor,
    at_G: Tensor,
    done: Callable[[int], object] = int,
) -> Tensor:
    """f(a, b) = L(w + a d + b e) on a square grid (Li et al., Eq. 1): (G, G), a along rows and b along columns."""
    pairs = torch.cartesian_prod(at_G, at_G)
    found = _evaluate(losses, params_T, torch.stack([first_T, second_T]), pairs, done)
    return found.unflatten(0, (len(at_G), len(at_G)))


def _evaluate(losses: Losses, params_T: Tensor, basis: Tensor, at: Tensor, done: Callable[[int], object]) -> Tensor:
    parts = []
    for part in at.to(params_T).split(CHUNK):
        parts.append(losses(params_T + part @ basis))
        done(len(part))
    return torch.cat(parts)
