"""`ClassifierZoo`: trained classifiers with their test accuracy, out of a file in the store.

Special here:
- A run is the training of one network, a network one of its checkpoints. All networks of a run are in one part of the
  split, so that no test network has a younger self in the training set.
- The columns of the file are those of the Small CNN Zoo's table of metrics (arXiv 2002.11448); `test_accuracy` is the
  target, `config.activation` tells the groups that results are broken down by.
- A zoo that makes its own file overrides `ClassifierZoo._open`.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from nfbench.weightspace import Mixup, NetworkSpec, WeightSpaceFeatures, ZooBatch
from nfbench.zoos.augmentation import Augmentation
from nfbench.zoos.reader import NetworkReader
from nfbench.zoos.sampler import OrderedSampler, ViewSampler
from nfbench.zoos.splits import Split, nested_parts
from nfbench.zoos.store import ZooData, fingerprint, read_zoo
from nfbench.zoos.tables import ZooBatches

TARGET, GROUP = "test_accuracy", "config.activation"
STEPS = ("final", "all")
STANDARDIZE = ("none", "layer", "entry")
ARCHIVES = {"cifar10": "cifar10", "svhn": "svhn_cropped", "mnist": "mnist", "fashion": "fashion_mnist"}
_SOURCES = {archive: source for source, archive in ARCHIVES.items()}
SPLITS = {"svhn": "svhn", "fashion": "fashion_mnist"}  # other names of the authors' split files
ADVICE = "It was not changed. Import the zoo again (data/README.md), or choose another file with zoo.file=..."
IMPORT = "Import one with scripts/import_zoo.py (data/README.md), and name it with zoo.file=..."
_MOST = 10**7  # numbers of runs up to which the order of runs is drawn over all numbers
_STREAM = 20231206  # fixed for ever: a change would move runs between the parts
log = logging.getLogger(__name__)


class ClassifierZoo(lightning.LightningDataModule):
    """Classifiers of one architecture and their test accuracies in [0, 1]; all of them one tensor on the device.

    Args:
        file: of the networks; a subclass may make it.
        source: which images the networks classify: cifar10, svhn, mnist or fashion of the Small CNN Zoo, or another
            name. None: what the file says.
        spec: architecture of the networks, such as "1-16c3-16c3-16c3-10:relu"; the file must have it. Its activation
            is a name only: a zoo may mix relu and tanh. None: what the file says.
        steps: "final": the last checkpoint of each run, in the published Small CNN Zoo those after the last step of
            training (the published protocol); "all": every checkpoint.
        num_networks: how many runs, in the proportions of the split; more of them have all of fewer. None: all.
        standardize: "none"; "layer": one mean and standard deviation for each weight and bias tensor, over the training
            networks, which keeps the permutation symmetry; "entry": one for each position, as the authors' NFN_NP has
            it, which breaks the symmetry.
        augment_permute: order of hidden neurons; exact.
        augment_noise: approximate; relative to the spread of each tensor over the training networks.
        augment_dropout: approximate.
        batch_size: of training.
        eval_batch_size: of validation and test.
        seed: of order and augmentations.
        fingerprint: of the file that is meant; another one is refused. The config fills it in, so that a run is named
            after the content. None: any.

    Raises:
        ValueError: a value that is not allowed, with those that are; no file, where it has to say spec or source.
    """

    group_name = "activation"  # what `groups` tells of a network

    def __init__(
        self,
        *,
        file: str | None,
        source: str | None,
        spec: str | None,
        steps: str,
        num_networks: int | None,
        standardize: str,
        augment_permute: bool,
        augment_noise: float,
        augment_dropout: float,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        for key, value, allowed in (("steps", steps, STEPS), ("standardize", standardize, STANDARDIZE)):
            if value not in allowed:
                raise ValueError(f"zoo.{key}={value!r} is not known. Choose one of: {', '.join(allowed)}.")
        for key, count in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if count < 1:
                raise ValueError(f"zoo.{key}={count} must be 1 or more.")
        if not file:
            raise ValueError(f"zoo.file names no file of classifiers: zoo.file=data/zoos/NAME.h5. {IMPORT}")
        self.steps, self.num_networks, self.standardize = steps, num_networks, standardize
        self.augment = Augmentation(permute=augment_permute, noise=augment_noise, dropout=augment_dropout)
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.path, self.fingerprint = Path(file), fingerprint
        self._data: ZooData | None = None  # what prepare_data read, until the tables are made of it
        self._tables: ClassifierTables | None = None
        self.source = source or ""
        if source is None or spec is None:
            self._data = self._open()
        said = self._data.manifest if self._data else {}
        self.source = source or (_SOURCES if said.get("layout") == "small_cnn" else {}).get(
            str(said.get("source")), str(said.get("source"))
        )
        self.spec = NetworkSpec.parse(spec or str(said.get("spec")))

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """What a result must say about its data; known before any data is there, but for counts and origin."""
        entry = " (each position: breaks the permutation symmetry)" if self.standardize == "entry" else ""
        return {
            "dataset": self.source,
            "definition": self._definition(),
            "steps": self.steps,
            "standardized": f"{self.standardize}{entry}",
            "augmentations": self.augment.describe(),
            "access": "weights",
            **(self._tables.facts if self._tables else {}),
        }

    def _definition(self) -> str:
        """As the file says once it was read: `small_cnn`, `imported (folder)`, `built`."""
        said = self._tables.manifest if self._tables else {}
        if said.get("kind") == "classifiers":
            return "built"
        layout = str(said.get("layout", "small_cnn"))
        return layout if layout == "small_cnn" else f"imported ({layout})"

    def prepare_data(self) -> None:
        """Reads the zoo's file, or makes it where that is this zoo's way."""
        if self._tables is None:
            self._data = self._data or self._open()

    def _open(self) -> ZooData:
        """The whole zoo as it is in the file. Subclasses make the file first if it isn't there.

        Columns that are read: `test_accuracy`, and if they are there `step` (of training), `config.activation`, and
        `split` (train, val, test or none). Rows are sorted by (index, view): index is the run, view the checkpoint.

        Raises:
            ValueError: no such file, with how to come by it.
        """
        if not self.path.is_file():
            raise ValueError(f"there is no zoo {self.path}. {how_to_get(self)}")
        data = read_zoo(self.path, advice=ADVICE)
        if self.fingerprint not in (None, fingerprint(data.attributes)):
            raise ValueError(f"{self.path} was exchanged since this run began: start it again to use the new file.")
        return data

    def setup(self, stage: str | None = None) -> None:
        """Puts the networks on the trainer's device, once. ``stage`` makes no difference."""
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        if self._tables is None or self._tables.device != device:
            self._tables, self._data = ClassifierTables(self, self._data or self._open(), device), None

    @property
    def tables(self) -> ClassifierTables:
        if self._tables is None:
            raise ValueError("the zoo is not loaded yet: call prepare_data() and setup() first.")
        return self._tables

    @property
    def reader(self) -> NetworkReader:
        """How other networks become what a model of this zoo reads; after `setup`."""
        return NetworkReader(self.spec, self.tables.mean, self.tables.std)

    @property
    def split(self) -> Split:
        """Runs of each part; known when the zoo is loaded."""
        return self.tables.split

    def groups(self, index: Tensor, view: Tensor) -> list[str]:
        """Activation of networks, as they are in a batch; "" where the zoo doesn't say."""
        return [str(group) for group in self.tables.group[self.tables.rows_at(index, view)]]

    def train_dataloader(self) -> DataLoader[ZooBatch]:
        rows = self.tables.rows_of(self.split.train)[:, None]
        return self._loader(ViewSampler(rows, self.batch_size, 1, self.seed), train=True)

    def val_dataloader(self) -> DataLoader[ZooBatch]:
        return self._loader(OrderedSampler(self.tables.rows_of(self.split.val), self.eval_batch_size))

    def test_dataloader(self) -> DataLoader[ZooBatch]:
        return self._loader(OrderedSampler(self.tables.rows_of(self.split.test), self.eval_batch_size))

    def _loader(self, sampler: ViewSampler | OrderedSampler, train: bool = False) -> DataLoader[ZooBatch]:
        # Batches come whole from the dataset. The generator keeps the loader from drawing on the global one.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(
            ZooBatches(self.tables, train), batch_size=None, sampler=sampler, num_workers=0, generator=generator
        )


class ClassifierTables:
    """The networks of a `ClassifierZoo` that are used, a row each, sorted by (run, checkpoint).

    ``ready`` (N, T): weights, standardised as the zoo says; ``label`` (N,): test accuracy; ``index``, ``view`` (N,):
    run and checkpoint; ``group`` (N,): activation; ``mean``, ``std`` (T,): of the standardisation; ``spread`` (T,):
    standard deviation of each entry's tensor over the training networks; ``facts``: for a result's protocol;
    ``manifest``: of the file.

    Raises:
        ValueError: another architecture, no accuracies, or accuracies that are no shares.
    """

    num_classes = 0  # no classes: `ZooBatches` asks where mixup is on, which it never is here

    def __init__(self, zoo: ClassifierZoo, data: ZooData, device: torch.device) -> None:
        self.device, self.spec, self.augment, self.manifest = device, zoo.spec, zoo.augment, data.manifest
        _check(zoo, data)
        accuracy = data.extra[TARGET]
        used = np.isfinite(accuracy)
        if zoo.steps == "final":
            used &= final(data)
        part = data.extra["split"][used] if "split" in data.extra else None
        self.split, rule = split_runs(data.index[used], part, zoo.num_networks)
        used &= np.isin(data.index, self.split.all_images)
        if left_out := int((~np.isfinite(accuracy)).sum()):
            log.info("%s: %d networks have no %s and are left out", zoo.path, left_out, TARGET)
        self._index, self._view = data.index[used], data.view[used]
        self.group = data.extra.get(GROUP, np.full(len(accuracy), ""))[used]
        self.label = torch.from_numpy(accuracy[used].astype(np.float32)).to(device)
        self.index, self.view = torch.from_numpy(self._index).to(device), torch.from_numpy(self._view).to(device)
        raw = torch.from_numpy(data.params[used]).to(device)
        train = raw[torch.from_numpy(self.rows_of(self.split.train)).to(device)]
        self.mean, self.std, self.spread = moments(self.spec, train, zoo.standardize)
        self.raw, self.ready = raw, raw if zoo.standardize == "none" else (raw - self.mean) / self.std
        self.facts: dict[str, Any] = {
            "split": rule,
            "num_networks": len(self._index),
            **{f"num_{part}": len(self.rows_of(runs)) for part, runs in self.split.parts.items()},
            "origin": data.attributes.get("origin", "unknown"),
        }

    def rows_of(self, runs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of these runs, ascending."""
        return np.flatnonzero(np.isin(self._index, runs))

    def rows_at(self, index: Tensor, view: Tensor) -> NDArray[np.int64]:
        """Rows of these networks."""
        views = int(self._view.max()) + 1
        return np.searchsorted(self._index * views + self._view, (index * views + view).cpu().numpy())

    def augmented(self, rows: Tensor, seed: int) -> tuple[Tensor, Mixup | None]:
        """Rows (B, T) as in ``ready``, but augmented; never mixed."""
        generator = torch.Generator().manual_seed(seed)  # of the CPU, so that a seed means the same on every device
        networks = WeightSpaceFeatures.from_flat(self.spec, self.raw[rows])
        networks, mixup = self.augment.disturb(networks, self.spread, generator)
        networks = self.augment.reparametrize(networks, generator)
        return (networks.flatten()[..., 0] - self.mean) / self.std, mixup


def moments(spec: NetworkSpec, train: Tensor, standardize: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation for the standardisation, and the spread of each tensor.

    Args:
        spec: of the networks.
        train: (n, T) training networks.
        standardize: "none", "layer" (one number a tensor) or "entry" (one a position: NFN_NP in the authors' code,
            where a standard deviation below 1e-5 counts as 1, as here).

    Returns:
        Three tensors (T,): mean and standard deviation (0 and 1 for "none"), and the standard deviation of all entries
        of a tensor. All are of the population, not unbiased.
    """
    mean, std, spread = torch.zeros_like(train[0]), torch.ones_like(train[0]), torch.zeros_like(train[0])
    for where in spec.scalar_slices():
        part = train[:, where].double()
        spread[where] = part.std(correction=0).to(spread)
        if standardize == "layer":
            mean[where], std[where] = part.mean().to(mean), spread[where]
        elif standardize == "entry":
            mean[where], std[where] = part.mean(0).to(mean), part.std(0, correction=0).to(std)
    return mean, torch.where(std < 1e-5, 1.0, std), spread


def final(data: ZooData) -> NDArray[np.bool_]:
    """Which networks (N,) are the last of their run: of the highest ``step``, or ``view`` where there are no steps.

    In the Small CNN Zoo those of the last step of all, as published: a run whose last network is broken has none.
    """
    step = np.asarray(data.extra.get("step", data.view), float)
    step = np.where(np.isfinite(step), step, -np.inf)
    if data.manifest.get("layout", "small_cnn") == "small_cnn" and data.manifest.get("kind") != "classifiers":
        return np.asarray(step == step.max())
    _, run = np.unique(data.index, return_inverse=True)
    last = np.full(run.max(initial=-1) + 1, -np.inf)
    np.maximum.at(last, run, step)
    return np.asarray((step == last[run]) & np.isfinite(step))


def split_runs(
    index: NDArray[np.int64], part: NDArray[np.str_] | None, num_runs: int | None = None
) -> tuple[Split, str]:
    """Which runs are for training, validation and testing.

    Without ``part`` as the NFN code splits networks, but by run and in a fixed random order of our own: the second half
    for testing; the first half, shuffled by Python's `random.Random(0)`, 80 % for training and 20 % for validation.

    Args:
        index: (N,) run of each network.
        part: (N,) train, val, test or none of each network, if its file says so. In the authors' split only final
            networks have a part; their runs' other checkpoints come along.
        num_runs: a nested subset; None: all.

    Returns:
        The runs of each part, in the fixed order in which subsets take them, and the rule in words.

    Raises:
        ValueError: a run in two parts, an empty part, too few or too many runs.
    """
    runs = np.unique(index)
    random_order = np.random.Generator(np.random.PCG64(_STREAM))
    if runs[0] >= 0 and runs[-1] < _MOST:
        order = random_order.permutation(int(runs[-1]) + 1)
        order = order[np.isin(order, runs)].astype(np.int64)
    else:  # such as times of day, or hashes
        order = runs[random_order.permutation(len(runs))]
    if part is None:
        half = len(order) // 2
        first = order[:half].tolist()
        random.Random(0).shuffle(first)
        train = int(0.8 * half)
        parts = [np.array(first[:train], np.int64), np.array(first[train:], np.int64), order[half:]]
        rule = "by run: half for the test, the others 80/20"
    else:
        parts = [order[np.isin(order, index[part == name])] for name in ("train", "val", "test")]
        rule = "the file's own"
        if len(np.unique(np.concatenate(parts))) < sum(map(len, parts)):
            raise ValueError("the column `split` of the zoo has one run in two parts: all its networks must be in one.")
    if not all(map(len, parts)):
        raise ValueError(
            f"the zoo has {[len(p) for p in parts]} runs for train, val and test: each needs at least one."
        )
    parts = nested_parts(parts, num_runs, "zoo.num_networks", "runs")
    return Split(*parts), rule


def _check(zoo: ClassifierZoo, data: ZooData) -> None:
    found = NetworkSpec.parse(data.manifest["spec"])
    if found.layers != zoo.spec.layers:
        raise ValueError(
            f"{zoo.path} holds networks {found}, and zoo.spec={zoo.spec}: set zoo.spec to that of the file."
        )
    if TARGET not in data.extra:
        raise ValueError(
            f"{zoo.path} has no column {TARGET}, so nothing to predict; it has {', '.join(data.extra) or 'none'}. "
            "Choose a zoo of classifiers with zoo=... or zoo.file=..."
        )
    if data.extra[TARGET].dtype.kind not in "fiu":
        raise ValueError(f"{zoo.path}: the column {TARGET} must hold numbers, shares between 0 and 1, not text.")
    known = data.extra[TARGET][np.isfinite(data.extra[TARGET])]
    if not len(known) or known.min() < 0 or known.max() > 1:
        raise ValueError(f"{zoo.path}: the column {TARGET} must hold shares between 0 and 1, not percent.")


def how_to_get(zoo: ClassifierZoo) -> str:
    """Where the published zoos come from, and how they are imported."""
    name, split = ARCHIVES.get(zoo.source), SPLITS.get(zoo.source, zoo.source)
    if name is None:
        return IMPORT
    steps = " --step all" if zoo.steps == "all" else ""
    return (
        f"It is made of a published archive: get {name}.tar.xz (where from: data/README.md, `small_cnn`) and, for the "
        f"authors' split, {split}_split.csv of their repository; unpack it, then\n  python scripts/import_zoo.py "
        f"small_cnn {name} --split-csv {split}_split.csv{steps} --out {zoo.path}\nOr give the path of an imported zoo "
        "with zoo.file=..."
    )
