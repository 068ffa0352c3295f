"""The memory that a run reports is its own, also where an earlier run of a sweep in the same process took more."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import re, torch
from pathlib import Path
from nfbench.allocator import keep_freed_memory
from nfbench.machine import reset_peak_memory

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**10

keep_freed_memory()
before = peak()
large = torch.ones(2**26)  # 256 MiB
del large
with_it = peak()
reset_peak_memory()
torch.ones(2**18)
print(with_it - before, peak() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_a_peak_of_before_is_forgotten() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the system has no peak to reset")
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    with_it, after = map(float, done.stdout.split())
    assert with_it > 200
    assert after < 100
