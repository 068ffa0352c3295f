"""What each run of a zoo of classifiers draws: distributions, initialisers, orders; and the images that it sees."""

import numpy as np
import pytest

from nfbench.weightspace import NetworkSpec
from nfbench.zoos import cnn_images
from nfbench.zoos.cnn_images import load_classifier_images
from nfbench.zoos.cnn_recipe import (
    ACTIVATIONS,
    FRACTIONS,
    OPTIMIZERS,
    W_INITS,
    CnnRecipe,
    Settings,
    draw_params,
    draw_settings,
    epoch_order,
    size_values,
)
from nfbench.zoos.images import ImageSet

CNN = NetworkSpec.parse("1-16c3-16c3-16c3-10")


def test_settings_are_as_published():
    drawn = [draw_settings(CnnRecipe(), run) for run in range(3000)]
    for name, choices in (
        ("activation", ACTIVATIONS),
        ("optimizer", OPTIMIZERS),
        ("w_init", W_INITS),
        ("train_fraction", FRACTIONS),
    ):
        values = [getattr(one, name) for one in drawn]
        assert set(values) == set(choices)
        for choice in choices:
            assert abs(values.count(choice) / 3000 - 1 / len(choices)) < 0.04
    for name, low, high in (("learning_rate", 5e-4, 5e-2), ("l2reg", 1e-8, 1e-2), ("init_std", 1e-3, 0.5)):
        place = (np.log([getattr(one, name) for one in drawn]) - np.log(low)) / np.log(high / low)
        assert -1e-6 < place.min() < 0.01
        assert 0.99 < place.max() < 1 + 1e-6
        np.testing.assert_allclose(np.quantile(place, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.04)
    np.testing.assert_allclose(np.quantile([one.dropout for one in drawn], [0, 0.5, 1]), [0, 0.35, 0.7], atol=0.03)
    assert drawn[5] == draw_settings(CnnRecipe(epochs=3), 5), "they depend on seed and run alone"
    assert drawn[5] != draw_settings(CnnRecipe(seed=1), 5)
    assert drawn[5] != draw_settings(CnnRecipe(), 5, attempt=1)
    assert len({one.seed for one in drawn}) > 2990


@pytest.mark.parametrize("w_init", W_INITS)
def test_initialisers(w_init):
    settings = Settings("relu", "sgd", 0.1, 0.0, 0.0, w_init, 0.03, 1.0)
    rows = np.stack([draw_params(CnnRecipe(), CNN, settings, run) for run in range(200)])
    assert rows.shape == (200, 4970)
    weights, biases = rows[:, CNN.scalar_slices()[2]], rows[:, CNN.scalar_slices()[3]]
    assert (biases == 0).all()
    # The second convolution: 144 inputs of a neuron, 144 outputs; Keras' normal initialisers are cut at 2 sigma.
    std = {"glorot_normal": np.sqrt(2 / 288), "he_normal": np.sqrt(2 / 144), "RandomNormal": 0.03,
           "TruncatedNormal": 0.03 * 0.8796256610342398, "orthogonal": np.sqrt(1 / 144)}[w_init]  # fmt: skip
    assert abs(weights.std() / std - 1) < 0.01
    assert abs(weights.mean()) < 0.01 * std
    cut = {"glorot_normal": std / 0.8796256610342398, "he_normal": std / 0.8796256610342398, "TruncatedNormal": 0.03}
    if w_init in cut:
        assert 1.95 * cut[w_init] < np.abs(weights).max() <= 2 * cut[w_init] * (1 + 1e-6)
    if w_init == "orthogonal":
        first = weights[0].reshape(16, 144)
        np.testing.assert_allclose(first @ first.T, np.eye(16), atol=1e-6)
        narrow = rows[0, CNN.scalar_slices()[0]].reshape(16, 9)  # more outputs than inputs: orthonormal columns
        np.testing.assert_allclose(narrow.T @ narrow, np.eye(9), atol=1e-6)


def test_orders_are_shuffles_of_the_part():
    recipe, images = CnnRecipe(batch_size=16), np.arange(100, 200, dtype=np.int32)
    first = epoch_order(recipe, images, 3, 0, 0)
    assert first.shape == (6, 16)
    assert first.dtype == np.int32
    assert len(set(first.ravel().tolist())) == 96
    assert set(first.ravel().tolist()) <= set(images.tolist())
    assert (first == epoch_order(recipe, images, 3, 0, 0)).all()
    for other in ((4, 0, 0), (3, 1, 0), (3, 0, 1)):
        assert (first != epoch_order(recipe, images, *other)).any()
    assert epoch_order(recipe, images[:10], 3, 0, 0).shape == (1, 10)


def test_checkpoints():
    assert CnnRecipe().checkpoint_epochs(7) == (0, 1, 2, 3, 20, 40, 60, 80, 86)
    assert CnnRecipe(epochs=18).checkpoint_epochs(7) == (0, 1, 2, 3, 18)
    assert CnnRecipe(epochs=18).num_checkpoints == 5
    drawn = [CnnRecipe(epochs=30, checkpoints=10).checkpoint_epochs(run) for run in range(200)]
    assert all(len(set(epochs)) == 10 and list(epochs) == sorted(epochs) for epochs in drawn)
    assert {epoch for epochs in drawn for epoch in epochs} == set(range(1, 31))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be 1 or more"),
        ({"epochs": 5, "checkpoints": 6}, "between 1 and zoo.epochs=5"),
        ({"checkpoints": ()}, "at least one"),
        ({"num_train": 0}, "num_train=0 must be"),
    ],
)
def test_bad_recipes(values, message):
    with pytest.raises(ValueError, match=message):
        CnnRecipe(**values)


def test_sizes():
    assert size_values("1-16c3-16c3-16c3-10:relu", "full")["num_runs"] == 30_000
    assert size_values("784-128-128-10:relu", "full")["num_runs"] == 2000
    with pytest.raises(ValueError, match="Choose one of: tiny, cpu, full"):
        size_values("784-10", "big")


def test_images_are_gray_and_centred(monkeypatch):
    random = np.random.default_rng(0)
    pixels = random.random((60_000, 2, 2, 3), np.float32)
    labels = np.arange(60_000) % 10
    monkeypatch.setattr(cnn_images, "load_images", lambda *_: ImageSet(pixels, labels, "test", "sum"))
    images = load_classifier_images("cifar10", "data", num_train=1000, num_test=100)
    np.testing.assert_allclose(images.pixels[5], pixels[5].mean(-1) * 2 - 1, atol=1e-6)
    assert (images.labels == labels).all()
    assert images.train.max() < 50_000 <= images.test.min()
    assert len(set(images.train.tolist())) == 1000
    assert len(images.test) == 100
    assert set(images.part(0.1).tolist()) < set(images.part(0.25).tolist())
    assert len(images.part(0.1)) == 100
    whole = load_classifier_images("cifar10", "data")
    assert (whole.train[:1000] == images.train).all()
    with pytest.raises(ValueError, match="has 50000 training images"):
        load_classifier_images("cifar10", "data", num_train=60_000)
    with pytest.raises(ValueError, match="Choose one of: digits, mnist, fashion, cifar10"):
        load_classifier_images("svhn", "data")
