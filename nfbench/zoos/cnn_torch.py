"""Trains a stack of classifiers at once in torch: without a compiler, on a GPU, in float64, and MLPs.

All networks of a stack take their steps together, each with its own parameters, mini-batches and hyper-parameters; they
share activation, optimiser and number of steps. Shapes: ``N`` networks, ``B`` images of a batch, ``T`` parameters,
``C`` channels, ``P`` positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.cnn_images import ClassifierImages
from nfbench.zoos.cnn_recipe import ALPHA, BETA1, BETA2, EPS, STRIDE, Settings

EVAL_IMAGES = 512  # of each network at once


class TorchStack:
    """Networks of one activation and optimiser that are trained together.

    Args:
        spec: architecture; convolutions have stride 2 and no padding, and their last output is averaged over positions.
        images: what they are trained on.
        settings: of each network.
        params: (N, T) initial parameters; their dtype is that of the training.
        device: ``cpu`` or a GPU's name.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        images: ClassifierImages,
        settings: Sequence[Settings],
        params: NDArray[np.floating],
        device: str = "cpu",
    ) -> None:
        self.spec, self.step = spec, 0
        self.patches = device != "cpu"  # patches take memory bandwidth, separate convolutions many small launches
        self.activation, self.optimizer = settings[0].activation, settings[0].optimizer
        self.flat = torch.tensor(params, device=device)
        self.pixels = torch.from_numpy(images.pixels).to(self.flat)
        self.labels = torch.from_numpy(images.labels).to(device).long()
        self.first, self.second = torch.zeros_like(self.flat), torch.zeros_like(self.flat)

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, device=device, dtype=self.flat.dtype)[:, None]

        self.lr, self.l2 = column([s.learning_rate for s in settings]), column([s.l2reg for s in settings])
        self.dropout = column([s.dropout for s in settings])
        self.keys = mix(torch.tensor([s.seed for s in settings], device=device).to(torch.int32))  # modulo 2^32
        self.penalised = torch.zeros_like(self.flat[0])  # L2 is on weights, not on biases
        for where in spec.scalar_slices()[::2]:
            self.penalised[where] = 1

    @property
    def params(self) -> NDArray[np.floating]:
        """(N, T)."""
        return self.flat.cpu().numpy().copy()

    def train(self, orders: Sequence[NDArray[np.int32]]) -> None:
        """One epoch: for each network its mini-batches (steps, B) of images."""
        batches = torch.from_numpy(np.stack(orders, axis=1)).to(self.flat.device).long()  # (steps, N, B)
        for rows in batches:
            flat = self.flat.detach().requires_grad_()
            logits = self.logits(flat, self.pixels[rows], noisy=True)
            # A sum over networks, each a mean over its batch: every network gets its own gradient.
            loss = cross_entropy(logits.flatten(0, 1), self.labels[rows].flatten(), reduction="sum") / rows.shape[1]
            (grad,) = torch.autograd.grad(loss, flat)
            self._update(grad + 2 * self.l2 * self.penalised * self.flat)
            self.step += 1

    def _update(self, grad: Tensor) -> None:
        """As `torch.optim` does it."""
        if self.optimizer == "sgd":
            self.flat -= self.lr * grad
        elif self.optimizer == "adam":
            self.first.lerp_(grad, 1 - BETA1)
            self.second.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
            scale, root = 1 - BETA1 ** (self.step + 1), (1 - BETA2 ** (self.step + 1)) ** 0.5
            self.flat -= self.lr / scale * self.first / (self.second.sqrt() / root + EPS)
        else:
            self.second.mul_(ALPHA).addcmul_(grad, grad, value=1 - ALPHA)
            self.flat -= self.lr * grad / (self.second.sqrt() + EPS)

    @torch.no_grad()
    def evaluate(self, rows: NDArray[np.int32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean cross-entropy (N,) and accuracy (N,) on images, without dropout."""
        loss, right = torch.zeros(2, len(self.flat), device=self.flat.device, dtype=torch.float64)
        for part in torch.from_numpy(rows).to(self.flat.device).long().split(EVAL_IMAGES):
            logits = self.logits(self.flat, self.pixels[part].expand(len(self.flat), -1, -1, -1))
            labels = self.labels[part].expand(len(self.flat), -1)
            loss += cross_entropy(logits.transpose(1, 2), labels, reduction="none").double().sum(1)
            right += (logits.argmax(2) == labels).double().sum(1)
        return (loss / len(rows)).cpu().numpy(), (right / len(rows)).cpu().numpy()

    def logits(self, flat: Tensor, pixels: Tensor, noisy: bool = False) -> Tensor:
        """Parameters (N, T), images (N, B, H, W) -> (N, B, classes); ``noisy``: with this step's dropout."""
        layers, slices = self.spec.layers, self.spec.scalar_slices()
        h = pixels[..., None] if layers[0].is_conv else pixels.flatten(2)
        for i, layer in enumerate(layers):
            weight = flat[:, slices[2 * i]].view(len(flat), *layer.weight_shape)
            bias = flat[:, slices[2 * i + 1]]
            if layer.is_conv:
                h = convolve_patches(h, weight, bias) if self.patches else convolve_each(h, weight, bias)
            else:
                h = torch.baddbmm(bias[:, None], h.mean((2, 3)) if h.dim() == 5 else h, weight.transpose(1, 2))
            if i + 1 < len(layers):
                h = h.relu() if self.activation == "relu" else h.tanh()
                h = h * self._noise(i, h) if noisy and bool(self.dropout.any()) else h
        return h

    def _noise(self, layer: int, h: Tensor) -> Tensor:
        """Factors of dropout like ``h`` (N, ...): 0, or 1 / (1 - rate), by a hash that the kernel computes as well."""
        keys = mix(self.keys + self.step * (len(self.spec.layers) - 1) + layer)  # (N,)
        hashes = mix(torch.arange(h[0].numel(), device=h.device, dtype=torch.int32) + keys[:, None])  # (N, ...)
        kept = ((hashes >> 8) & 0xFFFFFF) * 2.0**-24 >= self.dropout
        return (kept / (1 - self.dropout)).to(h).view_as(h)


def convolve_each(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """h (N, B, H, W, C), weight (N, R, C, K, K), bias (N, R) -> (N, B, H', W', R), a network at a time."""
    channels_last = zip(h.permute(0, 1, 4, 2, 3), weight, bias, strict=True)
    return torch.stack([conv2d(x, w, b, STRIDE).permute(0, 2, 3, 1) for x, w, b in channels_last])


def convolve_patches(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same as one batched product of patches."""
    windows = h.unfold(2, weight.shape[3], STRIDE).unfold(3, weight.shape[4], STRIDE)  # (N, B, H', W', C, K, K)
    shape = windows.shape[:4]
    z = torch.baddbmm(
        bias[:, None], windows.reshape(shape[0], shape[1:].numel(), -1), weight.flatten(2).transpose(1, 2)
    )
    return z.view(*shape, -1)


def mix(x: Tensor) -> Tensor:
    """A hash of 32 bits: int32 (...), whose products wrap around; its shifts must be masked, as they keep the sign."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * 0x7FEB352D
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * (0x846CA68B - 2**32)
    return x ^ ((x >> 16) & 0xFFFF)
