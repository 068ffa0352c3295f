"""Rendering: against one network at a time, the cells of Inr2Array's grids, and gradients."""

import math

import pytest
import torch

from nfbench.weightspace import NetworkSpec, NeuronPermutation, permute_uncoupled, random_features
from nfbench.weightspace.render import CellRenderer, nearest_cells, render
from nfbench.zoos.fit import pixel_grid, render_flat
from nfbench.zoos.recipe import make_recipe

F64 = torch.float64


def sirens(text, batch, dtype=F64, scale=0.3):
    """Random networks whose sines have moderate angles."""
    x = random_features(NetworkSpec.parse(text), batch, 1, torch.Generator().manual_seed(0), dtype)
    return x.map(lambda t: scale * t)


def evaluate(network, coords, w0_first, w0_hidden):
    """One network, layer by layer, from its state dict."""
    tensors = list(network.to_state_dicts()[0].values())
    h = coords
    for i, (weight, bias) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
        h = h @ weight.T + bias
        if 2 * i + 2 < len(tensors):
            h = torch.sin((w0_hidden if i else w0_first) * h)
    return h


def grid(size, dtype=torch.float32):
    return torch.from_numpy(pixel_grid(size, size, "ij")).to(dtype)


@pytest.mark.parametrize("text", ["2-7-5-3:sine", "1-4-1:sine", "3-2:sine", "2-1-3-2-4:sine"])
def test_render_against_one_network_at_a_time(text):
    x = sirens(text, 3)
    generator = torch.Generator().manual_seed(1)
    shared = torch.rand(11, x.spec.sizes[0], generator=generator, dtype=F64)
    own = torch.rand(3, 11, x.spec.sizes[0], generator=generator, dtype=F64)
    for coords in (shared, own):
        got = render(x, coords, 7.0, 3.0, 0.5)
        assert got.shape == (3, 11, x.spec.sizes[-1])
        for i in range(3):
            points = coords if coords.ndim == 2 else coords[i]
            assert torch.allclose(got[i], evaluate(x[i], points, 7.0, 3.0) + 0.5, rtol=1e-9, atol=1e-12)


def test_render_is_what_the_zoo_fits():
    recipe, _ = make_recipe("nfn")
    x = sirens("2-32-32-3:sine", 4, torch.float32, 0.1)
    theirs = render_flat(x.flatten()[..., 0], (2, 32, 32, 3), grid(8), recipe)
    ours = render(x, grid(8), recipe.w0_first, recipe.w0_hidden, recipe.output_offset)
    ours = (ours - recipe.pixel_min) / (recipe.pixel_max - recipe.pixel_min)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_neuron_permutations_do_not_change_the_picture_and_others_do():
    x, coords = sirens("2-6-5-1:sine", 3), grid(5, F64)
    generator = torch.Generator().manual_seed(0)
    expected = render(x, coords)
    permuted = NeuronPermutation.sample(x.spec, 3, generator, "hnp").apply(x)
    assert torch.allclose(render(permuted, coords), expected, rtol=1e-9, atol=1e-9)
    assert (render(permute_uncoupled(x, generator), coords) - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("size", "side", "tiling", "expected"),
    [
        (28, 4, "corners", [5, 9, 9, 5]),
        (28, 8, "corners", [2, 4, 4, 4, 4, 4, 4, 2]),
        (32, 4, "corners", [6, 10, 10, 6]),
        (28, 2, "corners", [14, 14]),
        (28, 1, "corners", [28]),
        (28, 4, "patches", [7, 7, 7, 7]),
        (32, 8, "patches", [4] * 8),
        (9, 5, "corners", [2, 1, 3, 1, 2]),  # every other pixel lies between two cells: halves go to the even index
        (9, 4, "patches", [2, 2, 2, 3]),
    ],
)
def test_pixels_of_each_cell(size, side, tiling, expected):
    cells = nearest_cells(grid(size), side, tiling).view(size, size)
    assert (cells[:, 0] // side).bincount(minlength=side).tolist() == expected  # rows count slowest
    assert cells[0].bincount(minlength=side).tolist() == expected
    assert torch.equal(cells, cells[:, :1] + cells[:1])


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("side", [2, 4, 8])
def test_corner_cells_are_those_of_the_formula(size, side):
    x = grid(size)
    index = torch.round((side - 1) * (x + 1) / 2).long()
    assert torch.equal(nearest_cells(x, side), index[:, 0] * side + index[:, 1])


def test_cells_in_other_dimensions_and_beyond_the_border():
    line = torch.tensor([[-3.0], [-0.2], [0.2], [5.0]])
    assert nearest_cells(line, 2).tolist() == nearest_cells(line, 2, "patches").tolist() == [0, 0, 1, 1]
    assert nearest_cells(torch.tensor([[1.0, -1.0, 1.0]]), 3).tolist() == [2 * 9 + 2]


@pytest.mark.parametrize("tiling", ["corners", "patches"])
@pytest.mark.parametrize(("size", "side"), [(6, 1), (6, 2), (7, 4), (3, 5)])
def test_each_pixel_is_drawn_by_its_cells_network(size, side, tiling):
    coords = grid(size, F64)[torch.randperm(size**2, generator=torch.Generator().manual_seed(3))]
    x = sirens("2-5-4-2:sine", 2 * side**2)
    got = CellRenderer(coords, side, tiling, 5.0, 4.0, 0.25)(x)
    assert got.shape == (2, size**2, 2)
    for b in range(2):
        for p, cell in enumerate(nearest_cells(coords, side, tiling).tolist()):
            expected = evaluate(x[b * side**2 + cell], coords[p], 5.0, 4.0) + 0.25
            assert torch.allclose(got[b, p], expected, rtol=1e-9, atol=1e-12)


def test_cells_of_a_size_go_together_and_no_pixel_twice():
    assert CellRenderer(grid(28), 4).groups == [(4, 25), (8, 45), (4, 81)]
    assert CellRenderer(grid(28), 4, "patches").groups == [(16, 49)]
    renderer = CellRenderer(grid(3), 5)
    assert sum(cells * points for cells, points in renderer.groups) == 9
    assert not renderer.state_dict()


def test_a_cell_depends_on_its_own_network_only():
    renderer = CellRenderer(grid(8, F64), 2)
    x = sirens("2-4-1:sine", 4)
    changed = x.map(lambda t: torch.cat([t[:3], t[3:] + 1]))
    same = torch.isclose(renderer(x), renderer(changed), rtol=1e-12)[0, :, 0].view(8, 8)
    assert same[:4].all()
    assert same[4:, :4].all()
    assert not same[4:, 4:].any()


def test_gradients_agree_with_finite_differences():
    coords = grid(4, F64)
    spec = NetworkSpec.parse("2-3-2-2:sine")
    renderer = CellRenderer(coords, 2, w0_first=3.0, w0_hidden=2.0)

    def draw(*tensors):
        return renderer(type(x)(spec, tensors[:3], tensors[3:]))

    x = sirens("2-3-2-2:sine", 4)
    inputs = [t.requires_grad_() for t in (*x.weights, *x.biases)]
    assert torch.autograd.gradcheck(draw, inputs)
    points = coords[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: render(x.map(torch.detach), p, 3.0, 2.0), points)


def test_half_precision_is_raised():
    x = sirens("2-8-1:sine", 2, torch.float32)
    expected = render(x, grid(4))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(render(x, grid(4)), expected)
    half = x.to(torch.bfloat16)
    assert torch.equal(render(half, grid(4)), render(half.to(torch.float32), grid(4)))


def test_the_derivative_of_a_sine_network():
    """sin(w0 (w x + b)) has the slope w0 w cos(w0 (w x + b))."""
    x = sirens("1-1-1:sine", 1)
    point = torch.tensor([[0.3]], dtype=F64, requires_grad=True)
    render(x, point, w0_first=4.0).backward()
    (w1, w2), b = (t.item() for t in x.weights), x.biases[0].item()
    assert math.isclose(point.grad.item(), w2 * 4 * w1 * math.cos(4 * (w1 * 0.3 + b)), rel_tol=1e-9)


def test_errors_say_what_is_allowed():
    with pytest.raises(ValueError, match="only dense sine networks"):
        render(sirens("2-3-1:relu", 1), grid(2, F64))
    with pytest.raises(ValueError, match="only dense sine networks"):
        render(sirens("2-3c3-1:sine", 1), grid(2, F64))
    with pytest.raises(ValueError, match="takes 3 coordinates, got points of 2"):
        render(sirens("3-3-1:sine", 1), grid(2, F64))
    with pytest.raises(ValueError, match="one number for each parameter, these have 2"):
        render(sirens("2-3-1:sine", 1).map(lambda t: t.repeat_interleave(2, -1)), grid(2, F64))
    with pytest.raises(ValueError, match="one of corners, patches, got 2 and 'square'"):
        nearest_cells(grid(2), 2, "square")
    with pytest.raises(ValueError, match="side must be at least 1"):
        CellRenderer(grid(2), 0)
    with pytest.raises(ValueError, match="4 networks draw an image, got 6"):
        CellRenderer(grid(2, F64), 2)(sirens("2-3-1:sine", 6))
