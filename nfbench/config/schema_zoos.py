"""Schemas of the zoos: field names are those of the class behind `target`, plus `name` and `target`."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class SirenZooConfig:
    """`nfbench.zoos.siren.SirenZoo`. A null recipe key is as `definition` says."""

    name: str = MISSING
    target: str = MISSING
    source: str = MISSING
    definition: str = MISSING
    widths: list[int] | None = None
    w0_first: float | None = None
    w0_hidden: float | None = None
    init: str | None = None
    init_scale: float | None = None
    bias_init: str | None = None
    output_offset: float | None = None
    pixel_min: float | None = None
    pixel_max: float | None = None
    grid: str | None = None
    lr: float | None = None
    num_steps: int | None = None
    stop_psnr: float | None = None
    zoo_seed: int = MISSING
    split: str | None = None
    num_images: int | None = None
    num_views: int = MISSING
    eval_views: str = MISSING
    canonicalize: bool = MISSING
    augment_rotation: float = MISSING
    augment_scale: float = MISSING
    augment_shift: float = MISSING
    standardize: str = MISSING
    batch_size: int = MISSING
    eval_batch_size: int = MISSING
    views_per_epoch: int = MISSING
    seed: int = MISSING
    file_name: str | None = None
    data_dir: str = MISSING
    zoo_dir: str = MISSING
    threads: int | None = None
    fit_device: str = MISSING


ZOO_SCHEMAS = {"siren": SirenZooConfig}
