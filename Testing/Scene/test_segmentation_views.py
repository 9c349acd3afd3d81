"""A segmentation is brought into the slice views that show nothing else, whole and in the middle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scene_examples import SHAPE

slicer = pytest.importorskip("slicer")


def add_view(scene, name: str, orientation: str, volume=None):
    """A slice view's nodes, with a field of view far from anything."""
    node = slicer.vtkMRMLSliceNode()
    node.SetLayoutName(name)
    node.SetSingletonTag(name)
    scene.AddNode(node)
    node.SetOrientation(orientation)
    node.SetDimensions(300, 200, 1)
    node.SetFieldOfView(20, 13, 1)
    node.JumpSliceByCentering(500, 500, 500)
    composite = slicer.vtkMRMLSliceCompositeNode()
    composite.SetLayoutName(name)
    scene.AddNode(composite)
    if volume is not None:
        composite.SetBackgroundVolumeID(volume.GetID())
    return node


def state(node) -> tuple:
    matrix = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
    return tuple(matrix.ravel()), node.GetFieldOfView(), node.GetXYZOrigin()


def test_all_of_it_is_seen_and_views_with_an_image_stay(scene, two_overlapping, add_volume):
    from SynthDiffusionScene.segmentationViews import fitToSegmentation

    segmentation, _masks = two_overlapping
    empty = [add_view(scene, name, name) for name in ("Axial", "Sagittal", "Coronal")]
    taken = add_view(scene, "Taken", "Axial", add_volume(np.zeros(SHAPE, np.int16)))
    before = state(taken)
    assert fitToSegmentation(scene, segmentation) == 3
    assert state(taken) == before
    bounds = [0.0] * 6
    segmentation.GetRASBounds(bounds)
    corners = np.array([[*c, 1] for c in itertools.product(bounds[:2], bounds[2:4], bounds[4:])])
    for node in empty:
        # Pixels of the view at which the corners of the segmentation's box lie.
        to_pixels = np.linalg.inv(slicer.util.arrayFromVTKMatrix(node.GetXYToRAS()))
        x, y = (corners @ to_pixels.T)[:, :2].T
        assert 0 <= x.min() and x.max() <= 300 and 0 <= y.min() and y.max() <= 200
        assert max(np.ptp(x) / 300, np.ptp(y) / 200) > 0.85, "as large as the view allows"
        assert abs(x.mean() - 150) < 1 and abs(y.mean() - 100) < 1


def test_a_volume_to_draw_on_is_shown_where_it_is_not_seen_but_never_in_a_comparison(scene, add_volume):
    from SynthDiffusionScene.comparisonLayout import TAGS
    from SynthDiffusionScene.segmentationViews import showVolume

    volume, other = (add_volume(np.zeros(SHAPE, np.int16), name) for name in ("volume", "other"))
    cases = {  # background, foreground and its opacity, before; background and foreground after
        "Empty": ((None, None, 0.0), (volume, None)),
        "Behind": ((volume, other, 0.5), (volume, other)),
        "Before": ((other, volume, 0.5), (other, volume)),
        "Unseen": ((other, volume, 0.0), (volume, None)),
        "Other": ((other, None, 0.0), (volume, None)),
        TAGS["synthetic"]: ((other, None, 0.0), (other, None)),
    }
    composites = {}
    for name, ((background, foreground, opacity), _after) in cases.items():
        add_view(scene, name, "Axial")
        composites[name] = composite = scene.GetNthNodeByClass(len(composites), "vtkMRMLSliceCompositeNode")
        composite.SetBackgroundVolumeID(background.GetID() if background else None)
        composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
        composite.SetForegroundOpacity(opacity)
    fitted = []
    showVolume(scene, volume, fitted.append)
    for name, (_before, after) in cases.items():
        shown = (composites[name].GetBackgroundVolumeID(), composites[name].GetForegroundVolumeID())
        assert shown == tuple(node and node.GetID() for node in after), name
    assert fitted == [composite for name, composite in composites.items() if name != TAGS["synthetic"]]


def test_nothing_drawn_changes_nothing(scene):
    from SynthDiffusionScene.segmentationViews import fitToSegmentation

    node = add_view(scene, "Axial", "Axial")
    before = state(node)
    assert fitToSegmentation(scene, scene.AddNewNodeByClass("vtkMRMLSegmentationNode")) == 0
    assert state(node) == before
