"""`Augmentation`: which augmentations a zoo applies to its training networks, how strongly, and in which order.

A batch takes three steps, with the canonical form (if any) after the first and standardisation after the last:

1. `move_picture`, exact: flip, rotation, scaling, translation, on the weights as they are in the file.
2. `disturb`, approximate: noise, dropout, mixup. After the canonical form, for three reasons. It jumps where a sign or
   a half-turn of a phase changes, so that a little noise before it could be a lot after it. A bias that dropout zeroes
   is a phase of zero there, but any number of half-turns away from its own before it. And neurons that differ in
   nothing but the sign would cancel in a mixture, while a mixture of canonical networks is canonical.
3. `reparametrize`, exact: sine symmetry and neuron permutation keep the function, whatever came before. They are last
   so that mixup finds neurons in the order they were fitted in.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nfbench.weightspace import (
    Mixup,
    NeuronPermutation,
    SineSymmetry,
    WeightSpaceFeatures,
    add_noise,
    drop_weights,
    sample_flips,
    sample_rigid_motion,
    sample_spatial_motion,
    transform_coordinates,
)

FLIPS = ("none", "horizontal", "vertical", "both")
APPROXIMATE = ("noise", "dropout", "mixup")


@dataclass(frozen=True)
class Augmentation:
    """What happens to training networks; by default nothing. A zoo's option ``augment_noise`` is ``noise`` here.

    Args:
        rotation: exact, INRs; largest angle in radians; in space about a random axis.
        scale: exact, INRs; largest relative change of size.
        shift: exact, INRs; largest translation along each axis (the image is 2 wide).
        flip: exact, INRs; ``horizontal`` mirrors left and right, ``vertical`` top and bottom, ``both`` does each
            independently of the other, all in half of the networks; ``none``.
        turn: exact, INRs of three coordinates; largest angle about the third axis, in radians.
        permute: exact; random order of hidden neurons.
        sine: exact, sine networks; random sign and -1, 0 or 1 half-turns of phase for each hidden neuron.
        noise: approximate; standard deviation of Gaussian noise, relative to that of each weight or bias tensor over
            the (canonical) training networks.
        dropout: approximate; probability that a weight or bias is set to zero.
        mixup: approximate; alpha of the Beta(alpha, alpha) distribution of the shares in which two networks of a batch,
            and their targets, are averaged; 0: off.

    Raises:
        ValueError: a value that is not allowed, with those that are.
    """

    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    flip: str = "none"
    turn: float = 0.0
    permute: bool = False
    sine: bool = False
    noise: float = 0.0
    dropout: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rotation", "scale", "shift", "turn", "noise", "mixup"):
            amount = getattr(self, name)
            if not (math.isfinite(amount) and amount >= 0):
                raise ValueError(f"zoo.augment_{name}={amount} must be a number, 0 or more.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"zoo.augment_dropout={self.dropout} must be a probability, 0 or more and below 1.")
        if self.flip not in FLIPS:
            raise ValueError(f"zoo.augment_flip={self.flip!r} is not known. Choose one of: {', '.join(FLIPS)}.")

    def describe(self) -> str:
        """For a result's protocol: what is on, how strongly, and which is approximate; ``none``."""
        parts = []
        for name, value in asdict(self).items():
            if value and value != "none":
                amount = "" if value is True else f" {value}" if isinstance(value, str) else f" {value:g}"
                parts.append(f"{name}{amount}{' (approximate)' if name in APPROXIMATE else ''}")
        return ", ".join(parts) or "none"

    def __bool__(self) -> bool:
        return self != Augmentation()

    def move_picture(
        self, features: WeightSpaceFeatures, generator: torch.Generator, grid: str = "ij"
    ) -> WeightSpaceFeatures:
        """Networks of the moved images or shapes, exactly: mirrored first, then turned, scaled and shifted.

        Args:
            features: B dense networks of two coordinates, or of three (which are not mirrored), C = 1.
            generator: of the CPU.
            grid: ``ij``: the first coordinate goes down the rows; ``xy``: along the columns.
        """
        batch, weight = features.batch_size, features.weights[0]
        if features.spec.sizes[0] == 3 and (self.rotation or self.scale or self.shift or self.turn):
            matrix, shift = sample_spatial_motion(batch, generator, self.rotation, self.scale, self.shift, self.turn)
            return transform_coordinates(features, matrix.to(weight), shift.to(weight))
        if self.rotation or self.scale or self.shift:
            # x -> A x + t on the coordinates; the mirror F comes after it there: f(F (A x + t)) turns a mirrored image.
            matrix, shift = sample_rigid_motion(batch, generator, self.rotation, self.scale, self.shift)
        elif self.flip != "none":
            matrix, shift = torch.eye(2).expand(batch, 2, 2), torch.zeros(batch, 2)
        else:
            return features
        if self.flip != "none":
            rows, columns = (0, 1) if grid == "ij" else (1, 0)
            axes = {"horizontal": (columns,), "vertical": (rows,), "both": (rows, columns)}[self.flip]
            mirror = sample_flips(batch, 2, generator, axes)
            matrix, shift = mirror @ matrix, (mirror @ shift[..., None])[..., 0]
        return transform_coordinates(features, matrix.to(weight), shift.to(weight))

    def disturb(
        self, features: WeightSpaceFeatures, std: Tensor, generator: torch.Generator
    ) -> tuple[WeightSpaceFeatures, Mixup | None]:
        """Noise, dropout and mixup, in this order.

        Args:
            features: B networks of T parameters.
            std: (T,), of each parameter's tensor over the training networks; read for noise only.
            generator: of the CPU.

        Returns:
            The changed networks, and the mixup that their targets need too (None where it is off).
        """
        if self.noise:
            features = add_noise(features, self.noise * std, generator)
        if self.dropout:
            features = drop_weights(features, self.dropout, generator)
        if not self.mixup:
            return features, None
        mixup = Mixup.sample(features.batch_size, self.mixup, generator)
        return mixup.apply(features), mixup

    def reparametrize(
        self,
        features: WeightSpaceFeatures,
        generator: torch.Generator,
        w0_first: float = 30.0,
        w0_hidden: float = 30.0,
    ) -> WeightSpaceFeatures:
        """Other weights of the same functions: sine symmetry and neuron permutation.

        Args:
            features: B networks; for the sine symmetry dense sine networks with these frequency factors, C = 1.
            generator: of the CPU.
        """
        if self.sine:
            symmetry = SineSymmetry.sample(features.spec, features.batch_size, generator)
            features = symmetry.apply(features, w0_first, w0_hidden)
        if self.permute:
            features = NeuronPermutation.sample(features.spec, features.batch_size, generator).apply(features)
        return features
