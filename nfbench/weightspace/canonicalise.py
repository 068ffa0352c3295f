"""One representative for all the sine networks that are the same function by sign and phase.

A neuron sin(w0 (w.x + b)) keeps its network's function when
    the phase w0 b moves by pi and its outgoing weights change sign, or
    w, b and its outgoing weights all change sign.
Left alone, these 2-fold choices for each neuron hide the image from a network that reads weights: a random SIREN start
takes phases over many periods. The canonical form has every phase in [-pi/2, pi/2] and one sign for each neuron. It is
the same function, it commutes with permutations of hidden neurons, and doing it twice changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nfbench.weightspace.features import WeightSpaceFeatures


@dataclass(frozen=True)
class CanonicalForm:
    """Networks in canonical form, and how they got there.

    Attributes:
        features: the canonical networks, C = 1.
        signs: +1 or -1 for each weight and bias: the canonical weight is sign * weight.
        shifts: for each layer (B, R, 1): the canonical bias is sign * (bias - shift).
    """

    features: WeightSpaceFeatures
    signs: WeightSpaceFeatures
    shifts: tuple[Tensor, ...]

    def undo(self, features: WeightSpaceFeatures) -> WeightSpaceFeatures:
        """Takes networks from the canonical ones' place to that of the originals, with the function they have.

        Of the canonical networks themselves it gives the originals; of edits of them, the same edits of the originals.
        Weights are exact, biases up to rounding.
        """
        back = features.zip(self.signs, torch.mul)
        return type(features)(back.spec, back.weights, tuple(map(torch.add, back.biases, self.shifts)))


def canonicalize(features: WeightSpaceFeatures, w0_first: float = 30.0, w0_hidden: float = 30.0) -> WeightSpaceFeatures:
    """Removes the sign and phase symmetries of sine networks; `canonical_form` says how, and how to get back.

    Returns:
        Features of networks that compute the same functions.
    """
    return canonical_form(features, w0_first, w0_hidden).features


def canonical_form(features: WeightSpaceFeatures, w0_first: float = 30.0, w0_hidden: float = 30.0) -> CanonicalForm:
    """Removes the sign and phase symmetries of sine networks.

    Signs, layer by layer from the input, none of them dependent on the order of hidden neurons:
    first layer: its first non-zero input weight is positive (inputs are ordered);
    last hidden layer: its first non-zero outgoing weight is positive (outputs are ordered);
    layers between: the sum of its incoming weights, after the flips of the layer before, is positive.
    A neuron that this leaves undecided (weights that are zero, or a sum that is zero up to rounding) gets a bias that
    is not negative. A phase of pi/2 up to rounding stays as it is, at either end of the interval.

    Args:
        features: B dense sine networks, C = 1.
        w0_first: frequency factor of the first layer.
        w0_hidden: frequency factor of the other sine layers.

    Returns:
        The canonical networks, which compute the same functions, and the way back.

    Raises:
        ValueError: networks that are not dense sine networks with C = 1.
    """
    spec = features.spec
    if spec.activation != "sine" or features.channels != 1 or any(layer.is_conv for layer in spec.layers):
        raise ValueError(
            f"only dense sine networks with one channel have this canonical form, got {spec} with "
            f"{features.channels} channels; set canonicalize=false for other networks"
        )
    weights = [w[..., 0, 0] for w in features.weights]  # each (B, R, S)
    biases = [b[..., 0] for b in features.biases]  # each (B, R)
    signs, shifts = [torch.ones_like(w) for w in weights], [torch.zeros_like(b) for b in biases]
    bias_signs = [torch.ones_like(b) for b in biases]
    hidden = spec.num_layers - 1
    for i in range(hidden):
        half_period = math.pi / (w0_first if i == 0 else w0_hidden)
        turns = _half_turns(biases[i] / half_period)
        shifts[i] = turns * half_period
        biases[i] = biases[i] - shifts[i]
        parity = 1 - 2 * torch.remainder(turns, 2)  # (B, R)
        weights[i + 1] = weights[i + 1] * parity.unsqueeze(1)
        sign = _neuron_signs(weights[i], biases[i], weights[i + 1], first=i == 0, last=i == hidden - 1)
        weights[i] = weights[i] * sign.unsqueeze(2)
        biases[i] = biases[i] * sign
        weights[i + 1] = weights[i + 1] * sign.unsqueeze(1)
        signs[i] = signs[i] * sign.unsqueeze(2)
        signs[i + 1] = signs[i + 1] * (parity * sign).unsqueeze(1)
        bias_signs[i] = sign

    def pack(weights: list[Tensor], biases: list[Tensor]) -> WeightSpaceFeatures:
        return type(features)(spec, tuple(w[..., None, None] for w in weights), tuple(b[..., None] for b in biases))

    return CanonicalForm(pack(weights, biases), pack(signs, bias_signs), tuple(b[..., None] for b in shifts))


def _neuron_signs(w_BRS: Tensor, bias_BR: Tensor, out_BQR: Tensor, first: bool, last: bool) -> Tensor:
    """+1 or -1 for each neuron, (B, R)."""
    total = w_BRS.sum(2)
    total = torch.where(total.abs() > _tolerance(total) * w_BRS.abs().sum(2), total, 0)
    candidates = [*w_BRS.unbind(2)] if first else [*out_BQR.unbind(1)] if last else [total]
    sign = torch.sign(candidates[0])
    for value in (*candidates[1:], bias_BR):
        sign = torch.where(sign == 0, torch.sign(value), sign)
    return torch.where(sign == 0, torch.ones_like(sign), sign)


def _half_turns(phase: Tensor) -> Tensor:
    """The nearest whole number, but zero up to 1/2 and a rounding error, so that a second pass changes nothing."""
    return torch.sign(phase) * torch.ceil(phase.abs() - 0.5 - _tolerance(phase)).clamp_min(0)


def _tolerance(t: Tensor) -> float:
    return 64 * torch.finfo(t.dtype).eps
