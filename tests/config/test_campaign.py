"""The campaign runs what is not published, in order, and nothing twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from nfbench.config import register
from nfbench.config.campaign import Campaign, Cell, Step, folder_name, read_plan
from nfbench.config.schema import CONF

ROOT = Path(__file__).resolve().parents[2]


def plan(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "it needs the key `cells`"),
        ("cells: {a: {run: x, minutes: 1, priority: 1, sise: cpu}}", "the key `sise`"),
        ("cells: {a: {run: x, minutes: 1}}", "a lacks the key `priority`"),
        ("cells: {a: {run: x, minutes: 1, priority: 1, size: huge}}", "size huge: choose tiny, cpu or full"),
        ("cells: {a: {run: x, minutes: 1, priority: 1, after: [b]}}", "comes after b, no such cell"),
    ],
)
def test_a_wrong_plan_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plan(plan(tmp_path, text))


def test_every_cell_of_the_plan_composes_and_is_of_its_size() -> None:
    register()
    cells = read_plan(CONF / "campaign.yaml")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        campaign = Campaign(cells, ROOT / "results")
        steps = campaign.steps()
        for cell in cells.values():
            if cell.script is None:
                assert compose("config", campaign.overrides(cell, 0)).size == cell.size
            else:
                assert (ROOT / "scripts" / cell.script).is_file()
    assert [step.cell.priority for step in steps] == sorted(step.cell.priority for step in steps)
    assert len({step.name for step in steps}) == len(steps)


def test_the_folder_is_the_one_that_a_run_takes(composed) -> None:
    overrides = ["experiment=smoke", "model=mlp", "seed=3"]
    cfg = compose("config", overrides, return_hydra_config=True)
    task, folder = folder_name(overrides)
    assert (task, str(folder)) == (cfg.task.name, cfg.hydra.run.dir)
    assert task == "inr_cls"
    assert folder.parent == Path("outputs/inr_cls")
    assert folder.name.startswith("mlp-siren_digits-seed3-")
    assert folder != folder_name([*overrides, "task.lr=0.5"])[1]
    assert folder == folder_name([*overrides, "threads=1"])[1]


def test_a_run_that_reads_latents_is_known_by_its_encoder_and_its_command(tmp_path: Path) -> None:
    cells = {
        "first": Cell("first", "task=inr2array", 1, 1),
        "second": Cell("second", "task=inr2array_cls model=nft", 1, 1, seeds=(0, 1), after=("first",)),
    }

    def find(overrides):
        assert overrides[0] == "task=inr2array", "no command of the second needs composing"
        return "inr2array", Path(f"outputs/inr2array/nft-zoo-{overrides[1].replace('=', '')}-cafe")

    campaign = Campaign(cells, tmp_path, find)
    command = "python run.py task=inr2array_cls seed=1 model=nft encoder=outputs/elsewhere threads=1"
    (tmp_path / "inr2array_cls").mkdir()
    path = tmp_path / "inr2array_cls" / "nft-zoo-seed1-0123.json"
    path.write_text(json.dumps({"encoder": "inr2array nft, seed 1, cafe", "command": command, "wall_s": 120}))
    assert campaign.published(cells["second"], 1) == path
    assert campaign.published(cells["second"], 0) is None
    path.write_text(json.dumps({"encoder": "inr2array nft, seed 1, beef", "command": command}))
    assert campaign.published(cells["second"], 1) is None, "the latents of another encoder"
    path.write_text(json.dumps({"encoder": "inr2array nft, seed 1, cafe", "command": f"{command} task.width=8"}))
    assert campaign.published(cells["second"], 1) is None, "another Transformer"


def test_estimates_come_from_published_runs(tmp_path: Path) -> None:
    cells = {"a": Cell("a", "x", 50, 1, seeds=(0, 1))}
    campaign = Campaign(cells, tmp_path, lambda overrides: ("t", Path("outputs/t") / overrides[1]))
    assert [step.minutes for step in campaign.steps()] == [50, 50]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "seed=0.json").write_text('{"wall_s": 120}')
    assert campaign.steps() == [Step(cells["a"], 0, True, 2.0), Step(cells["a"], 1, False, 2.0)]


def test_a_zoo_is_built_only_for_what_is_left(tmp_path: Path) -> None:
    cells = {"zoo": Cell("zoo", "x", 50, 1, script="build_zoo.py"), "a": Cell("a", "x", 1, 1, (0,), after=("zoo",))}
    campaign = Campaign(cells, tmp_path, lambda overrides: ("t", Path("outputs/t") / overrides[1]))
    assert [step.name for step in campaign.steps() if not step.done] == ["zoo", "a seed 0"]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "seed=0.json").write_text('{"wall_s": 60}')
    assert [step.name for step in campaign.steps() if not step.done] == []


def run_campaign(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/campaign.py", "--plan", str(tmp_path / "plan.yaml")]
    command += ["--results", str(tmp_path / "results"), "--logs", str(tmp_path / "logs"), *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )


def test_runs_are_published_and_not_repeated(tmp_path: Path, small: list[str]) -> None:
    plan(
        tmp_path,
        f"""
cells:
  later: {{run: "{" ".join(small)} task.lr=0.01", minutes: 1, priority: 2, seeds: [0]}}
  soon: {{run: "{" ".join(small)}", minutes: 1, priority: 1, seeds: [0]}}
  broken: {{run: "{" ".join(small)} zoo.batch_size=-1", minutes: 1, priority: 1, seeds: [0]}}
  long: {{run: "{" ".join(small)} task.lr=0.02", minutes: 99, priority: 1, seeds: [0]}}
  large: {{run: "{" ".join(small)} task.lr=0.03", minutes: 1, priority: 1, seeds: [0], size: full}}
""",
    )
    first = run_campaign(tmp_path, "--minutes", "5")
    assert first.returncode == 1, "one failed"
    assert first.stdout.index("done soon seed 0") < first.stdout.index("begin later seed 0")
    assert "FAILED: broken seed 0" in first.stdout
    assert "left: long seed 0 (99 minutes)" in first.stdout
    assert "large" not in first.stdout
    published = sorted((tmp_path / "results" / "inr_cls").glob("*.json"))
    assert len(published) == 2
    assert all("test/acc" in json.loads(path.read_text())["metrics"] for path in published)
    second = run_campaign(tmp_path, "--minutes", "5", "--only", "s")
    assert (second.returncode, second.stdout) == (0, "")
    listed = run_campaign(tmp_path, "--list").stdout
    assert "1 of 1 (seed 0)" in next(line for line in listed.splitlines() if " soon " in line)
    assert "0 of 1" in next(line for line in listed.splitlines() if " broken " in line)
