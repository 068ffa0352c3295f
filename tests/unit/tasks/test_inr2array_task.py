"""The autoencoder task: its settings, its loss by hand, and the map of its latents."""

from types import SimpleNamespace

import pytest
import torch

from nfbench.models.decoder import SirenDecoder
from nfbench.models.inr2array import Inr2ArrayEncoder, LatentAutoencoder
from nfbench.tasks.inr2array import Inr2ArrayTask, principal_components
from nfbench.tasks.inr2array_cls import Inr2ArrayClassification
from nfbench.weightspace import (
    CellRenderer,
    NetworkSpec,
    WeightSpaceFeatures,
    ZooBatch,
    canonicalize,
    random_features,
    render,
)

SPEC = NetworkSpec.parse("2-5-1:sine")
COORDS = torch.cartesian_prod(*2 * [torch.linspace(-1, 1, 6, dtype=torch.float64)])
RECIPE = SimpleNamespace(w0_first=7.0, w0_hidden=3.0, output_offset=0.5, pixel_min=-1.0, pixel_max=1.0)


class Zoo:
    """As much of a zoo as the task asks for: networks standardised by mean 0.1 and scale 2."""

    spec, recipe, image_shape, coordinates = SPEC, RECIPE, (6, 6, 1), COORDS
    tables = SimpleNamespace(mean=torch.full((21,), 0.1, dtype=torch.float64), std=torch.full((21,), 2.0))

    def __init__(self, **augment) -> None:
        still = {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "mixup": 0.0, "flip": "none"}
        self.augment = SimpleNamespace(**{**still, **augment})

    def true_images(self, index):
        return index[:, None, None].double().expand(-1, 36, 1) / 10


def make(zoo=None, **settings):
    torch.manual_seed(0)
    task = Inr2ArrayTask(num_classes=3, num_latents=4, **settings)
    task._trainer = SimpleNamespace(datamodule=zoo or Zoo())
    task.setup("fit")
    encoder = Inr2ArrayEncoder(SPEC, 4, width=8, num_blocks=1, num_heads=2, ff_factor=1)
    task.model = LatentAutoencoder(encoder, SirenDecoder(SPEC, 8, width=8), task.latents()["num_classes"])
    logged = {}
    task.log = lambda name, value, **_: logged.update({name: value})
    return task.double(), logged


def batch(count=5):
    x = random_features(SPEC, count, 1, torch.Generator().manual_seed(1), torch.float64)
    index = torch.arange(count)
    return ZooBatch(x.map(lambda t: t / 5), index % 3, index, index * 0)


def raw(features):
    return WeightSpaceFeatures.from_flat(SPEC, features.flatten()[..., 0] * 2 + 0.1)


def test_loss_and_psnr_by_hand():
    task, logged = make(tiling="patches")
    b = batch()
    loss = task.training_step(b, 0)
    how = {"w0_first": 7.0, "w0_hidden": 3.0, "output_offset": 0.5}
    decoded = task.model.decoder(task.model.encoder(b.features))
    error = CellRenderer(COORDS, 2, "patches", **how)(decoded) - render(raw(b.features), COORDS, **how)
    assert torch.allclose(loss, error.square().mean(), rtol=1e-9)
    task.validation_step(b, 0)
    psnr = -10 * torch.log10(error.square().mean((1, 2)) / 4)  # in [-1, 1] the peak is 2
    assert torch.allclose(logged["val/psnr"], psnr.mean(), rtol=1e-9)
    assert torch.allclose(logged["val/loss"], error.square().mean(), rtol=1e-9)
    task.on_test_start()
    task.test_step(b, 0)
    assert [row[:3] for row in task.predictions] == [(i, 0, i % 3) for i in range(5)]
    assert torch.allclose(torch.tensor([row[3] for row in task.predictions]).double(), psnr, rtol=1e-6)


def test_the_image_as_target():
    task, _ = make(loss_target="image")
    b = batch()
    expected = (b.index.double() / 10 * 2 - 1)[:, None, None].expand(-1, 36, 1)
    assert torch.allclose(task.wanted(b), expected, rtol=1e-9)
    assert task.protocol == {"loss_target": "image"}
    assert make()[0].protocol == {"loss_target": "inr"}
    for name, value in (("rotation", 0.1), ("scale", 0.1), ("shift", 0.1), ("flip", "both"), ("mixup", 1.0)):
        with pytest.raises(ValueError, match=f"zoo.augment_{name} changes what networks show"):
            make(Zoo(**{name: value}), loss_target="image")
        make(Zoo(**{name: value}))


def test_joint_training_adds_the_cross_entropy():
    plain, _ = make()
    joint, logged = make(joint_weight=0.3)
    b = batch()
    assert plain.model.head is None
    joint.model.load_state_dict(plain.model.state_dict(), strict=False)
    logits = joint.model.classify(joint.model.encode(b.features))
    expected = plain.training_step(b, 0) + 0.3 * torch.nn.functional.cross_entropy(logits, b.target)
    loss = joint.training_step(b, 0)
    assert torch.allclose(loss, expected, rtol=1e-9)
    loss.backward()
    assert joint.model.head.weight.grad.any()
    joint.validation_step(b, 0)
    assert logged["val/acc"] == (logits.argmax(-1) == b.target).float().mean()


def test_what_networks_show_does_not_change_in_canonical_form():
    """The target is of the function: sign and order of neurons make no difference."""
    task, _ = make()
    x = batch().features
    canonical = canonicalize(raw(x), 7.0, 3.0)
    back = WeightSpaceFeatures.from_flat(SPEC, (canonical.flatten()[..., 0] - 0.1) / 2)
    assert not torch.allclose(back.flatten(), x.flatten())
    assert torch.allclose(task.original(back), task.original(x), rtol=1e-9, atol=1e-9)


def test_settings_that_are_not_allowed():
    for wrong, message in (
        ({"loss_target": "pixels"}, "task.loss_target='pixels' is unknown: choose one of inr, image"),
        ({"tiling": "hexagons"}, "task.tiling='hexagons' is unknown"),
        ({"num_latents": 5}, "makes no square grid"),
        ({"num_latents": 0}, "out of range"),
        ({"joint_weight": -1.0}, "out of range"),
        ({"num_classes": 0, "joint_weight": 1.0}, "needs networks with classes"),
    ):
        with pytest.raises(ValueError, match=message):
            Inr2ArrayTask(**{"num_classes": 3, **wrong})
    assert Inr2ArrayTask(num_classes=3, num_latents=5, spatial=False).latents()["num_latents"] == 5
    zoo = Zoo()
    zoo.no_picture = "nobody knows their size"
    with pytest.raises(ValueError, match="nobody knows their size"):
        make(zoo)
    zoo = Zoo()
    zoo.spec = NetworkSpec.parse("3-5-1:sine")
    with pytest.raises(ValueError, match="are not of images"):
        make(zoo)
    with pytest.raises(ValueError, match=r"task.views='both' is unknown: choose one of one, all"):
        Inr2ArrayClassification(num_classes=3, views="both")
    with pytest.raises(ValueError, match="encode_batch_size=0 is out of range"):
        Inr2ArrayClassification(num_classes=3, encode_batch_size=0)


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (5, 50)])
def test_principal_components(rows, width):
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = principal_components(x, 3).double()
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = (u * s)[:, :3]
    assert torch.allclose(found.abs(), expected.abs(), rtol=1e-4, atol=1e-4)
    assert (found.gather(0, found.abs().argmax(0, keepdim=True)) > 0).all()
    assert principal_components(x[:2], 3).shape == (2, 2)
