"""The paired bootstrap against what is known: scipy's tau, the normal approximation, identical models."""

import numpy as np
import pytest
from run_folders import write_run
from scipy.stats import kendalltau

from nfbench.report.compare import compare, kendall_tau, r2


def classes(true, predicted):
    rows = [f"{i},0,{t},{p}" for i, (t, p) in enumerate(zip(true, predicted, strict=True))]
    return "\n".join(["index,view,true,predicted", *rows]) + "\n"


def write(folder, right, value=0.5, **changes):
    """A classifier that is right where it is told; the rows lie in another order in each file."""
    right = np.asarray(right)
    true = np.arange(len(right)) % 10
    text = classes(true, np.where(right, true, (true + 1) % 10)).splitlines()
    rows = np.random.default_rng(len(str(folder))).permutation(text[1:])
    return write_run(folder, predictions="\n".join([text[0], *rows]) + "\n", value=value, **changes)


def test_identical_models_do_not_differ(tmp_path):
    right = np.random.default_rng(0).random(200) < 0.7
    found = compare([write(tmp_path / "a", right)], [write(tmp_path / "b", right, model="mlp")])
    assert (found.difference, found.low, found.high, found.share) == (0, 0, 0, 1)
    assert found.items == 200


def test_the_interval_is_the_normal_approximation(tmp_path):
    rng = np.random.default_rng(1)
    a, b = rng.random(2000) < 0.8, rng.random(2000) < 0.77
    found = compare([write(tmp_path / "a", a)], [write(tmp_path / "b", b)])
    change = a.astype(float) - b
    error = change.std() / np.sqrt(len(change))
    assert found.difference == pytest.approx(change.mean(), abs=1e-12)
    # The quantiles of 10,000 draws have a standard error of about 0.027 of theirs.
    assert found.low == pytest.approx(change.mean() - 1.96 * error, abs=0.12 * error)
    assert found.high == pytest.approx(change.mean() + 1.96 * error, abs=0.12 * error)
    same = compare([tmp_path / "a"], [tmp_path / "b"])
    assert same == found, "seeded"
    assert compare([tmp_path / "a"], [tmp_path / "b"], seed=1) != found


def test_pairing_uses_that_the_items_are_the_same(tmp_path):
    """Models that err on the same items differ by little; unpaired intervals would be wide."""
    right = np.random.default_rng(2).random(1000) < 0.5
    better = right.copy()
    better[np.flatnonzero(~right)[:20]] = True
    found = compare([write(tmp_path / "a", better)], [write(tmp_path / "b", right)])
    assert 0.01 < found.low < 0.02 < found.high < 0.03
    assert found.share < 0.001


def test_means_over_seeds(tmp_path):
    rng = np.random.default_rng(3)
    a = [rng.random(300) < 0.9 for _ in range(3)]
    b = [rng.random(300) < 0.6 for _ in range(2)]
    ours = [write(tmp_path / f"a{n}", right, seed=n) for n, right in enumerate(a)]
    theirs = [write(tmp_path / f"b{n}", right, seed=n, model="mlp") for n, right in enumerate(b)]
    found = compare(ours, theirs)
    assert found.a == pytest.approx(np.mean(a))
    assert found.b == pytest.approx(np.mean(b))
    assert found.seeds == (3, 2)
    with pytest.raises(ValueError, match="differ by more than the seed"):
        compare([ours[0], theirs[0]], theirs)


@pytest.mark.parametrize("ties", [False, True])
def test_tau_and_r2_of_resamples_are_those_of_the_drawn_items(ties, monkeypatch):
    monkeypatch.setattr("nfbench.report.compare.CHUNK", 600)  # several blocks of pairs
    rng = np.random.default_rng(4)
    true = rng.integers(0, 9, 60) / 9 if ties else rng.random(60)
    predicted = np.round(true + 0.4 * rng.standard_normal(60), 1 if ties else 9)
    drawn = rng.integers(0, 60, (7, 60))
    weights = np.stack([np.bincount(row, minlength=60) for row in drawn]).astype(float)
    columns = {"true": true, "predicted": predicted}
    wanted = [kendalltau(true[row], predicted[row]).statistic for row in drawn]
    assert kendall_tau(weights, columns) == pytest.approx(wanted, abs=1e-6)
    wanted = [1 - ((true[r] - predicted[r]) ** 2).sum() / ((true[r] - true[r].mean()) ** 2).sum() for r in drawn]
    assert r2(weights, columns) == pytest.approx(wanted)


def test_constant_predictions_have_no_order():
    columns = {"true": np.arange(5.0), "predicted": np.zeros(5)}
    assert kendall_tau(np.ones((2, 5)), columns).tolist() == [0, 0]


CNN = {"task": "cnn_gen", "value": 0.5, "metric": "test/kendall_tau"}
EDIT = {"task": "inr_edit", "value": 0.5, "metric": "test/mse", "config": {"task": {"edit": "dilate"}}}
TICKETS = {"task": "tickets"}


def test_the_other_tasks(tmp_path):
    rng = np.random.default_rng(5)
    true = rng.random(50)

    def cnn(noise):
        values = true + noise * rng.standard_normal(50)
        rows = [f"{i},4,{t},{p},relu" for i, (t, p) in enumerate(zip(true, values, strict=True))]
        return "\n".join(["index,view,true,predicted,activation", *rows]) + "\n"

    a, b = (write_run(tmp_path / f"cnn{n}", cnn(n), **CNN) for n in (0.01, 0.5))
    found = compare([a], [b])
    assert found.metric == "test/kendall_tau"
    assert found.low > 0
    assert compare([a], [b], metric="test/r2").difference > 0
    with pytest.raises(ValueError, match=r"metric test/l1 .* choose one of test/kendall_tau, test/r2"):
        compare([a], [b], metric="test/l1")

    def edit(mse):
        return "index,view,identity,edited\n" + "".join(f"{i},0,{1 + i / 50},{mse + i / 500}\n" for i in range(50))

    a, b = (write_run(tmp_path / f"edit{n}", edit(n), **EDIT) for n in (0.1, 0.3))
    assert compare([a], [b]).difference == pytest.approx(-0.2)

    def tickets(accuracy):
        head = "index,view,source,accuracy,overlap,density\n"
        return head + "".join(f"{i},0,{s},{v + i / 1000},0.1,1;1\n" for i in range(20)
                              for s, v in (("dense", 0.9), ("model", accuracy)))  # fmt: skip

    a, b = (write_run(tmp_path / f"tickets{n}", tickets(n), **TICKETS) for n in (0.7, 0.6))
    assert compare([a], [b]).difference == pytest.approx(0.1)


def test_what_is_refused(tmp_path):
    right = np.ones(30, dtype=bool)
    a = write(tmp_path / "a", right)
    for name, change, message in (
        ("zoo", {"recipe_hash": "other"}, "recipe_hash: d8fb and other"),
        ("task", {"task": "inr2array_cls"}, "task: inr_cls and inr2array_cls"),
    ):
        with pytest.raises(ValueError, match=message):
            compare([a], [write(tmp_path / name, right, **change)])
    fewer = write(tmp_path / "fewer", right[:20])
    with pytest.raises(ValueError, match=r"other test items \(30 and 20 rows"):
        compare([a], [fewer])
    labels = write_run(tmp_path / "labels", classes(np.zeros(30, int), np.zeros(30, int)))
    with pytest.raises(ValueError, match="other true values"):
        compare([a], [labels])
    with pytest.raises(ValueError, match=r"no summary\.json"):
        compare([a], [tmp_path])
    with pytest.raises(ValueError, match=r"no predictions\.csv"):
        compare([a], [write_run(tmp_path / "bare")])
    with pytest.raises(ValueError, match="resamples are too few"):
        compare([a], [a], resamples=0)
