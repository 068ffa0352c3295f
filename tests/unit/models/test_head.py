"""The MLP head: what its activation does to units that are negative for every network."""

import pytest
import torch

from nfbench.config.identity import config_hash
from nfbench.models import NFT, NFNGated
from nfbench.models.head import MLPHead
from nfbench.weightspace import NetworkSpec, random_features

SPEC = NetworkSpec.parse("2-5-1:sine")


@pytest.mark.parametrize(("activation", "learns"), [("relu", False), ("gelu", True)])
def test_gelu_has_a_gradient_where_all_units_of_a_relu_are_zero(activation: str, learns: bool) -> None:
    torch.manual_seed(0)
    head = MLPHead(6, 3, width=8, activation=activation)
    with torch.no_grad():
        head[1].bias.fill_(-4.0)
    head(torch.rand(5, 6)).square().sum().backward()
    assert bool(head[1].weight.grad.any()) is learns


@pytest.mark.parametrize("build", [NFT, NFNGated])
def test_models_hand_their_activation_to_the_head(build: type) -> None:
    outputs = []
    for activation in ("relu", "gelu"):
        torch.manual_seed(0)
        model = build(SPEC, 4, width=8, head_activation=activation)
        outputs.append(model(random_features(SPEC, 3, 1, torch.Generator().manual_seed(0))))
    assert not torch.allclose(*outputs)
    with pytest.raises(ValueError, match="head_activation must be one of relu, gelu, got 'tanh'"):
        build(SPEC, 4, width=8, head_activation="tanh")


def test_the_default_keeps_the_name_that_runs_had_before_there_was_a_choice(composed) -> None:
    name = "model=nfn_gated"
    assert config_hash(composed(name)) == "8049af48", "as in results/inr_cls/nfn_gated-siren_digits-seed0-8049af48.json"
    assert config_hash(composed(name, "model.head_activation=gelu")) != "8049af48"
