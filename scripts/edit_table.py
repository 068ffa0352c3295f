"""Prints the table of inr_edit results beside the papers' numbers, as Markdown.

python scripts/edit_table.py                                   # of results/inr_edit/*.json
python scripts/edit_table.py outputs/inr_edit/*/summary.json   # of these runs, without what a rerun has set aside
"""

import argparse
import json
import sys
from pathlib import Path

from nfbench.report.edit_table import edit_table
from nfbench.report.results import set_aside

RESULTS = Path(__file__).resolve().parents[1] / "results" / "inr_edit"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="summaries (default: those in results/inr_edit)")
    given = [path for path in parser.parse_args().files if not set_aside(path.parent)]
    paths = given or sorted(RESULTS.glob("*.json"))
    if not paths:
        sys.exit(f"error: {RESULTS} has no results yet: publish runs with scripts/publish.py, or name summaries")
    try:
        print(edit_table(json.loads(path.read_text()) for path in paths))
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"error: {error}")
