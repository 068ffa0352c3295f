"""Schemas of the zoos: field names are those of the class behind `target`, plus `name` and `target`.

A recipe key shows the number that `zoo.definition` stands for, so that configs, hashes and summaries have it; another
value given for it wins.
"""

from dataclasses import dataclass
from typing import Any

from omegaconf import II, MISSING, ListConfig, OmegaConf

from nfbench.zoos import recipe as recipes


@dataclass
class InrZooConfig:
    """What all zoos of fitted networks have."""

    name: str = MISSING
    target: str = MISSING
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
class ShapesZooConfig(InrZooConfig):
    """`nfbench.zoos.shapes.ShapesZoo`."""

    clouds: str | None = None  # a folder with <class>/*.npy or *.ply; None: built-in shapes
    num_shapes: int | None = None  # None: all of the folder, or 4,000 built-in ones
    points: int = MISSING
    noise: float = MISSING
    pose: str = MISSING
    samples: int = MISSING
    augment_turn: float = MISSING


ZOO_SCHEMAS = {"siren": SirenZooConfig, "shapes": ShapesZooConfig}


def recipe_value(key: str, definition: str) -> Any:
    """What `${nfbench.recipe:key,definition}` stands for in a config."""
    if definition == "custom":
        default = recipes.SirenRecipe.__dataclass_fields__[key].default
        return None if key == "widths" else default
    value = recipes.make_recipe(definition)[0].to_plain()[key]
    return ListConfig(value) if isinstance(value, list) else value


def register_resolver() -> None:
    """Tells OmegaConf the resolver `nfbench.recipe`."""
    OmegaConf.register_new_resolver("nfbench.recipe", recipe_value, replace=True)
