"""The original classes of published zoos, and writers of archives as the original code saves them."""

import io
import math
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class SineLayer(nn.Module):
    def __init__(self, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


class NfnSiren(nn.Module):
    """With the parameter names of NFN's class: net.0.linear.weight, ..., net.2.bias."""

    def __init__(self, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(
            SineLayer(2, width, True), SineLayer(width, width, False), nn.Linear(width, channels)
        )  # fmt: skip

    def forward(self, coords: Tensor) -> Tensor:
        return self.net(coords)


class DwsSine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * super().forward(x))


class DwsInr(nn.Module):
    """With the parameter names of DWSNets' class: seq.0.weight, ..., and 0.5 added to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.Sequential(DwsSine(2, 32), DwsSine(32, 32), nn.Linear(32, 1))

    def forward(self, coords: Tensor) -> Tensor:
        return self.seq(coords) + 0.5


def saved(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def nfn_files(nets: Mapping[tuple[int, int, int], nn.Module], root: str = "siren_mnist_wts") -> dict[str, bytes]:
    """(label, index, copy) -> network; copy -1 is the first network of an image."""
    names = {
        key: f"{root}/randinit_smaller{'' if key[2] < 0 else f'_aug{key[2]}'}_{key[0]}s/net{key[1]}.pth" for key in nets
    }
    return {names[key]: saved(net.state_dict()) for key, net in nets.items()}


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def grid(height: int, width: int, order: str) -> Tensor:
    """Coordinates (P, 2) as the published code makes them: torch's ``ij`` meshgrid, or numpy's ``xy``."""
    rows, columns = torch.linspace(-1, 1, height).double(), torch.linspace(-1, 1, width).double()
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")[:: 1 if order == "ij" else -1], -1).reshape(-1, 2)
