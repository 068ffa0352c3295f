import itertools

import numpy as np
import pytest
import torch
from torch import nn

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures, random_features, random_spec

SPEC = NetworkSpec.parse("1-4c3-6c1x2-3:relu")


def features(spec=SPEC, batch_size=3, channels=2):
    return random_features(spec, batch_size, channels, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_flatten_and_from_flat_are_inverse(kind):
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        spec = random_spec(generator, kind)
        flat = torch.randn(2, spec.num_params, 3, generator=generator)
        x = WeightSpaceFeatures.from_flat(spec, flat)
        x.check()
        assert torch.equal(x.flatten(), flat)
        assert torch.equal(WeightSpaceFeatures.from_flat(spec, flat[..., 0]).flatten(), flat[..., :1])


def test_state_dicts_come_back_and_follow_parameters_to_vector():
    def network():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, (1, 2)), nn.ReLU(), nn.Linear(6, 3))

    modules = [network(), network()]
    states = [module.state_dict() for module in modules]
    x = WeightSpaceFeatures.from_state_dicts(NetworkSpec.from_module(modules[0]), states)
    assert x.spec == SPEC
    assert x.weights[1].shape == (2, 6, 4, 2, 1)
    vectors = torch.stack([nn.utils.parameters_to_vector(module.parameters()) for module in modules])
    assert torch.equal(x.flatten()[..., 0], vectors)
    for given, got in zip(states, x.to_state_dicts(list(states[0])), strict=True):
        assert given.keys() == got.keys()
        assert all(torch.equal(given[key], got[key]) for key in given)
        modules[0].load_state_dict(got)


@pytest.mark.parametrize("biases", list(itertools.product([True, False], repeat=3)))
def test_state_dicts_without_biases_get_zeros(biases):
    first, second, third = biases
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=first), nn.Conv2d(4, 6, (1, 2), bias=second), nn.Linear(6, 3, third))
    x = WeightSpaceFeatures.from_state_dicts(SPEC, [net.state_dict()]).check()
    for layer, weight, bias in zip(net, x.weights, x.biases, strict=True):
        assert torch.equal(weight.flatten(), layer.weight.flatten())
        expected = torch.zeros(bias.numel()) if layer.bias is None else layer.bias
        assert torch.equal(bias.flatten(), expected)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 1)), "read_networks"),
        ((nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), "read_networks"),
        ((nn.Linear(2, 3, bias=False), nn.PReLU(3), nn.Linear(3, 1)), "'1.weight' is where the bias of layer 0 is due"),
        ((nn.Linear(2, 3), nn.PReLU(3), nn.Linear(3, 1)), "has 5 tensors"),
    ],
)
def test_state_dicts_with_other_tensors_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        WeightSpaceFeatures.from_state_dicts(NetworkSpec.parse("2-3-1"), [nn.Sequential(*layers).state_dict()])


def test_state_dict_errors_name_the_tensor():
    state = nn.Linear(2, 3).state_dict()
    with pytest.raises(ValueError, match=r"'weight' has the shape \(3, 2\).*needs \(4, 2\)"):
        WeightSpaceFeatures.from_state_dicts(NetworkSpec.parse("2-4"), [state])
    with pytest.raises(ValueError, match="has 2 tensors"):
        WeightSpaceFeatures.from_state_dicts(NetworkSpec.parse("2-4-1"), [state])
    with pytest.raises(ValueError, match="at least one"):
        WeightSpaceFeatures.from_state_dicts(SPEC, [])
    with pytest.raises(ValueError, match="these features have 2"):
        features().to_state_dicts()
    with pytest.raises(ValueError, match="got 1 names"):
        features(channels=1).to_state_dicts(["weight"])


def test_map_zip_index_and_to():
    x = features()
    assert torch.equal((x + x).flatten(), 2 * x.flatten())
    assert torch.equal(x.map(torch.relu).flatten(), x.flatten().relu())
    assert torch.equal(x.zip(x, torch.mul).flatten(), x.flatten() ** 2)
    assert torch.equal(x[1].flatten(), x.flatten()[1:2])
    assert torch.equal(x[-1].flatten(), x.flatten()[2:])
    assert torch.equal(x[[2, 0]].flatten(), x.flatten()[[2, 0]])
    assert torch.equal(x[torch.tensor([True, False, True])].flatten(), x.flatten()[[0, 2]])
    assert x.to(torch.float64).weights[0].dtype == torch.float64
    assert (len(x), x.batch_size, x.channels) == (3, 3, 2)
    assert [len(one) for one in x] == [1, 1, 1]
    for one in (1, np.int64(1), torch.tensor(1)):
        assert torch.equal(x[one].flatten(), x.flatten()[1:2])
    with pytest.raises(IndexError, match="network 3 of a batch of 3"):
        x[3]
    with pytest.raises(ValueError, match="cannot be combined"):
        x + features(NetworkSpec.parse("2-3-1"))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=rf"a batch of networks is \(B, {SPEC.num_params}\).*got \(2, 5\)"):
        WeightSpaceFeatures.from_flat(SPEC, torch.zeros(2, 5))
    x = features()
    with pytest.raises(ValueError, match="got 2 weights and 3 biases"):
        WeightSpaceFeatures(SPEC, x.weights[:2], x.biases)
    broken = WeightSpaceFeatures(SPEC, x.weights, (x.biases[0], x.biases[1][:, :5], x.biases[2]))
    with pytest.raises(ValueError, match=r"bias of layer 1 .* is \(3, 5, 2\), needs \(3, 6, 2\)"):
        broken.check()
