"""The pictures of an `inr_edit` run are drawn from its files alone."""

import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from nfbench.report.inr_edit import ZOOM, draw


@pytest.mark.parametrize(("channels", "frames"), [(1, 3), (3, 0), (1, 1)])
def test_draw(tmp_path, channels, frames):
    random = np.random.default_rng(0)
    rows = "".join(f"{i},0,{random.random():.4f},{random.random() / 10:.4f}\n" for i in range(30))
    (tmp_path / "predictions.csv").write_text("index,view,identity,edited\n" + rows)
    images = {name: random.random((4, 6, 5, channels), np.float32) for name in ("images", "target", "edited")}
    if frames:
        images["frames"] = random.integers(0, 256, (frames, 18, 10, channels), np.uint8)
    np.savez(tmp_path / "samples.npz", **images)
    path = draw(tmp_path)
    assert path == tmp_path / "test.png"
    picture = matplotlib.image.imread(path)
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50, "not blank"
    assert (tmp_path / "edit.gif").exists() == bool(frames)
    if frames:
        with Image.open(tmp_path / "edit.gif") as animation:
            assert animation.n_frames == frames
            assert animation.size == (10 * ZOOM, 18 * ZOOM)
            shown = np.asarray(animation.convert("L")).astype(int)
        assert np.abs(shown - images["frames"][0, ..., 0].repeat(ZOOM, 0).repeat(ZOOM, 1)).max() < 3
