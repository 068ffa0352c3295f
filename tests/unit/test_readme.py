"""The numbers in the README are those of the committed results."""

import json
import re
import statistics
from pathlib import Path

import pytest

from nfbench.report.edit_table import edit_table

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PLAIN = re.compile(r"^python run\.py task=inr_cls model=\w+ seed=\d( threads=1)?$")
ROW = re.compile(r"^\| `(\w+)` \| ([\d.]+) ± ([\d.]+) \| ([\d, .]+) \| (\d+) s \| (\d+) MB \|", re.MULTILINE)


def demo_results():
    paths = sorted((ROOT / "results" / "inr_cls").glob("*siren_digits*.json"))
    found = [r for r in (json.loads(path.read_text()) for path in paths) if PLAIN.match(r["command"])]
    return {model: [r for r in found if r["model"] == model] for model in {r["model"] for r in found}}


def test_the_demo_table_is_what_the_results_say():
    rows = {row[0]: row[1:] for row in ROW.findall(README)}
    results = demo_results()
    assert set(rows) == set(results)
    for model, runs in results.items():
        assert [r["seed"] for r in runs] == [0, 1, 2]
        accuracies = [100 * r["metrics"]["test/acc"] for r in runs]
        mean, std, each, wall, memory = rows[model]
        assert float(mean) == pytest.approx(statistics.mean(accuracies), abs=0.051)
        assert float(std) == pytest.approx(statistics.stdev(accuracies), abs=0.051)
        assert [float(one) for one in each.split(",")] == pytest.approx(accuracies, abs=0.051)
        assert int(wall) == pytest.approx(statistics.mean(r["wall_s"] for r in runs), abs=0.51)
        assert int(memory) == pytest.approx(max(r["peak_memory_mb"] for r in runs), abs=0.51)


def test_the_speed_table_is_what_the_benchmark_says():
    rows = json.loads((ROOT / "benchmarks" / "results" / "siren_fit.json").read_text())
    for row in rows:
        if row["case"].startswith("2-32-32-1, 784 pixels, kernel"):
            assert f"{row['ours_s'] * 1e3:.4f} ms" in README
            assert f"{row['other_s'] * 1e3:.3f} ms" in README
            assert f"{row['ratio']:.1f}x" in README
            assert f"{row['floor_s'] * 1e3:.3f} ms" in README


def test_the_layer_table_is_what_the_benchmark_says():
    rows = json.loads((ROOT / "benchmarks" / "results" / "layers.json").read_text())
    for layer in {row["case"].split(",")[0] for row in rows}:
        mine = [row for row in rows if row["case"].split(",")[0] == layer]
        ratios = [row["ratio"] for row in mine]
        memory = statistics.median(row["ours_peak_mb"] / row["other_peak_mb"] for row in mine)
        found = re.search(
            rf"^\| `?{layer}`? \| ([\d.]+)x \(([\d.]+) to ([\d.]+)\) \| ([\d.]+) \|$", README, re.MULTILINE
        )
        assert found, layer
        wanted = (statistics.median(ratios), min(ratios), max(ratios), memory)
        assert tuple(map(float, found.groups())) == pytest.approx(wanted, abs=0.0051)


CNN_GEN = re.compile(r"^\| `(\S+)( [^`]+)?` \| weights \| ([\d.]+) ± ([\d.]+) \| ([\d., ]+) \|", re.MULTILINE)

MEASURES = re.compile(r"^\| `(\S+)` \| (yes|no) \| ([-+][\d.]+) ± ([\d.]+) \| ([-+\d., ]+) \|", re.MULTILINE)


def test_the_accuracy_prediction_table_is_what_the_results_say():
    results = [json.loads(path.read_text()) for path in sorted((ROOT / "results" / "cnn_gen").glob("*.json"))]
    rows = CNN_GEN.findall((ROOT / "docs" / "cnn_gen.md").read_text())
    seen = 0
    for name, added, mean, std, each in rows:
        start = f"python run.py experiment=cnn_gen_{name} "
        mine = [r for r in results if r["command"].startswith(start) and (added.strip() or "seed") in r["command"]]
        if not added:  # not the rows that add something to the same experiment
            others = [other[1].strip() for other in rows if other[0] == name and other[1]]
            mine = [r for r in mine if not any(other in r["command"] for other in others)]
        assert [r["seed"] for r in mine] == [0, 1, 2]
        taus = [r["metrics"]["test/kendall_tau"] for r in mine]
        assert [float(one) for one in each.split(",")] == pytest.approx(taus, abs=0.00051)
        assert float(mean) == pytest.approx(statistics.mean(taus), abs=0.00051)
        assert float(std) == pytest.approx(statistics.stdev(taus), abs=0.00051)
        seen += len(mine)
    assert seen == len(results) >= 12, "a published run is in no row"


def test_the_table_of_measures_is_what_the_results_say():
    paths = [ROOT / "results" / "measures" / f"cnn_cifar10gs-seed{seed}.json" for seed in (0, 1, 2)]
    tables = [{row["measure"]: row for row in json.loads(path.read_text())["table"]} for path in paths]
    rows = MEASURES.findall((ROOT / "docs" / "cnn_gen.md").read_text())
    assert {name for name, *_ in rows} == set(tables[0])
    for name, _, mean, std, each in rows:
        taus = [table[name]["tau_accuracy"] for table in tables]
        assert [float(one) for one in each.split(",")] == pytest.approx(taus, abs=0.00051)
        assert float(mean) == pytest.approx(statistics.mean(taus), abs=0.00051)
        assert float(std) == pytest.approx(statistics.stdev(taus), abs=0.00051)


TICKETS = re.compile(r"^\| `(\S+)` \| [^|]+ \| ([\d.]+)(?: ± ([\d.]+))? \| ([\d.]+) \| ([\d., ]*)\|", re.MULTILINE)

CHOICES = re.compile(r"^\| `(model=[^`]+)` \| ([\d. |]+) \| (\w+) \|$", re.MULTILINE)


def test_the_tables_of_tickets_are_what_the_results_say():
    results = [json.loads(path.read_text()) for path in sorted((ROOT / "results" / "tickets").glob("*.json"))]
    _, *parts = (ROOT / "docs" / "tickets.md").read_text().split("\n### ")
    seen = 0
    for added, numbers, cut in CHOICES.findall(parts[-1]):
        (run,) = [r for r in results if r["dataset"] == "digits" and r["command"].endswith(f"seed=0 {added}")]
        names = (
            "acc",
            "acc_std",
            *(f"acc/{name}" for name in ("imp", "snip", "magnitude_layer", "random_layer", "dense")),
        )
        wanted = [100 * run["metrics"][f"test/{name}"] for name in names]
        assert [float(one) for one in numbers.split("|")] == pytest.approx(wanted, abs=0.051)
        assert run["cut"] == cut
        seen += 1
    for part in parts[:-1]:
        dataset = part.partition(",")[0]
        here = [r for r in results if r["dataset"] == dataset]
        rows = TICKETS.findall(part)
        assert len(rows) > 8
        for name, mean, std, spread, each in rows:
            if not name.startswith("vae/"):
                metrics = here[0]["metrics"]
                assert float(mean) == pytest.approx(100 * metrics[f"test/acc/{name}"], abs=0.051)
                assert float(spread) == pytest.approx(100 * metrics[f"test/acc_std/{name}"], abs=0.051)
                continue
            mine = sorted((r for r in here if f"vae/{r['model']}" == name), key=lambda r: r["seed"])
            accs = [100 * r["metrics"]["test/acc"] for r in mine]
            assert [r["seed"] for r in mine] == list(range(len(mine)))
            assert [float(one) for one in each.split(",")] == pytest.approx(accs, abs=0.051)
            assert float(mean) == pytest.approx(statistics.mean(accs), abs=0.051)
            if std:
                assert float(std) == pytest.approx(statistics.stdev(accs), abs=0.051)
            seen += len(mine)
    assert seen == len(results) >= 4, "a published run is in no row"


def test_the_tables_of_edits_are_what_the_results_say():
    results = [json.loads(path.read_text()) for path in sorted((ROOT / "results" / "inr_edit").glob("*.json"))]
    text = (ROOT / "docs" / "inr_edit.md").read_text()
    tables = edit_table(results).split("\n\n**")
    assert len(tables) == 2, "MNIST and CIFAR-10"
    for table in tables:
        assert table.removeprefix("**") in text
