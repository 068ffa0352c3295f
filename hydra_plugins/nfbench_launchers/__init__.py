"""Our launchers. Hydra takes plugins from this namespace only; what they do is in nfbench/config/sweep.py."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore

from nfbench.config.sweep import SweepLauncher, SweepRun, in_submitit_job, run_here, run_with_submitit


class LocalLauncher(SweepLauncher, BasicLauncher):
    """One after the other, in this process."""

    def start(self, runs: Sequence[SweepRun]) -> None:
        """See `run_here`."""
        run_here(self, runs)


@dataclass
class LocalConf:
    """`hydra/launcher=nfbench_local`."""

    _target_: str = "hydra_plugins.nfbench_launchers.LocalLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="nfbench_local", node=LocalConf, provider="nfbench")

try:
    from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher as _Local
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as _Slurm
except ImportError:  # the extra `slurm` is not installed: launcher=slurm says so
    pass
else:

    class _Submitit(SweepLauncher):
        """What both launchers through submitit have."""

        def setup(self, **given: Any) -> None:
            """Keeps what was typed: a job's process must believe that it was started so."""
            super().setup(**given)
            self.argv = list(sys.argv)

        def start(self, runs: Sequence[SweepRun]) -> None:
            """See `run_with_submitit`."""
            run_with_submitit(self, runs, self._EXECUTOR)

        def __call__(self, *arguments: Any) -> Any:
            """In the job."""
            return in_submitit_job(self, super().__call__, arguments)

    class SlurmLauncher(_Submitit, _Slurm):
        """One Slurm array for all runs that are not finished."""

    class SubmititLocalLauncher(_Submitit, _Local):
        """Processes on this machine, a few at a time: what Slurm would do, without it."""

    @dataclass
    class SubmititLocalConf(LocalQueueConf):
        """`hydra/launcher=nfbench_submitit_local`: submitit's settings, and how many runs at a time."""

        _target_: str = "hydra_plugins.nfbench_launchers.SubmititLocalLauncher"
        parallel: int = 1

    ConfigStore.instance().store(
        group="hydra/launcher", name="nfbench_submitit_local", node=SubmititLocalConf, provider="nfbench"
    )
