"""Any folder (or tar, or zip) of state dicts with a table of labels.

Files ``*.pth``, ``*.pt`` or ``*.safetensors``, each the state dict of one network, all of the same shapes, and a table
``labels.csv``::

    file,label,test_accuracy
    nets/a.pth,3,0.91

``file`` is the path relative to the folder, or to the one in it where the table lies. ``label`` is a class (left out:
-1, no class), ``index`` and ``view`` say which item of a data set the network belongs to and which of its networks it
is (left out: the number of the line, 0).
Every other column is kept: numbers as int64 or float32, short texts as they are.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.importers.common import Broken, digest, members, read_one
from nfbench.zoos.importers.run import FileLayout, Row
from nfbench.zoos.importers.tensors import infer_spec, load_state, to_row

ENDINGS = (".pth", ".pt", ".safetensors")
LABELS = "labels.csv"
_OWN = ("file", "label", "index", "view")


class FolderLayout(FileLayout):
    """A folder of state dicts.

    Args:
        path: folder, tar or zip.
        labels: the table; None: ``labels.csv`` in it.
        spec: of every network; None: by the shapes of the first file that can be read.
        activation: of the networks, where the spec is read from the shapes.
        source: what the networks are of; None: the folder's name.

    Raises:
        ValueError: no table or one that cannot be used; no file that can be read.
    """

    def __init__(
        self,
        path: Path,
        labels: Path | None = None,
        spec: str | None = None,
        activation: str = "relu",
        source: str | None = None,
    ) -> None:
        self.path = path
        text, self.base = _labels_text(path, labels)
        self.table = read_labels(text)
        self.seen: set[str] = set()
        self.spec = NetworkSpec.parse(spec) if spec else self._infer(activation)
        self.manifest = {
            "layout": "folder",
            "source": source or path.stem,
            "labels_sha256": digest([text]),
            "indexed": "index" in next(csv.reader(io.StringIO(text, newline=None)), []),
            "listed": len(self.table),
        }

    def _infer(self, activation: str) -> NetworkSpec:
        NetworkSpec.parse(f"1-1:{activation}")  # an unknown activation is the user's mistake, not each file's
        reason = "there is none"
        for member in members(self.path):
            if self.matches(member.name):
                try:
                    return infer_spec(load_state(member.read(), member.name), activation)
                except Broken as error:
                    reason = f"{member.name} {error}"
        raise ValueError(f"{self.path}: no file of a network can be read; the last: {reason}.")

    def _key(self, name: str) -> str:
        return name if name in self.table else name.removeprefix(self.base)

    def matches(self, name: str) -> bool:
        self.seen.add(self._key(name))
        return name.endswith(ENDINGS) and not name.startswith("__MACOSX/")

    def row(self, name: str, data: bytes) -> Row:
        key = self._key(name)
        if key not in self.table:
            raise Broken(f"has no line in the table of labels ({LABELS})")
        values = dict(self.table[key])
        index, view, label = (values.pop(own) for own in ("index", "view", "label"))
        return Row(to_row(load_state(data, name), self.spec), index, view, label, values)

    def missing(self) -> list[str]:
        return [f"{name}: is in the table of labels, but not there" for name in self.table if name not in self.seen]

    def expected(self) -> str:
        return f"files that end with {', '.join(ENDINGS)} and a table {LABELS}"


def _labels_text(path: Path, labels: Path | None) -> tuple[str, str]:
    """The table, and what the names of files in its own folder begin with."""
    try:
        if labels is not None:
            return labels.read_text(encoding="utf-8-sig"), ""
        found = read_one(path, LABELS)
        if found is not None:
            return found[1].decode("utf-8-sig"), found[0].removesuffix(LABELS)
    except (OSError, UnicodeDecodeError, Broken) as error:
        raise ValueError(f"the table of labels of {path} cannot be read ({error}).") from error
    raise ValueError(f"{path} has no {LABELS}: add one with the columns file,label, or name another with --labels.")


def read_labels(text: str) -> dict[str, dict[str, Any]]:
    """File -> index, view, label and the further columns.

    Raises:
        ValueError: no column ``file``, a file twice, lines of another length, values that are no whole numbers.
    """
    reader = csv.reader(io.StringIO(text, newline=None))
    try:
        names = next(reader, [])
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise ValueError(f"the table of labels is no CSV: {error}, in line {reader.line_num}.") from error
    if "file" not in names or "params" in names or len(set(names)) != len(names):
        raise ValueError(
            f"the table of labels needs a line of different column names with 'file', without 'params'; found: {names}."
        )
    if bad := [line for line in lines if len(line) != len(names)]:
        raise ValueError(f"the table of labels has {len(names)} columns ({', '.join(names)}), but a line {bad[0]}.")
    columns = {name: [line[i] for line in lines] for i, name in enumerate(names)}
    parsed = {name: _parse(name, columns[name]) for name in names if name != "file"}
    parsed = {"index": list(range(len(lines))), "view": [0] * len(lines), "label": [-1] * len(lines)} | parsed
    table = {file: {name: values[i] for name, values in parsed.items()} for i, file in enumerate(columns["file"])}
    if len(table) != len(lines):
        twice = next(file for file in table if columns["file"].count(file) > 1)
        raise ValueError(f"the table of labels names {twice!r} twice.")
    return table


def _parse(name: str, values: list[str]) -> list[int] | list[float] | list[str]:
    try:
        return np.array(values, np.str_).astype(np.int64).tolist()
    except (ValueError, OverflowError):
        if name in _OWN:
            raise ValueError(
                f"the column {name!r} of the table of labels must hold whole numbers; give a real-valued target "
                "another name, such as test_accuracy."
            ) from None
    try:
        return [float(value or "nan") for value in values]
    except ValueError:
        return values
