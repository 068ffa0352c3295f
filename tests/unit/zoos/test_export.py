"""Exports: what other code reads is what the zoo holds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures
from nfbench.zoos import InrFileZoo, export
from nfbench.zoos.export import export_zoo
from nfbench.zoos.imported import find_recipe
from nfbench.zoos.importers import FolderLayout, NfnLayout, import_zoo
from nfbench.zoos.selection import choose_split
from nfbench.zoos.store import ZooData, read_zoo

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "export_zoo.py"


@pytest.fixture
def cnns() -> ZooData:
    spec = NetworkSpec.parse("1-4c3-2:relu")
    params = np.random.default_rng(0).standard_normal((5, spec.num_params), dtype=np.float32)
    extra = {
        "test_accuracy": np.float32([0.1, 0.2, 0.3, 0.4, 0.5]),
        "config.w_init": np.array(["a", "b", "a", "b", "c"]),
    }
    manifest = {"spec": str(spec), "num_params": spec.num_params, "num_networks": 5}
    return ZooData(params, np.full(5, -1), np.arange(5), np.zeros(5, np.int64), extra, manifest, {"origin": "a test"})


def test_safetensors_in_shards(cnns, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "SHARD_BYTES", 2 * 4 * cnns.params.shape[1])
    assert "exported 5 networks" in export_zoo(cnns, tmp_path / "out", "safetensors")
    said = json.loads((tmp_path / "out" / "zoo.json").read_text())
    assert [shard["rows"] for shard in said["shards"]] == [2, 2, 1]
    shards = [load_file(tmp_path / "out" / shard["file"]) for shard in said["shards"]]
    tensors = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
    assert tensors["layers.0.weight"].shape == (5, 4, 1, 3, 3)
    for i in range(5):  # they load into torch's own modules
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(4, 2))
        with torch.no_grad():
            for module, layer in ((net[0], 0), (net[2], 1)):
                module.weight.copy_(tensors[f"layers.{layer}.weight"][i])
                module.bias.copy_(tensors[f"layers.{layer}.bias"][i])
        np.testing.assert_array_equal(nn.utils.parameters_to_vector(net.parameters()).detach().numpy(), cnns.params[i])
    assert tensors["label"].tolist() == [-1] * 5
    assert torch.equal(tensors["test_accuracy"], torch.from_numpy(cnns.extra["test_accuracy"]))
    assert said["text_columns"] == {"config.w_init": ["a", "b", "a", "b", "c"]}
    assert said["manifest"] == cnns.manifest
    assert said["attributes"] == {"origin": "a test"}


def test_nfn_layout_comes_back_the_same(make_zoo, tmp_path):
    zoo = make_zoo(num_steps=2)
    zoo.prepare_data()
    data = read_zoo(zoo.path)
    export_zoo(data, tmp_path / "out", "nfn")
    spec = data.manifest["spec"]
    file = tmp_path / "out" / f"randinit_smaller_{data.label[0]}s" / f"net{data.index[0]}.pth"
    state = torch.load(file, weights_only=True)
    assert list(state) == [f"net.{i}.{kind}" for i in ("0.linear", "1.linear", "2") for kind in ("weight", "bias")]
    assert sum(t.untyped_storage().nbytes() for t in state.values()) == 4 * data.params.shape[1]
    import_zoo(NfnLayout(tmp_path / "out"), tmp_path / "back.h5")
    back = read_zoo(tmp_path / "back.h5")
    for name in ("source", "spec", "split", "recipe"):
        assert back.manifest[name] == data.manifest[name]
    for name in ("params", "label", "index", "view"):
        np.testing.assert_array_equal(getattr(back, name), getattr(data, name))
    assert data.view.max() == 1
    features = WeightSpaceFeatures.from_flat(NetworkSpec.parse(spec), torch.from_numpy(back.params[:1]))
    for exported, own in zip(state.values(), features.to_state_dicts()[0].values(), strict=True):
        assert torch.equal(exported, own)


def test_what_is_not_known_stays_unknown_in_the_nfn_layout(tmp_path):
    """A folder of sine networks: neither w0 nor the images are known, and its table has a split."""
    spec = NetworkSpec.parse("2-4-1:sine")
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)) for _ in range(6)]
    (tmp_path / "nets").mkdir()
    for i, net in enumerate(nets):
        torch.save(net.state_dict(), tmp_path / "nets" / f"{i}.pth")
    parts = ["train", "train", "val", "test", "train", "none"]
    lines = [f"{i}.pth,{i % 2},{part}" for i, part in enumerate(parts)]
    (tmp_path / "nets" / "labels.csv").write_text("\n".join(["file,label,split", *lines]) + "\n")
    import_zoo(FolderLayout(tmp_path / "nets", activation="sine"), tmp_path / "zoo.h5")
    export_zoo(read_zoo(tmp_path / "zoo.h5"), tmp_path / "out", "nfn")
    import_zoo(NfnLayout(tmp_path / "out"), tmp_path / "back.h5")
    back = read_zoo(tmp_path / "back.h5")
    assert back.manifest["source"] == "nets"
    assert back.extra["split"].tolist() == parts
    assert choose_split(back, None) == "file"
    assert find_recipe(back.manifest, spec, {})[1] == set()
    with pytest.raises(ValueError, match="canonicalize=true needs w0_first and w0_hidden"):
        InrFileZoo(file=str(tmp_path / "back.h5"), canonicalize=True)


def test_partly_known_recipes_come_back_the_same(cnns, tmp_path):
    spec = NetworkSpec.parse("2-2-1:sine")
    said = {"recipe": {"widths": [2], "w0_first": 8.0}, "recipe_known": ["widths", "w0_first"], "definition": "custom",
            "pixel_mean": [0.1], "pixel_std": [0.3], "source": "mnist", "split": "dws", "num_images": 5}  # fmt: skip
    manifest = {**said, "spec": str(spec), "num_params": 9, "num_networks": 5}
    data = ZooData(cnns.params[:, :9], np.zeros(5, np.int64), cnns.index, cnns.view, {}, manifest, {})
    export_zoo(data, tmp_path / "out", "nfn")
    import_zoo(NfnLayout(tmp_path / "out"), tmp_path / "back.h5")
    back = read_zoo(tmp_path / "back.h5")
    assert {name: back.manifest[name] for name in said} == said
    assert "split" not in back.extra


def test_what_cannot_be_exported(cnns, tmp_path):
    with pytest.raises(ValueError, match="the NFN layout holds SIRENs; this zoo has 1-4c3-2:relu"):
        export_zoo(cnns, tmp_path / "out", "nfn")
    with pytest.raises(ValueError, match="Choose one of: safetensors, nfn"):
        export_zoo(cnns, tmp_path / "out", "pickle")
    assert not (tmp_path / "out").exists()
    sirens = ZooData(cnns.params[:, :9], cnns.label, cnns.index, cnns.view, {}, {"spec": "1-2-1-1:sine"}, {})
    with pytest.raises(ValueError, match="names folders by class"):
        export_zoo(sirens, tmp_path / "out", "nfn")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="is not empty: choose another folder"):
        export_zoo(cnns, tmp_path / "full", "safetensors")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_script(make_zoo, tmp_path):
    zoo = make_zoo(num_steps=0)
    zoo.prepare_data()
    command = [sys.executable, str(SCRIPT), str(zoo.path), "--format", "safetensors", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "networks of 2-8-8-1:sine as safetensors" in done.stdout
    assert load_file(tmp_path / "out" / "zoo-00000.safetensors")["psnr"].shape == (len(read_zoo(zoo.path).label),)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {tmp_path / 'out'} is not empty: choose another folder."
