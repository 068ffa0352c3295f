"""Draws learning curves of published results: a score of validation against the training examples seen.

python scripts/curves.py val/acc out.png task=inr_cls dataset=mnist     # of results/, those with these facts
python scripts/curves.py val/psnr out.png --title Reconstruction task=inr2array

Models have colours; dashed lines are of networks that were not canonicalised; bands show the range over seeds.
"""

import argparse
import sys
from pathlib import Path

from nfbench.report.curves import draw_curves
from nfbench.report.fill import key_value
from nfbench.report.results import read_json

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    """Does what the command line says.

    Raises:
        ValueError: a fact that is not key=value, facts that no result has, a column that none has.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("column", help="of metrics.csv, such as val/acc")
    parser.add_argument("out", type=Path, help="the PNG to write")
    parser.add_argument("facts", nargs="*", help="key=value, as the results say it")
    parser.add_argument("--title", default="", help="of the picture")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where published results are")
    args = parser.parse_intermixed_args()
    facts = dict(key_value(word) for word in args.facts)
    found = [read_json(path) for path in sorted(args.results.rglob("*.json"))]
    chosen = [one for one in found if all(str(one.get(key)).lower() == value.lower() for key, value in facts.items())]
    if not chosen:
        raise ValueError(f"none of the {len(found)} results in {args.results} has {' '.join(args.facts)}")
    for label in draw_curves(args.out, chosen, args.column, args.title):
        print(label)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
