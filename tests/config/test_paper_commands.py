"""The commands beside the published numbers are commands: each composes, and is of the cell's task and data."""

import shlex

import pytest

from nfbench.report.published import published

COMMANDS = sorted({(cell.command, cell.task) for cell in published() if cell.command})


@pytest.mark.parametrize(("command", "task"), COMMANDS)
def test_composes(composed, command: str, task: str) -> None:
    python, run, *overrides = shlex.split(command, comments=True)
    assert (python, run) == ("python", "run.py")
    cfg = composed(*overrides)
    assert (cfg.task.name, cfg.size, cfg.seed) == (task, "full", 0)
