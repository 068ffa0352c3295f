"""What `inspect` measures, on zoos whose numbers are known."""

import h5py
import numpy as np
import pytest

from nfbench.report.zoo import describe, draw
from nfbench.weightspace import NetworkSpec
from nfbench.zoos.recipe import make_recipe
from nfbench.zoos.statistics import PUBLISHED, guess_definition, inspect_zoo, layer_statistics
from nfbench.zoos.store import ZooData, read_zoo

SPEC = NetworkSpec.parse("2-32-32-1:sine")


def zoo_like(published, definition: str) -> ZooData:
    """1,000 networks whose tensors have exactly the mean and standard deviation of the published zoo."""
    random = np.random.default_rng(0)
    params = np.empty((1000, SPEC.num_params))
    for where, (mean, std) in zip(SPEC.scalar_slices(), published.rows(), strict=True):
        values = random.standard_normal((1000, where.stop - where.start))
        params[:, where] = mean + std * (values - values.mean()) / values.std()
    count = np.arange(1000)
    recipe = make_recipe(definition)[0].to_plain()
    manifest = {"spec": str(SPEC), "source": "mnist", "recipe": recipe}
    return ZooData(params.astype(np.float32), count % 10, count, 0 * count, {}, manifest, {})


@pytest.mark.parametrize("definition", ["nfn", "dws"])
def test_layers_beside_the_published_ones(definition) -> None:
    data = zoo_like(PUBLISHED[definition, "mnist"], definition)
    assert guess_definition(data.manifest) == definition
    rows = layer_statistics(data)
    assert [row["tensor"] for row in rows[:3]] == ["weight 1", "bias 1", "weight 2"]
    for row in rows:
        assert row["std"] == pytest.approx(row["published_std"], rel=1e-4)
        assert row["mean"] == pytest.approx(row["published_mean"], abs=1e-6)


def test_other_networks_have_nothing_beside_them() -> None:
    data = zoo_like(PUBLISHED["nfn", "mnist"], "nfn")
    data.manifest["recipe"]["widths"] = [16, 16]
    assert {row["published_std"] for row in layer_statistics(data)} == {None}


@pytest.mark.parametrize("key", PUBLISHED)
def test_published_numbers_are_whole(key) -> None:
    rows = PUBLISHED[key].rows()
    assert len(rows) == (8 if key[0] == "small_cnn" else 6)
    assert all(std > abs(mean) for mean, std in rows)


def test_renderings_are_as_good_as_the_zoo_says(make_zoo) -> None:
    zoo = make_zoo(num_steps=200)
    zoo.prepare_data()
    found = inspect_zoo(zoo.path, zoo.data_dir, zoo.plan.manifest())
    assert found.originals is not None
    assert found.renderings is not None
    errors = ((found.originals - found.renderings) ** 2).mean(axis=(1, 2, 3))
    psnr = -10 * np.log10(errors)
    assert (psnr > found.psnr[found.rows] - 1e-3).all(), "clamping to [0, 1] only makes them better"
    np.testing.assert_allclose(psnr, found.psnr[found.rows], atol=2.5)
    assert found.facts["networks"] == len(zoo.plan.networks()[0])
    assert sum(found.facts["per_class"].values()) == found.facts["networks"]


def test_zoos_without_images_or_psnr(make_zoo, tmp_path) -> None:
    zoo = make_zoo()
    zoo.prepare_data()
    with h5py.File(zoo.path, "r+") as file:
        file.attrs["images_sha256"] = "other"
    found = inspect_zoo(zoo.path, zoo.data_dir)
    assert found.originals is None
    assert "other image files" in describe(found.facts)
    picture = tmp_path / "a.png"
    assert draw(picture, "a", found.psnr, found.rows, None, None)
    assert picture.stat().st_size > 0
    assert not draw(tmp_path / "b.png", "b", np.full(3, np.nan, np.float32), found.rows, None, None)
    assert not (tmp_path / "b.png").exists()
    with pytest.raises(ValueError, match="another zoo"):
        inspect_zoo(zoo.path, zoo.data_dir, {**read_zoo(zoo.path).manifest, "num_views": 5})
