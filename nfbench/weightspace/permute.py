"""Neuron permutations: the symmetries that every layer of this package respects.

The NP group permutes the neurons of every neuron layer, the HNP group only hidden ones (NFN, Eq. 1 and Sec. 2.1). Only
the HNP group keeps the function that a network computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nfbench.weightspace.features import WeightSpaceFeatures
from nfbench.weightspace.spec import NetworkSpec


@dataclass(frozen=True, eq=False)
class NeuronPermutation:
    """One permutation for each neuron layer and each network of a batch.

    Args:
        indices: n_0, ..., n_L in length, each (B, n_i); new neuron j is old neuron indices[i][:, j].
    """

    indices: tuple[Tensor, ...]

    @classmethod
    def sample(
        cls, spec: NetworkSpec, batch_size: int, generator: torch.Generator | None = None, group: str = "hnp"
    ) -> NeuronPermutation:
        """Uniformly random, drawn anew for each network.

        Args:
            group: "hnp" (hidden neurons) or "np" (inputs and outputs too).

        Raises:
            ValueError: another group.
        """
        if group not in ("hnp", "np"):
            raise ValueError(f"group must be 'hnp' (hidden neurons) or 'np' (all neuron layers), got {group!r}")
        last = spec.num_layers
        device = generator.device if generator is not None else None
        indices = []
        for i, size in enumerate(spec.sizes):
            if group == "hnp" and i in (0, last):
                indices.append(torch.arange(size, device=device).expand(batch_size, size))
            else:
                indices.append(torch.rand(batch_size, size, generator=generator, device=device).argsort(dim=1))
        return cls(tuple(indices))

    def apply(self, features: WeightSpaceFeatures) -> WeightSpaceFeatures:
        """Permutes rows, columns and biases: W'[r, s] = W[p_i(r), p_{i-1}(s)], v'[r] = v[p_i(r)].

        Raises:
            ValueError: permutations for other networks.
        """
        sizes = tuple(p.shape[1] for p in self.indices)
        if sizes != features.spec.sizes:
            raise ValueError(f"the permutations are of {sizes} neurons, but the networks are {features.spec}")
        batch = torch.arange(features.batch_size, device=features.weights[0].device)[:, None]
        idx = [p.to(batch.device) for p in self.indices]
        weights = tuple(
            w[batch[..., None], rows[:, :, None], cols[:, None, :]]
            for w, cols, rows in zip(features.weights, idx[:-1], idx[1:], strict=True)
        )
        biases = tuple(b[batch, rows] for b, rows in zip(features.biases, idx[1:], strict=True))
        return WeightSpaceFeatures(features.spec, weights, biases)

    def compose(self, first: NeuronPermutation) -> NeuronPermutation:
        """The permutation that applies `first` and then this one."""
        return NeuronPermutation(tuple(f.gather(1, p) for f, p in zip(first.indices, self.indices, strict=True)))

    def invert(self) -> NeuronPermutation:
        """The permutation that undoes this one."""
        return NeuronPermutation(tuple(p.argsort(dim=1) for p in self.indices))


def permute_uncoupled(features: WeightSpaceFeatures, generator: torch.Generator) -> WeightSpaceFeatures:
    """Permutes rows and columns of each weight, and each bias, with permutations that do not belong together.

    No symmetry of a network: negative tests use it to show that a layer notices (NFT's "minimal equivariance").
    """
    weights, biases = [], []
    for w, b in zip(features.weights, features.biases, strict=True):
        rows, cols, bias_rows = (torch.randperm(n, generator=generator) for n in (w.shape[1], w.shape[2], b.shape[1]))
        weights.append(w[:, rows][:, :, cols])
        biases.append(b[:, bias_rows])
    return WeightSpaceFeatures(features.spec, tuple(weights), tuple(biases))
