"""Runs what the published tables still lack, most urgent first, within a given time; the plan is conf/campaign.yaml.

python scripts/campaign.py --list                        # every cell: seeds done, minutes left, size
python scripts/campaign.py --minutes 60 --machine cpu    # one hour of it; stopped runs go on the next time
python scripts/campaign.py --minutes 60 --jobs 2 --threads 1 --only edit

A finished run is published to results/ at once, and what is there is never run again. A run whose estimate does not fit
into the time left is not begun, one that takes longer is interrupted: its checkpoint stays. Logs are in
outputs/campaign/.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from hydra import initialize_config_dir
from publish import RESULTS, publish

from nfbench.config import errors, register
from nfbench.config.campaign import MACHINES, Campaign, Step, read_plan
from nfbench.config.schema import CONF

ROOT = Path(__file__).resolve().parents[1]
PLAN = CONF / "campaign.yaml"
GRACE_S = 60.0  # for an interrupted run to end


def main() -> None:
    """Does what the command line says.

    Raises:
        ValueError: a plan that is wrong, a cell that does not exist.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="show the plan and what of it is done")
    parser.add_argument("--minutes", type=float, default=60.0, help="time to use (default 60)")
    parser.add_argument("--machine", choices=MACHINES, default="cpu", help="cpu runs sizes tiny and cpu, gpu runs full")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (default 1)")
    parser.add_argument("--threads", type=int, help="torch threads of a run (default: its own choice)")
    parser.add_argument("--only", metavar="TEXT", help="cells whose name contains this")
    parser.add_argument("--plan", type=Path, default=PLAN, help="another plan")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where published results are")
    parser.add_argument("--logs", type=Path, default=ROOT / "outputs" / "campaign", help="what the runs print")
    args = parser.parse_args()
    if args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs} must be at least 1")
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        campaign = Campaign(read_plan(args.plan), args.results)
        if args.list:
            print(listing(campaign.steps()))
            return
        if not work(campaign, args):
            sys.exit(1)


def listing(steps: list[Step]) -> str:
    """The plan as a table: a line a cell."""
    lines = [f"{'priority':>8}  {'size':<5} {'cell':<36} {'done':<22} {'minutes left':>12}"]
    left = {machine: 0.0 for machine in MACHINES}
    for name in dict.fromkeys(step.cell.name for step in steps):
        mine = [step for step in steps if step.cell.name == name]
        cell, minutes = mine[0].cell, sum(step.minutes for step in mine if not step.done)
        done = [step for step in mine if step.done]
        which = ", ".join(str(step.seed) for step in done if step.seed is not None)
        shown = f"{len(done)} of {len(mine)}" + (f" (seed {which})" if which else "")
        lines.append(f"{cell.priority:>8}  {cell.size:<5} {name:<36} {shown:<22} {minutes:>12.0f}")
        for machine, sizes in MACHINES.items():
            left[machine] += minutes * (cell.size in sizes)
    return "\n".join([*lines, "left: " + ", ".join(f"{m:.0f} minutes on a {name}" for name, m in left.items())])


class Running:
    """A step that is being run."""

    def __init__(self, step: Step, command: list[str], folder: Path | None, logs: Path) -> None:
        self.step, self.folder, self.began = step, folder, time.monotonic()
        self.log = logs / f"{step.name.replace(' ', '-')}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        print(f"begin {step.name}: {shlex.join(['python', *command])}", flush=True)
        with self.log.open("w") as handle:
            paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stdout=handle, stderr=handle, start_new_session=True,
                env={**os.environ, "PYTHONPATH": paths},
            )  # fmt: skip

    def stop(self) -> None:
        """Interrupts it, as Ctrl-C does: runs keep their checkpoints."""
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def work(campaign: Campaign, args: argparse.Namespace) -> bool:
    """Runs steps until the time or the plan is at its end; returns whether none failed."""
    deadline = time.monotonic() + 60 * args.minutes
    steps = [step for step in campaign.steps() if not step.done and step.cell.size in MACHINES[args.machine]]
    steps = [step for step in steps if args.only is None or args.only in step.cell.name]
    done = {step.name for step in campaign.steps() if step.done}
    failed: list[str] = []
    running: list[Running] = []
    try:
        while True:
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                (done.add if finish(campaign, each) else failed.append)(each.step.name)
            if time.monotonic() > deadline:
                break
            left = (deadline - time.monotonic()) / 60
            while len(running) < args.jobs:
                step = next((one for one in steps if one.minutes <= left and ready(campaign, one, done)), None)
                if step is None:
                    break
                steps.remove(step)
                running.append(begin(campaign, step, args))
            if not running:
                break
            time.sleep(0.5)
    finally:
        for each in running:
            each.stop()
            print(f"stopped {each.step.name}: it goes on the next time", flush=True)
    for step in steps:
        print(f"left: {step.name} ({step.minutes:.0f} minutes)")
    for name in failed:
        print(f"FAILED: {name}, see {args.logs / name.replace(' ', '-')}.log")
    return not failed


def ready(campaign: Campaign, step: Step, done: set[str]) -> bool:
    """Whether all that has to come first is done, and an encoder that is read is here and not only published."""
    cell = step.cell
    for other in (campaign.cells[name] for name in cell.after):
        first = other.name if other.script else f"{other.name} seed {step.seed}"
        if first not in done:
            return False
    encoder = campaign.encoder(cell, step.seed) if step.seed is not None else None
    if encoder is not None and not (ROOT / encoder / "summary.json").exists():
        raise ValueError(
            f"{step.name} reads the encoder in {encoder}, which was published and is not on this machine: run "
            f"`python run.py {shlex.join(campaign.overrides(campaign.cells[cell.after[0]], step.seed or 0))}` first"
        )
    return True


def begin(campaign: Campaign, step: Step, args: argparse.Namespace) -> Running:
    """Starts a step."""
    if step.seed is None:
        return Running(step, [f"scripts/{step.cell.script}", *shlex.split(step.cell.run)], None, args.logs)
    overrides = campaign.overrides(step.cell, step.seed)
    _, folder = campaign.find(overrides)
    more = [] if args.threads is None else [f"threads={args.threads}"]
    return Running(step, ["run.py", *overrides, *more], ROOT / folder, args.logs)


def finish(campaign: Campaign, run: Running) -> bool:
    """Publishes a step's result; whether it has one."""
    took = (time.monotonic() - run.began) / 60
    if run.process.returncode:
        print(f"failed {run.step.name} after {took:.1f} minutes: {run.log}", flush=True)
        return False
    where = publish(run.folder, campaign.results) if run.folder else run.log
    print(f"done {run.step.name} in {took:.1f} minutes: {os.path.relpath(where)}", flush=True)
    return True


if __name__ == "__main__":
    with errors.one_screen():
        main()
