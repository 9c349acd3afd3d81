"""Runs in the scene: loaded from the engine's files, listed, renamed and deleted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scene_examples import SHAPE

pytest.importorskip("slicer")
nibabel = pytest.importorskip("nibabel")


from SynthDiffusionLib import cli  # noqa: E402
from SynthDiffusionLib.jobs.command_line import command_line  # noqa: E402
from SynthDiffusionLib.jobs.request import GenerateRequest  # noqa: E402
from SynthDiffusionScene import bundle, hierarchy, runs, segmentations  # noqa: E402
from SynthDiffusionScene.errors import SceneError  # noqa: E402
from SynthDiffusionScene.preview import Preview  # noqa: E402


@pytest.fixture
def segmentation(two_overlapping):
    return two_overlapping[0]


@pytest.fixture
def outputs(tmp_path, affine, add_segmentation, scene):
    """Makes files as the engine does: `outputs([5, 6], inpaint=True)`; the entries of its `done` event."""

    def make(seeds, inpaint: bool = False, **changes) -> list[dict]:
        entries = []
        for seed in seeds:
            stem = f"case7_m_seed{seed}" + ("_inpainted" if inpaint else "")
            entry = {"seed": seed, "volume": str(tmp_path / f"{stem}.nii.gz")}
            voxels = np.random.default_rng(seed).integers(-1000, 400, SHAPE, np.int16)
            nibabel.save(nibabel.Nifti1Image(voxels, affine), entry["volume"])
            record = {
                "case": "case7",
                "contains_real_patient_pixels": inpaint,
                "model": {"id": "lung-nodule-ct", "version": "1.2.0"},
                "mapping": {
                    "segments": [
                        {"name": "Left", "value": 1, "layer": 0, "class": "lung", "how": "code", "voxels": 9},
                        {"name": "heart", "value": 2, "layer": 0, "class": None, "how": "explicit", "voxels": 9},
                        {"name": "Bones", "value": 3, "layer": 0, "class": None, "how": "name", "voxels": 9}
                        | {"unused": "bone"},
                        {"name": "other", "value": 4, "layer": 0, "class": None, "how": None, "voxels": 9},
                        {"name": "empty", "value": 5, "layer": 0, "class": "nodule", "how": "name", "voxels": 0},
                    ]
                },
                "given_classes": ["lung"],
                "settings": {"mode": "inpaint" if inpaint else "whole", "sampler": "dpmpp-2m", "steps": 20}
                | {"seed": seed, "guidance": 1.5}
                | ({"inpaint_method": "conditioned", "margin_mm": 3.0} if inpaint else {}),
                "plan": {"device": "cuda:0", "precision": "fp32", "strategy": "whole"},
                "output_sha256": hashlib.sha256((tmp_path / f"{stem}.nii.gz").read_bytes()).hexdigest(),
            } | changes
            entry["provenance"] = str(tmp_path / f"{stem}.json")
            (tmp_path / f"{stem}.json").write_text(json.dumps(record), encoding="utf-8")
            entry["contact_sheet"] = str(tmp_path / f"{stem}.png")
            if inpaint:
                mask = np.zeros(SHAPE, bool)
                mask[4:9, 3:12, 2:7] = True
                region = add_segmentation({"synthetic region": (mask, "")}, shape=SHAPE)
                entry["region"] = str(tmp_path / f"{stem}_region.seg.nrrd")
                segmentations.exportSegmentation(region, entry["region"])
                scene.RemoveNode(region)
            entries.append(entry)
        return entries

    return make


def _content(scene) -> tuple:
    """Nodes of the scene and items of its subject hierarchy, by class and name."""
    tree = hierarchy.subjectHierarchy(scene)
    nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    return sorted((node.GetClassName(), node.GetID(), node.GetName()) for node in nodes), tree.GetNumberOfItems()


def _parents(scene, node) -> list[str]:
    """Names of the items above a node, from the nearest to the root."""
    tree, names = hierarchy.subjectHierarchy(scene), []
    item = tree.GetItemParent(tree.GetItemByDataNode(node))
    while item != tree.GetSceneItemID():
        names.append(tree.GetItemName(item))
        item = tree.GetItemParent(item)
    return names


def test_run_is_a_folder_in_the_segmentations_study(scene, outputs, segmentation):
    tree = hierarchy.subjectHierarchy(scene)
    study = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "anonymous 7"), "CT thorax")
    tree.SetItemParent(hierarchy.itemOfNode(scene, segmentation), study)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    first = runs.addRun(scene, outputs([5, 6, 7]), segmentation, seconds=12.34)
    second = runs.addRun(scene, outputs([5]), segmentation, "my run")
    assert [node.GetName() for node in first + second] == [
        "case7 synthetic (lung-nodule-ct, seed 5)",
        "case7 synthetic (lung-nodule-ct, seed 6)",
        "case7 synthetic (lung-nodule-ct, seed 7)",
        "case7 synthetic (lung-nodule-ct, seed 5) (2)",
    ]
    for node in first:
        assert _parents(scene, node) == ["Run 1: lung-nodule-ct, seeds 5 to 7", "CT thorax", "anonymous 7"]
        assert node.GetAttribute("SynthDiffusion.Run") == "1" and node.GetAttribute("SynthDiffusion.Seconds") == "12.3"
        assert node.GetParentTransformNode() is transform
        assert node.GetNodeReference(runs.SEGMENTATION_ROLE) is segmentation
        assert node.GetStorageNode() is None  # the files go away
    assert _parents(scene, second[0]) == ["my run", "CT thorax", "anonymous 7"]
    assert _parents(scene, segmentation) == ["CT thorax", "anonymous 7"]


@pytest.mark.parametrize(
    ("seeds", "text"),
    [([4], "seed 4"), ([9, 10], "seeds 9 to 10"), ([9, 3], "seeds 9, 3"), ([9, 3, 5, 1, 7], "5 seeds")],
)
def test_title_names_the_seeds(scene, outputs, segmentation, seeds, text):
    [node, *_] = runs.addRun(scene, outputs(seeds), segmentation)
    assert _parents(scene, node)[0] == f"Run 1: lung-nodule-ct, {text}"


def test_inpainted_volume_comes_with_the_outline_of_its_region(scene, outputs, segmentation, add_volume):
    real = add_volume(np.zeros(SHAPE, np.int16), "CT")
    [node] = runs.addRun(scene, outputs([5], inpaint=True), segmentation, realVolumeNode=real)
    region = node.GetNodeReference(runs.REGION_ROLE)
    assert region.GetName() == "case7 inpainted (lung-nodule-ct, seed 5) region"
    assert node.GetAttribute("SynthDiffusion.ContainsRealPatientPixels") == "YES"
    assert node.GetNodeReference(runs.REAL_VOLUME_ROLE) is real
    display = region.GetDisplayNode()
    assert display.GetVisibility() and display.GetVisibility2DOutline() and not display.GetVisibility2DFill()
    assert not display.GetVisibility3D() and region.GetStorageNode() is None
    assert _parents(scene, region) == _parents(scene, node)
    assert runs.runsOf(scene)[0].mode == "inpaint"


def test_table_is_read_from_the_scene_alone_also_when_reopened(scene, outputs, segmentation, tmp_path):
    measured = {"class": "nodule", "dice": 0.7149, "real_dice": None}
    runs.addRun(scene, outputs([5], adherence=measured), segmentation, seconds=3)
    runs.addRun(scene, outputs([8], adherence=None, adherence_note="no segmenter"), segmentation)
    runs.addRun(scene, outputs([9, 10], inpaint=True), segmentation, "third", seconds=100.06)
    runs.addRun(scene, outputs([11], adherence=measured | {"structures": 2, "found": 1}), segmentation)
    runs.addRun(scene, outputs([12], adherence=measured | {"structures": 2, "found": 2}), segmentation)
    preview = Preview(scene)
    preview.show(outputs([1])[0]["volume"])
    rows = runs.runsOf(scene)
    assert [(row.run, row.seed, row.seconds, row.adherence, row.adherenceNote) for row in rows] == [
        ("1", "5", 3.0, "0.71", ""),
        ("2", "8", None, "", "no segmenter"),
        ("3", "9", 100.1, "", ""),
        ("3", "10", 100.1, "", ""),
        ("4", "11", None, "0.71, 1 of 2 found", ""),
        ("5", "12", None, "0.71", ""),
    ]
    assert [row.title for row in rows][2:4] == ["third", "third"]
    assert {row.model for row in rows} == {"lung-nodule-ct"} and [row.mode for row in rows][1:3] == ["whole", "inpaint"]

    bundle.writeBundle(scene, tmp_path / "scene.mrb")
    opened = bundle.readBundle(tmp_path / "scene.mrb", tmp_path / "unpacked")

    def facts(row):
        return (row.run, row.title, row.name, row.model, row.seed, row.mode, row.seconds, row.adherence)

    again = runs.runsOf(opened)
    assert [facts(row) for row in again] == [facts(row) for row in rows]
    assert again[3].node.GetNodeReference(runs.REGION_ROLE).GetName() == f"{rows[3].name} region"
    assert again[0].node.GetNodeReference(runs.SEGMENTATION_ROLE).GetName() == segmentation.GetName()
    # The reopened scene goes on where the saved one was.
    [node] = runs.addRun(opened, outputs([5]), None)
    assert node.GetAttribute("SynthDiffusion.Run") == "6"
    for row in again:
        runs.deleteVolume(opened, row.node)
    assert [row.run for row in runs.runsOf(opened)] == ["6"]
    assert "third" not in _names_of_items(opened)


def _names_of_items(scene) -> list[str]:
    import vtk

    tree, ids = hierarchy.subjectHierarchy(scene), vtk.vtkIdList()
    tree.GetItemChildren(tree.GetSceneItemID(), ids, True)
    return [tree.GetItemName(ids.GetId(index)) for index in range(ids.GetNumberOfIds())]


@pytest.mark.parametrize("withSegmentation", [True, False])
@pytest.mark.parametrize("inpaint", [True, False])
def test_twenty_runs_leave_nothing_behind(scene, outputs, segmentation, inpaint, withSegmentation):
    source = segmentation if withSegmentation else None
    entries = outputs([5, 6], inpaint=inpaint)
    keep = runs.addRun(scene, outputs([9]), segmentation)[0] if withSegmentation else None
    hierarchy.itemOfNode(scene, segmentation)
    before = _content(scene)
    for _ in range(20):
        nodes = runs.addRun(scene, entries, source)
        assert len(runs.runsOf(scene)) == 2 + bool(keep)
        runs.deleteVolume(scene, nodes[0])
        assert len(runs.runsOf(scene)) == 1 + bool(keep) and _parents(scene, nodes[1])[0].startswith("Run ")
        runs.deleteVolume(scene, nodes[1])
    nodes, items = _content(scene)
    # IDs count up, so that classes and names are compared, and for what stayed everything.
    assert [(kind, name) for kind, _, name in nodes] == [(kind, name) for kind, _, name in before[0]]
    assert nodes == before[0] and items == before[1]


def test_failed_loads_leave_nothing_behind(scene, outputs, segmentation):
    hierarchy.itemOfNode(scene, segmentation)
    before = _content(scene)
    good = outputs([5, 6], inpaint=True)
    for change in (
        {"volume": "nothing.nii.gz"},
        {"volume": good[0]["volume"]},  # not the one that the provenance is about
        {"provenance": "nothing.json"},
        {"provenance": good[0]["contact_sheet"]},
        {"provenance": None},
        {"region": good[0]["provenance"]},
        {"region": "nothing.seg.nrrd"},
    ):
        with pytest.raises(SceneError) as caught:
            runs.addRun(scene, [good[0], good[1] | change], segmentation)
        assert caught.value.hint
        assert _content(scene) == before, change
    with pytest.raises(SceneError, match="no volume"):
        runs.addRun(scene, [], segmentation)
    runs.addRun(scene, good, segmentation)
    assert runs.runsOf(scene)[0].name == "case7 inpainted (lung-nodule-ct, seed 5)"


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_damaged_provenance_is_refused(scene, outputs, segmentation, text):
    [entry] = outputs([5])
    Path(entry["provenance"]).write_text(text, encoding="utf-8")
    with pytest.raises(SceneError, match=r"case7_m_seed5\.json"):
        runs.addRun(scene, [entry], segmentation)
    assert runs.runsOf(scene) == []


def test_segmentation_that_was_deleted_during_the_run(scene, outputs, segmentation):
    scene.RemoveNode(segmentation)
    [node] = runs.addRun(scene, outputs([5]), segmentation)
    assert _parents(scene, node) == ["Run 1: lung-nodule-ct, seed 5", "SynthDiffusion", "case7"]


def test_deleting_takes_the_volume_out_of_the_views_and_spares_what_the_user_put_into_the_folder(
    scene, outputs, segmentation, add_volume
):
    [node] = runs.addRun(scene, outputs([5]), segmentation)
    tree = hierarchy.subjectHierarchy(scene)
    folder = tree.GetItemParent(tree.GetItemByDataNode(node))
    mine = add_volume(np.zeros(SHAPE, np.int16), "mine")
    tree.SetItemParent(hierarchy.itemOfNode(scene, mine), folder)
    view = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    view.SetBackgroundVolumeID(node.GetID())
    runs.deleteVolume(scene, node)
    assert view.GetBackgroundVolumeID() is None
    assert _parents(scene, mine)[0] == "Run 1: lung-nodule-ct, seed 5"
    for other in (mine, segmentation, None):
        with pytest.raises(SceneError, match="not a volume that SynthDiffusion has generated"):
            runs.deleteVolume(scene, other)
    assert mine.GetScene() is scene


def test_region_stays_with_the_users_copy_of_the_volume(scene, outputs, segmentation):
    [node] = runs.addRun(scene, outputs([5], inpaint=True), segmentation)
    copy = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "copy")
    copy.CopyContent(node)
    copy.CopyReferences(node)
    for name in node.GetAttributeNames():
        copy.SetAttribute(name, node.GetAttribute(name))
    region = node.GetNodeReference(runs.REGION_ROLE)
    assert copy.GetNodeReference(runs.REGION_ROLE) is region
    runs.deleteVolume(scene, node)
    assert region.GetScene() is scene
    runs.deleteVolume(scene, copy)
    assert region.GetScene() is None


def test_renaming(scene, outputs, segmentation):
    [node] = runs.addRun(scene, outputs([5], inpaint=True), segmentation)
    [other] = runs.addRun(scene, outputs([5]), segmentation)
    runs.renameRun(scene, "1", " best one ")
    assert [row.title for row in runs.runsOf(scene)] == ["best one", "Run 2: lung-nodule-ct, seed 5"]
    runs.renameVolume(node, "nodule at the apex")
    assert node.GetName() == "nodule at the apex (inpainted)"
    assert node.GetNodeReference(runs.REGION_ROLE).GetName() == "nodule at the apex (inpainted) region"
    runs.renameVolume(other, "Synthetic 3")
    assert other.GetName() == "Synthetic 3 (synthetic)"
    given = "case7 synthetic (lung-nodule-ct, seed 5)"
    for name in ("CT unsynthetic real", "not synthetic", "no (synthetic), real", f"best: {given}", f"{given} NOT"):
        runs.renameVolume(other, name)
        assert other.GetName() == f"{name} (synthetic)"
    for name in ("A (Synthetic)", given, f"{given} (2)", "A (synthetic) (2)"):
        runs.renameVolume(other, name)
        assert other.GetName() == name
    for refused in (
        lambda: runs.renameRun(scene, "1", "  "),
        lambda: runs.renameRun(scene, "7", "x"),
        lambda: runs.renameVolume(other, ""),
        lambda: runs.renameVolume(segmentation, "x"),
    ):
        with pytest.raises(SceneError) as caught:
            refused()
        assert caught.value.hint


@pytest.mark.parametrize("inpaint", [True, False])
@pytest.mark.parametrize("changes", [{}, {"adherence": None}, {"mapping": {"segments": []}}])
def test_settings_are_those_of_the_engines_own_command_line(scene, outputs, segmentation, inpaint, changes):
    """`command_line` is the engine's account of how to make the volume again; read by the engine's parser."""
    [entry] = outputs([5], inpaint=inpaint, **changes)
    [node] = runs.addRun(scene, [entry], segmentation)
    found = runs.settingsOf(node)
    provenance = json.loads(Path(entry["provenance"]).read_text(encoding="utf-8"))
    argv = command_line(provenance, "s.nrrd", "out", "image.nrrd" if inpaint else None)
    asked = vars(cli.build_parser().parse_args(argv[1:]))
    asked["margin_mm"], asked["labels"] = asked.pop("margin"), json.loads(asked["labels"] or "null")
    asked["spacing_mm"], asked["strategies"] = asked.pop("spacing"), asked.pop("strategy")
    asked["classes"] = asked["classes"].split(",") if asked["classes"] else None
    files = {"segmentation": asked["segmentation"], "out": asked["out"], "image": asked["image"]}
    request = GenerateRequest(**found | files)  # every field is one of the request, and allowed
    for name in {field.name for field in dataclasses.fields(request)} - {"samples", "format", "scene", "vram_limit"}:
        assert getattr(request, name) == asked[name], name
    assert found["mode"] == ("inpaint" if inpaint else "whole") and found["seed"] == 5
    if not changes:
        assert found["labels"] == {"Left": "lung", "heart": None, "Bones": "bone"} and found["classes"] == ["lung"]


def test_volume_without_provenance_has_no_settings(add_volume):
    with pytest.raises(SceneError, match="does not say how it was made"):
        runs.settingsOf(add_volume(np.zeros(SHAPE, np.int16)))
