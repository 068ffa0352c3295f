"""`CnnZoo`: small classifiers with their test accuracies, trained on the spot with hyper-parameters of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.build import open_zoo
from nfbench.zoos.classifiers import ClassifierZoo
from nfbench.zoos.cnn_build import CnnPlan
from nfbench.zoos.cnn_recipe import STRIDE, CnnRecipe, size_values
from nfbench.zoos.cnn_train import KERNEL_NETWORK
from nfbench.zoos.images import source_info
from nfbench.zoos.store import ZooData


class CnnZoo(ClassifierZoo):
    """A `ClassifierZoo` whose file is built by `prepare_data` if it isn't there; see docs/cnn_zoo.md.

    Args:
        source: of the images: digits, mnist, fashion or cifar10 (gray).
        spec: architecture. Convolutions have stride 2 and no padding, a dense layer behind them takes the average over
            positions; dense layers alone take all pixels. Its activation is a name only: each run draws its own.
        size: tiny, cpu or full: what the following stand for where they are None (see `SIZES` in cnn_recipe.py).
        num_runs: how many networks are trained; ``num_networks`` of them are used.
        epochs, checkpoints, num_train, num_eval: fields of `CnnRecipe`; num_train=0, num_eval=0: all.
        fit_batch_size: images of a step of the training; ``batch_size`` is networks that a model reads.
        zoo_seed: of everything random in the networks.
        file: the zoo's file; None: in ``zoo_dir``, by a name made of the values above.
        fingerprint: not used: the values above say which zoo it is.
        data_dir: where image files are looked for and downloaded to.
        zoo_dir: folder of the zoo files.
        threads: that train networks with the kernel; None: one a core. Where torch trains them, torch has its own.
        fit_device: ``cpu``, or a GPU's name to train networks there.
        **settings: of `ClassifierZoo`.

    Raises:
        ValueError: a value that is not allowed, with those that are.
    """

    def __init__(
        self,
        *,
        source: str,
        spec: str,
        size: str,
        num_runs: int | None = None,
        epochs: int | None = None,
        checkpoints: Sequence[int] | int | None = None,
        fit_batch_size: int | None = None,
        num_train: int | None = None,
        num_eval: int | None = None,
        zoo_seed: int = 0,
        file: str | None = None,
        fingerprint: str | None = None,
        data_dir: str = "data",
        zoo_dir: str = "data/zoos",
        threads: int | None = None,
        fit_device: str = "cpu",
        steps: str = "final",
        num_networks: int | None = None,
        standardize: str = "none",
        augment_permute: bool = False,
        augment_noise: float = 0.0,
        augment_dropout: float = 0.0,
        batch_size: int = 8,
        eval_batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        network = check_spec(spec, source)
        default = size_values(spec, size)
        given: dict[str, Any] = {
            "num_runs": num_runs, "epochs": epochs, "checkpoints": checkpoints, "fit_batch_size": fit_batch_size,
            "num_train": num_train, "num_eval": num_eval,
        }  # fmt: skip
        values = {key: default[key] if given[key] is None else given[key] for key in given}
        changed = {key: value for key, value in values.items() if value != default[key]}
        kept = values["checkpoints"]
        recipe = CnnRecipe(
            epochs=values["epochs"], checkpoints=kept if isinstance(kept, int) else tuple(kept),
            batch_size=values["fit_batch_size"], num_train=values["num_train"] or None,
            num_eval=values["num_eval"] or None, seed=zoo_seed,
        )  # fmt: skip
        if values["num_runs"] < 1:
            raise ValueError(f"zoo.num_runs={values['num_runs']} must be 1 or more.")
        self.plan = CnnPlan(source, network, recipe, values["num_runs"])
        self.label = "+".join([size, *(f"{key}={_short(value)}" for key, value in changed.items())])
        self.data_dir, self.threads, self.fit_device = data_dir, threads, fit_device
        sizes = str(network).partition(":")[0]
        name = f"{'cnn' if sizes == KERNEL_NETWORK else sizes}_{source}-{self.label}"
        name += f"-seed{zoo_seed}" if zoo_seed else ""
        super().__init__(
            file=file or str(Path(zoo_dir) / f"{name}.h5"), source=source, spec=spec, steps=steps,
            num_networks=num_networks, standardize=standardize, augment_permute=augment_permute,
            augment_noise=augment_noise, augment_dropout=augment_dropout, batch_size=batch_size,
            eval_batch_size=eval_batch_size, seed=seed,
        )  # fmt: skip

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        return {**super().protocol, "runs": self.plan.num_runs, "recipe_hash": self.plan.recipe.hash}

    def _definition(self) -> str:
        return f"built:{self.label}"

    def _open(self) -> ZooData:
        return open_zoo(self.path, self.plan, self.data_dir, self.threads, self.fit_device)


def check_spec(text: str, source: str, channels: int = 1) -> NetworkSpec:
    """The architecture of classifiers of these images, of so many channels.

    Raises:
        ValueError: one that can't take the images, or that doesn't end with a dense layer of ten classes.
    """
    spec, (height, width, _) = NetworkSpec.parse(text), source_info(source).shape
    double = 2 if source == "digits" else 1
    pixels, left = channels * double**2 * height * width, double * min(height, width)
    first, last = spec.layers[0], spec.layers[-1]
    if first.in_size != (channels if first.is_conv else pixels) or last.is_conv or last.out_size != 10:
        raise ValueError(
            f"zoo.spec={text} does not classify {source}: it must begin with {channels} (convolutions) or {pixels} "
            "(dense layers alone) and end with a dense layer of 10."
        )
    for layer in spec.layers:
        if layer.kernel is not None:
            left = (left - max(layer.kernel)) // STRIDE + 1
    if left < 1:
        raise ValueError(f"zoo.spec={text}: {source} has too few pixels for so many convolutions of stride {STRIDE}.")
    return spec


def _short(value: Any) -> str:
    return "_".join(map(str, value)) if isinstance(value, Sequence) else str(value)
