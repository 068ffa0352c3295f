"""Tiny zoos that are fitted in a fraction of a second."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nfbench.zoos import SirenZoo, kernel


@pytest.fixture
def make_zoo(tmp_path: Path) -> Callable[..., SirenZoo]:
    """A digits zoo of 30 images, 2 views and 20 steps, in the test's folder; keyword arguments override."""

    def make(**overrides) -> SirenZoo:
        values = {
            "source": "digits",
            "definition": "digits",
            "num_images": 30,
            "num_views": 2,
            "num_steps": 20,
            "zoo_dir": str(tmp_path / "zoos"),
            "data_dir": str(tmp_path / "data"),
            "file_name": "tiny",
            "threads": 1,
        }
        return SirenZoo(**{**values, **overrides})

    return make


@pytest.fixture(params=[("-mno-avx512f",), ("-mno-avx512f", "-mno-avx2", "-mno-avx")], ids=["avx2", "no avx"])
def fewer_instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Kernels are compiled as on such a processor from here on, into this folder."""
    monkeypatch.setattr(kernel, "FLAGS", (*kernel.FLAGS, *request.param))
    monkeypatch.setenv("NFBENCH_CACHE_DIR", str(tmp_path))
    return tmp_path
