"""Trained `torch.nn` modules as a list of layers: what can be read, and which batch norm belongs to which layer.

Only what acts on activations without parameters is passed over, so that the layers found here, with their batch norms
folded in, and the activation between them are the whole network but for its pooling and strides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.Tanh: "tanh",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
    nn.Identity: "identity",
}
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)  # nothing in evaluation
_MAX_POOLS = (nn.MaxPool2d, nn.AdaptiveMaxPool2d)
# Modules without parameters that only change the shape of activations, so the weight space does not see them.
_TRANSPARENT = (nn.Flatten, *_DROPOUTS, *_MAX_POOLS, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_OTHER_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

Layer = nn.Linear | nn.Conv2d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True, eq=False)
class FoundLayer:
    """A layer of a module, and the batch norms that become part of it.

    Args:
        name: of the layer in the module.
        layer: it.
        before: batch norms of its input, in order; exact to fold (no zero padding between).
        after: batch norms of its output, in order, before the activation.
    """

    name: str
    layer: Layer
    before: list[BatchNorm] = field(default_factory=list)
    after: list[BatchNorm] = field(default_factory=list)

    @property
    def in_size(self) -> int:
        return self.layer.in_features if isinstance(self.layer, nn.Linear) else self.layer.in_channels

    @property
    def out_size(self) -> int:
        return self.layer.out_features if isinstance(self.layer, nn.Linear) else self.layer.out_channels

    @property
    def kernel(self) -> tuple[int, int] | None:
        """Height and width of a convolution's kernel, None for a dense layer."""
        if isinstance(self.layer, nn.Linear):
            return None
        height, width = self.layer.kernel_size
        return height, width


def find_layers(module: nn.Module, activation: str | None = None) -> tuple[list[FoundLayer], str]:
    """The layers of an `nn.Sequential`, from input to output, and the name of the activation between them.

    A batch norm before the activation belongs to the layer in front of it, one behind the activation or in front of the
    first layer to the layer that follows.

    Args:
        module: the network; see `nfbench.weightspace.read_networks` for what it may consist of.
        activation: names activations whose class torch does not ship, such as a sine.

    Raises:
        ValueError: anything that cannot be read, named, and why.
    """
    layers: list[FoundLayer] = []
    found: list[str] = []  # activations
    waiting: list[tuple[str, BatchNorm]] = []  # batch norms for the next layer
    passed: list[tuple[str, nn.Module]] = []  # pooling, flatten and dropout since the last layer or activation
    for name, part in _leaves(module):
        if _is(part, nn.Linear, nn.Conv2d):
            assert isinstance(part, nn.Linear | nn.Conv2d)
            if len(found) != len(layers):
                raise ValueError(
                    f"there are {len(found)} activations before module {name!r}, the {len(layers) + 1}. layer; "
                    "a spec has exactly one between two layers"
                )
            new = FoundLayer(name, part, before=[norm for _, norm in waiting])
            _check_layer(new, layers[-1] if layers else None)
            for norm_name, norm in waiting:
                _check_fold_forward(norm_name, norm, new)
            layers.append(new)
            waiting, passed = [], []
        elif _is(part, nn.BatchNorm1d, nn.BatchNorm2d):
            assert isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)
            if part.running_mean is None:
                raise ValueError(
                    f"batch norm {name!r} has no running statistics, so that its output depends on the batch and it "
                    "cannot be folded into a layer; train it with track_running_stats=True"
                )
            if len(found) < len(layers):
                _check_fold_back(name, part, layers[-1], passed)
                layers[-1].after.append(part)
            else:
                waiting.append((name, part))
        elif type(part) in _ACTIVATIONS:
            found.append(_ACTIVATIONS[type(part)])
            passed = []
        elif _is(part, *_TRANSPARENT):
            for norm_name, norm in waiting:
                _check_exchange(norm_name, norm, name, part)
            passed.append((name, part))
        elif activation is not None and type(part).__module__.split(".")[0] != "torch" and not [*part.parameters()]:
            found.append(activation)
            passed = []
        else:
            raise ValueError(_unsupported(name, part))
    if len(found) > max(len(layers) - 1, 0):
        raise ValueError("there is an activation behind the last layer; a spec has them between layers only")
    if len(set(found)) > 1:
        raise ValueError(f"the network mixes the activations {', '.join(sorted(set(found)))}; a spec has one")
    return layers, found[0] if found else "identity"


def scale_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """What a batch norm does in evaluation, x -> scale x + shift for each channel, both (num_features,)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _leaves(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Parts by name, in order. Not `named_children`: it leaves out a module, such as an activation, used again."""
    if not _is(module, nn.Sequential):
        yield prefix.rstrip("."), module
        return
    for name, child in module._modules.items():
        assert child is not None
        yield from _leaves(child, f"{prefix}{name}.")


def _is(part: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Of one of these classes, and run as that class is: a subclass with a forward of its own may do anything."""
    return any(isinstance(part, kind) and type(part).forward is kind.forward for kind in kinds)


def _check_layer(new: FoundLayer, before: FoundLayer | None) -> None:
    name, layer = new.name, new.layer
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1:
            raise ValueError(f"module {name!r} is a grouped convolution; only groups=1 is supported")
        if before is not None and before.kernel is None:
            raise ValueError(f"module {name!r} is a convolution behind a dense layer; only dense ones can follow one")
    elif before is not None and before.kernel is not None and new.in_size != before.out_size:
        positions, rest = divmod(new.in_size, before.out_size)
        if rest == 0:
            raise ValueError(
                f"module {name!r} takes {new.in_size} inputs = {before.out_size} channels x {positions} positions of "
                f"the convolution {before.name!r}. That is not supported: permuting channels would permute blocks of "
                "its columns, and a spec has one column to a channel, as behind global pooling (NFN, Sec. 2.2). "
                "Put nn.AdaptiveAvgPool2d(1) before nn.Flatten()"
            )


def _check_fold_forward(name: str, norm: BatchNorm, new: FoundLayer) -> None:
    """Folding into the layer that follows is exact unless zeros are added to the picture behind the norm."""
    if norm.num_features != new.in_size:
        raise ValueError(
            f"batch norm {name!r} has {norm.num_features} features, but the layer {new.name!r} behind it takes "
            f"{new.in_size}; it can be folded into that layer only where there is one for each input"
        )
    if isinstance(new.layer, nn.Conv2d) and _adds_zeros(new.layer):
        raise ValueError(
            f"batch norm {name!r} cannot be folded into the convolution {new.name!r} that follows: zeros are padded "
            "behind the norm, and its shift does not reach them. Supported are a batch norm between a layer and its "
            "activation, and one before a dense layer or a convolution without zero padding"
        )


def _check_fold_back(name: str, norm: BatchNorm, last: FoundLayer, passed: list[tuple[str, nn.Module]]) -> None:
    if norm.num_features != last.out_size:
        raise ValueError(
            f"batch norm {name!r} has {norm.num_features} features, but the layer {last.name!r} before it gives "
            f"{last.out_size}; it can be folded into that layer only where there is one for each output"
        )
    for other_name, part in passed:
        _check_exchange(name, norm, other_name, part)


def _check_exchange(name: str, norm: BatchNorm, other_name: str, part: nn.Module) -> None:
    """A batch norm moves past pooling where that makes no difference."""
    why = ""
    if isinstance(part, _MAX_POOLS) and bool((scale_and_shift(norm)[0] < 0).any()):
        why = "some of its factors are negative, and those turn the maximum into a minimum"
    elif isinstance(part, nn.AvgPool2d) and part.divisor_override is not None:
        why = "divisor_override makes that pooling no average"
    elif isinstance(part, nn.AvgPool2d) and part.count_include_pad and _any(part.padding):
        why = "that pooling averages over padded zeros (count_include_pad=True)"
    if why:
        raise ValueError(
            f"batch norm {name!r} cannot be folded into a layer across the {type(part).__name__} {other_name!r}: {why}"
        )


def _adds_zeros(conv: nn.Conv2d) -> bool:
    """Other padding modes repeat activations, to which the norm applies like to all others."""
    if conv.padding_mode != "zeros" or conv.padding == "valid":
        return False
    return any(size > 1 for size in conv.kernel_size) if conv.padding == "same" else _any(conv.padding)


def _any(padding: int | str | tuple[int, ...]) -> bool:
    return any(padding) if isinstance(padding, tuple) else bool(padding)


def _unsupported(name: str, part: nn.Module) -> str:
    why = ""
    if isinstance(part, _OTHER_NORMS):
        why = ": what it does depends on the input, so it cannot be folded into a layer"
    elif [*part.children()] or type(part).__module__.split(".")[0] != "torch":
        why = ", a module with a forward of its own (residual connections and the like cannot be read)"
    return (
        f"{f'module {name!r}' if name else 'the module'} is a {type(part).__name__}{why}; supported are nn.Sequentials "
        "of Linear, Conv2d, BatchNorm1d and BatchNorm2d with running statistics, pooling, flatten, dropout, and "
        f"activations without parameters: {', '.join(kind.__name__ for kind in _ACTIVATIONS)} (give activation='sine' "
        "for one of your own)"
    )
