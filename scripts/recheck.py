"""Runs the commands of published rows again, drawn at random, and compares: does each give the number in the tables?

python scripts/recheck.py --list               # which rows a draw takes, and what they took
python scripts/recheck.py --rows 5 --draw 0    # five of them, another draw with another number

A row's command trains its first seed from nothing, in a new folder below --work, with the zoos that are here; rows of
the papers' sizes (size=full) are left out. It prints both numbers and writes them to recheck.json in that folder; the
same command goes on where it was stopped. The same machine, number of threads and code give the same number to the last
digit; others may differ a little. Two threads beside another busy program took seventy times as long as alone.
"""

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from nfbench.report.results import collect
from nfbench.report.tables import Row, Table, make_tables

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Does what the command line says.

    Raises:
        ValueError: more rows than there are, a command that fails, a folder with other results.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--draw", type=int, default=0, help="the seed of the draw (default 0)")
    parser.add_argument("--list", action="store_true", help="show the draw only")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="where published results are")
    parser.add_argument("--work", type=Path, default=Path("outputs/recheck"), help="where to run (outputs/recheck)")
    args = parser.parse_args()
    chosen = draw(args.results, args.rows, args.draw)
    if args.list:
        for table, row in chosen:
            print(f"{row.label} ({table.task}: {table.title}), {row.get('wall_s'):.0f} s\n  {row.command}")
        return
    said = []
    for number, (table, row) in enumerate(chosen):
        said.append(repeat(table, row, args.work / f"{args.draw}-{number}"))
        print(line(said[-1]), flush=True)
    (args.work / "recheck.json").write_text(json.dumps(said, indent=1) + "\n")
    same = sum(one["published"] == one["again"] for one in said)
    print(f"{same} of {len(said)} rows are the same to the last digit; all: {args.work / 'recheck.json'}")


def draw(results: Path, count: int, seed: int) -> list[tuple[Table, Row]]:
    """Rows with a training run of ours, by chance alone."""
    tables, _ = make_tables(collect([results]))
    rows = [
        (table, row) for table in tables for row in table.rows
        if row.get("params") is not None and row.get("size") != "full"
    ]  # fmt: skip
    if not 1 <= count <= len(rows):
        raise ValueError(f"--rows {count}: {results} has {len(rows)} rows; give 1 to {len(rows)}")
    return random.Random(seed).sample(rows, count)


def repeat(table: Table, row: Row, folder: Path) -> dict[str, Any]:
    """Runs a row's command in a new folder; the published number of its first seed and the one that came out."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "data").exists():
        (folder / "data").symlink_to(ROOT / "data")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    for command in row.command.split(" && "):
        _, script, *words = shlex.split(command)
        with (folder / "log.txt").open("a") as log:
            done = subprocess.run([sys.executable, ROOT / script, *words], cwd=folder, stdout=log, stderr=log,
                                  env={**os.environ, "PYTHONPATH": paths})  # fmt: skip
        if done.returncode:
            raise ValueError(f"{command} ended with {done.returncode}: see {folder / 'log.txt'}")
    made = [json.loads(path.read_text()) for path in folder.glob(f"outputs/{table.task}/*/summary.json")]
    if len(made) != 1 or made[0]["command"] not in row.command:
        raise ValueError(f"{folder} has {len(made)} results, and not that of this row alone: remove the folder")
    return {
        "task": table.task, "table": table.title, "model": row.label, "metric": table.metric,
        "seed": made[0]["seed"], "published": row.values[made[0]["seed"]], "again": made[0]["metrics"][table.metric],
        "seconds": made[0]["wall_s"], "command": row.command,
    }  # fmt: skip


def line(one: dict[str, Any]) -> str:
    """A result for the screen."""
    change = one["again"] - one["published"]
    same = "the same" if change == 0 else f"{change:+.2g}"
    return (
        f"{one['model']} ({one['task']}: {one['table']}), seed {one['seed']}: {one['metric']} {one['published']:.6g} "
        f"published, {one['again']:.6g} again ({same}), {one['seconds']:.0f} s"
    )


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
