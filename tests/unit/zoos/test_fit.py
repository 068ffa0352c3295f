"""The fitter against torch autograd and torch.optim.Adam, its two backends, and its independence from chunking."""

from pathlib import Path

import numpy as np
import pytest
import torch
from kernels import (
    has_compiler,
    needs_compiler,
    other_instructions,
)
from torch import nn

from nfbench.zoos import fit, fit_torch, kernel
from nfbench.zoos.fit import fit_sirens, init_params, layer_sizes, pixel_grid, render_flat
from nfbench.zoos.kernel import KernelUnavailable, load_kernel
from nfbench.zoos.recipe import SirenRecipe

BACKENDS = [pytest.param("kernel", marks=needs_compiler), "torch"]
# widths, side of the image, channels: widths that are no multiple of a vector, one to four sine layers
CASES = [
    ((8, 8), 8, 1),
    ((32, 32), 28, 1),
    ((32, 32), 12, 3),
    ((5, 7, 3), 9, 2),
    ((24, 13, 9, 33), 5, 3),
    ((128,), 10, 1),
]


class Sine(nn.Module):
    def __init__(self, w0: float) -> None:
        super().__init__()
        self.w0 = w0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.w0 * x)


def fit_module(flat, target, coords, sizes, recipe):
    """One SIREN as an `nn.Sequential` in float64 with `torch.optim.Adam`: what the fitter must reproduce."""
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        layers.append(nn.Linear(sizes[i], sizes[i + 1]))
        if i < len(sizes) - 2:
            layers.append(Sine(recipe.w0_hidden if i else recipe.w0_first))
    module = nn.Sequential(*layers).double()
    nn.utils.vector_to_parameters(torch.from_numpy(flat).double(), module.parameters())
    x, y = torch.from_numpy(coords).double(), torch.from_numpy(target).double()
    y = y * (recipe.pixel_max - recipe.pixel_min) + recipe.pixel_min
    optimizer = torch.optim.Adam(module.parameters(), lr=recipe.lr)
    for _ in range(recipe.num_steps):
        loss = (module(x) + recipe.output_offset - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss = (module(x) + recipe.output_offset - y).square().mean().item()
    psnr = -10 * np.log10(loss / (recipe.pixel_max - recipe.pixel_min) ** 2)
    return nn.utils.parameters_to_vector(module.parameters()).detach().numpy(), psnr


def problem(recipe, side, channels, count=3):
    sizes = layer_sizes(recipe, channels)
    ids = np.arange(count)
    images = np.random.default_rng(0).random((count, side * side, channels), np.float32)
    return init_params(recipe, sizes, "test", ids, 0 * ids), images, pixel_grid(side, side), sizes


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("widths", "side", "channels"), CASES)
def test_fit_follows_adam(backend, widths, side, channels):
    recipe = SirenRecipe(widths, lr=1e-3, num_steps=6, pixel_min=-1.0, output_offset=0.5)
    params, images, coords, sizes = problem(recipe, side, channels)
    result = fit_sirens(params, images, coords, recipe, backend=backend)
    for i in range(len(params)):
        expected, psnr = fit_module(params[i], images[i], coords, sizes, recipe)
        # Adam divides by the gradient's size, so a tiny gradient's relative float32 error shows in full: 1e-2 of one
        # step of 1e-3. The weights move by 6e-3 here.
        np.testing.assert_allclose(result.params[i], expected, atol=1e-5, rtol=0)
        assert np.median(np.abs(result.params[i] - expected)) < 1e-6
        assert result.psnr[i] == pytest.approx(psnr, abs=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_steps_changes_nothing(backend):
    recipe = SirenRecipe((8, 8), num_steps=0)
    params, images, coords, _ = problem(recipe, 8, 1)
    result = fit_sirens(params, images, coords, recipe, backend=backend)
    np.testing.assert_array_equal(result.params, params)
    assert (result.steps == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_stops_at_target_psnr(backend):
    recipe = SirenRecipe((16, 16), w0_first=10, w0_hidden=10, lr=5e-3, num_steps=400, stop_psnr=25.0)
    params, images, coords, _ = problem(recipe, 8, 1)
    result = fit_sirens(params, images, coords, recipe, backend=backend)
    assert (result.steps > 5).all()
    assert (result.steps < 400).all()
    assert (result.psnr >= 25.0 - 1e-3).all()
    assert (result.psnr < 27.0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_network_depends_on_itself_alone(backend):
    """Another batch, another order, another number of threads: the very same bits."""
    recipe = SirenRecipe((8, 8), num_steps=30)
    params, images, coords, _ = problem(recipe, 8, 1, count=20)
    whole = fit_sirens(params, images, coords, recipe, backend=backend, threads=2)
    again = fit_sirens(params[::-1], images[::-1], coords, recipe, backend=backend, threads=1)
    part = fit_sirens(params[4:9], images[4:9], coords, recipe, backend=backend, threads=1)
    if backend == "kernel":
        np.testing.assert_array_equal(again.params[::-1], whole.params)
        np.testing.assert_array_equal(part.params, whole.params[4:9])
    else:  # batched products of other sizes may add in another order
        np.testing.assert_allclose(again.params[::-1], whole.params, atol=1e-5)
        np.testing.assert_allclose(part.params, whole.params[4:9], atol=1e-5)


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_backends_agree():
    recipe = SirenRecipe((32, 32), lr=5e-4, num_steps=50)
    params, images, coords, _ = problem(recipe, 28, 1)
    kernel = fit_sirens(params, images, coords, recipe, backend="kernel")
    stacked = fit_sirens(params, images, coords, recipe, backend="torch")
    # Float32 rounding grows over 50 steps of a network with w0 = 30; the weights move by up to 2.5e-2.
    assert np.abs(kernel.params - stacked.params).max() < 1e-3
    assert np.median(np.abs(kernel.params - stacked.params)) < 1e-6
    np.testing.assert_allclose(kernel.psnr, stacked.psnr, atol=1e-2)


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_large_arguments_of_sine():
    """Phases of several hundred: sin to 1e-5 of the float64 value of the same float32 phase's network."""
    recipe = SirenRecipe((16,), w0_first=300.0, num_steps=0)
    params, images, coords, sizes = problem(recipe, 8, 1)
    params[:, :32] = np.sign(params[:, :32])  # weights of 1: phases up to 600
    params[:, 32:48] = 0
    result = fit_sirens(params, images, coords, recipe, backend="kernel")
    exact = render_flat(torch.from_numpy(params).double(), sizes, torch.from_numpy(coords).double(), recipe)
    psnr = -10 * torch.log10((exact - torch.from_numpy(images)).square().mean(dim=(1, 2)))
    np.testing.assert_allclose(result.psnr, psnr.numpy(), atol=1e-3)


def test_inits_are_nested_and_differ():
    recipe = SirenRecipe((8, 8))
    sizes = layer_sizes(recipe, 1)
    index, view = np.array([3, 3, 900, 12]), np.array([0, 1, 0, 7])
    params = init_params(recipe, sizes, "digits", index, view)
    np.testing.assert_array_equal(init_params(recipe, sizes, "digits", index[2:3], view[2:3])[0], params[2])
    assert len({row.tobytes() for row in params}) == 4
    other = init_params(SirenRecipe((8, 8), seed=1), sizes, "digits", index, view)
    assert not (other == params).any()


def test_published_inits():
    """Ranges of uniform initial weights, layer by layer, of the two published definitions."""
    ids = np.arange(400)
    for init, bias, limits in (
        ("siren", "default", [1 / 2, 2**-0.5, (6 / 32) ** 0.5 / 30, 32**-0.5, (6 / 32) ** 0.5 / 30, 32**-0.5]),
        ("uniform", "zero", [3**0.5 / 30, 0, (6 / 32) ** 0.5 / 30, 0, 32**-0.5, 32**-0.5]),
    ):
        recipe = SirenRecipe((32, 32), init=init, bias_init=bias)
        params = init_params(recipe, (2, 32, 32, 1), "mnist", ids, 0 * ids)
        parts = np.split(params, np.cumsum([64, 32, 1024, 32, 32]), axis=1)
        for part, limit in zip(parts, limits, strict=True):
            assert np.abs(part).max() == pytest.approx(limit, rel=0.02)
            assert part.std() == pytest.approx(limit / 3**0.5, rel=0.05)


def test_init_scale_leaves_the_first_layer_alone():
    ids = np.arange(5)
    plain = init_params(SirenRecipe((8, 8)), (2, 8, 8, 1), "digits", ids, 0 * ids)
    small = init_params(SirenRecipe((8, 8), init_scale=0.1), (2, 8, 8, 1), "digits", ids, 0 * ids)
    np.testing.assert_array_equal(small[:, :24], plain[:, :24])
    np.testing.assert_allclose(small[:, 24:], 0.1 * plain[:, 24:], rtol=1e-6)


def test_bad_shapes_are_named():
    recipe = SirenRecipe((8, 8))
    params, images, coords, _ = problem(recipe, 8, 1)
    with pytest.raises(ValueError, match="105 parameters"):
        fit_sirens(params[:, 1:], images, coords, recipe)
    with pytest.raises(ValueError, match="auto, kernel, torch"):
        fit_sirens(params, images, coords, recipe, backend="numpy")


def test_torch_reports_progress_chunk_by_chunk(monkeypatch):
    recipe = SirenRecipe((8, 8), num_steps=2)
    params, images, coords, _ = problem(recipe, 8, 1, count=7)
    monkeypatch.setattr(fit_torch, "CPU_CHUNK_BYTES", 3 * 4 * 64 * 4 * 17)  # three networks
    calls = []
    result = fit_sirens(
        params, images, coords, recipe, backend="torch", progress=lambda count, psnr: calls.append((count, psnr))
    )
    assert [count for count, _ in calls] == [3, 3, 1]
    assert sum(psnr for _, psnr in calls) == pytest.approx(float(result.psnr.sum()))


def test_failed_compilation_falls_back_to_eager(monkeypatch, capsys):
    def broken(function):
        def fail(*args):
            raise RuntimeError("no compiler\nlong story")

        return fail

    monkeypatch.setattr(fit_torch.torch, "compile", broken)
    fit_torch.compiled_step.cache_clear()
    monkeypatch.setattr(fit_torch, "_step", lambda *args: ("eager", *args))
    try:
        step = fit_torch.compiled_step()
        assert [step(1), step(2)] == [("eager", 1), ("eager", 2)]
    finally:
        fit_torch.compiled_step.cache_clear()
    assert capsys.readouterr().err == "fitting without torch.compile, which failed: no compiler\n"


def test_without_compiler_torch_is_used(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NFBENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    load_kernel.cache_clear()
    fit._tell_fallback.cache_clear()
    try:
        assert [fit.choose_backend(), fit.choose_backend()] == ["torch", "torch"]
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert "no C++ compiler found" in told
        assert "install g++ or clang++" in told
        recipe = SirenRecipe((8, 8), num_steps=1)
        params, images, coords, _ = problem(recipe, 8, 1)
        assert np.isfinite(fit_sirens(params, images, coords, recipe).params).all()
        with pytest.raises(KernelUnavailable, match=r"no C\+\+ compiler"):
            fit_sirens(params, images, coords, recipe, backend="kernel")
    finally:
        load_kernel.cache_clear()


@needs_compiler
@other_instructions
def test_processors_with_fewer_instructions(fewer_instructions, monkeypatch):
    library = kernel.load_kernel.__wrapped__()
    assert Path(library._name).parent == fewer_instructions
    monkeypatch.setattr(fit, "load_kernel", lambda: library)
    for case in CASES:
        test_fit_follows_adam("kernel", *case)
