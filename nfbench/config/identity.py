"""What a run computes, as opposed to where and how it is shown: the part of the config that names its folder."""

import hashlib
import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nfbench.report.results import is_younger

# Words of a sweep that say how its runs are started and shown, and not which they are.
_STARTED = ("rerun=", "sweep.skip_done=", "threads=", "launcher=", "hydra/launcher=", "hydra.launcher.", "logger=",
            "logger.mode=", "trainer.enable_progress_bar=")  # fmt: skip
_SWEEP = ("-m", "--multirun")  # some launchers are a sweep without it
# Keys that change no number of the result.
_ELSEWHERE = {
    "zoo": ("data_dir", "zoo_dir", "seed", "threads"),  # the run's seed stands beside the hash
    "task": ("encoder",),  # a run folder, wherever it lies: its hash is in the config
    "trainer": ("enable_progress_bar", "log_every_n_steps"),
}


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The resolved task, model, zoo and trainer and `ckpt_path`, as plain values. The seed is not among them.

    Args:
        cfg: the composed config.

    Returns:
        A plain dictionary, the same on every machine for the same experiment.
    """
    plain: dict[str, Any] = {"ckpt_path": cfg.ckpt_path}
    if not cfg.test:  # a run that reads no test set has a folder of its own
        plain["test"] = False
    for group in ("task", "model", "zoo", "trainer"):
        node = OmegaConf.to_container(cfg[group], resolve=True)
        assert isinstance(node, dict)
        left_out = (*_ELSEWHERE.get(group, ()), *(("file",) if node.get("fingerprint") else ()))  # it may lie anywhere
        plain[group] = {
            str(key): value
            for key, value in node.items()
            if key not in left_out and not is_younger(group, str(key), value)
        }
    return plain


def config_hash(cfg: DictConfig) -> str:
    """Eight hex digits over `identity`: the same for all seeds of one experiment."""
    text = json.dumps(identity(cfg), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def encoder_hash(folder: str | None) -> str | None:
    """Sixteen hex digits over the best checkpoint of a run folder; None where there is none."""
    best = Path(folder) / "checkpoints" / "best.ckpt" if folder else None
    return _file_hash(best, best.stat().st_mtime_ns) if best is not None and best.is_file() else None


@lru_cache(maxsize=8)  # the config is resolved several times in a run
def _file_hash(path: Path, changed: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


def sweep_hash() -> str:
    """Eight hex digits over what was typed: the same sweep, typed again, has the same folder.

    Also where it is started in another way (`launcher=...`, `hydra.launcher.mem_gb=...`) or shown in another.
    """
    typed = [word for word in sys.argv[1:] if not word.lstrip("+~").startswith(_STARTED) and word not in _SWEEP]
    return hashlib.sha256(json.dumps(["-m", *typed]).encode()).hexdigest()[:8]  # as it was always hashed


def differences(ours: Any, theirs: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted keys where two plain configs differ, with both values (None where a key is absent)."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        rows = []
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            rows += differences(ours.get(name), theirs.get(name), f"{key}.{name}" if key else str(name))
        return rows
    return [] if ours == theirs else [(key, ours, theirs)]
