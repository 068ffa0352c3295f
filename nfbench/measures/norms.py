"""Norms of weights and of input-output Jacobians, and margins.

B networks, T weights of a network; n images; N outputs (classes).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nfbench.measures.forward import STRIDE, logits
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures

IMAGES = 64  # whose Jacobians are held at once


class JacobianNorms(NamedTuple):
    """Norms (...) of the Jacobians of outputs by inputs, in units of the output by units of the input."""

    frobenius: Tensor
    spectral: Tensor


def jacobian_norms(outputs: Tensor, inputs: Tensor) -> JacobianNorms:
    """Norms of the N x D Jacobian of each item, exact: N backward passes, then the N x N matrix J J^T.

    The spectral norm, the largest singular value, is MacDonald et al.'s (arXiv 2305.14683): what a model's Lipschitz
    constant is the supremum of. The Frobenius norm is Novak et al.'s (arXiv 1802.08760).

    Args:
        outputs: (..., N), computed from `inputs` item by item.
        inputs: (..., *shape), requires grad.

    Returns:
        Norms (...); NaN where a Jacobian is not finite.
    """
    lead = outputs.ndim - 1
    rows = [torch.autograd.grad(z.sum(), inputs, retain_graph=True)[0].flatten(lead) for z in outputs.unbind(-1)]
    jacobian = torch.stack(rows, lead)  # (..., N, D)
    gram = jacobian @ jacobian.mT
    bad = ~gram.isfinite().all(-1).all(-1)
    gram = gram.masked_fill(bad[..., None, None], 0.0)
    frobenius = gram.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt()
    spectral = torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0).sqrt()
    return JacobianNorms(frobenius.masked_fill(bad, torch.nan), spectral.masked_fill(bad, torch.nan))


def classifier_jacobian_norms(
    spec: NetworkSpec, params_BT: Tensor, pixels: Tensor, stride: int = STRIDE
) -> JacobianNorms:
    """Norms (B, n) of the Jacobians of the logits by the pixels, for images (n, H, W, S)."""
    parts = []
    for part in pixels.split(IMAGES):
        inputs = part.expand(len(params_BT), *part.shape).clone().requires_grad_()
        parts.append(jacobian_norms(logits(spec, params_BT.detach(), inputs, stride), inputs))
    return JacobianNorms(*(torch.cat(each, 1) for each in zip(*parts, strict=True)))


def margins(logits_BnN: Tensor, labels: Tensor) -> Tensor:
    """The logit of the right class less the largest other one: (B, n), negative where an image is misclassified."""
    right = labels.expand(logits_BnN.shape[:2]).unsqueeze(2)
    others = logits_BnN.scatter(2, right, -torch.inf)
    return (logits_BnN.gather(2, right) - others.amax(2, keepdim=True)).squeeze(2)


def weight_norms(spec: NetworkSpec, params_BT: Tensor) -> dict[str, Tensor]:
    """Norms of weights alone, each (B,).

    ``l2_norm``: of all weights and biases. ``log_frobenius``, ``log_spectral``: natural logarithms of the product over
    layers of the Frobenius and of the spectral norm of the weight (Neyshabur et al., arXiv 1503.00036; Bartlett et al.,
    arXiv 1706.08498). A convolution's weight counts as the matrix (R, S * K), as in Miyato et al. (arXiv 1802.05957):
    that is not the norm of the operation on images. Both products stay the same when a ReLU network's layer is scaled
    up and the next one down; the L2 norm does not.
    """
    weights = [w_BRSKC.flatten(2) for w_BRSKC in WeightSpaceFeatures.from_flat(spec, params_BT).weights]
    frobenius = torch.stack([torch.linalg.matrix_norm(w) for w in weights], 1)
    spectral = torch.stack([torch.linalg.matrix_norm(w, 2) for w in weights], 1)
    return {
        "l2_norm": params_BT.norm(dim=1),
        "log_frobenius": frobenius.log().sum(1),
        "log_spectral": spectral.log().sum(1),
    }
