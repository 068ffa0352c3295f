"""The largest eigenvalue of the Hessian of the loss, of many networks at once: Lanczos with exact Hessian products.

B networks, T their weights, k steps of Lanczos.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nfbench.measures.forward import Losses

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TopEigenvalue:
    """Largest (algebraic) eigenvalues of B symmetric matrices.

    Attributes:
        value: (B,); NaN where a product was not finite.
        residual: (B,) |H v - value v| for the unit Ritz vector v: an eigenvalue is within this distance.
        converged: (B,) bool, whether the tolerance was met within the allowed steps.
        steps: matrix products that were done, for all networks together.
    """

    value: Tensor
    residual: Tensor
    converged: Tensor
    steps: int


def hessian_product(losses: Losses, params_BT: Tensor) -> Product:
    """v (B, T) -> H v (B, T), each network's Hessian times its own vector.

    Exact: the derivative of the gradient along v (Pearlmutter, *Fast Exact Multiplication by the Hessian*, 1994). Each
    loss depends on its own weights alone, so that the Hessian of their sum has a block for each network. The graph of
    the gradient is made once and kept, which took half the time of forward mode over reverse mode.
    """
    params = params_BT.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(losses(params).sum(), params, create_graph=True)
    return lambda v_BT: torch.autograd.grad(gradient, params, v_BT, retain_graph=True)[0]


def difference_product(gradient: Callable[[Tensor], Tensor], params_BT: Tensor, step: float = 1e-5) -> Product:
    """H v by central differences of the gradient, for models that cannot be differentiated twice; off by O(step^2).

    Args:
        gradient: (B, T) -> (B, T).
        params_BT: where the Hessian is taken; float64, or the differences are lost in rounding.
        step: how far to go along v, which has length 1 in Lanczos.
    """
    return lambda v_BT: (gradient(params_BT + step * v_BT) - gradient(params_BT - step * v_BT)) / (2 * step)


@torch.no_grad()
def top_eigenvalue(
    product: Product, like: Tensor, *, tolerance: float = 1e-3, max_steps: int = 100, seed: int = 0
) -> TopEigenvalue:
    """The largest eigenvalue of each of B symmetric matrices, known by their products with vectors.

    Lanczos with full reorthogonalisation. All start from the same random vector and none sees the others, so that a
    network's value does not depend on its batch. A network is done when the residual of its Ritz pair is below
    `tolerance` times its value; the value itself is then off by about the residual's square.

    Args:
        product: (B, T) -> (B, T).
        like: (B, T), for shape, dtype and device.
        tolerance: relative; float32 reaches about 1e-5.
        max_steps: at most so many products; T of them are always enough.
        seed: of the start vector.

    Raises:
        ValueError: a tolerance or a number of steps that is not positive.
    """
    if tolerance <= 0 or max_steps < 1:
        raise ValueError(f"tolerance={tolerance} and max_steps={max_steps} must be positive")
    batch, dim = like.shape
    max_steps = min(max_steps, dim)
    start = torch.randn(dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(like)
    v_BT = (start / start.norm()).expand(batch, dim)
    basis_BkT = like.new_zeros(batch, max_steps, dim)
    inner_Bkk = like.new_zeros(batch, max_steps, max_steps)  # H in the basis: tridiagonal
    value, residual = like.new_zeros(batch), like.new_full((batch,), torch.inf)
    done = torch.zeros(batch, dtype=torch.bool, device=like.device)
    converged, broken = done.clone(), done.clone()
    tiny = torch.finfo(like.dtype).eps
    steps = 0
    while steps < max_steps and not done.all():
        basis_BkT[:, steps] = v_BT
        w_BT = product(v_BT)
        broken |= ~w_BT.isfinite().all(1)
        w_BT = w_BT.masked_fill(broken.unsqueeze(1), 0.0)
        inner_Bkk[:, steps, steps] = (w_BT * v_BT).sum(1)
        size = w_BT.norm(dim=1)
        for _ in range(2):  # twice is enough, even where w is nearly within the basis
            known = basis_BkT[:, : steps + 1]
            w_BT = w_BT - ((known @ w_BT.unsqueeze(2)).mT @ known).squeeze(1)
        beta = w_BT.norm(dim=1)
        steps += 1
        values, vectors = torch.linalg.eigh(inner_Bkk[:, :steps, :steps])
        left = beta * vectors[:, -1, -1].abs()
        value, residual = torch.where(done, value, values[:, -1]), torch.where(done, residual, left)
        exhausted = beta <= 10 * tiny * torch.maximum(size, values.abs().amax(1))  # the basis holds all
        converged |= ~done & ~broken & ((left <= tolerance * value.abs()) | exhausted)
        done = converged | broken
        v_BT = w_BT / beta.clamp_min(torch.finfo(like.dtype).tiny).unsqueeze(1)
        if steps < max_steps:
            inner_Bkk[:, steps, steps - 1] = inner_Bkk[:, steps - 1, steps] = beta
    return TopEigenvalue(value.masked_fill(broken, torch.nan), residual, converged, steps)
