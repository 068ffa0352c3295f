"""The edits: against OpenCV called as in the authors' code, against plain numpy, and the cache."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from nfbench.zoos.edits import COLOUR_ONLY, EDITS, EditedImages, cached_edit, edit_images, edits_for, to_bytes
from nfbench.zoos.images import SOURCES, ImageSet, load_images

ONES = {n: np.ones((n, n), np.uint8) for n in (2, 3)}


def authors_contrast(image):
    lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
    lightness, a, b = cv2.split(lab)
    clahe = cv2.createCLAHE(clipLimit=1.0, tileGridSize=(3, 3))
    return cv2.cvtColor(cv2.merge((clahe.apply(lightness), a, b)), cv2.COLOR_LAB2BGR)


AUTHORS = {
    "dilate": lambda image: cv2.dilate(image, ONES[3], iterations=1),
    "erode": lambda image: cv2.erode(image, ONES[2], iterations=1),
    "gradient": lambda image: cv2.morphologyEx(image, cv2.MORPH_GRADIENT, ONES[2]),
    "sharpen": lambda image: cv2.filter2D(
        image, -1, np.array([[-0.25, -0.25, -0.25], [-0.25, 3, -0.25], [-0.25, -0.25, -0.25]])
    ),
    "contrast": authors_contrast,
}


def shifted(images, offsets, fill):
    """(N, H, W, C) -> the images moved by each offset, (offsets, N, H, W, C)."""
    if fill is None:
        padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    else:
        padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill)
    height, width = images.shape[1:3]
    return np.stack([padded[:, 1 + r : 1 + r + height, 1 + c : 1 + c + width] for r, c in offsets])


SQUARE = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1)]
CORNER = [(r, c) for r in (-1, 0) for c in (-1, 0)]
PLAIN = {
    "dilate": lambda x: shifted(x, SQUARE, 0).max(0),
    "erode": lambda x: shifted(x, CORNER, 255).min(0),
    "gradient": lambda x: shifted(x, CORNER, 0).max(0) - shifted(x, CORNER, 255).min(0),
    "sharpen": lambda x: np.rint(3.25 * x - 0.25 * shifted(x.astype(float), SQUARE, None).sum(0)).clip(0, 255),
}


def noise(channels, count=20, size=28):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def as_images(pixels) -> ImageSet:
    labels = np.zeros(len(pixels), np.int64)
    return ImageSet(pixels.astype(np.float32) / np.float32(255), labels, "made here", f"{pixels.sum():064d}")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", EDITS)
def test_edits_are_those_of_opencv_and_of_plain_numpy(name, channels):
    pixels = noise(channels)
    if name in COLOUR_ONLY and channels == 1:
        with pytest.raises(ValueError, match=r"'contrast' is not known for images of 1 .* dilate, erode, gradient"):
            edit_images(name, pixels)
        return
    edited = edit_images(name, pixels)
    assert edited.shape == pixels.shape
    assert edited.dtype == np.uint8
    for one, image in zip(edited, pixels, strict=True):
        assert np.array_equal(one.squeeze(), AUTHORS[name](image.squeeze()))
    if name in PLAIN:
        assert np.array_equal(edited, PLAIN[name](pixels))
    assert not np.array_equal(edited, pixels)


def test_red_and_blue_are_swapped_inside_contrast():
    pixels = noise(3)
    swapped = edit_images("contrast", np.ascontiguousarray(pixels[..., ::-1]))[..., ::-1]
    assert not np.array_equal(edit_images("contrast", pixels), swapped)


def test_bytes_are_those_of_the_file():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(to_bytes(as_images(pixels)), pixels)
    digits = to_bytes(load_images("digits"))
    assert np.array_equal(np.unique(digits), np.rint(np.arange(17) * 255 / 16))


def folder_of(source: str) -> Path | None:
    root = os.environ.get("NFBENCH_DATA_DIR")
    folder = Path(root) / SOURCES[source].folder if root else None
    return folder if folder and folder.is_dir() else None


@pytest.mark.parametrize(("source", "name"), [
    *(("mnist", name) for name in edits_for(1)), ("fashion", "gradient"), ("cifar10", "contrast"),
])  # fmt: skip
def test_all_test_images(source, name, tmp_path):
    """The 10,000 images that the authors test on, through the cache, bit for bit."""
    if folder_of(source) is None:
        pytest.skip(f"no images of {source} in $NFBENCH_DATA_DIR")
    images = load_images(source)
    part = ImageSet(images.pixels[50_000:60_000], images.labels[50_000:60_000], images.origin, images.fingerprint)
    del images
    edited = cached_edit(name, tmp_path, source, part.fingerprint, lambda: part)
    wanted = np.rint(part.pixels * 255).astype(np.uint8)
    assert len(edited) == 10_000
    assert all(np.array_equal(e.squeeze(), AUTHORS[name](w.squeeze())) for e, w in zip(edited, wanted, strict=True))
    found = EditedImages(np.arange(10_000), edited, torch.device("cpu"))(torch.tensor([9_999, 3]))
    to_tensor = [torch.from_numpy(np.array(edited[i])).reshape(-1, edited.shape[-1]) / 255 for i in (9_999, 3)]
    assert torch.equal(found, (torch.stack(to_tensor) - 0.5) / 0.5)


def test_the_cache_is_made_once_and_belongs_to_its_images(tmp_path):
    pixels, calls = noise(1), []

    def load():
        calls.append(1)
        return as_images(pixels)

    fingerprint = as_images(pixels).fingerprint
    first = cached_edit("dilate", tmp_path, "mnist", fingerprint, load)
    again = cached_edit("dilate", tmp_path, "mnist", fingerprint, load)
    assert len(calls) == 1
    assert np.array_equal(first, again)
    assert np.array_equal(first, edit_images("dilate", pixels))
    assert [path.name for path in tmp_path.iterdir()] == [f"mnist-dilate-{fingerprint[:12]}.npy"]
    assert np.array_equal(cached_edit("dilate", tmp_path, "mnist", None, load), first), "of a zoo that doesn't say"
    with pytest.raises(ValueError, match=r"not those that the networks were fitted to: .*data_dir="):
        cached_edit("dilate", tmp_path, "mnist", "f" * 64, load)
    with pytest.raises(ValueError, match="Choose one of: dilate"):
        cached_edit("blur", tmp_path, "mnist", fingerprint, load)
    assert len(list(tmp_path.iterdir())) == 1, "nothing half-written"


def test_edited_images_are_found_by_item():
    index, pixels = np.array([2, 5, 9]), noise(3, 3, 4)
    found = EditedImages(index, pixels, torch.device("cpu"))(torch.tensor([9, 2, 9]))
    assert found.shape == (3, 16, 3)
    assert torch.allclose(found, torch.from_numpy(pixels[[2, 0, 2]].reshape(3, 16, 3) / 127.5 - 1).float(), atol=1e-6)
    assert found.min() >= -1
    assert found.max() <= 1
