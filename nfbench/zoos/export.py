"""Writes any zoo for other code: safetensors with a JSON, or the folder layout of the NFN zoos.

``safetensors``: shards ``zoo-00000.safetensors``, ... of some thousand networks each, with ``layers.{i}.weight``
(N, R, S) or (N, R, S, height, width) and ``layers.{i}.bias`` (N, R) in torch's order, ``label``, ``index``, ``view``
and every column of numbers; ``zoo.json`` says which shard has which rows, and holds the manifest, the attributes and
the columns of text.

``nfn``: ``{prefix}_{label}s/net{index}.pth`` and ``{prefix}_aug{view - 1}_{label}s/net{index}.pth``, state dicts with
the names of the authors' SIREN class. The weights are written as they are: NFN's own code renders with w0 = 30, without
an output offset, for pixels in [-1, 1]; ``zoo.json`` has the recipe that says how these differ, and of a zoo with a
column ``split`` the part of each file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures
from nfbench.zoos.store import ZooData, file_errors, write_atomically

FORMATS = ("safetensors", "nfn")
SHARD_BYTES = 256 * 2**20
PREFIX = "randinit_smaller"


def export_zoo(data: ZooData, folder: Path, form: str, prefix: str = PREFIX) -> str:
    """Writes a zoo into an empty or new folder and returns one line about it.

    Args:
        data: the zoo.
        folder: where to; ``zoo.json`` is written last, so a folder without it is not whole.
        form: safetensors or nfn.
        prefix: of the folders of the NFN layout.

    Raises:
        ValueError: an unknown format, a folder that isn't empty, a zoo that the NFN layout cannot hold, no space.
    """
    if form not in FORMATS:
        raise ValueError(f"format {form!r} is not known. Choose one of: {', '.join(FORMATS)}.")
    spec = NetworkSpec.parse(data.manifest["spec"])
    if form == "nfn":
        _check_nfn(data, spec)
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty: choose another folder.")
        said = _write_shards(data, spec, folder) if form == "safetensors" else _write_nfn(data, spec, folder, prefix)
        said |= {"format": form, "spec": str(spec), "manifest": data.manifest, "attributes": data.attributes}
        text = json.dumps(said, indent=1) + "\n"
        write_atomically(folder / "zoo.json", lambda path: _write(path, text))
    return f"exported {len(data.label)} networks of {spec} as {form} to {folder}"


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _write_shards(data: ZooData, spec: NetworkSpec, folder: Path) -> dict[str, Any]:
    rows = max(1, SHARD_BYTES // (4 * spec.num_params))
    keys = [f"layers.{i}.{kind}" for i in range(spec.num_layers) for kind in ("weight", "bias")]
    columns = {"label": data.label, "index": data.index, "view": data.view, **data.extra}
    text = {name: values for name, values in columns.items() if values.dtype.kind == "U"}
    shards: list[dict[str, Any]] = []
    for first in tqdm(range(0, len(data.label), rows), desc="export", unit="shard"):
        part = slice(first, first + rows)
        flat = torch.from_numpy(data.params[part])
        slices = zip(keys, spec.scalar_slices(), spec.parameter_shapes(), strict=True)
        tensors = {key: flat[:, where].reshape(-1, *shape).contiguous() for key, where, shape in slices}
        for name, values in columns.items():
            if name not in text:
                tensors[name] = torch.from_numpy(np.array(values[part]))
        shard = f"zoo-{len(shards):05d}.safetensors"
        save_file(tensors, folder / shard)
        shards.append({"file": shard, "first_row": first, "rows": len(flat)})
    return {
        "num_networks": len(data.label),
        "parameters": dict(zip(keys, spec.parameter_shapes(), strict=True)),
        "columns": [name for name in columns if name not in text],
        "text_columns": {name: values.tolist() for name, values in text.items()},
        "shards": shards,
    }


def _check_nfn(data: ZooData, spec: NetworkSpec) -> None:
    if spec.activation != "sine" or any(layer.is_conv for layer in spec.layers):
        raise ValueError(f"the NFN layout holds SIRENs; this zoo has {spec}. Export it as safetensors.")
    if (data.label < 0).any():
        raise ValueError("the NFN layout names folders by class, and this zoo has none. Export it as safetensors.")


def _write_nfn(data: ZooData, spec: NetworkSpec, folder: Path, prefix: str) -> dict[str, Any]:
    last = spec.num_layers - 1
    layers = [f"net.{i}.linear" if i < last else f"net.{i}" for i in range(spec.num_layers)]
    names = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    files = []
    for state, label, index, view in tqdm(_states(data, spec, names), total=len(data.label), desc="export", unit="net"):
        copy = f"_aug{view - 1}" if view else ""
        path = folder / f"{prefix}{copy}_{label}s" / f"net{index}.pth"
        path.parent.mkdir(exist_ok=True)
        torch.save(state, path)
        files.append(path.relative_to(folder).as_posix())
    said = {"num_networks": len(data.label), "prefix": prefix}
    if "split" in data.extra:
        said["split"] = dict(zip(files, data.extra["split"].tolist(), strict=True))
    return said


def _states(
    data: ZooData, spec: NetworkSpec, names: list[str]
) -> Iterator[tuple[dict[str, torch.Tensor], int, int, int]]:
    keys = zip(data.label.tolist(), data.index.tolist(), data.view.tolist(), strict=True)
    for row, (label, index, view) in zip(data.params, keys, strict=True):
        features = WeightSpaceFeatures.from_flat(spec, torch.from_numpy(row[None]))
        # Cloned: torch.save would write the whole row's storage for each tensor.
        yield {k: t.clone() for k, t in features.to_state_dicts(names)[0].items()}, label, index, view
