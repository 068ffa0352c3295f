"""Edits of images by OpenCV, as in the NFN authors' code, and a cache of edited images on the disk.

Every edit takes and gives bytes, as the authors' does: (H, W) of a grey image, (H, W, 3) of a colour image.

============  =========================================================================================================
dilate        maximum over 3x3, the pixel in the middle
erode         minimum over 2x2: the pixel, the ones above and left of it, and the one above-left
gradient      maximum minus minimum over the same 2x2
sharpen       3x3 filter, 3 in the middle and -1/4 around it
contrast      CLAHE (clip limit 1, 3x3 tiles) on L of Lab; colour images only. The authors hand an RGB image to the
              conversion from BGR, so red and blue are swapped on the way to Lab and back: kept as it is
============  =========================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfbench.zoos.images import Bytes, ImageSet, check_images
from nfbench.zoos.store import write_atomically

CHUNK = 4096  # images turned into bytes at once


def dilate(image: Bytes) -> Bytes:
    """See the table above; so for the others."""
    import cv2  # here: a cached run and other tasks do without

    return cv2.dilate(image, np.ones((3, 3), np.uint8), iterations=1)


def erode(image: Bytes) -> Bytes:
    import cv2

    return cv2.erode(image, np.ones((2, 2), np.uint8), iterations=1)


def gradient(image: Bytes) -> Bytes:
    import cv2

    return cv2.morphologyEx(image, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8))


def sharpen(image: Bytes) -> Bytes:
    import cv2

    kernel = np.full((3, 3), -0.25)
    kernel[1, 1] = 3
    return cv2.filter2D(image, -1, kernel)


def contrast(image: Bytes) -> Bytes:
    import cv2

    lightness, a, b = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2LAB))
    lightness = cv2.createCLAHE(clipLimit=1.0, tileGridSize=(3, 3)).apply(lightness)
    return cv2.cvtColor(cv2.merge((lightness, a, b)), cv2.COLOR_LAB2BGR)


EDITS: dict[str, Callable[[Bytes], Bytes]] = {
    "dilate": dilate,
    "erode": erode,
    "gradient": gradient,
    "sharpen": sharpen,
    "contrast": contrast,
}
COLOUR_ONLY = ("contrast",)


def edits_for(channels: int) -> tuple[str, ...]:
    """The names of the edits that images of so many channels can have."""
    return tuple(name for name in EDITS if channels == 3 or name not in COLOUR_ONLY)


def to_bytes(images: ImageSet) -> Bytes:
    """Pixels (N, H, W, channels) as bytes: those of the files, but for the digits, whose 17 greys are spread."""
    out = np.empty(images.pixels.shape, np.uint8)
    for start in range(0, len(out), CHUNK):
        out[start : start + CHUNK] = np.rint(images.pixels[start : start + CHUNK] * 255)
    return out


def edit_images(name: str, pixels: Bytes) -> Bytes:
    """Edits images (N, H, W, channels) one by one; the same shape.

    Raises:
        ValueError: an edit that is not known, or that these images cannot have.
    """
    if name not in (allowed := edits_for(pixels.shape[-1])):
        raise ValueError(
            f"task.edit={name!r} is not known for images of {pixels.shape[-1]} channel(s). "
            f"Choose one of: {', '.join(allowed)}."
        )
    edited = [EDITS[name](image.squeeze(-1) if image.shape[-1] == 1 else image) for image in pixels]
    return np.stack(edited).reshape(pixels.shape)


def cached_edit(name: str, folder: Path, source: str, fingerprint: str | None, load: Callable[[], ImageSet]) -> Bytes:
    """All images of a source, edited (N, H, W, channels): from the folder's file if it is there, else made and kept.

    Args:
        name: of the edit.
        folder: of the cache.
        source: of the images, for the file's name.
        fingerprint: of the images that are meant; None: those that `load` gives.
        load: gives the images, where they are needed.

    Raises:
        ValueError: images other than the fingerprint's.
    """
    images = None if fingerprint else load()
    path = folder / f"{source}-{name}-{(fingerprint or images.fingerprint)[:12]}.npy"  # type: ignore[union-attr]
    if not path.exists():
        images = images or load()
        check_images(source, images, fingerprint)
        _save(path, edit_images(name, to_bytes(images)))
    return np.load(path, mmap_mode="r")


def _save(path: Path, pixels: Bytes) -> None:
    """Two processes may do this at once."""

    def save(file: Path) -> None:
        with file.open("wb") as handle:
            np.save(handle, pixels)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save)


class EditedImages:
    """Edited images of some items on a device, looked up by item.

    Args:
        index: (M,) the items, ascending.
        pixels: (M, H, W, channels) bytes, already edited.
        device: where they are kept.
    """

    def __init__(self, index: NDArray[np.int64], pixels: Bytes, device: torch.device) -> None:
        self._index = torch.from_numpy(index).to(device)
        self._pixels = torch.from_numpy(np.array(pixels)).flatten(1, 2).to(device)  # (M, P, channels)

    def __call__(self, index: Tensor) -> Tensor:
        """(B,) items -> (B, P, channels) float32 in [-1, 1]."""
        rows = torch.searchsorted(self._index, index)
        return (self._pixels[rows].float() / 255 - 0.5) / 0.5
