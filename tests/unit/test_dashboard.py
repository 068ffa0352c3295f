"""scripts/dashboard.py, without a network: the workspace that it would save."""

import json
import runpy
from pathlib import Path

import pytest
from omegaconf import OmegaConf

pytest.importorskip("wandb_workspaces", reason="make setup installs the extra `dashboard`")
# The library declares its models in the style of pydantic 1.
pytestmark = pytest.mark.filterwarnings("ignore:.*Pydantic V1 style.*:DeprecationWarning")
ROOT = Path(__file__).resolve().parents[2]
TASKS = {file.stem: OmegaConf.load(file) for file in (ROOT / "conf" / "task").glob("*.yaml")}


@pytest.fixture
def main(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    return runpy.run_path(str(ROOT / "scripts" / "dashboard.py"))["main"]


def panels(spec: dict, task: str) -> dict[str, list[dict]]:
    (section,) = [one for one in spec["section"]["panelBankConfig"]["sections"] if one["name"] == task]
    found: dict[str, list[dict]] = {}
    for panel in section["panels"]:
        found.setdefault(panel["viewType"], []).append(panel["config"])
    return found


def test_a_section_a_task_with_its_metrics(main) -> None:
    spec = json.loads(main(["--dry-run"]))
    assert [one["name"] for one in spec["section"]["panelBankConfig"]["sections"]] == sorted(TASKS)
    for name, task in TASKS.items():
        found = panels(spec, name)
        (bars,), (curves,), (media,) = (found[k] for k in ("Bar Chart", "Run History Line Plot", "Media Browser"))
        assert bars["metrics"] == [f"{name}/{task.metric}"]
        assert curves["metrics"] == [f"{name}/{task.monitor}"]
        assert curves["xAxis"] == "epoch"
        for panel in (bars, curves):
            assert (panel["groupBy"], panel["groupAgg"], panel["groupArea"]) == ("cell.value", "mean", "stddev")
        assert f"{name}/picture" in media["mediaKeys"]
        assert f"{name}/samples" in media["mediaKeys"]
        (table,) = found["Weave"]
        assert f"{name}/predictions" in json.dumps(table)
        better = "higher" if task.mode == "max" else "lower"
        assert f"{better} is better" in bars["chartTitle"]


def test_which_runs_are_shown_and_how_they_are_grouped(main) -> None:
    (runs,) = json.loads(main(["--dry-run"]))["section"]["runSets"]
    shown = [(one["key"]["name"], one["op"], one["value"]) for one in runs["filters"]["filters"]]
    assert shown == [("jobType", "=", "train"), ("size", "IN", ["cpu", "full"])]
    assert [one["name"] for one in runs["grouping"]] == ["task.value", "cell.value"]
    chosen = json.loads(main(["--dry-run", "--group-by", "model", "--filter", "Config('dataset') = 'mnist'"]))
    (runs,) = chosen["section"]["runSets"]
    assert [(one["key"]["name"], one["value"]) for one in runs["filters"]["filters"]] == [("dataset", "mnist")]
    assert panels(chosen, "inr_cls")["Bar Chart"][0]["groupBy"] == "model.value"


def test_the_file_and_the_messages(main, tmp_path) -> None:
    assert main(["--dry-run", "--out", str(tmp_path / "board.json")]).startswith(f"{len(TASKS)} sections")
    assert "section" in json.loads((tmp_path / "board.json").read_text())
    with pytest.raises(ValueError, match=r"wandb login.*--dry-run"):
        main([])
    with pytest.raises(ValueError, match=r"--filter 'Config\(' cannot be read"):
        main(["--dry-run", "--filter", "Config("])
