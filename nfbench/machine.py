"""What a run ran on and what it cost: for `summary.json`."""

import os
import platform
import re
import resource
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from nfbench import __version__
from nfbench.allocator import hand_back_freed_memory


def device_type(trainer: Trainer) -> str:
    """`cpu`, `cuda` or `mps`."""
    return trainer.strategy.root_device.type


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def reset_peak_memory() -> None:
    """Starts the measurement of this run: the jobs of a sweep share a process."""
    hand_back_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not Linux, or not allowed: then the peak is the process's since its start
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(trainer: Trainer) -> float:
    """The highest memory use of this run in MB: the GPU's on a GPU, else resident memory with all libraries."""
    if device_type(trainer) == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return round(int(found[1]) / 2**10, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def processor() -> str:
    """The CPU's name as it gives it, or its architecture where it gives none."""
    with suppress(OSError):  # not Linux
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def machine(trainer: Trainer) -> dict[str, Any]:
    """What the run ran on."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device_type(trainer) == "cuda" else None,
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Python and the packages a result may depend on."""
    names = ("torch", "lightning", "hydra-core", "torchmetrics", "numpy", "h5py", "scipy", "scikit-learn")
    return {"python": platform.python_version(), "nfbench": __version__, **{name: version(name) for name in names}}


def commit() -> str | None:
    """The commit of the source, with `+` behind it where files were changed; None outside a git checkout."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
