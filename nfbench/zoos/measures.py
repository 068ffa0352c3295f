"""Measures of a zoo's networks in a file beside it, and the images that they are taken on.

``<zoo>.measures.h5``: columns (N,) float32, aligned with the rows of the zoo, NaN where a network was not measured or a
number overflowed. Its attributes: format, and about (JSON: the zoo's fingerprint, the settings, the images). Until the
file is whole, its chunks are in ``<zoo>.measures.h5.partial/``, each written whole or not at all, as in
`nfbench.zoos.store`. A lock on ``<zoo>.measures.h5.lock`` lets one process measure while others wait.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nfbench.zoos.chunks import check_owner, remove_chunks
from nfbench.zoos.cnn_images import DATASETS, load_classifier_images
from nfbench.zoos.hdf5 import plain
from nfbench.zoos.store import file_errors, file_lock, to_json, write_atomically

FORMAT = "nfbench measures 1"
NOTE = "about.json"  # of a folder of chunks: whose they are
Columns = dict[str, NDArray[np.float32]]


def training_sample(
    source: str, data_dir: str, count: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64], str]:
    """Training images as the classifiers of a zoo read them, from the beginning of a fixed random order.

    Runs of our own zoos that are trained on a part of the images are trained on a beginning of the same order, so that
    samples from its first tenth are known to all of them. The published zoo does not say which images a run saw.

    Args:
        source: of the zoo's manifest.
        data_dir: see `nfbench.zoos.images.load_images`.
        count: how many; all training images if there are fewer.
        seed: which sample: 0 the first ``count`` images, 1 those that follow, and so on.

    Returns:
        Pixels (n, H, W, 1) in [-1, 1], labels (n,), and the SHA-256 of all images of the source.

    Raises:
        ValueError: a source without images here, no files, or too few images for that seed.
    """
    name = {other: name for name, other in DATASETS.items()}.get(source, source)
    if name not in DATASETS:
        raise ValueError(
            f"the networks are of {source!r}, whose images are not known here. Name a source with --source: "
            f"{', '.join(DATASETS)}."
        )
    images = load_classifier_images(name, data_dir)
    rows = images.train[seed * count : (seed + 1) * count]
    if seed and len(rows) < count:
        raise ValueError(
            f"{source} has {len(images.train)} training images: too few for sample {seed} of {count} images each. Use "
            "a smaller --seed or fewer --images."
        )
    return images.pixels[rows][..., None], images.labels[rows].astype(np.int64), images.fingerprint


def read_measures(path: Path) -> tuple[Columns, dict[str, Any]]:
    """The columns of a file of measures, and what it says about them.

    Raises:
        ValueError: no such file, or another kind.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ValueError(f"{path} is no file of measures (no format {FORMAT!r}).")
            return {name: plain(file, name)[()] for name in file}, json.loads(str(file.attrs["about"]))
    except (OSError, RuntimeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as measures ({error}). Run scripts/measure_zoo.py.") from error


@contextmanager
def measures_lock(path: Path) -> Iterator[None]:
    """Holds the lock of the measures ``path``; waits, with a message, while another process takes them."""
    message = f"waiting: another process is writing {path}"
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_name(path.name + ".lock"), message=message):
        yield


class PartialMeasures:
    """Measures that are being taken, chunk by chunk; a run that was killed goes on behind its last whole chunk.

    Whoever makes one holds the `measures_lock`.

    Args:
        path: the file to be.
        about: which zoo and settings; must be those of the chunks that are there.
        num_chunks: of the whole zoo.

    Raises:
        ValueError: the folder holds chunks of other settings or of unknown ones, or cannot be written.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], num_chunks: int) -> None:
        self.path, self.about, self.num_chunks = path, dict(about), num_chunks
        self.folder = path.with_name(path.name + ".partial")
        with file_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            check_owner(self.folder, NOTE)
            note, text = self.folder / NOTE, to_json(about)
            if not note.exists():
                write_atomically(note, lambda file: _write(file, text))
            if note.read_text() != text:
                raise ValueError(
                    f"{self.folder} has unfinished measures of other settings or another zoo:\n  there: "
                    f"{note.read_text()}\n  now:   {text}\nDelete that folder to start anew, or choose another --out."
                )

    def missing(self) -> list[int]:
        """Chunks that are still to be measured."""
        return [number for number in range(self.num_chunks) if not self._chunk(number).exists()]

    def write(self, number: int, columns: Columns) -> None:
        """Keeps a chunk."""

        def save(file: Path) -> None:
            with file.open("wb") as out:
                np.savez(out, **columns)  # type: ignore[arg-type]  # its own keywords come first in numpy's stubs

        with file_errors(self.path):
            write_atomically(self._chunk(number), save)

    def assemble(self, rows: NDArray[np.int64], num_networks: int) -> Columns:
        """Joins the chunks, which are of these rows in order, into the file, and deletes them.

        Raises:
            ValueError: a damaged chunk, no space or no permission.
        """
        parts = [self._read(number) for number in range(self.num_chunks)]
        columns = {name: np.full(num_networks, np.nan, np.float32) for name in parts[0]}
        for name, values in columns.items():
            values[rows] = np.concatenate([part[name] for part in parts])

        def save(file: Path) -> None:
            with h5py.File(file, "w") as out:
                out.attrs["format"], out.attrs["about"] = FORMAT, to_json(self.about)
                for name, values in columns.items():
                    out.create_dataset(name, data=values)

        with file_errors(self.path):
            write_atomically(self.path, save)
        remove_chunks(self.folder, NOTE)
        return columns

    def _read(self, number: int) -> Columns:
        path = self._chunk(number)
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except Exception as error:  # np.load has no one class of errors for a damaged file
            raise ValueError(f"{path} is damaged ({error}): delete this file and run again to rebuild it.") from error

    def _chunk(self, number: int) -> Path:
        return self.folder / f"chunk-{number:05d}.npz"


def _write(path: Path, text: str) -> None:
    path.write_text(text)
