"""From trained `torch.nn` modules to features: zeros for missing biases, batch norm folded into the weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nfbench.weightspace.features import WeightSpaceFeatures
from nfbench.weightspace.modules import FoundLayer, find_layers, scale_and_shift
from nfbench.weightspace.spec import NetworkSpec


@torch.no_grad()
def read_networks(modules: nn.Module | Iterable[nn.Module], activation: str | None = None) -> WeightSpaceFeatures:
    """The weights of one or several trained networks, which all have one spec. The modules are not changed.

    A network is an `nn.Sequential` (nested ones are fine) of

    - Linear and Conv2d, with or without bias; stride, dilation and padding do not matter to the weights;
    - one activation between any two, the same everywhere (a spec has its name, not a LeakyReLU's slope);
    - pooling, flatten and dropout, which are passed over. From convolutions to a dense layer there must be global
      pooling, so that each column of the dense layer belongs to one channel (NFN, Sec. 2.2);
    - BatchNorm1d and BatchNorm2d as they are in evaluation, x -> a x + c for each channel. Before the activation one is
      folded into the layer W, b in front: a W, a b + c. Behind it, or in front of the first layer, it is folded into
      the layer that follows: W a, b + W c, which is exact unless that is a convolution that pads with zeros.

    The features of a folded network go back into the same `nn.Sequential` without batch norm and with all biases:
    `net.load_state_dict(features[i].to_state_dicts(list(net.state_dict()))[0])`.

    Args:
        modules: one network, or several.
        activation: names activations whose class torch does not ship, such as a sine.

    Returns:
        Features of B networks with C = 1, without gradient.

    Raises:
        ValueError: no network, a module that cannot be read (named, and why), or networks of different specs.
    """
    if isinstance(modules, nn.Module) and not isinstance(modules, nn.ModuleList):
        modules = [modules]
    networks = list(modules)
    if not networks:
        raise ValueError("no networks given: pass at least one module")
    spec = NetworkSpec.from_module(networks[0], activation)
    rows = []
    for i, network in enumerate(networks):
        other = NetworkSpec.from_module(network, activation)
        if other != spec:
            raise ValueError(f"networks of one batch have one spec: network 0 is {spec}, network {i} is {other}")
        folded = [_fold(found) for found in find_layers(network, activation)[0]]
        rows.append(torch.cat([t.flatten() for pair in folded for t in pair]))
    return WeightSpaceFeatures.from_flat(spec, torch.stack(rows))


def _fold(found: FoundLayer) -> tuple[Tensor, Tensor]:
    """Weight (R, S, K) and bias (R,) of a layer with its batch norms in them."""
    weight = found.layer.weight
    w_RSK = weight.reshape(found.out_size, found.in_size, -1)
    bias_R = weight.new_zeros(found.out_size) if found.layer.bias is None else found.layer.bias
    for norm in reversed(found.before):  # the last one is nearest to the layer
        scale_S, shift_S = (t.to(weight) for t in scale_and_shift(norm))
        bias_R = bias_R + w_RSK.sum(2) @ shift_S
        w_RSK = w_RSK * scale_S[:, None]
    for norm in found.after:
        scale_R, shift_R = (t.to(weight) for t in scale_and_shift(norm))
        w_RSK = w_RSK * scale_R[:, None, None]
        bias_R = bias_R * scale_R + shift_R
    return w_RSK, bias_R
