"""`ShapesZoo`: unsigned distances of 3-D point clouds as implicit neural representations, fitted on the spot.

The protocol is that of the 3-D shapes in Zhou et al., Permutation Equivariant Neural Functionals, arXiv 2302.14040,
section 3.2 and appendix D.3, as far as it is stated there: SIRENs with one hidden layer of 128 neurons, unsigned
distance, Adam, 1,000 steps, independent random starts. Learning rate, sampling and split are not stated.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfbench.weightspace import WeightSpaceFeatures
from nfbench.zoos.augmentation import Augmentation
from nfbench.zoos.build import ZooPlan
from nfbench.zoos.clouds import NEAR, BuiltInClouds, Clouds, FolderClouds, sample_distances
from nfbench.zoos.fit import Floats, layer_sizes, render_flat
from nfbench.zoos.inr import InrZoo
from nfbench.zoos.procedural import POSES
from nfbench.zoos.recipe import make_recipe
from nfbench.zoos.splits import Split

BUILT_IN_SHAPES = 4000  # how many there are unless the number is given
SPLIT = "tens"  # of each ten shapes of a class, in their fixed order: third validation, fifth test, the rest training
VAL, TEST = 2, 4
PICTURE, DEPTH = 40, 24  # pixels of a picture's sides; points along the line of sight


@dataclass(frozen=True, kw_only=True)
class ShapesPlan(ZooPlan):
    """Which zoo of shapes: everything that decides its content. ``num_images`` counts the shapes."""

    clouds: Clouds
    samples: int

    @property
    def sizes(self) -> tuple[int, ...]:
        return layer_sizes(self.recipe, 1, 3)

    def make_split(self) -> Split:
        place = self.clouds.ranks % 10
        val, test = place == VAL, place == TEST
        return Split(*(np.flatnonzero(part) for part in (~(val | test), val, test)))

    def load(self, data_dir: str) -> ShapeTargets:
        return ShapeTargets(self.clouds, self.samples)

    def manifest(self) -> dict[str, Any]:
        own = {"clouds": self.clouds.identity, "classes": list(self.clouds.class_names)}
        sampling = {"samples": self.samples, "near": NEAR}
        return {**super().manifest(), **own, **sampling}


class ShapeTargets:
    """Sampled distances of each shape; see `Targets`.

    Raises:
        ValueError: a file that is not a cloud.
    """

    def __init__(self, clouds: Clouds, samples: int) -> None:
        self.clouds, self.num_points, self.labels = clouds, samples, clouds.labels
        self.origin = f"{clouds.num_shapes} {'built-in shapes' if isinstance(clouds, BuiltInClouds) else 'files'}"
        self.fingerprint = clouds.fingerprint()

    def select(self, index: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Coordinates (n, P, 3) and distances (n, P, 1)."""
        known, inverse = np.unique(index, return_inverse=True)  # views of a shape share its samples
        pairs = [sample_distances(self.clouds.load(int(i)), self.num_points, int(i)) for i in known]
        coords, distances = (np.stack(part)[inverse] for part in zip(*pairs, strict=True))
        return coords, distances


class ShapesZoo(InrZoo):
    """SIRENs 3-128-1 (or 3-128-128-1: ``widths=[128,128]``) of the distance to a cloud's nearest point, with its class.

    A cloud's mean is moved to the origin and its farthest point to distance 1. Each network is fitted, at all of them
    in every step, to distances at ``samples`` coordinates: half of them uniform in the unit ball, half near the points.
    Shapes go to the parts by a fixed rule: in the fixed order of its class every tenth from the third is for validation
    and every tenth from the fifth for testing, with all views. The class is the built-in family or the sub-folder.

    Args:
        clouds: folder of clouds, ``<folder>/<class>/<name>.npy`` or ``.ply``; None: ten built-in families of surfaces.
        definition: shapes, another recipe's name or custom (see recipe.py).
        num_shapes: the first ones, evenly over the classes; None: all of the folder, or 4,000 built-in ones.
        points: of a built-in cloud.
        noise: standard deviation in each coordinate of a built-in cloud's points; its radius is 1.
        pose: of built-in clouds: none, upright (turned about the z axis, which is up), any.
        samples: coordinates a network is fitted at.
        augment_rotation: largest angle (radians) about a random axis, of training shapes; exact.
        augment_turn: largest angle (radians) about the z axis; exact.
        augment_scale, augment_shift: relative change of size and translation along each axis, at most; exact.

    All others are explained in `SirenZoo`.

    Raises:
        ValueError: a value that is not allowed, with those that are; no clouds; too few of them for three parts.
    """

    def __init__(
        self,
        *,
        clouds: str | None = None,
        definition: str = "shapes",
        widths: Sequence[int] | None = None,
        w0_first: float | None = None,
        w0_hidden: float | None = None,
        init: str | None = None,
        init_scale: float | None = None,
        bias_init: str | None = None,
        output_offset: float | None = None,
        optimizer: str | None = None,
        lr: float | None = None,
        num_steps: int | None = None,
        stop_psnr: float | None = None,
        zoo_seed: int = 0,
        num_shapes: int | None = None,
        num_views: int = 1,
        eval_views: str = "one",
        points: int = 1024,
        noise: float = 0.01,
        pose: str = "any",
        samples: int = 512,
        canonicalize: bool = False,
        augment_rotation: float = 0.0,
        augment_turn: float = 0.0,
        augment_scale: float = 0.0,
        augment_shift: float = 0.0,
        augment_permute: bool = False,
        augment_sine: bool = False,
        augment_noise: float = 0.0,
        augment_dropout: float = 0.0,
        augment_mixup: float = 0.0,
        standardize: str = "none",
        batch_size: int = 64,
        eval_batch_size: int = 512,
        views_per_epoch: int = 1,
        seed: int = 0,
        file_name: str | None = None,
        zoo_dir: str = "data/zoos",
        threads: int | None = None,
        fit_device: str = "cpu",
    ) -> None:
        recipe, label = make_recipe(
            definition, widths=tuple(widths) if widths is not None else None, w0_first=w0_first, w0_hidden=w0_hidden,
            init=init, init_scale=init_scale, bias_init=bias_init, output_offset=output_offset, optimizer=optimizer,
            lr=lr, num_steps=num_steps, stop_psnr=stop_psnr, seed=zoo_seed,
        )  # fmt: skip
        if pose not in POSES:
            raise ValueError(f"zoo.pose={pose!r} is not known. Choose one of: {', '.join(POSES)}.")
        if not (math.isfinite(noise) and noise >= 0):
            raise ValueError(f"zoo.noise={noise} must be a number, 0 or more.")
        for name, count, least in (("num_shapes", num_shapes, 1), ("points", points, 16), ("samples", samples, 16)):
            if count is not None and count < least:
                raise ValueError(f"zoo.{name}={count} must be {least} or more.")
        found: Clouds
        if clouds is None:
            found = BuiltInClouds(num_shapes or BUILT_IN_SHAPES, points, noise, pose)
        else:
            found = FolderClouds(clouds, num_shapes)
        source = "shapes" if clouds is None else "clouds"
        plan = ShapesPlan(source, SPLIT, recipe, found.num_shapes, num_views, eval_views, clouds=found, samples=samples)
        parts = {name: len(part) for name, part in plan.make_split().parts.items()}
        if not all(parts.values()):
            raise ValueError(
                f"{found.num_shapes} shapes leave {parts} for the parts; each needs at least one. The third shape of a "
                f"class is for validation and its fifth for testing: give 5 shapes or more of some class."
            )
        self.clouds = found
        which = hashlib.sha256(f"{found.identity}, {samples} samples".encode()).hexdigest()[:8]
        super().__init__(
            plan=plan, label=label, name=source, subset=f"{found.num_shapes}-{which}",
            num_classes=len(found.class_names), image_shape=(PICTURE, PICTURE, 1),
            augment=Augmentation(
                rotation=augment_rotation, turn=augment_turn, scale=augment_scale, shift=augment_shift,
                permute=augment_permute, sine=augment_sine, noise=augment_noise, dropout=augment_dropout,
                mixup=augment_mixup,
            ),
            canonicalize=canonicalize, standardize=standardize, batch_size=batch_size,
            eval_batch_size=eval_batch_size, views_per_epoch=views_per_epoch, seed=seed, file_name=file_name,
            data_dir="", zoo_dir=zoo_dir, threads=threads, fit_device=fit_device,
        )  # fmt: skip

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """What a result must say about its data; ``num_images`` counts shapes."""
        assert isinstance(self.plan, ShapesPlan)
        return {**super().protocol, "clouds": self.clouds.identity, "samples": self.plan.samples}

    def render(self, features: WeightSpaceFeatures) -> Tensor:
        """The shapes (B, H, W, 1) in [0, 1] seen along the y axis, z up: white where some point in the line of sight
        is on the surface, black where all points in the unit ball are a quarter of its radius or more away from it.
        """
        across, up, deep = torch.linspace(-1, 1, PICTURE), torch.linspace(1, -1, PICTURE), torch.linspace(-1, 1, DEPTH)
        points = torch.stack(torch.meshgrid(across, deep, up, indexing="ij"), -1).flatten(0, 2)  # x, y, z
        outside = (points.norm(dim=1) > 1).reshape(1, PICTURE, DEPTH, PICTURE).to(features.weights[0].device)
        flat = self.raw_weights(features)
        nearest = []
        for row in flat.split(1):  # one at a time: activations at all these points are large
            distances = render_flat(row, self.plan.sizes, points.to(row), self.recipe).reshape(outside.shape)
            nearest.append(distances.masked_fill(outside, 1.0).amin(2))
        return (1 - 4 * torch.cat(nearest)).clamp(0, 1).mT.unsqueeze(-1)
