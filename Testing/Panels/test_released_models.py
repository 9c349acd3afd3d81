"""Models with limits, many classes, controls of their own, or without a drawing: shown, asked for and put back."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_fakes import add_results, obey, outputs, provenance
from panel_harness import Harness, add_segmentation, shipped_model, widths
from released_fakes import GRID, ct_model, mr_model
from test_generation import NoPanel, saved_request

REFUSED = {
    "event": "error",
    "kind": "bad_input",
    "message": "'many-ct' cannot make 200 x 200 x 90 voxels of 1 x 1 x 1 mm",
    "hint": "Add --size nearest to work on the nearest grid that it can make, 256 x 256 x 128 voxels.",
}


def harness_with(standin, panelClass, *models):
    made = Harness(standin.scene, panelClass)
    obey(made.session.engine)
    made.setModels(*models)
    return made


@pytest.fixture
def harness(standin):
    from SynthDiffusionPanels.ModelPanel import ModelPanel

    made = harness_with(standin, ModelPanel, ct_model(), mr_model(), shipped_model())
    made.ui.advancedBox.collapsed = made.ui.classesBox.collapsed = False
    yield made
    made.close()
    made.session.folders.removeAll()


@pytest.fixture
def running(standin):
    """Runs without a panel: the worker is a fake."""
    made = harness_with(standin, NoPanel, ct_model(), mr_model(), shipped_model())
    yield made
    made.close()
    made.session.folders.removeAll()


def visible(harness, name: str) -> bool:
    return getattr(harness.ui, name).isVisibleTo(harness.panel.widget)


def pick(box, data) -> None:
    index = box.findData(data)
    assert index >= 0, f"no '{data}'"
    box.setCurrentIndex(index)
    box._obj.activated.emit(index)


def items(box) -> list[str]:
    return [box.itemText(n) for n in range(box.count)]


# What a model is


def test_limits_are_said_in_words(harness):
    harness.parameters.modelId = "many-ct"
    assert "up to 512 x 512 x 768 voxels. Also without a drawing." in harness.ui.makesLabel.text
    assert harness.ui.limitsLabel.text == (
        "<b>Sizes:</b> 256, 384 or 512 voxels across (both directions the same), 128 or 256 slices. "
        "Voxels of 0.5 to 3 mm across, slices of 0.5 to 5 mm. "
        "At least 256 mm across; 384 mm are recommended where it shows more than the head."
    )
    harness.parameters.modelId = "lung-nodule-ct"
    assert not visible(harness, "limitsLabel") and "voxels of 1 mm" in harness.ui.makesLabel.text


def test_sizes_that_are_listed_one_by_one(slicer_python):
    from SynthDiffusionPanels.modelTexts import limitsText, sizeChoices

    rules = {"sizes": [[256, 256, 128], [128, 256, 256]], "least_field_of_view_mm": 200}
    model = ct_model(grid=GRID | {"rules": rules, "spacing_range_mm": [[0.4, 5.0]] * 3}).description
    expected = "256 x 256 x 128 or 128 x 256 x 256 voxels. Voxels of 0.4 to 5 mm. At least 200 mm across."
    assert limitsText(model) == expected
    assert sizeChoices(model) == [(256, 256, 128), (128, 256, 256)]
    free = {key: value for key, value in GRID.items() if key != "rules"} | {"min_size": [1, 1, 1]}
    assert sizeChoices(ct_model(grid=free).description) == [(256, 256, 64), (512, 512, 128), (512, 512, 768)]


def test_many_classes_are_a_list_that_can_be_searched(harness):
    harness.parameters.modelId = "many-ct"
    ui = harness.ui
    assert ui.classesLabel.text == "<b>Can be drawn:</b> 132 structures, see below."
    rows = [ui.classesList.item(n) for n in range(ui.classesList.count)]
    assert len(rows) == 132 and not any(row.isHidden() for row in rows)
    for text, found in (("kidn LEFT", ["left_kidney"]), ("liver", ["liver"]), ("spleen", [])):
        ui.classesSearch.text = text
        assert [row.text() for row in rows if not row.isHidden()] == found
    harness.parameters.modelId = "lung-nodule-ct"
    assert not visible(harness, "classesBox") and "lung" in ui.classesLabel.text
    harness.parameters.modelId = "some-mr"
    assert not visible(harness, "classesBox") and not visible(harness, "classesLabel")


def test_a_segmentation_of_many_organs_is_named_in_brief(harness):
    names = {f"organ {n}": 3 for n in range(1, 31)}
    harness.parameters.segmentation = add_segmentation(harness.scene, names)
    harness.setModels(ct_model())
    assert harness.ui.fitLabel.text.endswith("organ 7, organ 8 and 22 more.")


def test_non_commercial_is_the_first_thing_said(harness):
    harness.parameters.modelId = "some-mr"
    text = harness.ui.licenceLabel.text
    assert text.startswith("<b>License:</b> Not for commercial use. NVIDIA One-Way Noncommercial License.")
    harness.parameters.modelId = "lung-nodule-ct"
    assert "commercial" not in harness.ui.licenceLabel.text


def test_what_nobody_has_measured_is_not_called_measured(harness):
    harness.parameters.modelId = "some-mr"
    assert "as the model proposes" in harness.ui.balancedLabel.text and "measured" not in harness.ui.bestLabel.text
    harness.parameters.modelId = "lung-nodule-ct"
    assert "as measured in the model card" in harness.ui.balancedLabel.text


def test_the_samplers_are_those_of_the_model_in_plain_words(harness):
    harness.parameters.modelId = "many-ct"
    texts = items(harness.ui.samplerBox)
    assert texts == [
        "euler: plain steps",
        "heun: corrected steps, twice the time",
        "dpmpp-2m",
        "maisi-rflow: as published",
    ]
    harness.ui.customBox.click()
    pick(harness.ui.samplerBox, "maisi-rflow")
    assert harness.parameters.sampler == "maisi-rflow"


# Without a drawing


def test_a_model_without_a_drawing_can_be_chosen_and_sized(harness):
    ui, parameters = harness.ui, harness.parameters
    pick(ui.modelSelector, "some-mr")
    assert parameters.mode == "unconditional" and ui.unconditionalButton.checked
    assert not ui.wholeButton.enabled and not ui.inpaintButton.enabled
    assert "without a drawing" in ui.fitLabel.text and "cannot use one" in ui.makesLabel.text
    assert visible(harness, "sizeWidget") and not visible(harness, "cropBox") and not visible(harness, "nearestBox")
    texts = items(ui.sizeBox)
    assert texts[0] == "model's own (512 x 512 x 128)" and "384 x 384 x 256" in texts and len(texts) == 7
    assert ui.acrossBox.text == "model's own (0.75)" and ui.sliceBox.text == "model's own (3)"
    pick(ui.sizeBox, "256x256x128")
    ui.acrossBox.value = 1.0
    assert (parameters.size, parameters.acrossMm, parameters.sliceMm) == ("256x256x128", 1.0, 0.0)
    pick(ui.modelSelector, "lung-nodule-ct")  # has none of this
    assert (parameters.mode, parameters.size, parameters.acrossMm) == ("whole", "", 0.0)
    assert not visible(harness, "unconditionalButton") and not visible(harness, "sizeWidget")
    pick(ui.modelSelector, "many-ct")
    assert parameters.mode == "whole"
    ui.unconditionalButton.click()
    assert parameters.mode == "unconditional"


def test_such_a_model_comes_after_those_that_can_use_what_is_drawn(harness):
    harness.parameters.segmentation = add_segmentation(harness.scene, {"liver": 5})
    harness.setModels(mr_model(), ct_model())
    assert items(harness.ui.modelSelector) == ["Many CT", "Some MR: works without a drawing"]
    harness.parameters.segmentation = None
    assert items(harness.ui.modelSelector) == ["Some MR", "Many CT"]


def test_the_segmentation_may_be_empty(running):
    generation, parameters = running.session.generation, running.parameters
    parameters.modelId, parameters.mode = "some-mr", "unconditional"
    assert generation.problem(parameters) == ""
    folder = generation.prepareQuestion(parameters)
    request = saved_request(folder)
    assert request["segmentation"] is None and request["labels"] is None and not request["adherence"]
    assert (request["mode"], request["size"], request["spacing_mm"]) == ("unconditional", None, None)
    assert request["case"] == "image" and not request["crop"]
    assert [path.name for path in folder.iterdir()] == ["request.json"]
    assert generation.prepareQuestion(parameters) == folder  # nothing has changed
    parameters.size, parameters.sliceMm, parameters.modality = "256x256x128", 1.5, "T2"
    request = saved_request(generation.prepareQuestion(parameters))
    assert (request["size"], request["spacing_mm"], request["modality"]) == ([256, 256, 128], [0.75, 0.75, 1.5], "T2")
    parameters.mode, parameters.modelId = "whole", "many-ct"
    assert generation.problem(parameters) == "Choose, load or draw a segmentation."


def test_a_drawing_that_is_there_is_neither_read_nor_named(running):
    parameters, generation = running.parameters, running.session.generation
    parameters.segmentation = add_segmentation(running.scene, {"liver": 0}, "DOE JOHN")
    parameters.modelId, parameters.mode, parameters.crop = "many-ct", "unconditional", True
    assert generation.problem(parameters) == ""
    folder = generation.prepareQuestion(parameters)
    assert "DOE" not in (folder / "request.json").read_text(encoding="utf-8")
    assert not list(folder.glob("*.nrrd"))


def test_its_result_is_loaded_and_made_again(running, standin, tmp_path):
    from SynthDiffusionJobs.Repeat import applySettings, obstacles

    parameters, session = running.parameters, running.session
    parameters.segmentation = add_segmentation(running.scene, {"liver": 4})
    parameters.modelId, parameters.mode = "some-mr", "unconditional"
    settings = provenance()["settings"] | {
        "mode": "unconditional",
        "sampler": "euler",
        "steps": 30,
        "crop": False,
        "size": [256, 256, 128],
        "spacing_mm": [1.0, 1.0, 2.5],
        "modality": "T2",
        "region": None,
        "condition_scale": None,
    }
    description = session.model.description
    record = provenance(
        7, "unconditional", settings=settings, case="image", mapping=None, version=description["version"]
    )
    record |= {"model": {"id": "some-mr", "version": description["version"]}, "adherence": None}
    del record["adherence"]
    session.engine.steps = [{"event": "done", "outputs": outputs(tmp_path, record)}]
    run = session.generation.start(parameters)
    standin.wait(lambda: run.ended, seconds=20, what="the run")
    assert run.state == "done", run.message
    (node,) = [running.scene.GetNodeByID(node) for node in run.context["nodes"]]
    assert node.GetName() == "image synthetic (some-mr, seed 7)"
    assert node.GetNodeReference("SynthDiffusion.Segmentation") is None
    # Again, when all has been changed, and no segmentation is there.
    running.scene.RemoveNode(parameters.segmentation)
    parameters.mode, parameters.modelId, parameters.size, parameters.modality = "whole", "many-ct", "nearest", ""
    parameters.caseName = "another"
    assert obstacles(node, session.engine) == [] and applySettings(parameters, node, session.engine) == []
    folder = session.generation.prepareQuestion(parameters)
    request = saved_request(folder)
    for name in ("mode", "sampler", "steps", "seed", "size", "spacing_mm", "modality"):
        assert request[name] == settings[name], name
    assert (request["segmentation"], request["case"], parameters.caseName) == (None, "image", "")


def test_the_section_segmentation_says_that_nothing_has_to_be_drawn(standin):
    from SynthDiffusionPanels.SegmentationPanel import SegmentationPanel

    harness = harness_with(standin, SegmentationPanel, ct_model())
    harness.parameters.modelId = "many-ct"
    harness.parameters.segmentation = add_segmentation(harness.scene, {"liver": 5})
    assert harness.ui.mappingTable.rowCount == 1
    harness.parameters.mode = "unconditional"
    assert "made without a drawing" in harness.ui.notesLabel.text and harness.ui.mappingTable.rowCount == 0
    harness.parameters.segmentation = None
    assert "made without a drawing" in harness.ui.notesLabel.text
    harness.close()


def test_it_can_be_generated_with_nothing_in_the_scene(standin):
    from SynthDiffusionPanels.GeneratePanel import GeneratePanel

    harness = harness_with(standin, GeneratePanel, mr_model())
    harness.session.engine.steps = [{"event": "error", "kind": "model", "message": "Stop", "hint": ""}, "exit 2"]
    harness.parameters.modelId, harness.parameters.mode = "some-mr", "unconditional"
    assert harness.ui.generateButton.enabled
    harness.ui.generateButton.click()
    (run,) = harness.session.queue.runs
    assert run.context["segmentation"] is None and saved_request(run.folder)["mode"] == "unconditional"
    standin.wait(lambda: run.ended, seconds=20, what="the run")
    assert run.message == "Stop" and harness.session.generation.sourcesOf(run) == (None, None)
    harness.close()
    harness.session.folders.removeAll()


# Sizes that the model does not make


def test_the_nearest_size_is_offered_taken_and_taken_back(standin):
    from SynthDiffusionPanels.GeneratePanel import GeneratePanel

    harness = harness_with(standin, GeneratePanel, ct_model())
    harness.parameters.modelId = "many-ct"
    harness.parameters.segmentation = add_segmentation(harness.scene, {"liver": 5})
    panel, button = harness.panel, harness.ui.nearestButton

    def answer(event):
        panel._estimate.drop()
        panel._onEstimate(event)
        return button.isVisibleTo(panel.widget)

    assert answer(REFUSED) and not harness.ui.generateButton.enabled
    assert "'Use the nearest size'" in harness.ui.estimateLabel.text and "--" not in harness.ui.estimateLabel.text
    assert "resampled" in button.toolTip
    assert not answer(REFUSED | {"hint": "Draw less."}) and not answer(REFUSED | {"kind": "model"})
    assert answer(REFUSED)
    button.click()
    assert harness.parameters.size == "nearest" and not button.isVisibleTo(panel.widget)
    folder = harness.session.generation.prepareQuestion(harness.parameters)
    assert saved_request(folder)["size"] == "nearest"
    assert not answer(REFUSED)  # it is set already
    harness.close()
    harness.session.folders.removeAll()


def test_the_nearest_size_is_a_box_of_models_with_limits(harness):
    parameters, ui = harness.parameters, harness.ui
    parameters.modelId = "many-ct"
    assert visible(harness, "nearestBox") and "resampled back" in ui.nearestBox.toolTip
    ui.nearestBox.click()
    assert parameters.size == "nearest"
    pick(ui.modelSelector, "lung-nodule-ct")
    assert parameters.size == "" and not visible(harness, "nearestBox")
    pick(ui.modelSelector, "many-ct")
    ui.nearestBox.click()
    ui.nearestBox.click()
    assert parameters.size == ""


# Controls


def test_controls_are_there_for_the_models_that_take_them(harness):
    ui, parameters = harness.ui, harness.parameters
    named = ("conditionBox", "regionTopBox", "regionBottomBox", "modalityBox")
    shown = {}
    for modelId in ("many-ct", "some-mr", "lung-nodule-ct"):
        pick(ui.modelSelector, modelId)
        shown[modelId] = [visible(harness, name) for name in named]
    # Of one kind of image there is no choice.
    assert shown == {
        "many-ct": [True, True, True, False],
        "some-mr": [False, False, False, True],
        "lung-nodule-ct": [False] * 4,
    }
    pick(ui.modelSelector, "many-ct")
    assert (ui.conditionBox.minimum, ui.conditionBox.maximum, ui.conditionBox.singleStep) == (0.0, 2.0, 0.1)
    ui.conditionBox.value = 1.3
    assert parameters.conditionScale == 1.3
    ui.unconditionalButton.click()
    assert not visible(harness, "conditionBox") and visible(harness, "regionTopBox")
    assert items(ui.regionTopBox) == ["automatic", "head", "chest", "abdomen"]
    pick(ui.regionTopBox, "chest")
    assert (parameters.regionTop, parameters.regionBottom) == ("chest", "chest")
    pick(ui.regionBottomBox, "abdomen")
    assert (parameters.regionTop, parameters.regionBottom) == ("chest", "abdomen")
    pick(ui.regionBottomBox, "")
    assert (parameters.regionTop, parameters.regionBottom) == ("", "")
    pick(ui.regionTopBox, "head")
    pick(ui.modelSelector, "some-mr")
    assert (parameters.regionTop, parameters.regionBottom) == ("", "")  # this one has no regions
    assert items(ui.modalityBox) == ["automatic (T1)", "T1", "T2"]
    pick(ui.modalityBox, "T2")
    assert parameters.modality == "T2"
    pick(ui.modelSelector, "many-ct")
    assert parameters.modality == ""


def test_controls_reach_the_request_of_models_that_take_them(running):
    parameters, generation = running.parameters, running.session.generation
    parameters.segmentation = add_segmentation(running.scene, {"liver": 5, "lung": 5})
    parameters.conditionScale, parameters.regionTop, parameters.regionBottom = 0.5, "head", "chest"
    parameters.modality, parameters.size = "CT", "nearest"
    requests = {}
    for modelId in ("many-ct", "lung-nodule-ct"):
        parameters.modelId = modelId
        requests[modelId] = generation.request(parameters, Path("/job"), {}, None, 1)
    many, plain = requests.values()
    assert (many.condition_scale, many.region, many.modality, many.size) == (0.5, ("head", "chest"), "CT", "nearest")
    assert (plain.condition_scale, plain.region, plain.modality, plain.size) == (None, None, None, None)
    parameters.modelId, parameters.regionTop = "many-ct", "pelvis"  # not one of its regions
    assert generation.request(parameters, Path("/job"), {}, None, 1).region is None


def test_controls_of_a_volume_are_put_back(running, tmp_path):
    from SynthDiffusionJobs.Repeat import applySettings

    parameters = running.parameters
    drawing = add_segmentation(running.scene, {"lung": 5, "tumour": 3})
    settings = provenance()["settings"] | {
        "sampler": "euler",
        "steps": 30,
        "size": "nearest",
        "condition_scale": 1.5,
        "region": ["chest", "abdomen"],
        "modality": "CT",
    }
    model = {"id": "many-ct", "version": shipped_model().description["version"]}
    (node,) = add_results(running, tmp_path, drawing, provenance(settings=settings, model=model))
    parameters.regionTop = parameters.regionBottom = "head"
    assert applySettings(parameters, node, running.session.engine) == []
    request = running.session.generation.request(parameters, Path("/job"), {}, None, 1)
    assert (request.condition_scale, request.region, request.modality) == (1.5, ("chest", "abdomen"), "CT")
    assert request.size == "nearest"


@pytest.mark.parametrize(
    ("entry", "value", "part"),
    [
        ("size", [256, 256, 128], "the size 256x256x128"),
        ("spacing_mm", [1.0, 1.0, 2.0], "1.0x1.0x2.0"),
        ("condition_scale", 4.0, "followed with 4"),
    ],
)
def test_what_only_the_command_line_can_ask_for_is_said(running, tmp_path, entry, value, part):
    from SynthDiffusionJobs.Repeat import applySettings

    drawing = add_segmentation(running.scene, {"lung": 5, "tumour": 3})
    settings = provenance()["settings"] | {entry: value}
    record = provenance(settings=settings, version=shipped_model().description["version"])
    (node,) = add_results(running, tmp_path, drawing, record)
    missing = applySettings(running.parameters, node, running.session.engine)
    assert len(missing) == 1 and part in missing[0] and "command line" in missing[0]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("size", "256x256", ""),
        ("size", "0x256x256", ""),
        ("size", "nearest", "nearest"),
        ("size", "512x512x768", "512x512x768"),
        ("regionTop", "head", ""),
        ("dicomLabel", "overlay", "overlay"),
    ],
)
def test_impossible_settings_of_a_scene_are_put_right(running, name, value, expected):
    from SynthDiffusionJobs.Parameters import makeValid

    setattr(running.parameters, name, value)
    makeValid(running.parameters)
    assert getattr(running.parameters, name) == expected


@pytest.mark.parametrize(("text", "expected"), [("-0.5", 0.0), ("7", 2.0)])
def test_a_strength_out_of_range_is_put_right(running, text, expected):
    from SynthDiffusionJobs.Parameters import makeValid

    running.parameters.parameterNode.SetParameter("conditionScale", text)
    makeValid(running.parameters)
    assert running.parameters.conditionScale == expected


def test_a_dicom_label_that_this_version_does_not_have_is_none(running):
    from SynthDiffusionJobs.Parameters import makeValid

    running.parameters.parameterNode.SetParameter("dicomLabel", "stamp")
    makeValid(running.parameters)
    assert running.parameters.dicomLabel == "none"


def test_refreshing_writes_nothing(harness):
    harness.parameters.modelId, harness.parameters.mode = "many-ct", "unconditional"
    harness.parameters.size, harness.parameters.acrossMm = "100x100x100", 1.234
    harness.parameters.conditionScale, harness.parameters.regionTop = 0.75, "elbow"
    writes = harness.writes
    for _ in range(3):
        harness.panel.refresh()
    assert harness.writes == writes
    assert harness.ui.sizeBox.currentText == "100 x 100 x 100"  # of a volume of the command line


def test_the_table_of_classes_is_quick_with_many_organs(standin):
    """132 classes for each of 60 segments."""
    import time

    from SynthDiffusionPanels.SegmentationPanel import SegmentationPanel

    harness = harness_with(standin, SegmentationPanel, ct_model())
    harness.parameters.modelId = "many-ct"
    began = time.monotonic()
    harness.parameters.segmentation = add_segmentation(harness.scene, {f"organ {n}": 2 for n in range(1, 61)})
    assert harness.ui.mappingTable.rowCount == 60
    assert time.monotonic() - began < 10
    harness.close()


@pytest.mark.parametrize("mode", ["whole", "unconditional"])
def test_the_panel_fits_its_width(harness, tmp_path, mode):
    harness.parameters.modelId, harness.parameters.mode = "many-ct", mode
    assert not any(widths(harness.panel, tmp_path, f"many_{mode}").values())
    harness.setModels(mr_model(controls={"modalities": {"FLAIR-skull-stripped": 1, "T2": 2}}))
    harness.parameters.modelId, harness.parameters.mode = "some-mr", "unconditional"
    assert not any(widths(harness.panel, tmp_path, "mr").values())
