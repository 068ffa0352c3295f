"""The HDF5 store of any zoo, and how a build or an import survives being killed.

A whole zoo is one file ``<name>.h5`` of columns, a row a network, sorted by (index, view). Every zoo has ``params``
(N, T) float32 in torch's order, and ``label``, ``index``, ``view`` (N,) int64; label -1: no class. Beside these it may
have any columns (N,) of int64, float32 or short strings: ``psnr`` and ``steps`` of fitted images, ``test_accuracy`` of
trained classifiers; and columns (N, T), an entry a parameter, also of uint8: ``mask`` of pruned networks. Its
attributes: format, columns (JSON: their names), manifest (JSON: spec, recipe with its hash, source, which networks),
and others such as the origin of the images and versions.

An HDF5 file that is being written when its process is killed may be lost as a whole. So nothing is written to a file
that holds finished work: each chunk of networks goes to its own small file in ``<name>.h5.partial/``, under a temporary
name that is flushed to disk and then renamed, which either happens or doesn't. A build that runs again with the same
manifest keeps the chunks it finds. When all are there they are copied into one HDF5 file, also under a temporary name,
flushed, and renamed to ``<name>.h5``; only then are the chunks deleted, and last their manifest, without which none
is used. A lock on ``<name>.h5.lock`` (`flock`, which the system releases when a process dies) lets one process build
while others wait.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nfbench.zoos.chunks import PATTERN, check_owner, remove_chunks
from nfbench.zoos.hdf5 import plain

FORMAT = "nfbench zoo 2"
FIRST_FORMAT = "nfbench siren zoo 1"  # the same, but always with the columns of a fitted zoo, which it doesn't list
REQUIRED = {"params": np.float32, "label": np.int64, "index": np.int64, "view": np.int64}
NOTE = "manifest.json"  # of a folder of chunks: whose they are
COLUMNS = {**REQUIRED, "psnr": np.float32, "steps": np.int64}  # of a zoo of fitted images
STRING_BYTES = 64
ADVICE = "It was not changed. Move it away to build it anew, or choose another name with zoo.file_name=..."
Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ZooData:
    """A whole zoo in memory: columns as in the file, its manifest, and its other attributes.

    ``extra``: the columns (N,) or (N, T) beside the four that every zoo has; strings as numpy's ``U``.
    """

    params: NDArray[np.float32]
    label: NDArray[np.int64]
    index: NDArray[np.int64]
    view: NDArray[np.int64]
    extra: dict[str, NDArray[Any]]
    manifest: dict[str, Any]
    attributes: dict[str, str]

    @property
    def psnr(self) -> NDArray[np.float32]:
        """In dB, of each network; NaN where the zoo doesn't say."""
        return self.extra.get("psnr", np.full(len(self.label), np.nan, np.float32))

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps of the fit; -1 where the zoo doesn't say."""
        return self.extra.get("steps", np.full(len(self.label), -1, np.int64))


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
def build_lock(path: Path, shared: bool = False) -> Iterator[None]:
    """Holds the lock of the zoo ``path``; waits, with a message, while another process builds it.

    ``shared``: any number of processes may hold it so, but none beside one that holds it alone.
    """
    lock = path.with_name(path.name + ".lock")
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(lock, shared=shared, message=f"waiting: another process is building {path}"):
        yield


@contextmanager
def file_lock(lock: Path, *, shared: bool = False, wait: bool = True, message: str = "") -> Iterator[bool]:
    """Holds a lock on the file ``lock``, which the system releases when a process dies.

    Args:
        lock: made if it isn't there.
        shared: beside others that hold it so.
        wait: until it is free; else gives False where it is not, without holding it.
        message: printed before waiting.
    """
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with file_errors(lock):
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        held = True
        try:
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            held = wait
            if wait and message:
                print(message, file=sys.stderr, flush=True)
            if wait:
                fcntl.flock(handle, mode)
        yield held
    finally:
        os.close(handle)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write`` on a temporary path beside ``path``, flushes the file to disk and renames it to ``path``."""
    # Not by process: several machines, or containers with the same numbers, may write into one folder.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
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
        shared: other processes write other chunks at the same time.

    Raises:
        ValueError: the folder holds chunks of another zoo, or chunks of which nothing says whose they are.
    """

    def __init__(
        self,
        path: Path,
        manifest: Mapping[str, Any],
        num_networks: int,
        chunk: int,
        images: str = "",
        shared: bool = False,
    ) -> None:
        self.path, self.manifest, self.num_networks = path, dict(manifest), num_networks
        wanted = {**self.manifest, "images": images}
        self.folder = path.with_name(path.name + ".partial")
        with file_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        with file_errors(path), file_lock(self.folder / "manifest.lock") if shared else nullcontext():
            for leftover in () if shared else self.folder.glob(".*.tmp"):  # of killed processes: we hold the lock
                leftover.unlink()
            check_owner(self.folder, NOTE)
            note = self.folder / NOTE
            known = note.read_text() if note.exists() else None
            if known is None:
                text = to_json({**wanted, "chunk": chunk})
                write_atomically(note, lambda file: _write_text(file, text))
        found = _parse(known) if known is not None else {**wanted, "chunk": chunk}
        kept = found.pop("chunk", None)
        if found != wanted or not isinstance(kept, int) or kept < 1:
            raise ValueError(
                f"{self.folder} is the unfinished build of another zoo:\n{_differences(wanted, found)}\n"
                f"Delete that folder to start anew, or choose another name (zoo.file_name=..., --out)."
            )
        self.chunk = kept

    @property
    def num_chunks(self) -> int:
        """Of the whole zoo."""
        return -(-self.num_networks // self.chunk)

    def chunk_path(self, number: int) -> Path:
        return self.folder / f"chunk-{number:05d}.npz"

    def read(self, number: int, only: Container[str] | None = None) -> dict[str, NDArray[Any]] | None:
        """The chunk's columns and notes (see `write`), or ``only`` some, or None if it is not there yet."""
        path = self.chunk_path(number)
        if not path.exists():
            return None
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files if only is None or name in only}
        except Exception as error:  # np.load has no one class of errors for a damaged file
            raise ValueError(f"{path} is damaged ({error}): delete this file and run again to rebuild it.") from error

    def write(self, number: int, columns: Columns, notes: Mapping[str, list[str]] | None = None) -> None:
        """Keeps a chunk: all four required columns and any others, and notes, lists of texts for whoever assembles.

        Raises:
            ValueError: no space or no permission; a string that is too long.
        """
        arrays = {name: _storable(name, columns[name]) for name in (*REQUIRED, *(columns.keys() - REQUIRED.keys()))}
        arrays |= {f"_{name}": np.array(texts, dtype=np.str_) for name, texts in (notes or {}).items()}

        def save(file: Path) -> None:
            with file.open("wb") as out:
                np.savez(out, **arrays)  # type: ignore[arg-type]  # its own keywords come first in numpy's stubs

        with file_errors(self.path, lambda: f"{self.num_finished()} of {self.num_chunks} chunks are kept."):
            write_atomically(self.chunk_path(number), save)

    def num_finished(self) -> int:
        """How many chunks are there."""
        return len(list(self.folder.glob(PATTERN)))

    def assemble(self, attributes: Mapping[str, str], manifest: Mapping[str, Any] | None = None) -> None:
        """Joins all chunks into the HDF5 file, puts that in place, and deletes the chunks.

        Args:
            attributes: beside the format, the columns and the manifest.
            manifest: replaces the one that the build began with.
        """

        def save(file: Path) -> None:
            with h5py.File(file, "w") as out:
                count, parts = self._parts()
                at, names = 0, []
                for columns in parts:
                    rows = slice(at, at := at + len(columns["label"]))
                    for name, values in columns.items():
                        if name not in out:  # with checksums, so that a flipped byte is noticed when it is read
                            shape, block = (count, *values.shape[1:]), (min(self.chunk, count), *values.shape[1:])
                            out.create_dataset(name, shape, values.dtype, chunks=block, fletcher32=True)
                            names.append(name)
                        out[name][rows] = values
                said = {**(self.manifest if manifest is None else manifest), "num_networks": count}
                own = {"format": FORMAT, "columns": json.dumps(sorted(names)), "manifest": to_json(said)}
                for name, text in {**attributes, **own}.items():
                    out.attrs[name] = text

        with file_errors(self.path, lambda: "All finished networks are kept."):
            for leftover in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp"):  # as large as the zoo
                leftover.unlink()
            write_atomically(self.path, save)
        remove_chunks(self.folder, NOTE)

    def _parts(self) -> tuple[int, Iterator[Columns]]:
        """How many rows there are, and all of them in order, part by part."""
        return self.num_networks, (self._columns(number) for number in range(self.num_chunks))

    def _columns(self, number: int) -> Columns:
        columns = self.read(number)
        assert columns is not None, "assemble() before all chunks are there"
        return {name: values for name, values in columns.items() if not name.startswith("_")}


def _storable(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """As int64, float32, or bytes of UTF-8. Raises ValueError for a name or a text that a zoo cannot keep."""
    if name[:1] in ("", "_", ".") or set(name) & set("/\0"):
        raise ValueError(f"a zoo cannot have a column named {name!r}: no '/', and no '_' or '.' at the beginning.")
    if name in COLUMNS:
        return np.ascontiguousarray(values, COLUMNS[name])
    if values.dtype.kind == "U":
        texts = np.char.encode(values, "utf-8")
        if texts.dtype.itemsize > STRING_BYTES:
            longest = max(values.tolist(), key=len)
            raise ValueError(f"column {name}: {longest!r} is longer than {STRING_BYTES} bytes. Leave the column out.")
        return texts.astype(f"S{STRING_BYTES}")
    if values.dtype == np.uint8 and values.ndim == 2:  # an entry a parameter: int64 would take eight times as much
        return np.ascontiguousarray(values)
    return np.ascontiguousarray(values, np.float32 if values.dtype.kind == "f" else np.int64)


def read_zoo(path: Path, expected: Mapping[str, Any] | None = None, advice: str = ADVICE) -> ZooData:
    """Reads a whole zoo and checks it.

    Args:
        path: the HDF5 file; only read.
        expected: the manifest it must have.
        advice: what to do about a file that cannot be used.

    Raises:
        ValueError: not an HDF5 file, truncated, damaged, not a zoo, another zoo than expected, or NaN parameters.
    """
    columns: dict[str, NDArray[Any]] = {}
    try:
        with h5py.File(path, "r") as file:
            attributes = {name: str(value) for name, value in file.attrs.items()}
            if attributes.get("format") not in (FORMAT, FIRST_FORMAT):
                raise ValueError(f"{path} is an HDF5 file, but not a zoo of nfbench (no format {FORMAT!r}). {advice}")
            manifest = json.loads(attributes["manifest"])
            if not isinstance(manifest, dict):
                raise TypeError(f"its manifest is {attributes['manifest'][:40]}")
            if expected is not None and manifest != dict(expected):
                raise ValueError(
                    f"{path} holds another zoo than the one asked for:\n{_differences(expected, manifest)}\n{advice}"
                )
            listed = COLUMNS if attributes["format"] == FIRST_FORMAT else json.loads(attributes["columns"])
            for name in {**REQUIRED, **dict.fromkeys(listed)}:
                values = plain(file, name)[()]
                text = values.dtype.kind == "S" and name not in COLUMNS
                columns[name] = np.char.decode(values, "utf-8") if text else _storable(name, values)
            count, width = manifest["num_networks"], manifest["num_params"]
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeError) as error:
        raise ValueError(
            f"{path} is not a whole zoo file: truncated, damaged or foreign ({error}). {advice}"
        ) from error
    shapes = {name: values.shape for name, values in columns.items()}
    wide = [name for name, shape in shapes.items() if name not in COLUMNS and len(shape) == 2] + ["params"]
    if shapes != {name: (count, width) if name in wide else (count,) for name in columns}:
        raise ValueError(f"{path} lacks networks: expected {count} of {width} parameters, found {shapes}. {advice}")
    bad = ~np.isfinite(columns["params"])
    if bad.any():
        raise ValueError(
            f"{path} has {int(bad.sum())} weights that are NaN or infinite, in {int(bad.any(axis=1).sum())} of {count} "
            f"networks (first: image {int(columns['index'][bad.any(axis=1)][0])}). {advice}"
        )
    extra = {name: values for name, values in columns.items() if name not in REQUIRED}
    required = {name: columns[name] for name in REQUIRED}
    return ZooData(**required, extra=extra, manifest=manifest, attributes=attributes)


def fingerprint(attributes: Mapping[str, Any]) -> str:
    """Tells zoos apart, by what their files say: 16 hex digits.

    The manifest of an import has the SHA-256 of all files that were read; a zoo that was built is decided by its
    manifest and its images.
    """
    text = f"{attributes['manifest']}\n{attributes.get('images_sha256', '')}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_fingerprint(path: Path) -> str | None:
    """The `fingerprint` of a zoo's file; None where there is no such file."""
    try:
        with h5py.File(path, "r") as file:
            return fingerprint(file.attrs)
    except (OSError, RuntimeError, KeyError):
        return None


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
