"""Shows a volume that was just made in the slice views, without taking an image away from the user."""

from __future__ import annotations

from collections.abc import Callable

import slicer

from SynthDiffusionScene.comparisonLayout import userComposites
from SynthDiffusionScene.drawing import isBlank
from SynthDiffusionScene.runs import MADE_ROLE, REAL_VOLUME_ROLE, SEGMENTATION_ROLE, generatedVolumes
from SynthDiffusionScene.volumes import SYNTHETIC


def showResult(scene, volumeNode, fitView: Callable[[object], None] | None = None) -> int:
    """Puts a generated volume into the slice views where nothing is lost by it.

    A view that shows nothing, the blank volume of a drawing or an earlier result gets it in its background. A view that
    shows the image that it was made from (the real volume, or the one that the segmentation was drawn on) gets it over
    that, in its foreground, where Slicer's own slider fades between the two. A view with any other image stays as it
    is, and so does one whose foreground the user has filled.

    Args:
        scene: the MRML scene.
        volumeNode: as `runs.addRun` has made it.
        fitView: called with the vtkMRMLSliceCompositeNode of every view that showed nothing, see `preview.fitThrough`.

    Returns:
        In how many views it is shown.
    """
    sources, shown = _sourcesOf(volumeNode), 0
    for composite in userComposites(scene):
        background = scene.GetNodeByID(composite.GetBackgroundVolumeID() or "")
        foreground = scene.GetNodeByID(composite.GetForegroundVolumeID() or "")
        free = foreground is None or _isResult(foreground) or composite.GetForegroundOpacity() == 0
        if background is None or isBlank(background) or (_isResult(background) and background not in sources):
            composite.SetBackgroundVolumeID(volumeNode.GetID())
            if foreground is not None and _isResult(foreground):
                composite.SetForegroundVolumeID(None)
            if background is None and fitView is not None:
                fitView(composite)
        elif background in sources and free:
            composite.SetForegroundVolumeID(volumeNode.GetID())
            composite.SetForegroundOpacity(1.0)
        else:
            continue
        shown += 1
    if shown:
        showMade(scene, volumeNode)
    return shown


def showMade(scene, volumeNode) -> None:
    """Shows the segmentation that was made together with a volume, and hides those of the other volumes, which lie in
    the same place. Does nothing for a volume without one.

    Args:
        scene: the MRML scene.
        volumeNode: the volume that is shown.
    """
    made = volumeNode.GetNodeReference(MADE_ROLE)
    if made is None:
        return
    for other in generatedVolumes(scene):
        node = other.GetNodeReference(MADE_ROLE)
        if node is not None and node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(node is made)


def _sourcesOf(volumeNode) -> list:
    """The images that a volume was made from, as far as they are in the scene."""
    segmentation = volumeNode.GetNodeReference(SEGMENTATION_ROLE)
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    drawnOn = segmentation.GetNodeReference(role) if segmentation is not None else None
    return [node for node in (volumeNode.GetNodeReference(REAL_VOLUME_ROLE), drawnOn) if node is not None]


def _isResult(volumeNode) -> bool:
    return volumeNode.GetAttribute(SYNTHETIC) == "YES"
