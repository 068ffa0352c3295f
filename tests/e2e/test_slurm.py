"""Sweeps on a real Slurm cluster of one node, and as processes of submitit: stopped runs go on, bad ones are alone."""

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
    size = "hydra.launcher.parallel=6" if cluster[0] == LOCAL else "hydra.launcher.cpus_per_task=1"
    return [cluster[0], *small, size]


def until(ready: Callable[[], object], seconds: float = 600) -> None:
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


def test_a_sweep_with_stopped_and_bad_runs(settings, cluster, tmp_path) -> None:
    """Four runs of the same numbers and two bad ones: of the four, one is left alone, one gets SIGUSR2, one is requeued
    and one is cancelled. Then the same sweep again.
    """
    launcher, env = cluster
    sweep, gate, out = tmp_path / "sweep", tmp_path / "gate", tmp_path / "out"
    (tmp_path / "gated_task.py").write_text(GATED)
    command = [sys.executable, "run.py", *settings, "task.target=gated_task.Gated", "trainer.max_epochs=5"]
    command += ["model.dropout=0.1", "task.ema_decay=0.9", f"hydra.sweep.dir={sweep}"]  # no -m: the launcher says it
    command += ["size=tiny,cpu,huge", "logger.project=a,b"]  # in no hash; there is no size huge
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA"))}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "GATE": str(gate), **env}
    with out.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:

        def waiting_at_the_gate() -> bool:
            assert process.poll() is None, out.read_text()
            rows = [path.read_text().splitlines() for path in sweep.glob("*/metrics.csv")]
            return [len(each) for each in rows] == 4 * [3] and len(list(sweep.glob("*/checkpoints/last.ckpt"))) == 4

        until(waiting_at_the_gate)
        (interrupt_in_slurm if launcher == SLURM else interrupt_here)(sweep, out, env)
        gate.touch()
        process.wait(600)
    finally:
        gate.touch()  # runs that wait there would wait for ever
        process.kill()
    text = out.read_text()
    assert process.returncode == 1, text
    assert "Traceback" not in text
    assert "sweep: 3 of 6 runs finished, 2 failed, 1 missing" in text
    assert "#3 size=cpu logger.project=b   missing: stopped without a result" in text
    assert "#4 size=huge logger.project=a   failed: size=huge is unknown" in text

    found = summaries(sweep)
    assert sorted(found) == [0, 1, 2]
    interrupted = (1, 2) if launcher == SLURM else (1,)
    assert [found[i]["restarts"] for i in (0, 1, 2)] == [0, 1, int(2 in interrupted)]
    for number in interrupted:
        for name in ("last", "best"):
            assert_same(weights(sweep, 0, name), weights(sweep, number, name))
        assert found[number]["metrics"] == found[0]["metrics"]
        assert found[number]["examples_seen"] == found[0]["examples_seen"] == 5 * 40
    assert all(each["command"].startswith("python run.py experiment=") for each in found.values())
    jobs = [each["slurm"] for each in found.values()]
    if launcher == SLURM:
        assert sorted(job["array_task_id"] for job in jobs) == ["0", "1", "2"]
        assert len({job["array_job_id"] for job in jobs}) == 1
        assert len({job["job_id"] for job in jobs}) == 3
        assert all(job["node"] for job in jobs)
        assert [found[i]["slurm"]["restarts"] for i in (0, 1, 2)] == [0, 1, 1]
    else:
        assert jobs == [None, None, None]

    before = {path: path.stat().st_mtime_ns for i in (0, 1, 2) for path in sweep.glob(f"{i}-*/**/*") if path.is_file()}
    submitted = set((sweep / ".submitit").glob("*/*submitted.pkl"))
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 1, again.stdout + again.stderr
    assert "sweep of 6 runs, 3 of them done (not started again)" in again.stdout
    assert "sweep: 4 of 6 runs finished, 2 failed, 0 missing" in again.stdout
    assert len(set((sweep / ".submitit").glob("*/*submitted.pkl")) - submitted) == 3
    assert_same(weights(sweep, 0), weights(sweep, 3))
    assert summaries(sweep)[3]["restarts"] == 1
    assert before == {path: path.stat().st_mtime_ns for path in before}


def interrupt_in_slurm(sweep: Path, out: Path, env: dict[str, str]) -> None:
    (job,) = re.findall(r"Slurm job (\d+): 6 run", out.read_text())
    call("scancel", "--signal=USR2", f"{job}_1", **env)
    call("scontrol", "requeue", f"{job}_2", **env)
    call("scancel", f"{job}_3", **env)
    for task in (1, 2):
        state = ["squeue", "--noheader", "--array", "--format=%T", f"--job={job}_{task}"]
        until(lambda state=state: call(*state, **env) == "PENDING")
        call("scontrol", "update", f"JobId={job}_{task}", "StartTime=now", **env)  # else it waits for two minutes


def interrupt_here(sweep: Path, out: Path, env: dict[str, str]) -> None:
    for number, sent in ((1, signal.SIGUSR2), (3, signal.SIGKILL)):
        (lock,) = sweep.glob(f"{number}-*/.lock")
        os.kill(int(lock.read_text()), sent)
