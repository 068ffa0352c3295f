"""Words of a command line."""

import re
from pathlib import Path

_KEY = re.compile(r"[+~]*[\w.]+")  # of an override


def is_zoo_file(word: str) -> bool:
    """Whether a word names a zoo's file, and is no override: names of zoos may have a ``=``."""
    key, equals, _ = word.partition("=")
    return word.endswith(".h5") and (not equals or not _KEY.fullmatch(key) or Path(word).is_file())
