"""Tables: which runs are together, what is missing, and what is compared with what."""

import csv
import io
import json
import math
import re
import statistics

import pytest
from run_folders import summary, write_run, write_unfinished

from nfbench.report.results import collect
from nfbench.report.tables import PROTOCOL, make_tables
from nfbench.report.write_tables import as_csv, display, escape, latex, markdown, seed_values, write_tables

FULL = {
    "dataset": "mnist", "definition": "nfn", "zoo": "siren_mnist", "split": "nfn", "views": 10, "num_train": 45000,
    "size": "full", "model": "nfn_np",
}  # fmt: skip


def write(folder, *summaries):
    folder.mkdir(exist_ok=True)
    for number, each in enumerate(summaries):
        (folder / f"{number}.json").write_text(json.dumps(each))
    return folder


def tables_of(*paths, seeds=None):
    found = collect(paths)
    tables, lost = make_tables(found, seeds)
    return tables, lost, found.problems


def own(tables):
    return [table for table in tables if not table.published]


def test_seeds_are_together_and_the_statistics_are_right(tmp_path):
    values = [0.5, 0.6, 0.8]
    runs = [summary(seed=seed, value=value) for seed, value in enumerate(values)]
    (table,) = own(tables_of(write(tmp_path, *runs))[0])
    (row,) = table.rows
    assert row.mean == pytest.approx(statistics.mean(values))
    assert row.std == pytest.approx(statistics.stdev(values))
    assert row.standard_error == pytest.approx(statistics.stdev(values) / math.sqrt(3))
    assert row.seeds == "3"
    assert display(table, row)["ours"] == "0.6333 ± 0.1528"


@pytest.mark.parametrize("name", [name for name in PROTOCOL if name not in ("task", "metric", "edit")])
def test_no_table_mixes_protocols(tmp_path, name):
    other = summary(seed=1, **{name: 7 if name.startswith("num_") else "another"})
    tables = own(tables_of(write(tmp_path, summary(), other))[0])
    assert len(tables) == 2, "each of its own protocol"
    assert all(len(table.rows) == 1 for table in tables)
    assert tables[0].title != tables[1].title


@pytest.mark.parametrize("change", [{"config_hash": "ffffffff"}, {"model": "mlp"}, {"canonicalized": True},
                                    {"standardized": "layer"}, {"augmentations": "rotation 0.2"}])  # fmt: skip
def test_what_is_of_one_protocol_and_differs_is_another_row(tmp_path, change):
    (table,) = own(tables_of(write(tmp_path, summary(), summary(seed=1, **change)))[0])
    assert len(table.rows) == 2
    assert all(len(row.values) == 1 for row in table.rows)


def test_missing_and_failed_seeds_are_shown(tmp_path):
    for seed in range(5):
        write_run(tmp_path / f"nft-siren_digits-seed{seed}-0123abcd", seed=seed)
        if seed in (0, 2, 3):
            write_run(
                tmp_path / f"mlp-siren_digits-seed{seed}-4444abcd", seed=seed, model="mlp", config_hash="4444abcd"
            )
    write_unfinished(tmp_path / "mlp-siren_digits-seed4-4444abcd", "model=mlp", "seed=4")
    lost = write_unfinished(tmp_path / "nfn_np-siren_digits-seed0-55555555", "model=nfn_np", "seed=0")
    tables, unfinished, _ = tables_of(tmp_path)
    (table,) = own(tables)
    rows = {row.label: row for row in table.rows}
    assert rows["nft"].seeds == "5"
    assert rows["mlp"].seeds == "3 of 5, failed 4, missing 1"
    assert [run.folder for run in unfinished] == [lost]
    assert "nfn_np-siren_digits-seed0-55555555" in markdown(tables, unfinished, [])
    tables, _, _ = tables_of(tmp_path, seeds=[0, 1, 2, 3, 4, 5])
    assert {row.label: row.seeds for row in own(tables)[0].rows}["nft"] == "5 of 6, missing 5"


def test_a_seed_that_diverged_and_one_that_is_there_twice_are_not_passed_over(tmp_path):
    changes = {"task": "inr2array_cls", "encoder": "inr2array nft, seed 0, aaaaaaaa", "config": {}}
    runs = [summary(), summary(seed=1, value=math.nan)]
    runs += [summary(config_hash=f"{n}0000000", value=0.5 + 0.1 * n, wall_s=10.0 * n, **changes) for n in (1, 2)]
    tables, lost, problems = tables_of(write(tmp_path, *runs))
    rows = {table.task: table.rows[0] for table in own(tables)}
    assert seed_values(rows["inr_cls"]) == f"0: {summary()['metrics']['test/acc']:.4f}, failed 1"
    assert rows["inr2array_cls"].values == {0: 0.6}, "of an encoder that was trained again, the first"
    assert len(rows["inr2array_cls"].runs) == 1
    assert lost == []
    assert any("left out, since test/acc is nan" in problem for problem in problems)
    assert any(
        "3.json: left out, since" in problem and "2.json is of the same config" in problem for problem in problems
    )


def test_a_cost_of_different_machines_is_a_range(tmp_path):
    runs = [summary(seed=seed, wall_s=wall) for seed, wall in enumerate((1000.0, 1400.0, 1501.0))]
    (table,) = own(tables_of(write(tmp_path, *runs))[0])
    assert display(table, table.rows[0])["training"].startswith("1,000–1,501 s, ")
    (table,) = own(tables_of(write(tmp_path, *runs[:2], summary(seed=2, wall_s=1500.0)))[0])
    assert display(table, table.rows[0])["training"].startswith("1,300 s, ")


def test_a_cost_says_its_processor(tmp_path):
    known = {"threads": 1, "processor": "Intel(R) Xeon(R) Processor"}
    for machines, text in (
        ([known, known], "1 CPU thread (Intel Xeon)"),
        ([{"threads": 1}, {"threads": 1}], "1 CPU thread"),
        ([{"threads": 1}, known], "1 CPU thread; seed 1 on Intel Xeon"),
    ):
        runs = [summary(seed=seed, machine=machine) for seed, machine in enumerate(machines)]
        (table,) = own(tables_of(write(tmp_path, *runs))[0])
        assert display(table, table.rows[0])["training"].endswith(f" s, {text}")


def test_a_failed_run_of_a_sweep_is_found_by_what_was_typed(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"{seed}-inr_cls-nft-siren_digits-seed{seed}", seed=seed)
    write_unfinished(tmp_path / "2-inr_cls-nft-siren_digits-seed2", "task=inr_cls", "model=nft", "seed=2", "logger=csv")
    tables, lost, _ = tables_of(tmp_path)
    assert own(tables)[0].rows[0].seeds == "2 of 3, failed 2"
    assert lost == []


def test_a_label_has_what_all_seeds_of_a_row_were_run_with(tmp_path):
    def run(seed, words, canonical):
        command = f"python run.py task=inr2array_cls model=nft seed={seed} encoder=outputs/{seed} {words}"
        changes = {
            "command": command,
            "canonicalized": canonical,
            "config_hash": f"{canonical}"[:4],
            "encoder": f"inr2array nft, seed {seed}, aaaaaaaa",
        }
        return summary(task="inr2array_cls", seed=seed, config={"zoo": {"canonicalize": canonical}}, **changes)

    runs = [run(0, "task.width=9", True), run(1, "", True), run(0, "zoo.canonicalize=false", False)]
    (table,) = own(tables_of(write(tmp_path, *runs))[0])
    assert {row.label for row in table.rows} == {"nft", "nft zoo.canonicalize=false"}


def test_ours_stands_beside_the_paper_only_where_it_compares(tmp_path):
    def run(seed, **changes):
        command = f"python run.py experiment=nfn_np_mnist seed={seed}"
        return summary(**{**FULL, "seed": seed, "value": 0.9 + 0.01 * seed, "command": command, **changes})

    shorter = run(
        0, config_hash="eeeeeeee", command="python run.py experiment=nfn_np_mnist trainer.max_epochs=3 seed=0"
    )
    small = run(0, size="cpu", config_hash="dddddddd")
    tables, _, _ = tables_of(write(tmp_path, run(0), run(1), shorter, small))
    (table,) = [t for t in tables if (t.task, t.title) == ("inr_cls", "mnist, nfn zoo, 10 views")]
    rows = {row.label: row for row in table.rows}
    assert rows["nfn_np"].difference == pytest.approx(0.905 - 0.929)
    assert rows["nfn_np"].cell.spread_kind == "se"
    assert rows["nfn_np"].best.model == "dng_encoder"
    assert rows["inr2jls"].best.model == "inr2jls", "of another access"
    assert rows["nfn_hnp"].seeds == "not run"
    short = rows["nfn_np trainer.max_epochs=3"]
    assert (short.difference, short.reasons) == (None, ["trainer.max_epochs=3"])
    (other,) = own(tables)
    assert other.rows[0].difference is None
    assert "size cpu" in display(other, other.rows[0])["difference"]
    assert "another protocol" in display(other, other.rows[0])["paper"]


def test_every_row_is_in_every_form(tmp_path):
    odd = summary(model="a_b|c&d%", config_hash="aaaa0000", command="python run.py model='a_b|c' seed=0")
    tables, lost, problems = tables_of(write(tmp_path / "in", summary(), summary(seed=1, model="mlp"), odd))
    paths = write_tables(tmp_path / "out", tables, lost, problems)
    assert [path.name for path in paths] == ["tables.md", "tables.csv", "tables.tex"]
    rows = [row for table in tables for row in table.rows]
    text, tex = paths[0].read_text(), paths[2].read_text()
    assert len(list(csv.DictReader(io.StringIO(paths[1].read_text())))) == len(rows) > 100
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(lines) == len(rows)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {13}
    assert tex.count(r"\begin{table}") == tex.count(r"\end{table}") == len(tables)
    assert r"a\_b|c\&d\%" in tex
    for row in rows:
        assert escape(row.label) in tex
    assert not re.search(r"(?<!\\)[_&%#]", "".join(x for x in tex.splitlines() if r"\caption" in x))


def test_csv_has_raw_numbers_and_flags(tmp_path):
    tables, _, _ = tables_of(write(tmp_path, summary(value=1 / 3)))
    (row,) = [r for r in csv.DictReader(io.StringIO(as_csv(tables))) if r["protocol"] == "our protocol"]
    assert float(row["ours_mean"]) == 1 / 3
    wanted = {"definition": "digits", "views": "40", "num_images": "1797", "access": "weights", "size": "cpu",
              "canonicalized": "False", "augmentations": "none", "n_seeds": "1", "ours_std": "",
              "command": "python run.py task=inr_cls model=nft seed=0"}  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted
    assert latex(tables).count("task=inr_cls model=nft") == 1


def test_bounds_and_masks_are_rows_without_seeds(tmp_path):
    edit = {"task": "inr_edit", "metric": "test/mse", "config": {"task": {"edit": "dilate"}}}
    bound = {k: v for k, v in summary(**edit, model="identity", value=0.8, measured=400).items()
             if k not in ("params", "config_hash", "size", "machine", "commit", "versions")}  # fmt: skip
    masks = {"test/acc": 0.9, "test/acc/imp": 0.95, "test/acc_std/imp": 0.01}
    tickets = summary(task="tickets", metrics=masks, dataset="mnist", definition="imp1:cpu", config_hash="77777777")
    tables, _, problems = tables_of(write(tmp_path, summary(**edit, value=0.1), bound, tickets))
    assert problems == []
    edits, drawn = own(tables)
    assert [row.label for row in edits.rows] == ["nft", "identity"], "the lower error first"
    assert edits.rows[1].seeds == "zoo seed 0"
    assert "not trained" in edits.rows[1].note
    imp = next(row for row in drawn.rows if row.label == "imp")
    assert (imp.mean, imp.std, imp.spread_kind) == (0.95, 0.01, "over initialisations")
    assert imp.cell.value == "0.962"
    assert imp.difference is None
    assert (imp.seeds, display(drawn, imp)["training"]) == ("400 initialisations", "10 s, 2 CPU threads")
