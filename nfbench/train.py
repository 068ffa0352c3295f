"""One run: build, fit or resume, test, write down.

Four hops from the command line: run.py -> run(cfg) -> build_*(cfg) -> trainer.fit(task, zoo).
"""

import importlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins import Precision
from omegaconf import DictConfig, OmegaConf
from torch import nn

from nfbench.allocator import keep_freed_memory
from nfbench.cluster import cluster_plugins, slurm_job
from nfbench.config.build import build_latent_model, build_latent_zoo, build_model, build_task, build_trainer, build_zoo
from nfbench.config.encoder import adopt_encoder, load_encoder
from nfbench.config.errors import did_you_mean
from nfbench.config.identity import config_hash, identity
from nfbench.config.job import Job
from nfbench.machine import commit, device_type, machine, peak_memory_mb, reset_peak_memory, versions
from nfbench.progress import EpochBar, progress, quiet_lightning
from nfbench.report.published import larger_is_better
from nfbench.report.run_folder import RunFolder
from nfbench.resume import AtomicCheckpointIO, BestCheckpoint, RunState, adopt_best, check_same_run, read_checkpoint
from nfbench.tracking import MetricsCSV, WandbView, log_protocol, log_result, wandb_logger

log = logging.getLogger(__name__)
SIZES = ("tiny", "cpu", "full")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")  # the last three are Lightning's short names
SAMPLES = 12  # test items that are rendered for the picture


def run(cfg: DictConfig, job: Job) -> dict[str, Any]:
    """Trains and tests one config, or goes on where an earlier process stopped.

    Args:
        cfg: the composed config.
        job: the run folder and the command.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        ValueError: for what the person who typed the command can put right.
    """
    if cfg.size not in SIZES:
        raise ValueError(f"size={cfg.size} is unknown: choose one of {', '.join(SIZES)}")
    if cfg.trainer.devices != 1:
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices}: a run takes one device. To use several, give each a run of its "
            "own: in a sweep with launcher=submitit_local hydra.launcher.parallel=N, or with CUDA_VISIBLE_DEVICES"
        )
    if str(cfg.trainer.precision) not in PRECISIONS:
        raise ValueError(
            f"trainer.precision={cfg.trainer.precision} is not one of {', '.join(PRECISIONS)}: weights and what is "
            "reported are of float32, and a training step may be in a lower precision"
        )
    cfg = adopt_encoder(cfg, job.overrides)
    report = report_module(cfg.task.report)
    folder = RunFolder(job.folder)
    with folder.locked():
        if cfg.rerun and (old := folder.set_aside()):
            log.info("rerun: the earlier run is in %s", os.path.relpath(old))
        me = identity(cfg)
        done = folder.summary()
        if done is not None:
            if done.get("config_hash") != config_hash(cfg) or done.get("seed") != cfg.seed:
                raise ValueError(
                    f"{folder.shown} holds a finished run of another config: choose another hydra.run.dir, or for a "
                    "sweep another hydra.sweep.dir"
                )
            if done.get("picture") is None:
                done = draw(report, folder, done)
            log.info("finished before; rerun=true trains it again\n%s", result_line(done, folder))
            return done
        start = checkpoint_to_start_from(cfg, folder, me)
        job.write_hydra_files(cfg)
        with wandb_logger(cfg, job) as wandb_run:
            return _run(cfg, job, folder, me, start, wandb_run, report)


def checkpoint_to_start_from(cfg: DictConfig, folder: RunFolder, me: Mapping[str, Any]) -> Path | None:
    """`last.ckpt` of this folder if there is one, else `ckpt_path`, else None.

    Raises:
        ValueError: where that file is no checkpoint of this run's model, zoo and task, or has nothing left to train.
    """
    own = folder.last.exists()
    path = folder.last if own else Path(cfg.ckpt_path) if cfg.ckpt_path else None
    if path is None:
        return None
    checkpoint = read_checkpoint(path)
    check_same_run(path, checkpoint, cfg.seed, me)
    epochs = int(checkpoint["epoch"]) + 1
    for name, behind in (("epochs", epochs), ("steps", int(checkpoint["global_step"]))):
        limit = cfg.trainer.get(f"max_{name}")
        if not own and limit is not None and 0 <= limit <= behind:
            raise ValueError(
                f"{path} has {behind} {name} behind it, and trainer.max_{name}={limit}: nothing is left to train. "
                f"Raise trainer.max_{name}"
            )
    if own and cfg.ckpt_path:
        log.info("ckpt_path=%s is not read: this run has checkpoints of its own by now", cfg.ckpt_path)
    log.info("going on from %s after epoch %d", os.path.relpath(path), epochs)
    return path


def _run(
    cfg: DictConfig,
    job: Job,
    folder: RunFolder,
    me: Mapping[str, Any],
    start: Path | None,
    wandb_run: WandbLogger | None,
    report: ModuleType | None,
) -> dict[str, Any]:
    quiet_lightning()
    keep_freed_memory()
    reset_peak_memory()
    own = default_threads()  # before a job of a sweep, which shares its process with the others, sets them
    torch.set_num_threads(cfg.threads or own)
    seed_everything(cfg.seed, workers=True, verbose=False)

    began = time.monotonic()
    zoo = build_zoo(cfg.zoo)
    task = build_task(cfg.task, zoo)
    check_metrics(cfg, getattr(task, "metrics", None))
    if "encoder_hash" in cfg.task:  # the zoo's latents take its place, and a Transformer that reads them the model's
        encoder = load_encoder(cfg.task.encoder, zoo)
        zoo = build_latent_zoo(task, zoo, encoder, encoder.about(), job.folder / "latents.h5")
        model = build_latent_model(task, encoder.model)
    else:
        wanted = task.latents(zoo.recipe.w0_hidden) if hasattr(task, "latents") else None
        model = build_model(cfg.model, spec=zoo.spec, out_dim=task.out_dim, latents=wanted)
    task.model = model
    task.check_model()
    task.check_zoo(zoo)
    shifted = getattr(zoo, "standardize", "none") in ("layer", "entry")
    if shifted and any(getattr(module, "sign", False) for module in model.modules()):
        log.info("the model counts on signs of neurons, which zoo.standardize=%s breaks: take scale", zoo.standardize)
    if cfg.trainer.compile:
        compile_in_place(model)
    zoo.prepare_data()
    zoo_s = time.monotonic() - began

    state = RunState(cfg.seed, me)
    checkpoints = job.folder / "checkpoints"
    same: dict[str, Any] = {"dirpath": checkpoints, "enable_version_counter": False, "save_on_train_epoch_end": True}
    best = BestCheckpoint(filename="best", monitor=cfg.task.monitor, mode=cfg.task.mode, **same)
    last = ModelCheckpoint(filename="last", **same)
    shown = [WandbView(cfg.task.name, job.folder), *progress(cfg)]
    trainer = build_trainer(
        cfg.trainer,
        enable_progress_bar=any(isinstance(each, EpochBar) for each in shown),
        logger=wandb_run or False,
        callbacks=[state, MetricsCSV(job.folder / "metrics.csv"), *shown, best, last],
        plugins=[AtomicCheckpointIO(), *cluster_plugins()],
        default_root_dir=job.folder,
        num_sanity_val_steps=0,  # a run starts with its metrics clean
        enable_model_summary=False,
    )
    params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log_protocol(wandb_run, {**getattr(zoo, "protocol", {}), "params": params})
    where = f"{torch.get_num_threads()} CPU threads" if device_type(trainer) == "cpu" else device_type(trainer)
    log.info("%s (%s parameters) on %s, %s, seed %d", cfg.model.name, f"{params:,}", cfg.zoo.name, where, cfg.seed)
    if start is None:
        folder.best.unlink(missing_ok=True)  # of a start that ended before its first epoch
    elif start != folder.last and (why := adopt_best(start, folder.best, cfg.seed, me)):
        log.info("%s: the result is the best of the epochs that are trained now", why)
    trainer.fit(task, datamodule=zoo, ckpt_path=start, weights_only=True)
    if getattr(trainer, "fast_dev_run", False):
        trainer.test(task, datamodule=zoo, verbose=False)
        log.info("fast_dev_run: one batch of everything went through; no checkpoint and no result were written")
        return {}

    if not folder.best.exists():
        raise ValueError(
            f"no epoch had {cfg.task.monitor}: nothing was validated. Leave validation on to get a result, and do not "
            f"stop within the first epoch: it has {trainer.num_training_batches} steps, and trainer.max_steps is "
            f"{trainer.max_steps} (-1: no limit)"
        )
    chosen = read_checkpoint(folder.best)
    task.load_state_dict(chosen["state_dict"])
    began = time.monotonic()
    validated = best_validation(best)
    if trainer.precision != "32-true":  # the Trainer's name of it: "bf16" is one of bf16-mixed
        validated = in_float32(trainer, task, zoo, validated)
    tested: Mapping[str, float] = {}
    if cfg.test:
        tested = trainer.test(task, datamodule=zoo, verbose=False)[0]
        check_metric("metric", cfg.task.metric, tested)
        write_predictions(task, zoo, folder)
    test_s = time.monotonic() - began

    protocol = {**getattr(zoo, "protocol", {}), **getattr(task, "protocol", {})}
    summary = {
        "task": cfg.task.name,
        "model": cfg.model.name,
        "zoo": cfg.zoo.name,
        "seed": cfg.seed,
        "size": cfg.size,
        **protocol,
        "metric": cfg.task.metric if cfg.test else cfg.task.monitor,
        "metrics": {**tested, **validated},
        "params": params,
        "best_epoch": int(chosen["epoch"]),
        "epochs": state.epochs,
        "examples_seen": state.examples_seen,
        "wall_s": round(state.wall_s + test_s, 2),
        "zoo_s": round(zoo_s, 2),
        "peak_memory_mb": peak_memory_mb(trainer),
        "restarts": state.restarts,
        "slurm": slurm_job(),
        "machine": machine(trainer),
        "versions": versions(),
        "commit": commit(),
        "config_hash": config_hash(cfg),
        "command": job.command,
        "picture": None,
        "config": OmegaConf.to_container(cfg, resolve=True),
    }
    folder.write_summary(summary)  # before the picture: whatever happens there, the result is kept
    summary = draw(report, folder, summary)
    log_result(wandb_run, folder, summary)
    log.info("%s", result_line(summary, folder))
    return summary


def result_line(summary: Mapping[str, Any], folder: RunFolder) -> str:
    """Metric, value, what it is of, and where to look."""
    metric = summary["metric"]
    picture = f"   picture: {folder.shown}/{summary['picture']}" if summary.get("picture") else ""
    return (
        f"{metric} {summary['metrics'][metric]:.4f}   ({summary['task']}, {summary['model']} on {summary['zoo']}, seed "
        f"{summary['seed']}, epoch {summary['best_epoch'] + 1} of {summary['epochs']}, {summary['wall_s']:.0f} s)   "
        f"run folder: {folder.shown}{picture}"
    )


@cache
def default_threads() -> int:
    """Torch's own choice, asked before a run makes another."""
    return torch.get_num_threads()


def best_validation(best: ModelCheckpoint) -> dict[str, float]:
    """The monitored metric of the epoch that was chosen."""
    score = best.best_model_score
    return {} if score is None or best.monitor is None else {best.monitor: float(score)}


def compile_in_place(model: nn.Module) -> None:
    """Compiles the parts of a model that tasks call: encoder and decoder where it has them, else the whole.

    In place, so that the names of its weights in a checkpoint stay as they are.
    """
    parts = [part for name in ("encoder", "decoder") if isinstance(part := getattr(model, name, None), nn.Module)]
    for part in parts or [model]:
        part.compile()


def in_float32(
    trainer: Trainer, task: LightningModule, zoo: LightningDataModule, before: Mapping[str, float]
) -> dict[str, float]:
    """Leaves a lower precision for good, and validates the chosen epoch again: what is reported is of float32.

    Args:
        trainer: of the run; all that it does from here on is in float32.
        task: with the weights of the chosen epoch.
        zoo: of the run.
        before: the monitored metric in the precision that the run was trained in.

    Returns:
        The same metric in float32.
    """
    precision = trainer.precision
    trainer.strategy.precision_plugin = Precision()
    loggers, trainer.loggers = trainer.loggers, []  # they have this epoch already
    try:
        found = trainer.validate(task, datamodule=zoo, verbose=False)[0]
    finally:
        trainer.loggers = loggers
    for name, value in before.items():
        log.info("%s of the chosen epoch: %.4f in float32, %.4f in %s", name, found[name], value, precision)
    return {name: found[name] for name in before}


def write_predictions(task: LightningModule, zoo: LightningDataModule, folder: RunFolder) -> None:
    """`predictions.csv` and, where the zoo can render, `samples.npz` with evenly spread test items."""
    rows = sorted(getattr(task, "predictions", []))
    if not rows:
        return
    if pictures := getattr(task, "pictures", None):
        np.savez(folder.path / "pictures.npz", **pictures)
    folder.write_rows("predictions.csv", getattr(task, "columns", ("index", "view", "true", "predicted")), rows)
    if not hasattr(zoo, "render"):
        return
    if why := getattr(zoo, "no_picture", None):
        log.info("no pictures of test items: %s", why)
        return
    wanted = {rows[i][:2] for i in np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).astype(int)}
    images, index, view = [], [], []
    sample_arrays: Any = getattr(task, "sample_arrays", lambda _: {})  # what the task has to show of the same items
    more: dict[str, list[Any]] = {}
    for batch in zoo.test_dataloader():
        keep = [i for i, key in enumerate(zip(batch.index.tolist(), batch.view.tolist(), strict=True)) if key in wanted]
        if keep:
            batch = type(batch)(*(column[keep] for column in batch))
            images.append(zoo.render(batch.features).float().cpu().numpy())
            for name, values in sample_arrays(batch).items():
                more.setdefault(name, []).append(values)
            index += batch.index.tolist()
            view += batch.view.tolist()
    arrays: dict[str, Any] = {name: np.concatenate(parts) for name, parts in more.items()}
    if len(frames := getattr(task, "frames", ())):
        arrays["frames"] = np.stack(frames)
    arrays |= {"images": np.concatenate(images), "index": index, "view": view}
    np.savez(folder.path / "samples.npz", **arrays)


def report_module(name: str | None) -> ModuleType | None:
    """The module that draws the picture, found before training so that a typo costs nothing.

    Raises:
        ValueError: where there is no such module, or it has no `draw`.
    """
    if name is None:
        return None
    try:
        found = importlib.import_module(name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"task.report={name} cannot be imported: {error}. Give a module, or null") from error
    if not callable(getattr(found, "draw", None)):
        raise ValueError(f"task.report={name} has no function draw(folder). Give a module that has one, or null")
    return found


def check_metrics(cfg: DictConfig, known: Iterable[str] | None) -> None:
    """Finds metrics that will not be there, and a mode that would keep the worst epoch, before anything is trained.

    Raises:
        ValueError: with what `task.metric`, `task.monitor` and `task.mode` may be.
    """
    if known is None:  # a task from elsewhere, which does not say
        return
    for key, stage in (("monitor", "val"), ("metric", "test")):
        name = cfg.task[key]
        if key == "metric" and not cfg.test:
            continue
        # val/acc/tensor and the like are measured with the test
        check_metric(key, name, [one for one in known if one.startswith(f"{stage}/") and one.count("/") == 1])
    wanted = "max" if larger_is_better(cfg.task.monitor) else "min"
    if cfg.task.monitor != "val/kl" and cfg.task.mode != wanted:  # neither is better there
        raise ValueError(
            f"task.mode={cfg.task.mode} keeps the epoch with the worst {cfg.task.monitor}: give task.mode={wanted}"
        )


def check_metric(key: str, name: str, known: Iterable[str]) -> None:
    """Raises ValueError where `task.<key>` names no metric that the task logs."""
    if name not in known:
        raise ValueError(f"task.{key}={name} is unknown{did_you_mean(name, known)}\n  It is one of: {', '.join(known)}")


def draw(report: ModuleType | None, folder: RunFolder, summary: dict[str, Any]) -> dict[str, Any]:
    """Draws the picture from the files of the run, and writes its name to the summary."""
    if report is None or not (folder.path / "predictions.csv").exists():
        return summary
    summary = {**summary, "picture": report.draw(folder.path).name}
    folder.write_summary(summary)
    return summary
