"""The linear layer for the true symmetry of networks: only hidden neurons are permuted (NFN, Sec. 2.2 and App. C.1).

B networks, C channels, R rows, S columns, K kernel positions, F = K * C, L layers, n_i neurons of neuron layer i.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nfbench.layers.linear import map_and_broadcast
from nfbench.layers.product import Linear
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures


class HNPLinear(nn.Module):
    """Linear layer that is equivariant to permutations of hidden neurons, inputs and outputs told apart (NFN_HNP).

    Each input of W_1 and each output of W_L and v_L is a channel of its own. With n_i[j] all that belongs to hidden
    neuron j of layer i (means over the neighbouring hidden layers; whole rows of W_1, whole columns of W_L) and G the
    means and unpermuted entries of everything,

        out (W_1[j, :], v_1[j]) = own_1 n_1[j] + G      out W_L[:, k] = next_{L-1} n_{L-1}[k] + G
        out W_i[r, s] = A_i W_i[r, s] + own_i n_i[r] + next_{i-1} n_{i-1}[s] + G      out v_i[r] = own_i n_i[r] + G
        out v_L = G

    Args:
        spec: networks that go in, of at least two layers.
        in_channels: C of the input.
        out_channels: C of the output.
        full_span: False is the authors' layer, to the parameter: W_L does not see v_{L-1}, W_1 does not see the mean
            of its own rows (it has the rows), and the maps into W_1 and v_L are scaled by their own fan-in. True lets
            every map see all of its neuron's features, which spans all linear equivariant maps, and scales all of them
            by the fan-in of the whole layer.

    Shapes:
        weights (B, R, S, K, in_channels), biases (B, R, in_channels) -> the same with out_channels.

    Raises:
        ValueError: a network of one layer.
    """

    symmetry = "hnp"

    def __init__(self, spec: NetworkSpec, in_channels: int, out_channels: int, full_span: bool = False) -> None:
        super().__init__()
        if spec.num_layers < 2:
            raise ValueError(
                f"HNPLinear needs at least one hidden neuron layer, got {spec}; use NPLinear or Pointwise (in models: "
                "layer='np' or 'pt')"
            )
        self.spec, self.in_channels, self.out_channels = spec, in_channels, out_channels
        self.full_span = full_span
        num_layers, n_in, n_out = spec.num_layers, spec.sizes[0], spec.sizes[-1]
        f_in = [layer.taps * in_channels for layer in spec.layers]
        f_out = [layer.taps * out_channels for layer in spec.layers]
        # What one column or row that is broadcast has to fill: a whole row of W_1, a whole column of W_L.
        fill = [n_in * f_out[0], *f_out[1:-1], n_out * f_out[-1]]

        own: list[nn.Linear] = []
        following: list[nn.Linear] = []
        entry: list[nn.Linear] = []
        for i in range(1, num_layers):
            sizes = self._feature_sizes(i, f_in)
            whole = sum(sizes.values())
            own_in = whole - (0 if full_span or i > 1 else sizes["col_mean"])
            next_in = whole - (0 if full_span or i < num_layers - 1 else sizes["row_mean"] + sizes["bias"])
            own.append(Linear(own_in, fill[i - 1] + out_channels))
            following.append(Linear(next_in, fill[i]))
            if i > 1:
                entry.append(Linear(f_in[i - 1], f_out[i - 1]))
        self._global_sizes = [size for f in fill[:-1] for size in (f, out_channels)]
        self._global_sizes += [fill[-1], n_out * out_channels]
        pooled_in = n_in * f_in[0] + n_out * (f_in[-1] + in_channels) + sum(f_in) + num_layers * in_channels
        self.pooled = Linear(pooled_in, sum(self._global_sizes))
        self._reset(own, following, entry)
        self.own, self.following, self.entry = nn.ModuleList(own), nn.ModuleList(following), nn.ModuleList(entry)

    def _feature_sizes(self, i: int, f_in: list[int]) -> dict[str, int]:
        """Sizes of the parts of n_i, in their order; a part that a map does not see is at either end."""
        last = self.spec.num_layers - 1
        sizes = {"row_mean": f_in[i], "bias": self.in_channels}
        if i == 1:
            sizes["rows"] = self.spec.sizes[0] * f_in[0]
        if i == last == 1:
            sizes["columns"] = self.spec.sizes[-1] * f_in[-1]
        sizes["col_mean"] = f_in[i - 1]
        if i == last > 1:
            sizes["columns"] = self.spec.sizes[-1] * f_in[-1]
        return sizes

    @torch.no_grad()
    def _reset(self, own: list[nn.Linear], following: list[nn.Linear], entry: list[nn.Linear]) -> None:
        pooled, c_out, last = self.pooled, self.out_channels, self.spec.num_layers - 1

        def fill(fan_in: int, *parts: tuple[nn.Linear, slice]) -> None:
            bound = math.sqrt(1 / fan_in)
            for linear, rows in parts:
                linear.weight[rows].uniform_(-bound, bound)
                linear.bias[rows].uniform_(-bound, bound)

        start = 0
        for i, (size, bias_size) in enumerate(zip(self._global_sizes[::2], self._global_sizes[1::2], strict=True)):
            to_weight, to_bias = slice(start, start + size), slice(start + size, start + size + bias_size)
            start += size + bias_size
            maps = [] if i == 0 else [(following[i - 1], slice(None))]
            if i < last:
                maps.append((own[i], slice(0, size)))
                fill(
                    own[i].in_features + pooled.in_features,
                    (own[i], slice(size, size + c_out)),
                    (pooled, to_bias),
                )
            else:
                fill(pooled.in_features, (pooled, to_bias))
            if 0 < i < last:
                maps.append((entry[i - 1], slice(None)))
            if i == 0 and not self.full_span:  # the authors leave these two maps at their own fan-in
                fill(own[0].in_features, *maps)
                fill(pooled.in_features, (pooled, to_weight))
            else:
                fan_in = pooled.in_features + sum(linear.in_features for linear, _ in maps)
                fill(fan_in, (pooled, to_weight), *maps)

    def forward(self, x: WeightSpaceFeatures) -> WeightSpaceFeatures:
        num_layers, c_out = self.spec.num_layers, self.out_channels
        w_BRSF = [w.flatten(-2) for w in x.weights]
        row_means_BSF = [w.sum(1) * (1 / w.shape[1]) for w in w_BRSF]
        col_means_BRF = [w.sum(2) * (1 / w.shape[2]) for w in w_BRSF]
        pooled_BG = [m.mean(1) for pair in zip(col_means_BRF, x.biases, strict=True) for m in pair]
        pooled_BG += [row_means_BSF[0].flatten(1), col_means_BRF[-1].flatten(1), x.biases[-1].flatten(1)]
        pooled = self.pooled(torch.cat(pooled_BG, -1)).split(self._global_sizes, -1)

        own: list[tuple[Tensor, Tensor]] = []  # for hidden neuron layer i: to rows of W_i, to v_i
        following: list[Tensor] = []  # to columns of W_{i+1}
        for i in range(1, num_layers):
            parts = [row_means_BSF[i], x.biases[i - 1], col_means_BRF[i - 1]]
            columns = w_BRSF[-1].transpose(1, 2).flatten(2) if i == num_layers - 1 else None
            if i == 1:
                parts.insert(2, w_BRSF[0].flatten(2))
            if columns is not None:
                parts.insert(3 if num_layers == 2 else len(parts), columns)
            n_BnF = torch.cat(parts, -1)
            to_own, to_next = self.own[i - 1], self.following[i - 1]
            assert isinstance(to_own, nn.Linear)
            assert isinstance(to_next, nn.Linear)
            own_BnF = to_own(n_BnF[..., : to_own.in_features])
            own.append((own_BnF[..., :-c_out], own_BnF[..., -c_out:]))
            following.append(to_next(n_BnF[..., -to_next.in_features :]))

        weights, biases = [], []
        for i, layer in enumerate(self.spec.layers):
            size = (layer.in_size, layer.taps, c_out)
            to_weight, to_bias = pooled[2 * i].unsqueeze(1), pooled[2 * i + 1]
            if i == 0:
                weights.append((own[0][0] + to_weight).unflatten(-1, size))
            elif i == num_layers - 1:
                last_BSRKC = (following[-1] + to_weight).unflatten(-1, (layer.out_size, layer.taps, c_out))
                weights.append(last_BSRKC.transpose(1, 2))
            else:
                entry = self.entry[i - 1]
                assert isinstance(entry, nn.Linear)
                over_cols_BSF = following[i - 1] + to_weight + entry.bias
                y_BRSF = map_and_broadcast(w_BRSF[i], entry.weight, own[i][0], over_cols_BSF)
                weights.append(y_BRSF.unflatten(-1, (layer.taps, c_out)))
            bias = to_bias.unflatten(-1, (-1, c_out)) if i == num_layers - 1 else own[i][1] + to_bias.unsqueeze(1)
            biases.append(bias)
        return WeightSpaceFeatures(x.spec, tuple(weights), tuple(biases))

    def extra_repr(self) -> str:
        return f"{self.spec}, {self.in_channels} -> {self.out_channels} channels, full_span={self.full_span}"
