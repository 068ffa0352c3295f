"""Reads datasets of HDF5 files that strangers may have written."""

from __future__ import annotations

from typing import Any

import h5py


def plain(file: h5py.File, name: str) -> Any:
    """A dataset whose numbers are in this file: HDF5 can also point to other files of this computer.

    Raises:
        TypeError: a link or data elsewhere; refused.
        KeyError: nothing of this name.
    """
    link = None if "/" in name else file.get(name, getlink=True)
    if link is None:
        raise KeyError(f"no dataset {name!r}")
    found = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise TypeError(f"{name!r} is not a plain dataset of this file: refused")
    return found
