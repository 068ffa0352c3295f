"""The campaign: which runs the published tables are made of, which of them are done, and what to do next.

A plan is a YAML file, `conf/campaign.yaml`: cells of runs that differ in the seed alone, and zoos built beforehand.
"""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from nfbench.config.errors import did_you_mean
from nfbench.config.identity import encoder_hash
from nfbench.report.results import read_json

MACHINES = {"cpu": ("tiny", "cpu"), "gpu": ("full",)}  # sizes that run there
# Of a published command, what changes no number, and the seed, which its file's name has.
NOT_IN_A_COMMAND = ("threads=", "encoder=", "logger=", "rerun=", "seed=")


@dataclass(frozen=True)
class Cell:
    """Runs of one config with several seeds.

    Attributes:
        name: of the cell.
        run: overrides as on the command line; of a `script`, all that follows its name.
        minutes: that one run takes, an estimate.
        priority: 1 is first.
        seeds: of the runs; a script has none.
        size: tiny, cpu or full; see MACHINES.
        after: cells that come first. A cell of task=inr2array_cls reads the encoder of the first of them.
        script: a script to run instead of run.py; it has to be quick where its work is done.
        makes: the file of `results/` that tells that a script's work is done; none: it is wanted as long as something
            that comes after it is not done.
    """

    name: str
    run: str
    minutes: float
    priority: int
    seeds: tuple[int, ...] = (0, 1, 2)
    size: str = "cpu"
    after: tuple[str, ...] = ()
    script: str | None = None
    makes: str | None = None


@dataclass(frozen=True)
class Step:
    """One run of a cell, or its script.

    Attributes:
        cell: the cell.
        seed: None for a script.
        done: its result is published.
        minutes: expected, from published runs of the cell where there are any.
    """

    cell: Cell
    seed: int | None
    done: bool
    minutes: float

    @property
    def name(self) -> str:
        return self.cell.name if self.seed is None else f"{self.cell.name} seed {self.seed}"


def read_plan(path: Path) -> dict[str, Cell]:
    """The cells of a plan by name.

    Raises:
        ValueError: a key, a cell or a size that is not known, a value that is missing or of the wrong kind, or a cell
            that could never begin: it comes after itself, or after a run of a seed that there is not.
    """
    found = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(found, dict) or set(found) != {"cells"} or not isinstance(found["cells"], dict):
        raise ValueError(f"{path} is no campaign: it needs the key `cells` and nothing else")
    allowed = set(Cell.__dataclass_fields__) - {"name"}
    cells: dict[str, Cell] = {}
    for name, given in found["cells"].items():
        for key in set(given) - allowed:
            raise ValueError(f"{path}: {name} has the key `{key}`{did_you_mean(key, allowed)}")
        for key in {"run", "minutes", "priority"} - set(given):
            raise ValueError(f"{path}: {name} lacks the key `{key}`")
        lists: dict[str, tuple[Any, ...]] = {}
        for key, kind in (("seeds", int), ("after", str)):
            if not isinstance(value := given.get(key, []), list) or not all(isinstance(one, kind) for one in value):
                example = "[0, 1]" if kind is int else "[another_cell]"
                raise ValueError(f"{path}: {name} has {key}: {value}, which must be a list such as {example}")
            lists |= {key: tuple(value)} if key in given else {}
        for key in ("minutes", "priority"):
            if isinstance(given[key], bool) or not isinstance(given[key], int | float):
                raise ValueError(f"{path}: {name} has {key}: {given[key]}, which must be a number")
        cells[name] = Cell(name=name, **{**given, **lists})
    for cell in cells.values():
        if cell.size not in sum(MACHINES.values(), ()):
            raise ValueError(f"{path}: {cell.name} has size {cell.size}: choose tiny, cpu or full")
        for other in cell.after:
            if other not in cells:
                raise ValueError(f"{path}: {cell.name} comes after {other}, no such cell{did_you_mean(other, cells)}")
        for first in (cells[other] for other in cell.after if cells[other].script is None):
            lacking = sorted(set(cell.seeds) - set(first.seeds)) if cell.script is None else ["none, as a script"]
            if lacking:
                raise ValueError(
                    f"{path}: {cell.name} comes after the runs of {first.name}, with the same seed, and has seed "
                    f"{', '.join(map(str, lacking))}, which {first.name} has not"
                )
    for name in cells:
        if name in {one for other in cells[name].after for one in _chain(cells, other)}:
            raise ValueError(f"{path}: {name} comes after itself: mend the key `after`")
    return cells


def _chain(cells: Mapping[str, Cell], name: str) -> set[str]:
    """A cell and all that comes before it."""
    found, waiting = set(), [name]
    while waiting:
        if (one := waiting.pop()) not in found:
            found.add(one)
            waiting += cells[one].after
    return found


def before(cells: Mapping[str, Cell], text: str) -> set[str]:
    """The cells whose name contains a text, and all that comes before them.

    Raises:
        ValueError: there is no such cell.
    """
    chosen = [name for name in cells if text in name]
    if not chosen:
        raise ValueError(f"no cell has {text!r} in its name{did_you_mean(text, cells)}: `--list` shows all")
    return set().union(*(_chain(cells, name) for name in chosen))


def folder_name(overrides: Sequence[str]) -> tuple[str, Path]:
    """Task and run folder that run.py gives to a command line. Hydra has to be initialised."""
    seeds = [word.removeprefix("seed=") for word in overrides if word.startswith("seed=")] or ["0"]
    encoders = [word.removeprefix("encoder=") for word in overrides if word.startswith("encoder=")]
    others = tuple(word for word in overrides if not word.startswith("seed="))
    task, folder = _of_seed_0(others, encoder_hash(encoders[-1] if encoders else None))
    return task, folder.with_name(folder.name.replace("-seed0-", f"-seed{seeds[-1]}-"))


@cache  # a plan has few cells
def _of_seed_0(overrides: tuple[str, ...], encoder: str | None) -> tuple[str, Path]:
    """Of an encoder's hash too: the folder of a run that reads it has another name once it is trained."""
    cfg = compose("config", [*overrides, "seed=0"], return_hydra_config=True)
    return str(cfg.task.name), Path(cfg.hydra.run.dir)


def words(command: str) -> frozenset[str]:
    """The overrides of a published command, without those that change no number and the seed."""
    return frozenset(word for word in shlex.split(command)[2:] if not word.startswith(NOT_IN_A_COMMAND))


class Campaign:
    """What of a plan is done, and what is left.

    Args:
        cells: of the plan.
        results: the folder of published results.
        find: see `folder_name`.
    """

    def __init__(
        self,
        cells: Mapping[str, Cell],
        results: Path,
        find: Callable[[Sequence[str]], tuple[str, Path]] = folder_name,
    ) -> None:
        self.cells, self.results, self.find = cells, results, find

    def overrides(self, cell: Cell, seed: int) -> list[str]:
        """What follows `python run.py`; with the encoder of a cell that reads one."""
        given = [*shlex.split(cell.run), f"seed={seed}"]
        encoder = self.encoder(cell, seed)
        return given if encoder is None else [*given, f"encoder={encoder}"]

    def encoder(self, cell: Cell, seed: int) -> Path | None:
        """The run folder of the encoder that a cell reads; it may not be there yet."""
        if not cell.after or self.cells[cell.after[0]].script:
            return None
        return self.find(self.overrides(self.cells[cell.after[0]], seed))[1]

    def published(self, cell: Cell, seed: int | None) -> Path | None:
        """The file of a published result, if there is one."""
        if seed is None:
            return self.results / cell.makes if cell.makes and (self.results / cell.makes).exists() else None
        encoder = self.encoder(cell, seed)
        if encoder is None:
            task, folder = self.find(self.overrides(cell, seed))
            path = self.results / task / f"{folder.name}.json"
            return path if path.exists() else None
        # The name of such a run depends on the encoder's checkpoint, which need not be here: told by what was typed.
        wanted = frozenset(shlex.split(cell.run))
        source = f"seed {seed}, {encoder.name.rpartition('-')[2]}"
        for path in sorted(self.results.glob(f"*/*-seed{seed}-*.json")):
            found = read_json(path)
            if str(found.get("encoder", "")).endswith(source) and words(str(found.get("command"))) == wanted:
                return path
        return None

    def steps(self) -> list[Step]:
        """Every run of the plan, most urgent first, scripts before the runs of their priority."""
        found = []
        for cell in sorted(self.cells.values(), key=lambda cell: (cell.priority, cell.script is None)):
            seeds: Iterable[int | None] = cell.seeds if cell.script is None else (None,)
            paths = {seed: self.published(cell, seed) for seed in seeds}
            taken = [read_json(path).get("wall_s") for path in paths.values() if path is not None]
            known = [wall / 60 for wall in taken if wall]
            minutes = sum(known) / len(known) if known else float(cell.minutes)
            found += [Step(cell, seed, path is not None, minutes) for seed, path in paths.items()]
        left = {name for step in found if not step.done for name in step.cell.after}
        return [
            replace(step, done=True)
            if step.seed is None and not step.cell.makes and step.cell.name not in left
            else step
            for step in found
        ]
