"""Brings a segmentation, or the volume that it is drawn on, into the user's slice views."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import slicer.util

from SynthDiffusionScene.comparisonLayout import userComposites

_MARGIN = 1.1


def fitToSegmentation(scene, segmentationNode) -> int:
    """Shows the whole segmentation, its middle in every plane, in each slice view without a volume.

    Slicer itself fits views to volumes only.

    Args:
        scene: the MRML scene.
        segmentationNode: one with segments that are drawn; nothing is done for another one.

    Returns:
        How many views were fitted.
    """
    bounds = [0.0] * 6
    segmentationNode.GetRASBounds(bounds)
    if bounds[0] > bounds[1]:
        return 0
    corners = np.array([[*corner, 1.0] for corner in itertools.product(bounds[:2], bounds[2:4], bounds[4:])])
    centre = corners.mean(0)[:3]
    fitted = 0
    for sliceNode in _emptyViews(scene):
        toSlice = np.linalg.inv(slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS()))
        width, height = sliceNode.GetDimensions()[:2]
        sizes = np.ptp(corners @ toSlice.T, axis=0)
        pixel = _MARGIN * max(sizes[0] / max(width, 1), sizes[1] / max(height, 1))
        sliceNode.SetFieldOfView(pixel * width, pixel * height, sliceNode.GetFieldOfView()[2])
        sliceNode.SetXYZOrigin(0, 0, 0)
        sliceNode.JumpSliceByCentering(*centre)
        fitted += 1
    return fitted


def showVolume(scene, volumeNode, fitView: Callable[[object], None] | None = None) -> None:
    """Puts a volume to draw on into the slice views, alone, where it is not to be seen yet.

    Args:
        scene: the MRML scene.
        volumeNode: the volume.
        fitView: called with the vtkMRMLSliceCompositeNode of every view, see `preview.fitThrough`.
    """
    for composite in userComposites(scene):
        seen = [composite.GetBackgroundVolumeID()]
        if composite.GetForegroundOpacity() > 0:
            seen.append(composite.GetForegroundVolumeID())
        if volumeNode.GetID() not in seen:
            composite.SetBackgroundVolumeID(volumeNode.GetID())
            composite.SetForegroundVolumeID(None)
            composite.SetLabelVolumeID(None)
        if fitView is not None:
            fitView(composite)


def _emptyViews(scene) -> list:
    """Slice nodes of the user's views that have neither background nor foreground."""
    found = []
    for composite in userComposites(scene):
        if composite.GetBackgroundVolumeID() or composite.GetForegroundVolumeID():
            continue
        sliceNode = scene.GetSingletonNode(composite.GetLayoutName(), "vtkMRMLSliceNode")
        if sliceNode is not None:
            found.append(sliceNode)
    return found
