"""Sparsity masks of networks: which weights are kept, always of exactly the sparsity that is asked for.

N networks, T weights and biases of one network. A mask is a bool tensor (N, T), true where a weight is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nfbench.weightspace.spec import NetworkSpec

SCOPES = ("global", "layer")


@dataclass(frozen=True)
class Pruning:
    """How many weights are kept, and among which they compete.

    Args:
        sparsity: share of the prunable entries that is removed, from 0 to below 1.
        scope: "global": all prunable entries compete; "layer": those of each tensor, each of which keeps its share.
        biases: whether biases are pruned too; else all of them are kept and do not count.

    Raises:
        ValueError: an unknown scope, or a sparsity that is no share.
    """

    sparsity: float = 0.95
    scope: str = "global"
    biases: bool = False

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise ValueError(f"scope={self.scope!r} is not known. Choose one of: {', '.join(SCOPES)}.")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity={self.sparsity} must be from 0 to below 1: 0.95 keeps every twentieth weight.")

    def groups(self, spec: NetworkSpec) -> list[list[slice]]:
        """The parts of the flat vector of T numbers that compete with each other."""
        slices = spec.scalar_slices()
        prunable = slices if self.biases else slices[::2]
        return [prunable] if self.scope == "global" else [[where] for where in prunable]

    def prunable(self, spec: NetworkSpec) -> Tensor:
        """(T,) bool: the entries that may be removed."""
        mask = torch.zeros(spec.num_params, dtype=torch.bool)
        for group in self.groups(spec):
            for where in group:
                mask[where] = True
        return mask

    def kept(self, size: int) -> int:
        """How many of so many competing entries are kept: their share to the nearest number, and at least one."""
        return max(1, round((1 - self.sparsity) * size))

    def num_kept(self, spec: NetworkSpec) -> int:
        """How many prunable entries of a network are kept."""
        return sum(self.kept(sum(w.stop - w.start for w in group)) for group in self.groups(spec))

    def keep_largest(self, spec: NetworkSpec, scores: Tensor) -> Tensor:
        """Masks (N, T) of the entries with the largest scores (N, T), `num_kept` of each network.

        Raises:
            ValueError: scores that are NaN, or of another number of entries.
        """
        check_scores(spec, scores)
        mask = torch.ones_like(scores, dtype=torch.bool)
        for group in self.groups(spec):
            part = torch.cat([scores[:, where] for where in group], 1)
            chosen = part.topk(self.kept(part.shape[1]), dim=1).indices
            kept = torch.zeros_like(part, dtype=torch.bool).scatter_(1, chosen, True)
            for where, piece in zip(group, kept.split([w.stop - w.start for w in group], 1), strict=True):
                mask[:, where] = piece
        return mask

    def keep_expected(self, spec: NetworkSpec, logits: Tensor) -> Tensor:
        """Masks (N, T) as dense in each tensor as the logits (N, T) of being kept expect, `num_kept` of each network.

        A tensor's share of what is kept is its share of the sum of all probabilities; its largest logits fill it.

        Raises:
            ValueError: logits that are NaN, or of another number of entries.
        """
        check_scores(spec, logits)
        tensors, counts = spec.scalar_slices(), torch.empty(len(logits), 2 * spec.num_layers, dtype=torch.long)
        for i, where in enumerate(tensors):
            counts[:, i] = where.stop - where.start
        for group in self.groups(spec):
            sizes = torch.tensor([w.stop - w.start for w in group])
            expected = torch.stack([logits[:, w].double().sigmoid().sum(1).cpu() for w in group], 1)
            counts[:, [tensors.index(w) for w in group]] = apportion(self.kept(int(sizes.sum())), expected, sizes)
        return largest_within_tensors(spec, logits, counts.to(logits.device))


def check_scores(spec: NetworkSpec, scores: Tensor) -> None:
    """Raises ValueError for scores that are not (N, T), or that have no order."""
    if scores.shape[1:] != (spec.num_params,):
        raise ValueError(f"{spec} has {spec.num_params} entries to score, got scores {tuple(scores.shape)}")
    if scores.isnan().any():
        raise ValueError("some scores are NaN, so there is no order among the weights: the model has diverged")


def apportion(total: int, shares: Tensor, sizes: Tensor) -> Tensor:
    """Numbers (N, J) that add up to ``total``: in proportion to shares (N, J) > 0, but none above its size (J,).

    What does not fit in one part goes to the others in their proportion; fractions are rounded by largest remainder.
    """
    shares = shares.double().clamp(min=1e-12)
    counts = total * shares / shares.sum(1, keepdim=True)
    for _ in range(len(sizes)):  # each round fills a part or is the last
        counts = torch.minimum(counts, sizes)
        open_shares = shares * (counts < sizes)
        rest = (total - counts.sum(1, keepdim=True)).clamp(min=0)
        counts = counts + rest * open_shares / open_shares.sum(1, keepdim=True).clamp(min=1e-12)
    whole = torch.minimum(counts, sizes).floor()
    order = (counts - whole).argsort(dim=1, descending=True, stable=True).argsort(1)
    return (whole + (order < total - whole.sum(1, keepdim=True))).long()


def tensor_counts(spec: NetworkSpec, mask: Tensor) -> Tensor:
    """How many entries of each weight and bias are kept: (N, 2 L)."""
    return torch.stack([mask[:, where].sum(1) for where in spec.scalar_slices()], 1)


def largest_within_tensors(spec: NetworkSpec, scores: Tensor, counts: Tensor) -> Tensor:
    """Masks (N, T) that keep so many entries, (N, 2 L), of each weight and bias: those of the largest scores (N, T)."""
    ranks = [scores[:, where].argsort(1, descending=True).argsort(1) for where in spec.scalar_slices()]
    return torch.cat([rank < counts[:, i, None] for i, rank in enumerate(ranks)], 1)


def densities(spec: NetworkSpec, mask: Tensor) -> Tensor:
    """The share of each layer's weights, without biases, that is kept: (N, L) float32."""
    return torch.stack([mask[:, where].float().mean(1) for where in spec.scalar_slices()[::2]], 1)
