"""A trained model out of its checkpoint alone: no zoo, no images and no run folder are needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from nfbench.config.build import build_latent_model, build_model, our_class
from nfbench.config.identity import encoder_hash
from nfbench.report.run_folder import RunFolder
from nfbench.resume import KEY, read_checkpoint
from nfbench.zoos.reader import NetworkReader

TASKS = ("inr_cls", "cnn_gen", "inr_edit", "inr2array", "inr2array_cls")


@dataclass
class Trained:
    """A model with what it needs to read networks.

    Attributes:
        path: of the checkpoint.
        task: its name, one of `TASKS`.
        model: in evaluation mode, on the CPU; of inr2array_cls the Transformer that reads latents.
        reader: how a network becomes what the model reads; of inr2array_cls that of the encoder.
        saved: what the checkpoint says: task, model, zoo, trainer, seed.
        epochs: behind these weights.
        encoder: of inr2array_cls.
    """

    path: Path
    task: str
    model: nn.Module
    reader: NetworkReader
    saved: dict[str, Any]
    epochs: int
    encoder: "Trained | None" = None

    def describe(self) -> str:
        """One line: what it is, and which networks it reads."""
        saved = self.saved
        return (
            f"{saved['model']['name']} for task={self.task}, trained on {saved['zoo']['name']} (seed {saved['seed']}, "
            f"{self.epochs} epochs): reads networks {self.reader.spec}"
        )


def load_trained(path: Path, encoder: Path | None = None) -> Trained:
    """The model of a run.

    Args:
        path: a run folder, whose best epoch is taken, or a checkpoint.
        encoder: run folder of the encoder of inr2array_cls, where it is not any more where it was in training.

    Raises:
        ValueError: no checkpoint, a file that is none or would run code, one without what is needed, or an encoder
            that is missing or another one.
    """
    file = path
    if path.is_dir():
        file = RunFolder(path).best
        if not file.exists():
            raise ValueError(
                f"{path} has no checkpoints/best.ckpt: give the run folder that a result line names, or a .ckpt file"
            )
    checkpoint = read_checkpoint(file)
    saved = dict(checkpoint[KEY])
    try:
        name = saved["task"]["name"]
        if name not in TASKS:
            raise ValueError(f"{file} is of task={name}, whose answers need its zoo. Possible: {', '.join(TASKS)}")
        our_class(saved["model"]["target"], "models")
        task = our_class(saved["task"]["target"], "tasks")(**checkpoint["hyper_parameters"])
        prefix = "averaged." if task.hparams["ema_decay"] else "model."
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        epochs = int(checkpoint["epoch"]) + 1
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} lacks {error}, which every run's checkpoint has: give another one") from None
    found: Trained | None = None
    if name == "inr2array_cls":
        found = _encoder_of(file, encoder or task.hparams["encoder"], task.hparams["encoder_hash"])
        autoencoder: Any = found.model
        model: nn.Module = build_latent_model(task, autoencoder)
        reader = found.reader
    else:
        if "reader" not in saved:
            raise ValueError(
                f"{file} does not say how networks are prepared for its model (canonical form, standardisation): it "
                "was written before checkpoints did. Train again with the run's command and rerun=true"
            )
        reader = NetworkReader.from_plain(saved.pop("reader"))
        w0 = reader.recipe.w0_hidden if reader.recipe else 30.0  # of a start that the loaded weights replace
        latents = task.latents(w0) if hasattr(task, "latents") else None
        model = build_model(DictConfig(saved["model"]), spec=reader.spec, out_dim=task.out_dim, latents=latents)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights in {file} do not fit the model that it names: {error}") from None
    return Trained(file, name, model.eval(), reader, saved, epochs, found)


def _encoder_of(file: Path, folder: str | Path | None, wanted: str | None) -> Trained:
    advice = "give it with encoder=RUN_FOLDER"
    if folder is None or not Path(folder).is_dir():
        raise ValueError(f"{file} reads latents of the encoder in {folder}, which is not there: {advice}")
    if (found := encoder_hash(str(folder))) != wanted:
        raise ValueError(
            f"{file} reads latents of the encoder {wanted}, and {folder} has {found}: {advice} of that one"
        )
    return load_trained(Path(folder))
