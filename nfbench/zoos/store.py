"""The HDF5 store of a zoo, and how a build survives being killed.

A whole zoo is one file ``<name>.h5``: ``params`` (N, T) float32 in torch's order, ``label``, ``index``, ``view`` (N,)
int64, ``psnr`` (N,) float32, ``steps`` (N,) int64, and attributes: format, manifest (JSON: spec, recipe with its hash,
source, which networks), origin of the images, versions.

An HDF5 file that is being written when its process is killed may be lost as a whole. So nothing is written to a file
that holds finished work: each chunk of networks goes to its own small file in ``<name>.h5.partial/``, under a temporary
name that is flushed to disk and then renamed, which either happens or doesn't. A build that runs again with the same
manifest keeps the chunks it finds. When all are there they are copied into one HDF5 file, also under a temporary name,
flushed, and renamed to ``<name>.h5``; only then are the chunks deleted. A lock on ``<name>.h5.lock`` (`flock`, which
the system releases when a process dies) lets one process build while others wait.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

FORMAT = "nfbench siren zoo 1"
COLUMNS = {"params": np.float32, "label": np.int64, "index": np.int64, "view": np.int64, "psnr": np.float32,
           "steps": np.int64}  # fmt: skip


@dataclass(frozen=True)
class ZooData:
    """A whole zoo in memory: columns as in the file, its manifest, and its other attributes."""

    params: NDArray[np.float32]
    label: NDArray[np.int64]
    index: NDArray[np.int64]
    view: NDArray[np.int64]
    psnr: NDArray[np.float32]
    steps: NDArray[np.int64]
    manifest: dict[str, Any]
    attributes: dict[str, str]


@contextmanager
def file_errors(path: Path, then: Callable[[], str] = str) -> Iterator[None]:
    """Turns an OSError about ``path`` (no space, no permission) into a ValueError with what to do, and ``then()``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "Free some space" if full else "Make the folder writable"
        raise ValueError(
            f"cannot write the zoo {path}: {reason}. {what}, or choose another folder with zoo_dir=..., then run the "
            f"same command again. Nothing was deleted. {then()}".strip()
        ) from error


@contextmanager
def build_lock(path: Path) -> Iterator[None]:
    """Holds the lock of the zoo ``path``; waits, with a message, while another process builds it."""
    lock = path.with_name(path.name + ".lock")
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another process is building {path}", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write`` on a temporary path beside ``path``, flushes the file to disk and renames it to ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        with suppress(OSError):  # must not hide an error above
            temporary.unlink(missing_ok=True)


class PartialZoo:
    """The finished chunks of a zoo that is being built, in the folder ``<name>.h5.partial``.

    ``chunk`` is the number of networks in a chunk: that of the earlier build if there was one, else as given.

    Args:
        path: the HDF5 file that the chunks will make.
        manifest: which zoo; goes into the file.
        num_networks: of the whole zoo.
        chunk: how many networks a chunk has.
        images: fingerprint of the images that are fitted: chunks of other images are not continued.

    Raises:
        ValueError: the folder holds chunks of another zoo.
    """

    def __init__(
        self, path: Path, manifest: Mapping[str, Any], num_networks: int, chunk: int, images: str = ""
    ) -> None:
        self.path, self.manifest, self.num_networks = path, dict(manifest), num_networks
        wanted = {**self.manifest, "images": images}
        self.folder = path.with_name(path.name + ".partial")
        with file_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".*.tmp"):  # of killed processes: we hold the lock
                leftover.unlink()
            note = self.folder / "manifest.json"
            known = note.read_text() if note.exists() else None
            if known is None:
                text = to_json({**wanted, "chunk": chunk})
                write_atomically(note, lambda file: _write_text(file, text))
        found = _parse(known) if known is not None else {**wanted, "chunk": chunk}
        kept = found.pop("chunk", None)
        if found != wanted or not isinstance(kept, int) or kept < 1:
            raise ValueError(
                f"{self.folder} is the unfinished build of another zoo:\n{_differences(wanted, found)}\n"
                f"Delete that folder to start anew, or choose another name with zoo.file_name=..."
            )
        self.chunk, self.num_chunks = kept, -(-num_networks // kept)

    def chunk_path(self, number: int) -> Path:
        return self.folder / f"chunk-{number:05d}.npz"

    def read(self, number: int) -> dict[str, NDArray[Any]] | None:
        """The chunk's columns, or None if it is not there yet."""
        path = self.chunk_path(number)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in COLUMNS}
        except Exception as error:  # np.load has no one class of errors for a damaged file
            raise ValueError(f"{path} is damaged ({error}): delete this file and run again to rebuild it.") from error

    def write(self, number: int, columns: Mapping[str, NDArray[Any]]) -> None:
        def save(file: Path) -> None:
            with file.open("wb") as out:
                arrays: dict[str, Any] = {n: np.ascontiguousarray(columns[n], dtype) for n, dtype in COLUMNS.items()}
                np.savez(out, **arrays)

        with file_errors(self.path, lambda: f"{self.num_finished()} of {self.num_chunks} chunks are kept."):
            write_atomically(self.chunk_path(number), save)

    def num_finished(self) -> int:
        """How many chunks are there."""
        return len(list(self.folder.glob("chunk-*.npz")))

    def assemble(self, attributes: Mapping[str, str]) -> None:
        """Joins all chunks, one at a time, into the HDF5 file, puts that in place, and deletes the chunks."""

        def save(file: Path) -> None:
            with h5py.File(file, "w") as out:
                for number in range(self.num_chunks):
                    columns = self.read(number)
                    assert columns is not None, "assemble() before all chunks are there"
                    rows = slice(number * self.chunk, number * self.chunk + len(columns["label"]))
                    for name, values in columns.items():
                        if number == 0:  # with checksums, so that a flipped byte is noticed when it is read
                            shape, block = (self.num_networks, *values.shape[1:]), values.shape
                            out.create_dataset(name, shape, values.dtype, chunks=block, fletcher32=True)
                        out[name][rows] = values
                for name, text in {**attributes, "format": FORMAT, "manifest": to_json(self.manifest)}.items():
                    out.attrs[name] = text

        with file_errors(self.path, lambda: "All finished networks are kept."):
            write_atomically(self.path, save)
        shutil.rmtree(self.folder, ignore_errors=True)


def read_zoo(path: Path, expected: Mapping[str, Any] | None = None) -> ZooData:
    """Reads a whole zoo and checks it.

    Args:
        path: the HDF5 file; only read.
        expected: the manifest it must have.

    Raises:
        ValueError: not an HDF5 file, truncated, damaged, not a zoo, another zoo than expected, or NaN parameters.
    """
    advice = "It was not changed. Move it away to build it anew, or choose another name with zoo.file_name=..."
    columns: dict[str, NDArray[Any]] = {}
    try:
        with h5py.File(path, "r") as file:
            attributes = {name: str(value) for name, value in file.attrs.items()}
            if attributes.get("format") != FORMAT:
                raise ValueError(f"{path} is an HDF5 file, but not a zoo of nfbench (no format {FORMAT!r}). {advice}")
            manifest = json.loads(attributes["manifest"])
            if not isinstance(manifest, dict):
                raise TypeError(f"its manifest is {attributes['manifest'][:40]}")
            if expected is not None and manifest != dict(expected):
                raise ValueError(
                    f"{path} holds another zoo than the one asked for:\n{_differences(expected, manifest)}\n{advice}"
                )
            for name, dtype in COLUMNS.items():
                columns[name] = np.asarray(file[name][()], dtype)
            count, width = manifest["num_networks"], manifest["num_params"]
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
    except (OSError, RuntimeError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not a whole zoo file: truncated, damaged or foreign ({error}). {advice}"
        ) from error
    shapes = {name: values.shape for name, values in columns.items()}
    if shapes != {name: (count, width) if name == "params" else (count,) for name in COLUMNS}:
        raise ValueError(f"{path} lacks networks: expected {count} of {width} parameters, found {shapes}. {advice}")
    bad = ~np.isfinite(columns["params"])
    if bad.any():
        raise ValueError(
            f"{path} has {int(bad.sum())} weights that are NaN or infinite, in {int(bad.any(axis=1).sum())} of {count} "
            f"networks (first: image {int(columns['index'][bad.any(axis=1)][0])}). {advice}"
        )
    return ZooData(**columns, manifest=manifest, attributes=attributes)


def to_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _parse(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        return {"manifest": "not readable"}


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{key}.{inner}" if inner else key: item
        for key, value in values.items()
        for inner, item in (value.items() if isinstance(value, dict) else [("", value)])
    }


def _differences(asked: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """One line for each field that differs; hashes are left out where the recipe's own fields say it better."""
    left, right = _flatten(asked), _flatten(found)
    keys = [k for k in sorted(left.keys() | right.keys()) if left.get(k) != right.get(k) and k != "recipe_hash"]
    return "\n".join(f"  {k}: asked for {left.get(k, '(none)')}, the file has {right.get(k, '(none)')}" for k in keys)
