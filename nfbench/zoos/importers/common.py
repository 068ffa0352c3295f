"""Reads the files of an archive or folder one after the other, safely: nothing is unpacked, and no code is run.

A tar (also compressed), a zip or a folder gives the same `Member`s. A member that leaves the folder, a link or a device
makes the whole source suspect: `ValueError`. A member that is too large or damaged is `Broken`, which an import counts.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

MAX_BYTES = 64 * 2**20  # of one file: the networks of these zoos take less than one MiB, so more is a mistake or a bomb
# Of one header of a tar, and of all that hold for the whole archive: tarfile reads them whole before it shows a member.
MAX_HEADER = 2**16
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError)


class Broken(ValueError):
    """One file that cannot be used; says why, without its name."""


@dataclass(frozen=True)
class Member:
    """One file: its name with ``/``, relative to the archive or folder; ``read`` works until the next one is asked for.

    ``read`` raises `Broken` for a file that is damaged or larger than `MAX_BYTES`.
    """

    name: str
    read: Callable[[], bytes]


def members(path: Path) -> Iterator[Member]:
    """The files of a tar, zip or folder; of a folder sorted by name, of an archive in its own order.

    Raises:
        ValueError: neither of these; damaged or cut off; a member that is refused.
    """
    if path.is_dir():
        yield from _folder(path)
    elif not path.is_file():
        raise ValueError(f"{path} is not there: give an archive (tar, zip) or a folder with its files.")
    elif _is_tar(path):  # first: files of torch are zips, so a tar of them looks like a zip from its end
        yield from _tar(path)
    elif zipfile.is_zipfile(path):
        yield from _zip(path)
    else:
        raise ValueError(f"{path} is neither a tar, nor a zip, nor a folder: it is another file, or damaged.")


def read_one(path: Path, name: str) -> tuple[str, bytes] | None:
    """Path and content of the first file of this name, in any folder; None if there is none. Raises as `members`."""
    for member in members(path):
        if PurePosixPath(member.name).name == name:
            return member.name, member.read()
    return None


def fingerprint(path: Path) -> dict[str, Any]:
    """What tells this source from another: an archive's SHA-256, or names and sizes of all files of a folder."""
    if path.is_file():
        return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
    lines = [f"{(path / member.name).stat().st_size} {member.name}" for member in _folder(path)]
    return {"folder": path.name, "files": len(lines), "listing_sha256": digest(lines)}


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of lines of text, in their order."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")).hexdigest()


def _checked(name: str, path: Path) -> str:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or (parts and parts[0].endswith(":")):
        raise _refused(path, name, "leaves the folder")
    return str(PurePosixPath(name))


def _refused(path: Path, name: str, why: str) -> ValueError:
    return ValueError(
        f"{path}: the member {name!r} {why}. Archives of networks hold plain files only, so this one is refused; get "
        "it from its authors again, or unpack it yourself and give the folder."
    )


class _Suspect(ValueError):
    """A header that is refused: name and why."""


class _StrictInfo(tarfile.TarInfo):
    """tarfile takes a damaged header in the middle for the end of the archive, and reads headers of any size; this
    raises."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictInfo:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _HEADERS and info.size > MAX_HEADER:
            raise _Suspect(info.name, f"has a header of {info.size} bytes")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise _Suspect(info.name, "is a sparse file")
        return _positive(info)

    def _proc_gnusparse_10(self, following: tarfile.TarInfo, *_: object) -> None:
        """The newer kind of sparse files, whose map of any length is read with the header."""
        raise _Suspect(following.name, "is a sparse file")

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _StrictInfo:
        try:
            return _positive(super().fromtarfile(archive))  # again: extended headers can give another size
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # missing in the stubs
            raise
        except _Suspect:
            raise
        except (tarfile.HeaderError, ValueError, OverflowError, RecursionError) as error:
            raise tarfile.ReadError(f"{error}, at byte {archive.offset}") from error


def _positive(info: _StrictInfo) -> _StrictInfo:
    """tarfile would go back in the archive by a negative size, and read the same member for ever (CVE-2025-8194)."""
    if info.size < 0:
        raise _Suspect(info.name, f"has a negative size ({info.size})")
    return info


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:*", tarinfo=_StrictInfo) as tar:
            yield tar
    except _Suspect as error:
        raise _refused(path, *error.args) from error


def _is_tar(path: Path) -> bool:
    try:
        with _open_tar(path):
            return True
    except (tarfile.TarError, EOFError):  # the latter: compressed, and cut off in its first block
        return False


def _tar(path: Path) -> Iterator[Member]:
    last = "its beginning"
    try:
        with _open_tar(path) as tar:
            while (info := tar.next()) is not None:
                if sum(len(key) + len(value) for key, value in tar.pax_headers.items()) > MAX_HEADER:
                    raise _refused(path, info.name, "comes after too many headers")
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep the headers of half a million files
                name = _checked(info.name, path)
                if info.issym() or info.islnk():
                    raise _refused(path, name, f"is a link to {info.linkname!r}")
                if not (info.isfile() or info.isdir()):
                    raise _refused(path, name, "is a device or something else that is not a file")
                if info.isfile():
                    yield Member(name, partial(_read_tar, tar, info))
                last = repr(name)
    except _DAMAGE as error:
        raise ValueError(
            f"{path} is damaged or cut off after {last} ({error}). What was read before is kept; get the file again, "
            "or unpack what can be unpacked and give the folder."
        ) from error


def _read_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    _check_size(info.size)
    try:
        file = tar.extractfile(info)
        assert file is not None, "checked: a plain file"
        return file.read()
    except _DAMAGE as error:
        raise Broken(f"cannot be read: {error}") from error


def _zip(path: Path) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = _checked(info.filename, path)
                mode = info.external_attr >> 16
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    kind = "a link" if stat.S_ISLNK(mode) else "a device or something else that is not a file"
                    raise _refused(path, name, f"is {kind}")
                if not info.is_dir():
                    yield Member(name, partial(_read_zip, archive, info))
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged or cut off ({error}). Get the file again.") from error


def _read_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    _check_size(info.file_size)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack more than is asked for
        raise Broken("is compressed in a way that zips of weights are not: neither stored nor deflated")
    try:
        with archive.open(info) as file:
            return file.read(MAX_BYTES)
    except (*_DAMAGE, NotImplementedError) as error:
        raise Broken(f"cannot be read: {error}") from error


def check_file(folder: Path, file: Path) -> Path:
    """Gives ``file`` of a folder back.

    Raises:
        ValueError: a link out of the folder or to another folder, or what is no file.
    """
    if file.is_symlink() and not (file.is_file() and file.resolve().is_relative_to(folder.resolve())):
        raise _refused(folder, str(file.relative_to(folder)), f"is a link to {str(file.readlink())!r}")
    if not file.is_file():
        raise _refused(folder, str(file.relative_to(folder)), "is a device or something else that is not a file")
    return file


def _folder(path: Path) -> Iterator[Member]:
    for folder, folders, names in os.walk(path):
        folders.sort()
        here, inner = Path(folder), set(folders)
        for name in sorted(names) + folders:
            if name not in inner or (here / name).is_symlink():
                check_file(path, here / name)
        for name in sorted(names):
            file = here / name
            yield Member(file.relative_to(path).as_posix(), partial(read_file, file))


def read_file(path: Path) -> bytes:
    """Raises `Broken` for a file that cannot be read or is larger than `MAX_BYTES`."""
    try:
        _check_size(path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise Broken(f"cannot be read: {error.strerror or error}") from error


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise Broken(f"has {size / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} MiB that a network may have")
