"""Reads what an offline W&B run keeps, for tests.

wandb has no public reader of these files. This one relies on two things of wandb 0.31 that are not its public API: the
framing of `run-*.wandb` (LevelDB's log format behind a header of 7 bytes), and the messages in
`wandb.proto.wandb_internal_pb2`. Values are JSON texts in them. No other part of wandb takes part, and nothing of ours.
"""

import json
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, FILE_HEADER, RECORD_HEADER = 32 * 1024, 7, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class Offline:
    """A run: how it was started, its config, its history row by row, the last value of each name, its files."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    folder: Path = Path()

    def media(self, name: str) -> list[Path]:
        """The files of a picture, a video or a table that was logged under this name; each is there."""
        value = self.summary[name]
        names = value["filenames"] if value.get("_type") == "images/separated" else [value["path"]]
        paths = [self.folder / "files" / path for path in names]
        assert all(path.stat().st_size > 0 for path in paths), paths
        return paths


def read_records(data: bytes) -> list[Record]:
    """All records of a `.wandb` file."""
    assert data[:4] == b":W&B", data[:8]
    records, at, part = [], FILE_HEADER, b""
    while at + RECORD_HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < RECORD_HEADER:  # padding at the end of a block
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + RECORD_HEADER])
        at += RECORD_HEADER
        part = data[at : at + size] if kind in (FULL, FIRST) else part + data[at : at + size]
        at += size
        if at > len(data):  # still being written
            break
        if kind in (FULL, LAST):
            records.append(Record.FromString(part))
    return records


def set_at(target: dict[str, Any], item: Any) -> None:
    """Puts an item of a config, history or summary where its (nested) key says."""
    path = list(item.nested_key) or [item.key]
    for name in path[:-1]:
        target = target.setdefault(name, {})
    target[path[-1]] = json.loads(item.value_json)


def read_offline(folder: Path, patience_s: float = 60.0) -> Offline:
    """The run of an `offline-run-...` folder that was finished; its last record may come a moment after `finish()`."""
    (file,) = folder.glob("run-*.wandb")
    began = time.monotonic()
    while True:
        records = read_records(file.read_bytes())
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            break
        assert time.monotonic() - began < patience_s, f"{file} has no end"
        time.sleep(0.1)
    found = Offline(folder=folder)
    for record in records:
        match record.WhichOneof("record_type"):
            case "run":
                found.run = record.run
                for item in record.run.config.update:
                    set_at(found.config, item)
            case "config":
                for item in record.config.update:
                    set_at(found.config, item)
            case "history":
                row: dict[str, Any] = {}
                for item in record.history.item:
                    set_at(row, item)
                found.history.append(row)
            case "summary":
                for item in record.summary.update:
                    set_at(found.summary, item)
            case "exit":
                found.exit_code = record.exit.exit_code
    return found
