"""What any editor of a zoo lies between: its networks as they are, and networks fitted to the edited images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from nfbench.zoos.edits import EditedImages
from nfbench.zoos.fit import Floats, fit_sirens, init_params, pixel_grid
from nfbench.zoos.inr import InrZoo

BOUNDS = ("identity", "own_fit")


def edit_bounds(zoo: InrZoo, edit: str, count: int | None = None) -> dict[str, Tensor]:
    """Mean squared errors (n,) against edited test images, pixels in [-1, 1], on the CPU.

    ``identity`` is of the test networks as they are, view 0 or the first there is; ``own_fit`` of networks that are
    fitted to the edited images by the zoo's recipe, from the random starts that the zoo's own networks had.

    Args:
        zoo: set up, on the CPU.
        edit: which.
        count: how many test images, in the fixed order in which subsets take them; None: all.

    Raises:
        ValueError: an unknown edit, a count that the test set doesn't have, an imported zoo of unknown recipe.
    """
    test = zoo.split.test
    if count is not None and not 1 <= count <= len(test):
        raise ValueError(f"--count {count}: this zoo has {len(test)} test images; give 1 to {len(test)}")
    if edit not in zoo.edits:
        raise ValueError(f"edit {edit!r} is unknown for these images: choose one of {', '.join(zoo.edits)}")
    known, wanted = getattr(zoo, "known", None), set(zoo.recipe.to_plain())
    if known is not None and not known >= wanted:
        raise ValueError(
            f"networks like those of {zoo.path.name} cannot be fitted: the file doesn't say "
            f"{', '.join(sorted(wanted - known))}. Take a zoo that is built here, such as zoo=siren_mnist"
        )
    items = test[:count]
    rows = torch.from_numpy(np.searchsorted(zoo.tables.index.numpy(), items))
    targets = zoo.edited_images(edit)
    fitted = torch.from_numpy(own_fits(zoo, targets, items))
    with torch.no_grad():
        errors = [zoo.errors(flat, targets(torch.from_numpy(items))) for flat in (zoo.tables.raw[rows], fitted)]
    return dict(zip(BOUNDS, errors, strict=True))


def own_fits(zoo: InrZoo, targets: EditedImages, items: NDArray[np.int64]) -> Floats:
    """Weights (n, T) of networks fitted to the edited images of these items, by the zoo's recipe."""
    recipe, sizes = zoo.recipe, zoo.plan.sizes
    height, width, _ = zoo.image_shape
    images = (targets(torch.from_numpy(items)) + 1) / 2  # (n, P, channels) in [0, 1]
    starts = init_params(recipe, sizes, zoo.plan.source, items, np.zeros_like(items))
    with tqdm(total=len(items), unit="net", desc="own fits", disable=None) as bar:
        result = fit_sirens(
            starts, images.numpy(), pixel_grid(height, width, recipe.grid), recipe, threads=zoo.threads,
            progress=lambda done, _: bar.update(done),
        )  # fmt: skip
    return result.params
