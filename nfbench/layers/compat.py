"""Parameters of the `nfn` package's layers (the NFN and NFT authors' code, PyPI `nfn`), to and from ours.

Ours fuse maps that share an input and keep channels last, so a tensor of ours is pieces of theirs with rows and columns
in another order. Each layer's table of pieces names every input and output by a label; orders follow from the labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from nfbench.layers.attention import NPAttention
from nfbench.layers.encode import LearnedPosEmbedding
from nfbench.layers.hnp import HNPLinear
from nfbench.layers.linear import NPLinear, Pointwise
from nfbench.layers.norm import SimpleLayerNorm
from nfbench.weightspace import NetworkSpec

Label = tuple[Any, ...]


@dataclass(frozen=True)
class _Piece:
    """Rows `rows` of our Linear `ours` are their map `theirs`; outputs and inputs by label, in each order."""

    ours: str
    rows: slice
    theirs: str
    outputs: tuple[list[Label], list[Label]]  # ours, theirs
    inputs: tuple[list[Label], list[Label]]

    def orders(self) -> tuple[Tensor, Tensor]:
        """For each of our rows and columns the number of theirs."""
        return _order(*self.outputs), _order(*self.inputs)


def from_nfn_state_dict(layer: nn.Module, state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Our state dict for a layer from that of the `nfn` package's layer of the same name, spec and channels.

    Args:
        layer: an `NPLinear`, `HNPLinear` (not full_span), `Pointwise`, `NPAttention`, `LearnedPosEmbedding` or
            `SimpleLayerNorm` of ours; not changed.
        state: their state dict, or that of a whole model.
        prefix: in front of the layer's keys in `state`, such as "net.3.".

    Returns:
        For `layer.load_state_dict`.

    Raises:
        ValueError: another kind of layer, a missing key, or a tensor of another shape.
    """
    ours = {name: tensor.detach().clone() for name, tensor in layer.state_dict().items()}

    def find(key: str) -> Tensor:
        if key not in state:
            raise ValueError(f"the nfn state dict has no {key!r}; it has {', '.join(state)}. Is prefix= right?")
        return state[key]

    for name, (theirs_name, taps) in _tensors(layer).items():
        theirs = find(prefix + theirs_name)
        if theirs.numel() != ours[name].numel():
            raise ValueError(
                f"{prefix + theirs_name!r} is {tuple(theirs.shape)}, but {layer} needs {tuple(ours[name].shape)}"
            )
        ours[name] = _taps_first(theirs.squeeze(0), taps).reshape(ours[name].shape).to(ours[name])
    for piece in _pieces(layer):
        rows, columns = piece.orders()
        for kind in ("weight", "bias"):
            key = f"{prefix}{piece.theirs}.{kind}"
            theirs = find(key).flatten(1) if kind == "weight" else find(key)
            needed = (len(rows), len(columns)) if kind == "weight" else (len(rows),)
            if theirs.shape != needed:
                raise ValueError(
                    f"{key!r} is {tuple(theirs.shape)}, but {layer} needs {needed}: other sizes or channels"
                )
            ours[f"{piece.ours}.{kind}"][piece.rows] = (
                theirs[rows][:, columns] if kind == "weight" else theirs[rows]
            ).to(ours[f"{piece.ours}.{kind}"])
    return ours


def to_nfn_state_dict(layer: nn.Module) -> dict[str, Tensor]:
    """The inverse of `from_nfn_state_dict`. Axes of size one that the package's tensors have are left out: reshape each
    tensor to the shape that `nfn_layer.state_dict()` has under its name.

    Raises:
        ValueError: another kind of layer.
    """
    ours, out = layer.state_dict(), {}
    for name, (theirs_name, taps) in _tensors(layer).items():
        by_tap = ours[name].unflatten(-1, (taps, -1)).movedim((-2, -1), (1, 0)) if taps else None
        out[theirs_name] = ours[name] if by_tap is None else by_tap.flatten(0, 1)
    for piece in _pieces(layer):
        rows, columns = piece.orders()
        weight, bias = ours[f"{piece.ours}.weight"][piece.rows], ours[f"{piece.ours}.bias"][piece.rows]
        theirs = torch.empty_like(weight)
        theirs[rows[:, None], columns] = weight
        out[f"{piece.theirs}.weight"] = theirs
        out[f"{piece.theirs}.bias"] = torch.empty_like(bias).index_copy(0, rows, bias)
    return out


def _tensors(layer: nn.Module) -> dict[str, tuple[str, int]]:
    """Tensors of no linear map: our name to theirs, and the taps in their channel axis (0: the same shape as ours)."""
    names: dict[str, tuple[str, int]] = {}
    if isinstance(layer, NPLinear) and layer.io_embed:
        first, last = layer.spec.layers[0].taps, layer.spec.layers[-1].taps
        names = {"in_embed": ("in_embed", first), "out_embed": ("out_embed", last)}
        names["out_bias_embed"] = ("out_bias_embed", 1)
    elif isinstance(layer, LearnedPosEmbedding):
        theirs = ("weight_emb", "bias_emb", "inp_emb", "out_emb")
        ours = ("weight_embedding", "bias_embedding", "input_embedding", "output_embedding")
        names = {mine: (f"{name}.weight", 0) for mine, name in zip(ours, theirs, strict=True)}
    elif isinstance(layer, SimpleLayerNorm):
        for i, taps in enumerate(layer.taps):
            for mine, name in (("gains", "gamma"), ("shifts", "beta")):
                names[f"weight_{mine}.{i}"] = (f"w_norms.{i}.{name}", taps)
                names[f"bias_{mine}.{i}"] = (f"v_norms.{i}.{name}", 1)
    return names


def _taps_first(t: Tensor, taps: int) -> Tensor:
    """(C * K, ...) of theirs to (..., K, C) of ours."""
    if not taps:
        return t
    by_tap = t.unflatten(0, (-1, taps))  # (C, K, ...)
    return by_tap.movedim((1, 0), (-2, -1))


def _order(ours: list[Label], theirs: list[Label]) -> Tensor:
    where = {label: i for i, label in enumerate(theirs)}
    assert len(where) == len(theirs) == len(ours), "labels are unique"
    return torch.tensor([where[label] for label in ours])


def _pieces(layer: nn.Module) -> Iterator[_Piece]:
    if isinstance(layer, NPLinear):
        return _np_pieces(layer)
    if isinstance(layer, HNPLinear) and not layer.full_span:
        return _hnp_pieces(layer)
    if isinstance(layer, Pointwise):
        return _pointwise_pieces(layer)
    if isinstance(layer, NPAttention):
        return _attention_pieces(layer)
    if isinstance(layer, LearnedPosEmbedding | SimpleLayerNorm):
        return iter(())
    raise ValueError(
        f"{type(layer).__name__} has no counterpart in the nfn package; it can be done for NPLinear, HNPLinear with "
        "full_span=False, Pointwise, NPAttention, LearnedPosEmbedding and SimpleLayerNorm"
    )


class _Labels:
    """Orders of the entries that belong to one thing, ours (taps, then channels) and theirs (channels, then taps)."""

    def __init__(self, spec: NetworkSpec, channels: int, ours: bool) -> None:
        self.spec, self.channels, self.ours = spec, channels, ours

    def taps(self, name: str, i: int, count: int = 0) -> list[Label]:
        """Of layer i; `count` whole rows or columns with the index last in theirs, first in ours; 0 for none."""
        taps, channels, entries = range(self.spec.layers[i].taps), range(self.channels), range(max(count, 1))
        if self.ours:
            return [(name, i, s, k, c) for s, k, c in product(entries, taps, channels)]
        return [(name, i, s, k, c) for c, k, s in product(channels, taps, entries)]

    def bias(self, name: str, i: int, count: int = 0) -> list[Label]:
        """Of the bias of layer i."""
        entries = range(max(count, 1))
        if self.ours:
            return [(name, i, s, c) for s, c in product(entries, range(self.channels))]
        return [(name, i, s, c) for c, s in product(range(self.channels), entries)]


def _both(spec: NetworkSpec, channels: int) -> tuple[_Labels, _Labels]:
    return _Labels(spec, channels, True), _Labels(spec, channels, False)


def _chain(parts: Iterable[list[Label]]) -> list[Label]:
    return [label for part in parts for label in part]


def _np_pieces(layer: NPLinear) -> Iterator[_Piece]:
    spec, last = layer.spec, layer.spec.num_layers - 1
    (mine, theirs), (mine_out, theirs_out) = _both(spec, layer.in_channels), _both(spec, layer.out_channels)
    pooled = (
        _chain(part for i in range(last + 1) for part in (mine.taps("w", i), mine.bias("v", i))),
        _chain([theirs.taps("w", i) for i in range(last + 1)] + [theirs.bias("v", i) for i in range(last + 1)]),
    )

    def neuron(i: int) -> list[Label]:
        parts = [mine.taps("col", i - 1), mine.bias("v", i - 1)] if i > 0 else []
        return _chain([*parts, mine.taps("row", i)] if i <= last else parts)

    start = 0
    for i in range(last + 1):
        weight, bias = (
            (mine_out.taps("o", i), theirs_out.taps("o", i)),
            (mine_out.bias("o", i), theirs_out.bias("o", i)),
        )
        f_out, c_out = len(weight[0]), len(bias[0])
        row_in, col_in = [theirs.taps("row", i)], [theirs.taps("col", i), theirs.bias("v", i)]
        if i > 0:
            row_in += [theirs.taps("col", i - 1), theirs.bias("v", i - 1)]
        if i < last:
            col_in.append(theirs.taps("row", i + 1))
        before = layer.get_parameter(f"neuron.{i}.weight").shape[0] - f_out
        everything = (mine.taps("w", i), theirs.taps("w", i))
        yield _Piece(f"entry.{i}", slice(None), f"layer_{i}", weight, everything)
        yield _Piece("pooled", slice(start, start + f_out), f"layer_{i}_rc", weight, pooled)
        yield _Piece(f"neuron.{i}", slice(before, None), f"layer_{i}_r", weight, (neuron(i), _chain(row_in)))
        after = (neuron(i + 1), _chain(col_in))
        yield _Piece(f"neuron.{i + 1}", slice(0, f_out), f"layer_{i}_c", weight, after)
        yield _Piece(f"neuron.{i + 1}", slice(f_out, f_out + c_out), f"bias_{i}", bias, after)
        yield _Piece("pooled", slice(start + f_out, start + f_out + c_out), f"bias_{i}_rc", bias, pooled)
        start += f_out + c_out


def _hnp_pieces(layer: HNPLinear) -> Iterator[_Piece]:
    spec, last = layer.spec, layer.spec.num_layers - 1
    n_in, n_out = spec.sizes[0], spec.sizes[-1]
    (mine, theirs), (mine_out, theirs_out) = _both(spec, layer.in_channels), _both(spec, layer.out_channels)

    def whole(labels: _Labels) -> list[list[Label]]:
        return [labels.taps("rm0", 0, n_in), labels.taps("cmL", last, n_out), labels.bias("vL", last, n_out)]

    pooled = (
        _chain([part for i in range(last + 1) for part in (mine.taps("w", i), mine.bias("v", i))] + whole(mine)),
        _chain(
            [theirs.taps("w", i) for i in range(last + 1)]
            + [theirs.bias("v", i) for i in range(last + 1)]
            + whole(theirs)
        ),
    )

    def neuron(i: int, drop: tuple[str, ...] = ()) -> list[Label]:
        parts = {"row": mine.taps("row", i), "v": mine.bias("v", i - 1)}
        if i == 1:
            parts["w1"] = mine.taps("w1", 0, n_in)
        if i == last == 1:
            parts["wL"] = mine.taps("wL", last, n_out)
        parts["col"] = mine.taps("col", i - 1)
        if i == last > 1:
            parts["wL"] = mine.taps("wL", last, n_out)
        return _chain(part for name, part in parts.items() if name not in drop)

    start = 0
    for i in range(last + 1):
        count = n_in if i == 0 else n_out if i == last else 0
        weight = (mine_out.taps("o", i, count), theirs_out.taps("o", i, count))
        bias_count = n_out if i == last else 0
        bias = (mine_out.bias("o", i, bias_count), theirs_out.bias("o", i, bias_count))
        f_out, c_out = len(weight[0]), len(bias[0])
        to_weight, to_bias = slice(start, start + f_out), slice(start + f_out, start + f_out + c_out)
        start += f_out + c_out
        if i == 0:
            parts = [theirs.taps("w1", 0, n_in), theirs.taps("row", 1), theirs.bias("v", 0)]
            parts += [theirs.taps("wL", last, n_out)] if last == 1 else []
            features = (neuron(1, drop=("col",)), _chain(parts))
            yield _Piece("own.0", slice(0, f_out), "w0_rpt", weight, features)
            yield _Piece("own.0", slice(f_out, f_out + c_out), "bias_0", bias, features)
            yield _Piece("pooled", to_weight, "w0_rbdcst", weight, pooled)
            yield _Piece("pooled", to_bias, "bias_0_rc", bias, pooled)
        elif i == last:
            parts = [theirs.taps("wL", last, n_out), theirs.taps("col", last - 1)]
            parts += [theirs.taps("w1", 0, n_in)] if last == 1 else []
            features = (neuron(last, drop=("row", "v")), _chain(parts))
            yield _Piece(f"following.{last - 1}", slice(None), "wfin_cpt", weight, features)
            yield _Piece("pooled", to_weight, "wfin_cbdcst", weight, pooled)
            yield _Piece("pooled", to_bias, "bias_fin_rc", bias, pooled)
        else:
            row_in = [theirs.taps("row", i), theirs.taps("col", i - 1), theirs.bias("v", i - 1)]
            col_in = [theirs.taps("col", i), theirs.bias("v", i), theirs.taps("row", i + 1)]
            row_in += [theirs.taps("w1", 0, n_in)] if i == 1 else []
            col_in += [theirs.taps("wL", last, n_out)] if i == last - 1 else []
            after = (neuron(i + 1), _chain(col_in))
            everything = (mine.taps("w", i), theirs.taps("w", i))
            yield _Piece(f"entry.{i - 1}", slice(None), f"layer_{i}", weight, everything)
            yield _Piece("pooled", to_weight, f"layer_{i}_rc", weight, pooled)
            yield _Piece(f"following.{i - 1}", slice(None), f"layer_{i}_r", weight, (neuron(i), _chain(row_in)))
            yield _Piece(f"own.{i}", slice(0, f_out), f"layer_{i}_c", weight, after)
            yield _Piece(f"own.{i}", slice(f_out, f_out + c_out), f"bias_{i}", bias, after)
            yield _Piece("pooled", to_bias, f"bias_{i}_rc", bias, pooled)


def _pointwise_pieces(layer: Pointwise) -> Iterator[_Piece]:
    (mine, theirs), (mine_out, theirs_out) = _both(layer.spec, layer.in_channels), _both(layer.spec, layer.out_channels)
    for i in range(layer.spec.num_layers):
        outputs, inputs = (mine_out.taps("o", i), theirs_out.taps("o", i)), (mine.taps("w", i), theirs.taps("w", i))
        yield _Piece(f"weight_maps.{i}", slice(None), f"weight_maps.{i}", outputs, inputs)
        outputs, inputs = (mine_out.bias("o", i), theirs_out.bias("o", i)), (mine.bias("v", i), theirs.bias("v", i))
        yield _Piece(f"bias_maps.{i}", slice(None), f"bias_maps.{i}", outputs, inputs)


def _attention_pieces(layer: NPAttention) -> Iterator[_Piece]:
    heads, size = range(layer.num_heads), range(layer.channels // layer.num_heads)
    qkv: tuple[list[Label], list[Label]] = (
        [(j, h, c) for j, h, c in product(range(3), heads, size)],
        [(j, h, c) for h, j, c in product(heads, range(3), size)],
    )
    plain: list[Label] = [(c,) for c in range(layer.channels)]
    if layer.share_projections:
        yield _Piece("to_qkv", slice(None), "to_qkv.linear", qkv, (plain, plain))
        return
    mine, theirs = _both(layer.spec, layer.channels)
    for i in range(layer.spec.num_layers):
        taps = (mine.taps("w", i), theirs.taps("w", i))
        yield _Piece(f"weight_to_qkv.{i}", slice(None), f"weight_to_qkv.{i}.linear", qkv, taps)
        yield _Piece(f"bias_to_qkv.{i}", slice(None), f"bias_to_qkv.{i}.linear", qkv, (plain, plain))
        yield _Piece(f"unproject.{i}", slice(None), f"unproject_weight.{i}.linear", taps, (plain, plain))
