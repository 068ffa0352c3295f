"""What editors lie between: networks as they are, and networks fitted to the edited images; and their table."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from nfbench.report.edit_table import edit_table
from nfbench.zoos import SirenZoo
from nfbench.zoos.edit_bounds import edit_bounds, own_fits

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "edit_bounds.py"


def make_zoo(folder, **values) -> SirenZoo:
    own = {"num_images": 60, "num_steps": 150, "threads": 1, "zoo_dir": str(folder), "standardize": "layer"}
    zoo = SirenZoo(source="digits", definition="digits", **{**own, **values})
    zoo.prepare_data()
    zoo.setup()
    return zoo


def test_bounds_are_errors_of_pictures(tmp_path):
    zoo = make_zoo(tmp_path)
    found = edit_bounds(zoo, "erode")
    batch = next(iter(zoo.test_dataloader()))
    target = (zoo.edited_images("erode")(batch.index) + 1) / 2
    drawn = zoo.render(batch.features).flatten(1, 2)
    assert torch.equal(batch.index, torch.from_numpy(zoo.split.test))
    near = (drawn - target).square().mean((1, 2)) * 4  # of clamped pixels
    assert torch.allclose(found["identity"], near, rtol=0.05)
    assert found["own_fit"].mean() < 0.1 * found["identity"].mean()
    some = edit_bounds(zoo, "erode", 3)
    for name, errors in some.items():
        assert torch.equal(errors, found[name][:3])


def test_own_fits_start_where_the_zoos_networks_did(tmp_path):
    zoo = make_zoo(tmp_path, num_steps=0)
    found = edit_bounds(zoo, "dilate")
    assert torch.equal(found["identity"], found["own_fit"]), "no step was taken"
    other = make_zoo(tmp_path, num_steps=0, zoo_seed=1)
    items = np.sort(zoo.split.test)
    fits = [own_fits(each, zoo.edited_images("dilate"), items) for each in (zoo, other)]
    assert not np.array_equal(*fits)


def test_what_is_refused(tmp_path):
    zoo = make_zoo(tmp_path)
    with pytest.raises(ValueError, match="--count 99: this zoo has 13 test images"):
        edit_bounds(zoo, "erode", 99)
    with pytest.raises(ValueError, match="edit 'contrast' is unknown for these images: choose one of dilate"):
        edit_bounds(zoo, "contrast")
    zoo.known = {"widths", "w0_first"}  # as an imported zoo has it
    with pytest.raises(ValueError, match=r"the file doesn't say .*lr, .*num_steps"):
        edit_bounds(zoo, "erode")


def test_the_script_and_the_table(tmp_path, capsys):
    words = ["task=inr_edit", "zoo.num_images=60", "zoo.num_views=1", "zoo.views_per_epoch=1", "zoo.num_steps=50",
             "task.edit=erode", "threads=1", f"zoo_dir={tmp_path}", "--out", str(tmp_path / "out")]  # fmt: skip
    main = runpy.run_path(str(SCRIPT))["main"]
    main([*words, "--count", "5"])
    assert "own_fit" in capsys.readouterr().out
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name.split("-")[:3] for path in files] == [
        ["identity", "siren_digits_edit", "erode"],
        ["own_fit", "siren_digits_edit", "erode"],
    ]
    summaries = [json.loads(path.read_text()) for path in files]
    assert [summary["measured"] for summary in summaries] == [5, 5]
    assert all(summary["wall_s"] > 0 and summary["machine"]["threads"] == 1 for summary in summaries)
    table = edit_table(summaries)
    assert "**digits, erode** (definition digits+num_steps=50)" in table
    assert table.index("`own_fit`") < table.index("`identity`")
    for wrong, text in (([*words, "--counts"], "no option --counts"), ([*words, "--count", "many"], "whole number"),
                        (["task=inr_cls"], "edits nothing"),
                        (["task=inr_edit", "zoo=small_cnn_cifar10"], "has no images to edit")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            main(wrong)


def test_files_of_other_data_are_not_overwritten(tmp_path):
    main = runpy.run_path(str(SCRIPT))["main"]
    out = tmp_path / "out"
    words = ["task=inr_edit", "zoo.num_views=1", "zoo.views_per_epoch=1", "zoo.num_steps=0", "task.edit=erode",
             "threads=1", f"zoo_dir={tmp_path}", "--out", str(out), "--count", "5"]  # fmt: skip
    main([*words, "zoo.num_images=60"])
    main([*words, "zoo.num_images=60"])  # the same again may be written
    kept = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match=r"(?s)is there, of other data:.*num_images: there 60, now 70.*another --out"):
        main([*words, "zoo.num_images=70"])
    assert {path: path.read_bytes() for path in out.iterdir()} == kept


def test_what_tells_files_of_bounds_apart(tmp_path):
    check_same = runpy.run_path(str(SCRIPT))["check_same"]
    path = tmp_path / "identity-inr_file-erode-8cedae62-5.json"
    about = {"dataset": "mnist", "split": "nfn", "fingerprint": "ab12"}
    check_same(path, about)
    path.write_text(json.dumps({**about, "metrics": {}}))
    check_same(path, {**about, "said": "by a later version"})
    for key in about:
        with pytest.raises(ValueError, match=f"{key}: there {about[key]}, now other"):
            check_same(path, {**about, key: "other"})
    path.write_text("not JSON")
    with pytest.raises(ValueError, match=r"cannot be read .* move it away, or name another --out"):
        check_same(path, about)


def summary(model, seed, mse, **more):
    return {
        "task": "inr_edit", "model": model, "seed": seed, "dataset": "mnist", "definition": "nfn", "num_train": 4500,
        "canonicalized": False, "standardized": "layer", "params": 1000, "wall_s": 60.0, "num_test": 1000,
        "command": f"python run.py experiment=edit_small model=edit/{model} seed={seed}", "config_hash": f"{model}1",
        "metrics": {"test/mse": mse, "test/mse_unit": mse / 4}, "config": {"task": {"edit": "dilate"}}, **more,
    }  # fmt: skip


def test_seeds_are_one_row_and_the_papers_number_stands_beside_it():
    runs = [summary("mlp", 0, 0.3), summary("nft", 1, 0.06), summary("nft", 0, 0.04), summary("nfn_np_edit", 0, 0.07)]
    lines = edit_table(runs).splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| `")]
    assert [row[0] for row in rows] == ["| `nft`", "| `nfn_np_edit`", "| `mlp`"]
    assert rows[0][1:5] == ["0.0500 ± 0.0141", "0.0125 ± 0.0035", "0.0510 ± 0.0004", "0, 1"]
    assert rows[1][1:5] == ["0.0700", "0.0175", "0.068", "0"]
    apart = edit_table([summary("nft", 0, 0.04), summary("nft", 1, 0.03, canonicalized=True)])
    assert apart.count("`nft`") == 2
    slow = {"config_hash": "nft2", "command": "python run.py experiment=edit_small model=edit/nft task.lr=1e-3 seed=0"}
    tuned = edit_table([summary("nft", 0, 0.04), summary("nft", 1, 0.06), summary("nft", 0, 0.03, **slow)])
    assert "| `nft` | 0.0500 ± 0.0141 |" in tuned, "settings are not averaged as if they were seeds"
    assert "| `nft task.lr=1e-3` | 0.0300 |" in tuned
    with pytest.raises(ValueError, match="two results of nft with seed 0 and the same settings: give one of them"):
        edit_table([summary("nft", 0, 0.04), summary("nft", 0, 0.06)])
    bounds = [{k: v for k, v in summary("own_fit", 0, mse).items() if k != "params"} for mse in (0.01, 0.02)]
    both = edit_table([bound | {"measured": count} for bound, count in zip(bounds, (100, 1000), strict=True)])
    assert "| 0.0100 |" in both, "bounds of other networks are another row"
    assert "| 0.0200 |" in both
    with pytest.raises(ValueError, match="task 'inr_cls'"):
        edit_table([{"task": "inr_cls"}])
