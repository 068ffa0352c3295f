"""Imports a published zoo into the HDF5 store: block by block, going on after a kill, counting what is broken.

An import is a `Layout`: it knows which zoo the source holds and yields its networks in `Block`s of the source's order.
Each block becomes one chunk file of `PartialZoo`; an import that runs again skips the blocks that are there. At the end
the rows are sorted by (index, view) and put into one file. Beside it, ``<name>.manifest.json`` lists the SHA-256 of the
archive, or of each file of a folder, and every file that is broken.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nfbench import __version__
from nfbench.weightspace import NetworkSpec
from nfbench.zoos.importers.common import Broken, digest, fingerprint, members
from nfbench.zoos.store import Columns, PartialZoo, build_lock, file_errors, write_atomically

BLOCK_BYTES, MOST_ROWS = 32 * 2**20, 4096  # of a block: what a kill loses takes a second or two to read again
NAMED = 10  # broken files that messages and the zoo's own manifest name; the side file names all


@dataclass(frozen=True)
class Block:
    """Networks that were read: ``columns`` as in the store, ``broken`` "name: why", ``sums`` "SHA-256  name"."""

    columns: Columns
    broken: list[str] = field(default_factory=list)
    sums: list[str] = field(default_factory=list)


class Layout(ABC):
    """One published layout.

    Attributes:
        path: the archive or folder.
        spec: of every network.
        manifest: which zoo this is, known before any network is read: plain values for JSON.
        ignored: files that are no networks.
        sums: "SHA-256  name" of each file, where these are known before the networks are read.
    """

    path: Path
    spec: NetworkSpec
    manifest: dict[str, Any]
    ignored: int = 0
    sums: Sequence[str] = ()

    @abstractmethod
    def blocks(self, rows: int, skip: int) -> Iterator[Block]:
        """All networks in blocks of ``rows``, broken ones counted; without the first ``skip`` blocks."""

    def identity(self) -> dict[str, Any]:
        """What tells this source from another: an import goes on only where this is the same."""
        return fingerprint(self.path)

    def missing(self) -> list[str]:
        """What should have been there, known after the last block."""
        return []

    def expected(self) -> str:
        """The names that this layout looks for, for the message when there are none."""
        return "networks"


@dataclass(frozen=True)
class Row:
    """One network: ``params`` (T,), label -1 for none, and values of further columns."""

    params: NDArray[np.float32]
    index: int
    view: int
    label: int
    extra: Mapping[str, int | float | str] = field(default_factory=dict)


class FileLayout(Layout):
    """A layout of one file a network, in a tar, a zip or a folder."""

    @abstractmethod
    def matches(self, name: str) -> bool:
        """Whether the file is, by its name, a network."""

    @abstractmethod
    def row(self, name: str, data: bytes) -> Row:
        """Raises `Broken` with the reason."""

    def blocks(self, rows: int, skip: int) -> Iterator[Block]:
        found: list[Row] = []
        broken: list[str] = []
        sums: list[str] = []
        seen, hashing = 0, self.path.is_dir()
        for member in members(self.path):
            if not self.matches(member.name):
                self.ignored += 1
                continue
            seen += 1
            if seen <= skip * rows:
                continue
            try:
                data = member.read()
                if hashing:
                    sums.append(f"{hashlib.sha256(data).hexdigest()}  {member.name}")
                found.append(_in_range(self.row(member.name, data)))
            except Broken as error:
                broken.append(f"{member.name}: {error}")
            if seen % rows == 0:
                yield Block(self._columns(found), broken, sums)
                found, broken, sums = [], [], []
        if seen % rows and seen > skip * rows:
            yield Block(self._columns(found), broken, sums)

    def _columns(self, rows: list[Row]) -> Columns:
        extra = {name: np.array([r.extra[name] for r in rows]) for name in (rows[0].extra if rows else ())}
        return extra | {
            "params": np.stack([r.params for r in rows]) if rows else np.empty((0, self.spec.num_params), np.float32),
            **{name: np.array([getattr(r, name) for r in rows], np.int64) for name in ("index", "view", "label")},
        }


def _in_range(row: Row) -> Row:
    """Raises `Broken` for whole numbers of a file's own that a zoo cannot hold."""
    limits = np.iinfo(np.int64)
    for name in ("index", "view", "label"):
        if not limits.min <= getattr(row, name) <= limits.max:
            raise Broken(f"has the {name} {getattr(row, name)}, which is beyond 64 bits")
    return row


class PartialImport(PartialZoo):
    """The chunks of an import: how many there are only the end tells, and their rows are not sorted."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], chunk: int) -> None:
        super().__init__(path, manifest, 0, chunk)

    @property
    def num_chunks(self) -> int:
        return self.num_finished()

    def num_finished(self) -> int:
        """Chunks without a gap before them: what comes after one that was deleted is read again."""
        return next(number for number in count() if not self.chunk_path(number).exists())

    def notes(self, name: str) -> list[str]:
        """One kind of notes of all chunks."""
        return [text for columns in self._each({f"_{name}"}) for text in columns[f"_{name}"].tolist()]

    def order(self) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
        """Rows, counted through all chunks, by (index, view), each pair once; and the pairs that come again."""
        keys = list(self._each({"index", "view"}))
        index, view = (np.concatenate([k[name] for k in keys]) for name in ("index", "view"))
        order = np.lexsort((view, index))  # stable: of equal pairs the one that was read first stays
        again = np.zeros(len(order), bool)
        again[1:] = (np.diff(index[order]) == 0) & (np.diff(view[order]) == 0)
        rows = order[again]
        return order[~again], list(zip(index[rows].tolist(), view[rows].tolist(), strict=True))

    def _each(self, only: set[str]) -> Iterator[Columns]:
        for number in range(self.num_chunks):
            columns = self.read(number, only)
            assert columns is not None, "chunks are numbered without gaps"
            yield columns

    def _parts(self) -> tuple[int, Iterator[Columns]]:
        """Chunk by chunk; where the rows must be sorted or some left out, from one table of the whole zoo."""
        order, again = self.order()
        chunks = (self._columns(number) for number in range(self.num_chunks))
        filled = (columns for columns in chunks if len(columns["label"]))
        if not again and (np.diff(order) > 0).all():
            return len(order), filled
        place = np.full(len(order) + len(again), -1)
        place[order] = np.arange(len(order))
        table: dict[str, NDArray[Any]] = {}
        at = 0
        for columns in filled:
            to = place[at : (at := at + len(columns["label"]))]
            for name, values in columns.items():
                whole = table.setdefault(name, np.empty((len(order), *values.shape[1:]), values.dtype))
                whole[to[to >= 0]] = values[to >= 0]
        starts = range(0, len(order), self.chunk)
        return len(order), ({name: whole[a : a + self.chunk] for name, whole in table.items()} for a in starts)


def import_zoo(layout: Layout, out: Path, strict: bool = False) -> str:
    """Imports what ``layout`` describes into ``out`` and returns one line about it; goes on after a kill.

    Raises:
        ValueError: the source is refused or cut off, holds no network, or (``strict``) a broken one; ``out`` is another
            zoo; no space or no permission.
    """
    start = time.perf_counter()
    manifest = {**layout.manifest, "spec": str(layout.spec), "num_params": layout.spec.num_params}
    manifest |= {"import": layout.identity()}
    with build_lock(out):
        if out.exists():
            return _already(out, manifest, strict)
        rows = max(16, min(MOST_ROWS, BLOCK_BYTES // (4 * layout.spec.num_params)))
        partial = PartialImport(out, manifest, rows)
        kept = partial.num_finished()
        _read(layout, partial, strict)
        broken = partial.notes("broken") + layout.missing()
        order, again = partial.order() if partial.num_chunks else (np.empty(0, np.int64), [])
        broken += [f"index {index}, view {view}: comes again; the first is kept" for index, view in again]
        _judge(layout, len(order), broken, strict)
        sums = [*layout.sums, *partial.notes("sums")]
        manifest["import"] = {"sha256": digest(sums), **manifest["import"]}  # an archive has its own
        side = {**manifest, "zoo": out.name, "networks": len(order), "ignored": layout.ignored, "broken": broken,
                "files": sums}  # fmt: skip
        path = out.with_suffix(".manifest.json")
        with file_errors(path):
            write_atomically(path, lambda file: _write_json(file, side))
        versions = f"nfbench {__version__}, h5py {h5py.__version__}, numpy {np.__version__}"
        origin = f"imported from {layout.path.name} ({manifest['import']['sha256'][:12]})"
        manifest |= {"broken": len(broken), "broken_first": broken[:NAMED]}
        partial.assemble({"versions": versions, "origin": origin}, manifest)
    resumed = f" ({kept} blocks kept from an earlier import)" if kept else ""
    seconds, size = time.perf_counter() - start, out.stat().st_size / 2**20
    return (
        f"imported {out}: {len(order)} networks of {layout.spec}{resumed}, {len(broken)} broken, {layout.ignored} "
        f"other files, {seconds:.1f} s, {size:.1f} MiB; details in {path.name}"
    )


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n")


def _read(layout: Layout, partial: PartialImport, strict: bool) -> None:
    done = partial.num_finished()
    quiet = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(desc=f"import {partial.path.stem}", unit="net", mininterval=quiet, initial=done * partial.chunk) as bar:
        try:
            for number, block in enumerate(layout.blocks(partial.chunk, done), start=done):
                if strict and block.broken:
                    raise ValueError(f"{layout.path}: {block.broken[0]}. Without strict it would be left out.")
                broken = [text[:500] for text in block.broken]  # a damaged file can have a very long reason
                partial.write(number, block.columns, {"broken": broken, "sums": block.sums})
                bar.update(len(block.columns["label"]))
        except KeyboardInterrupt:
            print(
                f"stopped importing {partial.path}: {partial.num_finished()} blocks of {partial.chunk} networks are "
                "kept; run the same command again to go on from there",
                file=sys.stderr,
                flush=True,
            )
            raise


def _judge(layout: Layout, networks: int, broken: list[str], strict: bool) -> None:
    some = "".join(f"\n  {text}" for text in broken[:NAMED]) + ("\n  ..." if len(broken) > NAMED else "")
    if not networks:
        found = f"all {len(broken)} networks are broken:{some}" if broken else "no file has the name of a network"
        raise ValueError(f"{layout.path}: {found}.\nThis layout has {layout.expected()}.")
    if strict and broken:
        raise ValueError(f"{layout.path}: {len(broken)} networks are broken, and strict allows none:{some}")
    if broken:
        print(f"{len(broken)} networks are broken and left out:{some}", file=sys.stderr, flush=True)


def _already(out: Path, manifest: Mapping[str, Any], strict: bool) -> str:
    try:
        with h5py.File(out, "r") as file:
            found = json.loads(file.attrs["manifest"])
        same = all(name in found and found[name] == value for name, value in manifest.items() if name != "import")
        same = same and manifest["import"].items() <= found["import"].items()
    except (OSError, KeyError, TypeError, AttributeError, ValueError):
        found, same = {}, False
    if not same:
        older = sorted(manifest.keys() - found.keys() - {"import"}) if found else []
        what = f"was imported by an older version of nfbench (it lacks {', '.join(older)}), or is another zoo"
        raise ValueError(
            f"{out} is there and {what if older else 'is another zoo or damaged'}. Move it away, or choose another "
            "--out."
        )
    if strict and found.get("broken"):
        raise ValueError(
            f"{out} is there already, without {found['broken']} networks that are broken, and strict allows none: "
            f"{found['broken_first'][0]}. All are named in {out.with_suffix('.manifest.json').name}."
        )
    return f"{out} is there already: the same import of the same files, {found['num_networks']} networks"
