"""Keeps the C library from handing memory back to the system between training steps on a CPU."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # <malloc.h> of glibc
TOP_PAD = 64 * 2**20


def keep_freed_memory() -> bool:
    """Makes `malloc` reuse freed memory of any size; returns whether the C library (glibc) took it.

    By default it unmaps large freed blocks, and every page of the next step's activations is then made and zeroed
    anew by the system: 2,000 pages for a tensor of 8 MB, which can take longer than the layer that fills it. The
    process then keeps the most memory that it ever used.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: TOP_PAD}
    return all(mallopt(option, value) == 1 for option, value in wanted.items())


def hand_back_freed_memory() -> None:
    """Gives what is freed by now to the system all the same, once: what comes next is measured without it."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
