"""The picture of an `inr2array` run is drawn from its files alone."""

import sys
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest

from nfbench.report.inr2array import draw


@pytest.mark.parametrize(("channels", "count", "near"), [(1, 60, 5), (3, 3, 2), (1, 2, 1)])
def test_draw(tmp_path, channels, count, near):
    rng = np.random.default_rng(0)
    shown = min(count, 8)
    (tmp_path / "predictions.csv").write_text("index,view,true,psnr\n" + "0,0,1,20.5\n" * count)
    np.savez(
        tmp_path / "pictures.npz",
        original=rng.random((shown, 8, 8, channels), dtype=np.float32),
        decoded=rng.random((shown, 8, 8, channels), dtype=np.float32),
        neighbours=rng.random((shown, near, 8, 8, channels), dtype=np.float32),
        true=np.arange(shown),
        neighbours_true=np.zeros((shown, near), np.int64),
        components=rng.random((count, min(count, 30)), dtype=np.float32),
        label=np.arange(count) % 10,
    )
    path = draw(tmp_path)
    assert path == tmp_path / "test.png"
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 400
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50, "not blank"


def test_umap_is_taken_where_it_is_installed(tmp_path, monkeypatch):
    """By a stand-in: the map is what it returns."""
    asked = {}

    class UMAP:
        def __init__(self, **settings) -> None:
            asked.update(settings)

        def fit_transform(self, rows):
            asked["rows"] = rows.shape
            return rows[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    test_draw(tmp_path, 1, 10, 3)
    assert asked["rows"] == (10, 10)
    assert (asked["n_neighbors"], asked["random_state"]) == (9, 0)
