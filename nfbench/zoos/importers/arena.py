"""Neural fields in the HDF5 layout of Neural Field Arena and fit-a-nef.

Papa et al., How to Train Neural Field Representations, arXiv 2312.10531; doi:10.5281/zenodo.10392793. The layout is
that of their writer (samuelepapa/fit-a-nef) and reader (samuelepapa/neural-field-arena): a folder of files
``{name}_{start}-{end}.hdf5``, each with ``params`` (N, T) float32, ``param_config`` (JSON, a list of [name, shape])
and, where the data has classes, ``labels`` (N,) or (N, 1). Row r of a file is field ``start + r``; where several random
inits were fitted, field f belongs to image ``f % num_signals``, and is its view ``f // num_signals``.

Only SIRENs are read: ``kernel_net_{i}.linear.{bias,kernel}`` and ``output_linear.{bias,kernel}``, in any order; flax
keeps a kernel as (inputs, outputs). The files say neither w0 nor how pixels were scaled: w0 is taken from ``nef.json``
(which the writer puts beside them) or given, and the images' mean and deviation from what the writer's code uses; the
grid's first coordinate goes along the columns. Of other images than MNIST and CIFAR-10 the pixels' range is not known.
Whether the published archives have ``nef.json`` could not be checked.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.hdf5 import plain
from nfbench.zoos.images import SOURCES, source_info
from nfbench.zoos.importers.common import MAX_BYTES, Broken, check_file, digest, file_sha256, read_file
from nfbench.zoos.importers.nfn import guess_source
from nfbench.zoos.importers.run import Block, Layout
from nfbench.zoos.recipe import SirenRecipe

FILE = re.compile(r"^.+_(\d+)-(\d+)\.hdf5$")
PARAMETER = re.compile(r"(?:^|\.)(?:kernel_net_(\d+)\.linear|output_linear)\.(kernel|bias)$")
MOST_PACKED = 64  # numbers of networks take less than so many times the bytes that they are compressed to
Config = list[tuple[str, tuple[int, ...]]]
PIXELS = {  # mean and deviation, by channel, to which the writer's code standardises images
    "mnist": ((0.13066047,), (0.30810782,)),
    "cifar10": ((0.49186882, 0.48265392, 0.44717726), (0.24697122, 0.24338895, 0.2615926)),
}


class ArenaLayout(Layout):
    """A folder of Neural Field Arena.

    Args:
        path: the folder with the ``.hdf5`` files, or one such file.
        source: the images; None: by the folder's name or that of the folder above.
        w0: of all sine layers; None: ``omega_0`` of ``nef.json``.
        num_signals: how many images there are; None: the source's number.

    Raises:
        ValueError: no such files, another network than a SIREN, no w0.
    """

    def __init__(
        self, path: Path, source: str | None = None, w0: float | None = None, num_signals: int | None = None
    ) -> None:
        self.path = path
        folder = path if path.is_dir() else path.parent
        found = [check_file(path, file) for file in path.glob("*.hdf5")] if path.is_dir() else [path]
        if path.exists() and not (path.is_dir() or path.is_file()):
            raise ValueError(f"{path} is a device or something else that is no file: give a folder or a .hdf5 file.")
        starts = {file: int(match[1]) for file in found if (match := FILE.match(file.name))}
        self.files = sorted(starts, key=lambda file: starts[file])
        if not self.files:
            raise ValueError(f"{path} has no {self.expected()}.")
        self.starts = starts
        self.source = source or _source_of(folder)
        self.num_signals = num_signals or source_info(self.source).num_images
        config, self.spec, self.take = _first_layout(self.files)
        if self.source in SOURCES and self.spec.sizes[-1] != (channels := SOURCES[self.source].shape[-1]):
            raise ValueError(
                f"{path} holds fields of {self.spec.sizes[-1]} channels, and images of {self.source} have {channels}: "
                "say with --source which images these are."
            )
        omega = w0 if w0 is not None else _omega(folder)
        self.config = digest([json.dumps(config)])
        mean, deviation = PIXELS.get(self.source, ((0.0,), (1.0,)))
        pixels = {"pixel_mean": list(mean), "pixel_std": list(deviation)} if self.source in PIXELS else {}
        split = {"mnist": "dws", "fashion": "dws", "cifar10": "official"}.get(self.source)
        # A recipe has one range for all channels; of colour images the field's own output is left as it is.
        low, high = (-mean[0] / deviation[0], (1 - mean[0]) / deviation[0]) if len(mean) == 1 else (0.0, 1.0)
        recipe = SirenRecipe(self.spec.sizes[1:-1], omega, omega, grid="xy", pixel_min=low, pixel_max=high)
        self.manifest = {
            "layout": "arena",
            "source": self.source,
            "definition": "custom",
            **({"split": split} if split else {}),
            "num_signals": self.num_signals,
            "recipe": recipe.to_plain(),
            "recipe_known": [
                "widths", "w0_first", "w0_hidden", "grid", "output_offset",
                *(("pixel_min", "pixel_max") if pixels else ()),
            ],
            **pixels,
        }  # fmt: skip

    def identity(self) -> dict[str, Any]:
        self.sums = [f"{file_sha256(file)}  {file.name}" for file in self.files]
        return {"folder": self.path.name, "files": len(self.files), "sha256": digest(self.sums)}

    def blocks(self, rows: int, skip: int) -> Iterator[Block]:
        number = 0
        for file in self.files:
            for start, stop in _slices(file, rows):
                if number >= skip:
                    yield self._block(file, start, stop)
                number += 1

    def _block(self, file: Path, start: int, stop: int) -> Block:
        try:
            params, labels = self._read(file, start, stop)
        except Broken as error:
            return Block(self._columns(np.empty((0, self.spec.num_params), np.float32), np.empty(0, np.int64), []),
                         [f"{file.name}: {error}"])  # fmt: skip
        finite = np.isfinite(params).all(axis=1)
        rows = np.arange(start, stop)
        broken = [f"{file.name}, row {row}: has weights that are NaN or infinite" for row in rows[~finite].tolist()]
        fields = self.starts[file] + rows[finite]
        return Block(self._columns(params[finite], fields, labels[finite]), broken)

    def _columns(self, params: NDArray[np.float32], fields: Any, labels: Any) -> dict[str, NDArray[Any]]:
        view, index = np.divmod(np.asarray(fields, np.int64), self.num_signals)
        return {"params": params, "index": index, "view": view, "label": np.asarray(labels, np.int64)}

    def _read(self, file: Path, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        try:
            with h5py.File(file, "r") as data:
                if digest([json.dumps(_config(data))]) != self.config:
                    raise Broken("holds other networks than the first file: its param_config differs")
                params = plain(data, "params", MOST_PACKED)
                if params.ndim != 2 or params.shape[1] != self.spec.num_params or params.dtype.kind != "f":
                    raise Broken(f"params are {params.dtype} {params.shape}, needed (N, {self.spec.num_params}) floats")
                if "labels" not in data:
                    labels = np.full(stop - start, -1)
                else:
                    labels = plain(data, "labels")
                    if labels.size != len(params):
                        raise Broken(f"has {labels.size} labels for {len(params)} networks")
                    labels = np.asarray(labels[start:stop]).reshape(stop - start)
                return params[start:stop].astype(np.float32)[:, self.take], labels.astype(np.int64)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise error if isinstance(error, Broken) else Broken(f"cannot be read: {error}") from error

    def expected(self) -> str:
        return "files such as nefs_0-2000.hdf5"


def read_layout(config: Config, width: int) -> tuple[NetworkSpec, NDArray[np.int64]]:
    """The spec of a ``param_config``, and where in a file's row each of the (T,) numbers in torch's order is.

    Raises:
        ValueError: parameters of another network than a SIREN, or other than ``width`` of them.
    """
    layers: dict[int, dict[str, NDArray[np.int64]]] = {}
    at = 0
    for name, shape in config:
        match = PARAMETER.search(name)
        if match is None:
            raise ValueError(
                f"{name!r} is not a parameter of a SIREN of fit-a-nef (kernel_net_0.linear.kernel, output_linear.bias, "
                "...): only SIRENs are imported."
            )
        if min(shape, default=1) < 1 or at + math.prod(shape) > width:
            raise ValueError(f"param_config has the shape {shape} of {name!r}: too much for {width} numbers a network")
        places = np.arange(at, at := at + math.prod(shape)).reshape(shape)
        layers.setdefault(int(match[1]) if match[1] else 10**6, {})[match[2]] = places
    sizes: list[int] = []
    parts = []
    for number in sorted(layers):
        layer = layers[number]
        kernel, bias = layer.get("kernel"), layer.get("bias")
        fits = kernel is not None and bias is not None and kernel.ndim == 2 and bias.shape == kernel.shape[1:]
        if kernel is None or bias is None or not fits or (sizes and sizes[-1] != kernel.shape[0]):
            raise ValueError(f"param_config doesn't describe a chain of dense layers: {str(config)[:500]}")
        sizes += [*([] if sizes else [kernel.shape[0]]), kernel.shape[1]]
        parts += [kernel.T.ravel(), bias]
    return NetworkSpec.parse("-".join(map(str, sizes)) + ":sine"), np.concatenate(parts)


def _config(file: h5py.File) -> Config:
    found = plain(file, "param_config")
    if found.dtype.itemsize > MAX_BYTES:
        raise ValueError(f"param_config has texts of {found.dtype.itemsize} bytes")
    return [(str(name), tuple(int(n) for n in shape)) for name, shape in json.loads(found[0])]


def _first_layout(files: list[Path]) -> tuple[Config, NetworkSpec, NDArray[np.int64]]:
    """Of the first file that can be read."""
    for file in files:
        try:
            with h5py.File(file, "r") as data:
                config = _config(data)
                return config, *read_layout(config, plain(data, "params", MOST_PACKED).shape[1])
        except (OSError, RuntimeError, KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"{file.name}: {error}"
    raise ValueError(f"no file has a readable param_config and params; the last: {reason}")


def _slices(file: Path, rows: int) -> Iterator[tuple[int, int]]:
    """Parts of a file; one empty part of a file that cannot be read, so that it is counted."""
    try:
        with h5py.File(file, "r") as data:
            count = len(plain(data, "params", MOST_PACKED))
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        count = 0
    for start in range(0, max(count, 1), rows):
        yield start, min(start + rows, count)


def _omega(folder: Path) -> float:
    note = folder / "nef.json"
    if os.path.lexists(note):
        check_file(folder, note)
    try:
        return float(json.loads(read_file(note))["params"]["omega_0"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} has no nef.json with omega_0 of its SIRENs: give it with --w0.") from error


def _source_of(folder: Path) -> str:
    resolved = folder.resolve()
    for name in (resolved, resolved.parent):
        try:
            return guess_source(name)
        except ValueError:
            if re.search("mnist|cifar|fashion", name.name.lower()):  # other images, whatever the folder above says
                break
    return guess_source(folder)
