"""Runs what the published tables still lack, most urgent first, within a given time; the plan is conf/campaign.yaml.

python scripts/campaign.py --list                        # every cell: seeds done, minutes left, size
python scripts/campaign.py --minutes 60 --machine cpu    # one hour of it; stopped runs go on the next time
python scripts/campaign.py --minutes 60 --jobs 2 --threads 1 --only edit

A finished run is published to results/ at once, and what is there is never run again. A run whose estimate does not fit
into the time left is not begun, one that takes longer is interrupted: its checkpoint stays, and the next time only the
rest of it counts. What comes before a cell of --only is run as well. Logs are in outputs/campaign/.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from publish import RESULTS, publish

from nfbench.config import errors, register
from nfbench.config.campaign import MACHINES, Campaign, Step, before, read_plan
from nfbench.config.schema import CONF
from nfbench.report.results import read_rows

ROOT = Path(__file__).resolve().parents[1]
PLAN = CONF / "campaign.yaml"
TAKE_THREADS = ("build_zoo.py", "edit_bounds.py")  # of the scripts that a plan may call
GRACE_S = 60.0  # for an interrupted run to end


def main() -> None:
    """Does what the command line says.

    Raises:
        ValueError: a plan that is wrong, a cell that does not exist, or a published file that is broken.
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
    for name in ("plan", "results", "logs"):
        setattr(args, name, getattr(args, name).resolve())
    os.chdir(ROOT)  # where run folders are: paths of encoders start here
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        campaign = Campaign(read_plan(args.plan), args.results)
        if args.list:
            names = set(campaign.cells) if args.only is None else before(campaign.cells, args.only)
            print(listing([step for step in as_it_is_here(campaign) if step.cell.name in names]))
            return
        if not work(campaign, args):
            sys.exit(1)


def end(number: int, _: object) -> NoReturn:
    """Ends this process in order, so that its runs are stopped with it."""
    sys.exit(128 + number)


def as_it_is_here(campaign: Campaign) -> list[Step]:
    """The steps, with what their unfinished runs and the zoos on this machine save."""
    steps = []
    for step in campaign.steps():
        if step.done:
            steps.append(step)
        elif step.seed is None:
            steps.append(replace(step, done=step.cell.script == "build_zoo.py" and is_built(step.cell.run)))
        else:
            part = progress(campaign.find(campaign.overrides(step.cell, step.seed))[1])
            steps.append(replace(step, minutes=step.minutes * (1 - part)))
    return steps


def is_built(overrides: str) -> bool:
    """Whether the zoo of a config is there, whole."""
    from nfbench.config.build import build_zoo  # late: it imports torch

    zoo = build_zoo(compose("config", shlex.split(overrides)).zoo)
    path = getattr(zoo, "path", None)
    return isinstance(path, Path) and path.exists()


def progress(folder: Path) -> float:
    """How much of a run is done, from 0 to 1, by the epochs or steps behind its last checkpoint."""
    if (folder / "summary.json").exists():
        return 1.0
    rows = read_rows(folder / "metrics.csv")
    if not rows or not (folder / "checkpoints" / "last.ckpt").exists():
        return 0.0
    limits = OmegaConf.load(folder / ".hydra" / "config.yaml").trainer
    parts = [0.0]
    for done, limit in ((len(rows), limits.get("max_epochs")), (int(rows[-1]["step"]) + 1, limits.get("max_steps"))):
        parts += [done / limit] if limit and limit > 0 else []
    return min(1.0, max(parts))


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
        with self.log.open("a") as handle:  # after what it printed before it was interrupted
            paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stdout=handle, stderr=handle, start_new_session=True,
                env={**os.environ, "PYTHONPATH": paths}, preexec_fn=hear_interrupts,
            )  # fmt: skip

    def interrupt(self, how: signal.Signals = signal.SIGINT) -> None:
        """Interrupts it, as Ctrl-C does: runs keep their checkpoints."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)


def hear_interrupts() -> None:
    """Lets a run hear SIGINT, which stops it: what a script starts with `&` ignores that, and so would its runs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop(running: list[Running]) -> None:
    """Interrupts all of them at once; what does not end is killed."""
    for each in running:
        each.interrupt()
    until = time.monotonic() + GRACE_S
    for each in running:
        try:
            each.process.wait(max(0.0, until - time.monotonic()))
            how = "stopped"
        except subprocess.TimeoutExpired:
            each.interrupt(signal.SIGKILL)
            each.process.wait()
            how = f"killed (it did not end within {GRACE_S:.0f} s)"
        print(f"{how} {each.step.name}: it goes on the next time", flush=True)


def work(campaign: Campaign, args: argparse.Namespace) -> bool:
    """Runs steps until the time or the plan is at its end; returns whether none failed."""
    deadline = time.monotonic() + 60 * args.minutes
    everything = as_it_is_here(campaign)
    names = set(campaign.cells) if args.only is None else before(campaign.cells, args.only)
    steps = [step for step in everything if not step.done and step.cell.size in MACHINES[args.machine]]
    steps = [step for step in steps if step.cell.name in names]
    done = {step.name for step in everything if step.done}
    failed: dict[str, str] = {}
    running: list[Running] = []
    try:
        while True:
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                if (problem := finish(campaign, each)) is None:
                    done.add(each.step.name)
                else:
                    failed[each.step.name] = problem
            left = (deadline - time.monotonic()) / 60
            if left < 0:
                break
            for step in list(steps):
                if len(running) == args.jobs:
                    break
                if step.minutes > left or waits_for(campaign, step, done):
                    continue
                steps.remove(step)
                if (problem := lacks_encoder(campaign, step)) is None:
                    running.append(begin(campaign, step, args))
                else:
                    failed[step.name] = problem
            if not running:
                break
            time.sleep(0.5)
    finally:
        stop(running)
    for step in steps:
        first = waits_for(campaign, step, done)
        print(f"left: {step.name} ({step.minutes:.0f} minutes{f', comes after {first}' if first else ''})")
    for name, problem in failed.items():
        print(f"FAILED: {name}: {problem}")
    return not failed


def waits_for(campaign: Campaign, step: Step, done: set[str]) -> str | None:
    """What has to come first and is not done."""
    for other in (campaign.cells[name] for name in step.cell.after):
        first = other.name if other.script else f"{other.name} seed {step.seed}"
        if first not in done:
            return first
    return None


def lacks_encoder(campaign: Campaign, step: Step) -> str | None:
    """What to do where the encoder that a step reads was published, and is not here."""
    encoder = campaign.encoder(step.cell, step.seed) if step.seed is not None else None
    if encoder is None or (encoder / "summary.json").exists():
        return None
    train = campaign.overrides(campaign.cells[step.cell.after[0]], step.seed or 0)
    return (
        f"it reads the encoder in {encoder}, which was published and is not on this machine: run "
        f"`python run.py {shlex.join(train)}` first"
    )


def begin(campaign: Campaign, step: Step, args: argparse.Namespace) -> Running:
    """Starts a step."""
    more = [] if args.threads is None else [f"threads={args.threads}"]
    if step.seed is None:
        script = str(step.cell.script)
        words = [f"scripts/{script}", *shlex.split(step.cell.run), *(more if script in TAKE_THREADS else [])]
        return Running(step, words, None, args.logs)
    overrides = campaign.overrides(step.cell, step.seed)
    _, folder = campaign.find(overrides)
    return Running(step, ["run.py", *overrides, *more], ROOT / folder, args.logs)


def finish(campaign: Campaign, run: Running) -> str | None:
    """Publishes a step's result; what went wrong, if something did."""
    took = (time.monotonic() - run.began) / 60
    problem = f"see {run.log}" if run.process.returncode else None
    try:
        where = publish(run.folder, campaign.results) if run.folder and problem is None else run.log
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        print(f"failed {run.step.name} after {took:.1f} minutes: {problem}", flush=True)
        return problem
    print(f"done {run.step.name} in {took:.1f} minutes: {os.path.relpath(where)}", flush=True)
    return None


if __name__ == "__main__":
    with errors.one_screen():
        main()
