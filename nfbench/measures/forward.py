"""What stacked classifiers compute: logits of many networks of one spec at once, from their flat weights.

B networks, T their weights and biases; n images of height H, width W and S channels, channels last; O output channels'
positions of a convolution; K kernel positions; R outputs of a layer, N classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from nfbench.weightspace import LayerSpec, NetworkSpec

STRIDE = 2  # of every convolution of the Small CNN Zoo
Losses = Callable[[Tensor], Tensor]  # (B, T) -> (B,), each network's loss from its own weights alone

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "leaky_relu": functional.leaky_relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "sine": torch.sin,
    "identity": lambda x: x,
}


def logits(spec: NetworkSpec, params_BT: Tensor, pixels: Tensor, stride: int = STRIDE) -> Tensor:
    """Outputs of B networks for n images, differentiable, twice too, in weights and pixels.

    Convolutions without padding, the mean over all positions, then dense layers, as in the Small CNN Zoo (Unterthiner
    et al., arXiv 2002.11448: Conv2D(3, strides=2), GlobalAveragePooling2D, Dense). Where the first layer is dense, it
    reads the pixels row by row. A convolution is a batched matrix product over patches, and so are its derivatives.

    Args:
        spec: sizes and activation of all the networks.
        params_BT: (B, T), in the order of `WeightSpaceFeatures.from_flat`.
        pixels: (n, H, W, S) for all networks, or (B, n, H, W, S).
        stride: of all convolutions.

    Returns:
        (B, n, N). Invariant to permutations of hidden neurons.

    Raises:
        ValueError: weights or images that do not fit the spec, images that a convolution leaves nothing of.
    """
    batch = len(params_BT)
    if params_BT.ndim != 2 or params_BT.shape[1] != spec.num_params:
        raise ValueError(f"{spec} has {spec.num_params} parameters, got weights {tuple(params_BT.shape)}: give (B, T)")
    x = pixels if pixels.ndim == 5 else pixels.unsqueeze(0)  # (B or 1, n, H, W, S)
    if not spec.layers[0].is_conv:
        x = x.flatten(2)  # (B or 1, n, S)
    if x.shape[-1] != spec.sizes[0]:
        raise ValueError(
            f"{spec} takes {spec.sizes[0]} {'channels' if spec.layers[0].is_conv else 'pixels'}, got images "
            f"{tuple(pixels.shape[-3:])} (height, width, channels). The Small CNN Zoo takes the mean over the channels"
        )
    activation = _FUNCTIONS[spec.activation]
    where = spec.scalar_slices()
    for i, layer in enumerate(spec.layers):
        weight_BRM = params_BT[:, where[2 * i]].unflatten(1, (layer.out_size, -1))  # M = S * K
        bias_B1R = params_BT[:, where[2 * i + 1]].unsqueeze(1)
        if layer.is_conv:
            patches, height, width = _patches(x, layer, stride)  # (B or 1, n * O, K * S)
            weight_BRM = weight_BRM.unflatten(2, (layer.in_size, layer.taps)).mT.flatten(2)
            x = torch.baddbmm(bias_B1R, patches.expand(batch, -1, -1), weight_BRM.mT)
            x = x.unflatten(1, (-1, height, width))  # (B, n, O, O, R)
        else:
            x = x.mean((2, 3)) if x.ndim == 5 else x
            x = torch.baddbmm(bias_B1R, x.expand(batch, -1, -1), weight_BRM.mT)  # (B, n, R)
        x = activation(x) if i < spec.num_layers - 1 else x
    return x.mean((2, 3)) if x.ndim == 5 else x


def _patches(x: Tensor, layer: LayerSpec, stride: int) -> tuple[Tensor, int, int]:
    """(B, n, H, W, S) -> the patches under the kernel, (B, n * O, K * S), and height and width of the output."""
    assert layer.kernel is not None
    if x.shape[2] < layer.kernel[0] or x.shape[3] < layer.kernel[1]:
        raise ValueError(
            f"a kernel {layer.kernel} does not fit into {tuple(x.shape[2:4])} positions: give larger images, or "
            f"another stride than {stride}"
        )
    # channels stay innermost, so that what is copied are runs of S numbers
    x = x.unfold(2, layer.kernel[0], stride).unfold(3, layer.kernel[1], stride)  # (B, n, H, W, S, kernel, kernel)
    height, width = x.shape[2:4]
    return x.permute(0, 1, 2, 3, 5, 6, 4).flatten(4).flatten(1, 3), height, width


def cross_entropies(spec: NetworkSpec, pixels: Tensor, labels: Tensor, stride: int = STRIDE) -> Losses:
    """The mean cross-entropy over fixed images as a function of the weights, in nats: (B, T) -> (B,).

    Args:
        spec, stride: see `logits`.
        pixels: (n, H, W, S).
        labels: (n,) int64.
    """

    def losses(params_BT: Tensor) -> Tensor:
        z_BnN = logits(spec, params_BT, pixels, stride)
        own_Bn = z_BnN.gather(2, labels.expand(len(params_BT), -1).unsqueeze(2)).squeeze(2)
        return (z_BnN.logsumexp(2) - own_Bn).mean(1)

    return losses
