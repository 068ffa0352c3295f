"""The campaign runs what is not published, in order, and nothing twice."""

import fcntl
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hydra import compose, initialize_config_dir

from nfbench.config import campaign as campaigns
from nfbench.config import register
from nfbench.config.build import build_zoo
from nfbench.config.campaign import Campaign, Cell, Step, before, folder_name, read_plan
from nfbench.config.schema import CONF

ROOT = Path(__file__).resolve().parents[2]
CELL = "run: x, minutes: 1, priority: 1"


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
        (f"cells: {{a: {{{CELL}, after: b}}}}", r"after: b, which must be a list such as \[another_cell\]"),
        (f"cells: {{a: {{{CELL}, seeds: 3}}}}", r"seeds: 3, which must be a list such as \[0, 1\]"),
        ("cells: {a: {run: x, minutes: soon, priority: 1}}", "minutes: soon, which must be a number"),
        (
            f"cells: {{a: {{{CELL}, after: [b]}}, b: {{{CELL}, seeds: [1]}}}}",
            "a comes after the runs of b, with the same seed, and has seed 0, 2, which b has not",
        ),
        (f"cells: {{a: {{{CELL}, after: [b]}}, b: {{{CELL}, after: [a]}}}}", "a comes after itself"),
    ],
)
def test_a_wrong_plan_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plan(plan(tmp_path, text))


def test_every_cell_of_the_plan_composes_and_is_of_its_size(monkeypatch) -> None:
    register()
    sizes = {}

    def recorded(name: str, overrides: list[str], **more: bool):
        cfg = compose(name, overrides, **more)
        sizes[frozenset(overrides)] = cfg.size
        return cfg

    monkeypatch.setattr(campaigns, "compose", recorded)
    campaigns._of_seed_0.cache_clear()
    cells = read_plan(CONF / "campaign.yaml")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        campaign = Campaign(cells, ROOT / "results")
        steps = campaign.steps()
        for cell in cells.values():
            if cell.script is None:
                overrides = frozenset(campaign.overrides(cell, 0))
                if overrides not in sizes:  # what reads an encoder has no folder to be asked for
                    recorded("config", sorted(overrides))
                assert sizes[overrides] == cell.size
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


def test_the_folder_of_a_run_that_reads_latents_follows_its_encoder(composed, tmp_path: Path) -> None:
    overrides = ["task=inr2array_cls", "model=nft", f"encoder={tmp_path}"]
    before = folder_name(overrides)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    assert folder_name(overrides) != before, "once it is trained, in this very process"
    cfg = compose("config", [*overrides, "seed=0"], return_hydra_config=True)
    assert str(folder_name(overrides)[1]) == cfg.hydra.run.dir


def test_a_run_that_reads_latents_is_known_by_its_encoder_and_its_command(tmp_path: Path) -> None:
    cells = {
        "first": Cell("first", "task=inr2array", 1, 1),
        "second": Cell("second", "task=inr2array_cls model=nft", 1, 1, seeds=(0, 1), after=("first",)),
    }

    def find(overrides):
        assert overrides[0] == "task=inr2array", "no command of the second needs composing"
        return "inr2array", Path(f"outputs/inr2array/nft-zoo-{overrides[1].replace('=', '')}-cafe")

    campaign = Campaign(cells, tmp_path, find)
    command = "python run.py task=inr2array_cls rerun=true model=nft encoder=outputs/elsewhere threads=1"
    (tmp_path / "inr2array_cls").mkdir()
    path = tmp_path / "inr2array_cls" / "nft-zoo-seed1-0123.json"
    path.write_text(json.dumps({"encoder": "inr2array nft, seed 1, cafe", "command": command, "wall_s": 120}))
    assert campaign.published(cells["second"], 1) == path
    assert campaign.published(cells["second"], 0) is None
    path.write_text(json.dumps({"encoder": "inr2array nft, seed 0, cafe", "command": command}))
    assert campaign.published(cells["second"], 1) is None, "the latents of another seed's encoder"
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


def test_cells_that_are_chosen_bring_what_comes_before_them(tmp_path: Path) -> None:
    text = f"""
cells:
  zoo: {{{CELL}, script: build_zoo.py}}
  first: {{{CELL}, after: [zoo]}}
  last: {{{CELL}, after: [first]}}
  other: {{{CELL}}}
"""
    cells = read_plan(plan(tmp_path, text))
    assert before(cells, "last") == {"zoo", "first", "last"}
    assert before(cells, "o") == {"zoo", "other"}
    with pytest.raises(ValueError, match="no cell has 'frist' in its name; did you mean first"):
        before(cells, "frist")


def run_campaign(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/campaign.py", "--plan", str(tmp_path / "plan.yaml")]
    command += ["--results", str(tmp_path / "results"), "--logs", str(tmp_path / "logs"), *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


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
    first = run_campaign(tmp_path, "--minutes", "60")
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
    listed = run_campaign(tmp_path, "--list", "--only", "o").stdout
    assert "later" not in listed
    assert "1 of 1 (seed 0)" in next(line for line in listed.splitlines() if " soon " in line)
    assert "0 of 1" in next(line for line in listed.splitlines() if " broken " in line)
    for path in published:  # with summaries that cannot be published again
        source = next(tmp_path.rglob(f"{path.stem}/summary.json"))
        source.write_text(json.dumps({k: v for k, v in json.loads(source.read_text()).items() if k != "versions"}))
        path.unlink()
    third = run_campaign(tmp_path, "--minutes", "5", "--only", "o")
    assert third.returncode == 1
    assert re.search("FAILED: soon seed 0: .*lacks versions", third.stdout), third.stdout + third.stderr
    assert "FAILED: broken seed 0: see " in third.stdout, "the first did not stop the others"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def campaign_script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return script("campaign")


def test_what_an_unfinished_run_has_done_is_not_counted_again(tmp_path: Path, campaign_script: ModuleType) -> None:
    assert campaign_script.progress(tmp_path) == 0
    (tmp_path / "metrics.csv").write_text("epoch,step\n0,9\n1,19\n")
    assert campaign_script.progress(tmp_path) == 0, "no checkpoint"
    for name in (".hydra", "checkpoints"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    config = tmp_path / ".hydra" / "config.yaml"
    for trainer, part in (
        ("{max_epochs: 8, max_steps: -1}", 0.25), ("{max_epochs: null, max_steps: 40}", 0.5), ("{max_epochs: -1}", 0),
    ):  # fmt: skip
        config.write_text(f"trainer: {trainer}")
        assert campaign_script.progress(tmp_path) == part
    (tmp_path / "summary.json").touch()
    assert campaign_script.progress(tmp_path) == 1


def test_a_zoo_that_is_there_costs_nothing(tmp_path: Path, composed: object, campaign_script: ModuleType) -> None:
    overrides = f"experiment=smoke zoo_dir={tmp_path}"
    assert not campaign_script.is_built(overrides)
    cells = {"zoo": Cell("zoo", overrides, 50, 1, script="build_zoo.py"), "a": Cell("a", "x", 1, 1, after=("zoo",))}
    campaign = Campaign(cells, tmp_path / "results", lambda words: ("t", tmp_path / words[1]))
    assert [step.done for step in campaign_script.as_it_is_here(campaign)] == [False] * 4
    path = build_zoo(compose("config", overrides.split()).zoo).path
    path.touch()
    assert [step.done for step in campaign_script.as_it_is_here(campaign)] == [True, False, False, False]


def test_one_problem_leaves_the_rest_of_the_plan(tmp_path: Path, small: list[str]) -> None:
    """An encoder that is published and not here, and a run that goes well."""
    base = " ".join(small)
    plan(
        tmp_path,
        f"""
cells:
  encoder: {{run: "{base} task=inr2array model=nft", minutes: 1, priority: 1, seeds: [0]}}
  arrays: {{run: "{base} task=inr2array_cls model=nft", minutes: 1, priority: 1, seeds: [0], after: [encoder]}}
  well: {{run: "{base}", minutes: 1, priority: 2, seeds: [0]}}
""",
    )
    cells = read_plan(tmp_path / "plan.yaml")
    results = tmp_path / "results"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        register()
        campaign = Campaign(cells, results)
        where = campaign.find(campaign.overrides(cells["encoder"], 0))[1]
    (results / "inr2array").mkdir(parents=True)
    (results / "inr2array" / f"{where.name}.json").write_text("{}")
    done = run_campaign(tmp_path, "--minutes", "60")
    assert done.returncode == 1
    assert "done well seed 0" in done.stdout, done.stdout + done.stderr
    assert "FAILED: arrays seed 0: it reads the encoder in" in done.stdout


def test_a_campaign_that_is_told_to_end_ends_its_runs(tmp_path: Path, small: list[str]) -> None:
    run = " ".join([*small, "trainer.max_epochs=100000"])
    plan(tmp_path, f'cells: {{endless: {{run: "{run}", minutes: 1, priority: 1, seeds: [0]}}}}')
    command = [sys.executable, "scripts/campaign.py", "--plan", str(tmp_path / "plan.yaml"), "--minutes", "20"]
    command += ["--results", str(tmp_path / "results"), "--logs", str(tmp_path / "logs")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a shell script's `&` does
    )  # fmt: skip
    try:
        (last,) = wait_for(lambda: list(tmp_path.rglob("last.ckpt")))  # before it there is nothing to keep
        process.terminate()
        out, _ = process.communicate(timeout=300)
    finally:
        process.terminate()  # it ends its run, which SIGKILL would leave behind
        process.wait(300)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped endless seed 0: it goes on the next time" in out
    with (last.parents[1] / ".lock").open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody runs there any more
    assert torch.load(last, weights_only=True)["epoch"] >= 0  # whole: the next time goes on from it


def wait_for(what: Callable[[], list[Path]], seconds: float = 300) -> list[Path]:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)
    return found
