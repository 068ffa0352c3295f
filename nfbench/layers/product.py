"""Matrix products by the faster of the two libraries in PyTorch's CPU builds.

`torch.mm` calls MKL, which leaves half of an AMD processor's speed unused; oneDNN, behind `conv2d`, does not. A 1x1
convolution of channels-last pixels is the same product without a copy. On an EPYC with AVX-512 it is 2 to 2.4 times
as fast for a million multiply-adds and more; on a GPU and in other precisions `linear` is what it is elsewhere.

PyTorch hands a convolution to oneDNN on several threads, or from 16 pictures on: rows are cut into pictures, so that a
run on one thread is as fast, and threads share the gradient of the weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_WORK = 2**22  # multiply-adds from which the convolution's higher cost of a call pays off
LEAST_ROWS = 128  # and rows of x: with fewer PyTorch does not hand the convolution to oneDNN
PICTURES = range(64, 15, -1)  # so many pictures, the first that divides the rows; else one


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, with at least one leading axis.

    Args:
        x: (..., S).
        weight: (R, S).
        bias: (R,) or None.

    Returns:
        (..., R).
    """
    if not convolution_is_faster(x, weight):
        return F.linear(x, weight, bias)
    y = F.conv2d(as_pixels(x), weight[..., None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def convolution_is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether x weight^T is better computed as a convolution: large, float32 and on a CPU with oneDNN."""
    if torch.compiler.is_compiling():  # which chooses by itself, and does not like a choice by size
        return False
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= LEAST_WORK
        and x.numel() >= LEAST_ROWS * x.shape[-1]
        and torch.backends.mkldnn.is_available()
    )


def as_pixels(x: Tensor) -> Tensor:
    """(..., S) as N pictures of S channels and one row, leading axes as columns: (N, S, 1, M / N), channels last."""
    rows = x.numel() // x.shape[-1]
    pictures = next((n for n in PICTURES if rows % n == 0), 1)
    return x.reshape(pictures, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)


def linear_backward(grad: Tensor, x: Tensor, weight: Tensor, need: tuple[bool, bool]) -> tuple[Tensor | None, ...]:
    """Gradients of x and weight in x weight^T, for functions with a backward of their own."""
    if not convolution_is_faster(x, weight):
        grad_x = torch.matmul(grad, weight) if need[0] else None
        return grad_x, torch.matmul(grad.flatten(0, -2).t(), x.flatten(0, -2)) if need[1] else None
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        as_pixels(grad), as_pixels(x), weight[..., None, None], None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1,
        (*need, False),
    )  # fmt: skip
    if need[0]:
        grad_x = grad_x.permute(0, 2, 3, 1).reshape(x.shape)
    return grad_x if need[0] else None, grad_weight[..., 0, 0] if need[1] else None


class Linear(nn.Linear):
    """`torch.nn.Linear` by `linear`: (..., in_features) -> (..., out_features)."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
