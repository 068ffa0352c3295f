"""The folder of chunks of something that is being made: whose chunks they are, said by a note beside them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

PATTERN = "chunk-*.npz"


def check_owner(folder: Path, note: str) -> None:
    """Raises ValueError for chunks without the note that says what they are parts of: they may be of another zoo."""
    if not (folder / note).exists() and next(folder.glob(PATTERN), None) is not None:
        raise ValueError(
            f"{folder} has chunks but no {note}, so nothing says which zoo and settings they are of, and they are not "
            "used. Move or delete that folder, then run the same command again to start anew."
        )


def remove_chunks(folder: Path, note: str) -> None:
    """Deletes the folder of a finished work, its note last: a kill in between leaves no chunk without it."""
    with suppress(OSError):  # what cannot be deleted stays, with its note
        for file in folder.iterdir():
            if file.name != note:
                file.unlink()
        (folder / note).unlink()
        folder.rmdir()
