"""A whole reading through the panel: clicks, what is on the disk, resuming, going back, pause, feedback, failures."""

from __future__ import annotations

import json

import pytest
from reading_harness import Reader, interactor, make_study


@pytest.fixture
def reader(standin, tmp_path):
    made = Reader(standin, make_study(tmp_path, single=4))
    yield made
    made.close()


def order_of(folder, name="R1"):
    return json.loads((folder / "orders" / f"{name}.json").read_text(encoding="utf-8"))["presentations"]


def layout():
    import slicer

    return slicer.app.layoutManager().layoutLogic().GetLayoutNode()


def test_a_session_is_read_by_clicks(reader):
    reader.begin()
    assert reader.ui.caseLabel.text == "Case 1 of 4"
    numbers = [1, 4, 2, 6]
    for count, number in enumerate(numbers, start=1):
        reader.answer("score", number)
        if number > 3:
            reader.form.question("why").edit.setPlainText("grainy")
        reader.next()
        assert len(reader.answers()) == count  # on the disk before the next case shows
    assert not reader.panel.isActive
    given = reader.answers()
    assert [record["answers"]["score"] for record in given] == [-3, 1, -2, 3]
    assert [record["answers"].get("why") for record in given] == [None, "grainy", None, "grainy"]
    assert [record["unit"] for record in given] == [p["unit"] for p in order_of(reader.folder)]
    assert reader.types().count("shown") == 4 and reader.types()[-1] == "close"


def test_the_end_says_what_to_do_with_the_receipt(reader, standin):
    reader.begin()
    reader.read_all()
    text = reader.login.messageLabel.text
    assert "All 4 cases of this session are read" in text and "send the receipt to the coordinator" in text
    (receipt,) = (reader.folder / "records" / "receipts").glob("*.json")
    assert json.loads(receipt.read_text())["answered"] == 4
    reader.login.receiptButton.click()
    assert standin.dialogs.opened_urls[-1].endswith("receipts")
    assert reader.login.loginWidget.isVisibleTo(reader.study.widget)


def test_missing_answers_are_told_beside_the_question(reader):
    reader.begin()
    reader.next()
    assert reader.form.question("score").problemLabel.text == "⚠ An answer is needed."
    assert "missing" in reader.ui.messageLabel.text and not reader.answers()
    reader.answer("score", 1)
    assert reader.form.question("score").problemLabel.isHidden()
    reader.next()
    assert len(reader.answers()) == 1 and reader.ui.messageLabel.isHidden()


def test_it_goes_on_where_the_reader_left(reader, standin):
    reader.begin()
    for _ in range(2):
        reader.answer()
        reader.next()
    standin.dialogs.answer("Leave")
    reader.ui.leaveButton.click()
    assert not reader.panel.isActive and "2 of 4 cases" in reader.login.messageLabel.text
    assert reader.types()[-1] == "close"
    assert reader.login.beginButton.text == "Continue"
    reader.login.beginButton.click()
    assert reader.ui.caseLabel.text == "Case 3 of 4"
    assert reader.read_all() == 2
    assert [r["position"] for r in reader.answers()] == [0, 1, 2, 3]


def test_a_crash_loses_no_committed_answer(reader, standin, tmp_path):
    reader.begin()
    reader.answer()
    reader.next()
    # Slicer is gone: nothing is closed, the process of the lock no longer runs
    lock = next((reader.folder / "records").glob("*.lock"))
    content = json.loads(lock.read_text()) | {"pid": 2**22 - 3, "started": 1.0}
    reader.panel._giveBack()
    lock.write_text(json.dumps(content))
    again = Reader(standin, reader.folder)
    again.begin()
    assert again.ui.caseLabel.text == "Case 2 of 4"
    assert again.read_all() == 3 and len(again.answers()) == 4
    again.close()


def test_staying_changes_nothing(reader, standin):
    reader.begin()
    standin.dialogs.answer("Stay")
    reader.ui.leaveButton.click()
    assert reader.panel.isActive and reader.panel.page == "case"


def test_being_unblinded_is_recorded_with_its_reason(reader, standin):
    reader.begin()
    standin.dialogs.answer("I learned which is synthetic...", "a colleague told me")
    reader.ui.leaveButton.click()
    (record,) = [r for r in reader.records() if r["type"] == "unblinded"]
    assert record["reason"] == "a colleague told me"
    assert not reader.panel.isActive and "unblinded" in reader.login.messageLabel.text


def test_no_reason_no_unblinding(reader, standin):
    reader.begin()
    standin.dialogs.answer("I learned which is synthetic...", "")
    reader.ui.leaveButton.click()
    assert reader.panel.isActive and "unblinded" not in reader.types()


def test_a_pause_hides_images_and_questions(reader, standin):
    reader.begin()
    composite = standin.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode").GetID()
    views = reader.panel._views
    assert {c.GetBackgroundVolumeID() for c in views.layout.composites.values()} == {composite}
    reader.ui.pauseButton.click()
    assert {c.GetBackgroundVolumeID() for c in views.layout.composites.values()} == {None}
    assert reader.ui.formWidget.isHidden() and reader.ui.nextButton.isHidden()
    assert reader.ui.caseLabel.text == "Paused" and reader.types()[-1] == "pause"
    reader.ui.pauseButton.click()
    assert {c.GetBackgroundVolumeID() for c in views.layout.composites.values()} == {composite}
    assert reader.types()[-1] == "resume" and not reader.ui.formWidget.isHidden()
    reader.answer()
    reader.next()
    assert len(reader.answers()) == 1


def test_going_back_and_changing_an_answer_with_a_reason(reader, standin):
    reader.begin()
    reader.answer("score", 1)
    reader.next()
    reader.ui.backButton.click()
    assert reader.ui.caseLabel.text == "Case 1 of 4 (answered)"
    assert reader.form.answers == {"score": -3} and reader.ui.nextButton.text == "Forward"
    reader.answer("score", 2)
    assert reader.ui.nextButton.text == "Store the change..."
    standin.dialogs.answer("")  # no reason
    reader.next()
    assert "change needs a reason" in reader.ui.messageLabel.text and "change" not in reader.types()
    standin.dialogs.answer("wrong button")
    reader.next()
    (record,) = [r for r in reader.records() if r["type"] == "change"]
    assert (record["old_answers"], record["answers"]) == ({"score": -3}, {"score": -2})
    assert record["reason"] == "wrong button" and reader.ui.caseLabel.text == "Case 2 of 4"


def test_where_the_study_forbids_it_there_is_no_way_back(standin, tmp_path):
    reader = Reader(standin, make_study(tmp_path, single=2, back="none"))
    reader.begin()
    reader.answer()
    reader.next()
    assert reader.ui.backButton.isHidden()
    reader.panel.goBack()
    assert reader.ui.caseLabel.text == "Case 2 of 2"
    reader.close()


def test_feedback_comes_in_training_only(standin, tmp_path):
    reader = Reader(standin, make_study(tmp_path, single=2, training=2))
    reader.begin()
    assert reader.ui.caseLabel.text == "Training 1 of 2"
    seen = []
    while reader.panel.isActive:
        if reader.panel.page == "feedback":
            assert not reader.ui.feedbackLabel.isHidden() and reader.ui.nextButton.text == "Go on"
            assert not reader.form.widget.enabled and reader.ui.caseLabel.text.startswith("Training")
            seen.append(reader.ui.feedbackLabel.text)
        else:
            assert reader.ui.feedbackLabel.isHidden()
            reader.answer()
        reader.next()
    assert sorted(seen) == ["This volume is real.", "This volume is synthetic."]
    assert reader.types().count("feedback_shown") == 2 and len(reader.answers()) == 4
    reader.close()


def test_questions_on_the_whole_study_come_at_its_end(standin, tmp_path):
    reader = Reader(standin, make_study(tmp_path, single=2, study_items=True))
    reader.begin()
    for _ in range(2):
        assert [q.item.id for q in reader.form.questions] == ["score", "why"]
        reader.answer()
        reader.next()
    assert reader.panel.page == "study questions" and reader.ui.caseLabel.text == "Closing questions"
    assert standin.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    reader.next()
    assert reader.form.question("overall").problemLabel.text == "⚠ An answer is needed."
    reader.form.question("overall").edit.setPlainText("none")
    reader.next()
    assert not reader.panel.isActive
    assert [r["answers"] for r in reader.records() if r["type"] == "study_answer"] == [{"overall": "none"}]
    reader.close()


def test_two_volumes_side_by_side(standin, tmp_path):
    reader = Reader(standin, make_study(tmp_path, single=0, pairs=2))
    reader.begin()
    views = reader.panel._views
    assert [view.label for view in views.views] == ["Left", "Right"]
    left, right = (views.layout.composites[view.tag].GetBackgroundVolumeID() for view in views.views)
    assert left != right
    import nibabel as nib
    import numpy as np
    import slicer.util

    for place, name in zip((left, right), order_of(reader.folder)[0]["volumes"]):
        file = np.asarray(nib.load(reader.folder / "volumes" / f"{name}.nii.gz").dataobj)
        node = standin.scene.GetNodeByID(place)
        assert np.array_equal(slicer.util.arrayFromVolume(node).T, file)  # the left file is on the left
    reader.form.question("side").buttons["right"].click()
    assert reader.form.question("side").buttons["right"].text == "✓ Right"
    reader.next()
    assert reader.answers()[0]["answers"] == {"side": "right"}
    assert reader.answers()[0]["view"]["layout"] == "side_by_side"
    reader.close()


def test_single_volumes_and_pairs_in_one_session(standin, tmp_path):
    reader = Reader(standin, make_study(tmp_path, single=2, pairs=2))
    reader.begin()
    assert reader.read_all() == 4
    layouts = {r["task"]: r["view"]["layout"] for r in reader.answers()}
    assert layouts == {"turing": "three_planes", "choice": "side_by_side"}
    assert not reader.panel.isActive
    reader.close()


def test_what_is_done_in_the_views_is_a_sign_of_life(reader):
    reader.begin()
    interactor("SynthDiffusionRead2").InvokeEvent("MouseWheelForwardEvent")
    assert reader.panel._reading._timers[0].first_touch is not None
    reader.answer()
    reader.next()
    assert reader.answers()[0]["first_touch_s"] is not None


def test_moving_the_mouse_alone_is_none(reader):
    reader.begin()
    interactor("SynthDiffusionRead1").InvokeEvent("MouseMoveEvent")
    assert reader.panel._reading._timers[0].first_touch is None


def test_how_it_was_looked_at_is_recorded(reader, standin):
    reader.begin()
    node = reader.panel._views.layout.slices["SynthDiffusionRead1"]
    node.SetSliceOffset(8.0)
    reader.ui.windowCombo.setCurrentIndex(1)
    reader.answer()
    reader.next()
    view = reader.answers()[0]["view"]
    assert view["layout"] == "three_planes" and view["window_preset"] == "Soft"
    axial, *others = view["views"]
    assert (axial["offset_mm"], axial["window"], axial["level"]) == (8.0, 400, 40)
    assert [v["view"] for v in others] == ["sagittal", "coronal"]
    shown = next(r for r in reader.records() if r["type"] == "shown")
    assert shown["view"]["window_preset"] == "Lung"  # as the case began


def test_a_locked_window_is_put_back_and_counted(reader, standin):
    reader.begin()
    display = standin.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode").GetDisplayNode()
    display.SetWindowLevel(10, 10)
    display.SetAutoWindowLevel(True)
    assert (display.GetWindow(), display.GetLevel(), display.GetAutoWindowLevel()) == (1500, -600, 0)
    reader.answer()
    reader.next()
    assert reader.answers()[0]["view"]["window_reverts"] == 2


def test_a_free_window_is_the_readers(standin, tmp_path):
    import slicer

    reader = Reader(standin, make_study(tmp_path, single=2, viewing={"window_locked": False}))
    mode = slicer.app.applicationLogic().GetInteractionNode()
    before = mode.GetCurrentInteractionMode()
    reader.begin()
    assert mode.GetCurrentInteractionMode() == slicer.vtkMRMLInteractionNode.AdjustWindowLevel
    assert "Drag in an image" in reader.ui.windowHintLabel.text
    display = standin.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode").GetDisplayNode()
    display.SetWindowLevel(300, 20)
    reader.answer()
    reader.next()
    first = reader.answers()[0]["view"]
    assert (first["views"][0]["window"], first["window_reverts"]) == (300, 0)
    reader.read_all()
    assert mode.GetCurrentInteractionMode() == before
    reader.close()


def test_a_full_disk_loses_nothing(reader, monkeypatch):
    import SynthDiffusionLib.reader_study.records as records

    reader.begin()
    reader.answer("score", 5)
    reader.form.question("why").edit.setPlainText("noise")
    size = (reader.folder / "records" / "R1.jsonl").stat().st_size

    def full(_file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    reader.next()
    text = reader.ui.messageLabel.text
    assert "space" in text.lower() and "Nothing is lost" in text and not reader.ui.againButton.isHidden()
    assert reader.form.answers == {"score": 2, "why": "noise"} and reader.ui.caseLabel.text == "Case 1 of 4"
    assert (reader.folder / "records" / "R1.jsonl").stat().st_size == size
    reader.ui.againButton.click()
    assert "space" in reader.ui.messageLabel.text.lower()  # still full
    monkeypatch.undo()
    reader.ui.againButton.click()
    assert reader.answers()[0]["answers"] == {"score": 2, "why": "noise"}
    assert reader.ui.caseLabel.text == "Case 2 of 4" and reader.ui.messageLabel.isHidden()


def test_the_end_of_a_sitting_on_a_full_disk(reader, standin, monkeypatch):
    import SynthDiffusionLib.reader_study.records as records

    reader.begin()
    monkeypatch.setattr(records.os, "fsync", lambda _file: (_ for _ in ()).throw(OSError(28, "No space left")))
    standin.dialogs.answer("Leave")
    reader.ui.leaveButton.click()
    assert reader.panel.isActive and not reader.ui.againButton.isHidden()
    standin.dialogs.answer("Leave")
    reader.ui.leaveButton.click()  # all the same
    assert not reader.panel.isActive and "could not be" in reader.login.messageLabel.text
    monkeypatch.undo()
    reader.begin()
    assert reader.ui.caseLabel.text == "Case 1 of 4"


def test_a_missing_image_can_be_put_back(reader, tmp_path):
    first = order_of(reader.folder)[0]["volumes"][0]
    path = reader.folder / "volumes" / f"{first}.nii.gz"
    content = path.read_bytes()
    path.unlink()
    reader.begin()
    assert reader.panel.page == "stuck" and "Copy the study" in reader.ui.messageLabel.text
    assert "shown" not in reader.types() and reader.form is None
    path.write_bytes(content)
    reader.ui.againButton.click()
    assert reader.panel.page == "case" and reader.types()[-1] == "shown"
    assert reader.read_all() == 4


def test_too_early_is_said(standin, tmp_path):
    reader = Reader(standin, make_study(tmp_path, single=2, viewing={"min_view_s": 3}))
    reader.begin()
    reader.answer()
    reader.next()
    assert "must be looked at for 3 s more" in reader.ui.messageLabel.text and not reader.answers()
    reader.close()


def test_a_turned_clock_is_told(reader, monkeypatch):
    from SynthDiffusionLib.reader_study.clock import Clock

    reader.begin()
    monkeypatch.setattr(Clock, "utc", lambda self: "2031-01-01T00:00:00.000Z")
    reader.answer()
    reader.next()
    assert "time of day" in reader.ui.noticeLabel.text and not reader.ui.noticeLabel.isHidden()
    reader.answer()
    reader.next()
    assert reader.ui.noticeLabel.isHidden()  # once


def test_position_is_hidden_where_the_study_says_so(standin, tmp_path):
    reader = Reader(standin, make_study(tmp_path, single=2, viewing={"show_position": False}))
    reader.begin()
    assert reader.ui.caseLabel.text == "Case" and reader.ui.progressBar.isHidden()
    reader.close()
