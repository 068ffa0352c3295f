"""What a zoo of classifiers is made of: its recipe, and what each run draws for itself.

A run is the training of one network with hyper-parameters of its own, as in the Small CNN Zoo (Unterthiner et al.,
Predicting Neural Network Accuracy from Weights, arXiv 2002.11448): docs/cnn_zoo.md says what is theirs.
Everything random depends on (seed, run, attempt) alone, not on which other runs are trained, nor in which chunks.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the config reads this file, and must not wait for torch
    from nfbench.weightspace import NetworkSpec

Random = np.random.Generator
ACTIVATIONS = ("relu", "tanh")
OPTIMIZERS = ("sgd", "adam", "rmsprop")
W_INITS = ("glorot_normal", "RandomNormal", "TruncatedNormal", "orthogonal", "he_normal")
FRACTIONS = (0.1, 0.25, 0.5, 1.0)
LEARNING_RATE, L2, INIT_STD = (5e-4, 5e-2), (1e-8, 1e-2), (1e-3, 0.5)  # log-uniform
MOST_DROPOUT = 0.7  # uniform from 0
BETA1, BETA2, ALPHA, EPS = 0.9, 0.999, 0.9, 1e-7  # of Adam; of RMSprop; of both: Keras' defaults
CHECKPOINTS = (0, 1, 2, 3, 20, 40, 60, 80, 86)  # epochs
STRIDE = 2  # of all convolutions, which have no padding
TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut at 2


@dataclass(frozen=True)
class CnnRecipe:
    """Everything that decides the networks of a zoo, beside the images, the number of runs and the architecture.

    Attributes:
        epochs: of training.
        checkpoints: epochs after which a run's network is kept; those beyond ``epochs`` are left out, the last is
            always kept. Or one number: that many different ones, drawn for each run from all epochs from 1 on.
        batch_size: images a step; the rest of an epoch that fills no batch is left out, as in the published zoo.
        num_train: the first so many training images of a fixed shuffle are all there are; None: all. Each run takes its
            ``train_fraction`` of these, nested, in the same order.
        num_eval: training accuracy is measured on at most so many of a run's images, test accuracy on at most so many
            test images; None: all.
        seed: of everything random.
    """

    epochs: int = 86
    checkpoints: tuple[int, ...] | int = CHECKPOINTS
    batch_size: int = 512
    num_train: int | None = None
    num_eval: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "num_train", "num_eval"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"zoo.{key}={value} must be 1 or more.")
        if isinstance(self.checkpoints, int):
            if not 1 <= self.checkpoints <= self.epochs:
                raise ValueError(
                    f"zoo.checkpoints={self.checkpoints} must be between 1 and zoo.epochs={self.epochs}, or a list."
                )
        elif not self.checkpoints or min(self.checkpoints) < 0:
            raise ValueError(f"zoo.checkpoints={list(self.checkpoints)} must be epochs from 0 on, at least one.")

    @property
    def num_checkpoints(self) -> int:
        """Of each run."""
        return self.checkpoints if isinstance(self.checkpoints, int) else len(self._epochs_kept())

    def checkpoint_epochs(self, run: int) -> tuple[int, ...]:
        """After how many epochs this run's networks are kept, ascending."""
        if isinstance(self.checkpoints, int):
            drawn = _random(self, "checkpoints", run).permutation(self.epochs)[: self.checkpoints]
            return tuple(sorted(int(epoch) + 1 for epoch in drawn))
        return self._epochs_kept()

    def _epochs_kept(self) -> tuple[int, ...]:
        assert not isinstance(self.checkpoints, int)
        return tuple(sorted({epoch for epoch in self.checkpoints if epoch < self.epochs} | {self.epochs}))

    def steps(self, num_images: int) -> int:
        """Of an epoch of so many images."""
        return max(1, num_images // self.batch_size)

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        several = isinstance(self.checkpoints, tuple)
        return asdict(self) | ({"checkpoints": list(self.checkpoints)} if several else {})  # type: ignore[arg-type]

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_plain(), sort_keys=True).encode()).hexdigest()[:16]


# What `zoo.size` stands for, by the kind of network: num_runs, and fields of the recipe. `full` is as published, where
# that is known.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "cnn": {
        "tiny": {"num_runs": 200, "epochs": 4, "checkpoints": [0, 1, 2, 3, 4], "fit_batch_size": 128,
                 "num_train": 20_000, "num_eval": 2000},
        "cpu": {"num_runs": 1000, "epochs": 18, "checkpoints": [0, 1, 2, 3, 6, 9, 12, 15, 18], "fit_batch_size": 512,
                "num_train": None, "num_eval": 10_000},
        "full": {"num_runs": 30_000, "epochs": 86, "checkpoints": list(CHECKPOINTS), "fit_batch_size": 512,
                 "num_train": None, "num_eval": None},
    },
    "mlp": {
        "tiny": {"num_runs": 40, "epochs": 10, "checkpoints": 10, "fit_batch_size": 128,
                 "num_train": 2000, "num_eval": 1000},
        "cpu": {"num_runs": 500, "epochs": 20, "checkpoints": 10, "fit_batch_size": 512,
                "num_train": 20_000, "num_eval": 5000},
        "full": {"num_runs": 2000, "epochs": 86, "checkpoints": 10, "fit_batch_size": 512,
                 "num_train": None, "num_eval": None},
    },
}  # fmt: skip
SIZE_KEYS = tuple(SIZES["cnn"]["tiny"])


def size_values(spec: str, size: str) -> dict[str, Any]:
    """What ``zoo.size`` stands for with networks of this spec. Raises ValueError for a size that is not known."""
    sizes = SIZES["cnn" if "c" in spec.partition(":")[0] else "mlp"]
    if size not in sizes:
        raise ValueError(f"zoo.size={size!r} is not known. Choose one of: {', '.join(sizes)}.")
    return sizes[size]


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of one run; ``seed`` is the dropout's, of 32 bits."""

    activation: str
    optimizer: str
    learning_rate: float
    l2reg: float
    dropout: float
    w_init: str
    init_std: float
    train_fraction: float
    seed: int = 0


def draw_settings(recipe: CnnRecipe, run: int, attempt: int = 0) -> Settings:
    """The hyper-parameters of a run; of another attempt where those before diverged."""
    random = _random(recipe, "settings", run, attempt)

    def log_uniform(low: float, high: float) -> float:
        return float(np.float32(math.exp(random.uniform(math.log(low), math.log(high)))))

    return Settings(
        activation=ACTIVATIONS[random.integers(len(ACTIVATIONS))],
        optimizer=OPTIMIZERS[random.integers(len(OPTIMIZERS))],
        learning_rate=log_uniform(*LEARNING_RATE),
        l2reg=log_uniform(*L2),
        dropout=float(np.float32(random.uniform(0, MOST_DROPOUT))),
        w_init=W_INITS[random.integers(len(W_INITS))],
        init_std=log_uniform(*INIT_STD),
        train_fraction=FRACTIONS[random.integers(len(FRACTIONS))],
        seed=int(random.integers(2**32)),
    )


def draw_params(
    recipe: CnnRecipe, spec: NetworkSpec, settings: Settings, run: int, attempt: int = 0
) -> NDArray[np.float32]:
    """Initial parameters (T,) in torch's order: weights as Keras' initialiser ``w_init`` draws them, biases zero."""
    random, parts = _random(recipe, "params", run, attempt), []
    for layer in spec.layers:
        shape = (layer.out_size, layer.in_size * layer.taps)
        fan_in, fan_out = layer.in_size * layer.taps, layer.out_size * layer.taps
        if settings.w_init == "orthogonal":
            weight = _orthogonal(random, *shape)
        elif settings.w_init == "RandomNormal":
            weight = random.standard_normal(shape) * settings.init_std
        else:
            variance = {"glorot_normal": 2 / (fan_in + fan_out), "he_normal": 2 / fan_in}.get(settings.w_init)
            std = settings.init_std if variance is None else math.sqrt(variance) / TRUNCATED_STD
            weight = _truncated(random, shape) * std
        parts += [weight.ravel(), np.zeros(layer.out_size)]
    return np.concatenate(parts).astype(np.float32)


def epoch_order(recipe: CnnRecipe, images: NDArray[np.int32], run: int, attempt: int, epoch: int) -> NDArray[np.int32]:
    """The mini-batches (steps, batch) of an epoch: ``images`` (n,) shuffled. All at once where they fill no batch."""
    steps = recipe.steps(len(images))
    size = min(recipe.batch_size, len(images))
    order = _random(recipe, "order", run, attempt, epoch).permutation(images)
    return order[: steps * size].reshape(steps, size)


def _random(recipe: CnnRecipe, what: str, run: int, attempt: int = 0, epoch: int = 0) -> Random:
    """A stretch of a counter-based stream of its own."""
    stream = ("settings", "params", "order", "checkpoints").index(what)
    key = np.array([recipe.seed % 2**64, 20200226 + stream], np.uint64)
    return Random(np.random.Philox(key=key, counter=np.array([0, epoch, attempt, run], np.uint64)))


def _truncated(random: Random, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A standard normal distribution cut at 2: what is beyond is drawn again."""
    values = random.standard_normal(shape)
    while (beyond := np.abs(values) > 2).any():
        values[beyond] = random.standard_normal(int(beyond.sum()))
    return values


def _orthogonal(random: Random, rows: int, columns: int) -> NDArray[np.float64]:
    """Orthonormal rows, or columns where these are fewer, uniformly distributed."""
    q, r = np.linalg.qr(random.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    return q.T if rows < columns else q
