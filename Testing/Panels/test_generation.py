"""From the parameters to a job's folder and back: why nothing can be run, requests, inputs as files, and results."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from job_fakes import obey, outputs, provenance
from panel_harness import MODEL_ID, Harness, add_segmentation, add_volume, shipped_model

DRAWN = {"lung": 20, "tumour": 4, "stomach": 5}


class NoPanel:
    """Stands where a panel would be."""

    def __init__(self, session) -> None:
        self.ui = self.widget = None

    def enter(self) -> None: ...

    exit = close = refresh = enter


@pytest.fixture
def harness(standin):
    made = Harness(standin.scene, NoPanel, [shipped_model()])
    obey(made.session.engine)
    made.parameters.modelId = MODEL_ID
    made.parameters.segmentation = add_segmentation(made.scene, DRAWN)
    yield made
    made.close()
    made.session.folders.removeAll()


@pytest.fixture
def generation(harness):
    return harness.session.generation


def saved_request(folder: Path) -> dict:
    return json.loads((folder / "request.json").read_text(encoding="utf-8"))


# Why nothing can be run


def test_problems_in_the_order_in_which_they_are_to_be_mended(harness, generation):
    from SynthDiffusionJobs.Engine import EngineStatus, ModelInfo

    parameters, engine = harness.parameters, harness.session.engine
    assert generation.problem(parameters) == ""
    parameters.device = "cuda:5"
    assert "'cuda:5' is not there" in generation.problem(parameters)
    parameters.mode = "inpaint"
    assert generation.problem(parameters) == "Choose the real volume to draw into."
    parameters.classes = {"Segment_1": "", "Segment_2": ""}
    assert "No segment goes to a class" in generation.problem(parameters)
    parameters.classes = {"Segment_1": "", "Segment_2": "", "Segment_3": "bone"}
    assert generation.problem(parameters) == "Choose the real volume to draw into."
    engine.models = (shipped_model(modes=["whole"]),)
    assert "cannot do this" in generation.problem(parameters)
    engine.models = (ModelInfo(MODEL_ID, "user", "/x", "the checksum is wrong", {}),)
    assert "the checksum is wrong" in generation.problem(parameters)
    engine.models = ()
    assert generation.problem(parameters) == "Choose a model."
    parameters.segmentation = None
    assert "segmentation" in generation.problem(parameters)
    engine.status = EngineStatus(state="missing")
    assert generation.problem(parameters) == "The set-up is not complete."
    for state in ("unknown", "checking"):
        engine.status = EngineStatus(state=state)
        assert generation.problem(parameters) == "The set-up is being checked."


def test_an_empty_segmentation_is_a_problem_until_something_is_drawn(harness, generation):
    harness.parameters.segmentation = node = add_segmentation(harness.scene, {"lung": 0})
    assert "is empty" in generation.problem(harness.parameters)
    source = add_segmentation(harness.scene, {"lung": 8}, "other")
    node.GetSegmentation().RemoveSegment("Segment_1")
    node.GetSegmentation().CopySegmentFromSegmentation(source.GetSegmentation(), "Segment_1")
    assert generation.problem(harness.parameters) == ""


def test_voxels_are_counted_only_when_something_was_drawn(harness, generation, monkeypatch):
    from SynthDiffusionScene import drawing

    counted = []
    count = drawing.segmentDescriptions
    monkeypatch.setattr(drawing, "segmentDescriptions", lambda node: counted.append(node) or count(node))
    for _ in range(5):
        generation.problem(harness.parameters)
        harness.parameters.samples += 1
    assert len(counted) <= 1
    harness.parameters.segmentation.GetSegmentation().GetNthSegment(0).SetName("bone")
    assert generation.mapping(harness.parameters)[0].target == "bone"


# Requests


def test_the_mapping_is_the_request_s_labels(harness, generation):
    harness.parameters.classes = {"Segment_3": "bone"}
    names = {"Segment_1": "lung", "Segment_2": "tumour", "Segment_3": "stomach"}
    request = generation.request(harness.parameters, Path("/job"), names, None, 5)
    assert request.labels == {"lung": "lung", "tumour": "nodule", "stomach": "bone"}
    harness.parameters.classes = {"Segment_1": ""}
    assert generation.request(harness.parameters, Path("/job"), names, None, 5).labels["lung"] is None


def test_a_request_has_every_parameter(harness, generation):
    from SynthDiffusionLib.sampling.quality import quality_settings

    parameters = harness.parameters
    for name, value in {
        "mode": "inpaint",
        "quality": "fast",
        "samples": 3,
        "guidance": 2.5,
        "marginMm": 7.5,
        "crop": True,
        "device": "cuda:0",
        "precision": "fp32",
        "memoryLimitGiB": 1.5,
        "caseName": " knot ",
    }.items():
        setattr(parameters, name, value)
    request = generation.request(parameters, Path("/job"), {}, Path("/job/real.nrrd"), 41)
    description = harness.session.model.description
    assert (request.sampler, request.steps) == quality_settings("fast", description["sampling"], 1000)
    assert (request.mode, request.image, request.out) == ("inpaint", Path("/job/real.nrrd"), Path("/job/results"))
    assert (request.seed, request.samples, request.guidance, request.margin_mm) == (41, 3, 2.5, 7.5)
    assert (request.device, request.precision, request.vram_limit) == ("cuda:0", "fp32", 3 << 29)
    assert request.case == "knot" and request.format == "nrrd" and request.model == MODEL_ID
    assert not request.crop  # belongs to the other mode
    assert request.adherence  # the shipped model has a segmenter
    parameters.mode = "whole"
    request = generation.request(parameters, Path("/job"), {}, None, 41)
    assert request.crop and request.margin_mm is None
    parameters.guidance = parameters.memoryLimitGiB = 0.0
    request = generation.request(parameters, Path("/job"), {}, None, 41)
    assert request.guidance is None and request.vram_limit is None


def test_own_sampling_replaces_the_quality(harness, generation):
    parameters, model = harness.parameters, harness.session.model
    parameters.customSampling, parameters.sampler, parameters.steps = True, "ddim", 11
    assert generation.sampling(parameters, model) == ("ddim", 11)
    parameters.sampler, parameters.steps = "", 0
    sampling = model.description["sampling"]
    assert generation.sampling(parameters, model) == (sampling["default_sampler"], sampling["default_steps"])


def test_a_model_of_the_user_is_given_by_its_folder_and_one_without_segmenter_measures_nothing(harness, generation):
    files = [file for file in shipped_model().description["files"] if file["role"] != "segmenter"]
    harness.session.engine.models = (replace(shipped_model(files=files), origin="user", folder="/models/mine"),)
    request = generation.request(harness.parameters, Path("/job"), {}, None, 1)
    assert request.model == "/models/mine" and not request.adherence


def test_a_segmentation_from_dicom_lends_no_name(harness, generation):
    from SynthDiffusionScene.hierarchy import ensureStudy, subjectHierarchy

    parameters = harness.parameters
    assert generation.caseName(parameters) == "drawing"
    parameters.segmentation.SetName("DOE^JOHN segmentation")
    study = ensureStudy(harness.scene, parameters.segmentation, "x")
    assert generation.caseName(parameters) == "DOE^JOHN segmentation"  # the user's own name: not from DICOM
    subjectHierarchy(harness.scene).SetItemUID(study, "DICOM", "1.2.3")
    assert generation.caseName(parameters) == "case"
    parameters.caseName = "knot 1"
    assert generation.caseName(parameters) == "knot 1"
    folder = generation.prepareQuestion(parameters)
    assert "DOE" not in (folder / "request.json").read_text(encoding="utf-8")


# Inputs as files


def test_inputs_are_written_anew_only_when_they_have_changed(harness, generation):
    parameters = harness.parameters
    folder = generation.prepareQuestion(parameters)
    written = (folder / "segmentation.seg.nrrd").stat().st_mtime_ns
    parameters.guidance = 3.0
    assert generation.prepareQuestion(parameters) == folder
    assert (folder / "segmentation.seg.nrrd").stat().st_mtime_ns == written
    assert saved_request(folder)["guidance"] == 3.0
    parameters.segmentation.GetSegmentation().GetNthSegment(0).SetName("left lung")
    again = generation.prepareQuestion(parameters)
    assert again != folder and not folder.exists()
    assert saved_request(again)["labels"]["left lung"] == "lung"


def test_a_real_volume_is_not_written_again_at_every_stroke(harness, generation, monkeypatch):
    from SynthDiffusionScene import volumeFiles

    written = []
    write = volumeFiles.writeVolume
    monkeypatch.setattr(volumeFiles, "writeVolume", lambda node, *more: written.append(node) or write(node, *more))
    parameters = harness.parameters
    parameters.mode, parameters.realVolume = "inpaint", add_volume(harness.scene, shape=(40, 40, 40))
    first = generation.prepareQuestion(parameters)
    content = (first / "real.nrrd").read_bytes()
    for number in range(3):
        parameters.segmentation.GetSegmentation().GetNthSegment(0).SetName(f"lung {number}")
        folder = generation.prepareQuestion(parameters)
    assert len(written) == 1 and (folder / "real.nrrd").read_bytes() == content
    assert saved_request(folder)["image"] == str(folder / "real.nrrd")
    import slicer.util

    slicer.util.updateVolumeFromArray(parameters.realVolume, np.zeros((40, 40, 40), np.int16))
    folder = generation.prepareQuestion(parameters)
    assert len(written) == 2 and (folder / "real.nrrd").read_bytes() != content
    parameters.mode = "whole"
    assert not (generation.prepareQuestion(parameters) / "real.nrrd").exists()


def test_a_real_volume_under_another_transform_is_refused_also_the_second_time(harness, generation):
    from SynthDiffusionScene.errors import SceneError

    parameters = harness.parameters
    parameters.mode, parameters.realVolume = "inpaint", add_volume(harness.scene)
    generation.prepareQuestion(parameters)
    transform = harness.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    parameters.realVolume.SetAndObserveTransformNodeID(transform.GetID())
    generation.prepareQuestion(parameters)  # the identity: still at the same place
    import slicer.util

    moved = np.eye(4)
    moved[0, 3] = 5
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(moved))
    for _ in range(2):
        with pytest.raises(SceneError, match="different transforms"):
            generation.prepareQuestion(parameters)
    assert [path.name for path in harness.session.folders._session.iterdir()] == []


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_a_job_keeps_its_inputs_whatever_happens_to_the_scene(harness, generation, standin, monkeypatch, links):
    if not links:

        def refuse(source, target):
            raise OSError("no links here")

        monkeypatch.setattr(os, "link", refuse)
    harness.session.engine.steps = [20]
    parameters = harness.parameters
    parameters.fixedSeed, parameters.seed = True, 11
    run = generation.start(parameters)
    assert (run.folder / "segmentation.seg.nrrd").stat().st_nlink == (2 if links else 1)
    content = (run.folder / "segmentation.seg.nrrd").read_bytes()
    parameters.segmentation.GetSegmentation().RemoveSegment("Segment_2")
    parameters.seed = 12
    second = generation.start(parameters)
    assert (run.folder / "segmentation.seg.nrrd").read_bytes() == content
    assert (second.folder / "segmentation.seg.nrrd").read_bytes() != content
    assert (saved_request(run.folder)["seed"], saved_request(second.folder)["seed"]) == (11, 12)
    assert saved_request(run.folder)["segmentation"] == str(run.folder / "segmentation.seg.nrrd")


def test_seeds(harness, generation):
    parameters = harness.parameters
    harness.session.engine.steps = [20]
    parameters.fixedSeed, parameters.seed, parameters.samples = True, 5, 3
    run = generation.start(parameters)
    assert run.title == f"{MODEL_ID}, seeds 5 to 7" and run.context["samples"] == 3
    parameters.fixedSeed, parameters.samples = False, 1
    drawn = {generation.start(parameters).context["seed"] for _ in range(3)}
    assert len(drawn) == 3 and all(0 <= seed < 2**31 for seed in drawn)
    from SynthDiffusionJobs.Parameters import LARGEST_SEED, MOST_SAMPLES

    parameters.fixedSeed, parameters.seed, parameters.samples = True, LARGEST_SEED, MOST_SAMPLES
    generation.start(parameters)  # the engine takes them


def test_a_job_that_cannot_be_written_leaves_no_folder(harness, generation, monkeypatch):
    generation.prepareQuestion(harness.parameters)
    before = set(harness.session.folders._session.iterdir())
    from SynthDiffusionLib.jobs.request import GenerateRequest

    def full(self, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GenerateRequest, "save", full)
    with pytest.raises(OSError, match="No space"):
        generation.start(harness.parameters)
    assert set(harness.session.folders._session.iterdir()) == before
    assert harness.session.queue.runs == []


# Results


def done(harness, standin, folder: Path, *records: dict):
    """A run whose worker says that it has made these."""
    harness.session.engine.steps = [{"event": "done", "outputs": outputs(folder, *records)}]
    run = harness.session.generation.start(harness.parameters)
    standin.wait(lambda: run.ended, seconds=20, what="the run")
    return run


def test_results_are_loaded_and_the_copies_of_the_inputs_go(harness, standin, tmp_path):
    run = done(harness, standin, tmp_path, provenance(7), provenance(8))
    assert run.state == "done", run.message
    nodes = [harness.scene.GetNodeByID(node) for node in run.context["nodes"]]
    assert [node.GetAttribute("SynthDiffusion.Seed") for node in nodes] == ["7", "8"]
    assert nodes[0].GetNodeReference("SynthDiffusion.Segmentation") is harness.parameters.segmentation
    left = {path.name for path in run.folder.iterdir()}
    assert "request.json" in left and not {"results", "previews", "segmentation.seg.nrrd"} & left


def test_results_remember_what_was_written_not_what_is_there_when_they_come(harness, standin, tmp_path):
    import slicer.util

    from SynthDiffusionScene.digests import (
        DRAWING_DIGEST,
        REAL_VOLUME_DIGEST,
        drawingChanged,
        realVolumeChanged,
        segmentationDigest,
        volumeDigest,
        voxelsChanged,
    )

    parameters, generation = harness.parameters, harness.session.generation
    parameters.mode, parameters.realVolume = "inpaint", add_volume(harness.scene, shape=(40, 40, 40))
    written = {
        DRAWING_DIGEST: segmentationDigest(parameters.segmentation),
        REAL_VOLUME_DIGEST: volumeDigest(parameters.realVolume),
    }
    made = outputs(tmp_path, provenance(7, "inpaint"))
    harness.session.engine.steps = [1.0, {"event": "done", "outputs": made}]
    run = generation.start(parameters)
    parameters.segmentation.GetSegmentation().RemoveSegment("Segment_2")
    slicer.util.arrayFromVolume(parameters.realVolume)[1, 2, 3] += 5
    second = generation.start(parameters)
    standin.wait(lambda: run.ended and second.ended, seconds=20, what="the runs")
    node = harness.scene.GetNodeByID(run.context["nodes"][0])
    assert {name: node.GetAttribute(name) for name in written} == written
    assert drawingChanged(node, parameters.segmentation) and realVolumeChanged(node, parameters.realVolume)
    other = harness.scene.GetNodeByID(second.context["nodes"][0])
    assert not drawingChanged(other, parameters.segmentation)
    # Nobody has said that the volume was changed, so the file that the second run got holds it as it was.
    assert other.GetAttribute(REAL_VOLUME_DIGEST) == written[REAL_VOLUME_DIGEST]
    assert not voxelsChanged(node)
    slicer.util.arrayFromVolume(node)[0, 0, 0] += 1
    assert voxelsChanged(node) and not voxelsChanged(other)


def test_a_source_that_is_gone_meanwhile_does_not_matter(harness, standin, tmp_path):
    parameters = harness.parameters
    parameters.mode, parameters.realVolume = "inpaint", add_volume(harness.scene, shape=(40, 40, 40))
    record = provenance(7, "inpaint")
    made = outputs(tmp_path, record)
    harness.session.engine.steps = [1.0, {"event": "done", "outputs": made}]
    run = harness.session.generation.start(parameters)
    assert all(harness.session.generation.sourcesOf(run))
    harness.scene.RemoveNode(parameters.realVolume)
    harness.scene.RemoveNode(parameters.segmentation)
    assert harness.session.generation.sourcesOf(run) == (None, None)
    standin.wait(lambda: run.ended, seconds=20, what="the run")
    assert run.state == "done", run.message


@pytest.mark.parametrize("damage", ["missing", "cut", "no record", "no outputs"])
def test_results_that_cannot_be_loaded_leave_nothing(harness, standin, tmp_path, damage):
    made = outputs(tmp_path, provenance(7), provenance(8))
    last = Path(made[1]["volume"])
    if damage == "missing":
        last.unlink()
    elif damage == "cut":
        last.write_bytes(last.read_bytes()[:200])
    elif damage == "no record":
        Path(made[1]["provenance"]).write_text("{", encoding="utf-8")
    event = {"event": "done"} if damage == "no outputs" else {"event": "done", "outputs": made}
    harness.session.engine.steps = [event]
    # What is in the scene for good, whatever happens: the hierarchy.
    from SynthDiffusionScene.hierarchy import subjectHierarchy

    subjectHierarchy(harness.scene)
    before = harness.scene.GetNumberOfNodes()
    run = harness.session.generation.start(harness.parameters)
    standin.wait(lambda: run.ended, seconds=20, what="the run")
    assert (run.state, run.kind) == ("failed", "internal") and run.message
    assert harness.scene.GetNumberOfNodes() == before
    assert (run.folder / "segmentation.seg.nrrd").is_file()  # so that it can be run again
    assert harness.session.queue.current is None


def test_closing_the_scene_forgets_runs_and_inputs(harness, generation, standin):
    harness.session.engine.steps = [{"event": "progress", "stage": "denoise", "step": 1, "total": 9}, 30]
    runs = [generation.start(harness.parameters) for _ in range(2)]
    standin.wait(lambda: runs[0].step == 1, seconds=20, what="progress")
    harness.closeScene()
    assert harness.session.queue.runs == []
    assert list(harness.session.folders._session.iterdir()) == []
    assert [run.state for run in runs] == ["cancelled", "cancelled"]
