"""Copies summaries and curves of finished runs, without weights, to results/<task>/<name>.json: tables read them there.

python scripts/publish.py outputs/inr_cls/nft-siren_digits-seed0-1a2b3c4d ...

A summary has to say all that a result says (nfbench/report/results.py lists the fields); one that doesn't is refused.
"""

import argparse
import json
import sys
from pathlib import Path

from nfbench.report.results import lacking, read_rows

RESULTS = Path(__file__).resolve().parents[1] / "results"


def publish(folder: Path, results: Path = RESULTS) -> Path:
    """Copies one run's summary and says where it is now.

    Raises:
        ValueError: a folder without a summary, so not of a finished run, or whose summary lacks a field.
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
    if summary.get("slurm"):
        del summary["slurm"]["node"]  # the name of somebody's machine
    if curves := read_curves(folder / "metrics.csv"):
        summary["curves"] = curves
    target = results / summary["task"] / f"{folder.name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(summary, indent=1) + "\n")
    return target


def read_curves(path: Path) -> dict[str, list[float | None]]:
    """What `metrics.csv` says of training and validation: for each column a value an epoch, None where it has none."""
    rows = read_rows(path)
    names = [name for name in (rows[0] if rows else ()) if name.startswith(("train/", "val/"))]
    return {name: [float(row[name]) if row[name] else None for row in rows] for name in names}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders")
    try:
        for path in parser.parse_args().folders:
            print(publish(path))
    except ValueError as error:
        sys.exit(f"error: {error}")
