"""Digests: the same for the same content, also after saving; another one after each change that matters."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

import slicer  # noqa: E402
import slicer.util  # noqa: E402
import vtk  # noqa: E402
from comparison_examples import add_segmentation as add_drawing  # noqa: E402
from comparison_examples import grid  # noqa: E402
from scene_examples import SHAPE  # noqa: E402

from SynthDiffusionScene import bundle, digests, drawing  # noqa: E402
from SynthDiffusionScene.digests import segmentationDigest, volumeDigest  # noqa: E402
from SynthDiffusionScene.segmentations import exportSegmentation, segmentsOf  # noqa: E402


def _saved_and_opened(scene, tmp_path):
    bundle.writeBundle(scene, tmp_path / "scene.mrb")
    return bundle.readBundle(tmp_path / "scene.mrb", tmp_path / "opened")


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_nodes_are_known_again_in_a_saved_scene(scene, add_volume, two_overlapping, tmp_path, dtype):
    volume = add_volume(np.random.default_rng(3).integers(0, 200, SHAPE).astype(dtype), "CT")
    before = segmentationDigest(two_overlapping[0]), volumeDigest(volume)
    opened = _saved_and_opened(scene, tmp_path)
    after = opened.GetFirstNodeByName("drawing"), opened.GetFirstNodeByName("CT")
    assert (segmentationDigest(after[0]), volumeDigest(after[1])) == before


def test_usual_places_are_not_at_the_limit_of_rounding(scene, add_volume):
    volume = add_volume(np.zeros(SHAPE, np.int16))
    for spacing in (0.5, 0.3125, 0.703125, 0.9765625, 1 / 3, 0.6345, 2.5):
        found = set()
        for noise in (-1e-7, 0.0, 1e-7):
            affine = grid((spacing, spacing, 1.25), (-159.84375, -12.3455, 1024.5))
            affine[:3] += noise
            volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
            found.add(volumeDigest(volume))
        assert len(found) == 1, spacing


def test_every_change_of_a_drawing_is_found(add_segmentation):
    mask, other = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    mask[3:9, 4:8, 2:6], other[3:9, 4:8, 3:7] = True, True  # as many voxels
    segments = {
        "same": {"lung": (mask, "")},
        "moved": {"lung": (other, "")},
        "renamed": {"left lung": (mask, "")},
        "more": {"lung": (mask, ""), "nodule": (other, "")},
        "order": {"nodule": (other, ""), "lung": (mask, "")},
    }
    found = {name: segmentationDigest(add_segmentation(parts, shape=SHAPE)) for name, parts in segments.items()}
    assert len(set(found.values())) == len(segments)
    again = add_segmentation(segments["same"], name="other name", tight=False)
    again.GetSegmentation().GetNthSegment(0).SetColor(0.1, 0.2, 0.3)
    assert segmentationDigest(again) == found["same"]


def test_what_saving_does_to_a_drawing_is_no_change(two_overlapping, tmp_path):
    from SynthDiffusionLib.labels.scheme import LabelClass

    node, _ = two_overlapping
    node.GetSegmentation().GetNthSegment(1).SetName("")
    before = segmentationDigest(node)
    exportSegmentation(node, tmp_path / "x.seg.nrrd")  # names the segment, and merges layers
    assert node.GetSegmentation().GetNthSegment(1).GetName() and segmentationDigest(node) == before
    drawing.addClassSegment(node, LabelClass(name="bone", value=3, color=(1.0, 1.0, 1.0)))
    assert len(segmentsOf(node)) == 3 and segmentationDigest(node) == before  # nothing is drawn in it yet


def test_moved_drawings_and_surfaces_are_other_ones(scene):
    mask = np.ones((3, 4, 5), bool)
    here, there = (add_drawing(scene, {"a": mask}, grid(origin=(0, 0, z))) for z in (0.0, 0.01))
    assert segmentationDigest(here) != segmentationDigest(there)
    found = set()
    for radius in (4.0, 4.0, 4.1):
        sphere = vtk.vtkSphereSource()
        sphere.SetRadius(radius)
        sphere.Update()
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surfaces")
        node.GetSegmentation().SetSourceRepresentationName("Closed surface")
        segment = slicer.vtkSegment()
        segment.AddRepresentation("Closed surface", sphere.GetOutput())
        node.GetSegmentation().AddSegment(segment, "sphere")
        found.add(segmentationDigest(node))
    assert len(found) == 2


def test_every_change_of_a_volume_is_found(add_volume, affine):
    array = np.random.default_rng(4).integers(0, 99, SHAPE, np.int16)
    volume = add_volume(array)
    before = volumeDigest(volume)
    assert volumeDigest(add_volume(array.copy(), "other name")) == before
    assert volumeDigest(add_volume(array.astype(np.int32))) != before
    assert volumeDigest(add_volume(array.reshape(SHAPE[::-1]))) != before
    slicer.util.arrayFromVolume(volume)[3, 4, 5] += 1
    assert volumeDigest(volume) != before
    slicer.util.arrayFromVolume(volume)[3, 4, 5] -= 1
    assert volumeDigest(volume) == before
    affine[0, 3] += 0.01
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    assert volumeDigest(volume) != before


def test_a_volume_that_says_nothing_is_not_called_changed(add_volume, two_overlapping):
    volume = add_volume(np.zeros(SHAPE, np.int16))
    assert not digests.voxelsChanged(volume) and not digests.realVolumeChanged(volume, volume)
    assert not digests.drawingChanged(volume, two_overlapping[0])
    volume.SetAttribute(digests.VOXEL_DIGEST, volumeDigest(volume))
    volume.SetAttribute(digests.DRAWING_DIGEST, segmentationDigest(two_overlapping[0]))
    assert not digests.voxelsChanged(volume) and not digests.drawingChanged(volume, two_overlapping[0])
    slicer.util.arrayFromVolume(volume)[0, 0, 0] = 7
    two_overlapping[0].GetSegmentation().RemoveSegment(two_overlapping[0].GetSegmentation().GetNthSegmentID(1))
    assert digests.voxelsChanged(volume) and digests.drawingChanged(volume, two_overlapping[0])
