"""Does the task learn: a few epochs beside shuffled targets, and the whole demo (slow)."""

import csv
import json

import pytest
import torch

from nfbench import train
from nfbench.tasks.base import decay_groups
from nfbench.tasks.inr_cls import InrClassification
from nfbench.zoos.tables import ZooTables


def losses(folder) -> list[float]:
    with (folder / "metrics.csv").open() as handle:
        return [float(row["train/loss"]) for row in csv.DictReader(handle)]


def test_it_learns_and_cannot_from_shuffled_targets(composed, small, job, monkeypatch) -> None:
    data = ("zoo.num_images=null", "zoo.num_views=4", "zoo.views_per_epoch=4", "zoo.batch_size=64")
    still = ("zoo.augment_rotation=0", "zoo.augment_scale=0", "zoo.augment_shift=0")
    cfg = composed(*small, *data, *still, "model.width=256", "trainer.max_epochs=6", "task.lr=3e-3")
    right = train.run(cfg, job("right"))
    fell = losses(job("right").folder)
    assert fell[-1] < 0.6 * fell[0]
    original = ZooTables.__init__

    def shuffled(self, *arguments) -> None:
        original(self, *arguments)
        self.label = self.label[torch.randperm(len(self.label), generator=torch.Generator().manual_seed(0))]

    monkeypatch.setattr(ZooTables, "__init__", shuffled)
    wrong = train.run(cfg, job("wrong"))
    assert right["metrics"]["test/acc"] > 0.25  # of 400 networks; chance is 0.1
    assert wrong["metrics"]["test/acc"] < 0.17
    assert losses(job("wrong").folder)[-1] > fell[-1] + 0.3


@pytest.mark.parametrize("name", ["nft", "nfn_np", "mlp"])
def test_weight_decay_acts_on_matrices_only(composed, name: str) -> None:
    from nfbench.config.build import build_model, build_zoo

    cfg = composed(f"model={name}")
    model = build_model(cfg.model, spec=build_zoo(cfg.zoo).spec, out_dim=3)
    decayed, free = ({id(p) for p in group["params"]} for group in decay_groups(model, 0.1))
    assert not decayed & free
    for key, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or key.endswith(".bias") or any(w in key for w in ("norm", "embedding", "queries"))
        assert (id(parameter) in free) == plain, key
        assert (id(parameter) in decayed) != plain, key


def test_a_warm_up_that_is_cut_is_told(composed, small, job, caplog) -> None:
    with caplog.at_level("INFO"):
        train.run(composed(*small, "task.warmup_steps=1000"), job("warm"))
    assert "instead of 1000" in caplog.text


def test_metrics_it_names_are_those_it_logs(composed, small, job) -> None:
    logged = train.run(composed(*small), job("m"))["metrics"]
    assert set(logged) <= set(InrClassification.metrics)


@pytest.mark.slow
def test_demo(cli, tmp_path) -> None:
    done = cli("task=inr_cls", "model=nft", "seed=0", f"output_dir={tmp_path}", timeout_s=3600)
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.glob("inr_cls/*/summary.json")
    assert json.loads(summary.read_text())["metrics"]["test/acc"] >= 0.80
