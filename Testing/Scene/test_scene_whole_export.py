"""The user's whole scene as a file: what is in it is read by plain Slicer calls, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from scene_examples import LUNG, SHAPE

pytest.importorskip("slicer")
nrrd = pytest.importorskip("nrrd")

import slicer  # noqa: E402
import slicer.util  # noqa: E402

from SynthDiffusionScene import hierarchy, sceneExport, volumes  # noqa: E402
from SynthDiffusionScene.errors import SceneError  # noqa: E402
from SynthDiffusionScene.preview import Preview  # noqa: E402

PROVENANCE = {"case": "case7", "model": {"id": "m"}, "settings": {"seed": 3, "mode": "whole"}, "note": "ä;:%\n<&>"}
PARAMETERS = {
    "SynthDiffusion.prompt": '{"seed": 3, "labels": {"Left lung": "lung", "heart; \'x\'": null}}',
    "quality": "balanced",
    "text": '50 % größer: a|b;c~d^e <f> & "g"',
}


@pytest.fixture
def modules(scene):
    """What Slicer's modules do to its scene: their logics register node classes and conversions."""
    singleton = slicer.vtkMRMLSelectionNode()
    singleton.SetSingletonTag("Singleton")
    scene.AddNode(singleton)
    logics = [slicer.vtkSlicerMarkupsLogic(), slicer.vtkSlicerSegmentationsModuleLogic()]
    for logic in logics:
        logic.SetMRMLScene(scene)
    return logics


@pytest.fixture
def full(scene, modules, add_volume, two_overlapping):
    """A scene as a user has it: images, drawings, markups, models, tables, texts, transforms, views, settings."""
    volume = add_volume(np.random.default_rng(2).integers(-1000, 400, SHAPE, np.int16), "CT: thorax/1")
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevel(1500, -600)
    synthetic = add_volume(
        np.random.default_rng(3).integers(-1000, 400, SHAPE, np.int16), "case7 synthetic (m, seed 3)"
    )
    volumes.markSynthetic(synthetic, PROVENANCE)
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.util.updateVolumeFromArray(labels, np.ones((3, 4, 5), np.uint8))
    labels.CreateDefaultDisplayNodes()
    photo = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    slicer.util.updateVolumeFromArray(photo, np.arange(180, dtype=np.uint8).reshape(3, 4, 5, 3))
    hierarchy.placeInSameStudy(scene, synthetic, two_overlapping[0], "case7")
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    volume.SetAndObserveTransformNodeID(transform.GetID())
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points")
    points.AddControlPoint([1.5, 2.5, 3.5])
    points.CreateDefaultDisplayNodes()
    scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "no points")
    import vtk

    sphere = vtk.vtkSphereSource()
    sphere.Update()
    model = scene.AddNewNodeByClass("vtkMRMLModelNode", "sphere")
    model.SetAndObservePolyData(sphere.GetOutput())
    model.CreateDefaultDisplayNodes()
    scene.AddNewNodeByClass("vtkMRMLModelNode", "no model")
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "results")
    table.AddColumn().InsertNextValue("12")
    scene.AddNewNodeByClass("vtkMRMLTextNode", "notes").SetText("some text")
    for name in ("Red", "Green"):
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLScene(scene)
        logic.AddSliceNode(name)
        logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
    settings = slicer.vtkMRMLScriptedModuleNode()
    settings.SetName("SynthDiffusion")
    settings.SetModuleName("SynthDiffusion")
    settings.SetSingletonTag("SynthDiffusion")
    settings = scene.AddNode(settings)
    for name, value in PARAMETERS.items():
        settings.SetParameter(name, value)
    settings.SetNodeReferenceID("segmentation", two_overlapping[0].GetID())
    settings.AddNodeReferenceID("realVolume", volume.GetID())
    settings.SetAttribute("SynthDiffusion.Note", "kept")
    return scene


READER = """
import json, sys, slicer, slicer.util
scene = slicer.vtkMRMLScene()
scene.RegisterNodeClass(slicer.vtkMRMLMarkupsJsonStorageNode())
scene.SetURL(slicer.vtkMRMLScene.UnpackSlicerDataBundle(sys.argv[1], sys.argv[2]))
assert scene.Connect()
nodes = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
named = {n.GetName(): n for n in nodes}
settings = named["SynthDiffusion"]
print(json.dumps({
    "names": [n.GetName() for n in nodes if n.IsA("vtkMRMLStorableNode")],
    "parameters": {name: settings.GetParameter(name) for name in settings.GetParameterNames()},
    "references": [settings.GetNodeReference(role).GetName() for role in ("segmentation", "realVolume")],
    "tag": settings.GetSingletonTag(), "note": settings.GetAttribute("SynthDiffusion.Note"),
    "provenance": named["case7 synthetic (m, seed 3)"].GetAttribute("SynthDiffusion.Provenance"),
    "window": named["CT: thorax/1"].GetDisplayNode().GetWindow(),
    "transform": named["CT: thorax/1"].GetParentTransformNode().GetName(),
    "sum": int(slicer.util.arrayFromVolume(named["CT: thorax/1"]).astype("int64").sum()),
    "point": list(named["points"].GetNthControlPointPosition(0)),
    "cells": named["sphere"].GetPolyData().GetNumberOfCells(), "text": named["notes"].GetText(),
    "cell": named["results"].GetCellText(0, 0),
    "views": [(n.GetLayoutName(), n.GetForegroundVolumeID(), n.GetForegroundOpacity(), scene.GetNodeByID(
        n.GetBackgroundVolumeID()).GetName()) for n in nodes if n.IsA("vtkMRMLSliceCompositeNode")],
}))
"""


def _read(path, folder) -> dict:
    folder.mkdir()
    command = [sys.executable, "-c", READER, str(path), str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


def test_everything_survives(full, tmp_path):
    path = tmp_path / "Größe und mehr.mrb"
    volume = full.GetFirstNodeByName("CT: thorax/1")
    before = slicer.util.arrayFromVolume(volume).copy()
    names = [full.GetNthNode(index).GetName() for index in range(full.GetNumberOfNodes())]
    url = full.GetURL()
    assert sceneExport.exportScene(full, path) == path
    found = _read(path, tmp_path / "unpacked")
    kept = {
        "CT: thorax/1",
        "labels",
        "photo",
        "drawing",
        "points",
        "no points",
        "sphere",
        "no model",
        "results",
        "notes",
    }
    assert kept < set(found["names"])
    assert found["parameters"] == PARAMETERS and found["references"] == ["drawing", "CT: thorax/1"]
    assert (found["tag"], found["note"]) == ("SynthDiffusion", "kept")
    assert json.loads(found["provenance"]) == PROVENANCE
    assert (found["window"], found["transform"], found["sum"]) == (1500, "registration", before.astype(np.int64).sum())
    assert (found["point"], found["text"], found["cell"]) == ([1.5, 2.5, 3.5], "some text", "12")
    assert found["cells"] > 0
    assert [view[3] for view in found["views"]] == ["CT: thorax/1"] * 2
    # The open scene is as it was, but for the storage nodes that any saving adds.
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), before)
    after = [full.GetNthNode(index) for index in range(full.GetNumberOfNodes())]
    assert [node.GetName() for node in after if not node.IsA("vtkMRMLStorageNode")] == names
    assert full.GetURL() == url and volume.GetParentTransformNode().GetName() == "registration"
    # And it can be saved again, over the file.
    sceneExport.exportScene(full, path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "unpacked"]


def test_preview_is_not_in_it_and_goes_on_being_shown(full, tmp_path):
    header = {"space": "left-posterior-superior", "space directions": np.eye(3), "space origin": (0, 0, 0)}
    nrrd.write(str(tmp_path / "p.nrrd"), np.zeros((4, 4, 4), np.int16), header)
    preview = Preview(full)
    preview.show(tmp_path / "p.nrrd")
    view = full.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    sceneExport.exportScene(full, tmp_path / "a.mrb", preview)
    assert (view.GetForegroundVolumeID(), view.GetForegroundOpacity()) == (preview.node.GetID(), 1.0)
    found = _read(tmp_path / "a.mrb", tmp_path / "unpacked")
    assert not [name for name in found["names"] if "preview" in name]
    assert [view[1:3] for view in found["views"]] == [[None, 0.0]] * 2  # as the user had it
    preview.remove()
    sceneExport.exportScene(full, tmp_path / "b.mrb", preview)
    # Without being told of it, the scene is saved without it all the same.
    preview.show(tmp_path / "p.nrrd")
    sceneExport.exportScene(full, tmp_path / "c.mrb")
    assert not [name for name in _read(tmp_path / "c.mrb", tmp_path / "c")["names"] if "preview" in name]


def _hollow_volume(scene, _):
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hollow")


def _hollow_labels(scene, _):
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "hollow")


def _no_segments(scene, _):
    scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "hollow")


def _empty_segments(_, add_segmentation):
    add_segmentation({"a": (np.zeros(SHAPE, bool), LUNG)}, "hollow", shape=SHAPE)


@pytest.mark.parametrize("add", [_hollow_volume, _hollow_labels, _no_segments, _empty_segments])
def test_empty_nodes_are_refused_by_name(full, add_segmentation, tmp_path, add):
    add(full, add_segmentation)
    with pytest.raises(SceneError, match="'hollow'") as caught:
        sceneExport.exportScene(full, tmp_path / "a.mrb")
    assert caught.value.hint and caught.value.exitCode == 2
    assert not list(tmp_path.iterdir())


def test_empty_node_that_is_not_saved_does_not_matter(full, tmp_path):
    _no_segments(full, None)
    full.GetFirstNodeByName("hollow").SetSaveWithScene(False)
    assert "hollow" not in _read(sceneExport.exportScene(full, tmp_path / "a.mrb"), tmp_path / "unpacked")["names"]


def test_surfaces_are_kept_although_their_label_maps_are_not(full, tmp_path, two_overlapping):
    segmentation = two_overlapping[0].GetSegmentation()
    assert segmentation.CreateRepresentation("Closed surface")
    segmentation.SetSourceRepresentationName("Closed surface")
    assert "drawing" in _read(sceneExport.exportScene(full, tmp_path / "a.mrb"), tmp_path / "unpacked")["names"]


@pytest.mark.parametrize(
    ("name", "message", "code"), [("a.zip", "does not end in .mrb", 2), ("no/a.mrb", "could not", 1)]
)
def test_path_that_cannot_be_written(full, tmp_path, name, message, code):
    with pytest.raises(SceneError, match=message) as caught:
        sceneExport.exportScene(full, tmp_path / name)
    assert caught.value.hint and caught.value.exitCode == code and not list(tmp_path.iterdir())


def test_a_segment_beside_the_grid_of_its_segmentation_has_a_mend(scene, add_segmentation, affine, tmp_path):
    """As after the reference geometry was changed without moving the segments: Slicer's writer samples them anew."""
    mask = np.zeros(SHAPE, bool)
    mask[3:9, 4:8, 2:6] = True
    node = add_segmentation({"lung": (mask, LUNG)}, shape=SHAPE)
    segment = node.GetSegmentation().GetNthSegment(0)
    affine[:3, 3] += affine[:3, :3] @ (0.4, 0.3, 0.2)
    segment.GetRepresentation("Binary labelmap").SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(affine))
    with pytest.raises(SceneError, match="(voxels|geometry) of segment 1 'lung'") as caught:
        sceneExport.exportScene(scene, tmp_path / "a.mrb")
    assert "Specify geometry" in caught.value.hint and "Save Data" not in caught.value.hint
    assert not list(tmp_path.iterdir())
    # The mend, as the Segment Editor does it.
    from SynthDiffusionScene import segmentations

    grid = slicer.vtkOrientedImageData()
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(
        node.GetSegmentation().GetConversionParameter(segmentations._gridParameter()), grid
    )
    moved = slicer.vtkOrientedImageData()
    labelmap = segment.GetRepresentation("Binary labelmap")
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(labelmap, grid, moved)
    labelmap.DeepCopy(moved)
    sceneExport.exportScene(scene, tmp_path / "a.mrb")


def _lose_a_voxel(scene):
    slicer.util.arrayFromVolume(scene.GetFirstNodeByName("case7 synthetic (m, seed 3)"))[3, 2, 1] += 1


def _lose_a_parameter(scene):
    scene.GetFirstNodeByName("SynthDiffusion").SetParameter("quality", "best")


def _lose_a_reference(scene):
    scene.GetFirstNodeByName("SynthDiffusion").RemoveNodeReferenceIDs("segmentation")


def _lose_a_point(scene):
    scene.GetFirstNodeByName("points").RemoveNthControlPoint(0)


def _lose_a_table(scene):
    scene.RemoveNode(scene.GetFirstNodeByName("results"))


def _lose_a_segment(scene):
    scene.GetFirstNodeByName("drawing").GetSegmentation().GetNthSegment(0).SetName("another")


@pytest.mark.parametrize(
    ("lose", "what"),
    [
        (_lose_a_voxel, "voxels of volume 2"),
        (_lose_a_parameter, "SynthDiffusion"),
        (_lose_a_reference, "SynthDiffusion"),
        (_lose_a_point, "points"),
        (_lose_a_table, "results"),
        (_lose_a_segment, "drawing"),
    ],
)
def test_file_that_lost_something_does_not_get_the_name(full, tmp_path, monkeypatch, lose, what):
    honest = sceneExport.writeBundle

    def lossy(scene, path):
        lose(scene)
        honest(scene, path)

    monkeypatch.setattr(sceneExport, "writeBundle", lossy)
    (tmp_path / "a.mrb").write_bytes(b"the file of yesterday")
    with pytest.raises(SceneError, match=f"differs from the one that is open: .*{what}") as caught:
        sceneExport.exportScene(full, tmp_path / "a.mrb")
    assert caught.value.exitCode == 1
    assert (tmp_path / "a.mrb").read_bytes() == b"the file of yesterday"
