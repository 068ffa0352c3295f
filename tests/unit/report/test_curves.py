"""Learning curves: which results make a line, where its points are, and what is said when there is none."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import summary

from nfbench.report import curves

ROOT = Path(__file__).resolve().parents[3]


def with_curve(values, **changes):
    return summary(curves={"val/acc": values}, **changes)


def test_lines_points_and_bands(tmp_path, monkeypatch):
    drawn = {}

    class Spy(curves.Figure):
        def savefig(self, *args, **kwargs):
            (axes,) = self.axes
            drawn.update(lines=axes.get_lines(), bands=len(axes.collections))
            super().savefig(*args, **kwargs)

    monkeypatch.setattr(curves, "Figure", Spy)
    given = [
        with_curve([0.2, 0.4], seed=0, examples_seen=100, canonicalized=True),
        with_curve([0.4, 0.8, 0.9], seed=1, examples_seen=150, canonicalized=True),  # went on for longer
        with_curve([0.1, None], seed=0, config={"zoo": {"canonicalize": False}}, config_hash="b"),
        summary(seed=2),
    ]
    labels = curves.draw_curves(tmp_path / "deep" / "a.png", given, "val/acc", "a title")
    model = summary()["model"]
    assert sorted(labels) == [f"{model} (2 seeds)", f"{model}, as they are (1 seed)"]
    by_label = {line.get_label(): line for line in drawn["lines"]}
    solid, dashed = (by_label[label] for label in sorted(labels))
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    np.testing.assert_allclose(solid.get_xydata(), [[50, 0.3], [100, 0.6]])
    np.testing.assert_allclose(dashed.get_ydata(), [0.1])
    assert drawn["bands"] == 1
    every_other = with_curve([None, 0.5, None, 0.7], examples_seen=400)
    curves.draw_curves(tmp_path / "a.png", [every_other], "val/acc")
    (line,) = drawn["lines"]
    np.testing.assert_allclose(line.get_xydata(), [[200, 0.5], [400, 0.7]], err_msg="a line, without gaps")
    later = with_curve([0.5, 0.7], examples_seen=400, epochs=4, config={"ckpt_path": "elsewhere/last.ckpt"})
    curves.draw_curves(tmp_path / "a.png", [later], "val/acc")
    (line,) = drawn["lines"]
    np.testing.assert_allclose(line.get_xydata(), [[300, 0.5], [400, 0.7]], err_msg="two epochs came before")
    with Image.open(tmp_path / "deep" / "a.png") as picture:
        assert picture.size[0] > 500


def test_configs_of_one_model_are_told_apart(tmp_path):
    command = "python run.py task=inr_cls model=nft"
    given = [
        with_curve([0.2], command=f"{command} seed=0", config_hash="a"),
        with_curve([0.3], command=f"{command} task.lr=1e-3 seed=0 threads=1", config_hash="b"),
        with_curve([0.3], command=f"{command} task.lr=1e-3 seed=1", config_hash="b", seed=1),
    ]
    labels = curves.draw_curves(tmp_path / "a.png", given, "val/acc")
    assert labels == ["nft, as they are (1 seed)", "nft, as they are, task.lr=1e-3 (2 seeds)"]


def test_what_is_said_without_a_curve(tmp_path):
    with pytest.raises(ValueError, match=r"no result has a curve of val/psnr\. There are curves of val/acc"):
        curves.draw_curves(tmp_path / "a.png", [with_curve([0.1])], "val/psnr")
    with pytest.raises(ValueError, match="publish its run again"):
        curves.draw_curves(tmp_path / "a.png", [summary()], "val/acc")
    assert not (tmp_path / "a.png").exists()


def test_the_script_chooses_by_facts(tmp_path, monkeypatch, capsys):
    (tmp_path / "one.json").write_text(json.dumps(with_curve([0.1, 0.2], dataset="mnist")))
    (tmp_path / "two.json").write_text(json.dumps(with_curve([0.3, 0.4], dataset="digits", model="other")))
    spec = importlib.util.spec_from_file_location("curves_script", ROOT / "scripts" / "curves.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(*words):
        monkeypatch.setattr(
            sys, "argv", ["curves.py", "val/acc", str(tmp_path / "a.png"), *words, "--results", str(tmp_path)]
        )
        script.main()

    run("dataset=digits", "canonicalized=" + str(summary()["canonicalized"]).lower())
    assert capsys.readouterr().out.startswith("other")
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(ValueError, match=r"half\.json is no JSON"):
        run("dataset=digits")
    (tmp_path / "half.json").unlink()
    for words, message in ((["dataset=svhn"], "none of the 2 results"), (["digits"], "is not key=value")):
        with pytest.raises(ValueError, match=message):
            run(*words)
