"""Files that a user may have, or that are downloaded: found, checked against a checksum, never overwritten."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

TIMEOUT_S = 30


@dataclass(frozen=True)
class FileSource:
    """A file's name, where it comes from, and its SHA-256 (or MD5 where only that is published)."""

    name: str
    url: str
    sha256: str = ""
    md5: str = ""

    def matches(self, path: Path) -> bool:
        """True if the file at ``path`` is byte for byte this one."""
        digest = hashlib.sha256() if self.sha256 else hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest() == (self.sha256 or self.md5)


def find_files(what: str, wanted: list[FileSource], folders: list[Path]) -> list[Path]:
    """Paths of the wanted files, from the first folder that has each; absent ones are downloaded to the last folder.

    Raises:
        ValueError: a file with a wrong checksum, or absent files that cannot be downloaded; says what to do.
    """
    paths: list[Path] = []
    for file in wanted:
        path = next((folder / file.name for folder in folders if (folder / file.name).is_file()), None)
        if path is None:
            path = _download(what, file, wanted, folders)
        elif not file.matches(path):
            kind = "SHA-256" if file.sha256 else "MD5"
            raise ValueError(
                f"{path} is not the official file (its {kind} is not {file.sha256 or file.md5}). It is left as it is. "
                f"Move it away, then run again to download it, or get it from {file.url}"
            )
        paths.append(path)
    return paths


def _download(what: str, file: FileSource, wanted: list[FileSource], folders: list[Path]) -> Path:
    target = folders[-1] / file.name
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
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
            raise ValueError(f"what {file.url} sent is not the official file (wrong checksum); it was not kept.")
        os.replace(temporary, target)
        return target
    except urllib.error.URLError as error:
        missing = [f for f in wanted if not any((folder / f.name).is_file() for folder in folders)]
        raise ValueError(
            f"the images of {what} are not here and cannot be downloaded ({error.reason}).\n"
            f"  looked in: {', '.join(str(folder) for folder in folders)}\n"
            + "".join(f"  missing:   {f.name}  from {f.url}\n" for f in missing)
            + "Download these files on a machine with a network and put them in one of these folders, or set "
            "NFBENCH_DATA_DIR to the folder that holds them in a folder named "
            f"{folders[-1].name}/."
        ) from error
    except OSError as error:
        raise ValueError(f"cannot download {file.name} to {target.parent}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
