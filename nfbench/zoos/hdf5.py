"""Reads datasets of HDF5 files that strangers may have written."""

from __future__ import annotations

from typing import Any

import h5py

MOST_PACKED = 1100  # deflate packs at most about 1,032 bytes into one


def plain(file: h5py.File, name: str, most_packed: int = MOST_PACKED) -> Any:
    """A dataset whose numbers are in this file: HDF5 can also point to other files of this computer.

    Args:
        file: open.
        name: of the dataset, at the top.
        most_packed: so many bytes of numbers may come from one byte of the file.

    Raises:
        TypeError: a link, data elsewhere, or rows that are declared and were never written; refused.
        KeyError: nothing of this name.
    """
    link = None if "/" in name else file.get(name, getlink=True)
    if link is None:
        raise KeyError(f"no dataset {name!r}")
    found = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise TypeError(f"{name!r} is not a plain dataset of this file: refused")
    declared, stored = found.size * found.dtype.itemsize, found.id.get_storage_size()
    if declared > most_packed * stored:
        raise TypeError(f"{name!r} {found.shape} would be {declared} bytes, and {stored} are in the file: refused")
    return found
