"""The questions of every kind, drawn from the forms that ship and from one that has all of them; keys and marks."""

from __future__ import annotations

import pytest
from panel_harness import ROOT
from reading_harness import Reader, interactor, make_study
from test_keyboard import focused, show

FORMS = sorted((ROOT / "Resources" / "Forms").glob("*.json"))
SCALE = [{"value": n, "label": str(n)} for n in range(1, 6)]
OPTIONS = [{"value": name, "label": name} for name in ("noise", "edges", "anatomy")]
EVERY = {
    "id": "every",
    "title": "Every kind",
    "items": [
        {"id": "hello", "type": "info", "text": "Please look at all slices."},
        {"id": "quality", "type": "scale", "text": "How good?", "required": True, "options": SCALE},
        {"id": "clues", "type": "multiple_choice", "text": "What?", "options": OPTIONS, "max": 2},
        {"id": "kind", "type": "choice", "text": "Which & why?", "options": OPTIONS, "help": "The main one."},
        {"id": "sharp", "type": "boolean", "text": "Is it sharp?"},
        {"id": "size", "type": "number", "text": "How large (mm)?", "min": 0, "max": 50},
        {"id": "place", "type": "point", "text": "Where?", "max": 2, "show_if": {"item": "sharp", "equals": False}},
        {"id": "notes", "type": "text", "text": "Notes?", "show_if": {"item": "place", "answered": True}},
    ],
}


@pytest.fixture
def form(standin):
    """The form with all kinds of questions, alone."""
    from SynthDiffusionLib.reader_study.forms import Form
    from SynthDiffusionPanels.ReadingForm import ReadingForm

    made = ReadingForm(Form.from_json(EVERY), volumes=["v1"])
    yield made
    made.close()


@pytest.fixture
def reader(standin, tmp_path):
    made = Reader(standin, make_study(tmp_path, single=3, form=EVERY))
    made.begin()
    yield made
    made.close()


def shown(form) -> list[str]:
    return [question.item.id for question in form.questions if not question.widget.isHidden()]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_the_forms_that_ship_can_be_drawn_and_answered(standin, path):
    from SynthDiffusionLib.reader_study.forms import load_form
    from SynthDiffusionPanels.ReadingForm import ReadingForm

    definition = load_form(path)
    form = ReadingForm(definition, volumes=["v1", "v2"], places=("left", "right"))
    while any(q.takesKeys and q.isShown and q.answer() is None for q in form.questions):
        assert form.pressKey(1)
    for question in form.questions:
        if question.isShown and question.item.required and question.answer() is None:
            question.edit.setPlainText("because")
    assert form.isComplete, definition.problems(form.answers)
    assert form.answers
    form.close()


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_the_forms_that_ship_fit_into_400_pixels(standin, path, scale):
    from standin.screenshots import use_theme

    from SynthDiffusionLib.reader_study.forms import load_form
    from SynthDiffusionPanels.ReadingForm import ReadingForm

    use_theme(font_scale=scale)  # before: labels are broken for the font that Slicer has
    try:
        form = ReadingForm(load_form(path), volumes=["v1", "v2"], places=("left", "right"))
        assert form.widget._obj.minimumSizeHint().width() <= 380
        form.close()
    finally:
        use_theme()


def test_there_are_forms():
    assert FORMS


def test_every_kind_of_answer(form):
    assert form.answers == {} and not form.isComplete
    form.question("quality").buttons[3].click()
    for number in (0, 2):
        form.question("clues").buttons[number].click()
    form.question("kind").buttons[1].click()
    form.question("sharp").buttons[0].click()
    form.question("size").edit.setText("12,5")
    assert form.answers == {
        "quality": 4,
        "clues": ["noise", "anatomy"],
        "kind": "edges",
        "sharp": True,
        "size": 12.5,
    }
    assert form.isComplete
    form.question("clues").buttons[0].click()
    form.question("size").edit.setText("")
    assert form.answers["clues"] == ["anatomy"] and "size" not in form.answers


def test_questions_come_and_go_with_their_condition(form):
    assert shown(form) == ["hello", "quality", "clues", "kind", "sharp", "size"]
    form.question("sharp").buttons[1].click()
    assert shown(form)[-1] == "place"
    form.question("place").addPoint(0, (1, 2, 3), "Axial")
    assert shown(form)[-1] == "notes"
    form.question("notes").edit.setPlainText("here")
    assert form.answers["place"] == [{"volume": "v1", "ras": [1.0, 2.0, 3.0], "slice": "Axial"}]
    assert form.answers["notes"] == "here"
    form.question("sharp").buttons[0].click()
    assert shown(form)[-1] == "size" and not {"place", "notes"} & set(form.answers)


@pytest.mark.parametrize(
    ("text", "problem"), [("abc", "must be a number"), ("51", "at most 50"), ("-1", "at least 0"), ("1e400", "number")]
)
def test_a_number_that_is_none_is_told(form, text, problem):
    form.question("quality").buttons[0].click()
    form.question("size").edit.setText(text)
    assert not form.isComplete
    form.showProblems()
    assert problem in form.question("size").problemLabel.text
    assert form.question("quality").problemLabel.isHidden()


def test_answers_come_back(standin):
    from SynthDiffusionLib.reader_study.forms import Form
    from SynthDiffusionPanels.ReadingForm import ReadingForm

    answers = {
        "quality": 2,
        "clues": ["edges"],
        "kind": "noise",
        "sharp": False,
        "size": 3.25,
        "place": [{"volume": "v1", "ras": [1.0, 2.5, 3.0], "slice": "Coronal"}],
        "notes": "two\nlines",
    }
    form = ReadingForm(Form.from_json(EVERY), answers=answers, volumes=["v1"])
    assert form.answers == answers and form.isComplete
    form.close()


def test_labels_with_an_ampersand_are_read_as_they_are(form):
    assert form.question("kind").textLabel.text == "Which & why?"
    from SynthDiffusionPanels.ReadingQuestions import brokenLabel

    assert brokenLabel("noise & edges", form.widget) == "noise && edges"
    long = brokenLabel("the neighbouring slices do not fit together in most of the volume", form.widget)
    assert "\n" in long and long.replace("\n", " ").split() == long.split()


def test_number_keys_answer_the_next_question_and_mend_a_slip(form):
    assert form.pressKey(5) and form.answers == {"quality": 5}
    assert form.pressKey(1) and form.answers["clues"] == ["noise"]
    assert form.pressKey(3) and form.answers["kind"] == "anatomy"
    assert not form.pressKey(4)  # yes or no
    assert form.pressKey(1) and form.answers["sharp"] is True
    assert form.pressKey(2) and form.answers["sharp"] is False
    assert not form.pressKey(9)


def test_keys_of_the_window(reader, standin):
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    show(standin, reader.study.widget, reader.ui.nextButton)
    press = lambda key, modifier=Qt.KeyboardModifier.NoModifier: QTest.keyClick(focused(), key, modifier)  # noqa: E731
    press(Qt.Key.Key_4)
    assert reader.form.answers == {"quality": 4}
    press(Qt.Key.Key_P)
    assert reader.panel.page == "paused"
    press(Qt.Key.Key_4)
    press(Qt.Key.Key_Return)
    assert reader.panel.page == "paused" and not reader.answers()
    press(Qt.Key.Key_P)
    assert reader.panel.page == "case"
    press(Qt.Key.Key_Return)
    assert len(reader.answers()) == 1 and reader.ui.caseLabel.text == "Case 2 of 3"
    press(Qt.Key.Key_Backspace)
    assert reader.ui.caseLabel.text == "Case 1 of 3 (answered)"
    press(Qt.Key.Key_Enter)
    press(Qt.Key.Key_1)
    press(Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert [r["answers"]["quality"] for r in reader.answers()] == [4, 1]


def test_text_fields_keep_their_keys(reader, standin):
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    reader.form.question("quality").buttons[0].click()
    reader.form.question("sharp").buttons[1].click()
    reader.form.question("place").addPoint(0, (1, 1, 1), "Axial")
    edit = reader.form.question("notes").edit
    show(standin, reader.study.widget, edit)
    QTest.keyClicks(focused(), "p 12")
    QTest.keyClick(focused(), Qt.Key.Key_Return)
    QTest.keyClicks(focused(), "3x")
    QTest.keyClick(focused(), Qt.Key.Key_Backspace)
    assert edit.plainText == "p 12\n3" and reader.panel.page == "case" and not reader.answers()
    size = reader.form.question("size").edit
    size._obj.setFocus()
    QTest.keyClicks(focused(), "17")
    assert size.text == "17" and reader.form.answers["quality"] == 1
    QTest.keyClick(focused(), Qt.Key.Key_Return)
    assert reader.answers()[0]["answers"]["size"] == 17


def test_keys_end_with_the_reading(reader, standin):
    import qt

    reader.panel.leave()
    standin.process_events()
    assert not reader.panel.widget.findChildren(qt.QShortcut)


def test_a_point_is_marked_by_a_click_in_an_image(reader, standin):
    import slicer

    modes = slicer.app.applicationLogic().GetInteractionNode()
    before = modes.GetCurrentInteractionMode()
    nodes = standin.scene.GetNumberOfNodes()
    reader.form.question("quality").buttons[0].click()
    reader.form.question("sharp").buttons[1].click()
    question = reader.form.question("place")
    question.markButton.click()
    assert modes.GetCurrentInteractionMode() == slicer.vtkMRMLInteractionNode.Place
    placing = reader.panel._views.points._placing
    selection = slicer.app.applicationLogic().GetSelectionNode()
    assert selection.GetActivePlaceNodeID() == placing.GetID()
    # What Slicer does at a click
    interactor("SynthDiffusionRead3").InvokeEvent("LeftButtonPressEvent")
    placing.AddControlPoint([1.25, -2.0, 3.0])
    modes.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.ViewTransform)
    standin.process_events(0.05)
    assert not question.markButton.checked and modes.GetCurrentInteractionMode() == before
    assert question.list.item(0).text() == "1. Coronal 1, -2, 3 mm"
    (drawn,) = (n for n in nodes_of(standin.scene, "vtkMRMLMarkupsFiducialNode"))
    assert drawn.GetNumberOfControlPoints() == 1 and drawn.GetLocked() and drawn.GetName() == "Mark"
    question.markButton.click()
    placing = reader.panel._views.points._placing
    modes.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.ViewTransform)  # Esc
    standin.process_events(0.05)
    assert not question.markButton.checked and len(question.points) == 1
    question.removeButton.click()
    assert question.points == [] and not nodes_of(standin.scene, "vtkMRMLMarkupsFiducialNode")
    assert standin.scene.GetNumberOfNodes() == nodes
    question.addPoint(0, (1, 2, 3), "Axial")
    reader.next()
    (volume,) = reader.answers()[0]["answers"]["place"]
    shown_volume = next(r for r in reader.records() if r["type"] == "shown")["volumes"][0]
    assert volume == {"volume": shown_volume, "ras": [1.0, 2.0, 3.0], "slice": "Axial"}


def nodes_of(scene, name: str) -> list:
    return [scene.GetNthNodeByClass(n, name) for n in range(scene.GetNumberOfNodesByClass(name))]


def test_a_point_in_the_right_image_belongs_to_the_right_volume(standin, tmp_path):
    form = {
        "id": "choice",
        "title": "Which?",
        "items": [{"id": "side", "type": "point", "text": "Where?", "per": "pair", "required": True}],
    }
    folder = make_study(tmp_path, single=0, pairs=2, pair_form=form)
    reader = Reader(standin, folder)
    reader.begin()
    question = reader.form.question("side")
    for tag in ("SynthDiffusionReadRight", "SynthDiffusionReadLeft"):
        question.markButton.click()
        interactor(tag).InvokeEvent("LeftButtonPressEvent")
        reader.panel._views.points._placing.AddControlPoint([1, 2, 3])
        standin.process_events(0.05)
    drawn = nodes_of(standin.scene, "vtkMRMLMarkupsFiducialNode")
    views = {n.GetDisplayNode().GetNthViewNodeID(0): n.GetNthControlPointLabel(0) for n in drawn}
    slices = reader.panel._views.layout.slices
    assert views == {
        slices["SynthDiffusionReadRight"].GetID(): "1",
        slices["SynthDiffusionReadLeft"].GetID(): "2",
    }
    assert [question.list.item(n).text().split()[1] for n in (0, 1)] == ["right", "left"]
    reader.next()
    left, right = next(r for r in reader.records() if r["type"] == "shown")["volumes"]
    assert [p["volume"] for p in reader.answers()[0]["answers"]["side"]] == [right, left]
    reader.close()


def test_no_more_points_than_the_form_allows(form):
    question = form.question("place")
    for n in range(2):
        question.addPoint(0, (n, 0, 0), "Axial")
    assert not question.markButton.enabled
    question.removeButton.click()
    assert question.markButton.enabled
