"""The graph network: its sign symmetry, one round against sums written out, and what it refuses."""

import pytest
import torch

from nfbench.models import GMN
from nfbench.models.gmn import Round
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures, random_features

F64 = torch.float64
SPECS = ["2-7-5-1:sine", "2-4-3:tanh", "3-6-5-4-2:sine"]


def turned(x: WeightSpaceFeatures) -> tuple[WeightSpaceFeatures, list[torch.Tensor]]:
    """The networks with the signs of some hidden neurons turned, and the signs of each layer of neurons."""
    generator = torch.Generator().manual_seed(1)
    sizes = [x.spec.layers[0].in_size, *(layer.out_size for layer in x.spec.layers)]
    signs = [torch.randint(0, 2, (n,), generator=generator).to(F64) * 2 - 1 for n in sizes]
    signs[0], signs[-1] = torch.ones_like(signs[0]), torch.ones_like(signs[-1])
    assert all((s < 0).any() for s in signs[1:-1])
    weights = [
        w * a[:, None, None, None] * b[:, None, None] for w, a, b in zip(x.weights, signs[1:], signs, strict=False)
    ]
    biases = [b * a[:, None] for b, a in zip(x.biases, signs[1:], strict=True)]
    return WeightSpaceFeatures(x.spec, tuple(weights), tuple(biases)), signs


def networks(text: str) -> WeightSpaceFeatures:
    return random_features(NetworkSpec.parse(text), 3, 1, torch.Generator().manual_seed(0)).map(lambda t: t.to(F64))


@pytest.mark.parametrize("text", SPECS)
def test_signs_of_odd_neurons_are_a_symmetry(text):
    torch.manual_seed(0)
    x = networks(text)
    other, signs = turned(x)
    model = GMN(x.spec, 4, width=8, num_rounds=3).double()
    assert model.sign
    torch.testing.assert_close(model(other), model(x), rtol=0, atol=1e-12)
    editor = GMN(x.spec, None, width=8, num_rounds=3).double()
    edit, edit_of_other = editor(x), editor(other)
    assert isinstance(edit, WeightSpaceFeatures)
    for i in range(x.spec.num_layers):
        turn = signs[i + 1][:, None, None, None] * signs[i][:, None, None]
        torch.testing.assert_close(edit_of_other.weights[i], edit.weights[i] * turn, rtol=0, atol=1e-12)
        torch.testing.assert_close(edit_of_other.biases[i], edit.biases[i] * signs[i + 1][:, None], rtol=0, atol=1e-12)
    unsigned = GMN(x.spec, 4, width=8, num_rounds=3, sign=False).double()
    assert (unsigned(other) - unsigned(x)).abs().max() > 1e-4


@pytest.mark.parametrize("text", ["2-5-4-1:sine", "3-4c3x2-5c2-2:relu"])
def test_a_round_is_the_sum_over_functions_taps_and_neurons(text):
    """The messages of the first round, neuron by neuron, against `Round` with its update taken away."""
    torch.manual_seed(0)
    x = networks(text)
    model = GMN(x.spec, 4, width=6, num_rounds=1).double()
    seen: list[list[torch.Tensor]] = []
    step = model.rounds[0]
    assert isinstance(step, Round)
    for norm in step.mixed_norms:
        norm.register_forward_pre_hook(lambda _, args: seen.append([args[0]]))
    states: list[list[torch.Tensor]] = []
    step.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    model(x)
    h = [norm(s) for norm, s in zip(step.norms, states[0], strict=True)]
    of_weights = model.omega[: x.spec.num_layers]
    for i, w in enumerate(x.weights):
        sines = [w[..., 0] * o for o in of_weights[i]]
        functions = [w[..., 0], *(s.sin() for s in sines), *([] if model.sign else (s.cos() for s in sines))]
        count = len(functions) * w.shape[3]
        ahead = torch.zeros(3, w.shape[1], 6, dtype=F64)
        back = torch.zeros(3, w.shape[2], 6, dtype=F64)
        for tap in range(w.shape[3]):
            for f, value in enumerate(functions):
                # Rows of V are ordered by tap, function, channel.
                at = (tap * len(functions) + f) * 6
                ahead += value[..., tap] @ (h[i] @ step.ahead[i].weight[at : at + 6].T)
                back += value[..., tap].transpose(1, 2) @ (h[i + 1] @ step.back[i].weight[at : at + 6].T)
        last = i + 1 == x.spec.num_layers
        torch.testing.assert_close(seen[i + 1][0][..., 6:12], ahead / (count * w.shape[2]) ** 0.5)
        torch.testing.assert_close(seen[i][0][..., (6 if i == 0 else 12) :], back / (count * w.shape[1]) ** 0.5)
        assert seen[i + 1][0].shape[-1] == (12 if last else 18)


def test_sizes_and_what_it_refuses():
    spec = NetworkSpec.parse("2-32-32-1:sine")
    assert sum(p.numel() for p in GMN(spec, 10).parameters()) == 1_026_716
    with pytest.raises(ValueError, match=r"sign=True needs neurons with sine or tanh, 2-8-1:relu has relu"):
        GMN(NetworkSpec.parse("2-8-1:relu"), 10, sign=True)
    assert not GMN(NetworkSpec.parse("2-8-1:relu"), 10).sign
    with pytest.raises(ValueError, match=r"num_rounds must be at least 1, got 0"):
        GMN(spec, 10, num_rounds=0)
    with pytest.raises(ValueError, match=r"num_functions must be at least 1, got 0"):
        GMN(spec, 10, num_functions=0)
