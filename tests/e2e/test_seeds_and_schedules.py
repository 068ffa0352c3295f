"""What a seed decides, the learning rate of each step, averaged weights, and epochs without validation."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from nfbench import train
from nfbench.config.schema import options
from nfbench.resume import read_checkpoint
from nfbench.tasks.inr_cls import InrClassification


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as handle:
        return list(csv.DictReader(handle))


def test_two_seeds_are_two_runs_on_the_same_networks(composed, small, job) -> None:
    """Start, order and augmentation differ; zoo, split and test networks do not."""
    still = "task.lr=0"  # what is trained is the start
    found = []
    for seed in (0, 1):
        summary = train.run(composed(*small, still, f"seed={seed}"), job(f"still{seed}"))
        weights = read_checkpoint(job(f"still{seed}").folder / "checkpoints" / "last.ckpt")["state_dict"]
        with (job(f"still{seed}").folder / "predictions.csv").open() as handle:
            items = [(row["index"], row["view"], row["true"]) for row in csv.DictReader(handle)]
        found.append((summary, weights, items))
    (one, start, items), (other, other_start, other_items) = found
    assert items == other_items
    assert one["recipe_hash"] == other["recipe_hash"]
    assert one["config_hash"] == other["config_hash"]
    moved = [name for name in start if start[name].numel() > 1 and torch.equal(start[name], other_start[name])]
    assert not [name for name in moved if start[name].std() > 0], "weights that do not depend on the seed"


@pytest.mark.parametrize("name", options()["zoo"])
def test_order_and_augmentation_of_every_zoo_follow_the_seed(composed, name: str) -> None:
    assert [composed(f"zoo={name}", f"seed={seed}").zoo.seed for seed in (0, 3)] == [0, 3]
    zoo = composed(f"zoo={name}", "seed=3").zoo
    assert zoo.get("zoo_seed") in (None, 0), "the networks are the same for every seed"


@pytest.mark.parametrize(
    ("schedule", "steps", "share", "warmup"),
    [("cosine", 3, 0.1, 3), ("constant", 3, 0.1, 3), ("cosine", 9, 0.1, 3), ("cosine", 9, 1, 9)],
)
def test_the_learning_rate_of_each_epoch(
    composed, small, job, schedule: str, steps: int, share: float, warmup: int
) -> None:
    cfg = composed(
        *small, f"task.schedule={schedule}", "task.lr=0.01", f"task.warmup_steps={steps}",
        f"task.warmup_share={share}", "trainer.max_epochs=8", "zoo.batch_size=10", "test=false",
    )  # fmt: skip
    train.run(cfg, job(schedule))
    rows = rows_of(job(schedule).folder)
    total = int(rows[-1]["step"])
    assert total == 8 * 4, "forty networks an epoch, in batches of ten"

    def expected(step: int) -> float:  # steps that are done by then
        if step < warmup:
            return 0.01 * (step + 1) / (warmup + 1)
        return 0.01 * (
            0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) if schedule == "cosine" else 1
        )

    for row in rows:
        assert float(row["lr"]) == pytest.approx(expected(int(row["step"])), rel=1e-4, abs=1e-12)


def test_averaged_weights_by_hand(monkeypatch) -> None:
    task = InrClassification(num_classes=2, ema_decay=0.9)
    task.model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        task.model.weight.fill_(1.0)
    task.configure_model()
    mean = 1.0
    for step, weight in ((1, 2.0), (2, 4.0), (1000, 8.0)):
        monkeypatch.setattr(InrClassification, "global_step", property(lambda self, step=step: step))
        with torch.no_grad():
            task.model.weight.fill_(weight)
        task.on_train_batch_end(None, None, 0)
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weight
        assert task.evaluated.weight.item() == pytest.approx(mean, rel=1e-6)
    assert task.model.weight.item() == 8.0


def test_epochs_without_validation_have_no_validation_metrics(composed, small, job) -> None:
    cfg = composed(*small, "trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2")
    summary = train.run(cfg, job("every other"))
    rows = rows_of(job("every other").folder)
    assert [bool(row["val/acc"]) for row in rows] == [False, True, False, True]
    assert summary["best_epoch"] in (1, 3)
    assert summary["metrics"]["val/acc"] == pytest.approx(float(rows[summary["best_epoch"]]["val/acc"]), rel=1e-5)
