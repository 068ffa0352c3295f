"""scripts/predict.py on tiny runs: what it says of a zoo's networks is what the run said; what it refuses."""

import csv
import json
import re
import runpy
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from small_cnn_archive import write_archive
from torch import nn

from nfbench import train
from nfbench.config.build import build_zoo
from nfbench.config.trained import load_trained
from nfbench.predict import predict, read_file
from nfbench.resume import KEY, read_checkpoint
from nfbench.weightspace import WeightSpaceFeatures
from nfbench.zoos.importers import SmallCnnLayout, import_zoo

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "predict.py"


@pytest.fixture
def script(capsys):
    """script("checkpoint=...", ...) -> the lines that are printed; a mistake raises."""
    main = runpy.run_path(str(SCRIPT))["main"]

    def call(*words: object) -> list[str]:
        capsys.readouterr()  # what was printed before
        main([str(word) for word in words])
        return capsys.readouterr().out.splitlines()

    return call


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open() as handle:
        return list(csv.DictReader(handle))


def loaded(cfg):
    zoo = build_zoo(cfg.zoo)
    zoo.prepare_data()
    zoo.setup()
    return zoo


class Siren(nn.Module):
    """A user's own module for the digits, 2-8-8-1, with its own names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 1)


def save_network(zoo, row: int, path: Path) -> None:
    net = Siren()
    (state,) = WeightSpaceFeatures.from_flat(zoo.spec, zoo.tables.raw[[row]]).to_state_dicts(list(net.state_dict()))
    net.load_state_dict(state)
    torch.save(net.state_dict(), path)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_classes_are_those_of_the_run(composed, small, job, script, tmp_path, ema: float) -> None:
    """Of canonical, standardised networks, from a zoo and from files of a user's own module."""
    cfg, run = composed(*small, f"task.ema_decay={ema}", "trainer.max_epochs=3"), job("run")
    train.run(cfg, run)
    zoo, rows = loaded(cfg), rows_of(run.folder)
    assert (zoo.canonicalize, zoo.standardize) == (True, "layer")
    lines = script(f"checkpoint={run.folder}", f"network={zoo.path}", "view=0", f"index={rows[0]['index']}",
                   f"index={','.join(row['index'] for row in rows[1:])}")  # fmt: skip
    assert re.fullmatch(
        r"mlp for task=inr_cls, trained on siren_digits \(seed 0, \d epochs\): .* 2-8-8-1:sine", lines[0]
    )
    assert len(lines) == 1 + len(rows)
    for line, row in zip(lines[1:], rows, strict=True):
        assert f"index {row['index']} view 0: class {row['predicted']} (" in line

    trained = load_trained(run.folder / "checkpoints" / "best.ckpt")
    at = int(np.flatnonzero((zoo.tables.index == int(rows[0]["index"])).numpy())[0])
    save_network(zoo, at, tmp_path / "mine.pth")
    (mine,), (theirs,) = (
        predict(trained, read_file(path, trained, [int(rows[0]["index"])], 0))
        for path in (tmp_path / "mine.pth", zoo.path)
    )
    assert torch.equal(mine.probabilities, theirs.probabilities)
    assert float(mine.probabilities.sum()) == pytest.approx(1)
    assert not mine.notes
    as_trained = WeightSpaceFeatures.from_flat(zoo.spec, zoo.tables.ready[[at]])
    assert torch.allclose(trained.reader.read(zoo.tables.raw[[at]]).flatten(), as_trained.flatten())
    bare = train.read_checkpoint(run.folder / "checkpoints" / "best.ckpt")["state_dict"]
    prefix = "averaged." if ema else "model."
    assert all(torch.equal(value, bare[prefix + name]) for name, value in trained.model.state_dict().items())

    both = script(f"checkpoint={run.folder}", f"network={tmp_path / 'mine.pth'},{tmp_path / 'mine.pth'}")
    assert both[1] == both[2] != ""
    other = Path(shutil.copy(zoo.path, tmp_path / "other.h5"))
    with h5py.File(other, "r+") as file:
        said = json.loads(file.attrs["manifest"])
        said["recipe"] |= {"grid": "xy", "pixel_min": -1.0}
        file.attrs["manifest"] = json.dumps(said)
    noted = "\n".join(script(f"checkpoint={run.folder}", f"network={other}", "view=0", f"index={rows[0]['index']}"))
    assert "its networks have grid=xy, those of the training grid=ij" in noted
    assert "its networks have pixel_min=-1.0, those of the training pixel_min=" in noted
    state = {name: 50 * value for name, value in torch.load(tmp_path / "mine.pth", weights_only=True).items()}
    torch.save(state, tmp_path / "large.pth")
    assert "note: its weights are unlike those of the training" in script(
        f"checkpoint={run.folder}", f"network={tmp_path / 'large.pth'}"
    )[2]  # fmt: skip


@pytest.mark.parametrize("more", [["model=statnn", "model.width=32", "zoo.standardize=entry"],
                                  ["model=gbm", "model.num_trees=20", "model.depths=[2]"]])  # fmt: skip
def test_accuracies_are_those_of_the_run(composed, job, script, tmp_path, more) -> None:
    archive = write_archive(tmp_path / "cifar10", runs=60)
    zoo_path = tmp_path / "small_cnn_cifar10.h5"
    import_zoo(SmallCnnLayout(archive, split_csv=tmp_path / "cifar10_split.csv"), zoo_path)
    cfg = composed("task=cnn_gen", "zoo=small_cnn_cifar10", *more, "trainer.max_epochs=2", "threads=1", "logger=csv",
                   f"zoo_dir={tmp_path}")  # fmt: skip
    train.run(cfg, job("run"))
    rows = rows_of(job("run").folder)
    wanted = {(int(row["index"]), int(row["view"])): float(row["predicted"]) for row in rows}
    trained = load_trained(job("run").folder)
    found = predict(trained, read_file(zoo_path, trained, [index for index, _ in wanted]))
    names = [(int(i), int(v)) for one in found for i, v in re.findall(r"index (\d+) view (\d+)", one.network.name)]
    values = {name: one.accuracy for name, one in zip(names, found, strict=True) if name in wanted}
    assert values == pytest.approx(wanted, abs=1e-5)
    assert len(set(np.round(list(wanted.values()), 6))) > 3
    index, view = next(iter(wanted))
    lines = script(f"checkpoint={job('run').folder}", f"network={zoo_path}", f"index={index}", f"view={view}")
    assert f"predicted test accuracy {100 * wanted[index, view]:.2f} %" in lines[1]


def test_edited_networks_are_those_of_the_run(composed, small, job, script, tmp_path) -> None:
    words = ("task=inr_edit", "zoo=siren_digits_edit", "model.width=16", "zoo.canonicalize=true",
             "zoo.standardize=layer", "trainer.max_epochs=3")  # fmt: skip
    cfg, run = composed(*small, *words), job("run")
    train.run(cfg, run)
    zoo = loaded(cfg)
    with np.load(run.folder / "samples.npz") as found:
        samples = dict(found)
    index, wanted = int(samples["index"][0]), torch.from_numpy(samples["weights"][0])
    at = int(zoo.tables.rows_at(torch.tensor([index]), torch.tensor([int(samples["view"][0])]))[0])
    save_network(zoo, at, tmp_path / "mine.pth")
    out = tmp_path / "edited"
    lines = script(f"checkpoint={run.folder}", f"network={tmp_path / 'mine.pth'}", f"out={out}")
    assert "dilate, written to" in lines[1]
    state = torch.load(out / "mine-edited.pth", weights_only=True)
    assert list(state) == list(Siren().state_dict())
    Siren().load_state_dict(state)
    edited = torch.cat([value.flatten() for value in state.values()])
    assert torch.allclose(edited, wanted, atol=1e-5)
    assert not torch.allclose(edited, zoo.tables.raw[at], atol=1e-5)
    assert (out / "mine-edited.png").read_bytes().startswith(b"\x89PNG")
    trained = load_trained(run.folder)
    assert np.allclose(trained.reader.render(wanted[None]).numpy()[0], samples["edited"][0].clip(0, 1), atol=1e-4)


def test_latents_are_those_that_the_classifier_reads(composed, small, job, script, tmp_path) -> None:
    quick = [word for word in small if not word.startswith("model")] + ["model=nft"]
    first = ("task=inr2array", "model.width=16", "model.num_blocks=1", "task.num_latents=4", "task.decoder_width=16")
    train.run(composed(*quick, *first, "trainer.max_epochs=1"), job("encoder"))
    folder = job("encoder").folder
    cfg = composed(*quick, "task=inr2array_cls", f"encoder={folder}", "task.width=16", "task.num_blocks=1",
                   "task.ff_width=16")  # fmt: skip
    train.run(cfg, job("classes"))
    zoo, rows = loaded(cfg), rows_of(job("classes").folder)
    index = rows[0]["index"]
    lines = script(f"checkpoint={folder}", f"network={zoo.path}", f"index={index}", "view=0", f"out={tmp_path}")
    assert "4 latent vectors of 16, written to" in lines[1]
    (file,) = tmp_path.glob("*-latents.npy")
    with h5py.File(job("classes").folder / "latents.h5") as kept:
        row = next(i for i in range(len(kept["index"])) if (kept["index"][i], kept["view"][i]) == (int(index), 0))
        assert np.allclose(np.load(file), kept["latents"][row], atol=1e-4)
    many = ",".join(row["index"] for row in rows)
    lines = script(f"checkpoint={job('classes').folder}", f"network={zoo.path}", f"index={many}", "view=0")
    assert all(f"class {row['predicted']} (" in line for line, row in zip(lines[1:], rows, strict=True))
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"reads latents of the encoder in .*encoder=RUN_FOLDER"):
        script(f"checkpoint={job('classes').folder}", f"network={zoo.path}", f"index={index}")
    again = script(f"checkpoint={job('classes').folder}", f"network={zoo.path}", f"index={many}", "view=0",
                   f"encoder={moved}")  # fmt: skip
    assert again == lines


class Evil:
    """Would make a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_what_is_refused(composed, small, job, script, tmp_path) -> None:
    cfg, run = composed(*small, "trainer.max_epochs=1"), job("run")
    train.run(cfg, run)
    zoo, best = loaded(cfg), run.folder / "checkpoints" / "best.ckpt"
    net = nn.Sequential(nn.Linear(2, 16), nn.Linear(16, 1))
    torch.save(net.state_dict(), tmp_path / "other.pth")
    torch.save({"a": Evil(tmp_path / "was_run")}, tmp_path / "evil.pth")
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 and no more")
    torch.save({name: value * torch.nan for name, value in Siren().state_dict().items()}, tmp_path / "nan.pth")
    torch.save(Siren().state_dict(), tmp_path / "fine.pth")
    torch.save({name: value.long() for name, value in Siren().state_dict().items()}, tmp_path / "whole.pth")
    for name, message in {
        "other.pth": r"holds a network 2-16-1:sine, and this model reads 2-8-8-1:sine alone",
        "evil.pth": r"would run code when it is loaded",
        "damaged.pth": r"damaged\.pth is not a file of tensors, or damaged",
        "nan.pth": r"has 105 weights that are NaN",
        "whole.pth": r"is no network 2-8-8-1:sine: it .* is not a dense tensor of real numbers",
        "none.pth": r"there is no file",
        "other.txt": r"there is no file",
    }.items():
        with pytest.raises(ValueError, match=message):
            script(f"checkpoint={best}", f"network={tmp_path / name}")
    assert not (tmp_path / "was_run").exists()
    for words, message in (
        (["index=1"], r"network=\.\.\. is missing"),
        ([f"network={zoo.path}"], r"is a zoo of \d+ networks: say whose with index=N"),
        ([f"network={zoo.path}", "index=99999"], r"has no network of item 99999"),
        ([f"network={zoo.path}", "index=one"], r"whole numbers, not 'one'"),
        ([f"netwrk={zoo.path}"], r"is not understood: write key=value, with a key of checkpoint, network"),
    ):
        with pytest.raises(ValueError, match=message):
            script(f"checkpoint={best}", *words)

    checkpoint = read_checkpoint(best)
    del checkpoint[KEY]["reader"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "foreign.ckpt")
    (tmp_path / "evil.ckpt").write_bytes((tmp_path / "evil.pth").read_bytes())
    checkpoint[KEY]["task"] = {**checkpoint[KEY]["task"], "name": "tickets"}
    torch.save(checkpoint, tmp_path / "tickets.ckpt")
    for name, message in {
        "old.ckpt": r"does not say how networks are prepared .*Train again .*rerun=true",
        "foreign.ckpt": r"was not written by nfbench",
        "evil.ckpt": r"cannot be read as a checkpoint",
        "tickets.ckpt": r"is of task=tickets, whose answers need its zoo\. Possible: inr_cls",
        "nowhere.ckpt": r"there is no checkpoint",
        ".": r"has no checkpoints/best\.ckpt",
    }.items():
        with pytest.raises(ValueError, match=message):
            script(f"checkpoint={tmp_path / name}", f"network={tmp_path / 'fine.pth'}")
    assert not (tmp_path / "was_run").exists()
