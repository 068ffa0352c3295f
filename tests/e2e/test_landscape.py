"""scripts/landscape.py and scripts/measure_zoo.py, from the command line, on a small zoo made here and on a run."""

import json
import runpy
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nfbench.measures import MEASURES, Settings, cross_entropies, logits, measure
from nfbench.train import run
from nfbench.weightspace import NetworkSpec
from nfbench.zoos.measures import read_measures, training_sample
from nfbench.zoos.store import PartialZoo

ROOT = Path(__file__).resolve().parents[2]
SPEC = NetworkSpec.parse("1-4c3-4c3-10:relu")
RUNS, STEPS = 20, (0, 5, 9)


@pytest.fixture
def script(monkeypatch, capsys):
    """script("measure_zoo", ...) -> exit code, stdout, stderr."""

    def call(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def zoo(tmp_path) -> Path:
    """20 runs of 3 checkpoints of untrained CNNs for digits, relu and tanh in turn, and made-up accuracies."""
    count, generator = RUNS * len(STEPS), torch.Generator().manual_seed(0)
    grown = torch.tensor(STEPS).repeat(RUNS)[:, None] * 0.05 + 0.2  # later checkpoints have larger weights
    params = torch.randn(count, SPEC.num_params, generator=generator) * grown
    index = np.repeat(np.arange(RUNS), len(STEPS))
    partial = PartialZoo(tmp_path / "cnn.h5", {"spec": str(SPEC), "source": "digits", "num_params": SPEC.num_params},
                         count, count)  # fmt: skip
    columns = {
        "params": params.numpy(),
        "label": np.full(count, -1),
        "index": index,
        "view": np.tile(np.arange(len(STEPS)), RUNS),
        "step": np.tile(STEPS, RUNS),
        "test_accuracy": 1 / (1 + params.norm(dim=1).numpy()),
        "train_accuracy": np.full(count, 0.9, np.float32),
        "config.activation": np.array(["relu", "tanh"])[index % 2],
        "config.learning_rate": np.full(count, 0.1, np.float32),
    }
    partial.write(0, columns)
    partial.assemble({})
    return tmp_path / "cnn.h5"


def test_measures_of_a_zoo(script, zoo) -> None:
    few = ["--images", 40, "--jacobian-images", 10, "--directions", 2]
    code, out, error = script("measure_zoo", zoo, *few)
    assert code == 0, error
    columns, about = read_measures(zoo.with_suffix(".measures.h5"))
    assert list(columns) == sorted(MEASURES)
    assert about["settings"]["images"] == 40
    with h5py.File(zoo) as file:
        params, step = file["params"][()], file["step"][()]
    for name, values in columns.items():
        assert np.array_equal(np.isfinite(values), step == STEPS[-1]), name
    row = 5  # of run 1, which is tanh
    pixels, labels, _ = training_sample("digits", "data", 40)
    alone = measure(
        NetworkSpec.parse(str(SPEC).replace("relu", "tanh")), torch.from_numpy(params[row : row + 1]),
        torch.from_numpy(pixels), torch.from_numpy(labels), Settings(images=40, jacobian_images=10, directions=2),
    )  # fmt: skip
    for name, values in alone.items():
        if name != "hessian_residual":
            assert columns[name][row] == pytest.approx(float(values), rel=1e-3, abs=1e-5), name

    table = json.loads(zoo.with_suffix(".measures.json").read_text())
    first = next(line for line in table["table"] if line["measure"] == "l2_norm")
    assert first["tau_accuracy"] == pytest.approx(-1.0)  # accuracy was made of the norm
    assert first["tau_gap"] == pytest.approx(1.0)
    assert first["tau_accuracy_tanh"] == pytest.approx(-1.0)
    assert first["networks"] == table["test_networks"] == RUNS // 2
    assert "needs data" in out
    assert out.index("l2_norm") < out.index("jacobian_frobenius")  # the strongest first

    code, out, _ = script("measure_zoo", zoo, *few)
    assert code == 0
    assert "there already" in out
    code, _, error = script("measure_zoo", zoo, *few[:-1], 3)
    assert code == 1
    assert "other settings" in error


def test_a_stopped_measurement_goes_on(script, zoo, monkeypatch) -> None:
    arguments = [zoo, "--images", 20, "--jacobian-images", 5, "--directions", 2, "--all-steps", "--max-steps", 5]
    assert script("measure_zoo", *arguments, "--out", zoo.with_name("whole.h5"))[0] == 0
    monkeypatch.setattr("nfbench.zoos.measures.PartialMeasures.assemble", None)
    code, _, error = script("measure_zoo", *arguments)
    assert code == 1
    monkeypatch.undo()
    partial = zoo.with_suffix(".measures.h5.partial")
    chunks = sorted(partial.glob("chunk-*.npz"))
    kept = [chunk.stat().st_mtime_ns for chunk in chunks]
    assert script("measure_zoo", *arguments[:-1], 6)[0] == 1  # other settings are not mixed in
    assert [chunk.stat().st_mtime_ns for chunk in chunks] == kept
    code, _, error = script("measure_zoo", *arguments)
    assert code == 0, error
    assert not partial.exists()
    ours, theirs = read_measures(zoo.with_suffix(".measures.h5"))[0], read_measures(zoo.with_name("whole.h5"))[0]
    for name, values in ours.items():
        assert np.array_equal(values, theirs[name], equal_nan=True), name


def test_the_landscape_of_a_zoo_network(script, zoo) -> None:
    code, out, error = script("landscape", zoo, "--row", 2, "--grid", 5, "--images", 30, "--directions", 3)
    assert code == 0, error
    assert zoo.with_name("cnn.row2.landscape.png").read_bytes().startswith(b"\x89PNG")
    with h5py.File(zoo.with_name("cnn.row2.landscape.h5")) as file:
        found = {name: file[name][()] for name in file}
        about = json.loads(file.attrs["about"])
    assert about["seeds"] == [0, 1, 2]
    assert about["radius"] == 1.0
    assert found["lines"].shape == (3, 5)
    assert found["surface"].shape == (5, 5)
    pixels, labels, _ = training_sample("digits", "data", 30)
    with h5py.File(zoo) as file:
        params = torch.from_numpy(file["params"][2:3])
    exact = float(cross_entropies(SPEC, torch.from_numpy(pixels), torch.from_numpy(labels))(params))
    assert found["surface"][2, 2] == pytest.approx(exact, rel=1e-5)
    assert found["lines"][:, 2] == pytest.approx(exact, rel=1e-5)
    assert found["surface"][:, 2] == pytest.approx(found["lines"][0], rel=1e-5)
    assert found["surface"][2] == pytest.approx(found["lines"][1], rel=1e-5)
    assert logits(SPEC, params, torch.from_numpy(pixels)).shape == (1, 30, 10)
    assert f"{exact:.4f}" in out

    code, _, error = script("landscape", zoo, "--row", 60)
    assert code == 1
    assert "rows 0 to 59" in error


def test_along_the_training_of_a_zoo_network(script, zoo) -> None:
    code, _, error = script("landscape", zoo, "--row", 3, "--along", "--images", 30)
    assert code == 0, error
    with h5py.File(zoo.with_name("cnn.row3.along.h5")) as file:
        found = {name: file[name][()] for name in file}
    assert found["step"].tolist() == list(STEPS)
    assert found["learning_rate"] == pytest.approx(0.1)
    assert (np.diff(found["jacobian_spectral"]) > 0).all()  # larger weights
    assert np.isfinite(found["hessian_top"]).all()
    assert zoo.with_name("cnn.row3.along.png").stat().st_size > 10_000


def test_the_landscape_of_a_run_is_its_validation_loss(script, composed, small, job, tmp_path) -> None:
    folder, zoo_dir = job("a").folder, tmp_path / "zoos"
    small = [f"zoo_dir={zoo_dir}" if word.startswith("zoo_dir=") else word for word in small]
    summary = run(composed(*small, "trainer.max_epochs=2", "task.ema_decay=0.5"), job("a"))
    OmegaConf.clear_resolver("nfbench.recipe")  # as in a process of its own
    code, _, error = script("landscape", folder, "--grid", 3, "--directions", 2, "--radius", 0.1)
    assert code == 0, error
    with h5py.File(folder / "landscape.h5") as file:
        loss, lines = file["loss"][()], file["lines"][()]
    rows = (folder / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/loss")
    best = float(rows[1 + summary["best_epoch"]].split(",")[column])
    assert float(loss) == pytest.approx(best, rel=1e-4)
    assert lines[:, 1] == pytest.approx(best, rel=1e-4)
    assert (folder / "landscape.png").stat().st_size > 10_000

    (sirens,) = zoo_dir.glob("*.h5")  # which the run has read
    code, _, error = script("landscape", sirens, "--row", 1, "--grid", 3, "--out", folder / "siren.h5")
    assert code == 0, error
    with h5py.File(folder / "siren.h5") as file, h5py.File(sirens) as built:
        assert -10 * np.log10(file["loss"][()]) == pytest.approx(built["psnr"][1], abs=1e-3)

    checkpoints = folder / "checkpoints"
    (checkpoints / "best.ckpt").unlink()
    code, _, error = script("landscape", folder, "--along")
    assert code == 1
    assert "has last.ckpt, all of step" in error
    assert "train longer" in error
    early = torch.load(checkpoints / "last.ckpt", weights_only=True)
    early["global_step"] = 1
    early["optimizer_states"][0]["param_groups"][0]["lr"] = 0.25
    for name, values in early["state_dict"].items():
        early["state_dict"][name] = values * 0.5 if values.is_floating_point() else values
    torch.save(early | {"state_dict": {}}, checkpoints / "early.ckpt")
    code, _, error = script("landscape", folder, "--along")
    assert code == 1
    assert "written by another version" in error
    torch.save(early, checkpoints / "early.ckpt")
    code, _, error = script("landscape", folder, "--along")
    assert code == 0, error
    with h5py.File(folder / "along.h5") as file:
        found = {name: file[name][()] for name in file}
    assert found["step"].tolist() == [1, torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"]]
    assert found["jacobian_spectral"][0] < found["jacobian_spectral"][1]
    assert np.isfinite(found["hessian_top"]).all()
    assert (found["hessian_top"] > 0).all()
    assert found["learning_rate"][0] == 0.25


def test_runs_of_other_tasks_are_refused(script, composed, small, job) -> None:
    (job("edit").folder / "checkpoints").mkdir(parents=True)
    words = [word for word in small if not word.startswith(("task=", "model"))]
    cfg = composed("task=inr_edit", "zoo=siren_digits_edit", "model=edit/nft", *words)
    job("edit").write_hydra_files(cfg)
    (job("edit").folder / "checkpoints" / "best.ckpt").write_bytes(b"not read")
    code, _, error = script("landscape", job("edit").folder)
    assert code == 1
    assert "is a run of task=inr_edit: landscapes are drawn of inr_cls and cnn_gen" in error


def test_mistakes_are_told(script, tmp_path) -> None:
    code, _, error = script("landscape", tmp_path)
    assert code == 1
    assert "neither a zoo's HDF5 file nor a run folder" in error
    code, _, error = script("measure_zoo", tmp_path / "none.h5")
    assert code == 1
    assert "there is no zoo" in error
    with pytest.raises(ValueError, match=r"images are not known here.*digits, mnist, fashion, cifar10"):
        training_sample("svhn_cropped", "data", 5)


def test_samples_of_other_seeds_are_other_images():
    samples = [training_sample("digits", "data", 100, seed)[0] for seed in (0, 1, 2)]
    whole = training_sample("digits", "data", 300)[0]
    np.testing.assert_array_equal(np.concatenate(samples), whole)
    with pytest.raises(ValueError, match="too few for sample 50 of 100 images"):
        training_sample("digits", "data", 100, 50)
