"""The part "Evaluation" of the results: the numbers of the report, its page, and files that are no results."""

from __future__ import annotations

import html
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from panel_harness import ROOT, Harness, shipped_model, widths
from test_generate_panel import tab_order, visible

sys.path.append(str(ROOT / "Testing" / "Engine"))
import example_results  # noqa: E402

pytest.importorskip("matplotlib")


@pytest.fixture
def harness(standin):
    from SynthDiffusionPanels.ResultsPanel import ResultsPanel

    made = Harness(standin.scene, ResultsPanel, [shipped_model()])
    made.ui.evaluationGroup.collapsed = False
    yield made
    made.close()
    made.session.folders.removeAll()


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """Results of two measures and a report of both."""
    from SynthDiffusionLib.evaluation.sets.overview import combine, find_results, write_overview

    folder = tmp_path_factory.mktemp("results ü <1>")
    example_results.write(folder / "a", "fidelity")
    example_results.write(folder / "b", "adherence")
    write_overview(combine(find_results([folder])), folder / "report")
    return folder


@pytest.fixture
def ui(harness):
    return harness.panel.evaluation.ui


def choose(standin, harness, path) -> None:
    """The user types or chooses a path, and waits."""
    ui = harness.panel.evaluation.ui
    ui.resultEdit.currentPath = str(path)
    standin.wait(lambda: not harness.panel.evaluation._timer.isActive(), what="the path to be read")


def cells(table) -> list[tuple[str, ...]]:
    return [tuple(table.item(r, c).text() for c in range(table.columnCount)) for r in range(table.rowCount)]


def titles(table) -> list[str]:
    return [table.horizontalHeaderItem(c).text() for c in range(table.columnCount)]


def test_nothing_is_there_at_first(harness, ui):
    for widget in (ui.answersLabel, ui.figuresTable, ui.pageButton, ui.messageLabel):
        assert not visible(harness, widget)


def test_the_table_has_the_numbers_of_the_page(standin, harness, ui, measured):
    choose(standin, harness, measured / "a" / "fidelity.json")
    assert titles(ui.figuresTable) == [
        "Measure", "Of", "Value (interval)", "Patients", "Real images", "Best without skill", "Better"
    ]  # fmt: skip
    assert cells(ui.figuresTable) == [
        ("Fidelity: Dice", "liver", "0.812 (0.750 to 0.863)", "38", "0.900 (same segmenter on real images)",
         "0.250 (flat classes)", "higher"),
        ("Fidelity: HD95", "liver", "not defined", "", "", "", "lower"),
        ("Fidelity: Share", "liver", "2.1 %", "", "", "", "near 1"),
    ]  # fmt: skip
    page = html.unescape((measured / "a" / "fidelity.html").read_text(encoding="utf-8"))
    for row in cells(ui.figuresTable):
        assert all(f">{text}</td>" in page for text in row[1:])
    assert ui.figuresTable.item(0, 2).toolTip() == "The fidelity of the synthetic set is 0.812."
    assert ui.figuresTable.item(1, 2).toolTip() == "No."
    assert ui.answersLabel.text.splitlines() == [
        "• Fidelity: The fidelity of the synthetic set is 0.812.",
        "• Not measured: adherence, regional volumes, memorisation and utility.",
    ]
    assert visible(harness, ui.figuresTable) and not visible(harness, ui.messageLabel)
    from PySide6.QtCore import Qt

    assert not ui.figuresTable.item(0, 0)._obj.flags() & Qt.ItemFlag.ItemIsEditable


@pytest.mark.parametrize("what", ["report/report.json", "report", "."])
def test_a_report_and_a_folder_say_the_same(standin, harness, ui, measured, what):
    choose(standin, harness, measured / what)
    assert [row[0] for row in cells(ui.figuresTable)] == [
        f"{kind}: {name}" for kind in ("Fidelity", "Adherence") for name in ("Dice", "HD95", "Share")
    ]
    assert "• Fidelity and Adherence saw the same real and synthetic volumes." in ui.answersLabel.text


def test_the_report_is_opened(standin, harness, ui, measured, monkeypatch):
    import qt

    opened = []
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()) or True)
    choose(standin, harness, measured / "report" / "report.json")
    assert ui.pageButton.enabled and visible(harness, ui.pageButton)
    ui.pageButton.click()
    assert [Path(path) for path in opened] == [measured / "report" / "report.html"]
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: False)
    ui.pageButton.click()
    assert "No program opens the page" in ui.messageLabel.text and len(cells(ui.figuresTable)) == 6


def test_a_page_that_is_gone(standin, harness, ui, measured, tmp_path):
    shutil.copy(measured / "a" / "fidelity.json", tmp_path)
    choose(standin, harness, tmp_path / "fidelity.json")
    assert visible(harness, ui.pageButton) and not ui.pageButton.enabled and "not beside" in ui.pageButton.toolTip


def changed(**changes) -> str:
    made = json.loads(json.dumps(example_results.result("fidelity")))
    return json.dumps(made | changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is damaged"), ("{", "is damaged"), ("[]", "is no result"), ('{"title": "<b>x"}', "is no result"),
        ('{"format": "synthdiffusion-evaluation-1", "kind": "fidelity"}', "is no result"),
        (changed(sections=3), "is damaged"), (changed(sets=[{}]), "is damaged"), ("[" * 5000, "is damaged"),
        ('{"format": "synthdiffusion-set-evaluation-report-1", "sections": []}', "is damaged"),
    ],
)  # fmt: skip
def test_files_that_are_no_results(standin, harness, ui, measured, tmp_path, content, message):
    """Said in the panel, without the numbers of the file that was shown before; no exception reaches Slicer."""
    choose(standin, harness, measured / "a" / "fidelity.json")
    (tmp_path / "fidelity.json").write_text(content, encoding="utf-8")
    choose(standin, harness, tmp_path / "fidelity.json")
    assert message in ui.messageLabel.text and visible(harness, ui.messageLabel)
    assert cells(ui.figuresTable) == [] and not visible(harness, ui.pageButton) and ui.answersLabel.text == ""
    choose(standin, harness, "")
    assert not visible(harness, ui.messageLabel)


def test_a_path_that_is_being_typed(standin, harness, ui, measured, tmp_path):
    for path in ("/", "nowhere", str(tmp_path)):
        choose(standin, harness, path)
        assert ui.messageLabel.text and cells(ui.figuresTable) == []
    for letters in range(1, len(str(measured / "a"))):  # nothing is read in between
        ui.resultEdit.currentPath = str(measured / "a")[:letters]
    assert harness.panel.evaluation._timer.isActive()
    choose(standin, harness, measured / "a")
    assert len(cells(ui.figuresTable)) == 3


def test_one_damaged_file_in_a_folder_is_named(standin, harness, ui, measured, tmp_path):
    shutil.copytree(measured / "a", tmp_path / "a")
    (tmp_path / "a" / "volumes.json").write_text("{", encoding="utf-8")
    choose(standin, harness, tmp_path / "a")
    assert len(cells(ui.figuresTable)) == 3 and "'a/volumes.json' is damaged" in ui.messageLabel.text


def test_a_result_of_an_older_version_has_no_figures(standin, harness, ui, tmp_path):
    made = json.loads(changed())
    for section in made["sections"]:
        del section["headlines"]
    (tmp_path / "fidelity.json").write_text(json.dumps(made), encoding="utf-8")
    choose(standin, harness, tmp_path / "fidelity.json")
    assert "no main figures" in ui.messageLabel.text and "0.812" in ui.answersLabel.text
    assert not visible(harness, ui.figuresTable)


def test_the_path_of_an_earlier_session_is_read_when_the_part_is_opened(standin, harness, ui, measured):
    harness.ui.evaluationGroup.collapsed = True
    ui.resultEdit.currentPath = str(measured / "a")
    harness.panel.exit()  # the timer stops: nothing is read behind a closed panel
    assert cells(ui.figuresTable) == []
    harness.ui.evaluationGroup.collapsed = False
    assert len(cells(ui.figuresTable)) == 3


def test_markup_in_a_file_is_text(standin, harness, ui, tmp_path):
    made = json.loads(changed())
    made["sections"][1]["sentences"] = ["<b>bold</b>"]
    made["sections"][1]["headlines"][0] |= {"row": "<i>x", "sentence": "<img src=x>"}
    (tmp_path / "fidelity.json").write_text(json.dumps(made), encoding="utf-8")
    choose(standin, harness, tmp_path / "fidelity.json")
    assert "<b>bold</b>" in ui.answersLabel.text and cells(ui.figuresTable)[0][1] == "<i>x"
    assert "&lt;img" in ui.figuresTable.item(0, 0).toolTip()


def test_the_keyboard_reaches_all_of_it(standin, harness, ui, measured):
    choose(standin, harness, measured / "report" / "report.json")
    order = tab_order(harness.panel.widget, harness.ui.evaluationGroup)
    assert [name for name in order if name] == ["evaluationGroup", "figuresTable", "pageButton"]
    for widget in (ui.figuresTable, ui.resultEdit, ui.pageButton):
        assert widget.toolTip


def test_long_answers_do_not_widen_the_panel(standin, harness, ui, measured, tmp_path):
    choose(standin, harness, measured / "report" / "report.json")
    assert not any(widths(harness.panel, tmp_path, "evaluation").values())


def test_long_names_leave_the_figures_in_sight(standin, harness, ui, tmp_path):
    made = json.loads(changed())
    made["sections"][1]["headlines"][0] |= {"measure": "Energy distance " * 5, "row": "synthetic against real " * 5}
    (tmp_path / "fidelity.json").write_text(json.dumps(made), encoding="utf-8")
    choose(standin, harness, tmp_path / "fidelity.json")
    table = ui.figuresTable
    usual = table.horizontalHeader().defaultSectionSize
    assert max(table.columnWidth(0), table.columnWidth(1)) <= 1.5 * usual
    standin.process_events(0.05)
    assert table.rowHeight(0) > 2 * table.rowHeight(1)


def test_reading_needs_nothing_that_slicer_lacks(measured):
    """The module behind the panel, in an interpreter of its own."""
    import subprocess

    code = (
        "import sys\nfrom SynthDiffusionJobs.EvaluationResults import readEvaluation\n"
        "assert len(readEvaluation(sys.argv[1]).cells) == 6\n"
        "print([m for m in ('torch', 'monai', 'matplotlib', 'nibabel', 'qt', 'slicer') if m in sys.modules])"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT / "SynthDiffusion"), str(ROOT)]))
    command = [sys.executable, "-c", code, str(measured)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
