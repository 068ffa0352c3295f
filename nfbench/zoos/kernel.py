"""Compiles and loads ``siren_kernel.cpp`` and ``cnn_kernel.cpp``, the programs that make zoos on CPUs.

The machine's own compiler (``$CXX``, or the first of c++, g++, clang++) builds it on first use, in a second or three,
for exactly this processor. The result is kept in ``$NFBENCH_CACHE_DIR`` (default ``~/.cache/nfbench``) under a name
made of a hash of source, flags, compiler and processor, so a cluster with several processors in one home folder is
safe. Without a compiler `load_kernel` says why, and the zoo is fitted with torch instead (see fit.py).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("siren_kernel.cpp")
# No -ffast-math: it would break the rounding trick of the sine, and would switch off denormal numbers in the caller.
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-shared", "-fPIC")
INT, DOUBLE, POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
ARGUMENTS: tuple[Any, ...] = (INT, INT, POINTER, INT, *[POINTER] * 3, *[DOUBLE] * 7, INT, DOUBLE, INT, POINTER, POINTER)
ERROR_ARGUMENTS: tuple[Any, ...] = (INT, INT, POINTER, INT, *[POINTER] * 3, *[DOUBLE] * 3, INT, POINTER, POINTER)


class KernelUnavailable(RuntimeError):
    """The kernel cannot be compiled or loaded here; the message says why."""


def cache_folder() -> Path:
    """Where compiled kernels are kept, a folder of this user only."""
    if folder := os.environ.get("NFBENCH_CACHE_DIR"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nfbench"


def find_compiler() -> str:
    """The C++ compiler's path. Raises `KernelUnavailable` if there is none."""
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if name and (path := shutil.which(name)):
            return path
    raise KernelUnavailable("no C++ compiler found (looked for $CXX, c++, g++ and clang++)")


def _processor() -> str:
    """A text that differs between processors with different instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    first: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    return " ".join(first.get(key, "") for key in ("model name", "flags", "Features")) + platform.machine()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelUnavailable(f"{command[0]} did not run: {error}") from error


def compile_kernel(folder: Path | None = None, source: Path = SOURCE) -> Path:
    """Compiles a kernel unless that was done before; returns the library's path.

    Several processes may do this at once: each compiles to a temporary name and renames it into place.

    Raises:
        KernelUnavailable: no compiler, a failed compilation, or no folder that can be written to.
    """
    compiler = find_compiler()
    version = _run([compiler, "--version"]).stdout
    key = "\0".join([source.read_text(), *FLAGS, compiler, version, _processor()])
    name = f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.so"
    folder = folder or cache_folder()
    target = folder / name
    if target.exists():
        return target
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=name, suffix=".tmp", dir=folder)
    except OSError as error:
        raise KernelUnavailable(f"cannot write to {folder}: {error.strerror}") from error
    os.close(handle)
    try:
        for tuning in (["-march=native"], ["-mcpu=native"], []):  # some compilers know only one of these
            result = _run([compiler, *FLAGS, *tuning, str(source), "-o", temporary])
            if result.returncode == 0:
                os.replace(temporary, target)
                return target
        raise KernelUnavailable(f"{compiler} could not compile {source.name}: {result.stderr.strip()[-500:]}")
    finally:
        Path(temporary).unlink(missing_ok=True)


def open_library(source: Path) -> ctypes.CDLL:
    """The library that a source file compiles to. Raises `KernelUnavailable` with the reason."""
    path = compile_kernel(source=source)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelUnavailable(f"cannot load {path}: {error}") from error


@cache
def load_kernel() -> ctypes.CDLL:
    """The compiled kernel as a ctypes library with ``nfbench_fit_sirens`` and ``nfbench_siren_errors``.

    Raises:
        KernelUnavailable: with the reason.
    """
    library = open_library(SOURCE)
    library.nfbench_fit_sirens.argtypes = ARGUMENTS
    library.nfbench_siren_errors.argtypes = ERROR_ARGUMENTS
    library.nfbench_fit_sirens.restype = library.nfbench_siren_errors.restype = ctypes.c_int
    return library
