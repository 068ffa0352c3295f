"""Compares two models that were tested on the same networks: a paired bootstrap over them.

python scripts/compare.py outputs/inr_cls/nft-... outputs/inr_cls/nfn_np-...
python scripts/compare.py outputs/inr_cls/nft-*-b9fe9ebf --against outputs/inr_cls/mlp-*-4b408782     # means over seeds
python scripts/compare.py RUN_A RUN_B --metric test/r2

Prints the difference of the metric, its 95 % interval over resamples of the test networks, and how often the difference
has the other sign. docs/tables.md says more.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from nfbench.report.compare import compare

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="two run folders; with --against, those of the first model")
    parser.add_argument("--against", nargs="+", type=Path, metavar="RUN", help="run folders of the second model")
    parser.add_argument("--metric", help="test/acc, test/kendall_tau, test/r2, test/mse, test/psnr (the task's own)")
    parser.add_argument("--resamples", type=int, default=10_000, help="of the test items (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    ours, theirs = (args.runs, args.against) if args.against else (args.runs[:1], args.runs[1:])
    try:
        if not args.against and len(args.runs) != 2:
            raise ValueError(f"{len(args.runs)} runs were given: give two, or the second model's after --against")
        found = compare(ours, theirs, args.metric, args.resamples, args.seed)
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"error: {error}")
    if args.json:
        print(json.dumps({**asdict(found), "difference": found.difference}))
    else:
        print(
            f"{found.metric}: {found.a:.4f} (A, {found.seeds[0]} seeds) and {found.b:.4f} (B, {found.seeds[1]} seeds)"
        )
        print(f"A - B: {found.difference:+.4f}, 95 % interval {found.low:+.4f} to {found.high:+.4f}")
        print(
            f"two-sided share of the other sign: {found.share:.4f}   "
            f"({found.items:,} test items, {found.resamples:,} resamples)"
        )
