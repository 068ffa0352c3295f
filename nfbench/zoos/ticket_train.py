"""Trains many masked classifiers at once, and finds masks for them: stacked parameters in torch, on a CPU or a GPU.

All networks of a stack see the same images a step, so the first layer is one product for all of them. ``N`` networks,
``B`` images of a batch, ``T`` parameters, ``R`` outputs and ``S`` inputs of a layer, ``K`` kernel size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy

from nfbench.weightspace import NetworkSpec, Pruning, largest_within_tensors, tensor_counts
from nfbench.zoos.cnn_images import ClassifierImages
from nfbench.zoos.cnn_recipe import STRIDE
from nfbench.zoos.ticket_recipe import MOMENTUM, TicketRecipe

EVAL_IMAGES = 500  # at once
TEMPERATURE = 200.0  # of GraSP's logits, as in its authors' code


class TicketTrainer:
    """Trains networks of one architecture by one recipe, with or without masks.

    Args:
        spec: ReLU networks; convolutions have stride 2 and no padding, a dense layer behind them takes the average over
            positions, and dense layers alone take all pixels.
        recipe: of the training.
        images: what they are trained on; pixels in [-1, 1] become [recipe.pixel_min, 1].
        device: ``cpu`` or a GPU's name.
        dtype: of everything.

    Attributes:
        stack: how many networks are trained at once.
        origin, fingerprint: of the images.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        recipe: TicketRecipe,
        images: ClassifierImages,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.spec, self.recipe, self.device, self.dtype = spec, recipe, device, dtype
        self.stack = stack_size(spec, device)
        pixels = torch.from_numpy(images.pixels).to(device, dtype)
        pixels = pixels[..., None] if pixels.dim() == 3 else pixels
        pixels = (pixels + 1) * ((1 - recipe.pixel_min) / 2) + recipe.pixel_min
        # For convolutions (n, C, H, W), channels last in memory; dense layers take all pixels.
        self.pixels = pixels.movedim(3, 1) if spec.layers[0].is_conv else pixels.flatten(1)
        self.labels = torch.from_numpy(images.labels).to(device).long()
        self.train_rows, self.test_rows = images.train, images.test
        self.origin, self.fingerprint = images.origin, images.fingerprint

    @property
    def pruning(self) -> Pruning:
        """As the recipe says."""
        return Pruning(self.recipe.sparsity, self.recipe.scope, self.recipe.prune_biases)

    def at_sparsity(self, sparsity: float) -> TicketTrainer:
        """The same trainer, with the same images in memory, for masks of another sparsity."""
        other = copy.copy(self)
        other.recipe = replace(self.recipe, sparsity=sparsity)
        return other

    def draw_params(self, pairs: Sequence[int]) -> Tensor:
        """Initialisations (N, T)."""
        return self._tensor(np.stack([self.recipe.draw_params(self.spec, pair) for pair in pairs]))

    def train(self, params: Tensor, mask: Tensor | None = None) -> Tensor:
        """Networks (N, T) after the training from ``params`` (N, T); where ``mask`` is false they are zero."""
        parts = [slice(start, start + self.stack) for start in range(0, len(params), self.stack)]
        return torch.cat([self._train(params[part], None if mask is None else mask[part]) for part in parts])

    def _train(self, params: Tensor, mask: Tensor | None) -> Tensor:
        tensors = [t.clone() for t in self._split(params.to(self.device, self.dtype))]
        kept = None if mask is None else self._split(mask.to(self.device, self.dtype))
        if kept is not None:
            tensors = [t * k for t, k in zip(tensors, kept, strict=True)]
        for tensor in tensors:
            tensor.requires_grad_()
        optimizer: torch.optim.Optimizer
        if self.recipe.optimizer == "adam":
            optimizer = torch.optim.Adam(tensors, self.recipe.lr, fused=True)
        else:
            optimizer = torch.optim.SGD(tensors, self.recipe.lr, MOMENTUM, fused=True)
        for epoch in range(self.recipe.epochs):
            for rows in torch.from_numpy(self.recipe.batches(self.train_rows, epoch)).to(self.device).long():
                for i, grad in enumerate(torch.autograd.grad(self._loss(tensors, rows), tensors)):
                    grad = grad.contiguous()  # fused optimisers read it in the order of memory, whatever its strides
                    # Moments of entries that never have a gradient stay zero, and so do the entries.
                    tensors[i].grad = grad if kept is None else grad.mul_(kept[i])
                optimizer.step()
        return torch.cat([t.detach().flatten(1) for t in tensors], 1)

    @torch.no_grad()
    def accuracy(self, params: Tensor) -> NDArray[np.float32]:
        """Test accuracy (N,) of networks (N, T)."""
        counts = []
        for part in params.to(self.device, self.dtype).split(self.stack):
            tensors, right = self._split(part), torch.zeros(len(part), device=self.device)
            for rows in torch.from_numpy(self.test_rows).to(self.device).long().split(EVAL_IMAGES):
                right += (self.logits(tensors, rows).argmax(1) == self.labels[rows]).float().sum(1)
            counts.append(right)
        return (torch.cat(counts) / len(self.test_rows)).cpu().numpy()

    def masked_accuracy(self, params: Tensor, mask: Tensor) -> NDArray[np.float32]:
        """Test accuracy (N,) of the initialisations (N, T) once they are trained under their masks (N, T)."""
        return self.accuracy(self.train(params, mask))

    def snip(self, params: Tensor) -> Tensor:
        """SNIP's scores (N, T): abs(w g), g the gradient at the initialisation (Lee et al., arXiv 1810.02340)."""
        return torch.cat([torch.cat(list(self._snip(part)), 1) for part in params.split(self.stack)])

    def _snip(self, params: Tensor) -> Iterator[Tensor]:
        tensors = [t.clone().requires_grad_() for t in self._split(params.to(self.device, self.dtype))]
        grads = torch.autograd.grad(self._loss(tensors, self._score_rows()), tensors)
        return ((t.detach() * g).abs().flatten(1) for t, g in zip(tensors, grads, strict=True))

    def grasp(self, params: Tensor) -> Tensor:
        """GraSP's scores (N, T): w (H g), H the Hessian; its authors remove the largest -w (H g) (arXiv 2002.07376)."""
        return torch.cat([torch.cat(list(self._grasp(part)), 1) for part in params.split(self.stack)])

    def _grasp(self, params: Tensor) -> Iterator[Tensor]:
        tensors = [t.clone().requires_grad_() for t in self._split(params.to(self.device, self.dtype))]
        loss = self._loss(tensors, self._score_rows(), TEMPERATURE)
        grads = torch.autograd.grad(loss, tensors, create_graph=True)
        flow = sum((g * g.detach()).sum() for g in grads)
        assert isinstance(flow, Tensor)
        return ((t.detach() * h).flatten(1) for t, h in zip(tensors, torch.autograd.grad(flow, tensors), strict=True))

    def _score_rows(self) -> Tensor:
        return torch.from_numpy(self.train_rows[: self.recipe.score_images]).to(self.device).long()

    def _loss(self, tensors: Sequence[Tensor], rows: Tensor, temperature: float = 1.0) -> Tensor:
        """The sum over networks of the mean cross-entropy over images: every network gets its own gradient."""
        logits = self.logits(tensors, rows) / temperature
        return cross_entropy(logits, self.labels[rows].expand(len(logits), -1), reduction="sum") / len(rows)

    def logits(self, tensors: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Weights (N, R, S) or (N, R, S, K, K) and biases (N, R) in turns, images (B,) -> (N, classes, B).

        Dense layers go from (N, S, B) to (N, R, B): products of all networks without a transposition in memory.
        """
        h, count = self.pixels[rows], len(tensors[0])
        for i, layer in enumerate(self.spec.layers):
            weight, bias = tensors[2 * i], tensors[2 * i + 1]
            if layer.is_conv:  # the channels of all networks side by side: (B, N R, H, W), channels last in memory
                h = conv2d(h, weight.flatten(0, 1), bias.flatten(), STRIDE, groups=count if i else 1)
            elif i == 0:
                h = SharedProduct.apply(weight.flatten(0, 1), h).unflatten(0, (count, -1)) + bias[..., None]
            else:
                h = h.mean((2, 3)).unflatten(1, (count, -1)).permute(1, 2, 0) if h.dim() == 4 else h
                h = torch.baddbmm(bias[..., None], weight, h)
            h = h.relu() if i + 1 < self.spec.num_layers else h
        return h

    def _split(self, flat: Tensor) -> list[Tensor]:
        """(N, T) -> a tensor (N, ...) for each weight and bias."""
        shapes = zip(self.spec.scalar_slices(), self.spec.parameter_shapes(), strict=True)
        return [flat[:, where].reshape(len(flat), *shape) for where, shape in shapes]

    def _tensor(self, values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).to(self.device, self.dtype)


def stack_size(spec: NetworkSpec, device: str) -> int:
    """How many networks are trained at once: few fit a CPU's caches, many fill a GPU, convolutions its memory too."""
    if device == "cpu":
        return 16
    return 32 if spec.layers[0].is_conv else 128


# oneDNN's product a b^T of float32 on a CPU, twice as fast as MKL's on AMD; what torch.compile calls. May be absent.
ONEDNN: Callable[..., Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def product(a: Tensor, b: Tensor) -> Tensor:
    """(M, S), (B, S) -> a b^T (M, B), without gradients."""
    if ONEDNN is None or a.device.type != "cpu" or a.dtype != torch.float32:
        return a @ b.t()
    return ONEDNN(a, b, None, "none", [], "")


class SharedProduct(torch.autograd.Function):
    """weight x^T of weights (M, S) and images (B, S), which get no gradient: (M, B)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return product(weight, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # GraSP differentiates this again
            return grads[0] @ x, None
        return product(grads[0].contiguous(), x.t().contiguous()), None


def baseline_masks(trainer: TicketTrainer, params: Tensor, imp: Tensor, pairs: Sequence[int]) -> dict[str, Tensor]:
    """The masks that tickets are compared with, all of exactly IMP's sparsity.

    Args:
        trainer: of the networks.
        params: (N, T) initialisations.
        imp: (N, T) masks of iterative magnitude pruning.
        pairs: (N,) their numbers, which decide what is random.

    Returns:
        Masks (N, T) by name: "random"; "random_layer", with IMP's density in each tensor; "magnitude" of the
        initialisation, and "magnitude_layer", again with IMP's density in each tensor; "snip" and "grasp", which see
        training images.
    """
    spec, pruning, recipe = trainer.spec, trainer.pruning, trainer.recipe
    counts = tensor_counts(spec, imp)
    scores = torch.from_numpy(np.stack([recipe.draw_scores(spec, pair) for pair in pairs])).to(trainer.device)
    return {
        "random": pruning.keep_largest(spec, scores),
        "random_layer": largest_within_tensors(spec, scores, counts),
        "magnitude": pruning.keep_largest(spec, params.abs()),
        "magnitude_layer": largest_within_tensors(spec, params.abs(), counts),
        "snip": pruning.keep_largest(spec, trainer.snip(params)),
        "grasp": pruning.keep_largest(spec, trainer.grasp(params)),
    }
