"""The commands of published results still say what was run: each composes to the config that its result records."""

import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nfbench.config.identity import differences, identity
from nfbench.report.results import collect, is_younger
from nfbench.report.tables import make_tables

ROOT = Path(__file__).resolve().parents[2]
# In a result's config and not in what it computes: where and how it ran. `seed` of the zoo is the run's own.
NO_PART = {"zoo_dir", "data_dir", "seed", "enable_progress_bar", "log_every_n_steps", "threads", "encoder"}


@cache
def published() -> dict[str, dict[str, Any]]:
    """One run of each row of the tables: its seeds have one config."""
    tables = make_tables(collect([ROOT / "results"]))[0]
    runs = [row.run for table in tables for row in table.rows if row.run is not None and row.get("config_hash")]
    return {str(run.path.relative_to(ROOT / "results")): dict(run.summary) for run in runs}


@pytest.mark.parametrize("name", published())
def test_a_command_is_the_config_of_its_result(composed, name: str) -> None:
    summary = published()[name]
    python, script, *words = shlex.split(summary["command"])
    assert (python, script) == ("python", "run.py")
    cfg = composed(*words)
    assert cfg.seed == summary["seed"]
    changed = []
    for group, now in identity(cfg).items():
        if isinstance(now, dict):
            then = summary["config"][group]  # an option that is younger than the result is not in it
            shared = (now.keys() & then.keys()) - {"encoder_hash"}  # of a checkpoint, which is not at hand
            changed += differences(*({key: side[key] for key in shared} for side in (now, then)), group)
            gone = then.keys() - now.keys() - NO_PART
            changed += [f"{group}.{key} is gone" for key in gone if not is_younger(group, key, then[key])]
    assert changed == []
