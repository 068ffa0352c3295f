"""Config to objects, and the only place where that happens."""

import importlib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from omegaconf import DictConfig, OmegaConf
from torch import nn

from nfbench.config.errors import did_you_mean
from nfbench.config.schema import CONF
from nfbench.models.decoder import SirenDecoder
from nfbench.models.inr2array import LatentAutoencoder, ModelEncoder
from nfbench.models.latent import LatentTransformer
from nfbench.weightspace import NetworkSpec
from nfbench.zoos.latents import LatentZoo

USUAL = "/zoo@_global_.zoo"  # how conf/task/*.yaml name it
# Keys of a group that say which class and what is done with it, and are no arguments of its constructor.
ABOUT = ("name", "target", "report", "metric", "monitor", "mode")


def get_class(target: str) -> type:
    """The class behind a dotted path such as `nfbench.models.nft.NFT`.

    Raises:
        ValueError: where there is no such class.
    """
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"target {target!r} cannot be imported: {error}. Give the dotted path of a class") from error
    if not isinstance(found, type):
        raise ValueError(f"target {target!r} is a {type(found).__name__}: give the dotted path of a class")
    return found


def our_class(target: str, room: str) -> type:
    """The class behind a dotted path that a checkpoint or a run folder says: it may come from a stranger.

    Args:
        target: such as `nfbench.models.nft.NFT`.
        room: "models" or "tasks".

    Raises:
        ValueError: where it is no module of that room, or of a package that NFBENCH_TRUST lists.
    """
    trusted = [f"nfbench.{room}", *filter(None, os.environ.get("NFBENCH_TRUST", "").split(","))]
    if any(f"{target}.".startswith(f"{name}.") for name in trusted):
        found = get_class(target)
        own = any(f"{found.__module__}.".startswith(f"{name}.") for name in trusted)  # not what a module imports
        if own and issubclass(found, nn.Module):
            return found
    raise ValueError(
        f"the file names the class {target!r}, and what a stranger's file names is not run: only modules of "
        f"nfbench.{room} are. If you know where it comes from, list your packages in the variable NFBENCH_TRUST, "
        "with commas"
    )


def _arguments(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key not in ABOUT}


def _construct(group: str, target: str, given: dict[str, Any], **objects: Any) -> Any:
    kind = get_class(target)
    known = inspect.signature(kind).parameters
    for key in given:
        if key not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise ValueError(
                f"{kind.__name__} takes no `{key}` (given as {group}.{key}={given[key]}){did_you_mean(key, known)}\n"
                f"  It takes: {', '.join(name for name in known if name not in objects)}"
            )
    return kind(**objects, **given)


def build_zoo(cfg: DictConfig) -> Any:
    """The DataModule of `cfg.zoo`: a LightningDataModule with a `spec` and facts such as `num_classes`."""
    return _construct("zoo", cfg.target, _arguments(cfg))


def build_task(cfg: DictConfig, zoo: LightningDataModule) -> Any:
    """The task of `cfg.task`: a LightningModule with an `out_dim` that waits for its `model`.

    What its constructor asks for beyond the config is a plain fact about the zoo, such as `num_classes`.

    Raises:
        ValueError: where this zoo has no such fact.
    """
    given = _arguments(cfg)
    facts = {}
    for name, parameter in inspect.signature(get_class(cfg.target)).parameters.items():
        if name not in given and parameter.default is parameter.empty:
            if not hasattr(zoo, name):
                raise ValueError(
                    f"task={cfg.name} needs a zoo with {name}, and {type(zoo).__name__} has none: choose another zoo"
                    f"{_usual_zoo(cfg.name)}"
                )
            facts[name] = getattr(zoo, name)
    return _construct("task", cfg.target, given, **facts)


def _usual_zoo(task: str) -> str:
    """`, such as zoo=siren_digits`: what a task takes where none is named; nothing of a task from elsewhere."""
    path = CONF / "task" / f"{task}.yaml"
    config: Any = OmegaConf.load(path) if path.exists() else {}
    return "".join(f", such as zoo={entry[USUAL]}" for entry in config.get("defaults", ()) if USUAL in entry)


def build_model(
    cfg: DictConfig,
    *,
    spec: NetworkSpec,
    out_dim: int | None,
    latents: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The nn.Module of `cfg.model` for networks of this spec; without out_dim it edits them.

    With `latents`, what `Inr2ArrayTask.latents` says of the latent array, the decoder and the rest, it is an
    autoencoder whose encoder `cfg.model` is.

    Raises:
        ValueError: where the model cannot do that.
    """
    given = _arguments(cfg)
    encoder_only = "out_dim" not in inspect.signature(get_class(cfg.target)).parameters
    if latents is None:
        if encoder_only:
            raise ValueError(f"model={cfg.name} is an encoder only, for task=inr2array: choose another model")
        return _construct("model", cfg.target, given, spec=spec, out_dim=out_dim)
    array = {key: latents[key] for key in ("num_latents", "spatial")}
    if encoder_only:
        encoder = _construct("model", cfg.target, given, spec=spec, **array)
    else:
        encoder = ModelEncoder(spec, _construct("model", cfg.target, given, spec=spec, out_dim=1), **array)
    decoder = SirenDecoder(spec, encoder.width, **latents["decoder"])
    return LatentAutoencoder(encoder, decoder, latents["num_classes"])


def build_latent_zoo(task: Any, zoo: Any, encode: Any, about: Mapping[str, Any], path: Path) -> LatentZoo:
    """The DataModule of the latents of a zoo, in the file `path`, as the task of `inr2array_cls` wants them."""
    names = ("views", "augmented_epochs", "encode_batch_size")
    return LatentZoo(zoo, encode, about, path, **{name: task.hparams[name] for name in names})


def build_latent_model(task: Any, encoder: LatentAutoencoder) -> nn.Module:
    """The Transformer that reads the latents of an encoder, of the sizes that the task of `inr2array_cls` says.

    Raises:
        ValueError: where the array has more latents than positions.
    """
    count, most = encoder.encoder.num_outputs, task.classifier["max_latents"]
    if count > most:
        raise ValueError(f"the encoder makes {count} latents, and task.max_latents={most}: give {count} or more")
    return LatentTransformer(encoder.encoder.width, task.out_dim, **task.classifier)


def build_trainer(cfg: DictConfig, **objects: Any) -> Trainer:
    """The Trainer; any flag of its own passes through. The run decides on the bar and compiles the model.

    Raises:
        ValueError: for a flag that Lightning does not know, or one that this project sets itself.
    """
    ours = ("enable_progress_bar", "compile")
    given = {key: value for key, value in _arguments(cfg).items() if key not in ours}
    if given.get("accelerator") == "auto":  # Lightning would take mps, which lacks the float64 of statistics and scores
        given["accelerator"] = "cuda" if torch.cuda.is_available() else "cpu"
    taken = [key for key in given if key in objects]
    if taken:
        raise ValueError(f"trainer.{taken[0]} is set by nfbench itself and cannot be given")
    return _construct("trainer", "lightning.Trainer", given, **objects)
