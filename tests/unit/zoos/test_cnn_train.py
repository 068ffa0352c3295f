"""Trainers of small classifiers against nn.Module and torch.optim, and against each other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kernels import (
    needs_compiler,
    other_instructions,
)
from torch import nn

from nfbench.weightspace import NetworkSpec
from nfbench.zoos import cnn_train, kernel
from nfbench.zoos.cnn_images import ClassifierImages
from nfbench.zoos.cnn_recipe import (
    ALPHA,
    BETA1,
    BETA2,
    EPS,
    CnnRecipe,
    Settings,
    draw_params,
    draw_settings,
    epoch_order,
)
from nfbench.zoos.cnn_torch import TorchStack
from nfbench.zoos.cnn_train import KernelStack, choose_trainer, load_cnn_kernel, train_runs
from nfbench.zoos.kernel import KernelUnavailable

CNN, MLP = NetworkSpec.parse("1-16c3-16c3-16c3-10"), NetworkSpec.parse("289-12-7-10")
PLAIN = Settings("relu", "sgd", 0.05, 0.0, 0.0, "he_normal", 0.1, 1.0)


def make_images(side: int = 17, count: int = 60) -> ClassifierImages:
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, count).astype(np.int32)
    shades = np.linspace(-1, 1, 10, dtype=np.float32)[labels][:, None, None]  # something to be learnt
    pixels = np.clip(shades + random.normal(0, 0.3, (count, side, side)), -1, 1).astype(np.float32)
    rows = np.arange(count, dtype=np.int32)
    return ClassifierImages(pixels, labels, rows[:-20], rows[-20:], "test", "test")


def module_of(spec: NetworkSpec, settings: Settings) -> nn.Sequential:
    """The same network as anyone would write it."""
    act = {"relu": nn.ReLU, "tanh": nn.Tanh}[settings.activation]
    if spec is CNN:
        parts = [nn.Conv2d(1, 16, 3, 2), act(), nn.Conv2d(16, 16, 3, 2), act(), nn.Conv2d(16, 16, 3, 2), act()]
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return nn.Sequential(nn.Flatten(), nn.Linear(289, 12), act(), nn.Linear(12, 7), act(), nn.Linear(7, 10))


def train_alone(spec, settings, params, images, orders) -> np.ndarray:
    """One network, float64, torch.optim; L2 as a part of the loss, on weights alone."""
    module = module_of(spec, settings).double()
    nn.utils.vector_to_parameters(torch.tensor(params, dtype=torch.float64), module.parameters())
    lr, weights = settings.learning_rate, module.parameters()
    optimizer = {
        "sgd": lambda: torch.optim.SGD(weights, lr),
        "adam": lambda: torch.optim.Adam(weights, lr, (BETA1, BETA2), EPS),
        "rmsprop": lambda: torch.optim.RMSprop(weights, lr, ALPHA, EPS),
    }[settings.optimizer]()
    for rows in np.concatenate(orders):
        logits = module(torch.from_numpy(images.pixels[rows])[:, None].double())
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(images.labels[rows]).long())
        loss = loss + settings.l2reg * sum((p**2).sum() for p in module.parameters() if p.dim() > 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(module.parameters()).detach().numpy()


def start(spec: NetworkSpec, many: list[Settings]):
    recipe = CnnRecipe(epochs=2, batch_size=16)
    params = np.stack([draw_params(recipe, spec, own, run) for run, own in enumerate(many)])
    rows = make_images().train
    orders = [[epoch_order(recipe, rows, run, 0, epoch) for run in range(len(many))] for epoch in range(3)]
    return params, orders


@pytest.mark.parametrize("spec", [CNN, MLP], ids=["cnn", "mlp"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_a_stack_is_networks_trained_alone(spec, activation, optimizer):
    own = replace(PLAIN, activation=activation, optimizer=optimizer, l2reg=3e-3, learning_rate=0.01)
    many = [own, replace(own, learning_rate=0.002, l2reg=0.0, w_init="orthogonal")]
    images, (params, orders) = make_images(), start(spec, many)
    stack = TorchStack(spec, images, many, params.astype(np.float64))
    for epoch in orders:
        stack.train(epoch)
    for i, settings in enumerate(many):
        alone = train_alone(spec, settings, params[i], images, [epoch[i] for epoch in orders])
        np.testing.assert_allclose(stack.params[i], alone, rtol=1e-9, atol=1e-10)
        assert np.abs(alone - params[i]).max() > 1e-3
        without = train_alone(spec, replace(settings, l2reg=0.02), params[i], images, [e[i] for e in orders])
        assert np.abs(without - alone).max() > 1e-5, "L2 makes a difference"


@needs_compiler
@pytest.mark.parametrize("side", [15, 17, 28, 32])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_the_kernel_does_what_torch_does(side, activation, optimizer):
    """With L2 and dropout, and batches that fill no tile; a moderate start, so that rounding is not blown up."""
    own = replace(
        PLAIN, activation=activation, optimizer=optimizer, l2reg=3e-3, learning_rate=2e-3, dropout=0.4, seed=2**32 - 5
    )
    images = make_images(side)
    params, _ = start(CNN, [own])
    orders = [np.random.default_rng(1).integers(0, 40, (3, 13), dtype=np.int32) for _ in range(2)]
    ours = KernelStack(images, [own], params, load_cnn_kernel())
    exact = TorchStack(CNN, images, [own], params.astype(np.float64))
    noiseless = TorchStack(CNN, images, [replace(own, dropout=0.0)], params.astype(np.float64))
    for order in orders:
        for stack in (ours, exact, noiseless):
            stack.train([order])
    scale = np.abs(exact.params - params).max()
    assert np.abs(ours.params - exact.params).max() < 2e-3 * scale
    assert np.median(np.abs(ours.params - exact.params)) < 1e-5 * scale
    assert np.abs(noiseless.params - exact.params).max() > 0.1 * scale, "dropout makes a difference"
    for a, b in zip(ours.evaluate(images.test), exact.evaluate(images.test), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_patches_are_convolutions():
    """What a GPU does, on the CPU: outputs and gradients."""
    images, (params, orders) = make_images(), start(CNN, [PLAIN, PLAIN])
    each, patches = (TorchStack(CNN, images, [PLAIN, PLAIN], params.astype(np.float64)) for _ in range(2))
    patches.patches = True
    for stack in (each, patches):
        stack.train(orders[0])
    np.testing.assert_allclose(each.params, patches.params, rtol=1e-9, atol=1e-12)
    assert np.abs(each.params - params).max() > 1e-4


def test_dropout_rate_and_scale():
    settings = [replace(PLAIN, dropout=0.25, seed=1), replace(PLAIN, dropout=0.7, seed=2)]
    stack = TorchStack(CNN, make_images(), settings, start(CNN, settings)[0])
    noise = stack._noise(0, torch.zeros(2, 40, 7, 7, 16))
    for factors, rate in zip(noise, (0.25, 0.7), strict=True):
        assert set(np.unique(factors.numpy())) == {0, np.float32(1 / np.float32(1 - rate))}
        assert abs(float((factors == 0).float().mean()) - rate) < 0.01
    assert not torch.equal(noise[0], stack._noise(1, torch.zeros(2, 40, 7, 7, 16))[0]), "another layer"
    stack.step = 1
    assert not torch.equal(noise[0], stack._noise(0, torch.zeros(2, 40, 7, 7, 16))[0]), "another step"


@pytest.mark.parametrize("backend", [pytest.param("kernel", marks=needs_compiler), "torch"])
def test_evaluation_is_of_a_module(backend):
    images, (params, _) = make_images(), start(CNN, [PLAIN])
    stack = (
        KernelStack(images, [PLAIN], params, load_cnn_kernel())
        if backend == "kernel"
        else TorchStack(CNN, images, [PLAIN], params)
    )
    loss, accuracy = stack.evaluate(images.test)
    module = module_of(CNN, PLAIN)
    nn.utils.vector_to_parameters(torch.from_numpy(params[0]), module.parameters())
    logits = module(torch.from_numpy(images.pixels[images.test])[:, None]).detach()
    labels = torch.from_numpy(images.labels[images.test]).long()
    assert loss[0] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert accuracy[0] == pytest.approx(float((logits.argmax(1) == labels).double().mean()), abs=1e-12)


@pytest.mark.parametrize("backend", [pytest.param("kernel", marks=needs_compiler), "torch"])
def test_a_run_depends_on_nothing_else(backend):
    recipe, images = CnnRecipe(epochs=2, batch_size=16), make_images()
    together = train_runs(recipe, CNN, images, [0, 1, 2, 3, 4], threads=2, backend=backend)
    alone = train_runs(recipe, CNN, images, [3], threads=1, backend=backend)[0]
    assert [one.run for one in together] == [0, 1, 2, 3, 4]
    assert together[3].settings == alone.settings == draw_settings(recipe, 3)
    assert together[3].epochs == (0, 1, 2)
    assert (together[3].params[0] == draw_params(recipe, CNN, alone.settings, 3)).all(), "before training"
    tolerance = 0 if backend == "kernel" else 1e-5  # torch's products round by the size of the stack
    np.testing.assert_allclose(together[3].params, alone.params, rtol=tolerance, atol=tolerance)
    assert not np.allclose(together[2].params, together[3].params)


def test_losses_have_the_penalty_and_runs_learn():
    recipe, images = CnnRecipe(epochs=4, batch_size=8, checkpoints=(0,)), make_images()
    (one,) = train_runs(recipe, CNN, images, [0])
    stack = TorchStack(CNN, images, [one.settings], one.params[-1:].astype(np.float64))
    slices = CNN.scalar_slices()[::2]
    penalty = one.settings.l2reg * sum((one.params[-1][where].astype(np.float64) ** 2).sum() for where in slices)
    loss, accuracy = stack.evaluate(images.test)
    assert one.metrics[-1, 1] == pytest.approx(loss[0] + penalty, rel=1e-4)
    assert one.metrics[-1, 0] == pytest.approx(accuracy[0], abs=1e-6)
    part = images.part(one.settings.train_fraction)
    assert one.metrics[-1, 2] == pytest.approx(stack.evaluate(part)[1][0], abs=1e-6)


@pytest.mark.parametrize("backend", [pytest.param("kernel", marks=needs_compiler), "torch"])
def test_runs_that_diverge_are_drawn_again(monkeypatch, backend):
    real = draw_settings

    def explosive(recipe, run, attempt=0):
        settings = replace(real(recipe, run, attempt), optimizer="sgd", activation="relu", l2reg=0.0)
        return replace(settings, learning_rate=1e20) if run == 1 and attempt < 2 else settings

    monkeypatch.setattr(cnn_train, "draw_settings", explosive)
    recipe = CnnRecipe(epochs=2, batch_size=8)
    trained = train_runs(recipe, CNN, make_images(), [0, 1], backend=backend)
    assert [one.attempt for one in trained] == [0, 2]
    assert all(np.isfinite(one.params).all() for one in trained)
    monkeypatch.setattr(cnn_train, "MOST_ATTEMPTS", 2)
    with pytest.raises(ValueError, match=r"runs \[1\] of the zoo diverged"):
        train_runs(recipe, CNN, make_images(), [0, 1], backend=backend)


@needs_compiler
def test_images_that_are_too_small_are_an_error():
    with pytest.raises(ValueError, match="at least 15x15"):
        train_runs(CnnRecipe(epochs=1), CNN, make_images(14), [0], backend="kernel")


def test_without_a_compiler(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kernel, "find_compiler", lambda: (_ for _ in ()).throw(KernelUnavailable("no compiler")))
    load_cnn_kernel.cache_clear()
    cnn_train._tell_fallback.cache_clear()
    try:
        assert choose_trainer(CNN) == "torch"
        assert "no compiler" in capsys.readouterr().err
        with pytest.raises(KernelUnavailable):
            choose_trainer(CNN, "kernel")
    finally:
        load_cnn_kernel.cache_clear()


def test_who_trains_what():
    assert choose_trainer(MLP) == choose_trainer(CNN, device="cuda") == choose_trainer(CNN, "torch") == "torch"
    with pytest.raises(KernelUnavailable, match="the kernel trains 1-16c3"):
        choose_trainer(MLP, "kernel")
    with pytest.raises(ValueError, match="Choose one of: auto, kernel, torch"):
        choose_trainer(CNN, "jax")


@needs_compiler
@other_instructions
def test_processors_with_fewer_instructions(fewer_instructions, monkeypatch):
    library = load_cnn_kernel.__wrapped__()
    assert Path(library._name).parent == fewer_instructions
    monkeypatch.setitem(globals(), "load_cnn_kernel", lambda: library)
    test_the_kernel_does_what_torch_does(17, "tanh", "adam")
    test_the_kernel_does_what_torch_does(28, "relu", "sgd")
