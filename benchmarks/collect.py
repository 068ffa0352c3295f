"""How long it takes to collect 200 run folders: to find them, read them, and make the tables and the page of them.

The folders are made in a temporary place, each with `summary.json`, `metrics.csv` and `predictions.csv` of the size of
a run of 400 test networks, in one sweep's folder. The other is the least that any program must do: walk the folders and
parse each summary. The floor reads the bytes of all three files of each folder. `ours_cpu_s` is processor time, which
other programs on the machine hardly change. Takes some seconds.

    python benchmarks/collect.py [--rounds 7] [--runs 200]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nfbench.report.page import page
from nfbench.report.results import collect
from nfbench.report.tables import make_tables
from nfbench.report.write_tables import as_csv, latex, markdown

RESULTS = Path(__file__).parent / "results" / "collect.json"
PATTERN = Path(__file__).resolve().parents[1] / "results" / "inr_cls"
SEEDS, EPOCHS, ITEMS = 10, 24, 400


def make_runs(folder: Path, count: int) -> None:
    """So many runs: models of ten seeds each, in the form of a committed result."""
    pattern = json.loads(min(PATTERN.glob("*.json")).read_text())
    draw = random.Random(0)
    for number in range(count):
        model, seed = f"model{number // SEEDS}", number % SEEDS
        value = 0.5 + 0.4 * draw.random()
        run = folder / f"{number}-inr_cls-{model}-siren_digits-seed{seed}"
        run.mkdir()
        summary = {**pattern, "model": model, "seed": seed, "config_hash": f"{number // SEEDS:08x}"}
        summary |= {"metrics": {**pattern["metrics"], pattern["metric"]: value}}
        summary |= {"command": f"python run.py task=inr_cls model={model} seed={seed}"}
        (run / "summary.json").write_text(json.dumps(summary, indent=2))
        lines = [f"{epoch},{epoch * 187},0.003,{value},1.2,{value * epoch / EPOCHS},1.1" for epoch in range(EPOCHS)]
        (run / "metrics.csv").write_text(
            "\n".join(["epoch,step,lr,train/acc,train/loss,val/acc,val/loss", *lines]) + "\n"
        )
        lines = [f"{item},0,{item % 10},{draw.randrange(10)}" for item in range(ITEMS)]
        (run / "predictions.csv").write_text("\n".join(["index,view,true,predicted", *lines]) + "\n")


def read_bytes(folder: Path) -> int:
    """Reads all files of all run folders."""
    return sum(len(path.read_bytes()) for run in os.scandir(folder) for path in Path(run.path).iterdir())


def parse_each(folder: Path) -> int:
    """Parses each summary."""
    return sum(len(json.loads(path.read_text())) for path in folder.rglob("summary.json"))


def tables_and_page(folder: Path) -> int:
    """All that `scripts/tables.py` and `scripts/report.py` make."""
    found = collect([folder])
    tables, lost = make_tables(found)
    texts = (markdown(tables, lost, found.problems), as_csv(tables), latex(tables), page(tables, lost, found.problems))
    return sum(map(len, texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds; the median counts (default 7)")
    parser.add_argument("--runs", type=int, default=200, help="run folders (default 200)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the numbers go")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_runs(folder, args.runs)
        found = collect([folder])
        assert (len(found.runs), found.problems) == (args.runs, []), found.problems
        runs: dict[str, Callable[[], object]] = {
            "collect": lambda: collect([folder]),
            "collect, tables and page": lambda: tables_and_page(folder),
            "other": lambda: parse_each(folder),
            "floor": lambda: read_bytes(folder),
        }
        samples: dict[str, list[float]] = {key: [] for key in runs}
        processor: dict[str, list[float]] = {key: [] for key in runs}
        for _ in range(args.rounds):
            for key, run in runs.items():
                began, used = time.perf_counter(), time.process_time()
                run()
                samples[key].append(time.perf_counter() - began)
                processor[key].append(time.process_time() - used)
    seconds = {key: statistics.median(times) for key, times in samples.items()}
    cpu = {key: statistics.median(times) for key, times in processor.items()}
    about = {"cores": os.cpu_count(), "threads": 1}
    about["versions"] = {"python": platform.python_version(), "numpy": np.__version__}
    rows = [
        {
            "case": f"{args.runs} run folders, {case}",
            "ours_s": seconds[case],
            "ours_cpu_s": cpu[case],
            "other": "json.loads of each summary",
            "other_s": seconds["other"],
            "ratio": seconds["other"] / seconds[case],
            "floor_s": seconds["floor"],
            **about,
        }
        for case in ("collect", "collect, tables and page")
    ]
    for row in rows:
        print(f"{row['case']:<45} {row['ours_s']:.3f} s, processor {row['ours_cpu_s']:.3f} s; each summary parsed "
              f"{row['other_s']:.3f} s; bytes read {row['floor_s']:.3f} s")  # fmt: skip
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
