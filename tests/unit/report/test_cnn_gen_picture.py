"""The picture of a `cnn_gen` run is drawn from its predictions alone."""

import csv

import matplotlib.image
import numpy as np
import pytest

from nfbench.report.cnn_gen import draw


@pytest.mark.parametrize(("groups", "count"), [(("relu", "tanh"), 500), (("",), 3), (tuple("abcdefgh"), 40)])
def test_draw(tmp_path, groups, count):
    rng = np.random.default_rng(0)
    true = rng.random(count)
    with (tmp_path / "predictions.csv").open("w", newline="") as handle:
        out = csv.writer(handle)
        out.writerow(["index", "view", "true", "predicted", "activation"])
        out.writerows([i, 0, t, t + 0.1 * rng.standard_normal(), groups[i % len(groups)]] for i, t in enumerate(true))
    path = draw(tmp_path)
    assert path == tmp_path / "test.png"
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 400
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50, "not blank"


def test_constant_and_perfect_predictions(tmp_path):
    (tmp_path / "predictions.csv").write_text(
        "index,view,true,predicted,activation\n0,0,0.1,0.1,relu\n1,0,0.1,0.1,relu\n"
    )
    assert draw(tmp_path).exists()
