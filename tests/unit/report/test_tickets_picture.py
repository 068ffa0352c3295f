"""The pictures of a `tickets` run are drawn from its files alone."""

import csv

import matplotlib.image
import numpy as np
import pytest

from nfbench.report.tickets import ORDER, draw, draw_curve


def colours(path) -> int:
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 400
    return len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0))


@pytest.mark.parametrize(("sources", "count", "samples"), [(ORDER, 6, True), (("dense", "imp", "model"), 1, False)])
def test_draw(tmp_path, sources, count, samples):
    rng = np.random.default_rng(0)
    with (tmp_path / "predictions.csv").open("w", newline="") as handle:
        out = csv.writer(handle)
        out.writerow(["index", "view", "source", "accuracy", "overlap", "density"])
        out.writerows([i, 0, name, rng.random(), 0.1, "0.1;0;0.5"] for name in sources for i in range(count))
    if samples:
        layer = np.repeat([0, 1, 2], 50)
        np.savez(tmp_path / "samples.npz", layer=layer, weight=rng.random(150), score=rng.random(150), imp=layer > 0)
    assert draw(tmp_path) == tmp_path / "test.png"
    assert colours(tmp_path / "test.png") > 50, "not blank"


def test_curve(tmp_path):
    rows = [
        {"source": name, "sparsity": sparsity, "acc": 1 - sparsity**2, "acc_std": 0.01}
        for name in ("imp", "model") for sparsity in (0.95, 0.8, 0.98)
    ]  # fmt: skip
    draw_curve(tmp_path / "curve.png", rows, "mnist")
    assert colours(tmp_path / "curve.png") > 50
