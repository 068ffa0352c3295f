"""scripts/build_zoo.py: build, shards, merge and inspect from the command line, and what it says to mistakes."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from nfbench.zoos.store import read_zoo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch, capsys, tmp_path):
    """script("merge", ...) -> exit code, stdout, stderr; on a tiny zoo in the test's folder."""

    def run(*arguments: str) -> tuple[int, str, str]:
        command, overrides = arguments[: "=" not in arguments[0]], arguments["=" not in arguments[0] :]
        zoo = ["experiment=smoke", "zoo.num_steps=20", f"zoo_dir={tmp_path}", "zoo.file_name=tiny"]
        monkeypatch.setattr(sys, "argv", ["build_zoo.py", *command, *zoo, *overrides])
        GlobalHydra.instance().clear()
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / "build_zoo.py"), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def test_shards_merge_inspect(script, tmp_path) -> None:
    code, out, _ = script("zoo=siren_digits", "shard=1/2")
    assert (code, out.count("shard 1/2")) == (0, 1), out
    code, _, error = script("merge", "zoo=siren_digits")
    assert code == 1
    assert "2/2 (1 of its chunks)" in error
    code, out, _ = script("build", "zoo=siren_digits", "shard=2/2")
    assert "merge joins them" in out
    code, out, error = script("merge", "zoo=siren_digits")
    assert code == 0, error
    data = read_zoo(tmp_path / "tiny.h5")
    assert f"{len(data.label)} networks" in out

    code, out, error = script("inspect", "zoo=siren_digits")
    assert code == 0, error
    for part in (f"{len(data.label)} networks", "PSNR mean", "weight 1", "bias 3", "tiny.inspect.png"):
        assert part in out
    assert (tmp_path / "tiny.inspect.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads((tmp_path / "tiny.inspect.json").read_text())
    assert facts["layers"][0]["std"] == pytest.approx(float(data.params[:, :16].astype("float64").std()), rel=1e-6)
    assert facts["psnr_mean"] == pytest.approx(float(data.psnr.mean()), rel=1e-5)

    code, out, _ = script("build", "zoo=siren_digits")
    assert "there already" in out


def test_a_whole_zoo_is_the_default(script, tmp_path) -> None:
    code, out, error = script("zoo=siren_digits")
    assert code == 0, error
    assert "mean PSNR" in out
    assert len(read_zoo(tmp_path / "tiny.h5").label) > 60


def test_threads_are_those_of_torch_too(script) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert script("zoo=siren_digits", "threads=1")[0] == 0
        assert torch.get_num_threads() == 1
        torch.set_num_threads(2)
        assert script("zoo=siren_digits", "threads=null")[0] == 0
        assert torch.get_num_threads() == 2, "torch's own choice"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("zoo=siren_mnst",), ["there is no zoo `siren_mnst`; did you mean siren_mnist"]),
        (("zoo.num_view=3",), ["there is no key `num_view`", "num_views"]),
        (("shard=0/2",), ["shard=0/2 is no shard", "numbered from 1"]),
        (("merg", "zoo=siren_digits"), ["there is no command `merg`; did you mean merge?", "build, merge, inspect"]),
        (("merge", "shard=1/2"), ["merge takes no shard"]),
        (("merge", "zoo=siren_digits"), ["nothing of", "has been built yet"]),
        (("inspect", "zoo=siren_digits"), ["there is no zoo", "Build it first"]),
        (("inspect", "nowhere.h5"), ["there is no zoo nowhere.h5"]),
        (("inspect", "zoos/cnn_mnist-tiny+num_runs=12.h5"), ["there is no zoo zoos/cnn_mnist-tiny+num_runs=12.h5"]),
        (("merge", "some.h5"), ["merge takes no file"]),
        (("merge", "siren-nfn+lr=0.1.h5"), ["merge takes no file", "siren-nfn+lr=0.1.h5"]),
    ],
    ids=lambda value: "-".join(value)[:30],
)
def test_mistakes(script, arguments, said) -> None:
    code, _, error = script(*arguments)
    assert code == 1
    assert "Traceback" not in error
    for part in said:
        assert part in error


def test_help_names_the_zoos(script) -> None:
    code, out, _ = script("zoo=siren_digits", "--help")
    assert code == 0
    assert "siren_mnist" in out
    assert "inspect" in out
