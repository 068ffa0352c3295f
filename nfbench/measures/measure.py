"""All measures of a batch of trained classifiers, on a sample of images.

B networks, T weights of a network, n images (H, W, S).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nfbench.measures.curvature import hessian_product, top_eigenvalue
from nfbench.measures.directions import network_direction
from nfbench.measures.forward import STRIDE, cross_entropies, logits
from nfbench.measures.landscape import sharpness
from nfbench.measures.norms import classifier_jacobian_norms, margins, weight_norms
from nfbench.weightspace import NetworkSpec

# Each measure: what it is, and the sign that its source expects of its rank correlation with test accuracy.
MEASURES = {
    "loss": ("cross-entropy on the sample, in nats", -1),
    "accuracy": ("on the sample", +1),
    "sharpness_mean": ("mean increase of the loss at the radius over filter-normalised directions (Li et al.)", -1),
    "sharpness_max": ("largest such increase", -1),
    "hessian_top": ("largest eigenvalue of the Hessian of the loss", -1),
    "hessian_residual": ("distance within which there is an eigenvalue, as a share of hessian_top", 0),
    "jacobian_spectral": ("mean spectral norm of the Jacobian of logits by pixels (MacDonald et al.)", -1),
    "jacobian_spectral_max": ("largest such norm of the sample: bounds the Lipschitz constant from below", -1),
    "jacobian_frobenius": ("mean Frobenius norm of that Jacobian (Novak et al.)", -1),
    "margin_mean": ("mean of the right logit less the largest other", +1),
    "margin_p10": ("10th percentile of that margin", +1),
    "margin_over_jacobian": ("mean of the margin over the spectral Jacobian norm: pixels to the boundary", +1),
    "l2_norm": ("length of all weights and biases", -1),
    "log_frobenius": ("log of the product of the layers' Frobenius norms", -1),
    "log_spectral": ("log of the product of the layers' spectral norms", -1),
}


@dataclass(frozen=True)
class Settings:
    """How the measures are taken.

    Args:
        images: how many training images are taken.
        seed: of the directions and the start of Lanczos; the same for all networks.
        directions: random directions of the sharpness.
        radius: of the sharpness, as a share of each filter's length.
        biases: whether directions move biases.
        tolerance: of the largest eigenvalue, see `top_eigenvalue`.
        max_steps: of Lanczos.
        jacobian_images: the first so many of the sample; a Jacobian costs ten backward passes.
        stride: of the networks' convolutions.

    Raises:
        ValueError: a number that is not positive.
    """

    images: int = 512
    seed: int = 0
    directions: int = 10
    radius: float = 0.1
    biases: bool = False
    tolerance: float = 1e-3
    max_steps: int = 60
    jacobian_images: int = 128
    stride: int = STRIDE

    def __post_init__(self) -> None:
        for name in ("images", "directions", "radius", "tolerance", "max_steps", "jacobian_images", "stride"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")


def measure(
    spec: NetworkSpec, params_BT: Tensor, pixels: Tensor, labels: Tensor, settings: Settings
) -> dict[str, Tensor]:
    """Every measure of `MEASURES` for B networks, each (B,); NaN where a number overflowed.

    A network's values do not depend on the others of its batch, up to rounding.

    Args:
        spec: of all networks, with their activation.
        params_BT: (B, T).
        pixels: (n, H, W, S), as the networks take them: grayscale in [-1, 1] for the Small CNN Zoo.
        labels: (n,) int64.
        settings: how.

    Raises:
        ValueError: weights, images or labels that do not fit each other.
    """
    classes = spec.sizes[-1]
    if len(pixels) != len(labels) or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes):
        raise ValueError(
            f"{len(pixels)} images with {len(labels)} labels {int(labels.min())} to {int(labels.max())} do not fit the "
            f"{classes} classes of {spec}: give one label of 0 to {classes - 1} for each image"
        )
    losses = cross_entropies(spec, pixels, labels, settings.stride)
    few = slice(settings.jacobian_images)
    with torch.no_grad():
        z_BnN = logits(spec, params_BT, pixels, settings.stride)
        margin = margins(z_BnN, labels)
        found = {"loss": losses(params_BT), "accuracy": (margin > 0).to(params_BT).mean(1)}
        directions = [
            network_direction(spec, params_BT, settings.seed * settings.directions + k, "filter", settings.biases)
            for k in range(settings.directions)
        ]
        increase = sharpness(losses, params_BT, directions, settings.radius)
        found |= {"sharpness_mean": increase.mean(1), "sharpness_max": increase.amax(1)}
    top = top_eigenvalue(
        hessian_product(losses, params_BT),
        params_BT,
        tolerance=settings.tolerance,
        max_steps=settings.max_steps,
        seed=settings.seed,
    )
    tiny = torch.finfo(params_BT.dtype).tiny
    found |= {"hessian_top": top.value, "hessian_residual": top.residual / top.value.abs().clamp_min(tiny)}
    jacobian = classifier_jacobian_norms(spec, params_BT, pixels[few], settings.stride)
    found |= {
        "jacobian_spectral": jacobian.spectral.mean(1),
        "jacobian_spectral_max": jacobian.spectral.amax(1),
        "jacobian_frobenius": jacobian.frobenius.mean(1),
        "margin_mean": margin.mean(1),
        "margin_p10": torch.quantile(margin, 0.1, 1),
        "margin_over_jacobian": (margin[:, few] / jacobian.spectral.clamp_min(tiny)).mean(1),
    }
    found |= weight_norms(spec, params_BT)
    return {name: values.masked_fill(~values.isfinite(), torch.nan) for name, values in found.items()}
