"""What goes in before the first NF-layer: Fourier features of the weights, and embeddings of where a weight sits.

B networks, C channels, R rows, S columns, K kernel positions, L layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nfbench.layers.checks import check_sizes
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures
from nfbench.weightspace.render import full_precision


class GaussianFourierFeatures(nn.Module):
    """sin(2 pi x B) and cos(2 pi x B) of every weight and bias, with a fixed random Gaussian B (the authors' code).

    Args:
        in_channels: C of the input.
        mapping_size: columns of B; the output has twice as many channels.
        scale: standard deviation of B. The papers' nets use 10 (classification) or 3 (editing, Inr2Array).

    Shapes:
        (..., in_channels) -> (..., 2 * mapping_size), for weights and biases alike.
    """

    symmetry = "np"
    frequencies: Tensor

    def __init__(self, in_channels: int, mapping_size: int = 128, scale: float = 3.0) -> None:
        super().__init__()
        check_sizes(mapping_size=mapping_size)
        self.out_channels = 2 * mapping_size
        self.register_buffer("frequencies", scale * torch.randn(in_channels, mapping_size))

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        return x.map(self._encode)

    def _encode(self, t: Tensor) -> Tensor:
        with full_precision(t):  # bfloat16 has no room for angles of many turns
            angle = t @ (2 * math.pi * self.frequencies)
        return torch.cat([angle.sin(), angle.cos()], -1)


def fourier_positions(count: int, max_freq: float, num_bands: int) -> Tensor:
    """Sines, cosines and the value of `count` positions on [-1, 1]: (count, 2 num_bands + 1), in float64."""
    position = torch.linspace(-1, 1, count, dtype=torch.float64)[:, None]
    angle = position * torch.linspace(1, max_freq / 2, num_bands, dtype=torch.float64) * math.pi
    return torch.cat([angle.sin(), angle.cos(), position], -1)


class IOSinusoidalEncoding(nn.Module):
    """Appends a sinusoidal code of the input index to W_1, of the output index to W_L and v_L, zeros elsewhere.

    It tells inputs and outputs apart, so that NP layers need to be equivariant to hidden neurons only (NFN, Sec. 2.2;
    the paper adds the code, the authors' program appends it, as here).

    Args:
        spec: networks that go in.
        max_freq: twice the highest frequency.
        num_bands: number of frequencies; the code has 2 * num_bands + 1 channels.
        enc_layers: also add a code of the layer's index.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> C + 2 * num_bands + 1 channels.
    """

    symmetry = "hnp"

    def __init__(self, spec: NetworkSpec, max_freq: float = 10.0, num_bands: int = 6, enc_layers: bool = False) -> None:
        super().__init__()
        self.spec, self.max_freq, self.num_bands, self.enc_layers = spec, max_freq, num_bands, enc_layers
        self.extra_channels = 2 * num_bands + 1
        self._codes: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}

    def codes(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """What is appended to weight, bias, weight, bias, ...; made once for each dtype and device."""
        if (dtype, device) not in self._codes:
            spec, last = self.spec, self.spec.num_layers - 1
            of_layer, inputs, outputs = (
                fourier_positions(count, self.max_freq, self.num_bands)
                for count in (spec.num_layers, spec.sizes[0], spec.sizes[-1])
            )
            codes = []
            for i, layer in enumerate(spec.layers):
                bias = (of_layer[i] * float(self.enc_layers)).repeat(layer.out_size, 1)  # (R, E)
                weight = bias[:, None, None].repeat(1, layer.in_size, layer.taps, 1)  # (R, S, K, E)
                if i == 0:
                    weight = weight + inputs[None, :, None]
                if i == last:
                    weight, bias = weight + outputs[:, None, None], bias + outputs
                codes += [weight, bias]
            self._codes[dtype, device] = [code.to(device, dtype) for code in codes]
        return self._codes[dtype, device]

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        def append(t: Tensor, code: Tensor) -> Tensor:
            return torch.cat([t, code.expand(*t.shape[:-1], -1)], -1)

        codes = self.codes(x.weights[0].dtype, x.weights[0].device)
        weights = tuple(map(append, x.weights, codes[::2]))
        biases = tuple(map(append, x.biases, codes[1::2]))
        return WeightSpaceFeatures(x.spec, weights, biases)


class LearnedPosEmbedding(nn.Module):
    """Adds learned embeddings of the layer (weights and biases apart), of the input index and of the output index.

    Args:
        spec: networks that go in.
        channels: C.

    Shapes:
        weights (B, R, S, K, C), biases (B, R, C) -> the same. Equivariant to hidden-neuron permutations.
    """

    symmetry = "hnp"

    def __init__(self, spec: NetworkSpec, channels: int) -> None:
        super().__init__()
        num_layers = spec.num_layers
        self.weight_embedding = nn.Parameter(torch.randn(num_layers, channels))
        self.bias_embedding = nn.Parameter(torch.randn(num_layers, channels))
        self.input_embedding = nn.Parameter(torch.randn(spec.sizes[0], channels))
        self.output_embedding = nn.Parameter(torch.randn(spec.sizes[-1], channels))

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        last = x.spec.num_layers - 1
        weights, biases = [], []
        for i, (w_BRSKC, bias_BRC) in enumerate(zip(x.weights, x.biases, strict=True)):
            code, bias_code = self.weight_embedding[i], self.bias_embedding[i]
            if i == 0:
                code = code + self.input_embedding[:, None]  # (S, 1, C)
            if i == last:
                code = code + self.output_embedding[:, None, None]  # (R, 1, 1, C)
                bias_code = bias_code + self.output_embedding
            weights.append(w_BRSKC + code)
            biases.append(bias_BRC + bias_code)
        return WeightSpaceFeatures(x.spec, tuple(weights), tuple(biases))
