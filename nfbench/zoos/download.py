"""Files that a user may have, or that are downloaded: found, checked against a checksum, never overwritten."""

from __future__ import annotations

import hashlib
import os
import secrets
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

TIMEOUT_S = 30


@dataclass(frozen=True)
class FileSource:
    """A file's name, where it comes from, and its SHA-256."""

    name: str
    url: str
    sha256: str

    def matches(self, path: Path) -> bool:
        """True if the file at ``path`` is byte for byte this one."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest() == self.sha256

    def check(self, path: Path) -> None:
        """Raises ValueError if the file at ``path`` is not this one, or cannot be read; says what to do."""
        try:
            good = self.matches(path)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
        if not good:
            raise ValueError(
                f"{path} is not the official file (its SHA-256 is not {self.sha256}). It is left as it is. "
                f"Move it away, then run again to download it, or get it from {self.url}"
            )


def find_files(what: str, wanted: list[FileSource], folders: list[Path], target: Path) -> list[Path]:
    """Paths of the wanted files, from the first folder that has each; absent ones are downloaded to ``target``.

    Raises:
        ValueError: a file with a wrong checksum, or absent files that cannot be downloaded; says what to do.
    """
    paths: list[Path] = []
    for file in wanted:
        path = next((folder / file.name for folder in folders if (folder / file.name).is_file()), None)
        if path is None:
            path = _download(what, file, wanted, folders, target / file.name)
        else:
            file.check(path)
        paths.append(path)
    return paths


def _download(what: str, file: FileSource, wanted: list[FileSource], folders: list[Path], target: Path) -> Path:
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(file.url, timeout=TIMEOUT_S) as response,
            temporary.open("wb") as out,
            tqdm(
                total=int(response.headers.get("Content-Length") or 0) or None,
                desc=f"download {file.name}",
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            while block := response.read(1 << 18):
                out.write(block)
                bar.update(len(block))
        if not file.matches(temporary):
            raise ValueError(
                f"what {file.url} sent is not the official file (wrong checksum); it was not kept. Run again, or "
                f"download it by other means to {target}"
            )
        os.replace(temporary, target)
        return target
    except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        missing = [f for f in wanted if not any((folder / f.name).is_file() for folder in folders)]
        raise ValueError(
            f"the images of {what} are not here and cannot be downloaded ({reason}).\n"
            f"  looked in: {', '.join(str(folder) for folder in folders)}\n"
            + "".join(f"  missing:   {f.name}  from {f.url}\n" for f in missing)
            + "Run again to try once more; or download these files on a machine with a network and put them in one of "
            "these folders, or set NFBENCH_DATA_DIR to the folder that holds them in a folder named "
            f"{target.parent.name}/."
        ) from error
    except OSError as error:
        raise ValueError(
            f"cannot write {target}: {error.strerror or error}. Make the folder writable and free some space, or "
            "choose another folder with data_dir=..., then run the same command again."
        ) from error
    finally:
        with suppress(OSError):  # must not hide the error above
            temporary.unlink(missing_ok=True)
