"""The page of results: whole, self-contained, and safe with whatever names it is given."""

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from run_folders import summary, write_run, write_unfinished

from nfbench.report.page import page, write_page
from nfbench.report.results import collect
from nfbench.report.svg import Curve, Dots, curve_plot, dot_plot, tick_labels, ticks
from nfbench.report.tables import make_tables

VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps what is in them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.scripts, self.plain = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        self.plain.append(data)


@pytest.fixture
def made(tmp_path):
    for seed in range(3):
        lines = "".join(f"{e},{e},0.1,{0.1 * e + 0.01 * seed}\n" for e in range(6))
        lines = "epoch,step,lr,val/acc\n" + lines
        name = f"nft-siren_digits-seed{seed}-0123abcd"
        folder = write_run(tmp_path / name, metrics=lines, seed=seed, value=0.8 + 0.02 * seed, picture="test.png")
        Image.linear_gradient("L").resize((900, 300)).save(folder / "test.png")
    evil = "<script>alert(1)</script>"
    write_run(tmp_path / "evil", model=evil, config_hash="99999999", value=0.3, definition='"><img src=x>',
              command=f"python run.py model='{evil}' seed=0", machine={"gpu": "<b>", "threads": 1})  # fmt: skip
    write_unfinished(tmp_path / "mlp-<i>-seed0-12121212", "model=<i>", "seed=0")
    (tmp_path / "bad&.json").write_text("{")
    found = collect([tmp_path])
    tables, lost = make_tables(found)
    return tables, lost, found.problems


def test_it_parses_and_has_every_row(made):
    tables = made[0]
    reader = Reader(page(*made))
    rows = [row for table in tables for row in table.rows]
    assert len(rows) > 100
    labels = [attrs["data-value"] for tag, attrs in reader.tags if tag == "td" and attrs.get("class") == "model"]
    assert sorted(labels) == sorted(row.label for row in rows)
    text = "".join(reader.plain)
    assert all(row.command in text for row in rows)
    assert sum(tag == "table" for tag, _ in reader.tags) == len(tables)
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert {f"#{name}" for name in ids} == {attrs["href"] for tag, attrs in reader.tags if tag == "a"}


def test_it_loads_nothing(made):
    text = page(*made)
    for tag, attrs in Reader(text).tags:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, value)
        assert tag not in ("link", "iframe", "object", "embed", "base")
    assert not re.search(r"@import|url\(|https?://|fetch\(|XMLHttpRequest|import\(", text)


def test_it_sorts_and_copies(made):
    (script,) = Reader(page(*made)).scripts
    assert "aria-sort" in script
    assert "tBodies[0].append" in script
    tags = Reader(page(*made)).tags
    assert any(tag == "button" and attrs.get("class") == "copy" for tag, attrs in tags)
    assert all("data-value" in attrs for tag, attrs in tags if tag == "td" and "class" in attrs)


def test_hostile_names_are_text(made):
    text = page(*made)
    reader = Reader(text)
    assert text.count("<script>") == 1, "the page's own"
    assert "<script>alert(1)</script>" in "".join(reader.plain)
    assert all(attrs.get("src", "").startswith("data:") for tag, attrs in reader.tags if tag == "img")
    assert "mlp-<i>-seed0-12121212" in "".join(reader.plain)
    assert "bad&.json: unreadable" in "".join(reader.plain)


def test_plots_and_pictures_are_inside(made, tmp_path):
    path = write_page(tmp_path / "report", *made)
    tags = Reader(path.read_text()).tags
    pictures = [attrs for tag, attrs in tags if tag == "img"]
    assert len(pictures) == 1, "of one seed a row, where there is a picture"
    curves = [attrs for tag, attrs in tags if tag == "polyline"]
    assert len(curves) == 3, "a line a seed"
    assert len([1 for tag, attrs in tags if tag == "circle"]) == 4, "a point a run"


def test_a_broken_picture_or_table_of_metrics_costs_nothing_else(tmp_path):
    folder = write_run(tmp_path / "run", metrics="epoch,val/acc\n0,x\n,\n", picture="test.png")
    (folder / "test.png").write_bytes(b"no picture")
    tables, lost = make_tables(collect([tmp_path]))
    tags = Reader(page(tables, lost, [])).tags
    assert not [1 for tag, _ in tags if tag in ("img", "polyline")]


def test_published_results_bring_their_curves(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(summary(curves={"val/acc": [0.1, None, 0.5], "val/loss": [3, 2, 1]})))
    tables, lost = make_tables(collect([tmp_path]))
    curves = [attrs for tag, attrs in Reader(page(tables, lost, [])).tags if tag == "polyline"]
    assert [len(attrs["points"].split()) for attrs in curves] == [2]


def test_an_empty_page_has_the_published_protocols():
    tables, lost = make_tables(collect([]))
    assert Reader(page(tables, lost, [])).tags
    assert all(table.published for table in tables)


def test_notes_reach_the_page(tmp_path):
    edit = summary(task="inr_edit", metric="test/mse", model="identity", value=0.8, measured=400)
    bound = {k: v for k, v in edit.items() if k not in ("params", "config_hash", "size")}
    (tmp_path / "bound.json").write_text(json.dumps(bound))
    tables, lost = make_tables(collect([tmp_path]))
    assert "not trained; of 400 test networks" in page(tables, lost, [])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.912, 0.923), (-3, 1e-9), (0, 287280), (1e-6, 3e-6), (5, 5)])
def test_ticks_are_round_few_and_within(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 6
    slack = 1e-9 * max(abs(low), abs(high))
    assert all(low - slack <= value <= high + slack for value in found)
    assert len(set(tick_labels(found))) == len(found)


def test_points_lie_within_the_plot():
    rows = [Dots("a" * 90, [0.1, 0.2], 0.9, False, 0.05), Dots("b", [], None), Dots("c", [0.15], 0.15, True)]
    text = dot_plot(rows, "test/acc")
    assert all(0 < float(x) < 360 for x in re.findall(r'cx="([\d.-]+)"', text))
    assert text.count('class="paper other"') == text.count('class="paper"') == 1
    assert "a" * 60 not in text
    text = curve_plot([Curve("a", [([0.0, 5.0], [0.1, 0.9]), ([0.0], [0.4])])] * 10, "val/acc")
    for path in re.findall(r'points="([^"]+)"', text):
        assert all(0 <= float(value) <= 360 for pair in path.split() for value in pair.split(","))
    assert "stroke-dasharray" in text
