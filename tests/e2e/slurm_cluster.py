"""A Slurm cluster of one node on this machine, for tests: everything lies in a temporary folder and ends with it.

`python tests/e2e/slurm_cluster.py COMMAND ...` runs a command on such a cluster; it needs root and Debian's packages
slurm-wlm and munge. Nothing of a Slurm that is installed here is read or changed: its own ports, key and configuration.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """\
ClusterName=nfbench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={control_port}
SlurmdPort={node_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=5
SchedulerParameters=sched_interval=5,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    gone = [name for name in (*DAEMONS, "sbatch", "scontrol") if _which(name) is None]
    if gone:
        return f"no {', '.join(gone)}: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "only root can start munged and slurmd"
    return None


@contextmanager
def cluster(cpus: int = 8) -> Iterator[dict[str, str]]:
    """Starts the daemons, waits until the node is idle, and stops them at the end, with the jobs that still run.

    Args:
        cpus: what the node says it has; jobs that ask for one CPU each run side by side.

    Yields:
        The variables that a process needs to use it.

    Raises:
        RuntimeError: with the daemons' logs, where the node is not idle within a minute.
    """
    folder = Path(tempfile.mkdtemp(prefix="nfbench-slurm-"))
    folder.chmod(0o755)  # munged is another user
    started: list[subprocess.Popen[bytes]] = []
    env = {"SLURM_CONF": str(folder / "slurm.conf")}
    everything = {**os.environ, **env}
    try:
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(mode=0o755)
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for path in (folder / "munge", key):
            shutil.chown(path, "munge", "munge")
        control_port, node_port = _free_ports(2)
        text = CONF.format(
            folder=folder, host=socket.gethostname(), cpus=cpus, control_port=control_port, node_port=node_port
        )
        (folder / "slurm.conf").write_text(text)

        def start(*command: str) -> None:
            with (folder / f"{Path(command[0]).name}.out").open("wb") as out:
                started.append(subprocess.Popen(command, env=everything, stdout=out, stderr=out, cwd=folder))

        munge = [f"--{name}={folder}/munge/{name.split('-')[0]}" for name in ("socket", "key-file", "pid-file")]
        munge += [f"--log-file={folder}/munge/log", f"--seed-file={folder}/munge/seed"]
        start("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", _which("munged") or "", "-F", *munge)
        _wait_for(lambda: (folder / "munge" / "socket").exists(), folder)
        start(_which("slurmctld") or "", "-D")
        start(_which("slurmd") or "", "-D")
        _wait_for(lambda: _output("sinfo", "-h", "-o", "%T", env=everything) == "idle", folder)
        yield env
    finally:
        subprocess.run(["scancel", "--user=root"], env=everything, capture_output=True)
        end = time.monotonic() + 15
        while len(started) == 3 and time.monotonic() < end and _output("squeue", "-h", env=everything):
            time.sleep(0.5)
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _output(*command: str, env: dict[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True).stdout.strip()


def _wait_for(ready, folder: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            logs = [f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in folder.glob("*.*") if
                    path.suffix in (".log", ".out")]  # fmt: skip
            raise RuntimeError("the Slurm cluster does not come up\n" + "\n".join(logs))
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    """So many different ones."""
    with ExitStack() as stack:
        probes = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


if __name__ == "__main__":
    if why := missing():
        sys.exit(why)
    with cluster() as variables:
        code = subprocess.run(sys.argv[1:], env={**os.environ, **variables}).returncode
    sys.exit(code)
