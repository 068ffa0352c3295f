"""Mixed precision and compiled models: how a run is trained, never what its result is computed in."""

import csv
from typing import Any

import pytest
import torch
from kernels import needs_compiler
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy

from nfbench import train
from nfbench.config.build import build_model, build_zoo
from nfbench.config.identity import config_hash, identity
from nfbench.resume import read_checkpoint


def losses(cfg: Any, folder: Any) -> dict[str, float]:
    """Loss of the chosen epoch on validation and test networks, in float32 and without Lightning."""
    zoo = build_zoo(cfg.zoo)
    zoo.prepare_data()
    model = build_model(cfg.model, spec=zoo.spec, out_dim=zoo.num_classes).eval()
    saved = read_checkpoint(folder / "checkpoints" / "best.ckpt")["state_dict"]
    model.load_state_dict({key.removeprefix("model."): value for key, value in saved.items()})
    found = {}
    for stage, name in (("validate", "val/loss"), ("test", "test/loss")):
        zoo.setup(stage)
        loader = zoo.val_dataloader() if stage == "validate" else zoo.test_dataloader()
        with torch.no_grad():
            parts = [(cross_entropy(model(b.features), b.target, reduction="sum"), len(b.target)) for b in loader]
        found[name] = float(sum(part for part, _ in parts)) / sum(size for _, size in parts)
    return found


@pytest.mark.filterwarnings("ignore:.precision=bf16. is supported for historical reasons")
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16"])
def test_what_is_reported_of_a_run_in_mixed_precision_is_of_float32(composed, small, job, caplog, precision) -> None:
    cfg = composed(*small, f"trainer.precision={precision}", "task.monitor=val/loss", "task.mode=min")
    caplog.set_level("INFO")
    summary = train.run(cfg, job("mixed"))
    expected = losses(cfg, job("mixed").folder)
    for name, value in expected.items():
        assert summary["metrics"][name] == pytest.approx(value, rel=1e-5), name
    with (job("mixed").folder / "metrics.csv").open() as handle:
        trained = float([row["val/loss"] for row in csv.DictReader(handle)][summary["best_epoch"]])
    assert trained == pytest.approx(expected["val/loss"], rel=0.02), "bfloat16 has eight bits"
    assert trained != pytest.approx(expected["val/loss"], rel=1e-5)
    assert f"{expected['val/loss']:.4f} in float32, {trained:.4f} in bf16-mixed" in caplog.text


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # torch's compiler warns of torch
@needs_compiler
def test_a_compiled_run_has_the_numbers_and_the_checkpoint_of_any_other(composed, small, job) -> None:
    plain = composed(*small)
    compiled = composed(*small, "trainer.compile=true")
    assert "compile" not in identity(plain)["trainer"], "names of published results are made of it"
    assert config_hash(plain) != config_hash(compiled)
    one = train.run(plain, job("plain"))
    counters.clear()
    other = train.run(compiled, job("compiled"))
    assert counters["stats"]["unique_graphs"] > 0, "something was compiled"
    assert other["metrics"]["test/loss"] == pytest.approx(one["metrics"]["test/loss"], rel=1e-3)
    folders = [job(name).folder for name in ("plain", "compiled")]
    names = [list(read_checkpoint(folder / "checkpoints" / "best.ckpt")["state_dict"]) for folder in folders]
    assert names[0] == names[1]
