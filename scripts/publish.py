"""Copies summaries and curves of finished runs, without weights, to results/<task>/<name>.json: tables read them there.

python scripts/publish.py outputs/inr_cls/nft-siren_digits-seed0-1a2b3c4d ...
python scripts/publish.py --replace FOLDER ...           # where another run of the same config and seed is published

A summary has to say all that a result says (nfbench/report/results.py lists the fields); one that doesn't is refused.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfbench.report.results import lacking, read_json, read_rows
from nfbench.report.run_folder import write_atomically
from nfbench.report.tables import TASKS

RESULTS = Path(__file__).resolve().parents[1] / "results"
KERNEL = re.compile(r"^(Linux-\d+(?:\.\d+)*)-.+-(x86_64|aarch64)\b")
NAME = re.compile(r"[\w.+-]+-seed\d+-[0-9a-f]{8}")


def publish(folder: Path, results: Path = RESULTS, replace: bool = False) -> Path:
    """Copies one run's summary and says where it is now.

    Args:
        folder: the run's, of a sweep or not.
        results: the folder of published results.
        replace: in place of another run of the same config and seed, whose numbers differ.

    Raises:
        ValueError: a folder without a summary, so not of a finished run, whose summary lacks a field or cannot name a
            file, or whose place is taken by other numbers.
    """
    source = folder / "summary.json"
    if not source.is_file():
        raise ValueError(
            f"{folder} has no summary.json: give the folders of finished runs, as their result lines name them"
        )
    try:
        summary = json.loads(source.read_text())
    except ValueError as error:
        raise ValueError(f"{source} is no JSON ({error}): add rerun=true to its command to train it again") from None
    if missing := lacking(summary):
        raise ValueError(
            f"{source} lacks {', '.join(missing)}: published results say all that nfbench/report/results.py lists. "
            "Add rerun=true to the run's command to make it again"
        )
    target = results / place(source, summary)
    if target.exists() and not replace and (old := read_json(target))["metrics"] != summary["metrics"]:
        raise ValueError(
            f"{target} is of the same config and seed and says {old['metrics']}, {source} says {summary['metrics']}: "
            "keep it, or take the new one with scripts/publish.py --replace"
        )
    if summary.get("slurm"):
        del summary["slurm"]["node"]  # the name of somebody's machine
    if system := (summary.get("machine") or {}).get("system"):  # and of somebody's kernel
        summary["machine"]["system"] = KERNEL.sub(r"\1-\2", system)
    if curves := read_curves(folder / "metrics.csv"):
        summary["curves"] = curves
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, json.dumps(summary, indent=1) + "\n")
    return target


def place(source: Path, summary: Mapping[str, Any]) -> Path:
    """`<task>/<model>-<zoo>-seed<seed>-<hash>.json`, the name of a run's folder outside of sweeps.

    Raises:
        ValueError: no such task, or names that are not of one file.
    """
    name = f"{summary['model']}-{summary.get('zoo')}-seed{summary['seed']}-{summary['config_hash']}"
    if summary["task"] not in TASKS or not NAME.fullmatch(name):
        raise ValueError(
            f"{source} is of task {summary['task']!r} and would be named {name!r}: tasks are {', '.join(TASKS)}, and "
            "names have letters, digits, . _ + - and end in a seed and eight hex digits"
        )
    return Path(summary["task"]) / f"{name}.json"


def read_curves(path: Path) -> dict[str, list[float | None]]:
    """What `metrics.csv` says of training and validation: for each column a value an epoch, None where it has none."""
    rows = read_rows(path)
    names = [name for name in (rows[0] if rows else ()) if name.startswith(("train/", "val/"))]
    return {name: [float(row[name]) if row[name] else None for row in rows] for name in names}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders")
    parser.add_argument("--replace", action="store_true", help="take these in place of other numbers")
    given = parser.parse_args()
    try:
        for path in given.folders:
            print(publish(path, replace=given.replace))
    except ValueError as error:
        sys.exit(f"error: {error}")
