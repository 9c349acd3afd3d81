"""Volumes and masks of a reading as nodes that tell nothing of where they came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk

from SynthDiffusionScene.errors import SceneError
from SynthDiffusionScene.segmentations import isLabelmap, segmentBounds, segmentsOf
from SynthDiffusionScene.volumes import checkVolume

VOLUME_NAME, MASK_NAME = "Volume", "Mask"
_GREY = "vtkMRMLColorTableNodeGrey"
_MASK_COLORS = ((1.0, 0.85, 0.2), (0.3, 0.8, 1.0), (1.0, 0.45, 0.7), (0.5, 1.0, 0.5))
_LABELMAP = "Binary labelmap"


def addOpaqueVolume(scene, path: str | Path) -> slicer.vtkMRMLScalarVolumeNode:
    """Loads a volume as a node without file name, attributes or header, hidden from selectors and never saved.

    Only voxels and geometry are taken over from the file: its reader keeps the header beside them, and the data probe,
    a tooltip or the Python console could show it. Slicer's list of recent files does not learn of it either.

    Args:
        scene: the MRML scene.
        path: a scalar 3D image.

    Raises:
        SceneError: missing or unreadable. It names the opaque file only, and nothing is left in the scene.
    """
    path = Path(path)
    if not path.is_file():
        raise SceneError(f"The image file '{path.name}' is missing", "Copy the study's folder again.")
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path.resolve()))
    storage.SetSingleFile(True)
    read = slicer.vtkMRMLScalarVolumeNode()
    if not storage.ReadData(read):
        raise SceneError(f"The image file '{path.name}' cannot be read", "Copy the study's folder again.")
    checkVolume(read)
    image, toRas = vtk.vtkImageData(), vtk.vtkMatrix4x4()
    image.CopyStructure(read.GetImageData())
    image.GetPointData().SetScalars(read.GetImageData().GetPointData().GetScalars())
    image.GetPointData().GetScalars().SetName("values")
    read.GetIJKToRASMatrix(toRas)
    node = _hidden(scene, "vtkMRMLScalarVolumeNode", VOLUME_NAME)
    node.SetIJKToRASMatrix(toRas)
    node.SetAndObserveImageData(image)
    scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    _hide(display)
    display.SetAndObserveColorNodeID(_GREY)
    return node


def addOpaqueMask(scene, path: str | Path) -> slicer.vtkMRMLSegmentationNode:
    """Loads a mask as outlines: its voxels only, with segments called 1, 2 and so on.

    Raises:
        SceneError: missing or unreadable; nothing is left in the scene.
    """
    path = Path(path)
    if not path.is_file():
        raise SceneError(f"The mask file '{path.name}' is missing", "Copy the study's folder again.")
    private = slicer.vtkMRMLScene()  # what the reader adds or tells, it adds and tells there
    read = private.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path.resolve()))
    if not storage.ReadData(read) or not isLabelmap(read):
        raise SceneError(f"The mask file '{path.name}' cannot be read", "Copy the study's folder again.")
    node = _hidden(scene, "vtkMRMLSegmentationNode", MASK_NAME)
    scene.AddNode(node)
    for number, segment in enumerate(segmentsOf(read), start=1):
        mask, place = segmentBounds(segment)
        if not mask.any():
            continue
        copy, image = slicer.vtkSegment(), slicer.vtkOrientedImageData()
        copy.SetName(str(number))
        copy.SetColor(*_MASK_COLORS[(number - 1) % len(_MASK_COLORS)])
        _fill(image, mask, place)
        copy.AddRepresentation(_LABELMAP, image)
        node.GetSegmentation().AddSegment(copy, str(number))
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    _hide(display)
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    display.SetOpacity2DOutline(1.0)
    display.SetVisibility3D(False)
    private.Clear(1)
    return node


def middleOf(volumeNode) -> np.ndarray:
    """(3,) RAS mm of the middle voxel of a volume."""
    toRas = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(toRas)
    size = np.array(volumeNode.GetImageData().GetDimensions())
    return (slicer.util.arrayFromVTKMatrix(toRas) @ [*(size // 2), 1.0])[:3]


def middleOfMask(segmentationNode) -> np.ndarray | None:
    """(3,) RAS mm of the mask's voxel that is next to its middle, which may lie outside of it; None if it is empty."""
    points = []
    for segment in segmentsOf(segmentationNode):
        mask, place = segmentBounds(segment)
        if mask.any():
            voxels = np.argwhere(mask)[:, ::-1]
            points.append((np.column_stack([voxels, np.ones(len(voxels))]) @ place.T)[:, :3])
    if not points:
        return None
    every = np.concatenate(points)
    return every[np.argmin(np.sum((every - every.mean(0)) ** 2, axis=1))]


def removeWithDisplay(scene, node) -> None:
    """Removes a node and its display nodes."""
    displays = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    for gone in [node, *displays]:
        if gone is not None and scene.IsNodePresent(gone):
            scene.RemoveNode(gone)


def _hidden(scene, className: str, name: str):
    """A node that is not yet in the scene: hidden before it is added, or Slicer lists it in the subject hierarchy."""
    node = scene.CreateNodeByClass(className)
    node.UnRegister(None)
    node.SetName(name)
    _hide(node)
    return node


def _hide(node) -> None:
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)


def _fill(image, mask: np.ndarray, place: np.ndarray) -> None:
    """Makes a label map of a mask.

    Args:
        image: vtkOrientedImageData.
        mask: (k, j, i) bool.
        place: (4, 4) index (i, j, k) in the mask to RAS mm.
    """
    from vtk.util.numpy_support import numpy_to_vtk

    depth, height, width = mask.shape
    image.SetExtent(0, width - 1, 0, height - 1, 0, depth - 1)
    values = np.ascontiguousarray(mask, np.uint8).ravel()
    image.GetPointData().SetScalars(numpy_to_vtk(values, deep=True))
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(place))
