"""Copies summaries of finished runs, without weights, to results/<task>/<name>.json: published numbers are read there.

python scripts/publish.py outputs/inr_cls/nft-siren_digits-seed0-1a2b3c4d ...
"""

import argparse
import json
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"


def publish(folder: Path, results: Path = RESULTS) -> Path:
    """Copies one run's summary and says where it is now.

    Raises:
        ValueError: a folder without a summary, so not of a finished run.
    """
    source = folder / "summary.json"
    if not source.is_file():
        raise ValueError(
            f"{folder} has no summary.json: give the folders of finished runs, as their result lines name them"
        )
    summary = json.loads(source.read_text())
    target = results / summary["task"] / f"{folder.name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(summary, indent=1) + "\n")
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders")
    try:
        for path in parser.parse_args().folders:
            print(publish(path))
    except ValueError as error:
        sys.exit(f"error: {error}")
