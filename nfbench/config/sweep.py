"""The runs of a sweep: which are left to do, how they are started and waited for, and what the sweep says at its end.

A run of a sweep has a folder named after its number. A folder with a summary of the same config and seed is a finished
run: it is not started again. A run that fails, or is stopped, changes nothing for the others.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from omegaconf import DictConfig, open_dict

from nfbench.config.errors import explain
from nfbench.config.identity import config_hash
from nfbench.config.job import validation_metric
from nfbench.config.schema import DIRECTIONS
from nfbench.report.run_folder import RunFolder

log = logging.getLogger(__name__)
LOOK_EVERY_S = 30.0  # how often Slurm is asked what is running, at most; for result files we look each second
GRACE_S = 5.0  # for a result file to become visible after the end of its job


class RunFailed(Exception):
    """Stands for the error of a run, which has told about it already: any error can be sent between processes so."""

    _nfbench_told = True


@dataclass
class SweepRun:
    """One run of a sweep.

    Attributes:
        number: of the run, which is in the name of its folder.
        overrides: as Hydra composed them.
        config: of the run, with Hydra's own.
        folder: absolute.
        shown: those overrides that not all runs of the sweep have.
        returned: what came of it; None until it ended.
        log: where to look after a failure.
    """

    number: int
    overrides: tuple[str, ...]
    config: DictConfig
    folder: Path
    shown: str = ""
    returned: JobReturn | None = None
    log: Path | None = None

    @property
    def label(self) -> str:
        """`#3 model=nft seed=1`."""
        return f"#{self.number} {self.shown}"

    def summary(self) -> dict[str, Any] | None:
        """What this very run wrote when it was finished, or None."""
        try:
            found = RunFolder(self.folder).summary()
            cfg = self.config
            if found is not None and cfg.get("encoder") and "encoder_hash" in cfg.task:
                from nfbench.config.encoder import adopt_encoder  # imports torch, for these runs only

                cfg = adopt_encoder(cfg)
            same = found is not None and (found.get("config_hash"), found.get("seed")) == (config_hash(cfg), cfg.seed)
        except ValueError:  # the run itself will say what is wrong
            return None
        return found if same else None

    def end(self, value: float | None = None, error: Exception | None = None) -> None:
        """Notes what came of it."""
        self.returned = JobReturn(overrides=list(self.overrides), status=JobStatus.COMPLETED)
        self.returned.return_value = value
        if error is not None:
            self.returned.status = JobStatus.FAILED
            self.returned.return_value = error

    @property
    def error(self) -> Exception | None:
        """Why it did not finish."""
        failed = self.returned is not None and self.returned.status is JobStatus.FAILED
        return self.returned._return_value if self.returned is not None and failed else None


class Stopped(RunFailed):
    """Stands for a run that ended without a result or an error: cancelled, killed, or out of time."""


class SweepLauncher:
    """What our launchers share; `start` is what they differ in."""

    config: DictConfig | None
    hydra_context: Any
    task_function: Any

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Starts what is not finished, waits, and tells.

        Args:
            job_overrides: of each run.
            initial_job_idx: number of the first.

        Returns:
            What each run returned, in order; those that were finished before return what they had returned then.

        Raises:
            ValueError: for a tuning sweep that would look at the test set, or away from the better runs.
        """
        setup_globals()
        assert self.config is not None
        config = self.config
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)
        folder = Path(str(config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        runs = [self._plan(initial_job_idx + i, tuple(overrides)) for i, overrides in enumerate(job_overrides)]
        same = set[str]().union(*(run.overrides for run in runs)) if len(runs) > 1 else set()
        same = same.intersection(*(run.overrides for run in runs))
        for run in runs:
            run.shown = " ".join(each for each in filter_overrides(run.overrides) if each not in same)
            check_tuning(run.config)
            if run.config.sweep.skip_done and not run.config.rerun and (summary := run.summary()) is not None:
                run.end(validation_metric(summary))
        left = [run for run in runs if run.returned is None]
        if len(runs) > 1:
            done = f", {len(runs) - len(left)} of them done (not started again)" if len(left) < len(runs) else ""
            log.info(f"sweep of {len(runs)} runs{done}   sweep folder: {os.path.relpath(folder)}")
        for run in runs:
            if run.returned is not None:
                log.info(f"  {run.label}   finished before{_shown_metric(run)}")
        if left:
            self.start(left)
        if len(runs) > 1:
            tell(runs, folder)
        return [run.returned for run in runs if run.returned is not None]

    def start(self, runs: Sequence[SweepRun]) -> None:
        """Runs them all, and gives each what it returned."""
        raise NotImplementedError

    def _plan(self, number: int, overrides: tuple[str, ...]) -> SweepRun:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = number
            config.hydra.job.num = number
        folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
        return SweepRun(number, overrides, config, folder.absolute())


def check_tuning(cfg: DictConfig) -> None:
    """Raises ValueError where Optuna would be given a run that reads the test set, or the wrong direction."""
    sweeper = cfg.hydra.sweeper
    if "optuna" not in str(sweeper.get("_target_", "")):
        return
    if cfg.test:
        raise ValueError(
            "Optuna tunes on validation metrics, and these runs would read the test set: add test=false. Test the best "
            "setting in a run of its own"
        )
    wanted = DIRECTIONS[cfg.task.mode]
    given = getattr(sweeper.direction, "name", sweeper.direction)
    if given != wanted:
        raise ValueError(
            f"hydra.sweeper.direction={given}, but task.mode={cfg.task.mode} of {cfg.task.monitor}: "
            f"give hydra.sweeper.direction={wanted}"
        )


def run_here(launcher: Any, runs: Sequence[SweepRun]) -> None:
    """One after the other, in this process."""
    for run in runs:
        log.info(f"\n{run.label}")
        run.returned = run_job(
            hydra_context=launcher.hydra_context,
            task_function=launcher.task_function,
            config=run.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        run.log = run.folder / "run.log"
        configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)  # the run had its own


def run_with_submitit(launcher: Any, runs: Sequence[SweepRun], cluster: str) -> None:
    """Through submitit: as one Slurm array, or `parallel` at a time on this machine.

    Raises:
        ValueError: where there is no Slurm, or it refuses the sweep.
    """
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    if cluster == "slurm" and (gone := [name for name in ("sbatch", "srun", "squeue") if not shutil.which(name)]):
        raise ValueError(
            f"launcher=slurm needs Slurm, and there is no {', '.join(gone)} here: type this on a machine of the "
            "cluster, or leave launcher=slurm out to run here, one after the other"
        )
    params = {key: value for key, value in launcher.params.items() if value is not None}
    limit = int(params.pop("parallel", len(runs)))
    if limit < 1:
        raise ValueError(f"hydra.launcher.parallel={limit}: give how many runs may go on at the same time, 1 or more")
    # submitit gives local jobs no GPU, or all of them the first: here each of those at the same time has its own.
    gpus: list[str] = []
    if cluster == "local" and params.pop("gpus_per_node", 1):  # 0: none
        from nfbench.machine import visible_gpus  # imports torch, for these sweeps only

        gpus = visible_gpus()
    init = {f"{cluster}_max_num_timeout": params.pop("max_num_timeout")} if "max_num_timeout" in params else {}
    executor = submitit.AutoExecutor(folder=params.pop("submitit_folder"), cluster=cluster, **init)
    general = {item.name for item in fields(BaseQueueConf)}
    executor.update_parameters(**{k if k in general else f"{cluster}_{k}": v for k, v in params.items()})
    state = Singleton.get_state()
    waiting = list(runs)
    jobs: dict[str, tuple[SweepRun, Any]] = {}
    slots: dict[int, int] = {}  # number of a run -> its place among those that go on at the same time

    def fill() -> None:
        while waiting and len(jobs) < limit:
            taken = {slots[run.number] for run, _ in jobs.values()}
            free = [slot for slot in range(min(limit, len(runs))) if slot not in taken]
            batch = waiting[: limit - len(jobs)]
            del waiting[: len(batch)]
            slots.update(zip((run.number for run in batch), free, strict=False))
            arguments = [
                (list(run.overrides), "hydra.sweep.dir", run.number, str(run.number), state,
                 gpus[slots[run.number] % len(gpus)] if gpus else None)
                for run in batch
            ]  # fmt: skip
            submitted = executor.map_array(launcher, *zip(*arguments, strict=True))
            for run, job in zip(batch, submitted, strict=True):
                jobs[job.job_id] = (run, job)
                run.log = Path(os.path.relpath(job.paths.stderr))

    try:
        fill()
    except submitit.core.utils.FailedJobError as error:
        raise ValueError(
            f"Slurm refused the sweep: {error}\nIts settings are hydra.launcher.partition, timeout_min, cpus_per_task, "
            "mem_gb, gpus_per_node, account, ...: see conf/launcher/slurm.yaml"
        ) from None
    if cluster == "slurm":
        number = next(iter(jobs)).split("_")[0]
        log.info(f"Slurm job {number}: {len(runs)} run(s). `squeue -j {number}` shows, `scancel {number}` stops them")
    try:
        _wait(jobs, fill, _in_queue if cluster == "slurm" else _processes)
    except KeyboardInterrupt:
        if cluster != "slurm":
            raise
        log.info(f"\nnot waiting any longer: the runs go on in Slurm, `scancel {number}` stops them")
        sys.exit(130)


def _wait(
    jobs: dict[str, tuple[SweepRun, Any]], fill: Callable[[], None], alive: Callable[[dict[str, Any]], set[str] | None]
) -> None:
    """Until each job has left a result or is gone without one. submitit would wait for a cancelled one for ever."""
    gone: dict[str, float] = {}
    look_at, pause = time.monotonic(), 2.0
    while jobs:
        for key, (run, job) in list(jobs.items()):
            if job.paths.result_pickle.exists():
                _collect(run, job)
            elif key in gone and time.monotonic() - gone[key] > GRACE_S:
                summary = run.summary()
                text = f"stopped without a result: cancelled, killed or out of time. Its log: {run.log}"
                run.end(*((validation_metric(summary), None) if summary else (None, Stopped(text))))
            if run.returned is not None:
                del jobs[key]
                log.info(f"  {run.label}   {_outcome(run)}{_shown_metric(run)}")
        fill()
        if jobs and time.monotonic() >= look_at:
            found = alive({key: job for key, (_, job) in jobs.items()})
            if found is not None:
                gone = {key: gone.get(key, time.monotonic()) for key in jobs if key not in found}
            look_at, pause = time.monotonic() + pause, min(1.5 * pause, LOOK_EVERY_S)
        time.sleep(1.0 if jobs else 0.0)


def _collect(run: SweepRun, job: Any) -> None:
    try:
        run.returned = job.results()[0]
    except Exception as error:  # outside of the run: its process could not start, load its job or save its result
        last = [line for line in str(error).splitlines() if line.strip() and not line.startswith("---")]
        lines = [line for line in last if re.match(r"\w[\w.]*(Error|Exception|Warning)\b", line)] or last
        run.end(error=RunFailed(lines[-1] if lines else type(error).__name__))


def _in_queue(jobs: dict[str, Any]) -> set[str] | None:
    """Those that wait or run in Slurm; None where Slurm does not answer. `sacct` needs accounting, which few have."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
    done = subprocess.run(command, capture_output=True, text=True)
    return set(done.stdout.split()) if done.returncode == 0 else None


def _processes(jobs: dict[str, Any]) -> set[str]:
    return {key for key, job in jobs.items() if job.state == "RUNNING"}


def in_submitit_job(launcher: Any, call: Callable[..., JobReturn], arguments: tuple[Any, ...]) -> JobReturn:
    """Runs one job in the process that submitit started for it; the last argument names its GPU, if we chose it."""
    *arguments, gpu = arguments  # type: ignore[assignment]
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    sys.argv = list(launcher.argv)  # as typed: a run writes its command down
    returned = call(*arguments)
    if returned.status is JobStatus.FAILED:  # the error itself may hold what cannot be sent
        returned.return_value = RunFailed(explain(returned._return_value))
    return returned


def tell(runs: Sequence[SweepRun], folder: Path) -> None:
    """How many runs finished, and of the others each: why, and where to look."""
    bad = [run for run in runs if run.error is not None]
    stopped = sum(isinstance(run.error, Stopped) for run in bad)
    log.info(
        f"\nsweep: {len(runs) - len(bad)} of {len(runs)} runs finished, {len(bad) - stopped} failed, {stopped} missing"
        f"   sweep folder: {os.path.relpath(folder)}"
    )
    for run in bad:
        where = "" if isinstance(run.error, Stopped) else f"\n     log: {os.path.relpath(run.log)}" if run.log else ""
        log.info(f"  {run.label}   {_outcome(run)}: {_first_line(run.error)}{where}")
    if bad:
        log.info("the same command again starts what is not finished; a stopped run goes on from its last checkpoint")


def _outcome(run: SweepRun) -> str:
    return "finished" if run.error is None else "missing" if isinstance(run.error, Stopped) else "failed"


def _shown_metric(run: SweepRun) -> str:
    summary = run.summary() if run.error is None else None
    return f"   {summary['metric']} {summary['metrics'][summary['metric']]:.4f}" if summary else ""


def _first_line(error: Exception | None) -> str:
    text = explain(error) if isinstance(error, Exception) and not isinstance(error, RunFailed) else str(error)
    return text.splitlines()[0] if text else type(error).__name__
