"""Errors of rendered networks and their gradients: the compiled kernel against torch, torch against differences."""

import numpy as np
import pytest
import torch
from kernels import has_compiler, needs_compiler

from nfbench.weightspace import NetworkSpec
from nfbench.zoos import render as module
from nfbench.zoos.fit import fit_sirens, init_params, pixel_grid
from nfbench.zoos.kernel import KernelUnavailable
from nfbench.zoos.recipe import BETA1, BETA2, EPS, SirenRecipe
from nfbench.zoos.render import pixel_errors

# sizes and side of the image: widths that are no multiple of a vector, one to four sine layers, one to four outputs
CASES = [("2-32-32-1", 28), ("2-32-32-3", 12), ("2-5-7-3-2", 9), ("2-24-13-9-33-4", 5), ("2-40-1", 7), ("2-1-1", 3)]


def problem(text, side, count=5, dtype=torch.float32, **recipe):
    spec = NetworkSpec.parse(f"{text}:sine")
    recipe = SirenRecipe(spec.sizes[1:-1], **{"output_offset": 0.5, "w0_hidden": 20.0, **recipe})
    ids = np.arange(count)
    flat = torch.from_numpy(init_params(recipe, spec.sizes, "test", ids, 0 * ids)).to(dtype)
    targets = torch.rand(count, side**2, spec.sizes[-1], generator=torch.Generator().manual_seed(0)).to(dtype)
    return flat, spec, torch.from_numpy(pixel_grid(side, side)).to(dtype), targets, recipe


def differentiated(arguments, backend, weights):
    flat = arguments[0].clone().requires_grad_()
    errors = pixel_errors(flat, *arguments[1:], backend=backend)
    (errors * weights).sum().backward()
    return errors.detach(), flat.grad


@needs_compiler
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("text", "side"), CASES)
def test_the_kernel_is_torch_in_float64(text, side, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    weights = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0])
    errors, gradient = differentiated(problem(text, side), "kernel", weights)
    exact_errors, exact = differentiated(problem(text, side, dtype=torch.float64), "torch", weights.double())
    assert errors.dtype == gradient.dtype == torch.float32
    assert torch.allclose(errors.double(), exact_errors, rtol=1e-4)
    assert not gradient[2].any()
    scale = exact.abs().amax(1, keepdim=True)
    assert ((gradient - exact).abs() <= 1e-4 * scale).all()
    assert gradient[[0, 1, 3, 4]].abs().amax(1).min() > 0


@needs_compiler
def test_a_network_does_not_see_its_batch():
    flat, *rest, targets, recipe = problem("2-32-32-1", 28)
    weights = torch.ones(5)
    errors, gradient = differentiated((flat, *rest, targets, recipe), "kernel", weights)
    some, part = differentiated((flat[3:], *rest, targets[3:], recipe), "kernel", weights[3:])
    assert torch.equal(some, errors[3:])
    assert torch.equal(part, gradient[3:])


@needs_compiler
def test_it_is_the_gradient_of_the_fit():
    """One Adam step from zero moments has the size of lr and the sign of the gradient."""
    flat, spec, coords, targets, recipe = problem("2-8-8-1", 6, lr=1e-3, num_steps=1)
    _, gradient = differentiated((flat, spec, coords, targets, recipe), "kernel", torch.ones(5))
    fitted = fit_sirens(flat.numpy(), targets.numpy(), coords.numpy(), recipe, backend="kernel").params
    assert 0 < BETA1 < BETA2 < 1
    step = -recipe.lr * gradient / (gradient.abs() + EPS)
    assert torch.allclose(torch.from_numpy(fitted), flat + step, atol=1e-7)


@pytest.mark.parametrize("text", ["2-3-1", "2-4-3-2"])
def test_gradients_agree_with_finite_differences(text):
    flat, *rest = problem(text, 4, 3, torch.float64, w0_first=3.0, w0_hidden=2.0)
    assert torch.autograd.gradcheck(lambda x: pixel_errors(x, *rest), flat.requires_grad_())


def test_who_draws(monkeypatch):
    flat, *rest = problem("2-4-1", 4)
    used = []
    monkeypatch.setattr(module._KernelErrors, "apply", lambda *_: used.append(1) or torch.zeros(5))
    monkeypatch.setattr(module, "_has_kernel", lambda: True)
    pixel_errors(flat, *rest)
    assert used
    assert pixel_errors(flat, *rest, backend="torch").shape == (5,)
    pixel_errors(flat.double(), *(t.double() if isinstance(t, torch.Tensor) else t for t in rest))
    pixel_errors(*problem("2-3-5", 4))
    monkeypatch.setattr(module, "_has_kernel", lambda: False)
    pixel_errors(flat, *rest)
    assert len(used) == 1, "float64, more outputs than the kernel has, and no compiler take torch"


def test_what_is_refused(monkeypatch):
    arguments = problem("2-4-1", 4)
    with pytest.raises(ValueError, match="Choose one of: auto, kernel, torch"):
        pixel_errors(*arguments, backend="cuda")

    def none():
        raise KernelUnavailable("no C++ compiler found")

    if has_compiler():
        with pytest.raises(ValueError, match=r"beyond the kernel: .* 1-4 outputs"):
            pixel_errors(*problem("2-3-5", 4), backend="kernel")
    monkeypatch.setattr(module, "load_kernel", none)
    with pytest.raises(KernelUnavailable):
        pixel_errors(*arguments, backend="kernel")


@needs_compiler
def test_no_gradient_is_made_where_none_is_asked():
    flat, *rest = problem("2-8-1", 5)
    with torch.inference_mode():
        without = pixel_errors(flat, *rest, backend="kernel")
    assert not without.requires_grad
    assert torch.equal(without, differentiated((flat, *rest), "kernel", torch.ones(5))[0])
