"""A graph network over the neurons of a network, with their sign symmetry: ours, after ScaleGMN.

B networks, N neurons of a layer, C channels, R rows, S columns, K kernel positions, F functions of a weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nfbench.layers import LearnedScale
from nfbench.layers.checks import check_dropouts, check_sizes
from nfbench.layers.product import Linear
from nfbench.models.head import MLPHead
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures

ODD = ("sine", "tanh")  # activations with f(-x) = -f(x)


@dataclass(frozen=True)
class NodeStates:
    """States of the neurons of each layer, inputs first: (B, N, C) each."""

    layers: tuple[Tensor, ...]

    @property
    def channels(self) -> int:
        return self.layers[0].shape[-1]

    def flatten(self) -> Tensor:
        """All neurons as tokens: (B, all N, C)."""
        return torch.cat(self.layers, 1)


class NodeMLP(nn.Module):
    """O((U x) * silu(G |V x| + g)), which is odd in x. Unsigned: biases everywhere and no absolute value.

    Args:
        in_channels, width, out_channels: of input, hidden part and output.
        signed: odd.

    Shapes:
        (..., in_channels) -> (..., out_channels).
    """

    def __init__(self, in_channels: int, width: int, out_channels: int, signed: bool) -> None:
        super().__init__()
        self.signed, self.width = signed, width
        self.split = Linear(in_channels, 2 * width, bias=not signed)
        self.gate = Linear(width, width)
        self.out = Linear(width, out_channels, bias=not signed)

    def forward(self, x: Tensor) -> Tensor:
        value, key = self.split(x).split(self.width, -1)
        return self.out(value * F.silu(self.gate(key.abs() if self.signed else key)))


class NodeRead(nn.Module):
    """silu(G |V x| + g) of the normed state, which no sign changes. Unsigned: V with a bias, and silu for | |.

    Shapes:
        (B, N, channels) -> (B, N, channels).
    """

    def __init__(self, channels: int, signed: bool) -> None:
        super().__init__()
        self.signed, self.norm = signed, nn.RMSNorm(channels)
        self.key, self.gate = Linear(channels, channels, bias=not signed), Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        key = self.key(self.norm(x))
        return F.silu(self.gate(key.abs() if self.signed else F.silu(key)))


class Round(nn.Module):
    """Every neuron hears from those before and after it, through the weights between them, and changes its state.

    Args:
        functions: for each layer of weights F * K, the functions of a weight that messages go through.
        channels: of a neuron's state.
        signed: for each layer of neurons, whether its states change sign with it.

    Shapes:
        states (B, N, C), maps ahead (B, R, S * F * K), maps back (B, S, R * F * K) -> states.
    """

    def __init__(self, functions: list[int], channels: int, signed: list[bool]) -> None:
        super().__init__()
        heard = [1 + (i > 0) + (i < len(functions)) for i in range(len(signed))]
        self.norms = nn.ModuleList(nn.RMSNorm(channels) for _ in signed)
        self.ahead = nn.ModuleList(Linear(channels, count * channels, bias=False) for count in functions)
        self.back = nn.ModuleList(Linear(channels, count * channels, bias=False) for count in functions)
        self.mixed_norms = nn.ModuleList(nn.RMSNorm(n * channels) for n in heard)
        self.updates = nn.ModuleList(
            NodeMLP(n * channels, channels, channels, sign) for n, sign in zip(heard, signed, strict=True)
        )

    def forward(self, states: list[Tensor], ahead: list[Tensor], back: list[Tensor]) -> list[Tensor]:
        x = [norm(h) for norm, h in zip(self.norms, states, strict=True)]
        heard = [[t] for t in x]
        for i, (there, here) in enumerate(zip(ahead, back, strict=True)):
            heard[i + 1].append(there @ self.ahead[i](x[i]).reshape(len(there), there.shape[-1], -1))
            heard[i].append(here @ self.back[i](x[i + 1]).reshape(len(here), here.shape[-1], -1))
        return [
            h + update(norm(torch.cat(t, -1)))
            for h, t, norm, update in zip(states, heard, self.mixed_norms, self.updates, strict=True)
        ]


class NodeHead(nn.Module):
    """The means over the neurons of each layer, then an MLP: (B, N, C) each -> (B, out_dim)."""

    def __init__(self, num_layers: int, channels: int, out_dim: int, width: int, dropout: float) -> None:
        super().__init__()
        self.mlp = MLPHead(num_layers * channels, out_dim, width, dropout=dropout)

    def forward(self, x: NodeStates) -> Tensor:
        return self.mlp(torch.cat([h.mean(1) for h in x.layers], -1))


class EdgeRead(nn.Module):
    """A number for each bias, and for each weight from the states at its two ends: sum over c of (P h_j)_c (Q h_k)_c.

    Shapes:
        states (B, N, C) -> weights (B, R, S, K, 1), biases (B, R, 1).
    """

    def __init__(self, spec: NetworkSpec, channels: int, signed: list[bool]) -> None:
        super().__init__()
        self.spec = spec
        self.norms = nn.ModuleList(nn.RMSNorm(channels) for _ in signed)
        self.rows = nn.ModuleList(
            Linear(channels, layer.taps * channels, bias=not sign)
            for layer, sign in zip(spec.layers, signed[1:], strict=True)
        )
        self.columns = nn.ModuleList(Linear(channels, channels, bias=not sign) for sign in signed[:-1])
        self.biases = nn.ModuleList(Linear(channels, 1, bias=not sign) for sign in signed[1:])
        self.scale = LearnedScale(spec)

    def forward(self, states: list[Tensor]) -> WeightSpaceFeatures:
        x = [norm(h) for norm, h in zip(self.norms, states, strict=True)]
        weights = []
        for i, layer in enumerate(self.spec.layers):
            rows = self.rows[i](x[i + 1]).unflatten(-1, (layer.taps, -1))
            rows = rows / math.sqrt(rows.shape[-1])
            weights.append(torch.einsum("brkc,bsc->brsk", rows, self.columns[i](x[i])).unsqueeze(-1))
        biases = tuple(read(h) for read, h in zip(self.biases, x[1:], strict=True))
        return self.scale(WeightSpaceFeatures(self.spec, tuple(weights), biases))


class GMN(nn.Module):
    """A graph metanetwork: neurons are nodes, weights are edges, and the sign of a sine neuron is a symmetry.

    After Lim et al. 2023 (arXiv 2312.04501), Kofinas et al. 2024 (arXiv 2403.12143) and ScaleGMN (Kalogeropoulos et al.
    2024, arXiv 2406.10685); this architecture is ours.

    A sine or tanh network does not change when the signs of all that goes into a hidden neuron and of all that comes
    out of it are turned. States of hidden neurons are odd in that sign: a message is the sum over functions f and
    neurons k of f(w_jk) V_f h_k, with f(w) = w or sin(omega w), omega learned, and updates are odd maps. Other networks
    get cosines too, and biases everywhere. Messages are products of states, which are fewer than weights: 67 for 1,185
    in a SIREN 2-32-32-1.

    Args:
        spec: networks that go in, C = 1.
        out_dim: outputs; None for a number for each weight and bias.
        width: channels of a neuron's state.
        num_rounds: rounds of messages between all layers.
        num_functions: of a weight, the weight itself among them; for unsigned networks one more for each sine.
        sign: whether the sign symmetry is built in; None: where the activation is odd.
        head_width: hidden width of the head.
        head_dropout: dropout of the head.

    Shapes:
        weights (B, R, S, K, 1), biases (B, R, 1) -> (B, out_dim), invariant to hidden-neuron permutations; without
        out_dim the shapes of the input, equivariant. With the sign symmetry the same holds for signs.

    Raises:
        ValueError: `sign` for an activation that is not odd, a size below 1, or a dropout outside [0, 1).
    """

    symmetry = "invariant"

    def __init__(
        self,
        spec: NetworkSpec,
        out_dim: int | None,
        width: int = 64,
        num_rounds: int = 4,
        num_functions: int = 4,
        sign: bool | None = None,
        head_width: int = 256,
        head_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(width=width, num_rounds=num_rounds, num_functions=num_functions, head_width=head_width)
        check_dropouts(head_dropout=head_dropout)
        odd = spec.activation in ODD
        if sign and not odd:
            raise ValueError(
                f"sign=True needs neurons with {' or '.join(ODD)}, {spec} has {spec.activation}: use None or False"
            )
        self.sign = odd if sign is None else sign
        layers = spec.layers
        signed = [False, *(len(layers) - 1) * [self.sign], False]
        self.omega = nn.Parameter(torch.logspace(0, 1, num_functions, 2)[1:].repeat(2 * len(layers), 1))
        count = 1 + (num_functions - 1) * (1 if self.sign else 2)
        self.inputs = nn.Parameter(torch.randn(layers[0].in_size, width))
        self.outputs = nn.Parameter(torch.randn(layers[-1].out_size, width))
        self.embed = nn.ModuleList(Linear(count, width, bias=not sign) for sign in signed[1:])
        self.rounds = nn.ModuleList(
            Round([count * layer.taps for layer in layers], width, signed) for _ in range(num_rounds)
        )
        self.readout: nn.Module
        if out_dim is None:
            self.symmetry = "hnp"
            self.reads, self.readout = None, EdgeRead(spec, width, signed)
        else:
            self.reads = nn.ModuleList(NodeRead(width, sign) for sign in signed)
            self.readout = NodeHead(len(signed), width, out_dim, head_width, head_dropout)

    def _functions(self, t: Tensor, omega: Tensor) -> Tensor:
        """(..., 1) -> (..., F)."""
        angle = t * omega
        return torch.cat([t, angle.sin()] if self.sign else [t, angle.sin(), angle.cos()], -1)

    def forward(self, features: WeightSpaceFeatures) -> Tensor | WeightSpaceFeatures | NodeStates:
        of_weights, of_biases = self.omega.chunk(2)
        ahead, back = [], []
        for w, omega in zip(features.weights, of_weights, strict=True):
            edges_BRSF = self._functions(w, omega).flatten(-2)
            size = edges_BRSF.shape[-1]
            ahead.append(edges_BRSF.flatten(2) / math.sqrt(size * w.shape[2]))
            back.append(edges_BRSF.transpose(1, 2).flatten(2) / math.sqrt(size * w.shape[1]))
        states = [
            embed(self._functions(b, omega))
            for embed, b, omega in zip(self.embed, features.biases, of_biases, strict=True)
        ]
        states = [self.inputs.expand(len(states[0]), -1, -1), *states[:-1], states[-1] + self.outputs]
        for step in self.rounds:
            states = step(states, ahead, back)
        if self.reads is None:
            return self.readout(states)
        return self.readout(NodeStates(tuple(read(h) for read, h in zip(self.reads, states, strict=True))))
