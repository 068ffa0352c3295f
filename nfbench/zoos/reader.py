"""`NetworkReader`: from a network as it is in a file to what a trained model reads, without the zoo of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures, canonical_form
from nfbench.zoos.fit import pixel_grid, render_flat
from nfbench.zoos.recipe import SirenRecipe


@dataclass(frozen=True)
class NetworkReader:
    """What a zoo does to each network before a model sees it. A checkpoint carries it, as plain values.

    Attributes:
        spec: of the networks.
        mean, std: (T,), of the standardisation; zeros and ones where there is none.
        canonicalize: whether sine networks are brought to their canonical form first.
        recipe: of sine networks: frequencies, output offset, range of the pixels, grid; None for others.
        image_shape: (H, W, channels) of what the networks show; zeros where that is not known.
    """

    spec: NetworkSpec
    mean: Tensor
    std: Tensor
    canonicalize: bool = False
    recipe: SirenRecipe | None = None
    image_shape: tuple[int, int, int] = (0, 0, 0)

    def to_plain(self) -> dict[str, Any]:
        """Plain values and tensors on the CPU, for a checkpoint."""
        return {
            "spec": str(self.spec),
            "mean": self.mean.cpu().clone(),
            "std": self.std.cpu().clone(),
            "canonicalize": self.canonicalize,
            "recipe": self.recipe.to_plain() if self.recipe else None,
            "image_shape": list(self.image_shape),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> NetworkReader:
        """What `to_plain` gave."""
        height, width, channels = plain["image_shape"]
        return cls(
            NetworkSpec.parse(plain["spec"]),
            plain["mean"],
            plain["std"],
            plain["canonicalize"],
            SirenRecipe(**plain["recipe"]) if plain["recipe"] else None,
            (height, width, channels),
        )

    def read(self, raw: Tensor) -> WeightSpaceFeatures:
        """Weights (B, T) as in a file -> what the model reads."""
        flat = raw
        if self.canonicalize:
            flat = self._form(raw).features.flatten()[..., 0]
        return WeightSpaceFeatures.from_flat(self.spec, (flat - self.mean) / self.std)

    def write(self, features: WeightSpaceFeatures, raw: Tensor) -> Tensor:
        """Edits of networks, as a model gives them -> weights (B, T) in the place of the networks `raw` (B, T)."""
        flat = features.flatten()[..., 0] * self.std + self.mean
        if not self.canonicalize:
            return flat
        return self._form(raw).undo(WeightSpaceFeatures.from_flat(self.spec, flat)).flatten()[..., 0]

    def _form(self, raw: Tensor) -> Any:
        assert self.recipe is not None, "only sine networks have a canonical form"
        networks = WeightSpaceFeatures.from_flat(self.spec, raw)
        return canonical_form(networks, self.recipe.w0_first, self.recipe.w0_hidden)

    @property
    def draws(self) -> bool:
        """Whether `render` knows how."""
        return self.recipe is not None and self.image_shape[0] > 0

    def render(self, raw: Tensor) -> Tensor:
        """The images (B, H, W, channels) in [0, 1] of networks (B, T), as the zoo's own networks are drawn."""
        assert self.recipe is not None, "see `draws`"
        height, width, channels = self.image_shape
        coords = torch.from_numpy(pixel_grid(height, width, self.recipe.grid))
        drawn = render_flat(raw, self.spec.sizes, coords, self.recipe)
        return drawn.clamp(0, 1).reshape(-1, height, width, channels)
