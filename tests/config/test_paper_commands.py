"""The commands beside the published numbers are commands: each composes, and is of the cell's task and data."""

import shlex

import pytest

from nfbench.report.published import Cell, data_differences, published
from nfbench.zoos.splits import default_split

CELLS = [cell for cell in published() if cell.command]
COMMANDS = sorted({(cell.command, cell.task) for cell in CELLS})
INRS = [cell for cell in CELLS if "inr" in cell.task]


@pytest.mark.parametrize(("command", "task"), COMMANDS)
def test_composes(composed, command: str, task: str) -> None:
    python, run, *overrides = shlex.split(command, comments=True)
    assert (python, run) == ("python", "run.py")
    cfg = composed(*overrides)
    assert (cfg.task.name, cfg.size, cfg.seed) == (task, "full", 0)


@pytest.mark.parametrize("cell", INRS, ids=lambda cell: "-".join([*cell.protocol[:4], cell.model]))
def test_is_of_the_cells_data(composed, cell: Cell) -> None:
    """Data, definition, split and views of the zoo that the command of a published number takes are that number's."""
    cfg = composed(*shlex.split(cell.command, comments=True)[2:])
    zoo = cfg.zoo
    about = {
        "task": cell.task, "dataset": zoo.source, "definition": zoo.definition, "views": zoo.num_views,
        "split": zoo.split or default_split(zoo.source, zoo.definition), "config": cfg, "size": cfg.size,
        "num_train": 45_000, "access": cell.access,
    }  # fmt: skip
    assert data_differences(about, cell) == []
