"""Sparsity masks of networks: which weights are kept, always of exactly the sparsity that is asked for.

N networks, T weights and biases of one network. A mask is a bool tensor (N, T), true where a weight is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nfbench.weightspace.spec import NetworkSpec

SCOPES = ("global", "layer")
WITHIN = ("tensor", "input")


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

    def keep_expected(self, spec: NetworkSpec, logits: Tensor, within: str = "tensor") -> Tensor:
        """Masks (N, T) as dense everywhere as the logits (N, T) of being kept expect, `num_kept` of each network.

        A part's share of what is kept is its share of the sum of all probabilities; its largest logits fill it.

        Args:
            spec: of the networks.
            logits: of being kept.
            within: the parts: "tensor": weights and biases; "input": of weights, those of each input neuron or channel.

        Raises:
            ValueError: logits that are NaN, or of another number of entries; unknown parts.
        """
        check_scores(spec, logits)
        if within not in WITHIN:
            raise ValueError(f"within={within!r} is not known. Choose one of: {', '.join(WITHIN)}.")
        shapes = dict(zip(((w.start, w.stop) for w in spec.scalar_slices()), spec.parameter_shapes(), strict=True))

        def in_parts(where: slice) -> Tensor:  # (N, parts, entries)
            shape = shapes[where.start, where.stop]
            if within == "tensor" or len(shape) == 1:
                return logits[:, None, where]
            return logits[:, where].unflatten(1, shape).transpose(1, 2).flatten(2)

        mask = torch.ones_like(logits, dtype=torch.bool)
        for group in self.groups(spec):
            parts = [in_parts(where) for where in group]
            sizes = torch.cat([torch.full((part.shape[1],), part.shape[2]) for part in parts])
            expected = torch.cat([part.double().sigmoid().sum(2) for part in parts], 1).cpu()
            counts = apportion(self.kept(int(sizes.sum())), expected, sizes).to(logits.device)
            for where, part, count in zip(group, parts, counts.split([p.shape[1] for p in parts], 1), strict=True):
                kept = largest(part, count)
                if part.shape[1] > 1:
                    rows, _, *taps = shapes[where.start, where.stop]
                    kept = kept.unflatten(2, (rows, *taps)).transpose(1, 2)
                mask[:, where] = kept.flatten(1)
        return mask


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
    while (counts > sizes).any():  # each round fills a part or is the last
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
    kept = [largest(scores[:, None, w], counts[:, i, None]).flatten(1) for i, w in enumerate(spec.scalar_slices())]
    return torch.cat(kept, 1)


def largest(scores: Tensor, counts: Tensor) -> Tensor:
    """Bool (N, J, n): true for the largest of scores (N, J, n), so many in each part as counts (N, J) say."""
    return scores.argsort(2, descending=True).argsort(2) < counts[..., None]


def densities(spec: NetworkSpec, mask: Tensor) -> Tensor:
    """The share of each layer's weights, without biases, that is kept: (N, L) float32."""
    return torch.stack([mask[:, where].float().mean(1) for where in spec.scalar_slices()[::2]], 1)
