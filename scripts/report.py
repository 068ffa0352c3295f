"""Writes one page with all results beside the papers: report/index.html, self-contained, for any browser.

python scripts/report.py                          # of results/ and, where there are any, the runs in outputs/
python scripts/report.py outputs results          # learning curves and pictures need the run folders
"""

import sys
from pathlib import Path

from tables import default_paths, parser

from nfbench.report.page import write_page
from nfbench.report.results import collect
from nfbench.report.tables import make_tables

if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("--out", type=Path, default=Path("report"), help="the folder to write to (report)")
    args = made.parse_args()
    try:
        found = collect(args.paths or default_paths())
        tables, lost = make_tables(found, args.seeds)
        path = write_page(args.out, tables, lost, found.problems)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {path}: {path.stat().st_size / 2**20:.1f} MB, {len(found.runs)} runs, {len(tables)} tables")
    for problem in found.problems:
        print(f"  {problem}")
