"""Applies a trained model to networks that are no part of its zoo: a user's own files, or rows of any zoo's file.

Nothing here runs code from a file: pickles of state dicts are followed, not run, or they are safetensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfbench.config.trained import Trained
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures
from nfbench.zoos.importers.common import Broken
from nfbench.zoos.importers.folder import ENDINGS
from nfbench.zoos.importers.tensors import infer_spec, load_state
from nfbench.zoos.store import read_zoo

ZOO_ENDINGS = (".h5", ".hdf5")
UNLIKE = 4.0  # root mean square of standardised weights, 1 over the training networks, from which on a note is due
RECIPE = ("w0_first", "w0_hidden", "output_offset", "pixel_min", "pixel_max", "grid")


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        name: to print, and to name files after.
        raw: (T,) weights and biases.
        keys: names of its tensors, weight, bias, ...
        notes: what speaks against a prediction.
    """

    name: str
    raw: Tensor
    keys: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def with_weights(self, spec: NetworkSpec, raw: Tensor) -> dict[str, Tensor]:
        """A state dict like this network's own, with other weights (T,)."""
        (state,) = WeightSpaceFeatures.from_flat(spec, raw[None]).to_state_dicts(self.keys)
        return {name: tensor.clone() for name, tensor in state.items()}


def read_file(path: Path, trained: Trained, index: Sequence[int] = (), view: int | None = None) -> list[Network]:
    """The networks of a file that the model can read.

    Args:
        path: a state dict (.pth, .pt, .safetensors), or the file of a zoo (.h5).
        trained: the model.
        index: of a zoo: the items whose networks are meant.
        view: of a zoo: which of an item's networks; None: all.

    Raises:
        ValueError: no such file, one of another kind, one that is damaged or would run code, networks of another
            architecture, or items that are not in the zoo.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}: give a network ({', '.join(ENDINGS)}) or a zoo (.h5)")
    if path.suffix in ZOO_ENDINGS:
        return _from_zoo(path, trained, index, view)
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path} has the ending {path.suffix!r}: it must be {', '.join(ENDINGS)}, or .h5 for a zoo")
    try:
        state = load_state(path.read_bytes(), str(path))
    except Broken as error:
        raise ValueError(f"{path} {error}. Save a network with torch.save(net.state_dict(), path)") from None
    inner = state.get("state_dict")
    return [_from_state(path, inner if isinstance(inner, dict) else state, trained.reader.spec)]


def _from_state(path: Path, state: Mapping[str, Any], spec: NetworkSpec) -> Network:
    found: NetworkSpec | None = None
    why = ""
    try:
        found = infer_spec(state, spec.activation)
    except Broken as error:
        why = str(error)
    if found is not None and found != spec:
        raise _other(path, found, spec)
    if any(isinstance(value, Tensor) and not value.is_floating_point() for value in state.values()):
        raise ValueError(f"{path} is no network {spec}: it {why}")
    try:
        features = WeightSpaceFeatures.from_state_dicts(spec, [state])  # a missing bias is one of zeros
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no network {spec}: {error if found else f'it {why}'}") from None
    raw = features.flatten()[0, :, 0].float()
    if not raw.isfinite().all():
        raise ValueError(f"{path} has {int((~raw.isfinite()).sum())} weights that are NaN or infinite")
    return Network(path.name, raw, _keys(state))


def _keys(state: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a state dict, with one for each bias that it lacks."""
    names: list[str] = list(state)
    keys: list[str] = []
    for name, following in zip(names, [*names[1:], None], strict=True):
        keys.append(name)
        if state[name].ndim > 1 and (following is None or state[following].ndim > 1):
            keys.append(f"{name.removesuffix('weight')}bias")
    return tuple(keys)


def _from_zoo(path: Path, trained: Trained, index: Sequence[int], view: int | None) -> list[Network]:
    data, reader = read_zoo(path, advice="It was not changed."), trained.reader
    found = NetworkSpec.parse(data.manifest["spec"])
    if found.layers != reader.spec.layers or (reader.recipe and found != reader.spec):  # classifiers mix activations
        raise _other(path, found, reader.spec)
    if not index:
        raise ValueError(
            f"{path} is a zoo of {len(data.label)} networks: say whose with index=N, an item from "
            f"{data.index.min()} to {data.index.max()}"
        )
    notes = []
    for key in RECIPE if reader.recipe else ():
        theirs, ours = (data.manifest.get("recipe") or {}).get(key), getattr(reader.recipe, key)
        if theirs not in (None, ours):
            notes.append(f"its networks have {key}={theirs}, those of the training {key}={ours}")
    rows = [
        row
        for item in index
        for row in np.flatnonzero(data.index == item).tolist()
        if view in (None, int(data.view[row]))
    ]
    if missing := sorted(set(index) - set(data.index[rows].tolist())):
        which = "" if view is None else f" of view {view}"
        raise ValueError(f"{path} has no network{which} of item {missing[0]}")
    keys = tuple(f"{i}.{kind}" for i in range(reader.spec.num_layers) for kind in ("weight", "bias"))
    return [
        Network(
            f"{path.name} index {data.index[row]} view {data.view[row]}",
            torch.from_numpy(data.params[row]),
            keys,
            tuple(notes),
        )
        for row in rows
    ]


def _other(path: Path, found: NetworkSpec, spec: NetworkSpec) -> ValueError:
    return ValueError(
        f"{path} holds a network {found}, and this model reads {spec} alone: it was trained on networks of that "
        "architecture. Train one on networks like yours (data/README.md says how they are imported)"
    )


@dataclass(frozen=True)
class Prediction:
    """What a model says of one network; only what its task gives is there.

    Attributes:
        network: the network.
        probabilities: of the classes (inr_cls, inr2array_cls).
        accuracy: predicted test accuracy (cnn_gen).
        weights: (T,) of the edited network (inr_edit).
        latents: (M, C) (inr2array).
        notes: what speaks against it.
    """

    network: Network
    probabilities: Tensor | None = None
    accuracy: float | None = None
    weights: Tensor | None = None
    latents: Tensor | None = None
    notes: tuple[str, ...] = ()


@torch.no_grad()
def predict(trained: Trained, networks: Sequence[Network]) -> list[Prediction]:
    """What the model says of networks."""
    raw = torch.stack([network.raw for network in networks])
    features, model = trained.reader.read(raw), trained.model
    found: list[dict[str, Any]]
    if trained.task == "cnn_gen":
        found = [{"accuracy": float(value)} for value in model(features)[:, 0].double().sigmoid()]
    elif trained.task == "inr_edit":
        found = [{"weights": row} for row in trained.reader.write(features + model(features), raw)]
    elif trained.task == "inr2array":
        found = [{"latents": rows} for rows in _encode(trained, features)]
    else:
        x = _encode(trained.encoder, features) if trained.encoder else features
        found = [{"probabilities": row} for row in model(x).double().softmax(-1)]
    notes = _unlike(trained, features)
    return [
        Prediction(network, **values, notes=(*network.notes, *note))
        for network, values, note in zip(networks, found, notes, strict=True)
    ]


def _encode(trained: Trained, features: WeightSpaceFeatures) -> Tensor:
    model: Any = trained.model
    return model.encode(features)


def _unlike(trained: Trained, features: WeightSpaceFeatures) -> list[list[str]]:
    """A note for each network whose weights are far from those of the training; without standardisation none."""
    if bool((trained.reader.std == 1).all()):
        return [[] for _ in range(len(features))]
    size = features.flatten()[..., 0].square().mean(1).sqrt().tolist()
    text = "its weights are unlike those of the training: standardised, their root mean square is {:.1f}, not about 1"
    return [[text.format(value)] if value > UNLIKE else [] for value in size]
