"""From digits to masked networks: the zoo, the VAE, resume, the test of its masks, and the curve over sparsities."""

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest

from nfbench import train
from nfbench.config.build import build_zoo
from nfbench.tasks import WinningTickets
from nfbench.tasks.tickets import COLUMNS, CUTS, SOURCES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ticket_zoos(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tickets")


@pytest.fixture
def quick(ticket_zoos, tmp_path) -> list[str]:
    return ["task=tickets", "model=vae/nfn_pt", "zoo=tickets_digits", "model.width=8", "zoo.epochs=8",
            "zoo.sparsity=0.8", "model.networks_at_once=4", "trainer.max_epochs=3", "threads=1", "logger=csv",
            f"zoo_dir={ticket_zoos}", f"output_dir={tmp_path / 'outputs'}"]  # fmt: skip


def test_a_run_and_its_curve(composed, quick, job, monkeypatch, capsys) -> None:
    folder = job("run").folder
    summary = train.run(composed(*quick), job("run"))
    metrics = summary["metrics"]
    assert set(metrics) == {*WinningTickets.metrics} - {"val/loss", "val/kl"}
    assert (summary["num_train"], summary["num_val"], summary["num_test"]) == (12, 3, 4)
    assert (summary["sparsity"], summary["scope"], summary["access"]) == (0.8, "global", "weights")
    assert metrics["test/acc/dense"] > metrics["test/acc/imp"] > metrics["test/acc/random"]
    ways = {cut: metrics[f"val/acc/{cut}"] for cut in CUTS}
    assert len(set(ways.values())) > 1
    assert ways[summary["cut"]] == max(ways.values())
    best = max(metrics["test/acc/magnitude"], metrics["test/acc/magnitude_layer"])
    assert metrics["test/acc_over_magnitude"] == pytest.approx(metrics["test/acc"] - best, abs=1e-6)
    assert (folder / summary["picture"]).stat().st_size > 10_000
    with (folder / "predictions.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert tuple(rows[0]) == COLUMNS
    assert {row["source"] for row in rows} == {"model", *SOURCES}
    for source in SOURCES:
        mine = [row for row in rows if row["source"] == source]
        mean = sum(float(row["accuracy"]) for row in mine) / len(mine)
        assert mean == pytest.approx(metrics[f"test/acc/{source}"], abs=1e-5)
        sizes, shares = (256 * 16, 16 * 16, 160), [list(map(float, row["density"].split(";"))) for row in mine]
        kept = {round(sum(n * s for n, s in zip(sizes, one, strict=True))) for one in shares}
        assert kept == {sum(sizes) if source == "dense" else round(0.2 * sum(sizes))}, "of exactly the sparsity"
        if source == "imp":
            assert {float(row["overlap"]) for row in mine} == {1.0}

    monkeypatch.setattr(sys, "argv", ["ticket_curve.py", str(folder), "--sparsities", "0.5", "0.8", "--networks", "2"])
    runpy.run_path(str(ROOT / "scripts" / "ticket_curve.py"), run_name="__main__")
    assert "magnitude_layer" in capsys.readouterr().out
    curve = json.loads((folder / "curve.json").read_text())
    assert len(curve) == 2 * (len(SOURCES) + 1)
    assert (folder / "curve.png").stat().st_size > 10_000


@pytest.mark.parametrize("model", ["nfn_np", "nft"])
def test_resume_is_exact(composed, quick, job, stop, assert_same_run, model) -> None:
    cfg = composed(*quick, f"model=vae/{model}", "model.num_heads=2", "task.ema_decay=0.9", "task.schedule=cosine")
    whole, part = job("whole"), job("part")
    summary = train.run(cfg, whole)
    stop(cfg, part, 2, 1)
    again = train.run(cfg, part)
    assert again["metrics"] == summary["metrics"]
    assert again["examples_seen"] == summary["examples_seen"] == 3 * 12
    assert_same_run(whole.folder, part.folder)


def test_it_learns_where_tickets_keep_their_weights(composed, quick, job) -> None:
    cfg = composed(*quick, "trainer.max_epochs=40", "model.width=16", "task.lr=5e-3")
    summary = train.run(cfg, job("run"))
    with (job("run").folder / "metrics.csv").open() as handle:
        losses = [float(row["val/loss"]) for row in csv.DictReader(handle)]
    assert losses[-1] < 0.55 < losses[0]
    assert summary["metrics"]["test/overlap"] > 0.3, "a random mask has 0.2"


def test_what_does_not_go_together(composed, quick, job, small) -> None:
    with pytest.raises(ValueError, match=r"task=tickets needs a zoo with pruning"):
        train.run(composed(*[w for w in quick if not w.startswith("zoo.")], "zoo=siren_digits"), job("a"))
    with pytest.raises(ValueError, match=r"task=tickets needs a model that draws masks: model=vae/nfn_pt"):
        train.run(composed(*[w for w in quick if not w.startswith("model")], "model=nfn_np"), job("b"))
    with pytest.raises(ValueError, match=r"goes with task=tickets"):
        train.run(composed(*small, "model=vae/nfn_np"), job("c"))
    with pytest.raises(ValueError, match=r"task\.monitor=val/acc is unknown"):
        train.run(composed(*quick, "task.monitor=val/acc"), job("d"))


@pytest.mark.parametrize("name", ["nfn_pt_mnist", "nfn_np_cifar10", "nft_mnist"])
def test_the_published_settings(composed, name) -> None:
    cfg = composed(f"experiment=tickets_{name}")
    assert (cfg.model.width, cfg.model.latent, cfg.zoo.batch_size, cfg.trainer.max_epochs) == (64, 5, 4, 200)
    zoo = build_zoo(cfg.zoo)
    assert zoo.plan.pairs == (400, 20, 50)
    assert zoo.pruning["sparsity"] == 0.95
    if name.endswith("mnist"):
        assert sum(zoo.spec.sizes[i] * n for i, n in enumerate(zoo.spec.sizes[1:])) == 118_282 - 266
