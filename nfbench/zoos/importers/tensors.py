"""State dicts from bytes, without running code, and their weights as one row of a zoo."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.importers import pickles
from nfbench.zoos.importers.common import MAX_BYTES, Broken


def load_state(data: bytes, name: str) -> dict[str, object]:
    """What `torch.save` or safetensors wrote: a dict of tensors, and perhaps plain values beside them.

    Pickles are followed and never run (`pickles`). safetensors doesn't keep the order of the tensors, so they are put
    in the natural order of their names (``net.2`` before ``net.10``), weight first.

    Raises:
        ValueError: a pickle that would run code; the source is not one to trust, so this is never counted as broken.
        Broken: damaged, not a dict, or with what no state dict needs.
    """
    if name.endswith(".safetensors"):
        try:
            tensors = safetensors.torch.load(data)
            return {key: tensors[key] for key in sorted(tensors, key=_natural)}
        # The others: numbers of a type, or shapes or names with numbers of a size, that torch or Python doesn't have.
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise Broken(f"is not a safetensors file that can be read: {error}") from error
    try:
        state = pickles.load(data)
    except Broken:
        raise
    except pickles.CodeError as error:
        raise ValueError(
            f"{name} is a pickle that would run code when it is loaded ({error}): refused, and nothing was run. Files "
            "of weights have no need of this; do not open it with other tools either."
        ) from error
    except Exception as error:  # there is no one class of errors for damaged files
        raise Broken("is not a file of tensors, or damaged") from error
    if not isinstance(state, dict):
        raise Broken(f"holds a {type(state).__name__}, not a state dict")
    return state


def to_row(state: Mapping[str, object], spec: NetworkSpec) -> NDArray[np.float32]:
    """All weights and biases (T,) in the order of ``spec``; the order of the dict counts, not its names.

    Raises:
        Broken: something that is no tensor of real numbers with a name, another shape than the spec's, NaN or infinity.
    """
    tensors = _tensors(state)
    try:
        spec.check_state_dict(tensors)
    except ValueError as error:
        raise Broken(str(error)) from error
    row = torch.cat([t.reshape(-1).float() for t in tensors.values()]).numpy()
    if not np.isfinite(row).all():
        raise Broken(f"has {int((~np.isfinite(row)).sum())} weights that are NaN or infinite")
    return row


def infer_spec(state: Mapping[str, object], activation: str) -> NetworkSpec:
    """The spec whose shapes a state dict has: weight, bias, weight, bias, ..., with 2 dimensions or 4.

    Raises:
        Broken: tensors that are not such a network.
    """
    tensors = _tensors(state)
    names, shapes = list(tensors), [tuple(t.shape) for t in tensors.values()]
    sizes: list[str] = []
    for i in range(0, len(shapes), 2):
        pair = shapes[i : i + 2]
        if len(pair) < 2 or len(pair[0]) not in (2, 4) or pair[1] != pair[0][:1]:
            raise Broken(
                f"is not a chain of dense layers and convolutions with biases: {names[i]!r} and what follows it have "
                f"the shapes {', '.join(map(str, pair))}"
            )
        weight = pair[0]
        kernel = f"c{weight[2]}x{weight[3]}" if len(weight) == 4 else ""
        sizes += [*([] if sizes else [str(weight[1])]), f"{weight[0]}{kernel}"]
    if any(before[0] != after[1] for before, after in pairwise(shapes[::2])):
        raise Broken(f"its layers do not follow each other in the order of its tensors: {', '.join(names)}")
    try:
        return NetworkSpec.parse(f"{'-'.join(sizes)}:{activation}")
    except ValueError as error:
        raise Broken(str(error)) from error


def _tensors(state: Mapping[str, object]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise Broken(f"has the key {name!r}, where the name of a tensor should be")
        real = isinstance(value, Tensor) and value.is_floating_point() and value.device.type == "cpu"
        if not isinstance(value, Tensor) or not real or value.layout != torch.strided:
            raise Broken(f"{name!r} is not a dense tensor of real numbers")
        found[name] = value.detach()  # parameters too
    # A file of a few bytes can hold a tensor that repeats one number, which takes memory when it is copied.
    if (size := sum(t.numel() * t.element_size() for t in found.values())) > MAX_BYTES:
        raise Broken(f"claims {size / 2**20:.0f} MiB of numbers, more than a network may have")
    return found


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    parts = re.split(r"(\d+)", name.rpartition(".")[0])
    return (
        *((int(p), "") if p.isdecimal() else (-1, p) for p in parts),
        (0, "") if name.endswith("weight") else (1, name),
    )
