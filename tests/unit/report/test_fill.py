"""Tables within documents, and that those of this repository are what the results say."""

import json
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
        summary(task="inr2array_cls", value=0.125, encoder_wall_s=30.0, encoder="inr2array nft, seed 0, aaaaaaaa"),
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
    assert "30 + 10 s" in fill(f"<!-- results task=inr2array_cls -->\n{end}", tables)


@pytest.mark.parametrize(("mark", "message"), [("dataset=svhn", "no table of results has"), ("svhn", "not key=value")])
def test_what_is_said_of_marks_that_fit_nothing(tmp_path, mark, message):
    tables = made(tmp_path, summary())
    with pytest.raises(ValueError, match=message):
        fill(f"<!-- results {mark} -->\n<!-- end of results -->", tables)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_say_what_the_results_say(path):
    tables = make_tables(collect([ROOT / "results"]))[0]
    assert fill(path.read_text(), tables) == path.read_text(), f"run: python scripts/tables.py results --fill {path}"


def test_there_are_such_documents():
    assert len(DOCUMENTS) >= 1
