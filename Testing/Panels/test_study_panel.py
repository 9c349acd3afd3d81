"""The section "Reader study": logging in, what keeps a reader out, and making a new study in a child process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from panel_harness import Harness, widths
from reading_harness import Reader, make_study
from test_engine import fake_python

nib = pytest.importorskip("nibabel")


@pytest.fixture
def harness(standin):
    from SynthDiffusionPanels.StudyPanel import StudyPanel

    made = Harness(standin.scene, StudyPanel)
    yield made
    made.close()


def test_without_a_folder_nothing_can_begin(harness):
    ui = harness.ui
    assert not ui.beginButton.enabled and ui.messageLabel.isHidden() and ui.studyLabel.isHidden()
    for button in (ui.overrideButton, ui.takeOverButton, ui.receiptButton):
        assert button.isHidden()


def test_the_readers_of_the_study_are_offered(harness, tmp_path):
    ui = harness.ui
    ui.folderEdit.currentPath = str(make_study(tmp_path, single=2, readers=("R1", "R2")))
    assert [ui.readerCombo.itemText(n) for n in range(ui.readerCombo.count)] == ["R1", "R2"]
    assert ui.studyLabel.text == "A small study"
    assert not ui.beginButton.enabled  # nobody reads under another one's name because it was the first
    ui.readerCombo.setCurrentIndex(1)
    assert ui.beginButton.enabled and ui.beginButton.text == "Begin"


def test_the_folder_above_will_do(harness, tmp_path):
    make_study(tmp_path / "study", single=2)
    harness.ui.folderEdit.currentPath = str(tmp_path / "study")
    assert harness.ui.beginButton.enabled


@pytest.mark.parametrize("damage", ["empty", "edited", "json"])
def test_what_is_wrong_with_a_folder_is_said(harness, tmp_path, damage):
    folder = make_study(tmp_path, single=2)
    study = folder / "study.json"
    if damage == "empty":
        study.unlink()
    elif damage == "edited":
        (folder / "frozen.json").write_text(
            json.dumps({"format": "synthdiffusion-study-frozen-1", "study_sha256": "0" * 64})
        )
    else:
        study.write_text("{")
    harness.ui.folderEdit.currentPath = str(folder)
    expected = {"empty": "There is no study", "edited": "was changed after reading began", "json": "is damaged"}
    assert expected[damage] in harness.ui.messageLabel.text and not harness.ui.beginButton.enabled
    harness.ui.folderEdit.currentPath = ""
    assert harness.ui.messageLabel.isHidden()


def test_two_at_once_are_kept_apart(standin, tmp_path):
    folder = make_study(tmp_path, single=2)
    first, second = Reader(standin, folder), Reader(standin, folder)
    first.begin()
    second.log_in()
    second.login.beginButton.click()
    assert not second.panel.isActive and not second.login.takeOverButton.isHidden()
    second.login.takeOverButton.click()
    assert second.panel.isActive
    second.answer()
    second.next()
    first.answer()
    first.next()
    assert len(first.answers()) == 1  # the second one's
    assert first.ui.againButton.isHidden() is False and first.ui.messageLabel.text
    second.read_all()
    first.panel.leave()
    second.close()
    first.close()


def test_too_early_for_the_next_session_needs_a_reason(standin, tmp_path):
    reader = Reader(standin, make_study(tmp_path, single=4, sessions=2))
    reader.begin()
    assert reader.read_all() == 2
    assert reader.login.beginButton.text == "Continue"
    reader.login.beginButton.click()
    assert not reader.panel.isActive and "may be read from" in reader.login.messageLabel.text
    assert not reader.login.overrideButton.isHidden()
    standin.dialogs.answer("")
    reader.login.overrideButton.click()
    assert not reader.panel.isActive
    standin.dialogs.answer("holidays")
    reader.login.overrideButton.click()
    assert reader.panel.isActive
    (record,) = [r for r in reader.records() if r["type"] == "override"]
    assert record["reason"] == "holidays" and record["session"] == "s2"
    reader.read_all()
    reader.close()


def test_a_folder_that_cannot_be_written_to(standin, tmp_path, monkeypatch):
    import SynthDiffusionLib.reader_study.locks as locks

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    reader = Reader(standin, make_study(tmp_path, single=2))
    reader.log_in()
    monkeypatch.setattr(locks.os, "open", refuse)
    reader.login.beginButton.click()
    monkeypatch.undo()
    assert not reader.panel.isActive and reader.login.messageLabel.text
    assert reader.login.takeOverButton.isHidden()
    reader.begin()
    reader.close()


def test_the_reader_is_remembered(standin, tmp_path):
    folder = make_study(tmp_path, single=2, readers=("R1", "R2"))
    reader = Reader(standin, folder, "R2")
    reader.begin()
    reader.close()
    again = Reader(standin, folder)
    again.login.folderEdit.currentPath = str(folder)
    assert again.login.readerCombo.currentText == "R2"
    again.close()


def test_nothing_begins_while_an_image_is_made(harness, tmp_path, monkeypatch):
    from SynthDiffusionJobs.RunQueue import RunQueue

    harness.ui.folderEdit.currentPath = str(make_study(tmp_path, single=2))
    monkeypatch.setattr(RunQueue, "current", property(lambda self: object()))
    harness.panel.refresh()
    assert not harness.ui.beginButton.enabled and "Wait" in harness.ui.beginButton.toolTip
    monkeypatch.undo()
    harness.panel.refresh()
    assert harness.ui.beginButton.enabled


# New studies

DONE = {
    "folder": "F",
    "reading": "F/reading",
    "private": "F/private",
    "leaks": [
        "Source files, before equalisation, header: AUC 1.00.",
        "Files that readers get, after equalisation, header: AUC 0.52 (95 % interval 0.40 to 0.64).",
        "Files that readers get, after equalisation, texture: AUC 0.80.",
    ],
    "warnings": [],
}


@pytest.fixture
def new(harness, tmp_path):
    """The form for a new study, filled in."""
    panel = harness.panel.newStudy
    harness.ui.newGroup.collapsed = False
    for edit, name in ((panel.ui.realEdit, "real ones"), (panel.ui.syntheticEdit, "made"), (panel.ui.outEdit, "out")):
        (tmp_path / name).mkdir()
        edit.currentPath = str(tmp_path / name)
    return panel


def answer_with(harness, tmp_path: Path, *lines: dict, code: int = 0, error: str = "", wait: float = 0) -> None:
    """Has the engine's Python print this whatever it is asked."""
    text = "\n".join(json.dumps(line) for line in lines)
    program = (
        "import pathlib, sys, time\n"
        f"pathlib.Path({str(tmp_path / 'arguments.json')!r}).write_text(__import__('json').dumps(sys.argv[1:]))\n"
        f"print({text!r}, flush=True)\ntime.sleep({wait})\nprint({error!r}, file=sys.stderr)\nsys.exit({code})\n"
    )
    harness.session.engine.otherPython = str(fake_python(tmp_path, program))


@pytest.fixture
def other_python(harness, monkeypatch):
    """`Engine.otherPython` can be set without asking that Python about itself."""
    from SynthDiffusionJobs.Engine import Engine

    monkeypatch.setattr(Engine, "otherPython", "")


def test_the_forms_that_ship_are_offered(new):
    from SynthDiffusionLib.reader_study.forms import shipped_forms

    assert new._forms == list(shipped_forms()) and new.ui.formCombo.count == len(new._forms) >= 4
    assert new.ui.formCombo.currentText == "Real or synthetic?"


def test_everything_must_be_given(harness, new):
    assert new.ui.makeButton.enabled
    new.ui.readersEdit.text = " , "
    assert not new.ui.makeButton.enabled
    new.ui.readersEdit.text = "R1"
    new.ui.syntheticEdit.currentPath = ""
    assert not new.ui.makeButton.enabled


@pytest.mark.skipif(sys.platform == "win32", reason="the fake Python is a shell script")
def test_a_study_is_made_and_can_be_read_next(harness, new, other_python, tmp_path, standin):
    reading = make_study(tmp_path / "made study", single=2)
    (reading.parent / "private" / "leaks.html").write_text("report")
    done = DONE | {"reading": str(reading), "private": str(reading.parent / "private"), "folder": str(reading.parent)}
    answer_with(harness, tmp_path, {"event": "progress", "stage": "rewrite the volumes", "step": 3, "total": 8}, done)
    new.ui.readersEdit.text = "R1, R2"
    new.ui.seedBox.value = 7
    new.ui.makeButton.click()
    assert not new.ui.makeButton.enabled and not new.ui.cancelButton.isHidden()
    standin.wait(lambda: not new.busy, seconds=30, what="the study")
    arguments = json.loads((tmp_path / "arguments.json").read_text())
    expected = ["study", "new", "--real", str(tmp_path / "real ones"), "--synthetic", str(tmp_path / "made")]
    expected += ["--form", "turing", "--readers", "R1,R2", "--seed", "7", "--out", str(tmp_path / "out"), "--events"]
    assert arguments[arguments.index("study") :] == expected
    text = new.ui.messageLabel.text
    assert "The study is made" in text and "AUC 0.52" in text and "AUC 1.00" not in text and "AUC 0.80" not in text
    assert "'reading'" in text and "'private'" in text
    assert harness.ui.folderEdit.currentPath == str(reading) and harness.ui.beginButton.enabled
    new.ui.reportButton.click()
    new.ui.folderButton.click()
    opened = [url.rpartition("/")[2].replace("%20", " ") for url in standin.dialogs.opened_urls]
    assert opened == ["leaks.html", "made study"]


@pytest.mark.skipif(sys.platform == "win32", reason="the fake Python is a shell script")
def test_what_is_advanced_is_handed_on(harness, new, other_python, tmp_path, standin):
    ui = new.ui
    for edit, name in ((ui.secondEdit, "made = b"), (ui.patientsEdit, "p.csv"), (ui.masksEdit, "masks")):
        edit.currentPath = str(tmp_path / name)
    ui.questionsEdit.currentPath = str(tmp_path / "own.json")
    assert not ui.formCombo.enabled
    ui.trainingBox.value, ui.repeatsBox.value, ui.marginBox.value = 2, 15, 0.1
    answer_with(harness, tmp_path, DONE)
    ui.makeButton.click()
    standin.wait(lambda: not new.busy, seconds=30, what="the study")
    arguments = json.loads((tmp_path / "arguments.json").read_text())
    arguments = arguments[arguments.index("new") + 1 : -1]
    given = list(zip(arguments[::2], arguments[1::2], strict=True))
    assert given[:3] == [
        ("--real", str(tmp_path / "real ones")),
        ("--synthetic", str(tmp_path / "made")),
        ("--synthetic", str(tmp_path / "made = b")),
    ]
    assert dict(given[3:]) == {
        "--form": str(tmp_path / "own.json"),
        "--readers": "R1,R2,R3",
        "--seed": "1",
        "--patients": str(tmp_path / "p.csv"),
        "--masks": str(tmp_path / "masks"),
        "--training": "2",
        "--repeats": "0.15",
        "--margin": "0.1",
        "--out": str(tmp_path / "out"),
    }


@pytest.mark.skipif(sys.platform == "win32", reason="the fake Python is a shell script")
def test_a_design_file_says_all_the_rest(harness, new, other_python, tmp_path, standin):
    ui = new.ui
    ui.realEdit.currentPath = ui.readersEdit.text = ""
    assert not ui.makeButton.enabled
    ui.designEdit.currentPath = str(tmp_path / "design.json")
    assert ui.makeButton.enabled
    assert not any(w.enabled for w in (ui.realEdit, ui.readersEdit, ui.formCombo, ui.secondEdit, ui.marginBox))
    answer_with(harness, tmp_path, DONE)
    ui.makeButton.click()
    standin.wait(lambda: not new.busy, seconds=30, what="the study")
    arguments = json.loads((tmp_path / "arguments.json").read_text())
    expected = ["new", str(tmp_path / "design.json"), "--out", str(tmp_path / "out"), "--events"]
    assert arguments[arguments.index("new") :] == expected
    ui.designEdit.currentPath = ""
    assert ui.readersEdit.enabled and ui.formCombo.enabled


@pytest.mark.skipif(sys.platform == "win32", reason="the fake Python is a shell script")
def test_what_should_be_mended_comes_first(harness, new, other_python, tmp_path, standin):
    warning = "The headers of the volumes tell real from synthetic (AUC 0.97, P 0.001): spacing."
    answer_with(harness, tmp_path, DONE | {"warnings": [warning]})
    new.ui.makeButton.click()
    standin.wait(lambda: not new.busy, seconds=30, what="the study")
    assert f"⚠ {warning}" in new.ui.messageLabel.text and new.ui.reportButton.isHidden()


@pytest.mark.skipif(sys.platform == "win32", reason="the fake Python is a shell script")
def test_why_it_failed_is_said(harness, new, other_python, tmp_path, standin):
    answer_with(harness, tmp_path, code=2, error="synthdiffusion study new: error: The folder 'x' is empty. Fill it.")
    new.ui.makeButton.click()
    standin.wait(lambda: not new.busy, seconds=30, what="the error")
    assert new.ui.messageLabel.text == "The folder 'x' is empty. Fill it." and new.ui.makeButton.enabled
    assert new.ui.reportButton.isHidden() and new.ui.cancelButton.isHidden()


@pytest.mark.skipif(sys.platform == "win32", reason="the fake Python is a shell script")
def test_progress_and_cancelling(harness, new, other_python, tmp_path, standin):
    event = {"event": "progress", "stage": "rewrite the volumes", "step": 3, "total": 8, "eta_s": 40}
    answer_with(harness, tmp_path, event, event, wait=60)
    new.ui.makeButton.click()
    standin.wait(lambda: "3 of 8" in new.ui.messageLabel.text, seconds=30, what="progress")
    assert new.ui.messageLabel.text == "Rewriting the volumes, 3 of 8, about 40 s left."
    assert (new.ui.progressBar.value, new.ui.progressBar.maximum) == (3, 8)
    new.ui.cancelButton.click()
    standin.wait(lambda: not new.busy, seconds=5, what="the end")
    assert new.ui.messageLabel.text == "Canceled." and new.ui.makeButton.enabled


def test_a_real_study_from_the_form_to_the_first_answer(harness, new, standin, tmp_path):
    """With the engine itself: 4 real volumes and 4 of each of two generators."""
    generator = np.random.default_rng(3)
    new.ui.secondEdit.currentPath = str(tmp_path / "also made")
    new.ui.trainingBox.value = 1
    for folder in ("real ones", "made", "also made"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for number in range(4):
            voxels = generator.integers(-1000, 400, (16, 16, 12)).astype(np.int16)
            nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 2.0, 1.0])), tmp_path / folder / f"case{number}.nii.gz")
    new.ui.readersEdit.text = "Anna, Ben"
    new.ui.makeButton.click()
    standin.wait(lambda: not new.busy, seconds=240, what="the study")
    assert "The study is made" in new.ui.messageLabel.text and "AUC" in new.ui.messageLabel.text
    assert not new.ui.reportButton.isHidden()
    ui = harness.ui
    assert [ui.readerCombo.itemText(n) for n in range(ui.readerCombo.count)] == ["Anna", "Ben"]
    ui.readerCombo.setCurrentIndex(0)
    ui.beginButton.click()
    panel = harness.panel.reading
    assert panel.page == "case", ui.messageLabel.text
    panel.form.question("score").buttons[0].click()
    panel.ui.nextButton.click()
    records = (tmp_path / "out" / "reading" / "records" / "Anna.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["type"] for line in records].count("answer") == 1
    panel.leave()


@pytest.mark.parametrize("page", ["login", "turing", "pairs"])
def test_the_panel_fits_its_width(standin, tmp_path, page):
    reader = Reader(standin, make_study(tmp_path, single=2 * (page != "pairs"), pairs=2 * (page == "pairs")))
    if page == "login":
        reader.log_in()
        reader.login.newGroup.collapsed = False
    else:
        reader.begin()
        reader.next()  # with problems
    assert not any(widths(reader.study, tmp_path, page).values())
    reader.close()


def test_nothing_is_left_behind(standin, tmp_path):
    folder = make_study(tmp_path, single=2, pairs=1)
    before = standin.counts()
    reader = Reader(standin, folder)
    reader.begin()
    reader.read_all(1)
    reader.login.beginButton.click()  # all is read: it ends at once
    assert "All 3 cases" in reader.login.messageLabel.text
    reader.close()
    standin.process_events(0.1)
    after = standin.counts()
    for kind in ("observers", "timers", "scene_observers", "processes"):
        assert after[kind] == before[kind], kind
