"""Images with labels: scikit-learn's digits, MNIST, Fashion-MNIST and CIFAR-10, found on disk or downloaded.

Image i is image i of the official training set followed by the official test set, whatever the files' layout. Files
are looked for in ``$NFBENCH_DATA_DIR/<folder>``, then in ``data/<folder>``; a ``data_dir`` other than the default
``data`` is looked in first. Absent files are downloaded to ``<data_dir>/<folder>``.
Nothing here can run code from a data file: idx, npz without objects, and the binary CIFAR-10 archive are plain bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfbench.zoos.download import FileSource, find_files

Bytes = NDArray[np.uint8]
OFFICIAL = "official files"  # an origin


@dataclass(frozen=True)
class ImageSet:
    """``pixels`` (N, H, W, channels) float32 in [0, 1]; ``labels`` (N,) int64; ``origin`` says what they are.

    ``fingerprint`` is the SHA-256 of all pixels and labels, whatever files they came in: it tells zoos of exact and of
    approximate images apart.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]
    origin: str
    fingerprint: str


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source without its files. ``train`` images come first, then the official test images."""

    shape: tuple[int, int, int]
    num_images: int
    num_classes: int
    folder: str = ""


SOURCES = {
    "digits": SourceInfo((8, 8, 1), 1797, 10),
    "mnist": SourceInfo((28, 28, 1), 70_000, 10, "mnist"),
    "fashion": SourceInfo((28, 28, 1), 70_000, 10, "fashion-mnist"),
    "cifar10": SourceInfo((32, 32, 3), 60_000, 10, "cifar10"),
}
_IDX_NAMES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
              "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")  # fmt: skip
_IDX = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
}
CIFAR_PICKLE = "cifar-10-python.tar.gz"
CIFAR_ARCHIVE = FileSource(
    "cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
CIFAR_MEMBERS = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
CIFAR_NPZ = {
    "cifar10_train_1.npz": "1aaef3ce291ff1c484c11723fe0d5fcdaa754b6e660812f9366617f99fa31923",
    "cifar10_train_2.npz": "b5623b765c64f2ad04406be90544951c801ad5ed63cfde7758fb463e7c63806c",
    "cifar10_train_3.npz": "0f0567eb7eda08433fa080b1bd9c7cad7adb3efebac5a7cc638fce9ff4032a85",
    "cifar10_train_4.npz": "0dd7274854c3088aaa4cc85b811855038c2810d5b314b1be33224231718ac275",
    "cifar10_train_5.npz": "35fe199b7f301dd833fd68c766b896de9f5f100b8b3a24e47ee1a28ba99211f7",
    "cifar10_test.npz": "b65711f03f7c8171a7916d4bb51d998a5870955b26b2dabecf75a2fd1b553d39",
}
DEFAULT_DATA_DIR = "data"


def source_info(source: str) -> SourceInfo:
    """Raises ValueError with the list of sources if ``source`` is unknown."""
    if source not in SOURCES:
        raise ValueError(f"zoo.source={source!r} is not known. Choose one of: {', '.join(SOURCES)}.")
    return SOURCES[source]


def check_images(source: str, images: ImageSet, fingerprint: str | None) -> None:
    """Raises ValueError for images other than those that the networks of a zoo were fitted to; None: any."""
    if fingerprint not in (None, images.fingerprint):
        raise ValueError(
            f"the images of {source} that are here ({images.origin}) are not those that the networks were fitted "
            "to: give the folder of those with data_dir=..., or build the zoo of these under another zoo.file_name."
        )


def search_folders(source: str, data_dir: str | Path) -> list[Path]:
    """Where the files of ``source`` are looked for, first to last: a ``data_dir`` that was chosen comes first."""
    chosen = Path(data_dir) != Path(DEFAULT_DATA_DIR)
    roots = [data_dir if chosen else None, os.environ.get("NFBENCH_DATA_DIR"), DEFAULT_DATA_DIR]
    return list(dict.fromkeys(Path(root) / SOURCES[source].folder for root in roots if root))


def load_images(source: str, data_dir: str | Path = DEFAULT_DATA_DIR) -> ImageSet:
    """All images of a source, official training images first, then test images.

    Raises:
        ValueError: unknown source; files that are absent and cannot be downloaded; a file whose checksum or content
            is wrong (the file is left as it is).
    """
    info = source_info(source)
    if source == "digits":
        from sklearn.datasets import load_digits

        data = load_digits()
        raw, labels = data.images.astype(np.uint8)[..., None], data.target
        return _image_set(raw, labels, "scikit-learn load_digits", brightest=16)
    folders, target = search_folders(source, data_dir), Path(data_dir) / info.folder
    raw, labels, origin = _load_cifar(folders, target) if source == "cifar10" else _load_idx(source, folders, target)
    if raw.shape != (info.num_images, *info.shape) or labels.shape != (info.num_images,) or labels.max() > 9:
        raise ValueError(
            f"the files of {source} hold images {raw.shape} and labels {labels.shape}, expected "
            f"{(info.num_images, *info.shape)} and {(info.num_images,)}: replace them (see data/README.md)."
        )
    return _image_set(raw, labels, origin, brightest=255)


def _image_set(raw: Bytes, labels: NDArray[Any], origin: str, brightest: int) -> ImageSet:
    digest = hashlib.sha256(raw.tobytes())
    digest.update(labels.astype(np.uint8).tobytes())
    pixels = raw.astype(np.float32) / np.float32(brightest)
    return ImageSet(pixels, labels.astype(np.int64), origin, digest.hexdigest())


def read_idx(path: Path) -> Bytes:
    """Reads one gzipped idx file of bytes: images (N, H, W) or labels (N,).

    Raises:
        ValueError: not a whole idx file.
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}): replace it.") from error
    rank = content[3] if len(content) >= 4 and content[:3] == b"\0\0\x08" else 0
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank))
    if rank not in (1, 3) or len(content) - 4 - 4 * rank != math.prod(shape):
        raise ValueError(f"{path} is not a whole idx file of bytes: replace it.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _load_idx(source: str, folders: list[Path], target: Path) -> tuple[Bytes, Bytes, str]:
    base, checksums = _IDX[source]
    wanted = [FileSource(name, base + name, sha256=c) for name, c in zip(_IDX_NAMES, checksums, strict=True)]
    paths = find_files(source, wanted, folders, target)
    train, train_labels, test, test_labels = (read_idx(path) for path in paths)
    return (
        np.concatenate([train, test])[..., None],
        np.concatenate([train_labels, test_labels]),
        OFFICIAL,
    )


def _load_cifar(folders: list[Path], target: Path) -> tuple[Bytes, Bytes, str]:
    """CIFAR-10 from whichever layout is there: binary archive, its unpacked files, or residual-coded npz files."""
    for folder in folders:
        if (folder / CIFAR_ARCHIVE.name).exists():
            break
        for inner in (folder, folder / "cifar-10-batches-bin"):
            if all((inner / name).exists() for name in CIFAR_MEMBERS):
                blocks = [_decode_cifar_binary((inner / name).read_bytes(), inner / name) for name in CIFAR_MEMBERS]
                return *_join(blocks), OFFICIAL
        if all((folder / name).exists() for name in CIFAR_NPZ):
            for name, sha256 in CIFAR_NPZ.items():
                FileSource(name, CIFAR_ARCHIVE.url, sha256).check(folder / name)
            coded = [_read_cifar_npz(folder / name) for name in CIFAR_NPZ]
            approximate = sum(count for _, _, count in coded)
            origin = f"npz files, {approximate} of {sum(len(labels) for _, labels, _ in coded)} images approximate"
            return *_join([(pixels, labels) for pixels, labels, _ in coded]), origin
    try:
        (path,) = find_files("cifar10", [CIFAR_ARCHIVE], folders, target)
    except ValueError as error:
        pickles = [folder / CIFAR_PICKLE for folder in folders if (folder / CIFAR_PICKLE).exists()]
        if not pickles or any((folder / CIFAR_ARCHIVE.name).exists() for folder in folders):
            raise
        raise ValueError(
            f"{pickles[0]} is a pickle archive, which could run code when read: it is not opened. Put the binary "
            f"version beside it: {CIFAR_ARCHIVE.url}\n{error}"
        ) from error
    return *_join(_read_cifar_archive(path)), OFFICIAL


def _join(blocks: list[tuple[Bytes, Bytes]]) -> tuple[Bytes, Bytes]:
    return np.concatenate([pixels for pixels, _ in blocks]), np.concatenate([labels for _, labels in blocks])


def _read_cifar_archive(path: Path) -> list[tuple[Bytes, Bytes]]:
    found: dict[str, tuple[Bytes, Bytes]] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:  # read in memory: nothing is unpacked to disk
                name = Path(member.name).name
                file = archive.extractfile(member) if member.isfile() and name in CIFAR_MEMBERS else None
                if file is not None:
                    found[name] = _decode_cifar_binary(file.read(), path / name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole archive ({error}): replace it.") from error
    if missing := [name for name in CIFAR_MEMBERS if name not in found]:
        raise ValueError(f"{path} lacks {', '.join(missing)}: replace it.")
    return [found[name] for name in CIFAR_MEMBERS]


def _decode_cifar_binary(content: bytes, path: Path) -> tuple[Bytes, Bytes]:
    """Rows of one label byte and 3072 pixel bytes (channel, row, column) -> (N, 32, 32, 3), (N,)."""
    if not content or len(content) % 3073:
        raise ValueError(f"{path} is not a whole CIFAR-10 binary file ({len(content)} bytes): replace it.")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]


def _read_cifar_npz(path: Path) -> tuple[Bytes, Bytes, int]:
    """Planes G, R-G, B-G (mod 256), differenced along rows and columns -> pixels, labels, how many are approximate."""
    try:
        with np.load(path, allow_pickle=False) as file:
            residual, labels, approximate = file["residual"], file["labels"], file["approx"]
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a whole npz file of CIFAR-10 ({error}): replace it.") from error
    planes = np.cumsum(np.cumsum(residual, axis=2, dtype=np.uint8), axis=3, dtype=np.uint8)
    pixels = np.stack([planes[1] + planes[0], planes[0], planes[2] + planes[0]], axis=-1)
    return pixels, labels, int(approximate.sum())
