"""Segmentations: names, layers, terminology and colors, against slicerio and Slicer's own storage node."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import nrrd
import numpy as np
import pytest
import slicerio

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes import (
    Code,
    Segment,
    Segmentation,
    read_segmentation,
    read_volume,
    same_grid,
    write_segmentation,
)

SHAPE = (8, 9, 10)
ANATOMY = Code("SCT", "123037004", "Anatomical Structure")
LUNG = Segment("Lunge links ü", 3, 0, ANATOMY, Code("SCT", "39607008", "Lung"), None, (0.2, 0.4, 0.6),
               type_modifier=Code("SCT", "7771000", "Left"))  # fmt: skip
NODULE = Segment("nodule", 1, 1, Code("SCT", "49755003", "Morphologically Altered Structure"),
                 Code("SCT", "27925004", "Nodule"), Code("SCT", "39607008", "Lung"), (1.0, 0.0, 0.5),
                 region_modifier=Code("SCT", "24028007", "Right"))  # fmt: skip
BARE = Segment("no codes | ~ here", 4)


def _segmentation(affine) -> Segmentation:
    first, second = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    first[1:6, 2:7, 3:8] = 3
    first[6:, 2:7, 3:8] = 4
    second[4:7, 4:6, 5:7] = 1
    return Segmentation((first, second), affine, (LUNG, NODULE, BARE))


def test_round_trip_of_everything(tmp_path, oblique_affine):
    ours = _segmentation(oblique_affine("PIR"))
    path = tmp_path / "Fall 1.SEG.NRRD"
    write_segmentation(ours, path)
    again = read_segmentation(path)
    assert again.segments[:2] == ours.segments[:2]
    assert replace(again.segments[2], color=None) == BARE and again.segments[2].color, "it is given a color"
    for layer, expected in zip(again.layers, ours.layers, strict=True):
        np.testing.assert_array_equal(layer, expected)
        assert layer.dtype == np.uint8
    assert same_grid(again.shape, again.affine, ours.shape, ours.affine, 1e-9)


def test_slicerio_reads_what_we_write(tmp_path, oblique_affine):
    ours = _segmentation(oblique_affine())
    write_segmentation(ours, tmp_path / "a.seg.nrrd")
    theirs = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ theirs["ijkToLPS"], ours.affine)
    for segment, described in zip(ours.segments, theirs["segments"], strict=True):
        np.testing.assert_array_equal(slicerio.segment_mask(theirs, described), ours.mask(segment))
    assert theirs["segments"][1]["name"] == "nodule"
    assert theirs["segments"][0]["terminology"]["typeModifier"] == ["SCT", "7771000", "Left"]
    assert theirs["segments"][1]["terminology"]["type"] == ["SCT", "27925004", "Nodule"]
    assert theirs["segments"][1]["terminology"]["anatomicRegion"] == ["SCT", "39607008", "Lung"]
    assert theirs["segments"][1]["color"] == [1.0, 0.0, 0.5]
    assert "terminology" not in theirs["segments"][2]


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nrrd"])
def test_we_read_what_slicerio_writes(tmp_path, oblique_affine, suffix):
    affine = oblique_affine("LPS")
    expected = _segmentation(affine)
    theirs = slicerio.create_segmentation(SHAPE, np.diag([-1, -1, 1, 1]) @ affine)
    for segment in expected.segments[:2]:
        terminology = {"contextName": "x", "category": list(vars(segment.category).values()),
                       "type": list(vars(segment.type).values())}  # fmt: skip
        fields = {"id": f"id {segment.value}", "name": segment.name.replace("ü", "ue"), "terminology": terminology}
        slicerio.add_segment(theirs, expected.mask(segment), fields)
    path = tmp_path / f"labels{suffix}"
    slicerio.write_segmentation(str(path), theirs)
    ours = read_segmentation(path)
    assert [s.name for s in ours.segments] == ["Lunge links ue", "nodule"]
    assert len(ours.layers) == 2
    for segment, truth in zip(ours.segments, expected.segments, strict=False):
        np.testing.assert_array_equal(ours.mask(segment), expected.mask(truth))
        assert (segment.category, segment.type) == (truth.category, truth.type)
    assert same_grid(ours.shape, ours.affine, SHAPE, affine)


READ_IN_SLICER = """
import json, sys, slicer, vtk
scene = slicer.vtkMRMLScene()
slicer.mrmlScene = scene
node, storage = slicer.vtkMRMLSegmentationNode(), slicer.vtkMRMLSegmentationStorageNode()
scene.AddNode(node); scene.AddNode(storage)
storage.SetFileName(sys.argv[1])
ok = storage.ReadData(node)
segmentation = node.GetSegmentation()
out = []
for n in range(segmentation.GetNumberOfSegments()):
    segment = segmentation.GetNthSegment(n)
    entry = vtk.reference("")
    segment.GetTag("TerminologyEntry", entry)
    labels = segment.GetRepresentation("Binary labelmap")
    matrix = vtk.vtkMatrix4x4()
    labels.GetImageToWorldMatrix(matrix)
    voxels = []
    extent = labels.GetExtent()
    for k in range(extent[4], extent[5] + 1):
        for j in range(extent[2], extent[3] + 1):
            for i in range(extent[0], extent[1] + 1):
                if labels.GetScalarComponentAsDouble(i, j, k, 0) == segment.GetLabelValue():
                    voxels.append(matrix.MultiplyPoint((i, j, k, 1))[:3])
    out.append({"name": segment.GetName(), "color": list(segment.GetColor()), "entry": str(entry),
                "layer": segmentation.GetLayerIndex(segmentation.GetNthSegmentID(n), "Binary labelmap"), "ras": voxels})
if len(sys.argv) > 2:
    storage.SetFileName(sys.argv[2])
    ok = ok and storage.WriteData(node)
print("RESULT" + json.dumps({"ok": int(ok), "segments": out}))
"""


@pytest.mark.skipif(importlib.util.find_spec("slicer") is None, reason="needs the slicer-core wheel (extra slicer)")
def test_slicer_itself_reads_what_we_write_and_we_read_it_back(tmp_path, oblique_affine):
    """Names, colors, terminology, layers, and every voxel's place in RAS mm; then Slicer's own file of it."""
    ours = _segmentation(oblique_affine("SAL"))
    path, back = tmp_path / "aä.seg.nrrd", tmp_path / "back.seg.nrrd"
    write_segmentation(ours, path)
    done = subprocess.run(
        [sys.executable, "-c", READ_IN_SLICER, str(path), str(back)], capture_output=True, timeout=120, check=False
    )
    text = done.stdout.decode("utf-8", "replace")
    assert "RESULT" in text, done.stderr.decode("utf-8", "replace")[-2000:]
    result = json.loads(text[text.index("RESULT") + 6 :])
    assert result["ok"] == 1
    assert [s["name"] for s in result["segments"]] == [s.name for s in ours.segments]
    for segment, theirs in zip(ours.segments, result["segments"], strict=True):
        indices = np.argwhere(ours.mask(segment))
        expected = indices @ ours.affine[:3, :3].T + ours.affine[:3, 3]
        found = np.array(theirs["ras"])
        assert found.shape == expected.shape
        order = [np.lexsort(np.round(points, 2).T) for points in (expected, found)]
        np.testing.assert_allclose(found[order[1]], expected[order[0]], atol=1e-3)
        assert theirs["layer"] == segment.layer
        if segment.color:
            np.testing.assert_allclose(theirs["color"], segment.color, atol=1e-5)
    assert result["segments"][0]["entry"].split("~")[1:4] == [
        "SCT^123037004^Anatomical Structure", "SCT^39607008^Lung", "SCT^7771000^Left",
    ]  # fmt: skip
    again = read_segmentation(back)
    assert [(s.name, s.category, s.type, s.type_modifier, s.region, s.region_modifier) for s in again.segments[:2]] == [
        (s.name, s.category, s.type, s.type_modifier, s.region, s.region_modifier) for s in ours.segments[:2]
    ]
    for segment, truth in zip(again.segments, ours.segments, strict=True):
        assert again.mask(segment).sum() == ours.mask(truth).sum()


def test_files_from_before_slicer_4_11_have_a_layer_for_each_segment(tmp_path):
    voxels = np.zeros((2, *SHAPE), np.uint8)
    voxels[0, 2:4, 2:4, 2:4], voxels[1, 3:5, 3:5, 3:5] = 1, 1
    header = {"space": "left-posterior-superior", "kinds": ["list", "domain", "domain", "domain"],
              "space directions": np.vstack([[np.nan] * 3, np.eye(3)]), "space origin": [0, 0, 0],
              "Segment0_ID": "Segment_1", "Segment0_Name": "a", "Segment0_Color": "1 0 0",
              "Segment1_ID": "Segment_2", "Segment1_Name": "b", "Segment1_Color": "not a color"}  # fmt: skip
    nrrd.write(str(tmp_path / "old.seg.nrrd"), voxels, header)
    ours = read_segmentation(tmp_path / "old.seg.nrrd")
    assert [(s.name, s.layer, s.value, s.color) for s in ours.segments] == [("a", 0, 1, (1, 0, 0)), ("b", 1, 1, None)]
    assert [int(ours.mask(s).sum()) for s in ours.segments] == [8, 8]
    with pytest.raises(BadInput, match="scalar 3D"):
        read_volume(tmp_path / "old.seg.nrrd")


def test_values_that_no_segment_describes_are_kept(tmp_path):
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[0, 0, 0], voxels[1, 1, 1] = 2, 9
    header = {"Segment0_ID": "s", "Segment0_Name": "two", "Segment0_LabelValue": "2", "Segment0_Layer": "0"}
    nrrd.write(str(tmp_path / "a.nrrd"), voxels, header)
    assert [(s.name, s.value) for s in read_segmentation(tmp_path / "a.nrrd").segments] == [("two", 2), ("9", 9)]


@pytest.mark.parametrize(
    "changes, match",
    [({"Segment0_Layer": "1"}, "layer 1"), ({"Segment0_LabelValue": "0"}, "label 0"),
     ({"Segmentation_MasterRepresentation": "Fractional labelmap"}, "fractional")],
)  # fmt: skip
def test_descriptions_that_contradict_the_voxels(tmp_path, changes, match):
    header = {"Segment0_Name": "two", "Segment0_LabelValue": "2", "Segment0_Layer": "0", **changes}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), np.full(SHAPE, 2, np.uint8), header)
    with pytest.raises(BadInput, match=match):
        read_segmentation(tmp_path / "a.seg.nrrd")


@pytest.mark.parametrize("entry", [None, "", "~~~", "a~b~c", "a~^^~^^~^^", "a|b"])
def test_malformed_terminology_means_no_codes(tmp_path, entry):
    tags = "x:y|z|" if entry is None else f"TerminologyEntry:{entry}|"
    header = {"Segment0_Name": "two", "Segment0_LabelValue": "2", "Segment0_Tags": tags}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), np.full(SHAPE, 2, np.uint8), header)
    segment = read_segmentation(tmp_path / "a.seg.nrrd").segments[0]
    assert (segment.category, segment.type, segment.region) == (None, None, None)


def test_retired_snomed_codes_become_current_ones(tmp_path):
    pytest.importorskip("pydicom")
    entry = "c~SRT^T-D000A^Anatomical Structure~SRT^T-28000^Lung~^^~r~^^~^^"
    header = {"Segment0_Name": "lung", "Segment0_LabelValue": "2", "Segment0_Tags": f"TerminologyEntry:{entry}|"}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), np.full(SHAPE, 2, np.uint8), header)
    segment = read_segmentation(tmp_path / "a.seg.nrrd").segments[0]
    assert segment.type == Code("SCT", "39607008", "Lung")


def test_large_label_values(tmp_path):
    voxels = np.zeros(SHAPE, np.uint32)
    voxels[1, 1, 1], voxels[2, 2, 2] = 14175, 70000
    nrrd.write(str(tmp_path / "a.nrrd"), voxels, {"space": "LPS"})
    ours = read_segmentation(tmp_path / "a.nrrd")
    assert [s.value for s in ours.segments] == [14175, 70000]
    write_segmentation(ours, tmp_path / "b.seg.nrrd")
    again = read_segmentation(tmp_path / "b.seg.nrrd")
    assert [(s.name, s.value) for s in again.segments] == [("14175", 14175), ("70000", 70000)]
    np.testing.assert_array_equal(again.layers[0], voxels)


def test_real_label_maps(shared_data):
    lungs = read_segmentation(shared_data / "inputs/chest_ct_64/lm-64.nrrd")
    image = read_volume(shared_data / "inputs/chest_ct_64/ct-64.nrrd", "HU")
    assert same_grid(lungs.shape, lungs.affine, image.shape, image.affine)
    assert {s.value for s in lungs.segments} >= {9, 10, 11, 12, 13, 14}
    inside = np.logical_or.reduce([lungs.mask(s) for s in lungs.segments if 9 <= s.value <= 14])
    assert image.array[inside].mean() < -600, "lung is air"
