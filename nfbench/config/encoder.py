"""A trained Inr2Array encoder out of its run folder, and what a run that reads its latents must share with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nfbench.config.build import build_model, our_class
from nfbench.config.identity import encoder_hash
from nfbench.models.inr2array import LatentAutoencoder
from nfbench.report.run_folder import RunFolder
from nfbench.resume import KEY, read_checkpoint
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures

SAME = ("dataset", "definition", "split", "canonicalized")  # of the zoos' protocols
HOW = (
    "Train one, for example with\n"
    "  python run.py task=inr2array model=nft\n"
    "and give the run folder that its result line names: encoder=outputs/inr2array/nft-siren_digits-seed0-..."
)


def adopt_encoder(cfg: DictConfig, typed: Sequence[str] = ()) -> DictConfig:
    """The config of a run that reads latents, with the model that its encoder's run had; any other config as it is.

    Args:
        cfg: the composed config; not changed.
        typed: the overrides of the command line.

    Raises:
        ValueError: no encoder, or one that is not trained; another model than the encoder's, or an encoder that this
            task has no use for.
    """
    if "encoder_hash" not in cfg.task:
        if cfg.encoder is not None:
            raise ValueError(f"encoder={cfg.encoder} is read by task=inr2array_cls: task={cfg.task.name} reads none")
        return cfg
    if not cfg.task.encoder:
        raise ValueError(f"task={cfg.task.name} needs a trained encoder. {HOW}")
    summary = _summary(Path(cfg.task.encoder))
    found = encoder_hash(cfg.task.encoder)
    if found != cfg.task.encoder_hash:
        raise ValueError(
            f"the encoder in {cfg.task.encoder} has the hash {found}, not task.encoder_hash={cfg.task.encoder_hash}: "
            "give the run folder that is meant, or leave task.encoder_hash out"
        )
    model = summary["config"]["model"]
    if model["name"] != cfg.model.name:
        raise ValueError(
            f"the encoder in {cfg.task.encoder} is model={model['name']}, and this command says model={cfg.model.name}"
        )
    if settings := [word for word in typed if word.lstrip("+~").startswith("model.")]:
        raise ValueError(
            f"{settings[0]} cannot be set: the encoder in {cfg.task.encoder} is trained, its model is part of it. The "
            "Transformer that reads the latents has task.width, task.num_blocks, ..."
        )
    adopted = cfg.copy()
    OmegaConf.set_struct(adopted, False)
    adopted.model = OmegaConf.create(model)
    return adopted


def _summary(folder: Path) -> dict[str, Any]:
    """What the finished run of an encoder wrote."""
    if not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}. {HOW}")
    run = RunFolder(folder)
    summary = run.summary()
    if summary is None or not run.best.exists():
        raise ValueError(f"{folder} has no finished run: run its command again, it goes on. {HOW}")
    if summary.get("task") != "inr2array":
        raise ValueError(f"{folder} is a run of task={summary.get('task')}, which trains no encoder of arrays. {HOW}")
    if "test/psnr" not in summary.get("metrics", {}):
        raise ValueError(
            f"{folder} is a run with test=false, and what reads its latents has to say how well it reconstructs: run "
            "its command with test=true, and give that folder"
        )
    return summary


@dataclass
class TrainedEncoder:
    """From weights as they are in a zoo's file (canonical, if its own zoo was) to latent arrays.

    Attributes:
        model: encoder and decoder.
        mean, std: (T,), of the standardisation that it was trained with.
        spec: networks that go in.
        summary: of its run.
        hash: of its best checkpoint.
    """

    model: LatentAutoencoder
    mean: Tensor
    std: Tensor
    spec: NetworkSpec
    summary: Mapping[str, Any]
    hash: str

    @torch.no_grad()
    def __call__(self, raw: Tensor) -> Tensor:
        """Weights (B, T) on any device -> (B, M, C) on the same."""
        if self.mean.device != raw.device:
            self.model = self.model.to(raw.device)
            self.mean, self.std = self.mean.to(raw.device), self.std.to(raw.device)
        return self.model.encode(WeightSpaceFeatures.from_flat(self.spec, (raw - self.mean) / self.std))

    def about(self) -> dict[str, str | int | float | bool]:
        """What a result must say about the encoder behind it."""
        run = self.summary
        return {
            "encoder": f"{run['task']} {run['model']}, seed {run['seed']}, {run['config_hash']}",
            "encoder_hash": self.hash,
            "encoder_loss_target": run["loss_target"],
            "encoder_psnr": run["metrics"]["test/psnr"],
            "encoder_params": run["params"],
            "encoder_examples_seen": run["examples_seen"],
            "encoder_wall_s": run["wall_s"],
        }


def load_encoder(folder: str, zoo: Any) -> TrainedEncoder:
    """The encoder of a finished run, for networks of this zoo.

    Raises:
        ValueError: a run that is none of these, or whose zoo was another one.
    """
    path = Path(folder)
    summary = _summary(path)
    protocol = zoo.protocol
    rows = [(key, protocol.get(key), summary.get(key)) for key in SAME if protocol.get(key) != summary.get(key)]
    if rows:
        listed = "\n".join(f"  {key}: here {here}, there {there}" for key, here, there in rows)
        raise ValueError(
            f"the encoder in {folder} was trained on another zoo:\n{listed}\nGive zoo={summary['zoo']} and the zoo.* "
            "settings of its run"
        )
    checkpoint = read_checkpoint(RunFolder(path).best)
    config = OmegaConf.create({group: checkpoint[KEY][group] for group in ("model", "task")})
    given = {k: v for k, v in config.task.items() if k not in ("name", "target", "report", "metric", "monitor", "mode")}
    our_class(config.model.target, "models")
    task = our_class(config.task.target, "tasks")(num_classes=zoo.num_classes, **given)
    model = build_model(config.model, spec=zoo.spec, out_dim=None, latents=task.latents())
    assert isinstance(model, LatentAutoencoder)
    state = checkpoint["state_dict"]
    prefix = "averaged." if given["ema_decay"] else "model."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    found = encoder_hash(folder)
    assert found is not None
    return TrainedEncoder(model.eval(), state["mean"], state["std"], zoo.spec, summary, found)
