"""Segmentations that came from elsewhere, made ready: label maps, surfaces, and segmentations without an image."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
import vtk

from SynthDiffusionScene.drawing import AIR_HU, BLANK, isBlank
from SynthDiffusionScene.errors import SceneError
from SynthDiffusionScene.hierarchy import itemOfNode, studyOfNode, subjectHierarchy
from SynthDiffusionScene.runFolders import removeNode
from SynthDiffusionScene.segmentations import hasGrid, isLabelmap, segmentsOf
from SynthDiffusionScene.volumes import setDisplay

_LABELMAP = "Binary labelmap"
_TISSUE = "~SCT^85756007^Tissue~^^~"  # the type that Slicer gives to what has none


def segmentationFromLabelMap(scene, labelMapNode) -> slicer.vtkMRMLSegmentationNode:
    """A segmentation of the labels of a volume, in whose place it comes: the label map is removed from the scene.

    Args:
        scene: the MRML scene.
        labelMapNode: a vtkMRMLLabelMapVolumeNode. Names and colors of its color table are taken over.

    Raises:
        SceneError: it has no label.
    """
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", labelMapNode.GetName())
    node.CreateDefaultDisplayNodes()
    # Before the import, which expresses the labels in the coordinates of the segmentation.
    node.SetAndObserveTransformNodeID(labelMapNode.GetTransformNodeID())
    imported = slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labelMapNode, node)
    if not imported or node.GetSegmentation().GetNumberOfSegments() == 0:
        scene.RemoveNode(node)
        raise SceneError(f"The label map '{labelMapNode.GetName()}' has no labels", "Load another file.")
    node.SetReferenceImageGeometryParameterFromVolumeNode(labelMapNode)
    study = studyOfNode(scene, labelMapNode)
    if study is not None:
        subjectHierarchy(scene).SetItemParent(itemOfNode(scene, node), study)
    removeNode(scene, labelMapNode)
    return node


def nameByValue(segmentationNode) -> None:
    """Gives the segments of a label map without names their values for names, as the engine reads such a file.

    Slicer calls them "Segment_2" or "Label_2", as it calls what somebody draws and does not name; but what is read from
    a file has its number from there, and it may be the value of one of a model's classes. Nothing happens if any
    segment has another name, or a terminology.
    """
    segments = segmentsOf(segmentationNode)
    if all(
        segment.GetName() in (f"Segment_{segment.GetLabelValue()}", f"Label_{segment.GetLabelValue()}")
        and (not segment.GetTerminology() or _TISSUE in segment.GetTerminology())
        for segment in segments
    ):
        for segment in segments:
            segment.SetName(str(segment.GetLabelValue()))
            segment.RemoveTag(slicer.vtkSegment.GetTerminologyEntryTagName())


def ensureGrid(segmentationNode, volumeNode=None) -> None:
    """Gives a segmentation of surfaces (STL, OBJ, structure sets) the grid on which a job turns them into voxels.

    The surfaces stay as they are. Nothing happens to a segmentation that has a grid, or voxels, or no segment.

    Args:
        segmentationNode: gets the grid.
        volumeNode: whose grid it is; None for the one that Slicer's conversion chooses.

    Raises:
        SceneError: Slicer cannot convert the surfaces.
    """
    segmentation = segmentationNode.GetSegmentation()
    if isLabelmap(segmentationNode) or hasGrid(segmentationNode) or segmentation.GetNumberOfSegments() == 0:
        return
    if volumeNode is not None:
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        return
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentation)
    geometry = _commonGeometry(copy) if copy.CreateRepresentation(_LABELMAP) else ""
    if not geometry:
        raise SceneError(
            f"The surfaces of '{segmentationNode.GetName()}' cannot be turned into voxels",
            "Convert them in the Segmentations module.",
            kind="internal",
        )
    name = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    segmentation.SetConversionParameter(name, geometry)


def moveToGridOf(scene, segmentationNode, volumeNode) -> None:
    """Lets a segmentation in which nothing is drawn be drawn on another volume: it takes its grid and its transform.

    A blank volume that it was to be drawn on before is removed, unless another segmentation is drawn on it.
    """
    old = segmentationNode.GetNodeReference(_referenceRole())
    segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    others = [
        scene.GetNthNodeByClass(n, "vtkMRMLSegmentationNode")
        for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"))
    ]
    used = any(other.GetNodeReference(_referenceRole()) is old for other in others)
    if old is not None and isBlank(old) and not used:
        removeNode(scene, old)


def volumeToDrawOn(scene, segmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The volume that a segmentation was drawn on, or a blank one on its grid if there is none.

    Slicer's segment editor edits only where there is a volume. The blank one is as `drawing.newSegmentation` makes it.

    Returns:
        None for a segmentation that has neither a volume nor a grid.
    """
    volume = segmentationNode.GetNodeReference(_referenceRole())
    if volume is not None:
        return volume
    geometry, grid = _commonGeometry(segmentationNode.GetSegmentation()), slicer.vtkOrientedImageData()
    if not geometry or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(geometry, grid, False):
        return None
    extent, matrix = grid.GetExtent(), vtk.vtkMatrix4x4()
    if any(extent[2 * axis] > extent[2 * axis + 1] for axis in range(3)):
        return None
    grid.GetImageToWorldMatrix(matrix)
    affine = slicer.util.arrayFromVTKMatrix(matrix)
    affine[:, 3] = affine @ [extent[0], extent[2], extent[4], 1]
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{segmentationNode.GetName()} (blank volume)")
    volume.SetAttribute(BLANK, "YES")
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    slicer.util.updateVolumeFromArray(volume, np.full(tuple(reversed(grid.GetDimensions())), AIR_HU, np.int16))
    volume.CreateDefaultDisplayNodes()
    setDisplay(volume, {})
    # Before the reference: Slicer expresses the volume's grid in the coordinates of the segmentation.
    volume.SetAndObserveTransformNodeID(segmentationNode.GetTransformNodeID())
    segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return volume


def voxelVolumesMl(segmentationNode) -> dict[str, float]:
    """Volume of one voxel of every segment, in ml, by segment ID. Segments without a label map are left out."""
    segmentation = segmentationNode.GetSegmentation()
    volumes = {}
    for segmentId in segmentation.GetSegmentIDs():
        labelmap = segmentation.GetSegment(segmentId).GetRepresentation(_LABELMAP)
        if labelmap is not None:
            volumes[segmentId] = float(np.prod(labelmap.GetSpacing())) / 1000
    return volumes


def _commonGeometry(segmentation) -> str:
    """The reference geometry; where it is missing, the smallest grid around all segments; "" if there is none."""
    segmentIds = vtk.vtkStringArray()
    for segmentId in segmentation.GetSegmentIDs():
        segmentIds.InsertNextValue(segmentId)
    mode = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    return segmentation.DetermineCommonLabelmapGeometry(mode, segmentIds)


def _referenceRole() -> str:
    return slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
