import pytest
import torch
from torch import nn

from nfbench.weightspace import LayerSpec, NetworkSpec, random_spec


@pytest.mark.parametrize(
    "text", ["2-32-32-1:sine", "784-128-128-10:relu", "1-16c3-16c3-16c3-10:relu", "3-8c1x5-4:gelu", "5-2:identity"]
)
def test_text_form_round_trips(text):
    spec = NetworkSpec.parse(text)
    assert str(spec) == text
    assert NetworkSpec.parse(str(spec)) == spec


def test_sizes_of_published_networks():
    assert NetworkSpec.parse("2-32-32-1:sine").num_params == 1185
    assert NetworkSpec.parse("2-32-32-3:sine").num_params == 1251
    zoo_cnn = NetworkSpec.parse("1-16c3-16c3-16c3-10:relu")
    assert zoo_cnn.num_params == 4970
    assert zoo_cnn.layers[1] == LayerSpec(16, 16, (3, 3))
    assert zoo_cnn.sizes == (1, 16, 16, 16, 10)


@pytest.mark.parametrize("text", ["", "2", "2-", "2c3-4", "a-b", "2-3-:relu", "2--3"])
def test_unreadable_text_names_itself_and_an_example(text):
    with pytest.raises(ValueError, match="2-32-32-1:sine"):
        NetworkSpec.parse(text)


def test_unknown_activation_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'sinus'.*sine, relu"):
        NetworkSpec.parse("2-3-1:sinus")


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="layer 0 gives 3 outputs, but layer 1 takes 4"):
        NetworkSpec((LayerSpec(2, 3), LayerSpec(4, 1)))
    with pytest.raises(ValueError, match="at least 1"):
        LayerSpec(0, 3)
    with pytest.raises(ValueError, match="at least one layer"):
        NetworkSpec(())


def test_from_module_reads_nested_sequentials_and_convolutions():
    module = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU()),
        nn.Conv2d(4, 6, (1, 5)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )
    assert str(NetworkSpec.from_module(module)) == "1-4c3-6c1x5-3:relu"


def test_from_module_reads_layers_without_bias_and_batch_norm():
    module = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert NetworkSpec.from_module(module) == NetworkSpec.parse("1-4c3-2c1:relu")
    assert NetworkSpec.from_module(nn.Linear(3, 2, bias=False)) == NetworkSpec.parse("3-2:identity")
    relu = nn.ReLU()  # the same module twice
    module = nn.Sequential(nn.Linear(2, 3), relu, nn.Linear(3, 3), relu, nn.Linear(3, 1))
    assert str(NetworkSpec.from_module(module)) == "2-3-3-1:relu"


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(30 * x)


def test_from_module_takes_a_named_activation():
    module = nn.Sequential(nn.Linear(2, 8), Sine(), nn.Linear(8, 1))
    assert str(NetworkSpec.from_module(module, activation="sine")) == "2-8-1:sine"
    with pytest.raises(ValueError, match="'1' is a Sine"):
        NetworkSpec.from_module(module)
    mixed = nn.Sequential(*module, nn.ReLU(), nn.Linear(1, 1))
    with pytest.raises(ValueError, match="mixes the activations relu, sine"):
        NetworkSpec.from_module(mixed, activation="sine")
    with pytest.raises(ValueError, match="'1' is a Softmax"):
        NetworkSpec.from_module(nn.Sequential(nn.Linear(2, 8), nn.Softmax(-1), nn.Linear(8, 1)), activation="sine")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)), "mixes the activations relu, tanh"),
        ((nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), "0 activations before module '2'"),
        ((nn.Conv2d(4, 4, 3, groups=2),), "grouped"),
        ((nn.Linear(2, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)), "0 activations before module '1'"),
        ((nn.Linear(2, 3), nn.ReLU(), nn.ReLU(), nn.Linear(3, 1)), "2 activations before module '3'"),
        ((nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.ReLU()), "behind the last layer"),
        ((), "at least one layer"),
    ],
)
def test_from_module_says_what_it_cannot_read(layers, message):
    with pytest.raises(ValueError, match=message):
        NetworkSpec.from_module(nn.Sequential(*layers))


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_random_specs_stay_within_their_bounds(kind):
    generator = torch.Generator().manual_seed(0)
    specs = [random_spec(generator, kind) for _ in range(50)]
    assert {spec.num_layers for spec in specs} == {2, 3, 4, 5}
    assert all(1 <= size <= 9 for spec in specs for size in spec.sizes)
    assert any(layer.is_conv for spec in specs for layer in spec.layers) == (kind == "conv")
