"""What tells results of one model apart: the overrides they were made with."""

from collections.abc import Mapping, Sequence
from typing import Any

from nfbench.report.results import typed

Summary = Mapping[str, Any]
_ABSENT = object()


def common_words(summaries: Sequence[Summary]) -> list[str]:
    """The overrides that all of some runs were made with; not the encoder, whose folder differs by seed."""
    commands = [typed(str(summary.get("command"))) for summary in summaries]
    return [word for word in commands[0] if not word.startswith("encoder=") and all(word in one for one in commands)]


def own_words(rows: Sequence[Sequence[Summary]]) -> list[list[str]]:
    """For each of some rows, the overrides of all its runs that not all rows have.

    One that a row has typed and another has by default is left out, as far as the configs in the summaries tell.
    """
    words = [common_words(row) for row in rows]
    configs = [row[0].get("config") for row in rows]

    def tells(word: str) -> bool:
        values = [_value(config, word.lstrip("+~").partition("=")[0]) for config in configs]
        known = all(value is not _ABSENT for value in values)
        return not all(word in one for one in words) and not (known and all(value == values[0] for value in values))

    return [[word for word in own if tells(word)] for own in words]


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return _ABSENT
        config = config[part]
    return config
