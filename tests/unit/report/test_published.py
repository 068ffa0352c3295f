"""The published numbers: where they are from, what they are of, and which runs compare with them."""

import csv

import pytest
from run_folders import summary

from nfbench.report.edit_table import paper
from nfbench.report.published import NUMBERS, anchor, best, differences, family, nearest, published

FULL = {
    "task": "inr_cls", "dataset": "mnist", "definition": "nfn", "zoo": "siren_mnist", "split": "nfn", "views": 10,
    "num_images": 60000, "num_train": 45000, "size": "full", "model": "nfn_np",
    "command": "python run.py experiment=nfn_np_mnist seed=1 threads=8", "seed": 1,
}  # fmt: skip


def test_every_number_has_a_source_and_a_confidence():
    assert len(published()) > 100
    with NUMBERS.open(newline="") as handle:
        assert all(None not in row and None not in row.values() for row in csv.DictReader(handle))
    for cell in published():
        assert cell.source, cell
        assert cell.confidence in ("read", "reprint"), cell
        assert 0 <= cell.number <= 1, cell
        assert float(cell.spread or 0) < 0.05, cell
        assert bool(cell.spread) == bool(cell.spread_kind), cell
        assert cell.spread_kind in ("", "se", "std", "max-min", "unstated"), cell
        assert cell.metric.startswith("test/"), cell
    assert len({(*cell.protocol, cell.model, cell.source) for cell in published()}) == len(published())


def test_the_numbers_of_inr_edit_are_those_of_its_table():
    assert paper("mnist", "dilate") == {
        "nft": "0.0510 ± 0.0004", "nfn_np": "0.068", "nfn_hnp": "0.070", "nfn_pt": "0.197", "mlp": "0.306",
        "mlp_aug": "0.307", "gmn": "0.0603 ± 0.0010",
    }  # fmt: skip
    assert paper("cifar10", "contrast")["nfn_np"] == "0.020"
    assert paper("fashion", "gradient") == {}


def test_the_best_is_the_lowest_of_errors_and_the_highest_of_accuracies():
    edits = [cell for cell in published() if cell.dataset == "mnist_dilate"]
    assert best(edits).value == "0.0510"
    assert anchor("inr_cls", "mnist", "nfn", "test/acc", "weights").model == "dng_encoder"
    assert anchor("inr_cls", "mnist", "dws", "test/acc", "weights").model == "scalegmn_b"
    assert anchor("inr_cls", "mnist", "nfn", "test/acc", "images in training").model == "inr2jls"
    assert anchor("inr_cls", "digits", "digits", "test/acc", "weights") is None


def test_networks_of_the_small_cnn_zoo_on_another_split_do_not_compare():
    of = {
        "task": "cnn_gen", "dataset": "cifar10", "definition": "small_cnn", "zoo": "small_cnn_cifar10", "size": "full",
        "model": "nfn_hnp_cnn", "num_train": 12000, "access": "weights", "canonicalized": False,
        "command": "python run.py experiment=cnn_gen_nfn_hnp zoo=small_cnn_cifar10 seed=1",
    }  # fmt: skip
    cell = nearest(summary(**of, split="the file's own"), "test/kendall_tau")
    assert differences(summary(**of, split="the file's own"), cell) == []
    ours = "by run: half for the test, the others 80/20"
    assert differences(summary(**of, split=ours), cell) == [f"split {ours}"]


def test_a_run_of_the_cells_command_compares_and_others_say_why_not():
    cell = nearest(summary(**FULL), "test/acc")
    assert (cell.value, cell.views) == ("0.929", "10")
    assert differences(summary(**FULL), cell) == []
    for change, reason in (
        ({"size": "cpu"}, "size cpu"),
        ({"views": 1}, "views 1"),
        ({"split": "official"}, "split official"),
        ({"definition": "nfn+num_steps=200"}, "definition nfn+num_steps=200"),
        ({"num_train": 4500}, "4,500 to train on"),
        ({"canonicalized": True}, "canonicalised"),
        ({"access": "weights and images"}, "access weights and images"),
        ({"command": "python run.py experiment=nfn_np_mnist trainer.max_epochs=3 seed=0"}, "trainer.max_epochs=3"),
        ({"command": "python run.py model=nfn_np seed=0"}, "other settings than experiment=nfn_np_mnist"),
    ):
        assert reason in differences(summary(**{**FULL, **change}), cell), change


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"model": "nfn_np_edit"}, "nfn_np"),
        ({"model": "mlp", "config": {"model": {"width": 4000}}}, "mlp_4000"),
        ({"model": "mlp", "config": {"model": {"width": 1000}}}, "mlp"),
        ({"model": "nfn_pt", "task": "tickets", "config": {"model": {"norm": "none"}}}, "nfn_pt_no_norm"),
    ],
)
def test_family(changes, wanted):
    assert family(summary(**changes)) == wanted
