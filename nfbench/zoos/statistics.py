"""What is in a zoo: counts, mean and spread of each layer's weights beside published ones, PSNR, sample renderings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.fit import pixel_grid, render_flat
from nfbench.zoos.images import SOURCES, load_images
from nfbench.zoos.recipe import SirenRecipe
from nfbench.zoos.store import ZooData, read_zoo

QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # percent
SAMPLES = 12
MOST_EPOCHS = 12  # of training, that are told apart


@dataclass(frozen=True)
class Published:
    """Mean and standard deviation over all networks and entries of each layer's weights and biases."""

    weights_mean: tuple[float, ...]
    weights_std: tuple[float, ...]
    biases_mean: tuple[float, ...]
    biases_std: tuple[float, ...]

    def rows(self) -> list[tuple[float, float]]:
        """(mean, standard deviation) of each tensor: weight, bias, weight, bias, ..."""
        weights = zip(self.weights_mean, self.weights_std, strict=True)
        biases = zip(self.biases_mean, self.biases_std, strict=True)
        return [row for pair in zip(weights, biases, strict=True) for row in pair]


# By (definition, source). From the public code of Kofinas et al., Neural Graphs, github.com/mkofinas/neural-graphs:
# experiments/style_editing/configs/data/{nfn_mnist,nfn_cifar,mnist,fmnist}.yaml, of the training networks of the NFN
# and DWSNets authors' zoos; the last, of the Small CNN Zoo (definition small_cnn), is pooled here from the values by
# kernel position in experiments/cnn_generalization/dataset/zoo_cifar_nfn_statistics.pth.
PUBLISHED = {
    ("nfn", "mnist"): Published(
        (1.227e-4, -8.859e-7, 2.445e-5),
        (0.286825, 0.0171098, 0.0639137),
        (6.445e-4, -3.313e-5, -0.0326741),
        (0.409049, 0.104086, 0.0969573),
    ),
    ("nfn", "cifar10"): Published(
        (1.839e-4, -2.575e-6, -4.988e-5),
        (0.280260, 0.0176599, 0.0546008),
        (5.446e-4, -2.380e-6, -0.0024678),
        (0.408696, 0.103884, 0.0873499),
    ),
    ("dws", "mnist"): Published(
        (-1.166e-4, -3.271e-6, 7.234e-5),
        (0.0627934, 0.0182702, 0.118137),
        (4.912e-6, -3.210e-5, -0.0122790),
        (0.0213479, 0.0109943, 0.0999815),
    ),
    ("dws", "fashion"): Published(
        (6.370e-6, 6.887e-6, 1.073e-5),
        (0.0782281, 0.0324019, 0.134550),
        (1.679e-7, -1.156e-5, -0.0202828),
        (0.0285615, 0.0167003, 0.0959561),
    ),
    ("small_cnn", "cifar10"): Published(
        (-0.00881, -0.01969, -0.01263, 0.01884),
        (0.55023, 0.43534, 0.36430, 0.36821),
        (-0.05075, 0.00615, 0.04617, 0.04844),
        (0.40749, 0.97240, 1.94541, 0.54462),
    ),
}


@dataclass(frozen=True)
class Inspection:
    """``facts``: plain values for JSON; ``psnr`` (N,) in dB, NaN where unknown; sample pictures (n, H, W, channels) in
    [0, 1], originals beside renderings, with their rows in the zoo; None where the zoo is not of known images.
    """

    facts: dict[str, Any]
    psnr: NDArray[np.float32]
    rows: NDArray[np.int64]
    originals: NDArray[np.float32] | None
    renderings: NDArray[np.float32] | None


def inspect_zoo(path: Path, data_dir: str, expected: Mapping[str, Any] | None = None) -> Inspection:
    """Reads a zoo, built or imported, and says what is in it.

    Args:
        path: its HDF5 file.
        data_dir: where the images are; without them there are no pictures.
        expected: the manifest it must have.

    Raises:
        ValueError: no zoo there, or another one than expected.
    """
    if not path.exists():
        raise ValueError(f"there is no zoo {path}. Build it first: the same command without inspect.")
    data = read_zoo(path, expected)
    manifest, psnr = data.manifest, data.psnr
    known = psnr[np.isfinite(psnr)]
    labels, per_class = np.unique(data.label, return_counts=True)
    facts: dict[str, Any] = {
        "zoo": str(path),
        "source": manifest.get("source"),
        "definition": guess_definition(manifest),
        "origin": data.attributes.get("origin", "unknown"),
        "spec": manifest["spec"],
        "networks": len(data.label),
        "images": len(np.unique(data.index)),
        "views": int(data.view.max()) + 1,
        "per_class": dict(zip(map(str, labels.tolist()), per_class.tolist(), strict=True)),
        "layers": layer_statistics(data),
        "psnr_mean": float(known.mean()) if len(known) else None,
        "psnr": {str(q): float(np.percentile(known, q)) for q in QUANTILES} if len(known) else None,
        "steps_mean": float(data.steps.mean()) if data.steps.min() >= 0 else None,
        "accuracy": accuracy_quantiles(data),
        "recipe": manifest.get("recipe"),
    }
    rows = np.unique(np.linspace(0, len(data.label) - 1, SAMPLES).astype(np.int64))
    originals, renderings, why = _pictures(data, rows, data_dir)
    facts["no_pictures"] = why
    return Inspection(facts, psnr, rows, originals, renderings)


def accuracy_quantiles(data: ZooData) -> dict[str, dict[str, float]] | None:
    """Percentiles of test accuracy by epoch of training ("all" where these are many), of a zoo of classifiers."""
    accuracy = data.extra.get("test_accuracy")
    if accuracy is None:
        return None
    step = data.extra.get("step", np.zeros(len(accuracy), np.int64))
    epochs = np.unique(step)
    groups = {"all": accuracy} if len(epochs) > MOST_EPOCHS else {str(e): accuracy[step == e] for e in epochs.tolist()}
    return {
        name: {str(q): float(np.nanpercentile(values, q)) for q in QUANTILES}
        for name, values in groups.items()
        if np.isfinite(values).any()
    }


def guess_definition(manifest: Mapping[str, Any]) -> str | None:
    """Which published statistics a zoo compares with: that of its importer, or of the recipe it was built by."""
    if "layout" in manifest:
        return str(manifest["layout"])
    if manifest.get("kind") == "classifiers":
        return "small_cnn"
    recipe = manifest.get("recipe") or {}
    if recipe.get("widths") != [32, 32]:
        return None
    return "dws" if recipe["bias_init"] == "zero" else "nfn"


def layer_statistics(data: ZooData) -> list[dict[str, Any]]:
    """Mean and standard deviation over all networks and entries of each weight and bias tensor, beside published ones.

    Returns:
        One dict a tensor: tensor, mean, std, and published_mean and published_std, None where there are none.
    """
    spec = NetworkSpec.parse(data.manifest["spec"])
    published = PUBLISHED.get((guess_definition(data.manifest) or "", str(data.manifest.get("source"))))
    slices = spec.scalar_slices()
    beside: list[tuple[float | None, float | None]] = [(None, None)] * len(slices)
    if published is not None and len(published.rows()) == len(slices):
        beside = list(published.rows())
    rows = []
    for i, (where, (mean, std)) in enumerate(zip(slices, beside, strict=True)):
        values = data.params[:, where]
        rows.append(
            {
                "tensor": f"{'bias' if i % 2 else 'weight'} {i // 2 + 1}",
                "mean": float(values.mean(dtype=np.float64)),
                "std": float(values.std(dtype=np.float64)),
                "published_mean": mean,
                "published_std": std,
            }
        )
    return rows


def _pictures(
    data: ZooData, rows: NDArray[np.int64], data_dir: str
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None, str | None]:
    """Originals and renderings of these rows, or why there are none."""
    source, plain = data.manifest.get("source"), data.manifest.get("recipe")
    if source not in SOURCES or plain is None or "psnr" not in data.extra:
        return None, None, "not fitted to a set of images that is known here"
    try:
        images = load_images(source, data_dir)
    except ValueError as error:
        return None, None, f"the images cannot be had: {error}"
    if data.attributes.get("images_sha256", images.fingerprint) != images.fingerprint:
        return None, None, "the zoo was fitted to other image files than those found here"
    originals = images.pixels[data.index[rows]]
    recipe = SirenRecipe(**plain)
    spec = NetworkSpec.parse(data.manifest["spec"])
    coords = torch.from_numpy(pixel_grid(originals.shape[1], originals.shape[2], recipe.grid))
    flat = torch.from_numpy(data.params[rows])
    rendered = render_flat(flat, spec.sizes, coords, recipe).clamp(0, 1).reshape(originals.shape)
    return originals, rendered.numpy(), None
