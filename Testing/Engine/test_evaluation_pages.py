"""`Testing/Benchmarks/evaluation_pages.py`: results between the marks of a page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reports.sections import Table, columns

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))

import evaluation_pages
import utility_again

ROOT = Path(__file__).resolve().parents[2]
PAGE = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n"


def test_what_stood_between_the_marks_goes():
    page = evaluation_pages.put(PAGE, "a", ["new", ""])
    assert page == "before\n<!-- a: begin -->\n\nnew\n\n<!-- a: end -->\nafter\n"
    assert evaluation_pages.put(page, "a", ["new", ""]) == page
    with pytest.raises(BadInput, match="has no marks '<!-- b: begin -->'"):
        evaluation_pages.put(PAGE, "b", [])


def test_limits_of_an_interval_stand_in_one_cell():
    rows = ({"name": "a|b", "value": 0.5, "low": 0.25, "high": 0.75, "note": ""}, {"name": "c", "value": None})
    columns_ = columns("name|Arm", "value|Dice|number", "low|from|number", "high|to|number", "note|Note")
    table = Table("t", "T", columns_, rows).to_json()
    assert list(evaluation_pages.markdown(table)) == [
        "| Arm | Dice |",
        "|---|---|",
        "| a\\|b | 0.500 [0.250, 0.750] |",
        "| c | - |",
    ]


def test_the_page_of_utility_is_what_its_tables_give(tmp_path):
    """Sentences and tables of all three experiments, made again from every network's Dice."""
    page, tables = ROOT / "Docs" / "Evaluation" / "utility.md", ROOT / "Docs" / "Evaluation" / "Tables"
    text = page.read_text(encoding="utf-8")
    copy = tmp_path / "utility.md"
    copy.write_text(text.replace(" clearly", ""), encoding="utf-8")
    names = ("augmentation", "scarcity", "gap")
    assert utility_again.main([str(copy), *(f"{n}={tables / f'utility-{n}-each.csv'}" for n in names)]) == 0
    made = copy.read_text(encoding="utf-8")
    for name in names:
        one, other = (t.partition(f"<!-- {name}: begin -->")[2].partition("<!--")[0] for t in (made, text))
        assert one == other and " clear" in one
