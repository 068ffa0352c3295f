"""Writes results beside the published numbers: tables.md, tables.csv and tables.tex, a table for each protocol.

python scripts/tables.py                                 # of results/ and, where there are any, the runs in outputs/
python scripts/tables.py outputs/multirun/1a2b3c4d       # of these runs: run folders, folders of them, or result files
python scripts/tables.py --seeds 0-4                     # a row that lacks one of these seeds says so
python scripts/tables.py results --fill RESULTS.md       # writes into the marked places of a document

docs/tables.md says what the columns mean.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nfbench.report.fill import fill
from nfbench.report.results import collect
from nfbench.report.run_folder import write_atomically
from nfbench.report.tables import make_tables
from nfbench.report.write_tables import write_tables

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 20  # problems on the screen; the Markdown has all


def whole_numbers(text: str) -> list[int]:
    """`0-2,7` is 0, 1, 2, 7."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            raise argparse.ArgumentTypeError(f"{text!r} must be seeds such as 0-4 or 0,1,7")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def parser(doc: str | None) -> argparse.ArgumentParser:
    """What `scripts/report.py` takes as well."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("paths", nargs="*", type=Path, help="run folders, folders of them, or result files "
                      "(default: results and outputs)")  # fmt: skip
    made.add_argument("--seeds", type=whole_numbers, help="seeds that each row should have, such as 0-4 "
                      "(default: those of the other rows of its table)")  # fmt: skip
    return made


def default_paths() -> list[Path]:
    """The committed results, and the runs of this folder."""
    return [ROOT / "results", *([Path("outputs")] if Path("outputs").is_dir() else [])]


def main() -> None:
    """Does what the command line says."""
    made = parser(__doc__)
    made.add_argument("--out", type=Path, default=Path("tables"), help="the folder to write to (tables)")
    made.add_argument("--fill", type=Path, action="append", metavar="FILE", help="a document with marks, such as "
                      "<!-- results task=inr_cls --> ... <!-- end of results -->; may be repeated")  # fmt: skip
    args = made.parse_args()
    found = collect(args.paths or default_paths())
    tables, lost = make_tables(found, args.seeds)
    if args.fill:
        for path in args.fill:
            write_atomically(path, fill(path.read_text(), tables))
            print(f"wrote {path}")
        show(found.problems, len(found.problems))
        return
    for path in write_tables(args.out, tables, lost, found.problems):
        print(f"wrote {path}")
    rows = sum(len(table.rows) for table in tables)
    print(f"{len(found.runs)} runs and {rows} rows in {len(tables)} tables; {len(found.unfinished)} unfinished runs")
    show(found.problems, SHOWN)


def show(problems: Sequence[str], most: int) -> None:
    """The problems on the screen, at most so many."""
    for problem in problems[:most]:
        print(f"  {problem}")
    if len(problems) > most:
        print(f"  ... and {len(problems) - most} more, all in tables.md")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
