"""Augmentations of networks as data, on their weights.

Exact ones know what function comes out. Where an INR's image moves, the first layer alone says so: the network of
x -> f(A x + t) has W_1 A for W_1 and b_1 + W_1 t for b_1 (`transform_coordinates`, with `sample_rigid_motion`,
`sample_spatial_motion` and `sample_flips`). `SineSymmetry` changes weights and keeps the function, as
`NeuronPermutation` does.
Approximate ones, `add_noise`, `drop_weights` and `Mixup`, give another function, hopefully one of the same class.
Random numbers come from the generator given, which is one of the CPU.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nfbench.weightspace.features import WeightSpaceFeatures
from nfbench.weightspace.spec import NetworkSpec


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


def sample_spatial_motion(
    batch_size: int,
    generator: torch.Generator,
    rotation: float = 0.0,
    scale: float = 0.0,
    shift: float = 0.0,
    turn: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Random rotation, scaling and translation of space for `transform_coordinates`.

    Args:
        rotation: largest angle in radians about an axis of uniformly random direction.
        scale: largest relative change of size; 0.1 gives factors from 1/1.1 to 1.1, uniform in the logarithm.
        shift: largest translation along each axis, in coordinate units.
        turn: largest angle in radians, either way, about the third axis; a matrix of its own, multiplied from the left.

    Returns:
        matrix (B, 3, 3) and shift (B, 3).
    """
    axis_B3 = torch.randn(batch_size, 3, generator=generator)
    uniform = 2 * torch.rand(6, batch_size, generator=generator) - 1
    up_B3 = torch.tensor([0.0, 0.0, 1.0]).expand(batch_size, 3)
    turned = _rotation(up_B3, turn * uniform[1]) @ _rotation(axis_B3, rotation * uniform[0])
    factor = (uniform[2] * math.log1p(scale)).exp()
    return factor[:, None, None] * turned, shift * uniform[3:].T


def _rotation(axis_B3: Tensor, angle_B: Tensor) -> Tensor:
    """Rotations (B, 3, 3) about these axes: the exponential of their cross products."""
    x, y, z = (torch.nn.functional.normalize(axis_B3, dim=1) * angle_B[:, None]).unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1)
    return torch.linalg.matrix_exp(cross.unflatten(1, (3, 3)))


def sample_flips(batch_size: int, size: int, generator: torch.Generator, axes: Sequence[int]) -> Tensor:
    """Diagonal matrices for `transform_coordinates` that mirror each of these coordinates in half of the networks.

    Args:
        size: number of coordinates, D.
        axes: coordinates to mirror, 0 to D - 1.

    Returns:
        (B, D, D); its diagonal is 1 or -1.
    """
    signs = torch.ones(batch_size, size)
    for axis in axes:
        signs[:, axis] -= 2.0 * torch.randint(0, 2, (batch_size,), generator=generator)
    return torch.diag_embed(signs)


@dataclass(frozen=True, eq=False)
class SineSymmetry:
    """A sign and a number of half-turns for each hidden neuron of sine networks: other weights, the same function.

    A neuron sin(w0 (w.x + b)) with the sign s and k half-turns becomes sin(w0 (s w.x + s b + k pi / w0)), which is
    s (-1)^k times what it was, and its outgoing weights are multiplied by s (-1)^k. `canonicalize` removes both.

    Args:
        signs: for each hidden layer (B, n_i), 1 or -1.
        turns: for each hidden layer (B, n_i), whole numbers.
    """

    signs: tuple[Tensor, ...]
    turns: tuple[Tensor, ...]

    @classmethod
    def sample(cls, spec: NetworkSpec, batch_size: int, generator: torch.Generator, max_turns: int = 1) -> SineSymmetry:
        """Uniformly random signs, and half-turns between -max_turns and max_turns, drawn anew for each network."""
        signs, turns = [], []
        for size in spec.sizes[1:-1]:
            signs.append(1 - 2 * torch.randint(0, 2, (batch_size, size), generator=generator))
            turns.append(torch.randint(-max_turns, max_turns + 1, (batch_size, size), generator=generator))
        return cls(tuple(signs), tuple(turns))

    def apply(
        self, features: WeightSpaceFeatures, w0_first: float = 30.0, w0_hidden: float = 30.0
    ) -> WeightSpaceFeatures:
        """The same functions with other signs and phases, exactly.

        Args:
            features: B dense sine networks, C = 1.
            w0_first: frequency factor of the first layer.
            w0_hidden: frequency factor of the other sine layers.

        Raises:
            ValueError: networks that are not dense sine networks with C = 1.
        """
        spec = features.spec
        if spec.activation != "sine" or features.channels != 1 or any(layer.is_conv for layer in spec.layers):
            raise ValueError(
                f"only dense sine networks with one channel have this symmetry, got {spec} with {features.channels} "
                "channels; set augment_sine=false for other networks"
            )
        weights, biases = list(features.weights), list(features.biases)
        for i, (sign, turns) in enumerate(zip(self.signs, self.turns, strict=True)):
            sign_BR, turns_BR = sign.to(biases[i]), turns.to(biases[i])
            outgoing_BR = sign_BR * (1 - 2 * torch.remainder(turns_BR, 2))
            half_period = math.pi / (w0_hidden if i else w0_first)
            weights[i] = weights[i] * sign_BR[:, :, None, None, None]
            biases[i] = biases[i] * sign_BR[..., None] + half_period * turns_BR[..., None]
            weights[i + 1] = weights[i + 1] * outgoing_BR[:, None, :, None, None]
        return WeightSpaceFeatures(spec, tuple(weights), tuple(biases))


def add_noise(features: WeightSpaceFeatures, std: Tensor, generator: torch.Generator) -> WeightSpaceFeatures:
    """Approximate: adds Gaussian noise, so the functions change a little.

    Args:
        features: B networks of T parameters.
        std: (T,), of the noise on each parameter; one number for each tensor keeps neurons exchangeable.
    """
    x_BTC = features.flatten()
    noise_BTC = torch.randn(x_BTC.shape, generator=generator, dtype=x_BTC.dtype).to(x_BTC.device)
    return WeightSpaceFeatures.from_flat(features.spec, x_BTC + std.to(x_BTC)[:, None] * noise_BTC)


def drop_weights(features: WeightSpaceFeatures, probability: float, generator: torch.Generator) -> WeightSpaceFeatures:
    """Approximate: sets single weights and biases to zero; the others keep their values, they are not scaled up."""
    x_BTC = features.flatten()
    kept_BT1 = torch.rand(*x_BTC.shape[:2], 1, generator=generator) >= probability
    return WeightSpaceFeatures.from_flat(features.spec, x_BTC * kept_BT1.to(x_BTC))


@dataclass(frozen=True, eq=False)
class Mixup:
    """Approximate: each network of a batch is averaged with another one of it, and so are their targets.

    Weights are averaged place by place. Nothing aligns the neurons of two networks, so the mixture computes neither of
    their functions nor a mean of them; it is a regulariser, not a symmetry.

    Args:
        partner: (B,), which network of the batch is mixed in.
        share: (B,), of the network itself, 1/2 to 1: it stays the one that the mixture is mostly of.
    """

    partner: Tensor
    share: Tensor

    @classmethod
    def sample(cls, batch_size: int, alpha: float, generator: torch.Generator) -> Mixup:
        """Random partners, and shares from Beta(alpha, alpha), the greater of share and 1 - share."""
        partner = torch.randperm(batch_size, generator=generator)
        # torch's own Beta distribution draws from the global generator only.
        source = random.Random(int(torch.randint(2**62, (), generator=generator)))
        drawn = torch.tensor([source.betavariate(alpha, alpha) for _ in range(batch_size)], dtype=torch.float64)
        return cls(partner, torch.maximum(drawn, 1 - drawn))

    def mix(self, values: Tensor) -> Tensor:
        """Mixes floating-point weights, biases or targets (B, ...) with those of the partners."""
        share = self.share.to(values).reshape(-1, *[1] * (values.ndim - 1))
        return share * values + (1 - share) * values[self.partner.to(values.device)]

    def apply(self, features: WeightSpaceFeatures) -> WeightSpaceFeatures:
        """The mixtures of B networks, as weights."""
        return features.map(self.mix)
