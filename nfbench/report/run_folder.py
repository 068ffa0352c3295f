"""One run's folder: who may write in it, what is in it already, and the files that tell about the run.

.hydra/                 config, overrides, Hydra's own config
run.log                 what was printed
metrics.csv             a row an epoch
checkpoints/            best.ckpt and last.ckpt
predictions.csv         a row a test item
summary.json            the result: a folder that has it is a finished run
test.png                the picture, drawn from the files above
edit.gif                edits epoch by epoch (inr_edit)
"""

import csv
import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What a run writes, and `rerun=true` may move; run.log is copied, since this process writes to it already.
WRITTEN = (
    ".hydra", "metrics.csv", "checkpoints", "predictions.csv", "samples.npz", "pictures.npz", "latents.h5", "test.png",
    "edit.gif", "summary.json", "wandb", "wandb_id", "curve.json", "curve.png", "landscape.h5", "landscape.png",
    "along.h5", "along.png",
)  # fmt: skip


class RunFolder:
    """The files of one run.

    Args:
        path: the folder; it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "checkpoints" / "last.ckpt"
        self.best = path / "checkpoints" / "best.ckpt"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process; the system lets go of it however the process ends.

        Raises:
            ValueError: if another process holds it.
        """
        with (self.path / ".lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                raise ValueError(
                    f"{self.shown} is in use by process {handle.read().strip() or 'unknown'}: the same run is going on "
                    "already. Wait for it, stop it, or give this one a folder of its own with hydra.run.dir=..."
                ) from None
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield

    def in_use(self) -> bool:
        """Whether a process holds this folder now; it is not held by asking."""
        try:
            with (self.path / ".lock").open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # an exclusive one needs a writable file on NFS
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    @property
    def shown(self) -> str:
        """The path as a person would type it from here."""
        relative = os.path.relpath(self.path)
        return str(self.path) if relative.startswith("..") else relative

    def summary(self) -> dict[str, Any] | None:
        """What the finished run of this folder wrote, or None where there is none."""
        file = self.path / "summary.json"
        if not file.exists():
            return None
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} is no JSON ({error}): move it away, or add rerun=true to train again") from None
        if not isinstance(found, dict):
            raise ValueError(f"{file} holds no run summary: move it away, or add rerun=true to train again")
        return found

    def set_aside(self) -> Path | None:
        """Moves a finished run's files, and no others, to `<folder>.1`, `.2`, ...; nothing is deleted.

        Returns:
            The new folder, or None where there is no finished run.
        """
        if not (self.path / "summary.json").exists():
            return None
        old = [self.path / name for name in WRITTEN if (self.path / name).exists()]
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        target.mkdir()
        for item in old:
            item.rename(target / item.name)
        if (log := self.path / "run.log").exists():
            shutil.copy2(log, target / log.name)
        return target

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes `summary.json`, whole or not at all."""
        write_atomically(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def write_rows(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Writes a CSV file, whole or not at all."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        write_atomically(self.path / name, text.getvalue())


def write_atomically(path: Path, text: str) -> None:
    """Writes beside the file, flushes to the disk, then renames: a reader sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", newline="") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
