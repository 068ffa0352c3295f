"""What sine networks compute: pixels from weights, for one network an image or for a grid of networks an image.

B images, P points, D coordinates of a point, O outputs; M networks of an image, one for each cell of a grid, of which G
cover the same number n of points; R rows, S columns of a weight.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nfbench.weightspace.features import WeightSpaceFeatures
from nfbench.weightspace.spec import NetworkSpec

TILINGS = ("corners", "patches")


def full_precision(t: Tensor) -> AbstractContextManager[Any]:
    """A context without autocast on the device of a tensor, for sines of large angles and what becomes such."""
    return nullcontext() if t.is_meta else torch.autocast(t.device.type, enabled=False)


def check_inr(spec: NetworkSpec) -> None:
    """Raises a ValueError that says why networks of this spec are no functions of coordinates with sines between."""
    if spec.activation != "sine" or any(layer.is_conv for layer in spec.layers):
        raise ValueError(
            f"only dense sine networks can be rendered, got {spec}; a SIREN's spec looks like '2-32-32-1:sine'"
        )


def render(
    features: WeightSpaceFeatures,
    coords: Tensor,
    w0_first: float = 30.0,
    w0_hidden: float = 30.0,
    output_offset: float = 0.0,
) -> Tensor:
    """Evaluates SIRENs: h_1 = sin(w0_first (W_1 x + b_1)), h_i = sin(w0_hidden (W_i h_{i-1} + b_i)), linear at the end.

    Differentiable in weights and coordinates. Half precision is raised to float32, under autocast too: it has not
    enough digits for sines of large angles.

    Args:
        features: B dense sine networks, C = 1.
        coords: (P, D) for all networks, or (B, P, D).
        w0_first: frequency of the first layer's sines.
        w0_hidden: frequency of the others.
        output_offset: added to the outputs.

    Returns:
        (B, P, O). Invariant to hidden-neuron permutations.

    Raises:
        ValueError: other networks, more than one channel, or coordinates of another number.
    """
    spec = features.spec
    check_inr(spec)
    if features.channels != 1:
        raise ValueError(f"a network to render has one number for each parameter, these have {features.channels}")
    if coords.shape[-1] != spec.sizes[0]:
        raise ValueError(f"{spec} takes {spec.sizes[0]} coordinates, got points of {coords.shape[-1]}")
    dtype = torch.promote_types(features.weights[0].dtype, torch.float32)
    hidden = coords.to(dtype).expand(features.batch_size, -1, -1)  # (B, P, S)
    with full_precision(coords):
        for i, (w_BRS11, bias_BR1) in enumerate(zip(features.weights, features.biases, strict=True)):
            w0 = 1.0 if i == spec.num_layers - 1 else w0_hidden if i else w0_first
            weight_BSR, bias_B1R = w_BRS11[..., 0, 0].mT.to(dtype), bias_BR1.mT.to(dtype)
            hidden = torch.baddbmm(bias_B1R, hidden, weight_BSR, beta=w0, alpha=w0)  # (B, P, R)
            if i < spec.num_layers - 1:
                hidden = hidden.sin()
    return hidden + output_offset


def nearest_cells(coords: Tensor, side: int, tiling: str = "corners") -> Tensor:
    """Which cell of a side x ... x side grid on [-1, 1]^D each point belongs to.

    Args:
        coords: (P, D).
        side: cells along each axis.
        tiling: "corners" puts the centres of the outermost cells on the border, so that their cells are half as long as
            others: index round((side - 1)(x + 1) / 2), halves to the even index (Inr2Array's code; 28 pixels on 4
            cells are 5, 9, 9, 5). "patches": cells of equal length (7, 7, 7, 7).

    Returns:
        (P,) int64, the first coordinate counting slowest.

    Raises:
        ValueError: side below 1, an unknown tiling.
    """
    if side < 1 or tiling not in TILINGS:
        raise ValueError(f"side must be at least 1 and tiling one of {', '.join(TILINGS)}, got {side} and {tiling!r}")
    along = (coords.double() + 1) / 2 * (side - 1 if tiling == "corners" else side)
    along = (along * 2**16).round() / 2**16  # a border is a border whatever the last digits of a float32 coordinate
    index = along.round() if tiling == "corners" else along.floor()
    strides = side ** torch.arange(coords.shape[1] - 1, -1, -1, device=coords.device)
    return (index.long().clamp(0, side - 1) * strides).sum(-1)


class CellRenderer(nn.Module):
    """Draws images each of whose cells has a SIREN of its own, which sees global coordinates (Inr2Array).

    Every pixel is computed once, by its cell's network. Cells of as many pixels go together: a 4 x 4 grid on 28 x 28
    pixels takes three batched evaluations (4 cells of 25 pixels, 8 of 45, 4 of 81).

    Args:
        coords: (P, D), the pixels.
        side: cells along each axis; M = side ** D.
        tiling: see `nearest_cells`.
        w0_first, w0_hidden, output_offset: see `render`.

    Shapes:
        B * M networks, the M of an image one after the other -> (B, P, O).

    Raises:
        ValueError: as `nearest_cells` and `render`; a number of networks that is no multiple of M.
    """

    cells: Tensor
    coords: Tensor
    position: Tensor

    def __init__(
        self,
        coords: Tensor,
        side: int = 1,
        tiling: str = "corners",
        w0_first: float = 30.0,
        w0_hidden: float = 30.0,
        output_offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_cells = side ** coords.shape[1]
        self.w0_first, self.w0_hidden, self.output_offset = w0_first, w0_hidden, output_offset
        cell_of_point = nearest_cells(coords, side, tiling)
        counts = cell_of_point.bincount(minlength=self.num_cells)
        sizes = [int(size) for size in counts.unique() if size]  # a cell may have no pixel
        cells = [(counts == size).nonzero().squeeze(1) for size in sizes]
        self.groups = [(len(part), size) for part, size in zip(cells, sizes, strict=True)]  # (G, n)
        rank = torch.empty_like(counts)
        rank[torch.cat(cells)] = torch.arange(sum(map(len, cells)), device=coords.device)
        order = rank[cell_of_point].argsort(stable=True)  # points by group, then by cell
        self.register_buffer("cells", torch.cat(cells), persistent=False)
        self.register_buffer("coords", coords[order], persistent=False)
        self.register_buffer("position", order.argsort(), persistent=False)

    def forward(self, features: WeightSpaceFeatures) -> Tensor:
        batch, rest = divmod(features.batch_size, self.num_cells)
        if rest:
            raise ValueError(f"{self.num_cells} networks draw an image, got {features.batch_size} networks")
        each = features.map(lambda t: t.unflatten(0, (batch, self.num_cells)))  # (B, M, ...)
        cells = self.cells.split([count for count, _ in self.groups])
        coords = self.coords.split([count * size for count, size in self.groups])
        parts = []
        for (count, size), chosen, coords_PD in zip(self.groups, cells, coords, strict=True):
            group = each.map(partial(torch.index_select, dim=1, index=chosen)).map(lambda t: t.flatten(0, 1))
            coords_GnD = coords_PD.unflatten(0, (count, size)).repeat(batch, 1, 1)  # (B * G, n, D)
            pixels = render(group, coords_GnD, self.w0_first, self.w0_hidden, self.output_offset)  # (B * G, n, O)
            parts.append(pixels.unflatten(0, (batch, count)).flatten(1, 2))
        return torch.cat(parts, 1).index_select(1, self.position)

    def extra_repr(self) -> str:
        return f"{len(self.coords)} points, {self.num_cells} cells, groups of (cells, points) {self.groups}"
