"""Masks have exactly the sparsity that is asked for, whatever the scores."""

import pytest
import torch

from nfbench.weightspace import NetworkSpec, Pruning, densities, largest_within_tensors, random_spec, tensor_counts
from nfbench.weightspace.masks import apportion

SPEC = NetworkSpec.parse("7-9-5:relu")


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.95, 0.999])
def test_the_sparsity_is_exact(sparsity, scope, biases, kind):
    generator = torch.Generator().manual_seed(0)
    rule = Pruning(sparsity, scope, biases)
    for _ in range(5):
        spec = random_spec(generator, kind)
        scores = torch.randn(3, spec.num_params, generator=generator).round()  # with many ties
        prunable = rule.prunable(spec)
        ways = [rule.keep_expected(spec, scores, within) for within in ("tensor", "input")]
        for mask in (*ways, rule.keep_largest(spec, scores)):
            assert (mask & prunable).sum(1).tolist() == [rule.num_kept(spec)] * 3
            assert mask[:, ~prunable].all()
        total = int(prunable.sum())
        if scope == "global":
            assert rule.num_kept(spec) == max(1, round((1 - sparsity) * total))
        else:
            counts = [max(1, round((1 - sparsity) * (w.stop - w.start))) for (w,) in rule.groups(spec)]
            assert [int(mask[0, w].sum()) for (w,) in rule.groups(spec)] == counts


def test_the_largest_are_kept():
    scores = torch.randn(2, SPEC.num_params)
    mask = Pruning(0.9, "global").keep_largest(SPEC, scores)
    prunable = Pruning().prunable(SPEC)
    for row, kept in zip(scores, mask, strict=True):
        assert row[kept & prunable].min() >= row[~kept].max()
    assert int(prunable.sum()) == 7 * 9 + 9 * 5


def test_scopes_differ_where_layers_do():
    scores = torch.randn(1, SPEC.num_params).abs()
    scores[:, SPEC.scalar_slices()[0]] += 10  # the first layer wins everything, unless layers are apart
    assert densities(SPEC, Pruning(0.9, "global").keep_largest(SPEC, scores))[0, 1] == 0
    assert densities(SPEC, Pruning(0.9, "layer").keep_largest(SPEC, scores))[0, 1] > 0


def test_the_largest_of_each_tensor():
    mask = Pruning(0.8, "global", biases=True).keep_largest(SPEC, torch.randn(4, SPEC.num_params))
    scores = torch.randn(4, SPEC.num_params)
    largest = largest_within_tensors(SPEC, scores, tensor_counts(SPEC, mask))
    assert not torch.equal(largest, mask)
    for where in SPEC.scalar_slices():
        for row, kept, wanted in zip(scores[:, where], largest[:, where], mask[:, where], strict=True):
            assert kept.sum() == wanted.sum()
            assert set(row[kept].tolist()) == set(row.sort(descending=True).values[: int(wanted.sum())].tolist())


def test_expected_densities():
    first, second = SPEC.scalar_slices()[::2]
    logits = torch.full((1, SPEC.num_params), -3.0)
    logits[:, second] = -2.0  # all above the first layer, which has more weights
    logits += 1e-3 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    rule = Pruning(0.8)
    assert rule.keep_largest(SPEC, logits)[0, first].sum() == 0
    mask = rule.keep_expected(SPEC, logits)[0]
    odds = [63 / (1 + torch.e**3), 45 / (1 + torch.e**2)]
    assert mask[first].sum() == round(rule.num_kept(SPEC) * odds[0] / sum(odds))
    for where in (first, second):
        assert logits[0, where][mask[where]].min() > logits[0, where][~mask[where]].max()


@pytest.mark.parametrize("text", ["4-6-5:relu", "2-3c3-4-5:relu"])
def test_expected_densities_of_inputs(text):
    spec = NetworkSpec.parse(text)
    where, shape = spec.scalar_slices()[0], spec.parameter_shapes()[0]
    logits = torch.full((2, spec.num_params), -9.0)
    weight = torch.zeros(2, *shape)
    weight[:, :, 0] = 5.0
    logits[:, where] = (weight + 0.1 * torch.randn(weight.shape)).flatten(1)
    rule = Pruning(0.7, "layer")
    mask = rule.keep_expected(spec, logits, "input")[:, where].reshape(weight.shape)
    chances = torch.tensor([5.0, 0.0]).sigmoid()
    share = chances[0] / (chances[0] + (shape[1] - 1) * chances[1])
    assert (mask[:, :, 0].flatten(1).sum(1) - rule.kept(mask[0].numel()) * share).abs().max() < 1
    for row, kept in zip(logits[:, where].reshape(weight.shape), mask, strict=True):
        for i in range(shape[1]):  # the largest of each input
            assert kept[:, i].all() or row[:, i][kept[:, i]].min() > row[:, i][~kept[:, i]].max()
    with pytest.raises(ValueError, match="tensor, input"):
        rule.keep_expected(spec, logits, "output")


def test_parts_of_a_number():
    sizes = torch.tensor([3, 10, 100])
    shares = torch.tensor([[1.0, 1.0, 1.0], [9.0, 9.0, 1.0], [0.0, 0.0, 1.0], [1e6, 1.0, 1e-9]])
    assert apportion(20, shares, sizes).tolist() == [[3, 9, 8], [3, 10, 7], [0, 0, 20], [3, 10, 7]]
    assert apportion(113, shares, sizes).tolist() == [sizes.tolist()] * 4
    random = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) ** 8
    for total in (1, 2, 14, 60, 112):
        found = apportion(total, random, sizes)
        assert (found.sum(1) == total).all()
        assert (found <= sizes).all()


@pytest.mark.parametrize(("values", "message"), [((1.0,), "below 1"), ((0.5, "all"), "global, layer")])
def test_what_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Pruning(*values)


def test_scores_without_order_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        Pruning().keep_largest(SPEC, torch.full((1, SPEC.num_params), torch.nan))
    with pytest.raises(ValueError, match="entries to score"):
        Pruning().keep_largest(SPEC, torch.zeros(1, 3))
