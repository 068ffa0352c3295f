"""`TicketZoo`: initialisations of classifiers with their winning tickets, found on the spot, and the test of new masks.

Special here:
- A batch's features are the initialisation alone and its target is the mask (B, T): a model that is to predict the mask
  of a held-out pair is never handed it.
- The zoo knows how its networks are trained, so it is the zoo that says how good a mask is: `mask_accuracy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nfbench.weightspace import Pruning, WeightSpaceFeatures, ZooBatch
from nfbench.zoos.build import open_zoo
from nfbench.zoos.classifiers import moments
from nfbench.zoos.cnn import check_spec
from nfbench.zoos.sampler import BatchRows, OrderedSampler, ViewSampler
from nfbench.zoos.store import ZooData
from nfbench.zoos.ticket_build import TicketPlan
from nfbench.zoos.ticket_recipe import BASELINES, PARTS, SIZE_KEYS, TicketRecipe, size_values
from nfbench.zoos.ticket_train import TicketTrainer, baseline_masks

STANDARDIZE = ("none", "layer")


class TicketZoo(lightning.LightningDataModule):
    """(initialisation, mask) pairs, whose file is built by `prepare_data` if it isn't there; see docs/tickets.md.

    Args:
        source: of the images: digits, mnist, fashion or cifar10 (in colour).
        size: tiny, cpu or full: what the following stand for where they are None (see `SIZES` in ticket_recipe.py).
        spec: architecture, such as "784-128-128-10:relu". Convolutions have stride 2 and no padding; a dense layer
            behind them takes the average over positions.
        num_pairs, num_val_pairs, num_test_pairs: of training, validation and testing (held out).
        epochs, num_train, num_eval: fields of `TicketRecipe`; num_train=0, num_eval=0: all.
        sparsity, scope, prune_biases: of the pruning, see `Pruning`.
        init, optimizer, lr, fit_batch_size, pixel_min, score_images: fields of `TicketRecipe`.
        zoo_seed: of everything random in the pairs.
        data_dir: where image files are looked for and downloaded to.
        zoo_dir: folder of the zoo files.
        fit_device: ``cpu``, or a GPU's name to train networks there.
        standardize: of the initialisations that a model reads: "none", or "layer": one mean and standard deviation a
            tensor.
        batch_size: pairs of a step of the model.
        eval_batch_size: of validation and test.
        seed: of the order.

    Raises:
        ValueError: a value that is not allowed, with those that are.
    """

    def __init__(
        self,
        *,
        source: str,
        size: str,
        spec: str | None = None,
        num_pairs: int | None = None,
        num_val_pairs: int | None = None,
        num_test_pairs: int | None = None,
        epochs: int | None = None,
        num_train: int | None = None,
        num_eval: int | None = None,
        sparsity: float = 0.95,
        scope: str = "global",
        prune_biases: bool = False,
        init: str = "torch",
        optimizer: str = "adam",
        lr: float = 1e-3,
        fit_batch_size: int = 128,
        pixel_min: float = 0.0,
        score_images: int = 512,
        zoo_seed: int = 0,
        data_dir: str = "data",
        zoo_dir: str = "data/zoos",
        fit_device: str = "cpu",
        standardize: str = "layer",
        batch_size: int = 4,
        eval_batch_size: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if standardize not in STANDARDIZE:
            raise ValueError(f"zoo.standardize={standardize!r} is not known. Choose one of: {', '.join(STANDARDIZE)}.")
        default = size_values(source, size)
        given: dict[str, Any] = {
            "spec": spec, "num_pairs": num_pairs, "num_val_pairs": num_val_pairs, "num_test_pairs": num_test_pairs,
            "epochs": epochs, "num_train": num_train, "num_eval": num_eval,
        }  # fmt: skip
        values = {key: default[key] if given[key] is None else given[key] for key in SIZE_KEYS}
        counts = {"batch_size": batch_size, "eval_batch_size": eval_batch_size}
        counts |= {key: values[key] for key in ("num_pairs", "num_val_pairs", "num_test_pairs")}
        for key, count in counts.items():
            if count < 1:
                raise ValueError(f"zoo.{key}={count} must be 1 or more.")
        self.spec = check_spec(values["spec"], source, channels=3 if source == "cifar10" else 1)
        if self.spec.activation != "relu":
            raise ValueError(f"zoo.spec={values['spec']}: tickets are of relu networks; end it with :relu.")
        recipe = TicketRecipe(
            sparsity=sparsity, scope=scope, prune_biases=prune_biases, init=init, optimizer=optimizer, lr=lr,
            epochs=values["epochs"], batch_size=fit_batch_size, pixel_min=pixel_min,
            num_train=values["num_train"] or None, num_eval=values["num_eval"] or None, score_images=score_images,
            seed=zoo_seed,
        )  # fmt: skip
        self.mask_rule = Pruning(sparsity, scope, prune_biases)
        pairs = (values["num_pairs"], values["num_val_pairs"], values["num_test_pairs"])
        self.plan = TicketPlan(source, self.spec, recipe, pairs)
        self.source, self.size, self.standardize = source, size, standardize
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.data_dir, self.fit_device, self.threads = data_dir, fit_device, None
        sizes = str(self.spec).partition(":")[0]
        self.path = Path(zoo_dir) / f"tickets_{source}_{sizes}-{'_'.join(map(str, pairs))}-{recipe.hash[:8]}.h5"
        self._data: ZooData | None = None
        self._tables: TicketTables | None = None
        self._trainer: TicketTrainer | None = None

    @property
    def pruning(self) -> dict[str, Any]:
        """How masks are made from scores: the arguments of `Pruning`."""
        return {"sparsity": self.mask_rule.sparsity, "scope": self.mask_rule.scope, "biases": self.mask_rule.biases}

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """What a result must say about its data; known before any data is there, but for the origin."""
        recipe = self.plan.recipe
        facts: dict[str, str | int | float | bool] = {
            "dataset": self.source,
            "definition": f"imp1:{self.size}",
            "network": str(self.spec),
            "sparsity": recipe.sparsity,
            "scope": recipe.scope,
            "prune_biases": recipe.prune_biases,
            "ticket_epochs": recipe.epochs,
            **{f"num_{part}": count for part, count in zip(PARTS, self.plan.pairs, strict=True)},
            "standardized": self.standardize,
            "access": "weights",
            "recipe_hash": recipe.hash,
        }
        return facts | ({"origin": self._tables.origin} if self._tables else {})

    def prepare_data(self) -> None:
        """Reads the zoo's file, after building it if it isn't there."""
        if self._tables is None:
            self._data = self._data or self._open()

    def _open(self) -> ZooData:
        return open_zoo(self.path, self.plan, self.data_dir, device=self.fit_device)

    def setup(self, stage: str | None = None) -> None:
        """Puts the pairs on the trainer's device, once. ``stage`` makes no difference."""
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        if self._tables is None or self._tables.device != device:
            self._tables, self._data = TicketTables(self, self._data or self._open(), device), None

    @property
    def tables(self) -> TicketTables:
        if self._tables is None:
            raise ValueError("the zoo is not loaded yet: call prepare_data() and setup() first.")
        return self._tables

    def known_accuracy(self) -> dict[str, NDArray[np.float32]]:
        """Test accuracy (held-out pairs,) of the dense networks, of IMP's tickets and of the baselines, by name."""
        rows = self.tables.rows["test"]
        return {name: values[rows] for name, values in self.tables.accuracy.items()}

    @torch.inference_mode(False)  # the test of a task runs in that mode, and SNIP needs gradients
    @torch.enable_grad()
    def known_masks(self, index: Tensor, sparsity: float | None = None) -> dict[str, Tensor]:
        """The masks (B, T) of IMP and of the baselines for pairs (B,), by name.

        Args:
            index: of the pairs.
            sparsity: another one than the zoo's; IMP is then done anew, which takes a dense training.
        """
        trainer = self._make_trainer(sparsity)
        init = torch.from_numpy(self.tables.init[index.cpu().numpy()]).to(trainer.device)
        if sparsity in (None, self.plan.recipe.sparsity):
            imp = self.tables.mask.clone()[index.to(self.tables.device)].to(trainer.device).bool()
        else:
            imp = trainer.pruning.keep_largest(self.spec, trainer.train(init).abs())
        return {"imp": imp, **baseline_masks(trainer, init, imp, index.tolist())}

    @torch.inference_mode(False)
    @torch.enable_grad()
    def mask_accuracy(self, index: Tensor, masks: Tensor) -> NDArray[np.float32]:
        """Trains the initialisations of pairs (B,) under masks (B, T), all at once: their test accuracies (B,)."""
        trainer = self._make_trainer(None)
        init = torch.from_numpy(self.tables.init[index.cpu().numpy()]).to(trainer.device)
        return trainer.masked_accuracy(init, masks.clone().to(trainer.device))

    def _make_trainer(self, sparsity: float | None) -> TicketTrainer:
        if self._trainer is None:
            self._trainer = self.plan.make_trainer(self.data_dir, self.fit_device)
        return self._trainer if sparsity is None else self._trainer.at_sparsity(sparsity)

    def train_dataloader(self) -> DataLoader[ZooBatch]:
        rows = self.tables.rows["train"][:, None]
        return self._loader(ViewSampler(rows, self.batch_size, 1, self.seed))

    def val_dataloader(self) -> DataLoader[ZooBatch]:
        return self._loader(OrderedSampler(self.tables.rows["val"], self.eval_batch_size))

    def test_dataloader(self) -> DataLoader[ZooBatch]:
        return self._loader(OrderedSampler(self.tables.rows["test"], self.eval_batch_size))

    def _loader(self, sampler: ViewSampler | OrderedSampler) -> DataLoader[ZooBatch]:
        # Batches come whole from the dataset. The generator keeps the loader from drawing on the global one.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(
            TicketBatches(self.tables), batch_size=None, sampler=sampler, num_workers=0, generator=generator
        )


class TicketTables:
    """The pairs of a `TicketZoo`, a row each: a pair's row is its number.

    ``ready`` (N, T): initialisations as a model reads them, ``mask`` (N, T) uint8, both on the device; ``init`` (N, T)
    as they are trained; ``accuracy``: columns (N,) by name; ``rows``: those of each part.
    """

    def __init__(self, zoo: TicketZoo, data: ZooData, device: torch.device) -> None:
        self.device, self.spec, self.init = device, zoo.spec, data.params
        self.rows = {part: np.flatnonzero(data.extra["split"] == part) for part in PARTS}
        raw = torch.from_numpy(data.params).to(device)
        mean, std, _ = moments(zoo.spec, raw[torch.from_numpy(self.rows["train"]).to(device)], zoo.standardize)
        self.ready = raw if zoo.standardize == "none" else (raw - mean) / std
        self.mask = torch.from_numpy(data.extra["mask"]).to(device)
        self.index = torch.from_numpy(data.index).to(device)
        self.accuracy: Mapping[str, NDArray[np.float32]] = {
            "dense": data.extra["dense_accuracy"],
            "imp": data.extra["ticket_accuracy"],
            **{name: data.extra[f"accuracy.{name}"] for name in BASELINES},
        }
        self.origin = data.attributes.get("origin", "unknown")


class TicketBatches(Dataset[ZooBatch]):
    """Indexed by a whole batch of rows at once; the target is the mask (B, T), float32 of 0 and 1."""

    def __init__(self, tables: TicketTables) -> None:
        self.tables = tables

    def __getitem__(self, batch: BatchRows) -> ZooBatch:
        tables, rows = self.tables, batch.rows.to(self.tables.device)
        features = WeightSpaceFeatures.from_flat(tables.spec, tables.ready[rows])
        index = tables.index[rows]
        return ZooBatch(features, tables.mask[rows].float(), index, torch.zeros_like(index))
