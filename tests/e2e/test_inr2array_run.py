"""Both steps from the command line: autoencoder, latents, classifier; resume, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nfbench import train
from nfbench.config.build import build_model, build_zoo
from nfbench.config.encoder import load_encoder
from nfbench.resume import read_checkpoint
from nfbench.weightspace import NetworkSpec, NeuronPermutation, WeightSpaceFeatures

SMALL_NFT = ["model=nft", "model.width=16", "model.num_blocks=1"]
FIRST = [
    "task=inr2array",
    *SMALL_NFT,
    "task.num_latents=4",
    "task.decoder_width=16",
    "trainer.enable_progress_bar=false",
]
SECOND = ["task=inr2array_cls", "model=nft", "task.width=16", "task.num_blocks=1", "task.ff_width=16",
          "trainer.enable_progress_bar=false"]  # fmt: skip


@pytest.fixture
def quick(small) -> list[str]:
    return [word for word in small if not word.startswith("model")]


@pytest.fixture
def encoder(composed, quick, job) -> Path:
    """The run folder of a small trained encoder."""
    train.run(composed(*quick, *FIRST), job("encoder"))
    return job("encoder").folder


def rows_of(folder: Path, name: str = "predictions.csv") -> list[dict[str, str]]:
    with (folder / name).open() as handle:
        return list(csv.DictReader(handle))


def test_both_commands(cli, quick, tmp_path) -> None:
    done = cli(*quick, *FIRST)
    assert done.returncode == 0, done.stderr
    (first,) = (tmp_path / "outputs" / "inr2array").iterdir()
    assert "test/psnr" in done.stdout
    summary = json.loads((first / "summary.json").read_text())
    assert summary["loss_target"] == "inr"
    assert set(summary["metrics"]) == {"test/psnr", "test/loss", "val/psnr"}
    psnr = [float(row["psnr"]) for row in rows_of(first)]
    assert summary["metrics"]["test/psnr"] == pytest.approx(np.mean(psnr), rel=1e-4)
    assert (first / "test.png").stat().st_size > 10_000
    assert (first / "pictures.npz").exists()

    again = cli(*quick, *SECOND, f"encoder={first}")
    assert again.returncode == 0, again.stderr
    assert "test/acc" in again.stdout
    (second,) = (tmp_path / "outputs" / "inr2array_cls").iterdir()
    result = json.loads((second / "summary.json").read_text())
    assert result["encoder_psnr"] == summary["metrics"]["test/psnr"]
    assert result["encoder_loss_target"] == "inr"
    assert len(result["encoder_hash"]) == 16
    assert result["config"]["task"]["encoder_hash"] == result["encoder_hash"]
    assert result["config"]["model"] == summary["config"]["model"], "the encoder's, not the default one"
    assert (second / "latents.h5").exists()
    right = [row["true"] == row["predicted"] for row in rows_of(second)]
    assert result["metrics"]["test/acc"] == pytest.approx(np.mean(right))
    assert "finished before" in cli(*quick, *SECOND, f"encoder={first}").stdout


def test_latents_come_from_the_weights_and_do_not_see_their_order(composed, quick, encoder) -> None:
    cfg = composed(*quick, "task=inr2array")
    zoo = build_zoo(cfg.zoo)
    zoo.prepare_data()
    zoo.setup()
    found = load_encoder(str(encoder), zoo)
    saved = read_checkpoint(encoder / "checkpoints" / "best.ckpt")["state_dict"]
    assert torch.equal(saved["mean"], zoo.tables.mean), "as the zoo that it was trained on"
    batch = next(iter(zoo.test_dataloader()))
    z = found(zoo.raw_weights(batch.features))
    assert z.shape == (len(batch.target), 4, 16)
    assert torch.allclose(z, found.model.encode(batch.features), rtol=1e-4, atol=1e-5)
    found.model.double()
    found.mean, found.std = found.mean.double(), found.std.double()
    raw = WeightSpaceFeatures.from_flat(zoo.spec, zoo.raw_weights(batch.features).double())
    permuted = NeuronPermutation.sample(zoo.spec, len(batch.target), torch.Generator().manual_seed(0)).apply(raw)
    one, other = (found(x.flatten()[..., 0]) for x in (raw, permuted))
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(one, found(raw.flatten()[..., 0].flip(1)), rtol=1e-3)


def test_it_learns(composed, quick, job) -> None:
    """More epochs draw better; latents of a trained encoder tell classes, shuffled ones do not."""
    data = ["zoo.num_images=600", "zoo.batch_size=64", "zoo.views_per_epoch=2", "zoo.augment_rotation=0"]
    still = ["zoo.augment_scale=0", "zoo.augment_shift=0", "task.lr=5e-3", "task.warmup_steps=5"]
    cfg = composed(*quick, *FIRST, *data, *still, "trainer.max_epochs=25", "model.width=32", "task.decoder_width=64")
    train.run(cfg, job("first"))
    rows = rows_of(job("first").folder, "metrics.csv")
    assert float(rows[-1]["val/psnr"]) > float(rows[0]["val/psnr"]) + 1.5
    second = [*quick, *SECOND, *data, "zoo.augment_scale=0", "zoo.augment_shift=0", f"encoder={job('first').folder}"]
    summary = train.run(composed(*second, "trainer.max_epochs=15", "task.width=64", "task.lr=3e-3"), job("second"))
    assert summary["metrics"]["test/acc"] > 0.3  # of 134 networks; chance is 0.1


EVERYTHING = {
    "inr2array": ["task.joint_weight=0.1", "task.additive=true", "task.decoder=simple", "model.dropout=0.1",
                  "zoo.augment_permute=true", "zoo.augment_noise=0.1"],
    "inr2array_cls": ["task.augmented_epochs=2", "task.label_smoothing=0.1", "zoo.augment_permute=true"],
}  # fmt: skip


@pytest.mark.parametrize("step", EVERYTHING)
def test_resume_is_exact(composed, quick, job, stop, assert_same_run, encoder, step: str) -> None:
    words = FIRST if step == "inr2array" else [*SECOND, f"encoder={encoder}"]
    cfg = composed(*quick, *words, *EVERYTHING[step], "task.ema_decay=0.9", "trainer.max_epochs=4")
    whole, part = job("whole"), job("part")
    summary = train.run(cfg, whole)
    stop(cfg, part, 2, 1)
    again = train.run(cfg, part)
    assert again["metrics"] == summary["metrics"]
    assert again["examples_seen"] == summary["examples_seen"] == 4 * 40
    assert_same_run(whole.folder, part.folder)


def test_averaged_weights_are_the_encoder(composed, quick, job) -> None:
    train.run(composed(*quick, *FIRST, "task.ema_decay=0.9"), job("ema"))
    zoo = build_zoo(composed(*quick, "task=inr2array").zoo)
    found = load_encoder(str(job("ema").folder), zoo).model.encoder.state_dict()
    saved = read_checkpoint(job("ema").folder / "checkpoints" / "best.ckpt")["state_dict"]
    assert all(torch.equal(found[key], saved[f"averaged.encoder.{key}"]) for key in found)
    assert not torch.equal(found["pool.queries"], saved["model.encoder.pool.queries"])


def test_the_image_as_target_is_marked(composed, quick, job) -> None:
    still = ["zoo.augment_rotation=0", "zoo.augment_scale=0", "zoo.augment_shift=0"]
    summary = train.run(composed(*quick, *FIRST, "task.loss_target=image", *still), job("image"))
    assert summary["loss_target"] == "image"
    with pytest.raises(ValueError, match=r"zoo\.augment_rotation changes what networks show"):
        train.run(composed(*quick, *FIRST, "task.loss_target=image"), job("moved"))


OTHERS = [
    ["nfn_np", "model.widths=[8]"],
    ["nfn_res", "model.width=8", "model.layer=hnp", "model.init=fan_in"],
    ["inr2array", "model.width=8", "model.block=np_residual"],
]


@pytest.mark.parametrize("model", OTHERS)
def test_other_encoders(composed, quick, job, model: list[str]) -> None:
    words = [f"model={model[0]}", *model[1:]]
    first = [word for word in FIRST if not word.startswith("model")]
    train.run(composed(*quick, *first, *words), job("first"))
    second = [f"model={model[0]}" if word == "model=nft" else word for word in SECOND]
    summary = train.run(composed(*quick, *second, f"encoder={job('first').folder}"), job("second"))
    assert summary["model"] == model[0]


def test_without_space(composed, quick, job) -> None:
    train.run(composed(*quick, *FIRST, "task.spatial=false"), job("first"))
    train.run(composed(*quick, *SECOND, f"encoder={job('first').folder}"), job("second"))


def test_what_is_refused(composed, quick, job, encoder, tmp_path) -> None:
    def fails(message: str, *words: str, overrides: tuple[str, ...] = ()) -> None:
        name = job("bad")
        with pytest.raises(ValueError, match=message):
            train.run(composed(*quick, *words), type(name)(name.folder, name.command, overrides, False, "{}"))

    fails(r"needs a trained encoder(.|\n)*python run.py task=inr2array model=nft", *SECOND)
    fails("there is no run folder", *SECOND, f"encoder={tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    fails("has no finished run", *SECOND, f"encoder={tmp_path / 'empty'}")
    fails(r"trained, its model is part", *SECOND, f"encoder={encoder}", overrides=("model.width=8",))
    other = [word for word in SECOND if word != "model=nft"]
    fails(r"is model=nft, and this command says model=nfn_np", *other, "model=nfn_np", f"encoder={encoder}")
    fails(r"another zoo:\n  canonicalized: here False, there True", *SECOND, f"encoder={encoder}",
          "zoo.canonicalize=false")  # fmt: skip
    fails(r"not task.encoder_hash=0123", *SECOND, f"encoder={encoder}", "task.encoder_hash='0123'")
    fails(r"encoder=.* is read by task=inr2array_cls", "task=inr_cls", "model=mlp", f"encoder={encoder}")
    fails(r"model=inr2array is an encoder only", "task=inr_cls", "model=inr2array")
    fails(r"FlatMLP cannot be an encoder", "task=inr2array", "model=mlp")
    train.run(composed(*quick, "task=inr_cls", "model=mlp"), job("mlp"))
    fails("is a run of task=inr_cls, which trains no encoder", *SECOND, f"encoder={job('mlp').folder}")


def test_the_hash_is_of_the_encoder_and_not_of_its_place(composed, quick, encoder, tmp_path) -> None:
    from nfbench.config.identity import config_hash

    moved = tmp_path / "moved"
    (moved / "checkpoints").mkdir(parents=True)
    content = (encoder / "checkpoints" / "best.ckpt").read_bytes()
    (moved / "checkpoints" / "best.ckpt").write_bytes(content)
    one, same = (config_hash(composed(*quick, *SECOND, f"encoder={folder}")) for folder in (encoder, moved))
    assert one == same
    (moved / "checkpoints" / "best.ckpt").write_bytes(content + b"\0")
    assert config_hash(composed(*quick, *SECOND, f"encoder={moved}")) != one


@pytest.mark.parametrize(("name", "decoder"), [("mnist", 1_094_049), ("cifar10", 454_348)])
def test_published_sizes_of_the_experiments(composed, name: str, decoder: int) -> None:
    from nfbench.config.build import build_latent_model, build_task

    cfg = composed(f"experiment=inr2array_{name}")
    zoo = build_zoo(cfg.zoo)
    with torch.device("meta"):
        model = build_model(cfg.model, spec=zoo.spec, out_dim=None, latents=build_task(cfg.task, zoo).latents())
        cls = composed(f"experiment=inr2array_{name}_cls")
        classifier = build_latent_model(build_task(cls.task, zoo), model)
        larger = build_task(composed(f"experiment=inr2array_{name}", "task.num_latents=81").task, zoo)
        many = build_model(cfg.model, spec=zoo.spec, out_dim=None, latents=larger.latents())
        with pytest.raises(ValueError, match=r"makes 81 latents, and task\.max_latents=64: give 81"):
            build_latent_model(build_task(cls.task, zoo), many)

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(model.encoder) == {"mnist": 21_200_640, "cifar10": 21_201_152}[name]
    assert count(model.decoder) == decoder
    assert count(classifier) == 38_260_746
    assert zoo.spec == NetworkSpec.parse("2-32-32-1:sine" if name == "mnist" else "2-32-32-3:sine")
    steps = -(-len(zoo.split.train) // cfg.zoo.batch_size) * cfg.trainer.max_epochs
    assert abs(steps - 200_000) < 500
    plain = OmegaConf.to_container(cls.zoo, resolve=True)
    for key, value in OmegaConf.to_container(cfg.zoo, resolve=True).items():
        assert plain[key] == value or key in ("batch_size", "views_per_epoch"), key
