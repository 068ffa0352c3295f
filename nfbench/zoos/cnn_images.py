"""Images as the classifiers of a zoo see them: pixels in [-1, 1], mostly gray, training images first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfbench.zoos.images import SOURCES, load_images
from nfbench.zoos.splits import make_split

DATASETS = {"digits": "digits", "mnist": "mnist", "fashion": "fashion_mnist", "cifar10": "cifar10"}  # published names
_STREAM = 20200227  # fixed for ever: a change would give every run other training images


@dataclass(frozen=True)
class ClassifierImages:
    """``pixels`` (M, H, W), in colour (M, H, W, channels), float32; ``labels`` (M,) int32; ``train``, ``test``: rows of
    these, train in shuffled order.

    ``origin`` and ``fingerprint``: see `nfbench.zoos.images.ImageSet`.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int32]
    train: NDArray[np.int32]
    test: NDArray[np.int32]
    origin: str
    fingerprint: str

    def part(self, fraction: float) -> NDArray[np.int32]:
        """The training images of a run with this ``train_fraction``; a larger fraction has all of a smaller one."""
        return self.train[: max(1, int(len(self.train) * fraction))]


def load_classifier_images(
    source: str, data_dir: str, num_train: int | None = None, num_test: int | None = None, gray: bool = True
) -> ClassifierImages:
    """Loads a source and makes it what a small CNN takes.

    Channels are averaged, as in the published zoo, unless ``gray`` is False. Digits are doubled to 16x16:
    8x8 are too few pixels for three convolutions of stride 2 without padding. All official training images are for
    training.

    Raises:
        ValueError: an unknown source, images that cannot be had, or more training images than there are.
    """
    if source not in DATASETS:
        raise ValueError(f"zoo.source={source!r} is not known. Choose one of: {', '.join(DATASETS)}.")
    images = load_images(source, data_dir)
    pixels = (images.pixels.mean(axis=3, dtype=np.float32) if gray else images.pixels) * 2 - 1
    if source == "digits":
        pixels = pixels.repeat(2, axis=1).repeat(2, axis=2)
        split = make_split(source, "digits")
        train, test = np.concatenate([split.train, split.val]), split.test
    else:
        train, test = np.split(np.arange(len(pixels)), [SOURCES[source].num_images - 10_000])
    train = np.random.Generator(np.random.PCG64(_STREAM)).permutation(train)
    if num_train is not None and num_train > len(train):
        raise ValueError(f"zoo.num_train={num_train}: {source} has {len(train)} training images; give fewer, or null.")
    return ClassifierImages(
        np.ascontiguousarray(pixels), images.labels.astype(np.int32), train[:num_train].astype(np.int32),
        test[:num_test].astype(np.int32), images.origin, images.fingerprint,
    )  # fmt: skip
