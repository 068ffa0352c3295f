"""What a checkpoint or a run folder of a stranger may have made, and what it may not."""

import sys
from pathlib import Path

import pytest
import torch

from nfbench.config.build import our_class
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
