"""Published rows whose commands are run again: on a stand-in for run.py, which needs no training."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from run_folders import summary

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "recheck.py"
STAND_IN = """
import json, pathlib, sys
words = dict(word.split("=") for word in sys.argv[1:])
assert pathlib.Path("data/here").exists()
if words["task"] == "inr2array_cls":
    assert pathlib.Path("outputs/inr2array/nft/summary.json").exists(), "its encoder comes first"
folder = pathlib.Path("outputs", words["task"], words["model"])
folder.mkdir(parents=True, exist_ok=True)
said = {"seed": int(words["seed"]), "metrics": {"test/acc": 0.25}, "wall_s": 9.0}
said["command"] = " ".join(["python run.py", *sys.argv[1:]])
(folder / "summary.json").write_text(json.dumps(said))
sys.exit(words["model"] == "mlp")
"""


@pytest.fixture
def recheck(tmp_path, monkeypatch):
    """The script with its words, on results in `tmp_path/results` and a `run.py` of our own."""
    (tmp_path / "root" / "data").mkdir(parents=True)
    (tmp_path / "root" / "data" / "here").touch()
    (tmp_path / "root" / "run.py").write_text(STAND_IN)
    (tmp_path / "results").mkdir()
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setitem(main.__globals__, "ROOT", tmp_path / "root")

    def run(*words, results):
        for number, each in enumerate(results):
            (tmp_path / "results" / f"{number}.json").write_text(json.dumps(each))
        where = ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
        monkeypatch.setattr(sys, "argv", ["recheck.py", *where, *words])
        main()
        return tmp_path / "work" / "recheck.json"

    return run


def test_numbers_are_compared_and_kept(recheck, capsys):
    arrays = {"task": "inr2array_cls", "encoder": "inr2array nft, seed 0, aaaaaaaa"}
    path = recheck("--rows", "3", results=[
        summary(value=0.25), summary(value=0.5, seed=1), summary(task="inr2array", value=0.25, config_hash="aaaaaaaa"),
        summary(value=0.75, **arrays), summary(value=0.25, size="full", dataset="mnist"),
    ])  # fmt: skip
    said = {one["task"]: (one["seed"], one["published"], one["again"]) for one in json.loads(path.read_text())}
    assert said == {"inr_cls": (0, 0.25, 0.25), "inr2array": (0, 0.25, 0.25), "inr2array_cls": (0, 0.75, 0.25)}
    first = path.read_text()
    out = capsys.readouterr().out
    assert recheck("--rows", "3", results=[]).read_text() == first, "a second time it finds what is there"
    assert "0.75 published, 0.25 again (-0.5)" in out
    assert "2 of 3 rows are the same to the last digit" in out


def test_a_draw_is_the_same_each_time_and_can_be_shown(recheck, capsys):
    results = [summary(value=0.25, model=name) for name in ("nft", "nfn_np", "nfn_hnp", "mlp", "gmn")]
    shown = []
    for words in (("--draw", "1"), ("--draw", "1"), ("--draw", "2")):
        recheck("--list", "--rows", "3", *words, results=results)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != shown[2]
    assert shown[0].count("python run.py task=inr_cls model=") == 3


def test_what_goes_wrong_is_said(recheck):
    with pytest.raises(ValueError, match=r"--rows 5: .* has 1 rows; give 1 to 1"):
        recheck(results=[summary(model="mlp")])
    with pytest.raises(ValueError, match=r"model=mlp seed=0 ended with 1: see .*log.txt"):
        recheck("--rows", "1", results=[])
    with pytest.raises(ValueError, match="has 2 results, and not that of this row alone: remove the folder"):
        recheck("--rows", "1", results=[summary(model="nft")])
