"""What a checkpoint or a run folder of a stranger may have made, and what it may not."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from nfbench.config.build import our_class
from nfbench.config.encoder import adopt_encoder
from nfbench.config.trained import load_trained
from nfbench.models import NFT
from nfbench.resume import KEY

SAFE = "what a stranger's file names is not run"


@pytest.mark.parametrize("target", ["subprocess.Popen", "nfbench.models.nft.Tensor", "nfbench.models_of_mine.NFT",
                                    "nfbench.tasks.inr_cls.InrClassification", "nfbench.models.residual.Any", "NFT",
                                    "nfbench.config.job.Job", ""])  # fmt: skip
def test_only_models_of_nfbench_are_made(target: str) -> None:
    with pytest.raises(ValueError, match=f"{SAFE}|cannot be imported|give the dotted path of a class"):
        our_class(target, "models")


def test_known_models_and_trusted_packages_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert our_class("nfbench.models.nft.NFT", "models") is NFT
    (tmp_path / "models_of_mine.py").write_text("from torch import nn\nclass Mine(nn.Module): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="NFBENCH_TRUST"):
        our_class("models_of_mine.Mine", "models")
    assert "models_of_mine" not in sys.modules, "not even imported"
    monkeypatch.setenv("NFBENCH_TRUST", "others,models_of_mine")
    assert our_class("models_of_mine.Mine", "models").__name__ == "Mine"


@pytest.mark.parametrize("room", ["task", "model"])
def test_a_checkpoint_that_names_a_command_does_not_run_it(tmp_path: Path, room: str) -> None:
    targets = {"task": "nfbench.tasks.inr_cls.InrClassification", "model": "nfbench.models.nft.NFT"}
    targets[room] = "subprocess.Popen"
    saved = {name: {"name": "inr_cls", "target": target} for name, target in targets.items()}
    file = tmp_path / "evil.ckpt"
    arguments = {"args": ["touch", str(tmp_path / "ran")]}
    torch.save({"epoch": 0, "state_dict": {}, "hyper_parameters": arguments, KEY: {**saved, "seed": 0}}, file)
    with pytest.raises(ValueError, match=f"the file names the class 'subprocess.Popen', and {SAFE}"):
        load_trained(file)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_without_a_task_says_so(tmp_path: Path) -> None:
    file = tmp_path / "odd.ckpt"
    torch.save({"epoch": 0, "state_dict": {}, "hyper_parameters": {}, KEY: {"seed": 0}}, file)
    with pytest.raises(ValueError, match=r"odd\.ckpt lacks 'task'"):
        load_trained(file)


def test_an_encoder_that_was_not_tested_is_refused(tmp_path: Path, composed: Callable[..., DictConfig]) -> None:
    folder = tmp_path / "encoder"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    (folder / "summary.json").write_text('{"task": "inr2array", "metrics": {"val/psnr": 20.0}}')
    with pytest.raises(ValueError, match=r"is a run with test=false.*run its command with test=true"):
        adopt_encoder(composed("task=inr2array_cls", f"encoder={folder}"))


def test_no_prediction_takes_the_place_of_another(tmp_path: Path) -> None:
    free = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "predict.py"))["free"]
    names = []
    for _ in range(3):
        names.append(free(tmp_path / "net-edited.pth"))
        names[-1].touch()
    assert [path.name for path in names] == ["net-edited.pth", "net-edited-2.pth", "net-edited-3.pth"]
