"""Scaled dot-product attention over weight tensors, forward and backward by few copies and plain matrix products.

Rows and columns of weights are few and long tokens: 10 to 70 of 100 to 2,000 numbers. For those, on a CPU, batched
matrix products take a third to three quarters of the time of the flash kernel that `scaled_dot_product_attention`
chooses (it is made for many short tokens; on a GPU it takes tokens of at most 256 numbers), and much of the rest goes
into moving weights into token order and back. `cross_attention` moves each weight once for each of its two roles, in
either direction.

B networks, H heads, D channels of a head, n_i neurons of neuron layer i = 0..L, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_attention(
    qkv_w: Sequence[Tensor], qkv_b: Sequence[Tensor], dropout: float = 0.0
) -> tuple[list[Tensor], list[Tensor]]:
    """Columns of W_i, bias v_i and rows of W_{i+1} attend to each other, for each neuron layer i (NFT, Eqs. 4 and 5).

    It can be differentiated once.

    Args:
        qkv_w: queries, keys and values of the weights, for each layer (B, R, S, 3, H, D).
        qkv_b: of the biases, for each layer (B, R, 3, H, D).
        dropout: of the attention weights.

    Returns:
        For each weight (B, R, S, H * D), what it receives in its row and its column, added; each bias (B, R, H * D).
    """
    out = _CrossAttention.apply(dropout, len(qkv_w), *qkv_w, *qkv_b)
    return list(out[: len(qkv_w)]), list(out[len(qkv_w) :])


def _columns(t: Tensor) -> Tensor:
    """A weight's (B, R, S, ..., H, D) as columns, token by token: (..., B, H, S, R, D)."""
    return t.permute(3, 0, 4, 2, 1, 5) if t.ndim == 6 else t.permute(0, 3, 2, 1, 4)


def _rows(t: Tensor) -> Tensor:
    """A weight's (B, R, S, ..., H, D) as rows, token by token: (..., B, H, R, S, D)."""
    return t.permute(3, 0, 4, 1, 2, 5) if t.ndim == 6 else t.permute(0, 3, 1, 2, 4)


def _bias(t: Tensor) -> Tensor:
    """A bias (B, R, ..., H, D) as one token: (..., B, H, 1, R, D)."""
    return t.permute(2, 0, 3, 1, 4).unsqueeze(-3) if t.ndim == 5 else t.transpose(1, 2).unsqueeze(-3)


def _gather(weights: Sequence[Tensor], biases: Sequence[Tensor], i: int) -> Tensor:
    """The tokens of neuron layer i, (..., B, H, N, n_i, D), contiguous."""
    parts = []
    if i > 0:
        parts += [_columns(weights[i - 1]), _bias(biases[i - 1])]
    if i < len(weights):
        parts.append(_rows(weights[i]))
    shape = list(parts[0].shape)
    shape[-3] = sum(part.shape[-3] for part in parts)
    tokens = parts[0].new_empty(shape)
    for target, part in zip(tokens.split([part.shape[-3] for part in parts], -3), parts, strict=True):
        target.copy_(part)
    return tokens


class _Scatter:
    """Hands the tokens of neuron layers 0, 1, ... back to weights and biases, rows and columns of a weight added up.

    They are added in the order of tokens, in place, and moved once: adding to a weight in its own order is slow.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        self.weights, self.biases = weights, biases
        self.rows: Tensor | None = None  # of the weight whose columns are in the tokens to come

    def add(self, tokens: Tensor, i: int) -> None:
        start = 0
        if i > 0:
            assert self.rows is not None
            start = self.rows.shape[-2]
            self.rows += tokens.narrow(-3, 0, start).transpose(-3, -2)
            _rows(self.weights[i - 1]).copy_(self.rows)
            _bias(self.biases[i - 1]).copy_(tokens.narrow(-3, start, 1))
            start += 1
        if i < len(self.weights):
            self.rows = tokens.narrow(-3, start, tokens.shape[-3] - start)


class _CrossAttention(torch.autograd.Function):
    """Keeps queries, keys and values as they came, and the scores; tokens, which are twice as large, are made again."""

    @staticmethod
    def forward(ctx: Any, dropout: float, num_layers: int, *qkv: Tensor) -> tuple[Tensor, ...]:
        qkv_w, qkv_b = qkv[:num_layers], qkv[num_layers:]
        heads = qkv_b[0].shape[-2:]
        out_w = [w.new_empty(*w.shape[:3], heads.numel()) for w in qkv_w]
        out_b = [b.new_empty(*b.shape[:2], heads.numel()) for b in qkv_b]
        scatter = _Scatter([w.unflatten(-1, heads) for w in out_w], [b.unflatten(-1, heads) for b in out_b])
        saved: list[Tensor] = []
        for i in range(num_layers + 1):
            tokens = _gather(qkv_w, qkv_b, i)  # (3, B, H, N, n_i, D)
            q, k, v = tokens.flatten(-2).flatten(1, 2)  # each (B * H, N, n_i * D)
            scale = q.shape[-1] ** -0.5
            if q.dtype == torch.float16:  # sums of thousands of products can pass its largest number, 65,504
                scores = torch.bmm(q.mul_(scale), k.transpose(1, 2))
            else:
                scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
            scores = scores.softmax(-1).to(tokens.dtype)
            keep = torch.empty_like(scores).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else None
            out = torch.bmm(scores if keep is None else scores * keep, v, out=q)  # q is not needed any more
            scatter.add(out.view(tokens.shape[1:]), i)
            saved += [scores] if keep is None else [scores, keep]
        ctx.save_for_backward(*qkv, *saved)
        ctx.num_layers = num_layers
        return (*out_w, *out_b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        num_layers = ctx.num_layers
        everything = ctx.saved_tensors  # once: checkpointing forbids a second look
        heads = everything[num_layers].shape[-2:]
        grad_w, grad_b = ([g.unflatten(-1, heads) for g in part] for part in (grads[:num_layers], grads[num_layers:]))
        qkv_w, qkv_b = everything[:num_layers], everything[num_layers : 2 * num_layers]
        saved = everything[2 * num_layers :]
        per_layer = len(saved) // (num_layers + 1)
        to_w, to_b = [torch.empty_like(w) for w in qkv_w], [torch.empty_like(b) for b in qkv_b]
        scatter = _Scatter(to_w, to_b)
        for i in range(num_layers + 1):
            scores, *keep = saved[i * per_layer : (i + 1) * per_layer]
            tokens = _gather(qkv_w, qkv_b, i)
            q, k, v = tokens.flatten(-2).flatten(1, 2)  # whose places their gradients take, one after the other
            grad_out = _gather(grad_w, grad_b, i).flatten(-2).flatten(0, 1)  # (B * H, N, n_i * D)
            grad_scores = torch.bmm(grad_out, v.transpose(1, 2))
            used = scores * keep[0] if keep else scores
            torch.bmm(used.transpose(1, 2), grad_out, out=v)
            if keep:
                grad_scores *= keep[0]
            grad_scores -= (grad_scores * scores).sum(-1, keepdim=True)
            grad_scores *= scores * q.shape[-1] ** -0.5
            grad_q = torch.bmm(grad_scores, k, out=grad_out)
            torch.bmm(grad_scores.transpose(1, 2), q, out=k)
            q.copy_(grad_q)
            scatter.add(tokens, i)
        return (None, None, *to_w, *to_b)
