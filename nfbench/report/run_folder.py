"""One run's folder: who may write in it, what is in it already, and the files that tell about the run.

.hydra/                 config, overrides, Hydra's own config
run.log                 what was printed
metrics.csv             a row an epoch
checkpoints/            best.ckpt and last.ckpt
predictions.csv         a row a test item
samples.npz             a few test items as they look when rendered
summary.json            written last: a folder that has it is a finished run
"""

import csv
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEPT = (".lock", "run.log")  # in use by the process that sets the rest aside


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
        """Moves an earlier run's files to `<folder>.1`, `.2`, ...; nothing is deleted.

        Returns:
            The new folder, or None where there was nothing to move.
        """
        old = [item for item in self.path.iterdir() if item.name not in KEPT]
        if not old:
            return None
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
        temporary = self.path / f".{name}.tmp"
        with temporary.open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(columns)
            writer.writerows(rows)
        os.replace(temporary, self.path / name)


def write_atomically(path: Path, text: str) -> None:
    """Writes beside the file, then renames: a reader sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
