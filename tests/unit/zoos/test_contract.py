"""What every set of INRs in conf/zoo promises; each is built here in a tiny version."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from nfbench.weightspace import NetworkSpec, ZooBatch
from nfbench.zoos import ShapesZoo, SirenZoo, build
from nfbench.zoos.images import ImageSet, load_images, source_info
from nfbench.zoos.inr import InrZoo

FILES = sorted((Path(build.__file__).parents[2] / "conf" / "zoo").glob("siren_*.yaml"))
ITEMS = {SirenZoo: {"num_images": 20}, ShapesZoo: {"num_shapes": 50, "points": 64, "samples": 32}}
TINY = {
    "num_views": 2,
    "num_steps": 2,
    "views_per_epoch": 1,
    "batch_size": 6,
    "threads": 1,
    "seed": 0,
}


def blank_images(source: str, data_dir: str) -> ImageSet:
    """Images of the right number and shape, all the same, without any memory."""
    info = source_info(source)
    if not info.folder:
        return load_images(source, data_dir)
    labels = np.arange(info.num_images) % info.num_classes
    return ImageSet(np.broadcast_to(np.float32(0.3), (info.num_images, *info.shape)), labels, "blank", "blank")


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def zoo(request, tmp_path, monkeypatch) -> InrZoo:
    monkeypatch.setattr(build, "load_images", blank_images)
    written = yaml.safe_load(request.param.read_text())
    kind = next(kind for kind in ITEMS if written["target"].endswith(f".{kind.__name__}"))
    folders = {"data_dir": str(tmp_path), "zoo_dir": str(tmp_path)}
    values = {**written, **TINY, **ITEMS[kind], **folders, "eval_views": "all"}
    return kind(**{k: v for k, v in values.items() if k in inspect.signature(kind).parameters})


def epoch_of(zoo: InrZoo, epoch: int) -> list[ZooBatch]:
    loader = zoo.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_contract(zoo):
    spec = zoo.spec
    assert isinstance(spec, NetworkSpec)
    assert not zoo.path.exists(), "the spec is known before any data is there"
    protocol = zoo.protocol
    zoo.prepare_data()
    zoo.setup("fit")
    assert zoo.spec == spec
    assert protocol.items() <= zoo.protocol.items()
    assert all(isinstance(value, str | int | float | bool) for value in zoo.protocol.values())

    loaders = {"train": epoch_of(zoo, 0), "val": list(zoo.val_dataloader()), "test": list(zoo.test_dataloader())}
    pairs: dict[str, set[tuple[int, int]]] = {}
    for name, batches in loaders.items():
        pairs[name] = {pair for b in batches for pair in zip(b.index.tolist(), b.view.tolist(), strict=True)}
        for batch in batches:
            assert isinstance(batch, ZooBatch)
            count = len(batch.index)
            assert batch.features.spec == spec
            assert batch.features.flatten().shape == (count, spec.num_params, 1)
            assert batch.features.flatten().isfinite().all()
            assert batch.target.shape == batch.view.shape == (count,)
            assert batch.target.dtype == batch.index.dtype == batch.view.dtype == torch.int64
            assert 0 <= int(batch.target.min()) <= int(batch.target.max()) < zoo.num_classes
            assert zoo.render(batch.features).shape == (count, *zoo.image_shape)
    for epoch in range(1, 12):
        pairs["train"] |= {p for b in epoch_of(zoo, epoch) for p in zip(b.index.tolist(), b.view.tolist(), strict=True)}
    images = {name: {index for index, _ in found} for name, found in pairs.items()}
    total = len(zoo.split.all_images)
    assert len(set.union(*images.values())) == sum(map(len, images.values())) == total, "an image is in one part"
    for name, found in pairs.items():
        assert len(found) == 2 * len(images[name]), f"{name}: all views of an image are in its part"


def test_epochs(zoo):
    zoo.prepare_data()
    zoo.setup("fit")
    order = [[(b.index.tolist(), b.view.tolist()) for b in epoch_of(zoo, epoch)] for epoch in (0, 1, 0)]
    assert order[0] == order[2], "the same epoch repeats"
    assert order[0] != order[1], "two epochs differ"
    for a, b in zip(epoch_of(zoo, 1), epoch_of(zoo, 1), strict=True):
        assert torch.equal(a.features.flatten(), b.features.flatten())
