"""Linear NF-layers (NFN, *Permutation Equivariant Neural Functionals*, Sec. 2.2).

B networks, C channels, R rows, S columns, K kernel positions, F = K * C, L layers, n_i neurons of neuron layer i.
A layer's weight is (B, R, S, K, C); its taps and channels together, (B, R, S, F), are what a linear map mixes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nfbench.layers.product import Linear, linear, linear_backward
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures


class _MapAndBroadcast(torch.autograd.Function):
    """x A^T + rows + columns, with the sums made in place on the matrix product's output.

    Written out because plain autograd pays for such sums with full-size copies, forward or backward.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x_BRSF: Tensor, weight_GF: Tensor, over_rows_BRG: Tensor, over_cols_BSG: Tensor) -> Tensor:
        y_BRSG = linear(x_BRSF, weight_GF)
        y_BRSG += over_rows_BRG.unsqueeze(2)
        y_BRSG += over_cols_BSG.unsqueeze(1)
        return y_BRSG

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x_BRSF, weight_GF = inputs[:2]
        ctx.save_for_backward(x_BRSF.to(output.dtype), weight_GF.to(output.dtype))  # lower precision under autocast

    @staticmethod
    def backward(ctx: Any, grad_BRSG: Tensor) -> tuple[Tensor | None, ...]:
        x_BRSF, weight_GF = ctx.saved_tensors
        need_x, need_weight, need_rows, need_cols = ctx.needs_input_grad
        grad_x, grad_weight = linear_backward(grad_BRSG, x_BRSF, weight_GF, (need_x, need_weight))
        return (
            grad_x,
            grad_weight,
            grad_BRSG.sum(2) if need_rows else None,
            grad_BRSG.sum(1) if need_cols else None,
        )


def map_and_broadcast(x_BRSF: Tensor, weight_GF: Tensor, over_rows_BRG: Tensor, over_cols_BSG: Tensor) -> Tensor:
    """x A^T, plus a vector for each row and one for each column: (B, R, S, G)."""
    return _MapAndBroadcast.apply(x_BRSF, weight_GF, over_rows_BRG, over_cols_BSG)


class NPLinear(nn.Module):
    """The linear layer that is equivariant to permutations of every neuron layer (NFN, Eq. 2, with biases).

    With means over rows and columns, and G the means of all weights and biases,

        out W_i[r, s] = A_i W_i[r, s] + C_i n_i[r] + R_i n_{i-1}[s] + B_i G
        out v_i[r]    = E_i n_i[r] + F_i G
        n_i[j]        = (mean_s W_i[j, s], v_i[j], mean_r W_{i+1}[r, j])

    so all that is indexed by one neuron layer comes from one matrix product over its n_i, and each weight needs one
    product of its own. Parameters number (4 L^2 + 10 L - 4) c_in c_out + 6 L c_out for dense networks, as in the
    authors' layer.

    Args:
        spec: networks that go in.
        in_channels: C of the input.
        out_channels: C of the output.
        io_embed: add learned embeddings of the input index to W_1 and of the output index to W_L and v_L, which leaves
            the symmetry of hidden neurons only (the authors' "NP-PosEmb", used for the CNN zoo).
        init: "fan_in" (the authors' default: uniform within 1/sqrt(fan-in of the whole layer), biases too) or
            "kaiming" (normal with variance 2/fan-in, biases zero; keeps the variance through ReLU).

    Shapes:
        weights (B, R, S, K, in_channels), biases (B, R, in_channels) -> the same with out_channels.

    Raises:
        ValueError: an unknown init.
    """

    def __init__(
        self, spec: NetworkSpec, in_channels: int, out_channels: int, init: str = "fan_in", io_embed: bool = False
    ) -> None:
        super().__init__()
        self.symmetry = "hnp" if io_embed else "np"
        self.spec, self.in_channels, self.out_channels = spec, in_channels, out_channels
        taps = [layer.taps for layer in spec.layers]
        num_layers = spec.num_layers
        f_in = [k * in_channels for k in taps]
        f_out = [k * out_channels for k in taps]

        entry = [Linear(i, o) for i, o in zip(f_in, f_out, strict=True)]  # A_i
        # One map for each neuron layer i = 0..L, outputs [C_i for W_i | E_i for v_i | R_{i+1} for W_{i+1}].
        neuron: list[nn.Linear] = []
        self._neuron_sizes: list[list[int]] = []
        for i in range(num_layers + 1):
            into = [f_in[i - 1], in_channels] if i > 0 else []
            out = [f_out[i - 1], out_channels] if i > 0 else []
            if i < num_layers:
                into.append(f_in[i])
                out.append(f_out[i])
            neuron.append(Linear(sum(into), sum(out)))
            self._neuron_sizes.append(out)
        self._global_sizes = [size for f in f_out for size in (f, out_channels)]  # [B_i | F_i]
        self.pooled = Linear(sum(f_in) + num_layers * in_channels, sum(self._global_sizes))
        self._reset(entry, neuron, init)
        self.entry, self.neuron = nn.ModuleList(entry), nn.ModuleList(neuron)
        self.io_embed = io_embed
        if io_embed:
            first, last = spec.layers[0], spec.layers[-1]
            self.in_embed = nn.Parameter(torch.randn(first.in_size, f_in[0]))
            self.out_embed = nn.Parameter(torch.randn(last.out_size, 1, f_in[-1]))
            self.out_bias_embed = nn.Parameter(torch.randn(last.out_size, in_channels))

    @torch.no_grad()
    def _reset(self, entries: Sequence[nn.Linear], neurons: Sequence[nn.Linear], init: str) -> None:
        """Scales every sub-map by the fan-in of all the sub-maps that are added up in one output."""
        if init not in ("fan_in", "kaiming"):
            raise ValueError(f"init must be 'fan_in' or 'kaiming', got {init!r}")

        def fill(linear: nn.Linear, rows: slice, fan_in: int) -> None:
            if init == "fan_in":
                bound = math.sqrt(1 / fan_in)
                linear.weight[rows].uniform_(-bound, bound)
                linear.bias[rows].uniform_(-bound, bound)
            else:
                linear.weight[rows].normal_(0, math.sqrt(2 / fan_in))
                linear.bias[rows].zero_()

        start, c_out = 0, self.out_channels
        for entry, before, after in zip(entries, neurons[:-1], neurons[1:], strict=True):
            f_out = entry.out_features
            fan_weight = entry.in_features + before.in_features + after.in_features + self.pooled.in_features
            fan_bias = after.in_features + self.pooled.in_features
            fill(entry, slice(None), fan_weight)
            fill(before, slice(before.out_features - f_out, None), fan_weight)
            fill(after, slice(0, f_out), fan_weight)
            fill(after, slice(f_out, f_out + c_out), fan_bias)
            fill(self.pooled, slice(start, start + f_out), fan_weight)
            fill(self.pooled, slice(start + f_out, start + f_out + c_out), fan_bias)
            start += f_out + c_out

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        num_layers = self.spec.num_layers
        w_BRSF, biases_in = [w.flatten(-2) for w in x.weights], list(x.biases)
        if self.io_embed:
            w_BRSF[0] = w_BRSF[0] + self.in_embed
            w_BRSF[-1] = w_BRSF[-1] + self.out_embed
            biases_in[-1] = biases_in[-1] + self.out_bias_embed
        # Sums and a multiplication of the small result: the backward of `mean` would write a full-size tensor.
        row_means_BSF = [w.sum(1) * (1 / w.shape[1]) for w in w_BRSF]
        col_means_BRF = [w.sum(2) * (1 / w.shape[2]) for w in w_BRSF]
        pooled_BG = torch.cat([m.mean(1) for pair in zip(col_means_BRF, biases_in, strict=True) for m in pair], -1)
        pooled = self.pooled(pooled_BG).split(self._global_sizes, -1)

        from_neurons: list[tuple[Tensor, ...]] = []
        for i in range(num_layers + 1):
            parts = [col_means_BRF[i - 1], biases_in[i - 1]] if i > 0 else []
            if i < num_layers:
                parts.append(row_means_BSF[i])
            n_BnF = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
            from_neurons.append(self.neuron[i](n_BnF).split(self._neuron_sizes[i], -1))

        weights, biases = [], []
        for i, layer in enumerate(self.spec.layers):
            over_rows_BRF, bias_BRC = from_neurons[i + 1][0], from_neurons[i + 1][1]
            entry = self.entry[i]
            assert isinstance(entry, nn.Linear)
            over_cols_BSF = from_neurons[i][-1] + (pooled[2 * i] + entry.bias).unsqueeze(1)
            y_BRSF = map_and_broadcast(w_BRSF[i], entry.weight, over_rows_BRF, over_cols_BSF)
            weights.append(y_BRSF.unflatten(-1, (layer.taps, self.out_channels)))
            biases.append(bias_BRC + pooled[2 * i + 1].unsqueeze(1))
        return WeightSpaceFeatures(x.spec, tuple(weights), tuple(biases))

    def extra_repr(self) -> str:
        return f"{self.spec}, {self.in_channels} -> {self.out_channels} channels"


class Pointwise(nn.Module):
    """One linear map for each weight tensor and each bias, no mixing between positions (NFN_PT, Sec. 3).

    Args:
        spec: networks that go in.
        in_channels: C of the input.
        out_channels: C of the output.

    Shapes:
        weights (B, R, S, K, in_channels), biases (B, R, in_channels) -> the same with out_channels. Kernel positions
        of a convolution are mixed with its channels.
    """

    symmetry = "np"

    def __init__(self, spec: NetworkSpec, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.spec, self.in_channels, self.out_channels = spec, in_channels, out_channels
        taps = [layer.taps for layer in spec.layers]
        self.weight_maps = nn.ModuleList(Linear(k * in_channels, k * out_channels) for k in taps)
        self.bias_maps = nn.ModuleList(Linear(in_channels, out_channels) for _ in taps)

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        weights = tuple(
            linear(w.flatten(-2)).unflatten(-1, (layer.taps, self.out_channels))
            for linear, w, layer in zip(self.weight_maps, x.weights, self.spec.layers, strict=True)
        )
        biases = tuple(linear(b) for linear, b in zip(self.bias_maps, x.biases, strict=True))
        return WeightSpaceFeatures(x.spec, weights, biases)

    def extra_repr(self) -> str:
        return f"{self.spec}, {self.in_channels} -> {self.out_channels} channels"
