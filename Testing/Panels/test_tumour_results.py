"""The mode "joint" in the panel: requests, what a run brings into the scene, and the result in words."""

from __future__ import annotations

import pytest
from job_fakes import obey
from joint_fakes import TUMOUR, joint_model, joint_outputs, joint_record
from panel_harness import Harness, add_segmentation, add_volume, shipped_model
from test_generation import NoPanel, saved_request
from test_tumour_settings import asked, shown


@pytest.fixture
def running(standin):
    made = Harness(standin.scene, NoPanel, [shipped_model(), joint_model()])
    obey(made.session.engine)
    made.parameters.modelId, made.parameters.mode = "limb-joint", "joint"
    yield made
    made.close()
    made.session.folders.removeAll()


def test_no_segmentation_is_needed_and_none_is_read(running):
    from SynthDiffusionLib.jobs.request import GenerateRequest

    generation, parameters = running.session.generation, running.parameters
    parameters.segmentation = add_segmentation(running.scene, {"liver": 0}, "DOE JOHN")
    parameters.crop, parameters.guidance = True, 3.0  # of another model
    assert generation.problem(parameters) == ""
    folder = generation.prepareQuestion(parameters)
    request = saved_request(folder)
    assert (request["mode"], request["segmentation"], request["tumour"], request["labels"]) == (
        "joint",
        None,
        None,
        None,
    )
    assert (request["guidance"], request["crop"], request["adherence"], request["case"]) == (
        None,
        False,
        False,
        "joint",
    )
    assert [path.name for path in folder.iterdir()] == ["request.json"]
    parameters.tumour = dict(TUMOUR["asked"])
    folder = generation.prepareQuestion(parameters)
    loaded = GenerateRequest.from_json(saved_request(folder))
    assert loaded.tumour == {"volume_mm3": 20000.0, "center": (10.0, -5.0, 0.0)}
    running.session.engine.models = (
        joint_model(files=[{"role": "segmenter", "path": "segmenter.safetensors"}]),
        shipped_model(),
    )
    assert saved_request(generation.prepareQuestion(parameters))["adherence"]
    parameters.mode, parameters.modelId = "whole", "lung-nodule-ct"
    parameters.segmentation = add_segmentation(running.scene, {"lung": 5, "nodule": 3})
    assert saved_request(generation.prepareQuestion(parameters))["tumour"] is None


def start(running, standin, folder, *records):
    running.session.engine.steps = [{"event": "done", "outputs": joint_outputs(folder, *records)}]
    run = running.session.generation.start(running.parameters)
    standin.wait(lambda: run.ended, seconds=20, what="the run")
    assert run.state == "done", run.message
    return [running.scene.GetNodeByID(node) for node in run.context["nodes"]]


def test_volume_and_segmentation_are_loaded_and_made_again(running, standin, tmp_path):
    from SynthDiffusionJobs.Repeat import applySettings, obstacles

    parameters, session = running.parameters, running.session
    parameters.tumour = dict(TUMOUR["asked"])
    (node,) = start(running, standin, tmp_path, joint_record())
    made = node.GetNodeReference("SynthDiffusion.MadeSegmentation")
    assert node.GetName() == "joint synthetic (limb-joint, seed 7)"
    assert made.GetName() == "joint synthetic (limb-joint, seed 7) segmentation"
    assert made.GetAttribute("SynthDiffusion.Synthetic") == "YES"
    drawing = add_segmentation(running.scene, {"lung": 4})
    parameters.tumour, parameters.mode, parameters.modelId = {"sphericity": 0.5}, "whole", "lung-nodule-ct"
    parameters.segmentation, parameters.caseName = drawing, "another"
    assert obstacles(node, session.engine) == [] and applySettings(parameters, node, session.engine) == []
    request = saved_request(session.generation.prepareQuestion(parameters))
    assert request["tumour"] == {"volume_mm3": 20000.0, "center": [10.0, -5.0, 0.0]}
    assert (request["mode"], request["seed"], request["steps"], request["case"]) == ("joint", 7, 50, "joint")
    assert parameters.caseName == "" and parameters.segmentation is drawing


def test_nothing_asked_is_nothing_asked_again(running, standin, tmp_path):
    from SynthDiffusionJobs.Repeat import applySettings

    record = joint_record()
    record["settings"]["tumour"] = record["settings"]["tumour"] | {"asked": {}}
    (node,) = start(running, standin, tmp_path, record)
    running.parameters.tumour = {"sphericity": 0.5}
    assert applySettings(running.parameters, node, running.session.engine) == [] and asked(running) == {}


def test_where_nothing_was_marked_the_volume_comes_alone(running, standin, tmp_path):
    nodes = start(running, standin, tmp_path, joint_record(7), joint_record(8, measured=None))
    roles = [node.GetNodeReference("SynthDiffusion.MadeSegmentation") for node in nodes]
    assert roles[0] is not None and roles[1] is None
    assert running.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


@pytest.fixture
def results(standin, running, tmp_path):
    """The section Results with three volumes of this mode, in the second of which nothing was marked."""
    from SynthDiffusionPanels.ResultsPanel import ResultsPanel

    nodes = start(running, standin, tmp_path, joint_record(7), joint_record(8, measured=None), joint_record(9))
    panel = ResultsPanel(running.session)
    panel.enter()
    yield panel, nodes
    panel.exit()
    panel.close()


def test_asked_and_made_are_shown_with_the_result(results, standin):
    panel, nodes = results
    assert panel.ui.tumourLabel.text == ""
    panel.select(nodes[0])
    text = panel.ui.tumourLabel.text.replace("&nbsp;", "")
    assert "<td align='left'>Size (ml)</td><td align='left'>20</td><td align='left'>18.3</td>" in text
    assert "<td align='left'>0.69 (by chance)</td><td align='left'>0.64</td>" in text
    assert "10 right, 5 back, 0" in text and "12.5 right, 3 back, 1.25 up" in text
    assert "36 x 30 x 45 (by chance)" in text and "34 x 30 x 50" in text
    panel.select(nodes[1])
    assert "marked nothing" in panel.ui.tumourLabel.text
    panel.ui.copyCommandButton.click()
    command = standin.app.clipboard().text()
    assert "--mode joint" in command and "--tumour" in command and "SEGMENTATION" not in command
    add_volume(panel._session.scene)
    panel.select(None)
    assert not shown(panel.ui.tumourLabel)


def test_the_segmentation_of_the_shown_volume_is_seen_and_no_other(results, standin):
    from SynthDiffusionScene.resultViews import showResult

    panel, nodes = results
    displays = [nodes[n].GetNodeReference("SynthDiffusion.MadeSegmentation").GetDisplayNode() for n in (0, 2)]
    assert [display.GetVisibility() for display in displays] == [0, 0]
    if showResult(panel._session.scene, nodes[2]):
        assert [display.GetVisibility() for display in displays] == [0, 1]
    panel.select(nodes[0])
    panel.ui.showButton.click()
    assert [display.GetVisibility() for display in displays] == [1, 0]


def test_removing_the_volume_removes_its_segmentation(results, running, standin):
    panel, nodes = results
    for node, left in zip(list(nodes), (1, 1, 0)):
        panel.select(node)
        standin.dialogs.answer("OK")
        panel.ui.deleteButton.click()
        assert running.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == left
    assert panel.ui.volumesTable.rowCount == 0


def test_a_measured_volume_of_elsewhere_is_no_trouble(slicer_python):
    from SynthDiffusionPanels.tumourTexts import resultText

    assert resultText({}) == resultText({"settings": {"tumour": None}}) == ""
    text = resultText(
        {"settings": {"tumour": {"asked": {}}}, "measured": joint_record()["measured"] | {"sphericity": None}}
    )
    assert "by chance" in text and "18.3" in text
