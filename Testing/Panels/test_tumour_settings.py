"""The mode "joint" in the panel: what the tumour is to be like, the parameters, the box in the views, and the words."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from joint_fakes import NAMES, RANGE, TUMOUR, joint_model
from panel_harness import Harness, add_segmentation, shipped_model, widths


@pytest.fixture
def harness(standin):
    from SynthDiffusionPanels.ModelPanel import ModelPanel

    made = Harness(standin.scene, ModelPanel, [shipped_model(), joint_model()])
    made.ui.advancedBox.collapsed = False
    made.panel.tumour.ui.moreBox.collapsed = False
    made.panel.tumour.setInSight(True)
    made.parameters.modelId, made.parameters.mode = "limb-joint", "joint"
    yield made
    made.close()


@pytest.fixture
def settings(harness):
    """The group in the panel."""
    return harness.panel.tumour


def shown(widget) -> bool:
    return not widget._obj.isHidden()


def asked(harness) -> dict:
    return dict(harness.parameters.tumour)


def boxes(scene) -> list:
    count = scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode")
    return [scene.GetNthNodeByClass(n, "vtkMRMLMarkupsROINode") for n in range(count)]


def bounds(node) -> list[float]:
    found = [0.0] * 6
    node.GetRASBounds(found)
    return found


# The group


def test_the_group_is_there_for_such_a_model_only(harness, settings):
    from test_model_panel import pick

    ui = harness.ui
    assert shown(settings.widget) and ui.jointButton.checked and shown(ui.jointButton)
    assert settings.ui.tumourBox.title == "The tumour"
    assert "together" in ui.fitLabel.text and "Makes the segmentation of the tumour" in ui.makesLabel.text
    assert not shown(ui.classesLabel)  # nothing can be drawn
    assert not shown(ui.guidanceBox) and not shown(ui.sizeWidget) and not shown(ui.cropBox)
    pick(ui.modelSelector, "lung-nodule-ct")
    assert harness.parameters.mode == "whole" and not shown(settings.widget) and not shown(ui.jointButton)
    assert shown(ui.guidanceBox) and shown(ui.classesLabel)
    pick(ui.modelSelector, "limb-joint")
    assert harness.parameters.mode == "joint" and shown(settings.widget)


def test_all_is_left_to_chance_until_it_is_set(harness, settings):
    ui = settings.ui
    fields = ("volume", "sphericity", "center", "box", "surface")
    for field in fields:
        assert getattr(ui, f"{field}Box").checked and not shown(getattr(ui, f"{field}Widget"))
    ui.volumeBox.click()
    assert asked(harness) == {"volume_mm3": 95000.0} and shown(ui.volumeWidget) and ui.volumeSlider.value == 95
    ui.volumeSlider.value = 20.5
    assert asked(harness) == {"volume_mm3": 20500.0}
    ui.centerBox.click()
    assert [asked(harness)[f"center_{axis}_mm"] for axis in "ras"] == [4, 0, -6]
    ui.centerASlider.value = -7
    ui.sphericityBox.click()
    ui.boxBox.click()
    ui.surfaceBox.click()
    ui.surfaceSlider.value = 120
    ui.boxSSlider.value = 70
    assert asked(harness) == {
        "volume_mm3": 20500.0,
        "surface_mm2": 12000.0,
        "sphericity": 0.62,
        **{"center_r_mm": 4.0, "center_a_mm": -7.0, "center_s_mm": -6.0},
        **{"box_r_mm": 64.0, "box_a_mm": 58.0, "box_s_mm": 70.0},
    }
    for field in fields:
        getattr(ui, f"{field}Box").click()
    assert asked(harness) == {}


def test_what_the_patients_had_is_written_and_limits_the_sliders(settings):
    ui = settings.ui
    assert ui.volumeRangeLabel.text == "Training patients: 2 to 800, half of them below 95."
    assert "0.35 to 0.9" in ui.sphericityRangeLabel.text
    assert "30 left to 42 right, as a rule 4 right; 20 back to 25 front, as a rule 0" in ui.centerRangeLabel.text
    assert "right-left 20 to 150, half of them below 64" in ui.boxRangeLabel.text
    slider = ui.volumeSlider
    assert 0 < slider.minimum < 2 and 800 < slider.maximum <= 1000
    assert (ui.sphericitySlider.minimum, ui.sphericitySlider.maximum) == (pytest.approx(0.21, abs=0.01), 1.0)
    assert ui.centerRSlider.minimum == -48 and ui.centerRSlider.maximum == 60
    assert ui.boxRSlider.maximum <= 192  # the volume is no larger
    assert ui.volumeSlider.decimals <= 1 and ui.sphericitySlider.decimals >= 2


@pytest.mark.parametrize(("value", "warned"), [(2.0, False), (800.0, False), (1.5, True), (850.0, True)])
def test_beyond_what_the_patients_had_there_is_a_warning(settings, value, warned):
    ui = settings.ui
    ui.volumeBox.click()
    ui.volumeSlider.value = value
    assert shown(ui.warningLabel) == warned
    assert ui.warningLabel.text.startswith("No training patient had the like: Size.") == warned


def test_refreshing_writes_nothing_and_cuts_off_nothing(harness, settings):
    values = {"volume_mm3": 2345678.9, "sphericity": 0.123456789}  # beyond the sliders, with more digits
    harness.parameters.tumour = values
    writes = harness.writes
    for _ in range(3):
        harness.panel.refresh()
    assert harness.writes == writes and asked(harness) == values
    assert settings.ui.volumeSlider.value == pytest.approx(2345.7, abs=1) and shown(settings.ui.warningLabel)


def test_another_model_keeps_what_it_has_been_trained_near_to(harness):
    from test_model_panel import pick

    narrow = [[10000, 30000], *([low, high] for low, high in RANGE[1:])]
    other = joint_model(id="other", characteristics=joint_model().description["characteristics"] | {"range": narrow})
    harness.setModels(shipped_model(), joint_model(), other)
    harness.parameters.tumour = {"volume_mm3": 500000.0, "sphericity": 0.7}
    pick(harness.ui.modelSelector, "lung-nodule-ct")
    assert len(asked(harness)) == 2  # not used, and not lost
    pick(harness.ui.modelSelector, "other")
    assert asked(harness) == {"sphericity": 0.7}


def test_what_the_method_is_best_for_is_said_where_it_is_known(harness):
    assert not shown(harness.ui.bestForLabel)
    harness.setModels(shipped_model(), replace(joint_model(), bestFor="Lesions of a size that you choose & <x>."))
    assert shown(harness.ui.bestForLabel) and "choose &amp; &lt;x&gt;." in harness.ui.bestForLabel.text


def test_the_list_of_models_brings_that_sentence(slicer_python):
    from SynthDiffusionJobs.Engine import _modelsOf

    entry = {"id": "m", "origin": "shipped", "folder": "/m", "problem": None, "model": joint_model().description}
    models = _modelsOf({"models": [entry, entry | {"best_for": None}, entry | {"best_for": "Bones."}]})
    assert [model.bestFor for model in models] == ["", "", "Bones."]


# The parameters


def test_the_names_are_those_of_the_engine(slicer_python):
    from SynthDiffusionJobs import Tumour
    from SynthDiffusionLib.jobs.tumour import FIELDS
    from SynthDiffusionLib.models import characteristics

    assert Tumour.FIELDS == FIELDS and Tumour.NAMES == characteristics.NAMES == NAMES


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"volume_mm3": 5.0, "colour": 3.0}, {"volume_mm3": 5.0}),
        ({"sphericity": float("nan")}, {}),
        ({"center_r_mm": 1.0, "center_a_mm": 2.0, "sphericity": 0.5}, {"sphericity": 0.5}),
    ],
)
def test_what_a_scene_of_elsewhere_may_hold_is_put_right(harness, written, expected):
    from SynthDiffusionJobs.Parameters import makeValid

    harness.parameters.tumour = written
    makeValid(harness.parameters)
    assert asked(harness) == expected


@pytest.mark.parametrize(
    "values", [{}, {"volume_mm3": 20000.0}, dict(zip(NAMES, map(float, range(1, 10)))), TUMOUR["asked"]]
)
def test_a_request_and_back(harness, values):
    from SynthDiffusionJobs.Tumour import askedOf, requestOf
    from SynthDiffusionLib.jobs.tumour import check_tumour, tumour_values

    request = requestOf(values)
    check_tumour(request)
    assert tumour_values(request) == values
    assert askedOf(json.loads(json.dumps(request))) == values


# The box in the slice views


def test_the_box_follows_the_sliders(harness, settings):
    ui, scene = settings.ui, harness.scene
    assert boxes(scene) == [] and not shown(ui.previewLabel)
    ui.sphericityBox.click()
    assert boxes(scene) == []  # says nothing of place or size
    ui.volumeBox.click()
    ui.volumeSlider.value = 20
    (node,) = boxes(scene)
    side = (6 * 20000 / np.pi) ** (1 / 3)
    assert np.allclose(node.GetSize(), side) and np.allclose(node.GetCenter(), (4, 0, -6))
    assert "left to chance" in ui.previewLabel.text
    ui.centerBox.click()
    ui.centerASlider.value = 20
    assert boxes(scene) == [node] and np.allclose(node.GetCenter(), (4, 20, -6))
    assert "about where it will be" in ui.previewLabel.text
    ui.boxBox.click()
    ui.boxRSlider.value = 50
    assert np.allclose(bounds(node), (4 - 25, 4 + 25, 20 - 29, 20 + 29, -6 - 40, -6 + 40))
    writes = harness.writes
    ui.boxRSlider._obj.valueIsChanging.emit(100.0)  # in the middle of a drag
    assert np.allclose(node.GetSize(), (100, 58, 80)) and harness.writes == writes
    assert not node.GetSaveWithScene() and not node.GetDisplayNode().GetSaveWithScene()


def leave(harness, settings):
    harness.panel.exit()


def collapse(harness, settings):
    settings.ui.tumourBox.collapsed = True


def collapse_section(harness, settings):
    settings.setInSight(False)


def other_model(harness, settings):
    harness.parameters.modelId, harness.parameters.mode = "lung-nodule-ct", "whole"


def model_gone(harness, settings):
    harness.setModels(shipped_model())


def to_chance(harness, settings):
    settings.ui.volumeBox.click()


def close_scene(harness, settings):
    harness.closeScene()


@pytest.mark.parametrize("change", [leave, collapse, collapse_section, other_model, model_gone, to_chance, close_scene])
def test_the_box_goes(harness, settings, change):
    before = harness.scene.GetNumberOfNodes()
    settings.ui.volumeBox.click()
    assert len(boxes(harness.scene)) == 1
    change(harness, settings)
    assert boxes(harness.scene) == []
    assert harness.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROIDisplayNode") == 0
    if change is not close_scene:
        assert harness.scene.GetNumberOfNodes() == before


def test_the_box_comes_back(harness, settings):
    settings.ui.volumeBox.click()
    harness.panel.exit()
    harness.panel.enter()
    assert len(boxes(harness.scene)) == 1
    settings.ui.tumourBox.collapsed = True
    settings.ui.tumourBox.collapsed = False
    (node,) = boxes(harness.scene)
    harness.scene.RemoveNode(node)  # by the user, in a script
    settings.ui.volumeSlider.value = 30
    assert len(boxes(harness.scene)) == 1
    harness.scene.Clear(0)
    assert boxes(harness.scene) == []


def test_nothing_is_left_when_the_panel_is_closed(standin):
    from SynthDiffusionPanels.ModelPanel import ModelPanel

    made = Harness(standin.scene, ModelPanel, [joint_model()])
    made.panel.tumour.setInSight(True)
    made.parameters.modelId, made.parameters.mode = "limb-joint", "joint"
    made.parameters.tumour = {"volume_mm3": 20000.0}
    assert len(boxes(standin.scene)) == 1
    made.close()
    assert boxes(standin.scene) == []


def test_the_sections_of_the_module_are_watched(standin, opened):
    opened.session.engine.models = (*opened.session.engine.models, joint_model())
    opened.session.engine.changed.emit()
    opened.set(modelId="limb-joint", mode="joint", tumour={"volume_mm3": 20000.0})
    section = next(s for s, panel in opened.panel.sections.items() if panel is opened.panel.modelPanel)
    section.collapsed = False
    assert len(boxes(opened.scene)) == 1
    section.collapsed = True
    assert boxes(opened.scene) == []
    section.collapsed = False
    assert len(boxes(opened.scene)) == 1
    opened.scene.Clear(0)
    assert boxes(opened.scene) == []


# Words


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sphericity": 1.2}, "a roundness is above 0 and at most 1"),
        ({"volume_mm3": 2.0}, "a size of 0.002 ml is less than one voxel, 0.02 ml"),
        ({"box_a_mm": 300.0}, "an extent of 300 mm front-back is larger than the image, which has 192 mm there"),
        ({"center_s_mm": -150.0}, "a position at -150 mm up-down lies outside the image: the image ends 100 mm"),
        ({"surface_mm2": 30.0, "volume_mm3": 20000.0}, "a surface of 0.3 cm2 is smaller than that of a ball of 20 ml"),
        ({"box_r_mm": 9.0, "box_a_mm": 9.0, "box_s_mm": 9.0, "volume_mm3": 5e3}, "less than the size of 5 ml"),
    ],
)
def test_refusals_of_the_engine_are_in_the_words_of_the_panel(slicer_python, values, said):
    from SynthDiffusionLib.errors import BadInput
    from SynthDiffusionLib.jobs.joint import check_asked
    from SynthDiffusionPanels.sentences import failureText

    with pytest.raises(BadInput) as caught:
        check_asked(values, (192.0, 192.0, 200.0), (2.0, 2.0, 5.0))
    text = failureText(caught.value.message, caught.value.hint)
    assert said in text and "check 'As in the training patients'" in text
    for word in ("--", "mm3", "mm2", "sphericity", "along"):
        assert word not in text


def test_notes_of_the_engine_are_in_the_words_of_the_panel(slicer_python):
    from SynthDiffusionLib.jobs.joint import range_notes
    from SynthDiffusionLib.models.characteristics import CharacteristicsSpec
    from SynthDiffusionPanels.sentences import panelWords

    spec = CharacteristicsSpec.from_json(joint_model().description["characteristics"])
    values = {"volume_mm3": 900000.0, "center_r_mm": 50.0, "sphericity": 0.2}
    texts = [panelWords(note) for note in range_notes(values, spec)]
    for text, part in zip(texts, ("Size 900 ml lies", "Roundness 0.2 lies", "Position right-left 50 mm lies")):
        assert text.startswith(part)
    assert "2 to 800 ml" in texts[0] and "-30 to 42 mm" in texts[2]


def test_other_messages_keep_their_words(slicer_python):
    from SynthDiffusionPanels.sentences import panelWords

    assert panelWords("The volume of 3 mm3 along R") == "The volume of 3 mm3 along R"


def test_the_section_segmentation_says_that_nothing_has_to_be_drawn(standin):
    from SynthDiffusionPanels.SegmentationPanel import SegmentationPanel

    made = Harness(standin.scene, SegmentationPanel, [joint_model()])
    made.parameters.modelId, made.parameters.mode = "limb-joint", "joint"
    made.parameters.segmentation = add_segmentation(made.scene, {"tumour": 5})
    assert "is made with the image" in made.ui.notesLabel.text and made.ui.mappingTable.rowCount == 0
    made.close()


def test_the_group_fits_its_width(harness, settings, tmp_path):
    for field in ("volume", "sphericity", "center", "box", "surface"):
        getattr(settings.ui, f"{field}Box").click()
    settings.ui.volumeSlider.value = 900
    settings.ui.moreBox.collapsed = False
    found = widths(harness.panel, tmp_path, "tumour")
    assert not any(found.values()), found
