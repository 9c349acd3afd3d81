"""The report: everything in it, nothing that runs or loads, and the same bytes for the same data."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import sys
from dataclasses import replace

import pytest
import reader_study_ratings as examples

from SynthDiffusionLib.errors import BadInput, MissingExtra, RunFailed
from SynthDiffusionLib.reader_study.analysis import analyse
from SynthDiffusionLib.reader_study.report import render, write_report
from SynthDiffusionLib.reports import page
from SynthDiffusionLib.reports.page import formatted
from SynthDiffusionLib.reports.plots import draw

pytest.importorskip("scipy")
pytest.importorskip("statsmodels")
pytest.importorskip("matplotlib")

ITEMS = ("score", "quality", "organ", "flaws", "why", "marks")
TASKS = [("turing", "single"), ("choice", "forced_choice")]
EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">"\'&$x_{$</td></svg><!--'


@pytest.fixture(scope="module")
def result():
    ratings = examples.simulated((1.0, 1.3, 0.7), cases=12, arms=("gen-a", "gen-b"), items=ITEMS, repeats=4)
    study = examples.study(TASKS, {"margin": 0.15})
    return analyse(examples.merged(study, [*ratings, *examples.forced((0.6, 0.7, 0.8))]))


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page; ends that fit their beginnings."""

    VOID = {"meta", "br", "img", "link", "hr"}

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> after <{self.open[-1:]}>"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def test_page_is_whole_and_alone(result):
    page = Page(render(result))
    assert page.open == []
    assert not {"script", "iframe", "object", "embed", "link", "form", "img"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    links = [a[2] for a in page.attributes if a[1] in ("href", "xlink:href", "src", "action")]
    assert links and all(link.startswith("#") for link in links)
    assert not re.search(r"@import|url\((?!#)", render(result))
    assert any("default-src 'none'" in a[2] for a in page.attributes if a[:2] == ("meta", "content"))
    text = " ".join(page.text)
    for section in result["sections"]:
        assert section["title"] in text
        for sentence in section["sentences"]:
            assert sentence in text
    assert text.index("Primary endpoint") < text.index("Can readers tell")
    assert page.tags.count("svg") == sum(len(s["plots"]) for s in result["sections"])
    assert all(a[2] for a in page.attributes if a[1] == "aria-label")


def test_what_people_typed_is_harmless():
    ratings = examples.simulated((1.0, 1.0), cases=8, items=("score", "quality", "why", "organ"))
    ratings = [replace(r, value=EVIL) if r.item == "why" else r for r in ratings]
    ratings = [replace(r, arm=EVIL, pair=EVIL + r.pair) if r.arm == "gen-a" else r for r in ratings]
    data = examples.study([("turing", "single")]).data
    form = data["tasks"][0]["form"]
    for item in form["items"]:
        item["text"] = EVIL + item["id"]
        for option in item.get("options", ()):
            option["label"] = EVIL
    study = examples.study(
        [], {"arm": EVIL}, title=EVIL, description=EVIL, tasks=data["tasks"], readers_planned=[{"id": "R1"}]
    )
    merged = examples.merged(study, ratings, problems=(EVIL,))
    text = render(analyse(merged))
    page = Page(text)
    assert page.open == [] and not {"script", "img"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert "<script" not in text and "<!--" not in text
    assert "".join(page.text).count("<script>alert(1)</script>") > 20  # shown as text


def test_same_data_same_bytes(result, tmp_path):
    first, second = write_report(result, tmp_path / "a"), write_report(json.loads(json.dumps(result)), tmp_path / "b")
    assert first.keys() == second.keys()
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes(), name


def test_every_number_is_in_json_and_csv(result, tmp_path):
    paths = write_report(result, tmp_path / "report")
    assert json.loads(paths["json"].read_text(encoding="utf-8")) == result
    for section in result["sections"]:
        for table in section["tables"]:
            with open(paths[table["id"]], encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            assert len(rows) == len(table["rows"])
            for row, expected in zip(rows, table["rows"]):
                for column in table["columns"]:
                    value = expected[column["key"]]
                    if isinstance(value, float):
                        assert float(row[column["key"]]) == value
                    elif isinstance(value, str):
                        assert row[column["key"]].removeprefix("'") == value.removeprefix("'")
    comments = paths["comments"].read_text(encoding="utf-8")
    assert "'=grainy" in comments and ",=grainy" not in comments  # no formula for a spreadsheet


def test_plots_show_the_data(result):
    kinds = {}
    for section in result["sections"]:
        for plot in section["plots"]:
            kinds.setdefault(plot["kind"], plot)
    assert set(kinds) == {"roc", "intervals", "likert", "agreement", "times"}
    for plot in kinds.values():
        svg = draw(plot).decode()
        assert svg.startswith("<?xml") and len(svg) > 3000
        assert draw(plot, "png").startswith(b"\x89PNG")
    moved = json.loads(json.dumps(kinds["intervals"]))
    moved["rows"][0]["value"] -= 0.1
    assert draw(moved) != draw(kinds["intervals"])


def test_cells():
    assert formatted(0.6123, "percent") == "61.2 %" and formatted(0.0002, "p") == "<0.001"
    assert formatted(None, "number") == "" and formatted(float("nan"), "p") == ""
    assert formatted(True, "yes") == "yes" and formatted("infinite", "number") == "infinite"
    assert formatted(7, "int") == "7" and formatted(0.000792132, "number6") == "0.000792132"


def test_a_folder_that_cannot_be_made(result, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="cannot be made"):
        write_report(result, tmp_path / "file")


def test_tables_of_an_earlier_report_go(result, tmp_path):
    paths = write_report(result, tmp_path)
    fewer = json.loads(json.dumps(result))
    gone = [table["id"] for table in fewer["sections"].pop()["tables"]]
    assert gone
    again = write_report(fewer, tmp_path)
    assert sorted((tmp_path / "tables").iterdir()) == sorted(p for k, p in again.items() if k not in ("html", "json"))
    assert all(not paths[name].exists() for name in gone)


def test_a_full_disk_leaves_the_earlier_report_whole(result, tmp_path, monkeypatch):
    write_report(result, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    other = json.loads(json.dumps(result))
    other["study"]["title"] = "another"
    for section in other["sections"]:
        for table in section["tables"]:
            table["rows"] = table["rows"][:1]
    write, calls = page.atomic_file, []

    def fills_up(path):
        calls.append(path)
        if len(calls) == 5:
            raise RunFailed("No space left", "Free some.")
        return write(path)

    monkeypatch.setattr(page, "atomic_file", fills_up)
    with pytest.raises(RunFailed, match="No space"):
        write_report(other, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_what_to_install(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match="reader study"):
        render(result)
