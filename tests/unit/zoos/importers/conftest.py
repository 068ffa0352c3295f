"""Small archives in the published layouts."""

import csv
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from archives import NfnSiren, nfn_files, write_tar


@pytest.fixture
def nfn_nets() -> dict[tuple[int, int, int], NfnSiren]:
    """Six networks of four images: images 5 and 59_999 have copies."""
    torch.manual_seed(0)
    keys = [(7, 59_999, 3), (7, 5, 1), (7, 5, -1), (2, 59_999, -1), (7, 11, -1), (0, 0, -1)]
    return {key: NfnSiren() for key in keys}


@pytest.fixture
def nfn_tar(tmp_path: Path, nfn_nets: dict[tuple[int, int, int], NfnSiren]) -> Path:
    return write_tar(tmp_path / "siren_mnist_wts.tar", nfn_files(nfn_nets))


@pytest.fixture
def small_cnn(tmp_path: Path) -> Callable[..., Path]:
    """Writes a Small CNN Zoo: 12 runs at steps 0, 20 and 86; a row is one network in TensorFlow's order."""

    def make(runs: int = 12, steps: tuple[int, ...] = (0, 20, 86), bias_first: bool = False) -> Path:
        folder = tmp_path / "cifar10"
        folder.mkdir(exist_ok=True)
        layers = [((3, 3, 1, 16), "conv2d"), ((3, 3, 16, 16), "conv2d_1"), ((3, 3, 16, 16), "conv2d_2"),
                  ((16, 10), "dense")]  # fmt: skip
        lines, at = [], 0
        for shape, name in layers:
            pair = [(f"sequential/{name}/kernel:0", shape), (f"sequential/{name}/bias:0", shape[-1:])]
            for variable, part in pair[::-1] if bias_first else pair:
                lines.append([len(lines), variable, at, at := at + math.prod(part), str(part)])
        assert at == 4970
        with (folder / "layout.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["", "varname", "start_idx", "end_idx", "shape"], *lines])
        rng = np.random.default_rng(0)
        rows = [(run, step) for run in range(runs) for step in steps]
        rows = [rows[0], *(rows[i] for i in 1 + rng.permutation(len(rows) - 1))]  # the first is not a final network
        np.save(folder / "weights.npy", rng.standard_normal((len(rows), at), dtype=np.float32))
        names = ["config.activation", "config.dataset", "config.learning_rate", "config.random_seed", "modeldir",
                 "step", "test_accuracy", "train_loss"]  # fmt: skip
        with gzip.open(folder / "metrics.csv.gz", "wt", newline="") as file:
            out = csv.writer(file)
            out.writerow(names)
            for i, (run, step) in enumerate(rows):
                activation = "relu" if run % 3 else "tanh"
                out.writerow([activation, "cifar10", 0.001 * (run + 1), 42, f"/long/{'x' * 80}/{run}", step,
                              (i + 1) / 100, "" if i == 3 else 1.5])  # fmt: skip
        (folder / "rows.json").write_text(json.dumps(rows))
        return folder

    return make


@pytest.fixture
def arena(tmp_path: Path) -> Callable[..., tuple[Path, np.ndarray]]:
    """Writes fields of a SIREN 2-5-5-channels as fit-a-nef does: sorted names, bias before kernel."""

    def make(name: str = "MNIST", channels: int = 1, count: int = 7, per_file: int = 4, nef: bool = True):
        folder = tmp_path / name / "SIREN"
        folder.mkdir(parents=True)
        config = [("kernel_net_0.linear.bias", (5,)), ("kernel_net_0.linear.kernel", (2, 5)),
                  ("kernel_net_1.linear.bias", (5,)), ("kernel_net_1.linear.kernel", (5, 5)),
                  ("output_linear.bias", (channels,)), ("output_linear.kernel", (5, channels))]  # fmt: skip
        width = sum(math.prod(shape) for _, shape in config)
        params = np.random.default_rng(1).standard_normal((count, width)).astype(np.float32)
        for start in range(0, count, per_file):
            stop = min(start + per_file, count)
            with h5py.File(folder / f"nefs_{start}-{stop}.hdf5", "w") as file:
                file.create_dataset("params", data=params[start:stop])
                text = file.create_dataset("param_config", (1,), dtype=h5py.special_dtype(vlen=str))
                text[0] = json.dumps(config)
                file.create_dataset("labels", data=[i % 10 for i in range(start, stop)])
        if nef:
            (folder / "nef.json").write_text(json.dumps({"name": "SIREN", "params": {"omega_0": 8.0}}))
        return folder, params

    return make
