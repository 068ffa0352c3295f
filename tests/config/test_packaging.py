"""The files that `make setup` and CI work with."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line), f"constraints.txt: {line!r}"
    return {normal(line.partition("==")[0]): line.partition("==")[2] for line in lines}


def test_constraints_are_plain_pins_of_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(item for extra in project["optional-dependencies"].values() for item in extra)]
    names = {normal(re.split(r"[<>=!~;\[ ]", item)[0]) for item in asked}
    assert not names - set(pins())


def test_no_file_of_the_build_speaks_of_a_machine() -> None:
    for name in ("constraints.txt", "pyproject.toml", "Makefile", ".ci/run"):
        text = (ROOT / name).read_text()
        assert not re.search(r"-e /|file:|/home/|\+cpu", text), name
