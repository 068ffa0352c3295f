"""Sweeps on a real Slurm cluster of one node, and as submitit's local processes: stopped runs go on, bad ones are alone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_cluster
import torch

from nfbench.resume import read_checkpoint

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[slurm]'")
ROOT = Path(__file__).resolve().parents[2]
SLURM = "launcher=slurm"
LOCAL = "launcher=submitit_local"
# A task that waits in its third epoch until a file is there: whatever happens to a run happens in the middle of it.
GATED = """
import os, time
from nfbench.tasks.inr_cls import InrClassification

class Gated(InrClassification):
    def on_train_batch_start(self, batch, batch_idx):
        while self.trainer.current_epoch == 2 and batch_idx == 1 and not os.path.exists(os.environ["GATE"]):
            time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """A cluster of our own; without Slurm's packages the test is skipped."""
    if why := slurm_cluster.missing():
        pytest.skip(f"no Slurm cluster can be started: {why}")
    with slurm_cluster.cluster() as env:
        yield env


@pytest.fixture(params=[SLURM, LOCAL])
def cluster(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    """The launcher, and the variables of its cluster."""
    return request.param, request.getfixturevalue("slurm") if request.param == SLURM else {}


@pytest.fixture
def settings(small: list[str], cluster: tuple[str, dict[str, str]]) -> list[str]:
    """A small sweep on the cluster; its runs start at once."""
    size = "hydra.launcher.parallel=4" if cluster[0] == LOCAL else "hydra.launcher.cpus_per_task=1"
    return [cluster[0], *small, size]


def until(ready: Callable[[], object], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def call(*command: str, **env: str) -> str:
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def summaries(sweep: Path) -> dict[int, dict]:
    return {int(path.parent.name[0]): json.loads(path.read_text()) for path in sweep.glob("[0-9]*/summary.json")}


def weights(sweep: Path, number: int, name: str = "last") -> dict[str, torch.Tensor]:
    (folder,) = sweep.glob(f"{number}-*")
    return read_checkpoint(folder / "checkpoints" / f"{name}.ckpt")["state_dict"]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


def test_one_array_in_which_bad_runs_spoil_no_other(cli, settings, cluster, tmp_path) -> None:
    launcher, env = cluster
    sweep = tmp_path / "sweep"
    command = [*settings, "seed=0,1", "task.optimizer=adam,sgdd", f"hydra.sweep.dir={sweep}"]  # no -m: the launcher is
    done = cli(*command, **env)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "sweep: 2 of 4 runs finished, 2 failed, 0 missing" in done.stdout
    assert "#1 seed=0 task.optimizer=sgdd   failed: task.optimizer='sgdd' is unknown" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    found = summaries(sweep)
    assert sorted(found) == [0, 2]
    assert not any(launcher in summary["command"] for summary in found.values())
    assert all(summary["command"].startswith("python run.py ") for summary in found.values())
    assert (sweep / ".submitit").is_dir()
    if launcher == SLURM:
        jobs = [summary["slurm"] for summary in found.values()]
        assert [job["array_task_id"] for job in jobs] == ["0", "2"]
        assert len({job["array_job_id"] for job in jobs}) == 1
        assert len({job["job_id"] for job in jobs}) == 2
        assert all(job["node"] and job["restarts"] == 0 for job in jobs)
    else:
        assert all(summary["slurm"] is None for summary in found.values())

    (sweep / "2-inr_cls-mlp-siren_digits-seed1" / "summary.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("0-*/**/*") if path.is_file()}
    submitted = {path.name for path in (sweep / ".submitit").iterdir()}
    again = cli(*command, **env)
    assert "sweep of 4 runs, 1 finished before (not started again)" in again.stdout
    assert "sweep: 2 of 4 runs finished, 2 failed, 0 missing" in again.stdout
    new = {path.name for path in (sweep / ".submitit").iterdir()} - submitted
    assert len([name for name in new if re.fullmatch(r"\d+_\d+" if launcher == SLURM else r"\d+", name)]) >= 3
    assert not [name for name in new if name.endswith("_3")], "three were submitted, not four"
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_stopped_runs_go_on_to_the_same_weights(settings, cluster, tmp_path) -> None:
    """Four runs of the same numbers: one is left alone, one gets SIGUSR2, one is requeued, one is cancelled."""
    launcher, env = cluster
    sweep, gate = tmp_path / "sweep", tmp_path / "gate"
    (tmp_path / "gated_task.py").write_text(GATED)
    command = [sys.executable, "run.py", *settings, "task.target=gated_task.Gated", "trainer.max_epochs=5"]
    command += ["model.dropout=0.1", "task.ema_decay=0.9", "size=tiny,cpu", "logger.project=a,b"]  # in no hash
    command += [f"hydra.sweep.dir={sweep}"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA"))}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "GATE": str(gate), **env}
    out = tmp_path / "out"
    with out.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:

        def waiting_at_the_gate() -> bool:
            assert process.poll() is None, out.read_text()
            return len([p for p in sweep.glob("*/metrics.csv") if len(p.read_text().splitlines()) == 3]) == 4

        until(waiting_at_the_gate)
        until(lambda: len(list(sweep.glob("*/checkpoints/last.ckpt"))) == 4)
        if launcher == SLURM:
            job = re.search(r"Slurm job (\d+): 4 run", out.read_text())[1]
            call("scancel", "--signal=USR2", f"{job}_1", **env)
            call("scontrol", "requeue", f"{job}_2", **env)
            call("scancel", f"{job}_3", **env)

            def start_now(task: int) -> bool:
                """A requeued job waits for two minutes unless it is told otherwise."""
                state = call("squeue", "--noheader", "--array", "--format=%T", f"--job={job}_{task}", **env)
                if state == "PENDING":
                    call("scontrol", "update", f"JobId={job}_{task}", "StartTime=now", **env)
                return state == "PENDING"

            for task in (1, 2):
                until(lambda task=task: start_now(task))
        else:
            for number, number_of_signal in ((1, signal.SIGUSR2), (3, signal.SIGKILL)):
                (lock,) = sweep.glob(f"{number}-*/.lock")
                os.kill(int(lock.read_text()), number_of_signal)
        gate.touch()
        process.wait(240)
    finally:
        process.kill()
    text = out.read_text()
    assert process.returncode == 1, text
    assert "sweep: 3 of 4 runs finished, 0 failed, 1 missing" in text
    assert "#3 size=cpu logger.project=b   missing: stopped without a result" in text
    found = summaries(sweep)
    assert sorted(found) == [0, 1, 2]
    interrupted = (1, 2) if launcher == SLURM else (1,)
    assert [found[i]["restarts"] for i in (0, 1, 2)] == [0, 1, int(2 in interrupted)]
    if launcher == SLURM:
        assert [found[i]["slurm"]["restarts"] for i in (0, 1, 2)] == [0, 1, 1]
    for number in interrupted:
        for name in ("last", "best"):
            assert_same(weights(sweep, 0, name), weights(sweep, number, name))
        assert found[number]["metrics"] == found[0]["metrics"]

    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "3 finished before" in again.stdout
    assert_same(weights(sweep, 0), weights(sweep, 3))
    assert summaries(sweep)[3]["restarts"] == 1
    assert [summaries(sweep)[i] for i in (0, 1, 2)] == [found[i] for i in (0, 1, 2)]
