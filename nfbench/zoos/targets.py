"""What networks are fitted to: coordinates and the values wanted there, item by item of a data source.

Shapes: ``n`` items, ``P`` points of each, ``D`` coordinates, ``O`` values at a point.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nfbench.zoos.fit import Floats, pixel_grid
from nfbench.zoos.images import ImageSet


class Targets(Protocol):
    """``labels`` (N,) of all items; ``origin`` says what they are, ``fingerprint`` is their SHA-256."""

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def origin(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def num_points(self) -> int: ...

    def select(self, index: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Coordinates (P, D), or (n, P, D) where items differ in them, and values (n, P, O) of items ``index``."""
        ...


class ImageTargets:
    """All pixels of each image, on a grid that all images share."""

    def __init__(self, images: ImageSet, grid: str) -> None:
        self.images, self.labels = images, images.labels
        self.origin, self.fingerprint = images.origin, images.fingerprint
        height, width, _ = images.pixels.shape[1:]
        self.coords = pixel_grid(height, width, grid)
        self.num_points = len(self.coords)

    def select(self, index: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """See `Targets`."""
        pixels = self.images.pixels[index]
        return self.coords, pixels.reshape(len(index), self.num_points, -1)
