"""The section that starts runs: estimate, progress, queue, failures with their mend, log, previews."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from job_fakes import WORKER, obey, outputs, provenance
from panel_harness import MODEL_ID, Harness, add_segmentation, add_volume, shipped_model, widths

PROGRESS = {"event": "progress", "stage": "denoise", "step": 7, "total": 20, "eta_s": 11.2}
KILLED = "The run was ended from outside, or has crashed"
FITS = {
    "event": "done",
    "seconds": 12.3,
    "seconds_from": "past runs",
    "predicted_bytes": 700 << 20,
    "free_bytes": 20 << 30,
    "strategy": "whole",
    "notes": ["'lung' was resampled from 0.7 mm to 1 mm.", "'tumour' is taken for a nodule."],
    "mapping_notes": ["'tumour' is taken for a nodule."],
}
TOO_LARGE = {
    "event": "error",
    "kind": "out_of_memory",
    "message": "96 x 96 x 96 voxels need 23.1 GiB, and 20 GiB are free",
    "hint": "The largest size that fits is 88 x 88 x 88.",
}


@pytest.fixture
def harness(standin):
    from SynthDiffusionPanels.GeneratePanel import GeneratePanel

    made = Harness(standin.scene, GeneratePanel, [shipped_model()])
    obey(made.session.engine)
    # As `ModulePanel`; after the panel, which listens itself.
    made.session.queue.changed.connect(lambda run: made.panel.refresh())
    made.parameters.modelId = MODEL_ID
    yield made
    made.close()
    made.session.folders.removeAll()


@pytest.fixture
def ready(harness):
    harness.parameters.segmentation = add_segmentation(harness.scene, {"lung": 20, "tumour": 4})
    return harness


def answer(harness, event: dict) -> None:
    """The preflight has answered."""
    harness.panel._estimate.drop()
    harness.panel._onEstimate(event)


def generate(harness, *steps, **parameters):
    """Clicks on Generate; the worker will do these steps."""
    harness.session.engine.steps = list(steps)
    for name, value in parameters.items():
        setattr(harness.parameters, name, value)
    harness.ui.generateButton.click()
    return harness.session.queue.runs[-1]


def visible(harness, widget) -> bool:
    return widget.isVisibleTo(harness.panel.widget)


def cells(harness) -> list[tuple[str, ...]]:
    table = harness.ui.runsTable
    return [tuple(table.item(row, column).text() for column in range(3)) for row in range(table.rowCount)]


def killed_worker(run) -> None:
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if str(WORKER) in line and any(str(run.folder) in part for part in line):
            process.kill()


# Before a run


def test_what_is_missing_is_said_and_nothing_can_be_started(harness):
    assert harness.ui.estimateLabel.text == "Choose, load or draw a segmentation."
    assert not harness.ui.generateButton.enabled and not harness.ui.cancelButton.enabled
    for widget in (harness.ui.progressBar, harness.ui.runsTable, harness.ui.messageWidget, harness.ui.logText):
        assert not visible(harness, widget)


def test_the_estimate_is_one_line_and_repeats_no_mapping_note(ready):
    answer(ready, FITS)
    assert ready.ui.estimateLabel.text == (
        "About 12 s (from past runs), about 0.7 GB of 20 GB free memory, all at once."
    )
    assert ready.ui.notesLabel.text == FITS["notes"][0]
    assert ready.ui.generateButton.enabled
    answer(ready, FITS | {"seconds": None, "notes": []})
    assert ready.ui.estimateLabel.text.startswith("Time: not known yet, about 0.7 GB")
    assert not visible(ready, ready.ui.notesLabel)


@pytest.mark.parametrize(
    ("kind", "possible"), [("out_of_memory", False), ("bad_input", False), ("model", False), ("internal", True)]
)
def test_what_the_preflight_rules_out_cannot_be_started(ready, kind, possible):
    answer(ready, TOO_LARGE | {"kind": kind})
    text = ready.ui.estimateLabel.text
    assert TOO_LARGE["message"] in text and "88 x 88 x 88" in text
    assert ready.ui.generateButton.enabled is possible
    assert visible(ready, ready.ui.checkButton) is (kind == "out_of_memory")
    ready.parameters.samples = 2  # another question, which has no answer yet
    assert ready.ui.generateButton.enabled
    assert ready.ui.estimateLabel.text == "Working out what this takes..."


def test_the_free_memory_can_be_checked_again(ready, monkeypatch):
    asked = []
    monkeypatch.setattr(ready.session.engine, "refresh", lambda quietly=False: asked.append(quietly))
    answer(ready, TOO_LARGE)
    ready.ui.checkButton.click()
    assert asked == [True]


def test_a_change_asks_the_real_preflight_a_moment_later(ready, standin):
    engine = ready.session.engine
    del engine.command, engine.environment  # the real ones again
    ready.parameters.device = "cpu"
    ready.parameters.quality = "fast"
    standin.wait(lambda: ready.panel._answer.get("event"), seconds=60, what="the estimate")
    assert ready.panel._answer["event"] == "done", ready.panel._answer
    text = ready.ui.estimateLabel.text
    assert text.startswith("Time: not known yet, about ") and "of 16 GB free memory, all at once." in text
    # What the run would refuse, this does not offer.
    gpu, cpu = engine.status.devices
    engine.status = replace(engine.status, devices=(gpu, replace(cpu, freeBytes=1 << 20)))
    ready.parameters.guidance = 2.0
    standin.wait(lambda: ready.panel._answer.get("event"), seconds=60, what="the second estimate")
    assert ready.panel._answer["kind"] == "out_of_memory" and not ready.ui.generateButton.enabled


def test_only_the_last_of_many_changes_is_asked_about(ready, standin, monkeypatch):
    asked = []
    ask = ready.session.engine.ask
    monkeypatch.setattr(ready.session.engine, "ask", lambda *more: asked.append(more) or ask(*more))
    for number in range(5):
        ready.parameters.guidance = 1.0 + number
        ready.session.drawingChanged.emit()
    standin.wait(lambda: asked, seconds=10, what="the question")
    standin.process_events(0.3)
    assert len(asked) == 1
    folder = asked[0][0][1]
    with open(f"{folder}/request.json", encoding="utf-8") as file:
        assert json.load(file)["guidance"] == 5.0


def test_nothing_is_asked_while_another_module_is_shown(ready, standin, monkeypatch):
    asked = []
    monkeypatch.setattr(ready.session.engine, "ask", lambda *more: asked.append(more))
    ready.panel.exit()
    ready.parameters.guidance = 3.0
    standin.process_events(1.0)
    assert asked == []
    ready.panel.enter()
    standin.wait(lambda: asked, seconds=10, what="the question")


def test_an_erased_drawing_is_a_problem_without_any_click(ready, standin):
    segmentation = ready.parameters.segmentation.GetSegmentation()
    segmentation.RemoveAllSegments()
    standin.wait(lambda: not ready.ui.generateButton.enabled, seconds=10, what="the refusal")
    assert "empty" in ready.ui.estimateLabel.text


def test_a_volume_that_cannot_be_used_is_said_before_the_run(ready, standin):
    transform = ready.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = ready.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode").GetMatrixTransformToParent()
    import vtk

    moved = vtk.vtkMatrix4x4()
    moved.SetElement(0, 3, 9.0)
    transform.SetMatrixTransformToParent(moved)
    assert matrix is None or matrix.GetElement(0, 3) == 0.0
    volume = add_volume(ready.scene, shape=(40, 40, 40))
    volume.SetAndObserveTransformNodeID(transform.GetID())
    ready.parameters.realVolume, ready.parameters.mode = volume, "inpaint"
    standin.wait(lambda: ready.panel._answer.get("event") == "error", seconds=10, what="the answer")
    assert "different transforms" in ready.ui.estimateLabel.text and not ready.ui.generateButton.enabled
    ready.panel._onGenerate()  # as a click a moment earlier would have done
    assert "different transforms" in ready.ui.errorLabel.text and visible(ready, ready.ui.errorLabel)
    assert not visible(ready, ready.ui.retryButton) and ready.session.queue.runs == []


# A run


def test_progress_is_shown_while_it_runs_and_gone_afterwards(ready, standin, tmp_path):
    run = generate(ready, {"event": "progress", "stage": "read", "step": 0, "total": 0}, 0.5, PROGRESS, 30)
    standin.wait(lambda: run.stage == "read", seconds=20, what="the first stage")
    assert (ready.ui.progressBar.minimum, ready.ui.progressBar.maximum) == (0, 0)  # busy
    assert ready.ui.stageLabel.text == "Reading the segmentation."
    standin.wait(lambda: run.step == 7, seconds=20, what="progress")
    assert (ready.ui.progressBar.value, ready.ui.progressBar.maximum) == (7, 20)
    assert ready.ui.stageLabel.text == "Making the image, step 7 of 20, about 11 s left."
    assert ready.ui.cancelButton.enabled and cells(ready) == [("1", run.title, "running")]
    ready.ui.cancelButton.click()
    assert ready.ui.stageLabel.text == "Canceling..." and not ready.ui.cancelButton.enabled
    standin.wait(lambda: run.ended, seconds=5, what="the end")
    assert cells(ready)[0][2] == "canceled"
    assert not visible(ready, ready.ui.progressBar) and not visible(ready, ready.ui.stageLabel)
    assert ready.ui.errorLabel.text == "Run 1 was canceled."
    assert visible(ready, ready.ui.retryButton) and ready.ui.retryButton.enabled
    ready.session.engine.steps = [{"event": "done", "outputs": outputs(tmp_path, provenance(1))}]
    ready.ui.retryButton.click()
    standin.wait(lambda: run.state == "done", seconds=20, what="the second try")
    assert not visible(ready, ready.ui.messageWidget)


def test_runs_wait_in_a_queue_and_can_be_taken_out_of_it(ready, standin):
    first = generate(ready, PROGRESS, 30, fixedSeed=True, seed=5)
    second = generate(ready, PROGRESS, 30, seed=6)
    standin.wait(lambda: first.step == 7, seconds=20, what="progress")
    assert [row[2] for row in cells(ready)] == ["running", "waiting"]
    assert ready.ui.stageLabel.text.startswith("Run 1: Making the image") and "Waiting: 1." in ready.ui.stageLabel.text
    assert ready.ui.runsTable.currentRow() == 1  # the one that was just started
    ready.ui.cancelRunButton.click()
    assert second.state == "cancelled" and first.state == "running"
    assert not ready.ui.cancelRunButton.enabled and ready.ui.removeRunButton.enabled
    ready.ui.removeRunButton.click()
    assert cells(ready) == [("1", first.title, "running")] and not second.folder.exists()
    assert ready.ui.runsTable.currentRow() == 0
    ready.ui.cancelRunButton.click()
    standin.wait(lambda: first.ended, seconds=5, what="the end")


def test_a_killed_run_says_so_and_offers_to_run_again(ready, standin, tmp_path):
    run = generate(ready, PROGRESS, 60)
    standin.wait(lambda: run.step == 7, seconds=20, what="progress")
    killed_worker(run)
    standin.wait(lambda: run.ended, seconds=5, what="the end")
    assert run.kind == "killed"
    text = ready.ui.errorLabel.text
    assert text.startswith(f"Run 1 failed: {KILLED}") and "Run it again" in text
    button = ready.ui.retryButton
    assert visible(ready, ready.ui.errorLabel) and visible(ready, button) and button.enabled and button.default
    assert visible(ready, ready.ui.iconLabel) and not ready.ui.iconLabel.pixmap.isNull()
    ready.session.engine.steps = [{"event": "done", "outputs": outputs(tmp_path, provenance(1))}]
    button.click()
    standin.wait(lambda: run.state == "done", seconds=20, what="the second try")
    assert not visible(ready, button)


def test_a_failed_run_is_chosen_and_shows_cause_and_mend(ready, standin):
    first = generate(ready, 0.4, TOO_LARGE, "exit 1")
    generate(ready, 30)
    standin.wait(lambda: first.ended, seconds=20, what="the failure")
    assert ready.ui.runsTable.currentRow() == 0
    assert ready.ui.errorLabel.text == f"Run 1 failed: {TOO_LARGE['message']}. {TOO_LARGE['hint']}"
    assert ready.ui.runsTable.item(0, 0).toolTip() == f"{TOO_LARGE['message']}. {TOO_LARGE['hint']}"
    ready.ui.runsTable.selectRow(1)
    assert not visible(ready, ready.ui.messageWidget)


def test_warnings_of_a_run_are_shown_without_the_mark_of_a_failure(ready, standin):
    warning = {"event": "warning", "message": "Lower precision was used."}
    run = generate(ready, warning, {"event": "warning", "topic": "mapping", "message": "known"}, PROGRESS, 30)
    standin.wait(lambda: run.step == 7, seconds=20, what="progress")
    assert ready.ui.errorLabel.text == "Lower precision was used."
    assert not visible(ready, ready.ui.retryButton)


# The log


def test_the_log_grows_without_throwing_the_reader_back(ready, standin):
    log = ready.ui.logText
    lines = [{"event": "progress", "stage": "denoise", "step": n, "total": 900} for n in range(1, 200)]
    more = [{"event": "progress", "stage": "denoise", "step": n, "total": 900} for n in range(200, 300)]
    last = [{"event": "progress", "stage": "denoise", "step": n, "total": 900} for n in range(300, 400)]
    run = generate(ready, "noise", *lines, 1.5, *more, 1.5, *last, 30)
    standin.wait(lambda: run.step >= 199, seconds=20, what="the first part")
    ready.ui.logButton.click()
    assert ready.ui.logButton.text == "Hide log"
    text = log.plainText
    assert str(run.folder) in text and '"step": 199' in text and "and complains" in text
    from PySide6 import QtCore, QtWidgets

    widget = log._obj
    widget.window().setAttribute(QtCore.Qt.WidgetAttribute.WA_DontShowOnScreen)
    widget.window().show()
    QtWidgets.QApplication.processEvents()
    bar = log.verticalScrollBar()
    bar.setValue(3)
    widget.selectAll()
    standin.wait(lambda: run.step >= 299, seconds=20, what="the second part")
    assert '"step": 299' in log.plainText and log.plainText.startswith(text)
    assert bar.value == 3 and widget.textCursor().hasSelection()
    bar.setValue(bar.maximum)  # at its end, it follows
    standin.wait(lambda: run.step >= 399, seconds=20, what="the third part")
    assert bar.value == bar.maximum and '"step": 399' in log.plainText
    ready.ui.logButton.click()
    assert not visible(ready, log) and ready.ui.logButton.text == "Show log"


def test_a_run_that_is_started_again_has_a_new_log(ready, standin):
    run = generate(ready, {"event": "error", "kind": "internal", "message": "first try"}, "exit 1")
    ready.ui.logButton.click()
    standin.wait(lambda: run.ended, seconds=20, what="the failure")
    assert "first try" in ready.ui.logText.plainText
    ready.session.engine.steps = [PROGRESS, 30]
    ready.ui.retryButton.click()
    standin.wait(lambda: run.step == 7, seconds=20, what="progress")
    assert "first try" not in ready.ui.logText.plainText and '"step": 7' in ready.ui.logText.plainText


def test_of_a_long_log_the_end_is_shown(ready, tmp_path):
    from SynthDiffusionJobs.RunQueue import Run
    from SynthDiffusionPanels.GeneratePanel import RunLog

    (tmp_path / "output.jsonl").write_text("x" * 300_000 + "\n", encoding="utf-8")
    (tmp_path / "log.txt").write_text("the end of it\n", encoding="utf-8")
    text = RunLog(Run("a run", tmp_path)).more()
    assert len(text) < 210_000 and text.endswith("the end of it") and text.startswith(str(tmp_path))


# Previews


def test_previews_come_and_go_with_the_run(ready, standin, tmp_path):
    import slicer.util
    from job_fakes import write_volume

    path = write_volume(tmp_path / "preview.nrrd", -300)
    before = ready.scene.GetNumberOfNodes()
    run = generate(ready, {"event": "preview", "path": str(path)}, PROGRESS, 30)
    standin.wait(lambda: run.step == 7, seconds=20, what="the preview")
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert composites
    shown = {node.GetBackgroundVolumeID() for node in composites}
    assert len(shown) == 1
    (node,) = [ready.scene.GetNodeByID(name) for name in shown]
    assert node.GetHideFromEditors() and not node.GetSaveWithScene()
    with ready.panel.previewSuspended():
        assert {c.GetBackgroundVolumeID() for c in composites} == {None}
    assert {c.GetBackgroundVolumeID() for c in composites} == shown
    ready.ui.cancelButton.click()
    standin.wait(lambda: run.ended, seconds=5, what="the end")
    assert ready.scene.GetNumberOfNodes() == before
    assert {c.GetBackgroundVolumeID() for c in composites} == {None}


def test_a_preview_that_cannot_be_read_does_not_disturb_the_run(ready, standin, tmp_path):
    run = generate(ready, {"event": "preview", "path": str(tmp_path / "none.nrrd")}, PROGRESS, 30)
    standin.wait(lambda: run.step == 7, seconds=20, what="progress")
    assert "none.nrrd" in ready.ui.errorLabel.text and run.state == "running"


# The rest


def test_names_with_markup_are_shown_as_they_are(ready, standin):
    ready.parameters.caseName = "x"
    run = generate(ready, {"event": "error", "kind": "internal", "message": "no <b>bold</b> & 'x'"}, "exit 1")
    standin.wait(lambda: run.ended, seconds=20, what="the failure")
    assert "no <b>bold</b> & 'x'" in ready.ui.errorLabel.text
    from PySide6.QtCore import Qt

    assert ready.ui.errorLabel._obj.textFormat() == Qt.TextFormat.PlainText
    assert "no &lt;b&gt;bold&lt;/b&gt; &amp; " in ready.ui.runsTable.item(0, 1).toolTip()


def test_many_runs_are_shown_cheaply(ready, standin, monkeypatch):
    """A refresh after 200 runs writes no cell, and one run that changes writes its own row only."""
    from SynthDiffusionJobs.RunQueue import Run

    runs = [Run(f"run {n}", ready.session.folders.new("run"), number=n, state="done") for n in range(200)]
    ready.session.queue.runs += runs
    ready.panel.refresh()
    assert ready.ui.runsTable.rowCount == 200
    rows = ready.ui.runsTable.rowHeight(0)
    assert ready.ui.runsTable.maximumHeight < 12 * rows  # it scrolls
    import time

    from PySide6 import QtWidgets

    written = []
    write = QtWidgets.QTableWidgetItem.setText
    monkeypatch.setattr(
        QtWidgets.QTableWidgetItem, "setText", lambda item, text: written.append(text) or write(item, text)
    )
    began = time.monotonic()
    for _ in range(20):
        ready.panel.refresh()
    assert written == [] and (time.monotonic() - began) / 20 < 0.05
    runs[7].state = "failed"
    ready.panel.refresh()
    assert written == ["7", "run 7", "failed"]


def test_refreshing_writes_nothing_and_takes_no_focus(ready):
    ready.panel.widget._obj.show()
    ready.ui.generateButton._obj.setFocus()
    writes = ready.writes
    answer(ready, FITS)
    for _ in range(3):
        ready.panel.refresh()
    assert ready.writes == writes
    focused = ready.panel.widget._obj.focusWidget()
    assert focused is not None and focused.objectName() == "generateButton"


def test_the_keyboard_goes_from_top_to_bottom(ready, standin):
    run = generate(ready, {"event": "error", "kind": "internal", "message": "x", "hint": "y"}, "exit 1")
    standin.wait(lambda: run.ended, seconds=20, what="the failure")
    ready.ui.logButton.click()
    ready.ui.cancelRunButton.enabled = ready.ui.cancelButton.enabled = True
    assert tab_order(ready.panel.widget, ready.ui.generateButton) == [
        "generateButton",
        "cancelButton",
        "retryButton",
        "runsTable",
        "cancelRunButton",
        "logButton",
        "removeRunButton",
        "logText",
    ]


def tab_order(panel, first) -> list[str]:
    """Names of the widgets that the Tab key reaches, beginning with `first`."""
    from PySide6.QtCore import Qt

    widget, start, names = panel._obj, first._obj, []
    widget.setAttribute(Qt.WidgetAttribute.WA_DontShowOnScreen)
    widget.show()
    current = start
    while True:
        reachable = current.focusPolicy() & Qt.FocusPolicy.TabFocus
        name = current.objectName()
        if reachable and current.isVisibleTo(widget) and current.isEnabled() and not name.startswith("qt_"):
            names.append(name)
        current = current.nextInFocusChain()
        if current is start or len(names) > 50:
            return names


def test_every_control_has_a_tooltip_or_is_a_plain_text(harness):
    import slicer.util

    for name, widget in vars(harness.ui).items():
        if name.endswith(("Button", "Table")):
            assert widget.toolTip, name
    assert slicer.util.findChild(harness.panel.widget, "noticeLabel").text.count("not for diagnosis") == 1


def test_nothing_is_left_behind(standin, tmp_path):
    from SynthDiffusionPanels.GeneratePanel import GeneratePanel

    before = standin.counts()
    harness = Harness(standin.scene, GeneratePanel, [shipped_model()])
    obey(harness.session.engine)
    harness.parameters.modelId = MODEL_ID
    harness.parameters.segmentation = add_segmentation(harness.scene, {"lung": 20})
    from job_fakes import write_volume

    path = write_volume(tmp_path / "preview.nrrd")
    run = generate(harness, {"event": "preview", "path": str(path)}, PROGRESS, 60)
    standin.wait(lambda: run.step == 7, seconds=20, what="progress")
    harness.close()
    standin.process_events(0.2)
    after = standin.counts()
    assert (after["timers"], after["processes"]) == (before["timers"], before["processes"])
    assert run.state == "cancelled" and not run.folder.exists()
    assert harness.scene.GetFirstNodeByName("SynthDiffusion preview") is None
    session = harness.session
    for signal in (session.parametersChanged, session.drawingChanged, session.engine.changed, session.queue.changed):
        assert signal.receiverCount == 0


def test_the_panel_fits_its_width(ready, standin, tmp_path):
    answer(ready, TOO_LARGE | {"hint": "The largest size that fits is 88 x 88 x 88: crop to the target."})
    assert not any(widths(ready.panel, tmp_path, "generate_memory").values())
    answer(ready, FITS)
    run = generate(ready, {"event": "error", "kind": "internal", "message": "/a" * 90, "hint": "Look."}, "exit 1")
    standin.wait(lambda: run.ended, seconds=20, what="the failure")
    ready.ui.logButton.click()
    assert not any(widths(ready.panel, tmp_path, "generate_failed").values())
