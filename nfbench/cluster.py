"""What a run knows of Slurm: which job it is, and who may requeue it."""

import os
from typing import Any

from lightning.pytorch.plugins.environments import SLURMEnvironment


def slurm_job() -> dict[str, Any] | None:
    """The Slurm job of this process for `summary.json`; None off Slurm."""
    env = os.environ
    if "SLURM_JOB_ID" not in env:
        return None
    return {
        "job_id": env["SLURM_JOB_ID"],
        "array_job_id": env.get("SLURM_ARRAY_JOB_ID"),
        "array_task_id": env.get("SLURM_ARRAY_TASK_ID"),
        "node": env.get("SLURMD_NODENAME"),
        "restarts": int(env.get("SLURM_RESTART_COUNT", 0)),
    }


def cluster_plugins() -> list[SLURMEnvironment]:
    """What the Trainer needs under Slurm: submitit requeues a job, so that Lightning must not do it too."""
    return [SLURMEnvironment(auto_requeue=False)] if slurm_job() and SLURMEnvironment.detect() else []
