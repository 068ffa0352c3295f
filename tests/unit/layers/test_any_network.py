"""Every layer and every model of the configs on networks of 1 to 10 layers, dense and conv, with single neurons."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from test_symmetry import EQUIVARIANT, HNP_ONLY, INVARIANT

from nfbench.config.build import build_model
from nfbench.layers import HNPLinear, HNPPool
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures, random_features
from nfbench.weightspace.testing import assert_equivariant, assert_invariant, assert_not_equivariant

ONE_LAYER = ["3-4:identity", "1-1:identity", "2-3c2x3:relu"]
SPECS = [
    *ONE_LAYER,
    *("3-1-2:sine", "1-4c3-2:relu", "2-3c1x2-4c3:relu"),  # 2 layers
    *("1-4-1-5-2-2:tanh", "2-3c3-1c2-4c1-2-3:relu"),  # 5 layers
    *("2-3-1-4-2-5-3-2-1-3-2:sine", "1-2c3-3c1-1c2-2c2-3c3-2c1x2-2c2-1-3-2:gelu"),  # 10 layers
]
DEEPER = SPECS[len(ONE_LAYER) :]
LAYERS = {**EQUIVARIANT, **INVARIANT}
MODELS = Path(__file__).resolve().parents[3] / "conf" / "model"
OTHERS = ("gbm", "inr2array")  # without gradient; an encoder alone: they have tests of their own
SMALL = {"widths": [8, 6], "width": 8, "head_width": 8}


def model_config(name):
    """The option as it is, but narrow."""
    cfg = OmegaConf.load(MODELS / f"{name}.yaml")
    del cfg["defaults"]
    cfg.update({key: value for key, value in SMALL.items() if key in cfg})
    if cfg.get("fourier_size"):
        cfg.fourier_size = 4
    return cfg


def builders():
    """From every option a classifier and, where it has one, the network that edits weights."""
    found = {}
    for name in sorted({path.stem for path in MODELS.glob("*.yaml")} - set(OTHERS)):
        cfg = model_config(name)
        found[name] = lambda spec, cfg=cfg: build_model(cfg, spec=spec, out_dim=3)
        if name != "statnn":
            found[f"{name} edit"] = lambda spec, cfg=cfg: build_model(cfg, spec=spec, out_dim=None)
    return found


CONFIGS = builders()
HNP_LINEAR = {name for name in LAYERS if name.startswith("HNPLinear")}
HNP_MODELS = {name for name in CONFIGS if model_config(name.split()[0]).get("layer") == "hnp"}


def cases(builders, need_two_layers):
    return [(name, text) for name in builders for text in (DEEPER if name in need_two_layers else SPECS)]


def assert_trains(build, text, channels):
    """Forward and backward give finite numbers; every parameter and every weight that goes in has a gradient."""
    torch.manual_seed(0)
    spec = NetworkSpec.parse(text)
    module = build(spec)
    flat = random_features(spec, 2, channels, torch.Generator().manual_seed(0)).flatten().requires_grad_()
    out = module(WeightSpaceFeatures.from_flat(spec, flat))
    if isinstance(out, WeightSpaceFeatures):
        assert out.check().spec == spec
        out = out.flatten()
    assert out.isfinite().all()
    out.square().mean().backward()
    gradients = {"input": flat.grad, **{name: p.grad for name, p in module.named_parameters()}}
    assert not [name for name, g in gradients.items() if g is None or not g.isfinite().all()]
    assert gradients["input"].any()


@pytest.mark.parametrize(("name", "text"), cases(LAYERS, HNP_LINEAR))
def test_layers_train_on_any_network(name, text):
    assert_trains(LAYERS[name], text, channels=4)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_keep_their_symmetry_on_any_network(name):
    check = assert_equivariant if name in EQUIVARIANT else assert_invariant
    group = "hnp" if name in HNP_ONLY else "np"
    check(LAYERS[name], channels=4, group=group, specs=DEEPER if name in HNP_LINEAR else SPECS)


@pytest.mark.parametrize("text", ["3-4:identity", "2-3c2x3:relu", DEEPER[-2], DEEPER[-1]])
@pytest.mark.parametrize("name", ["NPLinear", "NPAttention", "NFTBlock"])
def test_layers_notice_uncoupled_permutations_at_any_depth(name, text):
    assert_not_equivariant(LAYERS[name], channels=4, spec=text)


@pytest.mark.parametrize(("name", "text"), cases(CONFIGS, HNP_MODELS))
def test_models_train_on_any_network(name, text):
    assert_trains(CONFIGS[name], text, channels=1)


@pytest.mark.parametrize("name", CONFIGS)
def test_models_keep_their_symmetry_on_any_network(name):
    build, specs = CONFIGS[name], DEEPER if name in HNP_MODELS else SPECS
    check = assert_equivariant if name.endswith(" edit") else assert_invariant
    if build(NetworkSpec.parse(DEEPER[0])).symmetry != "none":
        check(build, channels=1, specs=specs)
        return
    with pytest.raises(AssertionError, match="not hnp-"):
        check(build, channels=1, specs=DEEPER[-2:])


@pytest.mark.parametrize("name", ["nfn_np", "nfn_np edit", "nft edit"])
@pytest.mark.parametrize("text", DEEPER[-2:])
def test_models_notice_other_permutations_at_any_depth(name, text):
    assert_not_equivariant(CONFIGS[name], channels=1, spec=text)


@pytest.mark.parametrize("text", ONE_LAYER)
def test_hnp_linear_layers_need_hidden_neurons(text):
    spec = NetworkSpec.parse(text)
    for build in (lambda: HNPLinear(spec, 4, 4), *(lambda n=n: CONFIGS[n](spec) for n in HNP_MODELS)):
        with pytest.raises(ValueError, match=r"use NPLinear or Pointwise .*layer='np' or 'pt'"):
            build()


def test_hnp_pool_of_one_layer_keeps_inputs_and_outputs_apart():
    spec = NetworkSpec.parse("3-4:identity")
    x = random_features(spec, 2, 5, torch.Generator().manual_seed(0), torch.float64)
    weight, bias = x.weights[0].squeeze(3), x.biases[0]
    out = HNPPool(spec)(x)
    assert out.shape == (2, HNPPool(spec).num_outputs, 5)
    assert torch.allclose(out, torch.cat([weight.mean(1), weight.mean(2), bias], 1), rtol=1e-9)
