"""What a zoo of winning tickets is made of: networks, how they are trained and pruned. No torch: the config reads it.

The paper (NFN, arXiv 2302.14040, section 3.3 and appendix D.2) gives the networks, one step of iterative magnitude
pruning (IMP), 95 % sparsity and the numbers of pairs; all else is ours: docs/tickets.md.
Everything random depends on (seed, pair) or (seed, epoch) alone, not on which other networks are trained.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the config reads this file, and must not wait for torch
    from nfbench.weightspace import NetworkSpec

OPTIMIZERS = ("adam", "sgd")
INITS = ("torch", "he_normal")
PARTS = ("train", "val", "test")
# Masks that are compared on the held-out pairs; those of DATA_SOURCES have seen training images.
BASELINES = ("random", "random_layer", "magnitude", "magnitude_layer", "snip", "grasp")
DATA_SOURCES = ("imp", "snip", "grasp")
MOMENTUM = 0.9  # of SGD


@dataclass(frozen=True)
class TicketRecipe:
    """Everything that decides the pairs of a zoo, beside the images, the numbers of pairs and the architecture.

    Attributes:
        sparsity, scope, prune_biases: of the pruning, see `nfbench.weightspace.Pruning`.
        init: "torch": as `nn.Linear` and `nn.Conv2d` start, uniform up to 1 / sqrt(fan-in), biases too; "he_normal":
            normal with variance 2 / fan-in, biases zero.
        optimizer: "adam", or "sgd" with momentum 0.9.
        lr: constant learning rate.
        epochs: of the dense training and of that of every masked network, which starts from the same weights.
        batch_size: images a step, the same ones for all networks; the rest that fills no batch is left out.
        pixel_min: images are scaled to [pixel_min, 1].
        num_train: the first so many training images of a fixed shuffle are used; None: all.
        num_eval: accuracies are measured on at most so many test images; None: all.
        score_images: training images from which SNIP and GraSP take their gradients.
        seed: of everything random.
    """

    sparsity: float = 0.95
    scope: str = "global"
    prune_biases: bool = False
    init: str = "torch"
    optimizer: str = "adam"
    lr: float = 1e-3
    epochs: int = 10
    batch_size: int = 128
    pixel_min: float = 0.0
    num_train: int | None = None
    num_eval: int | None = None
    score_images: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for key, value, allowed in (("init", self.init, INITS), ("optimizer", self.optimizer, OPTIMIZERS)):
            if value not in allowed:
                raise ValueError(f"zoo.{key}={value!r} is not known. Choose one of: {', '.join(allowed)}.")
        for key in ("epochs", "batch_size", "num_train", "num_eval", "score_images"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"zoo.{key}={value} must be 1 or more.")

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_plain(), sort_keys=True).encode()).hexdigest()[:16]

    def draw_params(self, spec: NetworkSpec, pair: int) -> NDArray[np.float32]:
        """The initialisation (T,) of a pair."""
        random, parts = self._random("params", pair), []
        for layer in spec.layers:
            fan_in = layer.in_size * layer.taps
            if self.init == "torch":
                parts += [random.uniform(-1, 1, size) / fan_in**0.5 for size in (layer.num_weights, layer.out_size)]
            else:
                parts += [random.standard_normal(layer.num_weights) * (2 / fan_in) ** 0.5, np.zeros(layer.out_size)]
        return np.concatenate(parts).astype(np.float32)

    def draw_scores(self, spec: NetworkSpec, pair: int) -> NDArray[np.float32]:
        """Random numbers (T,) whose largest make the random mask of a pair."""
        return self._random("scores", pair).random(spec.num_params, np.float32)

    def batches(self, images: NDArray[np.int32], epoch: int) -> NDArray[np.int32]:
        """The mini-batches (steps, batch) of an epoch: ``images`` (n,) shuffled. All at once where they fill none."""
        size = min(self.batch_size, len(images))
        steps = len(images) // size
        return self._random("order", epoch).permutation(images)[: steps * size].reshape(steps, size)

    def _random(self, what: str, number: int) -> np.random.Generator:
        key = np.array([self.seed % 2**64, 20230515 + ("params", "order", "scores").index(what)], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, number], np.uint64)))


# What `zoo.size` stands for, by source. `full` has the paper's networks and numbers of pairs; the validation pairs,
# which it does not have, are made beside them.
_MLP: dict[str, dict[str, Any]] = {
    "tiny": {"spec": "784-16-16-10:relu", "num_pairs": 12, "num_val_pairs": 3, "num_test_pairs": 4, "epochs": 2,
             "num_train": 2000, "num_eval": 1000},
    "cpu": {"spec": "784-128-128-10:relu", "num_pairs": 200, "num_val_pairs": 10, "num_test_pairs": 50, "epochs": 3,
            "num_train": None, "num_eval": None},
    "full": {"spec": "784-128-128-10:relu", "num_pairs": 400, "num_val_pairs": 20, "num_test_pairs": 50, "epochs": 10,
             "num_train": None, "num_eval": None},
}  # fmt: skip
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": _MLP,
    "fashion": _MLP,
    "digits": {
        "tiny": {**_MLP["tiny"], "spec": "256-16-16-10:relu", "epochs": 20, "num_train": None, "num_eval": None},
        "cpu": {**_MLP["cpu"], "spec": "256-32-32-10:relu", "epochs": 20},
        "full": {**_MLP["full"], "spec": "256-32-32-10:relu", "epochs": 40},
    },
    "cifar10": {
        "tiny": {"spec": "3-8c3-8c3-8c3-16-10:relu", "num_pairs": 12, "num_val_pairs": 3, "num_test_pairs": 4,
                 "epochs": 1, "num_train": 1000, "num_eval": 500},
        "cpu": {"spec": "3-32c3-32c3-32c3-64-10:relu", "num_pairs": 60, "num_val_pairs": 6, "num_test_pairs": 16,
                "epochs": 4, "num_train": 20_000, "num_eval": None},
        "full": {"spec": "3-128c3-128c3-128c3-128-10:relu", "num_pairs": 400, "num_val_pairs": 20,
                 "num_test_pairs": 50, "epochs": 20, "num_train": None, "num_eval": None},
    },
}  # fmt: skip
SIZE_KEYS = tuple(_MLP["tiny"])


def size_values(source: str, size: str) -> dict[str, Any]:
    """What ``zoo.size`` stands for. Raises ValueError for a source or a size that is not known."""
    if source not in SIZES:
        raise ValueError(f"zoo.source={source!r} has no tickets. Choose one of: {', '.join(SIZES)}.")
    if size not in SIZES[source]:
        raise ValueError(f"zoo.size={size!r} is not known. Choose one of: {', '.join(SIZES[source])}.")
    return SIZES[source][size]
