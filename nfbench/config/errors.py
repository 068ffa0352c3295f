"""Errors that fit on one screen: what was given, where, what is allowed, and what was probably meant.

`HYDRA_FULL_ERROR=1` brings the traceback back. A run that fails has it in its `run.log` in any case.
"""

import difflib
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nfbench.config.job import Job
from nfbench.config.schema import Config, options

FULL = "HYDRA_FULL_ERROR"
EXTRAS = {  # Hydra's plugins that are not installed with nfbench -> the extra that has them
    "launcher/submitit": "slurm",
    "launcher/nfbench_submitit": "slurm",
    "sweeper/optuna": "tune",
    "sweeper/sampler": "tune",
}
_full = os.environ.get(FULL) == "1"  # as the person who started this process set it


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean foo?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


@contextmanager
def one_screen() -> Iterator[None]:
    """Around Hydra's main: turns what it raises into a short message and a non-zero exit code."""
    if _full:
        yield
        return
    os.environ[FULL] = "1"  # makes Hydra hand its errors over instead of printing them itself
    try:
        yield
    except Exception as error:
        if not getattr(error, "_nfbench_told", False):
            print(f"\nerror: {explain(error)}", file=sys.stderr)
        sys.exit(1)
    finally:
        os.environ.pop(FULL, None)


@contextmanager
def in_job(job: Job) -> Iterator[None]:
    """Around one run: tells its error at once, so that in a sweep each failed run has its message and its log."""
    try:
        yield
    except SystemExit as error:
        if type(error).__name__ != "SIGTERMException":  # Lightning's, after which a shell would take the run for done
            raise
        print("\nstopped by SIGTERM: the same command goes on after the last epoch that was finished", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        text = explain(error)
        try:
            with (job.folder / "run.log").open("a") as log:
                log.write(f"error: {text}\n{traceback.format_exc()}")
            where = f"(the traceback is in {job.folder / 'run.log'})"
        except OSError as second:  # a full or read-only disk, perhaps the same that ended the run
            where = f"(run.log could not be written: {second.strerror}; {FULL}=1 shows the traceback)"
        print(f"\nerror: {text}\n{where}", file=sys.stderr)
        if not job.sweep and not _full:
            sys.exit(1)
        error._nfbench_told = True  # type: ignore[attr-defined]
        raise  # so that Hydra goes on with the next job, and ends with this error


def explain(error: Exception) -> str:
    """The message of an error, without a traceback."""
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _explain_config(error)
    if isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException":
        return str(error)
    if isinstance(error, OSError):
        return f"{error}. Check the path, the free space and the permissions; nothing that was there was removed."
    if type(error).__name__ == "OutOfMemoryError":
        return f"{error}\nA smaller zoo.batch_size or model.width needs less memory."
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.relpath(frame.filename)}:{frame.lineno}"
    return f"{type(error).__name__} at {place}: {error}\nThis was not expected: {FULL}=1 shows the whole traceback."


def _explain_config(error: Exception) -> str:
    text = str(error)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    where = re.match(r"In '([^']+)'", text)
    source = f" in conf/{where[1]}.yaml" if where and cause is not None else ""

    if found := re.search(r"ValueError raised while resolving interpolation: (.*)", text):
        return found[1]
    if found := re.search(r"Could not (?:find|load) '([^']+)'", text):
        return _unknown_option(found[1], text)
    if found := re.search(r"Key '([^']+)' (?:is )?not in '?(\w+)'?(?:.|\n)*full_key: (\S+)", f"{text}\n{cause or ''}"):
        kind = re.search(r"object_type=(\w+)", f"{text}\n{cause or ''}")
        return _unknown_key(found[3], source, kind[1] if kind else "")
    if found := re.search(r"(Value .*?)\n\s*full_key: (\S+)", f"{text}\n{cause or ''}"):
        return f"{found[2]}{source}: {found[1][0].lower()}{found[1][1:]}.{_expected(found[2])}"
    if "Could not append to config" in text:
        key = re.search(r"already at '([^']+)'", text)
        return f"{key[1] if key else 'the key'} is in the config already: leave out the + sign."
    if "Error parsing override" in text or "no viable alternative" in text or "mismatched input" in text:
        return (
            f"{text.splitlines()[0]}: {' '.join(text.splitlines()[1:2])}\nAn override reads key=value; "
            "quote what the shell would change: 'seed=range(3)'."
        )
    return "\n".join(line for line in text.splitlines() if "provider=" not in line and "search path" not in line)


def _schema_of(group: str, kind: str = "") -> dict[str, Any]:
    """Field name -> type of every key the group may have: from the schemas of all its options, or the one named."""
    repo: Any = ConfigStore.instance().repo
    for part in group.split("."):  # hydra.launcher is kept as a group within a group
        repo = repo.get(part, {}) if isinstance(repo, dict) else {}
    found: dict[str, Any] = {}
    for node in repo.values() if isinstance(repo, dict) else []:
        schema = OmegaConf.get_type(getattr(node, "node", None))  # a group within the group has none
        if is_dataclass(schema) and kind in ("", schema.__name__):
            found |= {item.name: item.type for item in fields(schema)}
    return found


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _expected(full_key: str) -> str:
    group, _, key = full_key.rpartition(".")
    known = _schema_of(group) if group else {item.name: item.type for item in fields(Config)}
    return f" It takes: {_type_name(known[key])}." if key in known else ""


def _unknown_option(name: str, text: str) -> str:
    if extra := next((EXTRAS[word] for word in EXTRAS if f"hydra/{word}" in name), None):
        return (
            f"{name.removeprefix('hydra/')} is not installed: it comes with the extra `{extra}`.\n"
            f"  pip install -e '.[{extra}]'"
        )
    ours = name.split("/")[0] in options()  # whose options may have folders: model=paper/...
    group, _, option = name.partition("/") if ours else name.rpartition("/")
    listed = [line.strip() for line in text.partition("Available options in")[2].splitlines() if line.startswith("\t")]
    known = [item for item in options().get(group, listed) if not item.endswith("_schema")]
    if not known:
        return text.splitlines()[0]
    return f"there is no {group} `{option}`{did_you_mean(option, known)}\n  {group} is one of: {', '.join(known)}"


def _unknown_key(full_key: str, source: str, kind: str) -> str:
    group, _, key = full_key.rpartition(".")
    place = f"config group `{group}`" if group else "the config"
    known = {item.name: item.type for item in fields(Config)}
    if group:
        known = _schema_of(group, kind) or _schema_of(group)
    rows = ", ".join(name for name in known if name not in ("name", "target"))
    extra = ""
    if group == "trainer":
        extra = f"\n  Another flag of Lightning's Trainer is passed with a plus sign: +trainer.{key}=..."
    elif not group:
        extra = f"\n  Groups: {', '.join(options())}. A key of a group is written group.key=value."
    return f"there is no key `{key}` in {place}{source}{did_you_mean(key, known)}\n  It has: {rows}{extra}"
