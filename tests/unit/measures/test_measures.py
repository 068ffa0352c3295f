"""Measures of stacked classifiers against their definitions, torch's own modules and exact Hessians."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nfbench.measures import (
    MEASURES,
    Settings,
    classifier_jacobian_norms,
    cross_entropies,
    difference_product,
    filter_normalize,
    hessian_product,
    line,
    logits,
    margins,
    measure,
    network_direction,
    plane,
    random_direction,
    sharpness,
    top_eigenvalue,
    weight_norms,
)
from nfbench.weightspace import NetworkSpec

CNN = NetworkSpec.parse("1-3c3-4c3-4:tanh")
MLP = NetworkSpec.parse("12-5-4:relu")
SPECS = [CNN, NetworkSpec.parse("2-3c2x3-4c3-5-4:relu"), MLP, NetworkSpec.parse("1-2c3-3c2:sigmoid")]


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def module_of(spec: NetworkSpec, flat: Tensor) -> nn.Sequential:
    """The same network from torch's modules, which reads images (n, S, H, W)."""
    parts: list[nn.Module] = [] if spec.layers[0].is_conv else [nn.Flatten()]
    for i, layer in enumerate(spec.layers):
        if i and not layer.is_conv and spec.layers[i - 1].is_conv:
            parts.append(Mean())
        make = nn.Conv2d(layer.in_size, layer.out_size, layer.kernel, stride=2) if layer.is_conv else None
        parts.append(make or nn.Linear(layer.in_size, layer.out_size))
        if i < spec.num_layers - 1:
            parts.append(ACTIVATIONS[spec.activation]())
    if spec.layers[-1].is_conv:
        parts.append(Mean())
    net = nn.Sequential(*parts).to(flat.dtype)
    nn.utils.vector_to_parameters(flat, net.parameters())
    return net


def networks(spec: NetworkSpec, count: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.5 * torch.randn(count, spec.num_params, generator=generator, dtype=torch.float64).to(dtype)


def images(spec: NetworkSpec, count: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    shape = (9, 8, spec.sizes[0]) if spec.layers[0].is_conv else (3, 4, 1)
    pixels = torch.rand(count, *shape, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1
    return pixels, torch.randint(0, spec.sizes[-1], (count,), generator=generator)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_stacked_networks_compute_what_modules_compute(spec, dtype, tolerance) -> None:
    params, (pixels, labels) = networks(spec, dtype=dtype), images(spec, dtype=dtype)
    ours, losses = logits(spec, params, pixels), cross_entropies(spec, pixels, labels)(params)
    for b, flat in enumerate(params):
        theirs = module_of(spec, flat)(pixels.permute(0, 3, 1, 2))
        torch.testing.assert_close(ours[b], theirs, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(losses[b], cross_entropy(theirs, labels), rtol=tolerance, atol=tolerance)
    own = pixels.expand(len(params), *pixels.shape)
    torch.testing.assert_close(logits(spec, params, own), ours, rtol=tolerance, atol=tolerance)


def test_errors_name_what_does_not_fit() -> None:
    params, (pixels, labels) = networks(CNN), images(CNN)
    with pytest.raises(ValueError, match=r"has 162 parameters, got weights \(3, 59\)"):
        logits(CNN, params[:, :59], pixels)
    with pytest.raises(ValueError, match=r"takes 1 channels, got images \(9, 8, 3\)"):
        logits(CNN, params, pixels.expand(-1, -1, -1, 3))
    with pytest.raises(ValueError, match=r"kernel \(3, 3\) does not fit into \(2, 2\)"):
        logits(CNN, params, pixels[:, :5, :5])
    with pytest.raises(ValueError, match="do not fit the 4 classes"):
        measure(CNN, params, pixels, labels + 4, Settings())
    with pytest.raises(ValueError, match=r"radius=0\.0 must be positive"):
        Settings(radius=0.0)
    with pytest.raises(ValueError, match="choose one of filter, layer, unit"):
        network_direction(CNN, params, 0, "filters")


def test_top_eigenvalue_of_quadratics() -> None:
    generator = torch.Generator().manual_seed(1)
    half = torch.randn(4, 30, 30, generator=generator, dtype=torch.float64)
    matrices = half + half.mT
    matrices[1] = -half[1] @ half[1].mT  # no positive eigenvalue
    matrices[2] = 0.0
    matrices[3] = torch.outer(half[3, 0], half[3, 0])  # of rank one: the basis is exhausted after two steps
    exact = torch.linalg.eigvalsh(matrices)[:, -1]

    def losses(params: Tensor) -> Tensor:
        return 0.5 * torch.einsum("bi,bij,bj->b", params, matrices, params)

    params = torch.randn(4, 30, generator=generator, dtype=torch.float64)
    found = top_eigenvalue(hessian_product(losses, params), params, tolerance=1e-6)
    torch.testing.assert_close(found.value, exact, rtol=1e-9, atol=1e-9)
    assert found.converged.all()
    assert found.steps <= 30
    few = top_eigenvalue(hessian_product(losses, params), params, tolerance=1e-6, max_steps=3)
    assert few.steps == 3
    assert few.converged.tolist() == [False, False, True, True]
    assert ((few.value - exact)[:2] < -1e-2).all()  # still below, as it says
    nearest = (few.value.unsqueeze(1) - torch.linalg.eigvalsh(matrices)).abs().amin(1)
    assert (nearest <= few.residual + 1e-9).all()


@pytest.mark.parametrize("spec", [CNN, MLP], ids=str)
def test_top_eigenvalue_is_that_of_the_exact_hessian(spec) -> None:
    params, (pixels, labels) = networks(spec), images(spec)
    losses = cross_entropies(spec, pixels, labels)
    exact = []
    for flat in params:
        hessian = torch.autograd.functional.hessian(lambda p: losses(p.unsqueeze(0))[0], flat)
        exact.append(torch.linalg.eigvalsh(hessian)[-1])
    found = top_eigenvalue(hessian_product(losses, params), params, tolerance=1e-6)
    torch.testing.assert_close(found.value, torch.stack(exact), rtol=1e-9, atol=0.0)
    rough = top_eigenvalue(hessian_product(losses, params), params)  # the default tolerance
    torch.testing.assert_close(rough.value, torch.stack(exact), rtol=1e-4, atol=0.0)
    losses32 = cross_entropies(spec, pixels.float(), labels)
    single = top_eigenvalue(hessian_product(losses32, params.float()), params.float())
    torch.testing.assert_close(single.value.double(), torch.stack(exact), rtol=1e-4, atol=0.0)

    def gradient(at: Tensor) -> Tensor:
        return torch.func.grad(lambda p: losses(p).sum())(at)

    if spec.activation == "tanh":  # differences would cross the kinks of relu
        differences = top_eigenvalue(difference_product(gradient, params), params, tolerance=1e-6)
        torch.testing.assert_close(differences.value, torch.stack(exact), rtol=1e-6, atol=0.0)


def test_filters_are_normalised_as_defined() -> None:
    generator = torch.Generator().manual_seed(2)
    direction, weight = (torch.randn(4, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    found = filter_normalize(direction, weight)
    for j in range(4):
        expected = direction[j] / direction[j].norm() * weight[j].norm()
        torch.testing.assert_close(found[j], expected, rtol=1e-12, atol=0.0)
    params = networks(CNN)
    flat = network_direction(CNN, params, seed=5)
    again = network_direction(CNN, params[1:], seed=5)
    torch.testing.assert_close(flat[1:], again, rtol=0.0, atol=0.0)
    for b in range(len(params)):
        for i, (where, shape) in enumerate(zip(CNN.scalar_slices(), CNN.parameter_shapes(), strict=True)):
            d, w = flat[b, where].reshape(shape), params[b, where].reshape(shape)
            if i % 2:
                assert not d.any()  # biases stay
            else:
                torch.testing.assert_close(d.flatten(1).norm(dim=1), w.flatten(1).norm(dim=1))
    moved = network_direction(CNN, params, seed=5, biases=True)
    torch.testing.assert_close(moved[:, CNN.scalar_slices()[1]].abs(), params[:, CNN.scalar_slices()[1]].abs())
    layer = random_direction([weight], 0, "layer")[0]
    torch.testing.assert_close(layer.norm(), weight.norm())
    assert not torch.allclose(layer.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    torch.testing.assert_close(network_direction(CNN, params, 0, "unit").norm(dim=1), params.new_ones(3))


def rescaled(spec: NetworkSpec, params: Tensor, factor: float) -> Tensor:
    """The first layer times `factor`, the weights of the next one by it: the same function with relu."""
    where, scaled = spec.scalar_slices(), params.clone()
    scaled[:, where[0]] *= factor
    scaled[:, where[1]] *= factor
    scaled[:, where[2]] /= factor
    return scaled


@pytest.mark.parametrize("biases", [False, True])
def test_filter_normalised_sharpness_does_not_see_the_scale_of_relu_layers(biases) -> None:
    spec = replace(SPECS[1], activation="relu")
    params, (pixels, labels) = networks(spec), images(spec)
    losses, scaled = cross_entropies(spec, pixels, labels), rescaled(spec, params, 7.0)
    at = torch.linspace(-1, 1, 5)

    def values(weights: Tensor, norm: str) -> tuple[Tensor, Tensor, Tensor]:
        d, e = (network_direction(spec, weights, seed, norm, biases) for seed in range(2))
        sharp = sharpness(losses, weights, [d, e], 0.3)
        return sharp, line(losses, weights[0], d[0], at), plane(losses, weights[0], d[0], e[0], at)

    for ours, theirs in zip(values(params, "filter"), values(scaled, "filter"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(values(params, "unit"), values(scaled, "unit"), strict=True):
        assert not torch.allclose(ours, theirs, rtol=1e-2)
    norms, others = weight_norms(spec, params), weight_norms(spec, scaled)
    torch.testing.assert_close(norms["log_spectral"], others["log_spectral"])
    assert not torch.allclose(norms["l2_norm"], others["l2_norm"], rtol=1e-2)
    tanh = replace(spec, activation="tanh")  # not the same function any more
    losses = cross_entropies(tanh, pixels, labels)
    assert not torch.allclose(values(params, "filter")[0], values(scaled, "filter")[0], rtol=1e-2)


def test_the_hessian_does_see_the_scale() -> None:
    params, (pixels, labels) = networks(MLP), images(MLP)
    losses = cross_entropies(MLP, pixels, labels)
    scaled = rescaled(MLP, params, 7.0)
    torch.testing.assert_close(losses(scaled), losses(params))
    ours, theirs = (top_eigenvalue(hessian_product(losses, p), p).value for p in (params, scaled))
    assert (theirs > 2 * ours).all()


def test_lines_and_planes_are_losses_at_their_points() -> None:
    params, (pixels, labels) = networks(CNN), images(CNN)
    losses = cross_entropies(CNN, pixels, labels)
    d, e = (network_direction(CNN, params, seed)[0] for seed in range(2))
    at, counted = torch.tensor([-0.5, 0.0, 1.0], dtype=torch.float64), []
    curve = line(losses, params[0], d, at)
    surface = plane(losses, params[0], d, e, at, counted.append)
    assert sum(counted) == 9
    for i, a in enumerate(at):
        for j, b in enumerate(at):
            torch.testing.assert_close(surface[i, j], losses((params[0] + a * d + b * e).unsqueeze(0))[0])
    torch.testing.assert_close(curve, surface[:, 1])
    increase = sharpness(losses, params, [network_direction(CNN, params, 0)], 1.0)
    torch.testing.assert_close(increase[0, 0], curve[2] - curve[1])


@pytest.mark.parametrize("spec", [CNN, MLP], ids=str)
def test_jacobian_norms_are_those_of_the_jacobian(spec) -> None:
    params, (pixels, _) = networks(spec), images(spec)
    norms = classifier_jacobian_norms(spec, params, pixels)
    for b, flat in enumerate(params):
        for n, image in enumerate(pixels):
            jacobian = torch.autograd.functional.jacobian(
                lambda x, flat=flat: logits(spec, flat.unsqueeze(0), x.unsqueeze(0))[0, 0], image
            ).flatten(1)
            torch.testing.assert_close(norms.frobenius[b, n], torch.linalg.matrix_norm(jacobian), rtol=1e-9, atol=0)
            torch.testing.assert_close(norms.spectral[b, n], torch.linalg.matrix_norm(jacobian, 2), rtol=1e-9, atol=0)


def test_margins_and_weight_norms() -> None:
    z = torch.tensor([[[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]]])
    assert margins(z, torch.tensor([1, 0])).tolist() == [[1.0, -2.0]]
    spec = NetworkSpec.parse("1-2c1-2:relu")
    params = torch.tensor([[3.0, 4.0, 1.0, 1.0, 2.0, 0.0, 0.0, 1.0, 0.0, 0.0]])  # (3, 4); diag(2, 1)
    norms = weight_norms(spec, params)
    assert norms["l2_norm"].item() == pytest.approx(32**0.5)
    assert norms["log_spectral"].exp().item() == pytest.approx(5 * 2)
    assert norms["log_frobenius"].exp().item() == pytest.approx(5 * 5**0.5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-3)])
def test_a_batch_is_measured_as_one_at_a_time_and_overflow_is_told(dtype, tolerance) -> None:
    spec = replace(CNN, activation="relu")
    params, (pixels, labels) = networks(spec, 4, dtype=dtype), images(spec, 12, dtype=dtype)
    params[3] *= torch.finfo(dtype).max / 10
    settings = Settings(directions=3, jacobian_images=5)
    found = measure(spec, params, pixels, labels, settings)
    assert list(found) == list(MEASURES)
    for b in range(3):
        alone = measure(spec, params[b : b + 1], pixels, labels, settings)
        for name in MEASURES.keys() - {"hessian_residual"}:  # it has stopped at its own tolerance in either case
            torch.testing.assert_close(found[name][b], alone[name][0], rtol=tolerance, atol=tolerance, msg=name)
    assert all(values[:3].isfinite().all() for values in found.values())
    for name in ("loss", "sharpness_mean", "hessian_top", "jacobian_spectral", "margin_p10", "l2_norm"):
        assert found[name][3].isnan(), name
