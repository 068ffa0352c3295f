"""Ten families of parametric surfaces as point clouds, so that the 3-D task needs no download.

Shape i is of family i % 10. Its parameters, its pose, its points and their noise come from a random stream of its own,
which depends on i alone. The z axis is up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Random = np.random.Generator
Part = tuple[float, Callable[[Random, int], Points]]  # area, and a sampler of its points (n, 3)

VERSION = 1  # part of a zoo's identity: raise it with every change of what the clouds are
POSES = ("none", "upright", "any")
_STREAM = 20230229


def _box(size: Sequence[float], center: Sequence[float] = (0, 0, 0)) -> Part:
    x, y, z = size
    areas = np.array([y * z, x * z, x * y])

    def sample(random: Random, n: int) -> Points:
        points = random.uniform(-0.5, 0.5, (n, 3))
        axis = random.choice(3, n, p=areas / areas.sum())
        points[np.arange(n), axis] = random.choice([-0.5, 0.5], n)
        return points * size + center

    return 2 * float(areas.sum()), sample


def _cone(bottom: float, top: float, low: float, high: float, caps: bool = True) -> Part:
    """Frustum around the z axis with radii ``bottom`` at ``low`` and ``top`` at ``high``; equal radii: a cylinder."""
    side = math.pi * (bottom + top) * math.hypot(bottom - top, high - low)
    areas = np.array([side, math.pi * bottom**2 * caps, math.pi * top**2 * caps])

    def sample(random: Random, n: int) -> Points:
        kind = random.choice(3, n, p=areas / areas.sum())
        angle, u = random.uniform(0, 2 * math.pi, n), random.random(n)
        # Along the side the density follows the radius: its square is uniform between the squares of the ends'.
        mixed = np.sqrt(bottom**2 + (top**2 - bottom**2) * u)
        share = u if bottom == top else (mixed - bottom) / (top - bottom)
        radius = np.choose(kind, [bottom + (top - bottom) * share, bottom * np.sqrt(u), top * np.sqrt(u)])
        height = np.choose(kind, [low + (high - low) * share, low, high])
        return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)

    return float(areas.sum()), sample


def _tube(radius: float, curve: Callable[[NDArray[np.float64]], Points], length: float) -> Part:
    """Points at ``radius`` around a curve of arguments in [0, 1]; a random direction for each, made normal to it."""

    def sample(random: Random, n: int) -> Points:
        t = random.random(n)
        tangent = curve(t + 1e-4) - curve(t - 1e-4)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        normal = random.normal(size=(n, 3))
        normal -= (normal * tangent).sum(1, keepdims=True) * tangent
        return curve(t) + radius * normal / np.linalg.norm(normal, axis=1, keepdims=True)

    return 2 * math.pi * radius * length, sample


def _circle(radius: float, turns: float = 1.0, rise: float = 0.0) -> Callable[[NDArray[np.float64]], Points]:
    """Around the z axis; with ``rise`` a helix of that height."""

    def curve(t: NDArray[np.float64]) -> Points:
        angle = 2 * math.pi * turns * t
        return np.stack([radius * np.cos(angle), radius * np.sin(angle), rise * (t - 0.5)], 1)

    return curve


def _ellipsoid(random: Random) -> list[Part]:
    axes = random.uniform(0.4, 1.0, 3)

    def sample(random: Random, n: int) -> Points:  # a stretched sphere: denser where the ellipsoid is flat
        points = random.normal(size=(n, 3))
        return axes * points / np.linalg.norm(points, axis=1, keepdims=True)

    return [(1.0, sample)]


def _block(random: Random) -> list[Part]:
    return [_box(random.uniform(0.5, 1.2, 3).tolist())]


def _cylinder(random: Random) -> list[Part]:
    radius, height = random.uniform(0.3, 0.8), random.uniform(0.8, 2.0)
    return [_cone(radius, radius, -height / 2, height / 2)]


def _pointed(random: Random) -> list[Part]:
    return [_cone(random.uniform(0.5, 1.0), random.uniform(0.0, 0.1), 0, random.uniform(0.9, 2.0))]


def _torus(random: Random) -> list[Part]:
    return [_tube(random.uniform(0.12, 0.35), _circle(1.0), 2 * math.pi)]


def _helix(random: Random) -> list[Part]:
    turns, rise = random.uniform(2, 4), random.uniform(1.2, 2.5)
    return [_tube(random.uniform(0.06, 0.12), _circle(0.5, turns, rise), math.hypot(math.pi * turns, rise))]


def _legs(width: float, depth: float, height: float, thick: float) -> list[Part]:
    x, y = (width - thick) / 2, (depth - thick) / 2
    return [_box((thick, thick, height), (a * x, b * y, -height / 2)) for a in (-1, 1) for b in (-1, 1)]


def _table(random: Random) -> list[Part]:
    width, depth, height = random.uniform(1.2, 2.0), random.uniform(0.8, 1.2), random.uniform(0.6, 1.0)
    thick = random.uniform(0.06, 0.14)
    return [_box((width, depth, thick)), *_legs(width, depth, height, thick)]


def _chair(random: Random) -> list[Part]:
    width, depth, height = random.uniform(0.7, 1.0), random.uniform(0.7, 1.0), random.uniform(0.5, 0.9)
    thick, back = random.uniform(0.06, 0.14), random.uniform(0.7, 1.2)
    rest = _box((width, thick, back), (0, (depth - thick) / 2, back / 2))
    return [_box((width, depth, thick)), rest, *_legs(width, depth, height, thick)]


def _mug(random: Random) -> list[Part]:
    radius, height = random.uniform(0.4, 0.6), random.uniform(0.8, 1.4)
    ear, wall = random.uniform(0.2, 0.35), random.uniform(0.04, 0.08)

    def handle(t: NDArray[np.float64]) -> Points:  # half a circle in the plane of x and z, outside the wall
        angle = math.pi * (t - 0.5)
        return np.stack([radius + ear * np.cos(angle), 0 * t, ear * np.sin(angle)], 1)

    side = _cone(radius, radius, -height / 2, height / 2, caps=False)
    floor = _cone(radius, 0.0, -height / 2, -height / 2, caps=False)  # a flat cone is a disc
    return [side, floor, _tube(wall, handle, math.pi * ear)]


def _plane(random: Random) -> list[Part]:
    radius, span, chord = random.uniform(0.08, 0.15), random.uniform(1.4, 2.2), random.uniform(0.25, 0.45)
    tail, at = random.uniform(0.5, 0.8), random.uniform(0.0, 0.3)
    area, body = _cone(radius, 0.3 * radius, -1, 1)

    def lying(random: Random, n: int) -> Points:
        return body(random, n)[:, [2, 1, 0]] * [-1, 1, 1]  # nose at x = 1

    wings = _box((chord, span, 0.04), (at, 0, 0))
    stabiliser = _box((chord / 2, tail, 0.04), (-0.9, 0, 0))
    fin = _box((chord / 2, 0.04, tail / 2), (-0.9, 0, tail / 4))
    return [(area, lying), wings, stabiliser, fin]


FAMILIES: dict[str, Callable[[Random], list[Part]]] = {
    "ellipsoid": _ellipsoid,
    "block": _block,
    "cylinder": _cylinder,
    "cone": _pointed,
    "torus": _torus,
    "helix": _helix,
    "table": _table,
    "chair": _chair,
    "mug": _mug,
    "plane": _plane,
}


def make_cloud(index: int, points: int, noise: float, pose: str) -> Points:
    """The cloud (points, 3) of built-in shape ``index``, in the ball of radius 1 but for the noise.

    Args:
        index: of the shape; its family is the ``index % 10``-th.
        points: on its surfaces, by their area (on an ellipsoid denser at its flat sides).
        noise: standard deviation of what is added to each coordinate, after the cloud was brought to radius 1.
        pose: ``none``; ``upright``: turned about the z axis; ``any``: turned every way, uniformly.
    """
    random = np.random.Generator(np.random.Philox(key=np.array([_STREAM, index], np.uint64)))
    parts = list(FAMILIES.values())[index % len(FAMILIES)](random)
    areas = np.array([area for area, _ in parts])
    counts = random.multinomial(points, areas / areas.sum())
    cloud = np.concatenate([sample(random, n) for n, (_, sample) in zip(counts, parts, strict=True)])
    cloud = to_unit_ball(cloud @ _rotation(random, pose).T)
    return cloud + noise * random.normal(size=cloud.shape)


def to_unit_ball(cloud: Points) -> Points:
    """Moves the mean of the points to the origin, and scales the farthest one to distance 1."""
    cloud = cloud - cloud.mean(0)
    return cloud / np.linalg.norm(cloud, axis=1).max()


def _rotation(random: Random, pose: str) -> Points:
    if pose == "any":  # the Q of a Gaussian matrix, with R's diagonal made positive, is uniform; then det = 1
        q, r = np.linalg.qr(random.normal(size=(3, 3)))
        q *= np.sign(np.diag(r))
        return q * np.linalg.det(q)
    angle = random.uniform(0, 2 * math.pi) if pose == "upright" else 0.0
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
