"""Uploads the offline W&B runs under a folder, each once.

python scripts/sync.py             # all under outputs/
python scripts/sync.py --dry-run   # lists them and what would happen

Left alone are runs that were uploaded before (wandb marks them), runs that are going on (their records are not whole
yet), and attempts that a later one of the same run took over: a resumed run tells its earlier epochs again.
"""

import argparse
import os
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from nfbench.wandb_runs import OfflineRun, find_offline_runs, has_key

BATCH = 50  # runs a call of wandb
SAID = {
    "open": "to upload",
    "synced": "uploaded before",
    "superseded": "another attempt of this run has all of it",
    "running": "going on",
}


def upload(runs: list[OfflineRun]) -> list[OfflineRun]:
    """Uploads runs, and holds their folders meanwhile, so that none is resumed; those that wandb did not mark after it.

    Raises:
        ValueError: a run that was started in this moment.
    """
    for start in range(0, len(runs), BATCH):
        part = runs[start : start + BATCH]
        with ExitStack() as held:
            for each in part:
                held.enter_context(each.run.locked())
            folders = [str(each.folder.resolve()) for each in part]
            subprocess.run([sys.executable, "-m", "wandb", "sync", *folders], check=False)
    return [each for each in runs if not each.synced]


def main(arguments: list[str] | None = None) -> str:
    """Does it and returns the last line.

    Raises:
        ValueError: no runs, no key, or runs that were not uploaded.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="where run folders are (outputs)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs, upload nothing")
    args = parser.parse_args(arguments)
    found = find_offline_runs(args.folder)
    if not found:
        raise ValueError(
            f"there are no offline W&B runs under {args.folder}: runs with logger=offline (the default) leave them. "
            "Give another folder if theirs is elsewhere"
        )
    states = [(each, each.state) for each in found]
    if args.dry_run:
        for each, state in states:
            print(f"{os.path.relpath(each.folder)}: {SAID[state]}")
    count = Counter(state for _, state in states)
    others = ", ".join(f"{count[state]} {text}" for state, text in SAID.items() if state != "open" and count[state])
    wanted = [each for each, state in states if state == "open"]
    if args.dry_run or not wanted:
        return f"{len(wanted)} to upload" + (f" ({others})" if others else "")
    if not has_key():
        raise ValueError(
            f"{len(wanted)} runs wait for an upload, which needs a Weights & Biases account: run `wandb login` once, "
            "or set WANDB_API_KEY. --dry-run lists them"
        )
    if failed := upload(wanted):
        listed = "\n".join(f"  {os.path.relpath(each.folder)}" for each in failed)
        raise ValueError(f"{len(failed)} of {len(wanted)} runs were not uploaded whole; try again later:\n{listed}")
    return f"uploaded {len(wanted)}" + (f" ({others})" if others else "")


if __name__ == "__main__":
    try:
        print(main())
    except ValueError as error:
        sys.exit(f"error: {error}")
