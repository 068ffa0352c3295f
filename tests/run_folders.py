"""Run folders as runs leave them, without training anything."""

import json
from pathlib import Path

SUMMARY = {
    "task": "inr_cls", "model": "nft", "zoo": "siren_digits", "seed": 0, "size": "cpu", "dataset": "digits",
    "definition": "digits", "split": "digits", "views": 40, "eval_views": "one", "num_images": 1797, "num_train": 1197,
    "num_val": 200, "num_test": 400, "canonicalized": False, "augmentations": "none", "standardized": "none",
    "recipe_hash": "d8fb", "access": "weights", "metric": "test/acc", "metrics": {"test/acc": 0.5}, "params": 461130,
    "best_epoch": 3, "epochs": 4, "examples_seen": 1000, "wall_s": 10.0, "peak_memory_mb": 600.0,
    "machine": {"cores": 2, "threads": 2, "gpu": None}, "versions": {"torch": "2.13.0"}, "commit": "abc",
    "config_hash": "0123abcd", "command": "python run.py task=inr_cls model=nft seed=0", "picture": None,
    "config": {"task": {"name": "inr_cls", "monitor": "val/acc"}, "model": {"name": "nft"}, "zoo": {}, "trainer": {}},
}  # fmt: skip


def summary(**changes):
    """A complete summary; `value` is the main metric, and the command follows the seed and the model."""
    made = {**SUMMARY, **{key: value for key, value in changes.items() if key != "value"}}
    if "value" in changes:
        made["metrics"] = {made["metric"]: changes["value"]}
    if "command" not in changes:
        made["command"] = f"python run.py task={made['task']} model={made['model']} seed={made['seed']}"
    return made


def write_run(folder: Path, predictions: str = "", metrics: str = "", **changes) -> Path:
    """A finished run's folder."""
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary(**changes)))
    if predictions:
        (folder / "predictions.csv").write_text(predictions)
    if metrics:
        (folder / "metrics.csv").write_text(metrics)
    return folder


def write_unfinished(folder: Path, *overrides: str) -> Path:
    """A folder of a run that stopped."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides))
    return folder
