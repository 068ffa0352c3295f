"""Tables within documents, and that those of this repository are what the results say."""

import json
import re
from pathlib import Path

import pytest
from run_folders import summary

from nfbench.report.fill import MARK, fill
from nfbench.report.results import collect
from nfbench.report.tables import make_tables

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if MARK.search(path.read_text())]


def made(folder, *summaries):
    for number, each in enumerate(summaries):
        (folder / f"{number}.json").write_text(json.dumps(each))
    return make_tables(collect([folder]))[0]


def test_a_mark_gets_the_tables_that_it_asks_for(tmp_path):
    tables = made(
        tmp_path, summary(value=0.25), summary(value=0.75, seed=1), summary(value=0.5, dataset="mnist", model="mlp"),
        summary(
            task="inr2array_cls", value=0.125, encoder_wall_s=30.0, encode_s=4.0,
            encoder="inr2array nft, seed 0, aaaaaaaa",
        ),
    )  # fmt: skip
    start, end = "<!-- results task=inr_cls dataset=digits -->", "<!-- end of results -->"
    text = fill(f"before\n{start}\nold\n{end}\nafter\n", tables)
    assert text.startswith(f"before\n{start}\n")
    assert text.endswith(f"{end}\nafter\n")
    assert "old" not in text
    assert "mnist" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| `nft`")]
    assert "| 0.5000 ± 0.3536 | 0: 0.2500, 1: 0.7500 |" in row
    assert row.endswith("| 10 s, 2 CPU threads | `python run.py task=inr_cls model=nft seed=0` |")
    assert "paper" not in text, "nobody published such a number"
    assert fill(text, tables) == text
    both = fill(f"<!-- results task=inr_cls -->\n{end}", tables)
    assert both.count("**inr_cls: ") == 2
    assert "30 + 4 + 10 s" in fill(f"<!-- results task=inr2array_cls -->\n{end}", tables)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("results dataset=svhn", "no table of results has"), ("results svhn", "not key=value"),
        ("results examples_seen=7", "no table of results has"),
        ("ablations task=inr_cls model=mlp", "no result of task=inr_cls model=mlp"),
        ("ablations task=inr_cls model=nft", "no result has the overrides task=inr_cls model=nft and more"),
    ],
)  # fmt: skip
def test_what_is_said_of_marks_that_fit_nothing(tmp_path, mark, message):
    tables = made(tmp_path, summary())
    with pytest.raises(ValueError, match=message):
        fill(f"<!-- {mark} -->\n<!-- end of results -->", tables)


def test_a_row_that_reads_an_encoder_says_how_to_train_both(tmp_path):
    tables = made(
        tmp_path, summary(task="inr2array", config_hash="aaaaaaaa"), summary(task="inr2array", config_hash="bbbbbbbb"),
        summary(task="inr2array_cls", encoder="inr2array nft, seed 0, aaaaaaaa", command="python run.py second"),
        summary(task="inr2array_cls", encoder="inr2array nft, seed 1, aaaaaaaa", model="mlp"),  # not at hand
    )  # fmt: skip
    (arrays,) = [table for table in tables if table.task == "inr2array_cls" and not table.published]
    assert {row.label: row.command for row in arrays.rows} == {
        "nft": "python run.py task=inr2array model=nft seed=0 && python run.py second",
        "mlp": "python run.py task=inr2array_cls model=mlp seed=0",
    }


def changed(words, hash, **changes):
    seed = changes.get("seed", 0)
    command = f"python run.py task=inr_cls model=nft {words} seed={seed}"
    return summary(command=command, config_hash=hash, **changes)


def test_ablations_are_the_results_of_one_command_and_more(tmp_path):
    tables = made(
        tmp_path, summary(value=0.5), summary(value=0.75, seed=1), summary(value=1.0, seed=2),
        changed("model.pool=np", "aaaaaaaa", value=0.75), changed("model.pool=np", "aaaaaaaa", value=0.5, seed=1),
        changed("zoo.num_views=1", "bbbbbbbb", value=0.0, views=1),  # of another protocol, but for the same test
        changed("zoo.num_views=1", "cccccccc", value=0.875, num_images=100),  # of other networks
        summary(value=0.9375, model="mlp"),
    )  # fmt: skip
    text = fill("<!-- ablations task=inr_cls model=nft -->\n<!-- end of results -->", tables)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")][2:]
    assert [row[:4] for row in rows] == [
        ["none", "0.7500 ± 0.2500", "–", "0: 0.5000, 1: 0.7500, 2: 1.0000"],
        ["`model.pool=np`", "0.6250 ± 0.1768", "+0.0000 ± 0.3536", "0: 0.7500, 1: 0.5000, missing 2"],
        ["`zoo.num_views=1`", "0.0000", "-0.5000", "0: 0.0000"],
    ]
    assert rows[1][-1] == "`python run.py task=inr_cls model=nft model.pool=np seed=0`"
    assert "num test 400; without a change: raw." in text


def test_rows_of_a_table_can_be_chosen_and_left_out(tmp_path):
    tables = made(
        tmp_path, summary(value=0.5), changed("model.pool=np", "aaaaaaaa", value=0.75),
        changed("zoo.canonicalize=true", "bbbbbbbb", value=0.25, examples_seen=2000),
    )  # fmt: skip

    def labels(mark):
        text = fill(f"<!-- results task=inr_cls {mark} -->\n<!-- end of results -->", tables)
        return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]

    assert labels("") == ["`nft model.pool=np`", "`nft`", "`nft zoo.canonicalize=true`"]
    assert labels("without=model.,zoo.standardize") == ["`nft`", "`nft zoo.canonicalize=true`"]
    assert labels("examples_seen=2000") == ["`nft zoo.canonicalize=true`"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_say_what_the_results_say(path):
    tables = make_tables(collect([ROOT / "results"]))[0]
    assert fill(path.read_text(), tables) == path.read_text(), f"run: python scripts/tables.py results --fill {path}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_each_row_says_its_seeds_protocol_cost_and_command(path):
    marked = re.findall(r"^<!-- (?:results|ablations) .*?^<!-- end of results -->$", path.read_text(), re.S | re.M)
    lines = [line for text in marked for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    heads = [row for row in rows if row[0] in ("| model", "| change")]
    assert len(heads) == sum(row[0].startswith("| ---") for row in rows) >= len(marked)
    columns = []
    for row in rows:
        if row in heads:
            columns = [name.rstrip(" |") for name in row]
        elif not row[0].startswith("| ---"):
            said = dict(zip(columns, row, strict=True))
            assert re.match(r"\d+: |\d+ initialisations$|zoo seed \d", said["seeds"]), said
            assert "s, " in said["training"], said
            assert said["command"].startswith("`python "), said
            assert said.get("input", "unchanged") not in ("", "–"), said
            assert ("&&" in said["command"]) == ("encoder " in said.get("input", "")), "the command alone makes the row"


def test_there_are_such_documents():
    assert len(DOCUMENTS) >= 1
