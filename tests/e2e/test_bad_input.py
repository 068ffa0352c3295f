"""Bad files and full disks, from the command line: one screen, an exit code, and the bad file as it was."""

import errno
import runpy
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from nfbench import train
from nfbench.config.build import build_zoo
from nfbench.report import run_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """fails("zoo=...") -> what the failed command printed to stderr."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["run.py", *arguments])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        assert stop.value.code not in (0, None)
        text = capsys.readouterr().err
        assert "Traceback" not in text
        assert len(text.strip().splitlines()) <= 25, text
        return text

    return run


def test_a_corrupt_image_file(fails, small, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "images" / "mnist"
    folder.mkdir(parents=True)
    bad = folder / "train-images-idx3-ubyte.gz"
    bad.write_bytes(b"half a download")
    monkeypatch.setenv("NFBENCH_DATA_DIR", str(tmp_path / "images"))
    text = fails(*small, "zoo=siren_mnist", f"data_dir={tmp_path / 'data'}")
    assert str(bad) in text
    assert bad.read_bytes() == b"half a download"


@pytest.fixture
def zoo_file(composed, small, job, zoo_dir, tmp_path) -> Path:
    """A copy of the small zoo under a name of its own."""
    train.run(composed(*small), job("makes the zoo"))
    folder = tmp_path / "zoos"
    folder.mkdir()
    return Path(shutil.copy(build_zoo(composed(*small).zoo).path, folder / "mine.h5"))


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def spoil(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["params"][3, 5] = np.nan


@pytest.mark.parametrize(
    ("harm", "overrides", "said"),
    [
        (truncate, (), "truncated"),
        (spoil, (), "NaN"),
        (lambda path: path.write_bytes(b"no HDF5"), (), "mine.h5"),
        (lambda path: None, ("zoo.lr=1e-3",), "another zoo"),
    ],
    ids=["truncated", "NaN", "foreign", "another recipe"],
)
def test_a_bad_zoo(fails, small, zoo_file: Path, harm, overrides: tuple[str, ...], said: str) -> None:
    harm(zoo_file)
    content = zoo_file.read_bytes()
    text = fails(*small, f"zoo_dir={zoo_file.parent}", "zoo.file_name=mine", *overrides)
    assert said in text
    assert "mine.h5" in text
    assert zoo_file.read_bytes() == content


def test_a_corrupt_checkpoint(fails, small, tmp_path) -> None:
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK half a checkpoint")
    text = fails(*small, f"hydra.run.dir={tmp_path / 'run'}")
    assert "last.ckpt cannot be read as a checkpoint" in text
    assert path.read_bytes() == b"PK half a checkpoint"


def test_a_file_where_the_run_folder_should_be(fails, small, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    text = fails(*small, f"output_dir={tmp_path / 'file'}")
    assert str(tmp_path / "file") in text
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_permission(fails, small, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run_folder.fcntl, "flock", _raises(errno.EACCES, "Permission denied"))
    text = fails(*small)
    assert "Permission denied" in text
    assert "permissions" in text


@pytest.mark.parametrize("log_too", [False, True], ids=["log works", "log fails too"])
def test_a_full_disk(fails, composed, small, tmp_path, monkeypatch, log_too: bool) -> None:
    build_zoo(composed(*small).zoo).prepare_data()  # the disk is full when the run begins
    monkeypatch.setattr(run_folder.os, "fsync", _raises(errno.ENOSPC, "No space left on device"))
    if log_too:
        original = Path.open

        def opened(self, mode="r", *arguments, **others):
            if self.name == "run.log" and mode == "a":
                raise OSError(errno.EROFS, "Read-only file system")
            return original(self, mode, *arguments, **others)

        monkeypatch.setattr(Path, "open", opened)
    text = fails(*small)
    assert "No space left on device" in text, "the first error, whatever came after it"
    assert ("Read-only file system" in text) == log_too
    assert not list((tmp_path / "outputs").rglob("summary.json"))
    assert not list((tmp_path / "outputs").rglob(".*.tmp"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task.monitor=val/loss"], "task.mode=max keeps the epoch with the worst val/loss: give task.mode=min"),
        (["task.mode=min"], "task.mode=min keeps the epoch with the worst val/acc: give task.mode=max"),
        (["task.metric=val/acc"], "task.metric=val/acc is unknown"),
        (["task.monitor=test/acc"], "task.monitor=test/acc is unknown"),
        (["task=inr2array", "model=nft", "task.metric=test/acc"], "task.metric=test/acc is unknown"),
        (["task=tickets", "zoo=tickets_digits", "model=vae/nfn_pt", "task.monitor=val/acc/tensor"], "is unknown"),
        (["task=tickets", "zoo=tickets_digits", "model=nft"], "task=tickets needs a model that draws masks"),
        (["task=inr_edit", "zoo=siren_digits_edit", "model=vae/nfn_pt"], "draws masks, and no other outputs"),
        (["task=inr2array", "zoo=siren_shapes", "model=nft"], "needs networks that show images: networks 3-128-1:sine"),
        (["task=inr2array", "model=nft", "task.loss_target=image"], "task.loss_target=image: zoo.augment_rotation"),
        (["task=cnn_gen", "zoo=siren_digits"], "SirenZoo has none: choose another zoo, such as zoo=cnn_fashion"),
        (["trainer.devices=2"], "trainer.devices=2: a run takes one device"),
        (["trainer.precision=64-true"], "trainer.precision=64-true is not one of 32-true, bf16-mixed, 16-mixed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_refused_before_a_zoo_is_built(fails, small, tmp_path, words, said: str) -> None:
    ours = words[0] not in ("task=tickets", "task=inr2array") or "task.metric=test/acc" in words
    base = [word for word in small if ours or "experiment" not in word]  # smoke is of 2-D INRs that do not move
    assert said in fails(*base, *words, f"zoo_dir={tmp_path / 'zoos'}")
    assert not list(tmp_path.rglob("*.h5*"))


def test_a_schedule_needs_an_end(fails, small) -> None:
    text = fails(*small, "trainer.max_epochs=-1", "+trainer.max_time=00:00:00:01")
    assert "has no end, which task.schedule=cosine counts down to" in text


def _raises(number: int, text: str):
    def call(*_):
        raise OSError(number, text)

    return call
