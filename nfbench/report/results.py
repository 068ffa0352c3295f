"""Finds results: run folders with their `summary.json`, and the committed files of `results/`. Hides no broken one."""

import csv
import hashlib
import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# What a result of a training run says at least.
FIELDS = (
    "task", "dataset", "definition", "views", "num_images", "canonicalized", "augmentations", "access", "model", "seed",
    "size", "metric", "metrics", "params", "examples_seen", "wall_s", "peak_memory_mb", "machine", "versions", "commit",
    "config_hash", "command",
)  # fmt: skip
_CLASSIFIERS = "the networks are classifiers, not of images"
# What results of a task need not say, and why.
WITHOUT = {
    "cnn_gen": {
        "views": "`steps` says which checkpoints of a network are taken",
        "num_images": f"{_CLASSIFIERS}: `num_networks` counts them",
        "canonicalized": "there is no canonical form of these networks here",
    },
    "tickets": {
        "views": "a network is read as it was before training, once",
        "num_images": f"{_CLASSIFIERS}: `num_train`, `num_val`, `num_test` count pairs",
        "canonicalized": "there is no canonical form of these networks here",
        "augmentations": "the task has none",
    },
}
# Overrides that say where and how a run goes, and nothing of what it computes.
NEUTRAL = (
    "seed", "threads", "launcher", "logger", "rerun", "output_dir", "data_dir", "zoo_dir", "size", "sweep", "hydra",
    "trainer.enable_progress_bar", "trainer.log_every_n_steps", "zoo.threads",
)  # fmt: skip
_ELSEWHERE = {
    "seed", "data_dir", "zoo_dir", "threads", "encoder", "encoder_hash", "enable_progress_bar", "log_every_n_steps",
}  # fmt: skip
# Keys that are younger than published results, by group, and the value that those had: left out where they have it, so
# that names and hashes stay. `config_hash` counts on it as well.
YOUNGER: Mapping[str, Mapping[str, Any]] = {
    "trainer": {"compile": False}, "model": {"head_activation": "relu"}, "task": {"warmup_share": 0.1},
    "zoo": {"output_offset": None, "pixel_min": None, "pixel_max": None},
}  # fmt: skip
_HASH = re.compile(r"-seed(\d+)-([0-9a-f]{8})$")
_SEED = re.compile(r"-seed(\d+)(?:-[0-9a-f]{8})?$")


@dataclass(frozen=True)
class Run:
    """A result.

    Attributes:
        path: the JSON file.
        summary: what it says.
        folder: its run folder, where that is at hand.
    """

    path: Path
    summary: Mapping[str, Any]
    folder: Path | None = None

    @property
    def value(self) -> float:
        """The main metric."""
        return float(self.summary["metrics"][self.summary["metric"]])


@dataclass(frozen=True)
class Unfinished:
    """A run folder that was begun and has no result.

    Attributes:
        folder: the folder.
        seed: of the run; None where its name doesn't tell.
        config_hash: None in the folder of a sweep, whose names have none.
        overrides: of the command line, without those that change no number; None where there is no `.hydra`.
    """

    folder: Path
    seed: int | None
    config_hash: str | None
    overrides: tuple[str, ...] | None


@dataclass
class Found:
    """All that was found.

    Attributes:
        runs: of training.
        references: results without training, such as the bounds of `inr_edit`.
        measures: files of `scripts/measure_zoo.py`.
        unfinished: run folders without a result.
        problems: a line for each file that could not be used, or not as it is.
    """

    runs: list[Run] = field(default_factory=list)
    references: list[Run] = field(default_factory=list)
    measures: list[Run] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def lacking(summary: Mapping[str, Any]) -> list[str]:
    """The fields that a result of a training run of this task has to say, and doesn't."""
    needed = [name for name in FIELDS if name not in WITHOUT.get(str(summary.get("task")), {})]
    missing = [name for name in needed if name not in summary]
    metrics = summary.get("metrics")
    if (
        "metrics" in summary
        and "metric" in summary
        and not (isinstance(metrics, dict) and summary["metric"] in metrics)
    ):
        missing.append(f"metrics[{summary['metric']}]")
    return missing


def collect(paths: Iterable[Path]) -> Found:
    """Reads result files, run folders, and folders of either, however deep.

    Of two files of the same run (a folder, and its summary in `results/`) one is kept. What a rerun has set aside is
    left out.

    Raises:
        ValueError: a path that isn't there.
    """
    found, seen = Found(), set()
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no {path}: give run folders, folders of them, or result files")
        for file in _files(path):
            if (real := file.resolve()) not in seen:
                seen.add(real)
                _read(file, found)
    found.runs = _once(found.runs, found.problems)
    return found


def _files(path: Path) -> list[Path]:
    """The result files at and below a path; for a run without one, its folder."""
    if path.is_file():
        return [path]
    files = []
    for where, folders, names in os.walk(path):
        here = Path(where)
        if "summary.json" in names or ".hydra" in folders or "run.log" in names:
            folders.clear()  # nothing of interest lies within a run's folder
            if not set_aside(here):
                files.append(here / "summary.json" if "summary.json" in names else here)
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [here / name for name in sorted(names) if name.endswith(".json")]
    return files


def set_aside(folder: Path) -> bool:
    """Whether a run folder is the earlier run that `rerun=true` has put away, such as `nft-...-seed0-1a2b3c4d.1`."""
    name, _, number = folder.name.rpartition(".")
    return number.isdigit() and (folder.parent / name).is_dir()


def _read(file: Path, found: Found) -> None:
    if file.is_dir():
        found.unfinished.append(_unfinished(file))
        return
    try:
        summary = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        found.problems.append(f"{file}: unreadable ({error})")
        return
    if not isinstance(summary, dict):
        found.problems.append(f"{file}: holds no result, but a {type(summary).__name__}")
        return
    run = Run(file, summary, file.parent if file.name == "summary.json" else None)
    if {"about", "table"} <= set(summary):
        if _is_measures(summary):
            found.measures.append(run)
        else:
            found.problems.append(f"{file}: left out, since it lacks some of what scripts/measure_zoo.py writes")
        return
    bound = "params" not in summary and "config_hash" not in summary and "measured" in summary
    always = {"task", "dataset", "model", "metric", "metrics", "seed"}
    missing = [name for name in lacking(summary) if not bound or name in always]
    needed = always | ({"config_hash", "size"} if not bound else set())
    fatal = [name for name in missing if name in needed or name.startswith("metrics[")]
    if fatal:
        found.problems.append(f"{file}: left out, since it lacks {', '.join(missing)}")
        return
    if missing:
        found.problems.append(f"{file}: lacks {', '.join(missing)}")
    if not all(isinstance(summary.get(name, 0), int) for name in ("seed", "num_train", "params", "examples_seen")):
        found.problems.append(f"{file}: left out, since seed and counts must be whole numbers")
        return
    if "/" not in str(summary["metric"]):
        found.problems.append(f"{file}: left out, since its metric {summary['metric']} is not split/name")
        return
    if not _finite(run):
        found.problems.append(f"{file}: left out, since {summary['metric']} is {summary['metrics'][summary['metric']]}")
        if not bound:  # its row says so, too
            found.unfinished.append(Unfinished(file, int(summary["seed"]), str(summary["config_hash"]), None))
        return
    (found.references if bound else found.runs).append(run)


def _is_measures(summary: Mapping[str, Any]) -> bool:
    """Whether a file has all that the table of measures reads."""
    try:
        about, lines = summary["about"], summary["table"]
        int(about["settings"]["seed"]), about["images"]["source"], about["zoo"], about["steps"], about["access"]
        return all(line["measure"] and math.isfinite(line["tau_accuracy"] or 0.0) for line in lines)
    except (KeyError, TypeError, ValueError):
        return False


def _finite(run: Run) -> bool:
    try:
        return math.isfinite(run.value)
    except (TypeError, ValueError):
        return False


def _unfinished(folder: Path) -> Unfinished:
    named, seed = _HASH.search(folder.name), _SEED.search(folder.name)
    overrides = None
    try:  # a YAML list of one override a line, as Hydra writes it
        lines = (folder / ".hydra" / "overrides.yaml").read_text().splitlines()
        overrides = essential(line[2:].strip("'\"") for line in lines if line.startswith("- "))
    except OSError:
        pass
    return Unfinished(folder, int(seed[1]) if seed else None, named[2] if named else None, overrides)


def essential(words: Iterable[str]) -> tuple[str, ...]:
    """The overrides that change what is computed, sorted."""
    keys = ((word, word.lstrip("+~").split("=")[0]) for word in words)
    return tuple(sorted(word for word, key in keys if key not in NEUTRAL and key.split(".")[0] not in NEUTRAL))


def typed(command: str) -> tuple[str, ...]:
    """The essential overrides of a command line; what is not an override is left out."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        words = command.split()
    return essential(word for word in words if "=" in word)


def is_younger(group: str, key: str, value: Any) -> bool:
    """Whether a key of the config is not counted, since it is one of `YOUNGER` and has the value of old."""
    known = YOUNGER.get(group, {})
    return key in known and known[key] == value


def config_key(summary: Mapping[str, Any]) -> str:
    """The same for all seeds of an experiment, and for no other.

    It is the config's hash, in which the seed has no part. The hash of a run that reads an encoder covers the encoder's
    weights, which differ by the encoder's seed: there the rest of the config counts, and the hash of the encoder's. An
    encoder of another seed than the run's is part of the experiment.
    """
    if "encoder" not in summary:
        return str(summary["config_hash"])
    groups = {name: summary.get("config", {}).get(name) or {} for name in ("task", "model", "zoo", "trainer")}
    plain = {
        group: {k: v for k, v in keys.items() if k not in _ELSEWHERE and not is_younger(group, k, v)}
        for group, keys in groups.items()
    }
    encoder = re.sub(rf"\bseed {summary['seed']}\b", "", str(summary["encoder"]))
    return hashlib.sha256(json.dumps([plain, encoder], sort_keys=True).encode()).hexdigest()[:8]


def _once(runs: list[Run], problems: list[str]) -> list[Run]:
    """One of each run; the published file of a run is joined with its folder."""
    kept: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        key = tuple(run.summary[name] for name in ("task", "model", "config_hash", "seed", "size"))
        other = kept.setdefault(key, run)
        if other is run:
            continue
        if other.value != run.value:
            problems.append(
                f"{run.path}: left out, since {other.path} is of the same config and seed and says {other.value:.6g}, "
                f"not {run.value:.6g}"
            )
        elif other.folder is None:
            kept[key] = replace(other, folder=run.folder)
    return list(kept.values())


def read_json(path: Path) -> dict[str, Any]:
    """What a result file says.

    Raises:
        ValueError: it is no JSON, or no object.
    """
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): restore it, or publish its run again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no result, but a {type(found).__name__}")
    return found


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))
