"""Point clouds with class labels: the built-in shapes, or a folder of `.npy` and `.ply` files; and their distances.

A folder has a sub-folder for each class: ``<folder>/<class>/<name>.npy`` or ``.ply``. Nothing here can run code from a
file: arrays of Python objects are refused, and `.ply` is text and plain bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KDTree

from nfbench.zoos.procedural import FAMILIES, VERSION, Points, make_cloud, to_unit_ball

SUFFIXES = (".npy", ".ply")
FEWEST_POINTS = 16
NEAR = 0.1  # standard deviation of the samples near the surface, in each coordinate; the cloud has radius 1
_STREAM = 20230301
_PLY_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_PLY_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True)
class BuiltInClouds:
    """The built-in shapes, see `make_cloud` for the arguments. Shape i is number i // 10 of its family."""

    num_shapes: int
    points: int
    noise: float
    pose: str

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(FAMILIES)

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.arange(self.num_shapes) % len(FAMILIES)

    @property
    def ranks(self) -> NDArray[np.int64]:
        """(N,): how many shapes of its class come before each."""
        return np.arange(self.num_shapes) // len(FAMILIES)

    @property
    def identity(self) -> str:
        """Tells these clouds from others."""
        return f"built-in {VERSION}, {self.points} points, noise {float(self.noise)}, pose {self.pose}"

    def load(self, index: int) -> Points:
        """The cloud (points, 3) of shape ``index``."""
        return make_cloud(index, self.points, self.noise, self.pose)

    def fingerprint(self) -> str:
        """SHA-256 of what the clouds are."""
        return hashlib.sha256(self.identity.encode()).hexdigest()


class FolderClouds:
    """The clouds of a folder with a sub-folder for each class, in a fixed order.

    In each class files go by the SHA-256 of ``class/name``; shape 0 is the first of the first class, then come the
    first of the other classes (by name), then the second of each, and so on. ``num_shapes`` takes the first ones.

    Raises:
        ValueError: no such folder, no clouds, one class only, fewer than ``num_shapes``; in `load` and `fingerprint`:
            a file that is not a cloud.
    """

    def __init__(self, folder: str | Path, num_shapes: int | None = None) -> None:
        self.folder = Path(folder)
        expected = "a folder with a sub-folder for each class, such as <folder>/chair/1.npy or <folder>/chair/1.ply"
        if not self.folder.is_dir():
            raise ValueError(f"zoo.clouds={folder} is no folder. Give {expected}, or null for the built-in shapes.")
        found = [path for path in self.folder.glob("*/*") if path.suffix.lower() in SUFFIXES and path.is_file()]
        self.class_names = tuple(sorted({path.parent.name for path in found}))
        if len(self.class_names) < 2:
            raise ValueError(
                f"zoo.clouds={folder} holds {len(found)} clouds (.npy or .ply) in {len(self.class_names)} classes; at "
                f"least 2 classes are needed. Give {expected}."
            )
        of_class: dict[str, list[Path]] = {name: [] for name in self.class_names}
        for path in sorted(found, key=_hash_of_name):
            of_class[path.parent.name].append(path)
        rows = [(r, k, path) for k, paths in enumerate(of_class.values()) for r, path in enumerate(paths)]
        rows.sort(key=lambda row: row[:2])
        if num_shapes is not None and num_shapes > len(rows):
            raise ValueError(
                f"zoo.num_shapes={num_shapes}, but {folder} holds {len(rows)} clouds: give fewer, or null for all."
            )
        rows = rows[:num_shapes]
        self.ranks = np.array([r for r, _, _ in rows], np.int64)
        self.labels = np.array([k for _, k, _ in rows], np.int64)
        self.paths = [path for _, _, path in rows]
        self.num_shapes = len(rows)

    @property
    def identity(self) -> str:
        """Of the files' names and sizes, so that it is known before a file is read."""
        listing = "\n".join(f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in self.paths)
        return f"{self.num_shapes} files, SHA-256 of names and sizes {hashlib.sha256(listing.encode()).hexdigest()}"

    def load(self, index: int) -> Points:
        """The cloud (N, 3) of shape ``index``, in the ball of radius 1."""
        return to_unit_ball(read_cloud(self.paths[index]))

    def fingerprint(self) -> str:
        """SHA-256 of names and contents; reads, and so checks, every file."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(f"{path.parent.name}/{path.name}\n".encode() + read_cloud(path).tobytes())
        return digest.hexdigest()


Clouds = BuiltInClouds | FolderClouds


def _hash_of_name(path: Path) -> str:
    return hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).hexdigest()


def sample_distances(cloud: Points, count: int, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates (count, 3) and their unsigned distances (count, 1) to the nearest point of a cloud of radius 1.

    Half of the coordinates are uniform in the unit ball; the others are points of the cloud, each moved by Gaussian
    noise of standard deviation `NEAR` in each coordinate. They depend on the cloud and the shape's ``index`` alone.
    """
    random = np.random.Generator(np.random.Philox(key=np.array([_STREAM, index], np.uint64)))
    inside = random.normal(size=(count - count // 2, 3))
    inside *= random.random((len(inside), 1)) ** (1 / 3) / np.linalg.norm(inside, axis=1, keepdims=True)
    near = cloud[random.integers(len(cloud), size=count // 2)] + NEAR * random.normal(size=(count // 2, 3))
    coords = np.concatenate([inside, near]).astype(np.float32)
    distances, _ = KDTree(cloud).query(coords.astype(np.float64))
    return coords, distances.astype(np.float32)


def read_cloud(path: Path) -> Points:
    """A cloud (N, 3) in float64 from a `.npy` array of that shape or the x, y and z of a `.ply` file's vertices.

    Raises:
        ValueError: a file that cannot be read or is no such file; another shape; fewer than 16 points; numbers that are
            NaN or infinite; points that are all the same.
    """
    try:
        cloud = _read_ply(path) if path.suffix.lower() == ".ply" else _read_npy(path)
    except (OSError, ValueError, KeyError, IndexError, EOFError, OverflowError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a point cloud: {error}. Repair or remove it.") from error
    if cloud.ndim != 2 or cloud.shape[1] != 3:
        raise ValueError(f"{path} has the shape {cloud.shape}; a cloud is (N, 3). Save x, y and z alone.")
    if len(cloud) < FEWEST_POINTS:
        raise ValueError(f"{path} has {len(cloud)} points; a cloud has at least {FEWEST_POINTS}. Remove the file.")
    if bad := int((~np.isfinite(cloud)).any(1).sum()):
        raise ValueError(f"{path} has {bad} points (of {len(cloud)}) with NaN or infinite numbers. Take them out.")
    if not np.ptp(cloud, axis=0).any():
        raise ValueError(f"{path} has {len(cloud)} points at one place. Remove the file.")
    return cloud


def _read_npy(path: Path) -> Points:
    # Mapped: a header that lies cannot fill the memory. An array of objects, whose pickle could run code, is refused.
    array = np.lib.format.open_memmap(path, mode="r")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"its numbers are of type {array.dtype}")
    return np.array(array, np.float64)


def _read_ply(path: Path) -> Points:
    content = path.read_bytes()
    head, mark, body = content.partition(b"end_header")
    lines = [line.split() for line in head.decode("ascii").splitlines()]
    if lines[:1] != [["ply"]] or not mark:
        raise ValueError("it has no ply header")
    body = body.partition(b"\n")[2]
    elements: list[tuple[str, int, list[list[str]]]] = []
    kind = ""
    for words in lines[1:]:
        if words[:1] == ["format"]:
            kind = words[1]
        elif words[:1] == ["element"]:
            elements.append((words[1], int(words[2]), []))
        elif words[:1] == ["property"]:
            elements[-1][2].append(words[1:])
    if kind not in _PLY_FORMATS:
        raise ValueError(f"its format {kind!r} is none of {', '.join(_PLY_FORMATS)}")
    if not elements or elements[0][0] != "vertex":
        raise ValueError("its first element is not `vertex`")
    _, count, properties = elements[0]
    if unknown := {words[0] for words in properties} - {"list", *_PLY_TYPES}:
        raise ValueError(f"its vertices have properties of unknown type: {', '.join(sorted(unknown))}")
    names = [words[-1] for words in properties]
    if any(words[0] == "list" for words in properties) or not {"x", "y", "z"} <= set(names):
        raise ValueError(f"its vertices have the properties {', '.join(names)}; x, y and z and no lists are expected")
    if kind == "ascii":
        rows = [line.split() for line in body.decode("ascii").splitlines() if line.strip()][:count]
        table = np.array(rows, np.float64).reshape(-1, len(names))
        cloud = table[:, [names.index(axis) for axis in "xyz"]]
    else:
        row = np.dtype([(words[-1], _PLY_FORMATS[kind] + _PLY_TYPES[words[0]]) for words in properties])
        values = np.frombuffer(body, row, max(count, 0))
        cloud = np.stack([values[axis].astype(np.float64) for axis in "xyz"], 1)
    if len(cloud) != count:
        raise ValueError(f"it has {len(cloud)} of {count} vertices")
    return cloud
