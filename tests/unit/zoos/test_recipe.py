"""Recipes: definitions by name, overrides that show, canonical JSON."""

import json
from dataclasses import replace

import pytest

from nfbench.zoos.recipe import SirenRecipe, make_recipe


def test_definitions_are_as_published():
    nfn, label = make_recipe("nfn")
    assert label == "nfn"
    assert (nfn.widths, nfn.w0_first, nfn.lr, nfn.num_steps) == ((32, 32), 30.0, 5e-5, 5000)
    assert (nfn.pixel_min, nfn.pixel_max, nfn.output_offset, nfn.stop_psnr) == (-1.0, 1.0, 0.0, None)
    assert (nfn.init, nfn.bias_init, nfn.w0_hidden, nfn.grid) == ("siren", "default", 30.0, "ij")
    dws, _ = make_recipe("dws")
    assert (dws.widths, dws.w0_first, dws.w0_hidden) == ((32, 32), 30.0, 30.0)
    assert (dws.init, dws.bias_init, dws.output_offset, dws.grid) == ("uniform", "zero", 0.5, "xy")
    assert (dws.pixel_min, dws.pixel_max, dws.stop_psnr, dws.lr, dws.num_steps) == (0.0, 1.0, 40.0, 5e-4, 1000)
    assert make_recipe("dws_mnist")[0] == replace(dws, lr=1e-3, num_steps=1500)
    assert make_recipe("dws_fashion")[0] == replace(dws, lr=5e-4, num_steps=10_000)


def test_overrides_show_in_the_label():
    recipe, label = make_recipe("dws", num_steps=200, lr=None, seed=3, widths=(8, 8))
    assert label == "dws+widths=8-8+num_steps=200"
    assert (recipe.num_steps, recipe.lr, recipe.seed) == (200, 5e-4, 3)
    assert make_recipe("dws", num_steps=1000, seed=3)[1] == "dws"
    assert make_recipe("dws", stop_psnr=0)[0].stop_psnr is None


def test_json_is_canonical():
    recipe = SirenRecipe((8, 8), w0_first=10, pixel_min=0)
    same = SirenRecipe((8, 8), w0_first=10.0, pixel_min=0.0)
    assert recipe.to_json() == same.to_json()
    assert recipe.hash == same.hash
    assert SirenRecipe(**json.loads(recipe.to_json())) == recipe
    assert SirenRecipe((8, 8), lr=1e-3).hash != recipe.hash


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widths": ()}, "1 to 8 hidden widths"),
        ({"widths": (8,), "init": "he"}, "siren, uniform"),
        ({"widths": (8,), "lr": float("nan")}, "positive"),
        ({"widths": (8,), "num_steps": -1}, "0 or more"),
        ({"widths": (8,), "pixel_min": 1.0}, "must be above"),
        ({"widths": (8,), "pixel_max": float("inf")}, r"zoo\.pixel_max=inf must be a finite"),
        ({"widths": (8,), "output_offset": float("nan")}, r"zoo\.output_offset=nan must be a finite"),
        ({"widths": (8,), "stop_psnr": float("nan")}, r"zoo\.stop_psnr=nan must be a finite"),
        ({"widths": (8,), "optimizer": "sgd"}, "Choose one of: adam"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        SirenRecipe(**values)


def test_unknown_definition_lists_the_known():
    with pytest.raises(ValueError, match="digits, nfn, dws, dws_mnist, dws_fashion"):
        make_recipe("other")
    with pytest.raises(ValueError, match=r"zoo\.widths"):
        make_recipe("custom")
