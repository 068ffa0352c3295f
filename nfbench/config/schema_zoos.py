"""Schemas of the zoos: field names are those of the class behind `target`, plus `name` and `target`.

A recipe key shows the number that `zoo.definition` stands for, so that configs, hashes and summaries have it; another
value given for it wins.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import II, MISSING, ListConfig, OmegaConf

from nfbench.zoos import cnn_recipe as cnn_recipes
from nfbench.zoos import recipe as recipes
from nfbench.zoos import ticket_recipe as ticket_recipes


@dataclass
class InrBatchesConfig:
    """What all zoos of INRs have."""

    name: str = MISSING
    target: str = MISSING
    eval_views: str = MISSING
    canonicalize: bool = MISSING
    augment_rotation: float = MISSING
    augment_scale: float = MISSING
    augment_shift: float = MISSING
    augment_permute: bool = MISSING
    augment_sine: bool = MISSING
    augment_noise: float = MISSING
    augment_dropout: float = MISSING
    augment_mixup: float = MISSING
    standardize: str = MISSING
    batch_size: int = MISSING
    eval_batch_size: int = MISSING
    views_per_epoch: int = MISSING
    seed: int = MISSING


@dataclass
class InrZooConfig(InrBatchesConfig):
    """What all zoos have whose networks are fitted here."""

    definition: str = MISSING
    widths: list[int] | None = II("nfbench.recipe:widths,${.definition}")  # custom has none: give them
    w0_first: float = II("nfbench.recipe:w0_first,${.definition}")
    w0_hidden: float = II("nfbench.recipe:w0_hidden,${.definition}")
    init: str = II("nfbench.recipe:init,${.definition}")
    init_scale: float = II("nfbench.recipe:init_scale,${.definition}")
    bias_init: str = II("nfbench.recipe:bias_init,${.definition}")
    output_offset: float = II("nfbench.recipe:output_offset,${.definition}")
    optimizer: str = II("nfbench.recipe:optimizer,${.definition}")
    lr: float = II("nfbench.recipe:lr,${.definition}")
    num_steps: int = II("nfbench.recipe:num_steps,${.definition}")
    stop_psnr: float | None = II("nfbench.recipe:stop_psnr,${.definition}")
    zoo_seed: int = MISSING
    num_views: int = MISSING
    file_name: str | None = None
    zoo_dir: str = II("zoo_dir")
    threads: int | None = II("threads")
    fit_device: str = MISSING


@dataclass
class SirenZooConfig(InrZooConfig):
    """`nfbench.zoos.siren.SirenZoo`."""

    source: str = MISSING
    pixel_min: float = II("nfbench.recipe:pixel_min,${.definition}")
    pixel_max: float = II("nfbench.recipe:pixel_max,${.definition}")
    grid: str = II("nfbench.recipe:grid,${.definition}")
    split: str | None = None
    num_images: int | None = None
    augment_flip: str = MISSING
    data_dir: str = II("data_dir")


@dataclass
class InrFileZooConfig(InrBatchesConfig):
    """`nfbench.zoos.imported.InrFileZoo`."""

    file: str | None = None
    fingerprint: str | None = II("nfbench.fingerprint:${.file}")  # of the file's content; given: only this one is taken
    split: str | None = None
    num_images: int | None = None
    num_views: int | None = None
    first_view: int = MISSING
    w0_first: float | None = None  # null: what the file says; also the next five
    w0_hidden: float | None = None
    grid: str | None = None
    output_offset: float | None = None
    pixel_min: float | None = None
    pixel_max: float | None = None
    augment_flip: str = MISSING
    data_dir: str = II("data_dir")  # of the images that task=inr_edit edits


@dataclass
class ShapesZooConfig(InrZooConfig):
    """`nfbench.zoos.shapes.ShapesZoo`."""

    clouds: str | None = None  # a folder with <class>/*.npy or *.ply; None: built-in shapes
    num_shapes: int | None = None  # None: all of the folder, or 4,000 built-in ones
    points: int = MISSING
    noise: float = MISSING
    pose: str = MISSING
    samples: int = MISSING
    augment_turn: float = MISSING


@dataclass
class ClassifierZooConfig:
    """`nfbench.zoos.classifiers.ClassifierZoo`."""

    name: str = MISSING
    target: str = MISSING
    file: str = MISSING
    source: str = MISSING
    spec: str = MISSING
    steps: str = MISSING
    num_networks: int | None = None
    standardize: str = MISSING
    augment_permute: bool = MISSING
    augment_noise: float = MISSING
    augment_dropout: float = MISSING
    batch_size: int = MISSING
    eval_batch_size: int = MISSING
    seed: int = MISSING
    fingerprint: str | None = II("nfbench.fingerprint:${.file}")  # of the file's content; given: only this one is taken


@dataclass
class ClassifierFileZooConfig(ClassifierZooConfig):
    """`nfbench.zoos.classifiers.ClassifierZoo` of a file that says what it holds."""

    file: str | None = None  # type: ignore[assignment]  # must be given
    source: str | None = None  # type: ignore[assignment]  # None: what the file says
    spec: str | None = None  # type: ignore[assignment]  # None: what the file says


@dataclass
class CnnZooConfig(ClassifierZooConfig):
    """`nfbench.zoos.cnn.CnnZoo`."""

    file: str | None = None  # type: ignore[assignment]  # None: in zoo_dir, by a name of its own
    fingerprint: str | None = None  # a zoo that is built here is known by what is given here
    size: str = MISSING
    num_runs: int = II("nfbench.runs:num_runs,${.spec},${.size}")
    epochs: int = II("nfbench.runs:epochs,${.spec},${.size}")
    checkpoints: Any = II("nfbench.runs:checkpoints,${.spec},${.size}")  # epochs, or how many are drawn for each run
    fit_batch_size: int = II("nfbench.runs:fit_batch_size,${.spec},${.size}")
    num_train: int | None = II("nfbench.runs:num_train,${.spec},${.size}")
    num_eval: int | None = II("nfbench.runs:num_eval,${.spec},${.size}")
    zoo_seed: int = MISSING
    data_dir: str = II("data_dir")
    zoo_dir: str = II("zoo_dir")
    threads: int | None = II("threads")
    fit_device: str = MISSING


@dataclass
class TicketZooConfig:
    """`nfbench.zoos.tickets.TicketZoo`."""

    name: str = MISSING
    target: str = MISSING
    source: str = MISSING
    size: str = MISSING
    spec: str = II("nfbench.tickets:spec,${.source},${.size}")
    num_pairs: int = II("nfbench.tickets:num_pairs,${.source},${.size}")
    num_val_pairs: int = II("nfbench.tickets:num_val_pairs,${.source},${.size}")
    num_test_pairs: int = II("nfbench.tickets:num_test_pairs,${.source},${.size}")
    epochs: int = II("nfbench.tickets:epochs,${.source},${.size}")
    num_train: int | None = II("nfbench.tickets:num_train,${.source},${.size}")
    num_eval: int | None = II("nfbench.tickets:num_eval,${.source},${.size}")
    sparsity: float = MISSING
    scope: str = MISSING
    prune_biases: bool = MISSING
    init: str = MISSING
    optimizer: str = MISSING
    lr: float = MISSING
    fit_batch_size: int = MISSING
    pixel_min: float = MISSING
    score_images: int = MISSING
    zoo_seed: int = MISSING
    data_dir: str = II("data_dir")
    zoo_dir: str = II("zoo_dir")
    fit_device: str = MISSING
    standardize: str = MISSING
    batch_size: int = MISSING
    eval_batch_size: int = MISSING
    seed: int = MISSING


ZOO_SCHEMAS = {
    "siren": SirenZooConfig,
    "inr_file": InrFileZooConfig,
    "shapes": ShapesZooConfig,
    "classifiers": ClassifierZooConfig,
    "classifier_file": ClassifierFileZooConfig,
    "cnn": CnnZooConfig,
    "tickets": TicketZooConfig,
}


def recipe_value(key: str, definition: str) -> Any:
    """What `${nfbench.recipe:key,definition}` stands for in a config."""
    if definition == "custom":
        default = recipes.SirenRecipe.__dataclass_fields__[key].default
        return None if key == "widths" else default
    value = recipes.make_recipe(definition)[0].to_plain()[key]
    return ListConfig(value) if isinstance(value, list) else value


def runs_value(key: str, spec: str, size: str) -> Any:
    """What `${nfbench.runs:key,spec,size}` stands for in a config."""
    value = cnn_recipes.size_values(spec, size)[key]
    return ListConfig(value) if isinstance(value, list) else value


def tickets_value(key: str, source: str, size: str) -> Any:
    """What `${nfbench.tickets:key,source,size}` stands for in a config."""
    return ticket_recipes.size_values(source, size)[key]


def file_fingerprint(file: str | None) -> str | None:
    """What `${nfbench.fingerprint:file}` stands for in a config; None where the file is not there."""
    from nfbench.zoos.store import read_fingerprint  # it takes a moment, and only this zoo needs it

    return read_fingerprint(Path(file)) if file else None


def register_resolver() -> None:
    """Tells OmegaConf the resolvers `nfbench.recipe` and `nfbench.fingerprint`."""
    OmegaConf.register_new_resolver("nfbench.fingerprint", file_fingerprint, replace=True)
    OmegaConf.register_new_resolver("nfbench.recipe", recipe_value, replace=True)
    OmegaConf.register_new_resolver("nfbench.runs", runs_value, replace=True)
    OmegaConf.register_new_resolver("nfbench.tickets", tickets_value, replace=True)
