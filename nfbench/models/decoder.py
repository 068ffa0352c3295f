"""The hypernetwork that turns latent vectors into the weights of SIRENs (Inr2Array's decoder)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures
from nfbench.weightspace.render import check_inr, full_precision

KINDS = ("sitzmann", "simple")


class SirenDecoder(nn.Module):
    """MLPs from one latent vector to all weights and biases of one SIREN; every vector goes through the same ones.

    Parameters at the authors' sizes, for an MLP of two hidden layers 256 (131,584) and a last Linear (257 a number):
    "sitzmann" 6 * 131,584 + 257 * 1,185 = 1,094,049 for MNIST's 2-32-32-1, 1,111,011 for CIFAR's 2-32-32-3 (1,251
    numbers); "simple" 131,584 + 257 * 1,251 = 453,091 for CIFAR. `additive` brings one parameter for each number and
    one for each tensor: 1,257 for CIFAR, which 453,091 does not count (the authors keep them beside the hypernetwork).

    Args:
        spec: the SIRENs that come out.
        latent_dim: C.
        kind: "sitzmann", an MLP for each weight and each bias, which start near random biases of their last layers
            (Sitzmann et al. 2020); or "simple", one MLP for all.
        width: hidden width.
        num_hidden: hidden layers of each MLP.
        additive: add the output, times a learned scale for each tensor, to a learned SIREN. It starts as a fresh SIREN,
            the scales as the standard deviations of its tensors (the absolute value, of a tensor of one number). The
            authors' choice for CIFAR, with "simple".
        w0_hidden: frequency that the learned SIREN is to be rendered with, for its start.

    Shapes:
        (B, M, C) -> the weights of B * M networks (B * M, R, S, 1, 1) and biases (B * M, R, 1), the M of an item one
        after the other.

    Raises:
        ValueError: an unknown kind, or networks that are no dense sine networks.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        latent_dim: int = 256,
        kind: str = "sitzmann",
        width: int = 256,
        num_hidden: int = 2,
        additive: bool = False,
        w0_hidden: float = 30.0,
    ) -> None:
        super().__init__()
        check_inr(spec)
        if kind not in KINDS:
            raise ValueError(f"kind of decoder must be one of {', '.join(KINDS)}, got {kind!r}")
        self.spec, self.additive = spec, additive
        self.sizes = [where.stop - where.start for where in spec.scalar_slices()]
        outputs = self.sizes if kind == "sitzmann" else [spec.num_params]
        self.maps = nn.ModuleList(_mlp(latent_dim, width, num_hidden, size) for size in outputs)
        if kind == "sitzmann":
            self._reset()
        if additive:
            base = _fresh_siren(spec, w0_hidden)
            self.base = nn.Parameter(torch.cat(base))
            self.scales = nn.Parameter(torch.stack([t.std() if len(t) > 1 else t.abs().mean() for t in base]))

    @torch.no_grad()
    def _reset(self) -> None:
        """The last layers give nearly constant numbers: uniform within 1 / fan-in of the SIREN's layer, or for its
        biases of the MLP's (as in the authors' code)."""
        for i, net in enumerate(self.maps):
            assert isinstance(net, nn.Sequential)
            last = net[-1]
            assert isinstance(last, nn.Linear)
            nn.init.kaiming_normal_(last.weight, nonlinearity="relu")
            last.weight /= 100
            fan_in = last.in_features if i % 2 else self.spec.layers[i // 2].in_size
            last.bias.uniform_(-1 / fan_in, 1 / fan_in)

    def forward(self, latents: Tensor) -> WeightSpaceFeatures:
        z_NC = latents.flatten(0, 1).to(next(self.maps.parameters()).dtype)
        with full_precision(z_NC):  # weights of SIRENs are phases of many turns
            flat_NT = torch.cat([net(z_NC) for net in self.maps], -1)
        if self.additive:
            scales_T = torch.cat([s.expand(size) for s, size in zip(self.scales, self.sizes, strict=True)])
            flat_NT = torch.addcmul(self.base, flat_NT, scales_T)
        return WeightSpaceFeatures.from_flat(self.spec, flat_NT)

    def extra_repr(self) -> str:
        return f"{self.spec}, additive={self.additive}"


def _mlp(in_features: int, width: int, num_hidden: int, out_features: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_hidden):
        layers += [nn.Linear(in_features, width), nn.ReLU()]
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))


def _fresh_siren(spec: NetworkSpec, w0_hidden: float) -> list[Tensor]:
    """Weight, bias, weight, ... of one SIREN, flat: first weight U(+-1/in), others U(+-sqrt(6/in)/w0_hidden), biases
    U(+-1/sqrt(in)) (Sitzmann et al. 2020)."""
    tensors = []
    for i, layer in enumerate(spec.layers):
        bound = math.sqrt(6 / layer.in_size) / w0_hidden if i else 1 / layer.in_size
        tensors += [
            torch.empty(layer.num_weights).uniform_(-bound, bound),
            torch.empty(layer.out_size).uniform_(-(layer.in_size**-0.5), layer.in_size**-0.5),
        ]
    return tensors
