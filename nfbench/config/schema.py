"""The types of every key that a person can mistype. No torch here: `--help` must answer at once.

One dataclass an option: each YAML file of `conf/` starts from its schema (`defaults: [foo_schema, _self_]`). Fields
carry no numbers where a YAML file gives them: those are in `conf/`, in one place.
"""

import importlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import II, MISSING, OmegaConf

from nfbench.config.identity import config_hash, encoder_hash, sweep_hash
from nfbench.config.schema_models import MODEL_SCHEMAS
from nfbench.config.schema_zoos import ZOO_SCHEMAS, register_resolver

DIRECTIONS = {"max": "maximize", "min": "minimize"}  # task.mode in Optuna's words
CONF = Path(__file__).resolve().parents[2] / "conf"


@dataclass
class TaskConfig:
    """What every task has."""

    name: str = MISSING
    target: str = MISSING  # the class, as a dotted path
    report: str | None = None  # module whose draw(folder) makes the picture of a run
    metric: str = MISSING  # the number a run is known by
    monitor: str = MISSING  # best.ckpt is the epoch where this is best
    mode: str = MISSING  # max or min
    optimizer: str = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING
    schedule: str = MISSING
    warmup_steps: int = MISSING
    warmup_share: float = 0.1  # of the run, at most
    ema_decay: float = MISSING


@dataclass
class InrClsConfig(TaskConfig):
    """`nfbench.tasks.inr_cls.InrClassification`."""

    label_smoothing: float = MISSING


@dataclass
class CnnGenConfig(TaskConfig):
    """`nfbench.tasks.cnn_gen.CnnGeneralization`."""


@dataclass
class InrEditConfig(TaskConfig):
    """`nfbench.tasks.inr_edit.InrEditing`."""

    edit: str = MISSING


@dataclass
class TicketsConfig(TaskConfig):
    """`nfbench.tasks.tickets.WinningTickets`."""

    kl_weight: float = MISSING
    latent: str = MISSING
    samples: int = MISSING
    cut: str = MISSING


@dataclass
class Inr2ArrayConfig(TaskConfig):
    """`nfbench.tasks.inr2array.Inr2ArrayTask`."""

    num_latents: int = MISSING
    spatial: bool = MISSING
    decoder: str = MISSING
    decoder_width: int = MISSING
    decoder_hidden: int = MISSING
    additive: bool = MISSING
    tiling: str = MISSING
    loss_target: str = MISSING  # inr or image
    joint_weight: float = MISSING


@dataclass
class Inr2ArrayClsConfig(InrClsConfig):
    """`nfbench.tasks.inr2array_cls.Inr2ArrayClassification`."""

    encoder: str | None = II("encoder")
    encoder_hash: str | None = II("nfbench.encoder_hash:${encoder}")  # of its weights; given: only this one is taken
    views: str = MISSING
    augmented_epochs: int = MISSING
    encode_batch_size: int = MISSING
    width: int = MISSING
    num_blocks: int = MISSING
    num_heads: int = MISSING
    ff_width: int = MISSING
    dropout: float = MISSING
    max_latents: int = MISSING


@dataclass
class TrainerConfig:
    """The Trainer flags used here, and `compile`. Any other flag passes through: `+trainer.limit_train_batches=2`."""

    max_epochs: int = MISSING
    accelerator: str = MISSING
    devices: int = MISSING
    precision: str = MISSING
    compile: bool = MISSING
    gradient_clip_val: float | None = None
    check_val_every_n_epoch: int = MISSING
    log_every_n_steps: int = MISSING
    enable_progress_bar: bool = MISSING


@dataclass
class LoggerConfig:
    """`metrics.csv` is always written; W&B beside it where `mode` says so."""

    name: str = MISSING
    mode: str = MISSING  # disabled, offline or online
    project: str = MISSING
    entity: str | None = None
    group: str | None = None  # None: the sweep, or task, model and zoo
    job_type: str | None = None  # None: train, or tune where a sweeper searches
    tags: list[str] = field(default_factory=list)


@dataclass
class SweepConfig:
    """What a sweep does with the runs it has, whichever launcher starts them."""

    skip_done: bool = MISSING


@dataclass
class Config:
    """The top of the config. The groups are typed by the schema of the chosen option."""

    task: Any = MISSING
    model: Any = MISSING
    zoo: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    seed: int = MISSING
    ckpt_path: str | None = MISSING
    encoder: str | None = MISSING
    rerun: bool = MISSING
    test: bool = MISSING
    sweep: SweepConfig = field(default_factory=SweepConfig)
    threads: int | None = MISSING
    size: str = MISSING
    output_dir: str = MISSING
    data_dir: str = MISSING
    zoo_dir: str = MISSING


def options() -> dict[str, list[str]]:
    """The options of each group, read from the files of `conf/`; those in folders (`paper/nfn_np_edit`) come last."""

    def listed(group: Path) -> list[str]:
        names = [file.relative_to(group).with_suffix("").as_posix() for file in group.rglob("*.yaml")]
        return sorted(names, key=lambda name: ("/" in name, name))

    return {group.name: listed(group) for group in sorted(CONF.iterdir()) if group.is_dir()}


def _help_options() -> str:
    rows = options()
    width = max(map(len, rows))
    return "\n".join(f"  {group:<{width}}  {', '.join(names)}" for group, names in rows.items())


def register() -> None:
    """Tells Hydra the schemas, and the resolvers that the config uses. Calling it twice does no harm."""
    store = ConfigStore.instance()
    # Hydra copies the store once for each group that `--help` lists, and nobody changes a copy: `load` makes its own.
    store.__dict__["__deepcopy__"] = lambda memo: store
    store.store("config_schema", Config)
    store.store("inr_cls_schema", InrClsConfig, group="task")
    store.store("cnn_gen_schema", CnnGenConfig, group="task")
    store.store("inr_edit_schema", InrEditConfig, group="task")
    store.store("tickets_schema", TicketsConfig, group="task")
    store.store("inr2array_schema", Inr2ArrayConfig, group="task")
    store.store("inr2array_cls_schema", Inr2ArrayClsConfig, group="task")
    store.store("trainer_schema", TrainerConfig, group="trainer")
    store.store("logger_schema", LoggerConfig, group="logger")
    for group, schemas in (("model", MODEL_SCHEMAS), ("zoo", ZOO_SCHEMAS)):
        for name, schema in schemas.items():
            store.store(f"{name}_schema", schema, group=group)
    OmegaConf.register_new_resolver("nfbench.hash", lambda *, _root_: config_hash(_root_), replace=True)
    OmegaConf.register_new_resolver("nfbench.encoder_hash", encoder_hash, replace=True)
    OmegaConf.register_new_resolver("nfbench.direction", DIRECTIONS.__getitem__, replace=True)
    # Cached: the jobs of a sweep, whose own overrides differ, get the folder of the sweep.
    OmegaConf.register_new_resolver("nfbench.sweep_hash", sweep_hash, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("nfbench.options", _help_options, replace=True)
    # Optuna 2.10, which Hydra's sweeper needs, is of the time of SQLAlchemy 1.4, which warns of its successor.
    os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")
    importlib.import_module("hydra_plugins.nfbench_launchers")  # before a config that names them is composed
    register_resolver()
