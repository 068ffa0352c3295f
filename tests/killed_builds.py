"""A build of a zoo that is killed in the middle."""

import signal
import subprocess
import time
from pathlib import Path


def kill_with_chunks(build: subprocess.Popen, partial: Path, count: int) -> None:
    """Kills a build that stops of itself after so many chunks, once it has written them."""
    try:
        deadline = time.monotonic() + 300
        while len(list(partial.glob("chunk-*.npz"))) < count:
            assert time.monotonic() < deadline, f"no {count} chunks"
            time.sleep(0.05)
    finally:
        build.send_signal(signal.SIGKILL)
        build.communicate()
    assert len(list(partial.glob("chunk-*.npz"))) == count
