"""Boosted trees: what scikit-learn fits is what the model computes, and validation chooses."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingRegressor

from nfbench.models.gbm import GBM
from nfbench.tasks.boosting import fit_trees, to_arrays
from nfbench.tasks.scores import kendall_tau
from nfbench.weightspace import NetworkSpec, random_features
from nfbench.weightspace.testing import assert_invariant

SPEC = NetworkSpec.parse("1-4c3-4c3-10:relu")
SETTINGS = {"num_trees": 30, "depths": [1, 3], "learning_rate": 0.1, "subsample": 0.7, "max_features": 0.5}


def networks(count: int, seed: int):
    """Networks, and shares that grow with the spread of their first layer."""
    x = random_features(SPEC, count, 1, torch.Generator().manual_seed(seed))
    scale = torch.linspace(0.1, 2, count)
    x = x.map(lambda t: t * scale.reshape(-1, *[1] * (t.ndim - 1)))
    return x, (0.1 + 0.4 * scale).numpy()


def fitted(seed: int = 0) -> GBM:
    model = GBM(SPEC, 1, **SETTINGS)
    parts = [(model.read(x).numpy(), y) for x, y in (networks(200, 0), networks(50, 1))]
    model.load_trees(fit_trees(*parts, **SETTINGS, seed=seed))
    return model


def test_the_model_computes_what_scikit_learn_does():
    model = GBM(SPEC, 1, **SETTINGS)
    x, y = networks(120, 2)
    boosted = GradientBoostingRegressor(n_estimators=30, max_depth=3, random_state=0).fit(model.read(x).numpy(), y)
    for count in (1, 17, 30):
        model.load_trees(to_arrays(boosted, count, 0.1))
        new = networks(40, 3)[0]
        wanted = list(boosted.staged_predict(model.read(new).numpy()))[count - 1]
        share = model(new).double().sigmoid()[:, 0]
        np.testing.assert_allclose(share, wanted, rtol=1e-5)


def test_validation_chooses_depth_and_number():
    model = GBM(SPEC, 1, **SETTINGS)
    train, val = ((model.read(x).numpy(), y) for x, y in (networks(200, 0), networks(50, 1)))
    trees = fit_trees(train, val, **SETTINGS, seed=0)
    best = -1.0
    for depth in SETTINGS["depths"]:
        boosted = GradientBoostingRegressor(
            n_estimators=30, max_depth=depth, learning_rate=0.1, subsample=0.7, max_features=0.5, random_state=0
        ).fit(*train)
        best = max(best, *(kendall_tau(val[1], p) for p in boosted.staged_predict(val[0])))
    model.load_trees(trees)
    assert kendall_tau(val[1], model(networks(50, 1)[0])[:, 0].numpy()) == pytest.approx(best, abs=1e-9)
    assert best > 0.8
    assert len(trees["feature"]) <= 30


def test_the_same_seed_gives_the_same_trees():
    one, same, other = (fitted(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_trees_are_in_the_state_and_new_ones_replace_all():
    model = fitted()
    again = GBM(SPEC, 1, **SETTINGS)
    assert not again.fitted
    x = networks(9, 4)[0]
    assert torch.allclose(again(x).sigmoid(), torch.full((9, 1), 0.5)), "before the fit"
    again.load_state_dict(model.state_dict())
    assert again.fitted
    assert torch.equal(again(x), model(x))
    short = {"start": 0.25, **{n: np.zeros((1, 1)) for n in ("feature", "left", "right", "threshold", "value")}}
    again.load_trees(short)
    assert torch.allclose(again(x).sigmoid(), torch.full((9, 1), 0.25))


def test_symmetry():
    def build(spec: NetworkSpec) -> GBM:
        torch.manual_seed(0)
        model = GBM(spec, 1, num_trees=20, depths=[3])
        x = random_features(spec, 60, 1, torch.Generator().manual_seed(0), torch.float64)
        y = x.weights[0].flatten(1).mean(1).sigmoid().numpy()
        part = (model.read(x).numpy(), y)
        model.load_trees(fit_trees(part, part, num_trees=20, depths=[3], learning_rate=0.3, subsample=1.0,
                                   max_features=1.0, seed=0))  # fmt: skip
        return model

    assert GBM.symmetry == "invariant"
    assert_invariant(build)
    shares = build(SPEC)(random_features(SPEC, 8, 1, torch.Generator().manual_seed(1)))
    assert len(shares.unique()) > 1, "but not to everything"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_dim": 10}, "one number of each network"),
        ({"out_dim": None}, "one number of each network"),
        ({"depths": []}, "lie between 1 and 12"),
        ({"depths": [20]}, "lie between 1 and 12"),
        ({"num_trees": 0}, "must be 1 or more"),
        ({"subsample": 0.0}, "above 0 and at most 1"),
    ],
)
def test_bad_settings_say_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        GBM(SPEC, **{"out_dim": 1, **changes})
