"""Editing runs on digits: from the command line to pictures, learning, resume, the published settings."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nfbench import train
from nfbench.config.build import build_task, build_zoo
from nfbench.tasks.inr_edit import InrEditing
from nfbench.weightspace import WeightSpaceFeatures, render
from nfbench.zoos.edits import edit_images, to_bytes
from nfbench.zoos.images import load_images


@pytest.fixture
def quick(small) -> list[str]:
    return [*small, "task=inr_edit", "zoo=siren_digits_edit", "model=mlp", "model.width=64"]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open() as handle:
        return list(csv.DictReader(handle))


def drawn(zoo, weights: torch.Tensor) -> torch.Tensor:
    """Pixels (B, P, 1) in [-1, 1] of raw weights, by the reference rendering."""
    recipe, coords = zoo.recipe, torch.cartesian_prod(*[torch.linspace(-1, 1, 8)] * 2)
    values = render(WeightSpaceFeatures.from_flat(zoo.spec, weights), coords, recipe.w0_first, recipe.w0_hidden)
    return (values + recipe.output_offset - recipe.pixel_min) / (recipe.pixel_max - recipe.pixel_min) * 2 - 1


@pytest.mark.parametrize(
    ("epochs", "between", "frames"),
    [(5, 1, 5), (100, 1, 50), (100, 2, 50), (121, 2, 60), (240, 3, 40), (3, 1, 3)],
)
def test_animations_have_at_most_sixty_frames(epochs: int, between: int, frames: int) -> None:
    validated = [epoch for epoch in range(epochs) if (epoch + 1) % between == 0]

    def is_frame(epoch: int, last: int) -> bool:
        trainer = SimpleNamespace(check_val_every_n_epoch=between, max_epochs=last)
        return InrEditing._is_frame(SimpleNamespace(trainer=trainer, current_epoch=epoch))

    assert sum(is_frame(epoch, epochs) for epoch in validated) == frames
    endless = [epoch for epoch in range(0, 5000 * between) if (epoch + 1) % between == 0 and is_frame(epoch, -1)]
    assert 60 < len(endless) < 200, "fewer and fewer where there is no end"
    assert endless[:3] == [(number + 1) * between - 1 for number in range(3)]


def test_the_command_line(cli, composed, quick, tmp_path) -> None:
    arguments = [*quick, "task.edit=gradient", "zoo.num_images=200"]
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert "test/mse" in done.stdout
    (folder,) = (tmp_path / "outputs" / "inr_edit").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    metrics, rows = summary["metrics"], rows_of(folder)
    assert set(metrics) == {*InrEditing.metrics} - {"val/mse_unit"}
    assert summary["config"]["task"]["edit"] == "gradient"
    for name, column in (("mse", "edited"), ("identity_mse", "identity")):
        assert metrics[f"test/{name}"] == pytest.approx(np.mean([float(row[column]) for row in rows]), rel=1e-5)
        assert metrics[f"test/{name}_unit"] == pytest.approx(metrics[f"test/{name}"] / 4, rel=1e-5)
    assert len(rows) == summary["num_test"]
    assert (folder / "test.png").stat().st_size > 10_000
    assert (folder / "edit.gif").read_bytes().startswith(b"GIF8")
    assert len(list(Path(composed(*quick).zoo_dir).glob("edits/digits-gradient-*.npy"))) == 1

    zoo = build_zoo(composed(*arguments).zoo)
    zoo.prepare_data()
    zoo.setup()
    with np.load(folder / "samples.npz") as found:
        samples = dict(found)
    index = samples["index"]
    wanted = edit_images("gradient", to_bytes(load_images("digits")))[index]
    assert np.allclose(samples["target"], wanted / 255, atol=1e-6)
    errors = {int(row["index"]): float(row["edited"]) for row in rows}
    pixels = drawn(zoo, torch.from_numpy(samples["weights"])).numpy()
    target = (wanted / 127.5 - 1).reshape(len(index), -1, 1)
    assert [errors[int(i)] for i in index] == pytest.approx(((pixels - target) ** 2).mean((1, 2)), rel=1e-3)
    assert samples["frames"].shape == (2, 24, 6 * 8, 1)

    (folder / "edit.gif").unlink()
    assert cli(*arguments, "rerun=true").returncode == 0
    assert (folder / "edit.gif").exists()


def test_edits_of_canonical_networks_are_put_back(composed, quick, job) -> None:
    """The weights that a run writes are near those of the file, neuron by neuron, though the model saw others."""
    cfg = composed(*quick, "zoo.canonicalize=true", "zoo.standardize=layer")
    train.run(cfg, job("canonical"))
    zoo = build_zoo(cfg.zoo)
    zoo.prepare_data()
    zoo.setup()
    with np.load(job("canonical").folder / "samples.npz") as found:
        index, view, weights = (torch.from_numpy(found[name]) for name in ("index", "view", "weights"))
    rows = zoo.tables.rows_at(index, view)
    assert torch.equal(zoo.tables.index[rows], index)
    assert torch.equal(zoo.tables.view[rows], view)
    raw, ready = zoo.tables.raw[rows], zoo.tables.ready[rows] * zoo.tables.std + zoo.tables.mean
    spread = zoo.tables.std
    assert ((weights - raw) / spread).abs().max() < 0.5 < ((weights - ready) / spread).abs().max()
    canonical = WeightSpaceFeatures.from_flat(zoo.spec, zoo.tables.ready[rows])
    assert torch.allclose(zoo.own_weights(canonical, index, view), raw, atol=1e-5)


def test_it_learns_and_cannot_from_shuffled_targets(composed, quick, job, monkeypatch) -> None:
    from nfbench.zoos.edits import EditedImages

    data = ("zoo.num_images=1000", "zoo.num_views=4", "zoo.views_per_epoch=4", "zoo.batch_size=32")
    cfg = composed(*quick, *data, "task.edit=erode", "model.width=256", "trainer.max_epochs=10", "task.lr=3e-3")
    right = train.run(cfg, job("right"))["metrics"]
    original = EditedImages.__init__

    def shuffled(self, index, pixels, device) -> None:
        original(self, index, pixels[np.random.default_rng(0).permutation(len(pixels))], device)

    monkeypatch.setattr(EditedImages, "__init__", shuffled)
    wrong = train.run(cfg, job("wrong"))["metrics"]
    assert right["test/mse"] < 0.8 * right["test/identity_mse"]
    assert right["test/mse"] < 0.8 * wrong["test/mse"]


def test_resume_is_exact(composed, quick, job, stop, assert_same_run) -> None:
    more = ["model.dropout=0.1", "model.permute=true", "task.ema_decay=0.9", "task.warmup_steps=1",
            "trainer.max_epochs=4", "zoo.augment_permute=true", "zoo.augment_noise=0.1"]  # fmt: skip
    cfg = composed(*quick, *more)
    whole, part = job("whole"), job("part")
    summary = train.run(cfg, whole)
    stop(cfg, part, 2, 1)
    again = train.run(cfg, part)
    assert again["metrics"] == summary["metrics"]
    assert_same_run(whole.folder, part.folder)
    with np.load(whole.folder / "samples.npz") as one, np.load(part.folder / "samples.npz") as other:
        assert len(one["frames"]) == 4
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_what_does_not_go_together(composed, quick, small) -> None:
    def build(*overrides: str) -> None:
        cfg = composed(*overrides)
        build_task(cfg.task, build_zoo(cfg.zoo))

    build(*quick)
    with pytest.raises(ValueError, match=r"task\.edit='blur' is unknown .*: choose one of dilate, erode"):
        build(*quick, "task.edit=blur")
    with pytest.raises(ValueError, match=r"'contrast' is unknown for these images"):
        build(*quick, "task.edit=contrast")
    build(*quick, "zoo=siren_cifar10", "task.edit=contrast")
    for moved in ("augment_rotation=0.1", "augment_shift=0.1", "augment_flip=both", "augment_mixup=0.2"):
        with pytest.raises(ValueError, match="don't move along"):
            build(*quick, f"zoo.{moved}")
    with pytest.raises(ValueError, match="needs networks of known images, these are of shapes"):
        build("task=inr_edit", "zoo=siren_shapes")
    with pytest.raises(ValueError, match="task=inr_edit needs a zoo with edits"):
        build("task=inr_edit", "zoo=small_cnn_cifar10")


SMALL = {"nfn": ["model.widths=[4]", "model.fourier_size=4"], "mlp": ["model.width=16"],
         "nft": ["model.width=8", "model.num_blocks=1"]}  # fmt: skip


@pytest.mark.parametrize("name", ["nfn_np", "nfn_hnp", "nfn_pt", "nft", "mlp", "mlp_aug"])
def test_every_model_edits(composed, quick, job, name: str) -> None:
    """The papers' models in small, with the published training, on digits."""
    own = [word for word in quick if word.split("=")[0] in ("zoo_dir", "output_dir", "logger")]
    zoo = ["zoo=siren_digits_edit", "zoo.split=digits", "zoo.num_images=60", "zoo.num_steps=100", "threads=1",
           "zoo.num_views=2", "zoo.views_per_epoch=1", "zoo.batch_size=16"]  # fmt: skip
    cfg = composed("experiment=edit_mnist_dilate", f"model=paper/{name}_edit", *zoo, *SMALL[name[:3]], *own,
                   "trainer.max_epochs=3")  # fmt: skip
    summary = train.run(cfg, job(name))
    assert summary["model"] == f"{name}_edit"
    assert (summary["standardized"], summary["canonicalized"]) == ("none", False)
    assert 0 < summary["metrics"]["test/mse"] < 2 * summary["metrics"]["test/identity_mse"]
