"""Networks read from modules compute what the modules compute, and what cannot be read says why."""

import copy
import itertools

import pytest
import torch
from torch import nn

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures, read_networks

DENSE_INPUT, PICTURE = (5, 3), (4, 2, 9, 8)
RELU = nn.ReLU()  # one module in several places, as people write it


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(x)


def conv(*args, **options):
    return nn.Conv2d(*args, bias=False, **options)


def end(channels):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)


READABLE = {
    "one layer, no bias": [nn.Linear(3, 2, bias=False)],
    "no biases": [nn.Linear(3, 4, bias=False), RELU, nn.Linear(4, 1, bias=False), RELU, nn.Linear(1, 2, bias=False)],
    "some biases": [nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2)],
    "norm, activation": [nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), RELU, nn.Linear(4, 2)],
    "activation, norm": [nn.Linear(3, 4), RELU, nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2, bias=False)],
    "norms first and last": [nn.BatchNorm1d(3), nn.Linear(3, 4), RELU, nn.Linear(4, 2), nn.BatchNorm1d(2)],
    "several norms": [
        *(nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 4)),
        *(nn.BatchNorm1d(4), nn.Dropout(), nn.BatchNorm1d(4), nn.SiLU()),
        *(nn.BatchNorm1d(4), nn.BatchNorm1d(4, eps=0.1), nn.Linear(4, 2)),
    ],
    "nested": [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Sequential(RELU, nn.Sequential(nn.Linear(4, 2)))],
    "an activation of one's own": [nn.Linear(3, 4), nn.BatchNorm1d(4), Sine(), nn.BatchNorm1d(4), nn.Linear(4, 2)],
    "ten layers": [
        *(
            part
            for ins, outs in itertools.pairwise((3, 1, 4, 2, 5, 3, 2, 4, 3, 6))
            for part in (nn.Linear(ins, outs, bias=outs % 2 == 0), nn.BatchNorm1d(outs), RELU)
        ),
        nn.Linear(6, 2),
    ],
    "one convolution": [conv(2, 3, 3, padding=1, stride=2), nn.BatchNorm2d(3)],
    "convolutions, padded": [
        *(conv(2, 4, 3, padding=1), nn.BatchNorm2d(4), RELU, nn.MaxPool2d(2, padding=1)),
        *(conv(4, 3, (1, 3), padding="same", dilation=2), nn.BatchNorm2d(3), RELU, nn.Dropout2d()),
        *end(3),
    ],
    "norms behind convolutions": [
        *(conv(2, 4, 3, stride=2), RELU, nn.BatchNorm2d(4), nn.AvgPool2d(2, ceil_mode=True), conv(4, 3, (1, 2)), RELU),
        *(nn.BatchNorm2d(3), *end(3)),
    ],
    "norms before pictures that are padded with copies": [
        *(nn.BatchNorm2d(2), conv(2, 4, 3, padding=1, padding_mode="reflect"), RELU, nn.BatchNorm2d(4)),
        *(conv(4, 3, 3, padding="same", padding_mode="circular"), RELU, *end(3)),
    ],
    "norms before kernels of one": [
        nn.BatchNorm2d(2),
        conv(2, 4, 1, padding="same"),
        RELU,
        conv(4, 3, 2),
        RELU,
        *end(3),
    ],
    "norms across average pooling": [
        *(conv(2, 4, 3), nn.AvgPool2d(3, padding=1, count_include_pad=False), nn.BatchNorm2d(4), RELU),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2)),
    ],
}


def trained(parts, positive=False):
    """A network in float64 in evaluation, its batch norms far from the identity, some factors negative."""
    torch.manual_seed(0)
    module = copy.deepcopy(nn.Sequential(*parts)).double().eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.3, 3)
            if norm.affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
                norm.weight.data = norm.weight.data.abs() if positive else norm.weight.data
    return module


def leaves(module):
    return [part for child in module for part in leaves(child)] if isinstance(module, nn.Sequential) else [module]


def without_norms(module):
    """The same network with biases everywhere, without batch norm, and with weights of its own."""
    parts = []
    for part in leaves(module):
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            continue
        part = copy.deepcopy(part)
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.bias = nn.Parameter(torch.randn(len(part.weight)))
        parts.append(part)
    return nn.Sequential(*parts).double().eval()


def picture_of(module):
    first = next(part for part in leaves(module) if isinstance(part, nn.Linear | nn.Conv2d))
    return torch.randn(PICTURE if isinstance(first, nn.Conv2d) else DENSE_INPUT, dtype=torch.float64)


def assert_same_function(module, features):
    net = without_norms(module)
    net.load_state_dict(features.to_state_dicts(list(net.state_dict()))[0])
    x = picture_of(module)
    with torch.no_grad():
        assert torch.allclose(module(x), net(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", READABLE)
def test_what_was_read_is_the_same_function(name):
    module = trained(READABLE[name])
    features = read_networks(module, activation="sine").check()
    assert features.spec == NetworkSpec.from_module(module, activation="sine")
    assert (features.batch_size, features.channels, features.weights[0].dtype) == (1, 1, torch.float64)
    assert not features.flatten().requires_grad
    assert_same_function(module, features)


def test_without_the_batch_norm_it_is_another_function():
    module = trained(READABLE["norm, activation"])
    net = without_norms(module)
    state = net.state_dict()
    state.update({"0.weight": module[0].weight, "0.bias": torch.zeros(4), "2.weight": module[3].weight})
    state["2.bias"] = module[3].bias
    net.load_state_dict(state)
    x = picture_of(module)
    assert (module(x) - net(x)).abs().max() > 0.1


def test_modules_are_not_changed():
    module = trained(READABLE["several norms"]).train()
    before = copy.deepcopy(module.state_dict())
    read_networks(module)
    assert module.training
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_plain_networks_are_read_as_they_are():
    nets = [nn.Sequential(nn.Conv2d(1, 4, 3), RELU, *end(4)) for _ in range(3)]
    features = read_networks(nets)
    expected = WeightSpaceFeatures.from_state_dicts(NetworkSpec.parse("1-4c3-2:relu"), [n.state_dict() for n in nets])
    assert features.spec == expected.spec
    assert torch.equal(features.flatten(), expected.flatten())
    assert torch.equal(read_networks(nn.ModuleList(nets)).flatten(), expected.flatten())


def test_features_have_the_type_of_the_weights():
    module = trained(READABLE["several norms"])
    expected = read_networks(module).flatten().float()
    for part in module:
        part.to(torch.float32 if isinstance(part, nn.Linear) else torch.float64)
    got = read_networks(module).flatten()
    assert got.dtype == torch.float32
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_batch_has_one_spec():
    nets = [nn.Sequential(nn.Linear(2, width), RELU, nn.Linear(width, 1)) for width in (3, 3, 4)]
    with pytest.raises(ValueError, match="network 0 is 2-3-1:relu, network 2 is 2-4-1:relu"):
        read_networks(nets)
    with pytest.raises(ValueError, match="at least one"):
        read_networks([])


def test_a_norm_goes_past_max_pooling_with_positive_factors_only():
    for parts in (
        [conv(2, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4), RELU, *end(4)],
        [conv(2, 4, 3), RELU, nn.BatchNorm2d(4), nn.MaxPool2d(2), *end(4)],
    ):
        module = trained(parts, positive=True)
        assert_same_function(module, read_networks(module))
        with pytest.raises(ValueError, match=r"across the MaxPool2d .* negative"):
            read_networks(trained(parts))


def test_a_norm_before_padded_zeros_is_refused_for_a_reason():
    parts = [conv(2, 4, 3), RELU, nn.BatchNorm2d(4), conv(4, 3, 3, padding=1), RELU, *end(3)]
    module = trained(parts)
    with pytest.raises(ValueError, match=r"'2' cannot be folded into the convolution '3' .* zeros are padded"):
        read_networks(module)
    unpadded = copy.deepcopy(module)
    unpadded[3].padding = (0, 0)
    assert_same_function(unpadded, read_networks(unpadded))
    with pytest.raises(AssertionError):
        assert_same_function(module, read_networks(unpadded))


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)


NO_STATISTICS = nn.BatchNorm1d(3, track_running_stats=False)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([nn.Linear(2, 3), NO_STATISTICS, RELU, nn.Linear(3, 1)], "'1' has no running statistics.*track_running_stats"),
        ([nn.BatchNorm2d(2), conv(2, 3, 3, padding="same")], "zeros are padded"),
        ([conv(2, 3, 3), nn.AvgPool2d(2, padding=1), nn.BatchNorm2d(3)], "AvgPool2d '1'.*padded zeros"),
        ([conv(2, 3, 3), nn.AvgPool2d(2, divisor_override=3), nn.BatchNorm2d(3)], "divisor_override"),
        ([nn.Linear(2, 3), nn.BatchNorm1d(7), RELU, nn.Linear(3, 1)], "'1' has 7 features.*'0' before it gives 3"),
        ([nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 1)], "'0' has 3 features.*'2' behind it takes 12"),
        ([conv(1, 3, 3), RELU, nn.Flatten(), nn.Linear(48, 1)], "'3' takes 48 inputs = 3 channels x 16 .*Sec. 2.2"),
        ([conv(1, 3, 3), RELU, nn.Flatten(), nn.Linear(49, 1)], "global pooling"),
        ([nn.Linear(2, 3), RELU, conv(3, 3, 1)], "'2' is a convolution behind a dense layer"),
        ([nn.Linear(2, 3), nn.LayerNorm(3), RELU, nn.Linear(3, 1)], "'1' is a LayerNorm: what it does depends"),
        ([conv(2, 4, 3), nn.GroupNorm(2, 4), RELU, *end(4)], "'1' is a GroupNorm: what it does depends"),
        ([nn.ConvTranspose2d(2, 4, 3)], "'0' is a ConvTranspose2d; supported are nn.Sequentials of Linear, Conv2d"),
        ([nn.Conv1d(2, 4, 3)], "'0' is a Conv1d; supported"),
        ([nn.Conv3d(2, 4, 3)], "'0' is a Conv3d; supported"),
        ([nn.Linear(2, 3), RELU, nn.GRU(3, 4)], "'2' is a GRU; supported"),
        ([nn.Linear(2, 3), nn.PReLU(), nn.Linear(3, 1)], "'1' is a PReLU; supported.* activations without parameters"),
        ([nn.Linear(2, 3), RELU, Residual(nn.Linear(3, 3)), RELU, nn.Linear(3, 1)], "'2' is a Residual, .* own"),
        ([Scaled(2, 3)], "'0' is a Scaled, a module with a forward of its own"),
        ([nn.Conv2d(4, 4, 3, groups=2)], "'0' is a grouped convolution"),
    ],
)
def test_what_cannot_be_read_is_named(parts, message):
    for read in (read_networks, NetworkSpec.from_module):
        with pytest.raises(ValueError, match=message):
            read(nn.Sequential(*parts))


def test_a_module_that_is_no_sequential_is_named():
    with pytest.raises(ValueError, match="the module is a Net, a module with a forward of its own"):
        read_networks(Net())
