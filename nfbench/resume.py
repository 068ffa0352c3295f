"""What makes a stopped run go on as if it had not been stopped, to the bit on a CPU.

- A checkpoint is written beside its place, flushed to the disk and renamed: `kill -9` leaves the old or the new one.
- Random numbers of a step depend on (seed, epoch, batch) only; the zoo's order depends on (seed, epoch) only.
- A checkpoint carries the config it belongs to, and is refused for another model, zoo, task or seed.
"""

import os
import pickle
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from nfbench.config.identity import differences

KEY = "nfbench"  # where a checkpoint carries its config
_LENGTH = ("max_epochs", "max_steps", "max_time")  # of a run, which may go on for longer


@contextmanager
def signals_wait() -> Iterator[None]:
    """Keeps handlers of signals that stop a run (time is over, Ctrl-C) until the end of what must not be cut in two.

    They raise an exception wherever they find the program, and a file writer that is cut in two raises another one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread only
        return
    caught: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in dict.fromkeys(caught):
            signal.raise_signal(late)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint in its own folder and renames it; Lightning's own way copies across file systems."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes `path`, whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            with signals_wait():
                with temporary.open("wb") as handle:
                    torch.save(checkpoint, handle)
                    handle.flush()
                    os.fsync(handle.fileno())
                os.replace(temporary, target)
        except OSError:
            temporary.unlink(missing_ok=True)  # half a file would only fill the disk further
            raise


class BestCheckpoint(ModelCheckpoint):
    """Goes on with the best epoch so far where the run's folder has been moved, or is seen under another path.

    Lightning forgets its score then, and the next epoch would take the place of a better one.
    """

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint: the one that it had before this class."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the state of a checkpoint whose best epoch lies here for one of this folder."""
        there, here = str(state_dict.get("dirpath")), str(self.dirpath)
        best = os.path.basename(str(state_dict.get("best_model_path")))
        if there != here and best and os.path.isfile(os.path.join(here, best)):

            def moved(path: str) -> str:
                return os.path.join(here, os.path.basename(path)) if path else path

            paths = ("best_model_path", "kth_best_model_path", "last_model_path")
            state_dict = {**state_dict, "dirpath": here, **{key: moved(state_dict[key]) for key in paths}}
            state_dict["best_k_models"] = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict)


class RunState(Callback):
    """Reseeds each step and keeps what a run's summary sums up over resumes.

    Args:
        seed: of the run.
        identity: what the run computes; goes into each checkpoint.

    Attributes:
        wall_s: seconds of training behind the present weights.
        examples_seen: networks the model has been trained on so far, counted with repetition.
        epochs: finished epochs.
        restarts: how often it went on from a checkpoint.
    """

    def __init__(self, seed: int, identity: Mapping[str, Any]) -> None:
        self.seed = seed
        self.identity = dict(identity)
        self.wall_s = 0.0
        self.examples_seen = 0
        self.epochs = 0
        self.restarts = 0
        self._tick = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        self._advance()
        counts = {"examples_seen": self.examples_seen, "epochs": self.epochs, "restarts": self.restarts}
        return {"wall_s": self.wall_s, **counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting from the checkpoint's numbers."""
        self.wall_s = float(state_dict["wall_s"])
        self.examples_seen = int(state_dict["examples_seen"])
        self.epochs = int(state_dict["epochs"])
        self.restarts = int(state_dict.get("restarts", 0)) + 1

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the run's identity, and how networks that are no part of the zoo become what the model reads."""
        checkpoint[KEY] = {"seed": self.seed, **self.identity}
        if hasattr(zoo := trainer.datamodule, "reader"):  # type: ignore[attr-defined]  # Lightning sets it
            checkpoint[KEY]["reader"] = zoo.reader.to_plain()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._tick = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Makes dropout and the like a function of (seed, epoch, batch)."""
        state = np.random.SeedSequence([self.seed, trainer.current_epoch, batch_idx]).generate_state(1, np.uint64)
        value = int(state[0]) >> 1
        torch.manual_seed(value)
        np.random.seed(value % 2**32)
        random.seed(value)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the networks of the batch."""
        self.examples_seen += len(batch.target)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts the epoch."""
        self.epochs = trainer.current_epoch + 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._advance()

    def _advance(self) -> None:
        now = time.monotonic()
        self.wall_s += now - self._tick
        self._tick = now


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint that this project wrote.

    Raises:
        ValueError: where the file is missing, damaged, unsafe or not one of ours.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}: give the path of a last.ckpt or best.ckpt") from None
    except (RuntimeError, EOFError, BadZipFile, pickle.UnpicklingError, KeyError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = first.partition(" In PyTorch 2.6")[0]  # what follows recommends to load it unsafely
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({reason}). It is damaged, or no checkpoint at all. It was left as "
            "it is: move it away to start anew, or give another one with ckpt_path=..."
        ) from None
    if not isinstance(found, dict) or KEY not in found or "state_dict" not in found:
        raise ValueError(f"{path} was not written by nfbench: give the last.ckpt or best.ckpt of a run folder")
    return found


def adopt_best(path: Path, best: Path, seed: int, identity: Mapping[str, Any]) -> str | None:
    """Copies the best epoch so far from beside a checkpoint of another folder, so that it competes with later ones.

    Args:
        path: of the checkpoint.
        best: where it goes.
        seed: of the run that goes on.
        identity: of the run that goes on.

    Returns:
        Why it stays where it is: missing, of another run, or with a score of another kind of validation; else None.
    """
    checkpoint = read_checkpoint(path)
    name, score = _best_so_far(checkpoint)
    other = path.with_name(best.name)
    if name != best.name or not other.is_file():
        return "the best of these epochs is not beside it"
    found = read_checkpoint(other)
    try:
        check_same_run(other, found, seed, identity)
        same = score is not None and _best_so_far(found)[1] == score
    except ValueError:
        same = False
    if not same:
        return f"{best.name} beside it is of another run"
    theirs, ours = ({k: v for k, v in each["trainer"].items() if k not in _LENGTH} for each in (found[KEY], identity))
    if rows := differences(ours, theirs, "trainer"):
        return f"its epochs had another trainer ({', '.join(row[0] for row in rows)})"
    best.parent.mkdir(parents=True, exist_ok=True)
    temporary = best.with_name(f".{best.name}.tmp")
    shutil.copyfile(other, temporary)
    os.replace(temporary, best)
    return None


def _best_so_far(checkpoint: Mapping[str, Any]) -> tuple[str, float | None]:
    """The name of the best checkpoint, and its score."""
    states = [state for state in checkpoint["callbacks"].values() if state.get("best_model_path")]
    if not states or states[0]["best_model_score"] is None:
        return "", None
    return os.path.basename(str(states[0]["best_model_path"])), float(states[0]["best_model_score"])


def check_same_run(path: Path, checkpoint: Mapping[str, Any], seed: int, identity: Mapping[str, Any]) -> None:
    """Holds a checkpoint's config against the present one. The trainer's settings may differ.

    Raises:
        ValueError: with the keys named, where model, zoo, task or seed differ.
    """
    saved = checkpoint[KEY]
    groups = ("model", "zoo", "task", "seed")
    ours = {group: {**identity, "seed": seed}.get(group) for group in groups}
    theirs = {group: saved.get(group) for group in groups}
    rows = differences(ours, theirs)
    if rows:
        listed = "\n".join(f"  {key}: here {here!r}, in the checkpoint {there!r}" for key, here, there in rows[:8])
        more = f"\n  and {len(rows) - 8} more" if len(rows) > 8 else ""
        raise ValueError(
            f"{path} belongs to another run:\n{listed}{more}\nSet these keys as in the checkpoint, or leave it out "
            "(in a folder of its own, hydra.run.dir=..., a run starts anew)"
        )
