"""Segmentations that were made together with their volume: loaded, shown, renamed, saved and deleted with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scene_examples import SHAPE

pytest.importorskip("slicer")
nrrd = pytest.importorskip("nrrd")

import slicer  # noqa: E402
import slicer.util  # noqa: E402

from SynthDiffusionLib.jobs.request import GenerateRequest  # noqa: E402
from SynthDiffusionLib.jobs.tumour import tumour_values  # noqa: E402
from SynthDiffusionLib.volumes import Code, Segment, Segmentation, write_segmentation  # noqa: E402
from SynthDiffusionScene import bundle, hierarchy, runs  # noqa: E402
from SynthDiffusionScene.errors import SceneError  # noqa: E402
from SynthDiffusionScene.resultViews import showMade, showResult  # noqa: E402
from SynthDiffusionScene.segmentations import segmentMask, segmentsOf  # noqa: E402

AFFINE = np.diag([-2.0, -2.0, 5.0, 1.0])
ASKED = {"volume_mm3": 20000.0, "sphericity": 0.6, "center_r_mm": 1.0, "center_a_mm": -2.0, "center_s_mm": 3.5}
NEOPLASM = Code("SCT", "108369006", "Neoplasm")


@pytest.fixture
def outputs(tmp_path):
    """Makes files as the engine does: `outputs(5, 6, empty=(6,))`; the entries of its `done` event."""

    def make(*seeds, empty=()) -> list[dict]:
        entries = []
        for seed in seeds:
            stem = tmp_path / f"joint_m_seed{seed}"
            header = {"space": "left-posterior-superior", "space directions": np.diag([2.0, 2.0, 5.0])}
            nrrd.write(f"{stem}.nrrd", np.full(SHAPE, seed, np.int16), header | {"space origin": np.zeros(3)})
            mask = np.zeros(SHAPE, np.uint8)
            mask[4 : 4 + (0 if seed in empty else 1 + seed), 3:12, 2:7] = 1
            category = Code("SCT", "49755003", "Morphologically Altered Structure")
            segment = Segment("tumour", 1, category=category, type=NEOPLASM, color=(0.9, 0.2, 0.2))
            write_segmentation(Segmentation((mask,), AFFINE, (segment,)), stem.with_suffix(".seg.nrrd"))
            settings = {"mode": "joint", "sampler": "ddim", "steps": 50, "seed": seed, "guidance": 1.0}
            record = {
                "case": "joint",
                "contains_real_patient_pixels": False,
                "model": {"id": "limb-joint", "version": "1.0.0"},
                "mapping": {"segments": []},
                "settings": settings | {"tumour": {"asked": ASKED, "drawn": [], "used": {}}},
                "plan": {"device": "cpu", "precision": "fp32"},
                "measured": None if seed in empty else {"volume_mm3": 1.0},
            }
            stem.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")
            entries.append({"seed": seed, "volume": f"{stem}.nrrd", "provenance": f"{stem}.json"})
            entries[-1]["segmentation"] = f"{stem}.seg.nrrd"
        return entries

    return make


def _made(volume):
    return volume.GetNodeReference(runs.MADE_ROLE)


def _segmentations(scene) -> int:
    return scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")


def test_both_lie_in_the_folder_of_the_run(scene, outputs):
    volumes = runs.addRun(scene, outputs(5, 6), None)
    tree = hierarchy.subjectHierarchy(scene)
    (folder,) = runs.foldersOf(scene, "1")
    for volume in volumes:
        made = _made(volume)
        assert made.GetName() == f"{volume.GetName()} segmentation" and "synthetic" in made.GetName()
        for name in ("Synthetic", "Model", "Seed", "Run"):
            attribute = f"SynthDiffusion.{name}"
            assert made.GetAttribute(attribute) == volume.GetAttribute(attribute) != ""
        assert tree.GetItemParent(tree.GetItemByDataNode(made)) == folder
        assert tree.GetItemParent(tree.GetItemByDataNode(volume)) == folder
        (segment,) = segmentsOf(made)
        assert segment.GetName() == "tumour" and "108369006" in segment.GetTerminology()
        assert segmentMask(segment).sum() == (1 + int(volume.GetAttribute("SynthDiffusion.Seed"))) * 9 * 5
        bounds, place = [0.0] * 6, [0.0] * 6
        made.GetRASBounds(bounds)
        volume.GetRASBounds(place)
        assert all(a >= b - 1e-6 for a, b in zip(bounds[::2], place[::2]))
        assert all(a <= b + 1e-6 for a, b in zip(bounds[1::2], place[1::2]))
        assert made.GetStorageNode() is None  # the files go away
    assert runs.runsOf(scene)[0].mode == "joint"


def test_one_is_shown_at_a_time_with_its_volume(scene, outputs, add_volume):
    volumes = runs.addRun(scene, outputs(5, 6), None)
    displays = [_made(volume).GetDisplayNode() for volume in volumes]
    assert not any(display.GetVisibility() for display in displays)  # views may show the user's images
    composite = slicer.vtkMRMLSliceCompositeNode()
    composite.SetLayoutName("Red")
    composite = scene.AddNode(composite)
    other = add_volume(np.zeros(SHAPE, np.int16), "CT")
    composite.SetBackgroundVolumeID(other.GetID())
    assert showResult(scene, volumes[0]) == 0 and not displays[0].GetVisibility()
    composite.SetBackgroundVolumeID(None)
    assert showResult(scene, volumes[0]) == 1 and composite.GetBackgroundVolumeID() == volumes[0].GetID()
    assert [display.GetVisibility() for display in displays] == [1, 0]
    assert displays[0].GetVisibility2DOutline() and not displays[0].GetVisibility2DFill()
    showMade(scene, volumes[1])
    assert [display.GetVisibility() for display in displays] == [0, 1]
    showMade(scene, other)
    assert [display.GetVisibility() for display in displays] == [0, 1]


def test_an_empty_one_is_not_loaded_and_the_scene_can_be_saved(scene, outputs, tmp_path):
    volumes = runs.addRun(scene, outputs(5, 6, empty=(6,)), None)
    assert _made(volumes[1]) is None and _segmentations(scene) == 1
    bundle.writeBundle(scene, tmp_path / "scene.mrb")


def test_both_are_in_the_saved_scene(scene, outputs, tmp_path):
    (volume,) = runs.addRun(scene, outputs(5), None)
    bundle.writeBundle(scene, tmp_path / "scene.mrb")
    opened = bundle.readBundle(tmp_path / "scene.mrb", tmp_path / "opened")
    assert bundle.compareInventories(bundle.inventory(scene), bundle.inventory(opened)) == []
    (row,) = runs.runsOf(opened)
    made = _made(row.node)
    assert made.GetName() == _made(volume).GetName() and made.GetAttribute("SynthDiffusion.Synthetic") == "YES"
    runs.deleteVolume(opened, row.node)
    assert _segmentations(opened) == 0 and runs.runsOf(opened) == []


def test_renamed_and_deleted_with_its_volume(scene, outputs):
    first, second = runs.addRun(scene, outputs(5, 6), None)
    runs.renameVolume(first, "large (synthetic)")
    assert _made(first).GetName() == "large (synthetic) segmentation"
    copy = slicer.vtkMRMLScalarVolumeNode()
    copy.Copy(second)
    scene.AddNode(copy)
    shared = _made(copy)
    assert shared is _made(second)
    runs.deleteVolume(scene, second)
    assert shared.GetScene() is scene
    runs.deleteVolume(scene, copy)
    assert shared.GetScene() is None and _segmentations(scene) == 1
    runs.deleteVolume(scene, first)
    assert _segmentations(scene) == 0 and runs.foldersOf(scene, "1") == []


def test_a_damaged_one_leaves_nothing(scene, outputs):
    entries = outputs(5, 6)
    with open(entries[1]["segmentation"], "wb") as file:
        file.write(b"NRRD0005\nnothing")
    before = scene.GetNumberOfNodes()
    with pytest.raises(SceneError):
        runs.addRun(scene, entries, None)
    assert _segmentations(scene) == 0 and runs.runsOf(scene) == []
    assert scene.GetNumberOfNodes() <= before + 1  # the subject hierarchy, at most


def test_settings_are_those_of_a_request(scene, outputs):
    (volume,) = runs.addRun(scene, outputs(5), None)
    settings = runs.settingsOf(volume)
    request = GenerateRequest(None, settings["model"], "out", mode=settings["mode"], tumour=settings["tumour"])
    assert tumour_values(request.tumour) == ASKED
