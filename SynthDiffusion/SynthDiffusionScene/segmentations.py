"""Segmentation nodes to job inputs and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from SynthDiffusionScene.errors import SceneError
from SynthDiffusionScene.grids import boxOfBlock, onLattice, resample, shifted
from SynthDiffusionScene.names import nameOfFile
from SynthDiffusionScene.nrrd import checkedHeader
from SynthDiffusionScene.volumes import ijkToRas

JOB_SEGMENTATION = "segmentation.seg.nrrd"
_LABELMAP = "Binary labelmap"  # vtkSegmentationConverter::GetBinaryLabelmapRepresentationName


def writeJobInput(segmentationNode, jobFolder: str | Path) -> dict[str, str]:
    """Writes a segmentation as the input of a job, `segmentation.seg.nrrd` in its folder. See `exportSegmentation`.

    A copy is written, in which no two segments have the same name, since the engine tells segments apart by name. The
    user's node stays as it is.

    Args:
        segmentationNode: a vtkMRMLSegmentationNode.
        jobFolder: an existing folder.

    Returns:
        The names in the file by segment ID: those of `uniqueNames`.

    Raises:
        SceneError: as for `exportSegmentation`.
    """
    if segmentationNode is None:
        checkSegmentation(None)
    names = uniqueNames(segmentationNode)
    copy = _copyOf(segmentationNode)
    for segmentId, name in names.items():
        copy.GetSegmentation().GetSegment(segmentId).SetName(name)
    exportSegmentation(copy, Path(jobFolder) / JOB_SEGMENTATION)
    return names


def uniqueNames(segmentationNode) -> dict[str, str]:
    """A name for each segment that no other one has, by segment ID, in the order of the segments.

    A name is kept where it can be: blanks at its ends and control characters, which a file would lose, become single
    blanks, a segment without a name is called by its ID, and the second "nodule" becomes "nodule (2)".
    """
    segmentation = segmentationNode.GetSegmentation()
    wanted = {}
    for segmentId in segmentation.GetSegmentIDs():
        name = segmentation.GetSegment(segmentId).GetName() or ""
        printable = "".join(mark if mark.isprintable() else " " for mark in name.replace("\\", "/"))
        wanted[segmentId] = " ".join(printable.split()) or segmentId
    taken, names = set(wanted.values()), {}
    for segmentId, name in wanted.items():
        if name in names.values():
            number = next(n for n in range(2, len(wanted) + 2) if f"{name} ({n})" not in taken)
            name = f"{name} ({number})"
            taken.add(name)
        names[segmentId] = name
    return names


def exportSegmentation(segmentationNode, path: str | Path) -> None:
    """Writes a segmentation with Slicer's own writer: names, colors, terminology, layers of overlapping segments.

    The grid of the file is the segmentation's reference geometry (its source volume; where it has none, its label maps'
    grid), enlarged where a segment reaches beyond it. Coordinates are those of the node: a transform above it is not
    applied, so what is made from the file belongs under the same transform (`volumes.addSyntheticVolume` sees to it).

    Args:
        segmentationNode: a vtkMRMLSegmentationNode. Its label maps may be merged into fewer layers, as on every save.
        path: file to write, ending in .seg.nrrd.

    Raises:
        SceneError: nothing to write, or it cannot be written.
    """
    checkSegmentation(segmentationNode)
    node = segmentationNode
    if not isLabelmap(node):
        node = _withLabelmaps(segmentationNode)
    _ensureGrid(node)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(Path(path).resolve()))
    storage.SetCropToMinimumExtent(False)
    if not storage.WriteData(node):
        raise SceneError(
            f"The segmentation '{segmentationNode.GetName()}' could not be written to '{path}'",
            "Check that the folder exists, is writable and has space.",
            kind="internal",
        )


def exportOnGrid(segmentationNode, volumeNode, path: str | Path) -> bool:
    """Writes a segmentation on the grid of a volume, such as a crop of its own, with names as `uniqueNames` gives them.

    Both nodes' own coordinates are used: they belong under the same transform. The nodes stay as they are.

    Args:
        segmentationNode: a vtkMRMLSegmentationNode.
        volumeNode: a vtkMRMLScalarVolumeNode with voxels.
        path: file to write, ending in .seg.nrrd.

    Returns:
        True if its voxels lie on those of the volume, and were copied; False if the nearest ones were taken.

    Raises:
        SceneError: as for `exportSegmentation`, or nothing of it lies on the volume.
    """
    checkSegmentation(segmentationNode)
    node = segmentationNode if isLabelmap(segmentationNode) else _withLabelmaps(segmentationNode)
    affine, size = ijkToRas(volumeNode), volumeNode.GetImageData().GetDimensions()
    grid = _orientedImage((0, size[0] - 1, 0, size[1] - 1, 0, size[2] - 1), affine)
    moved = slicer.vtkMRMLSegmentationNode()
    moved.SetName(segmentationNode.GetName())
    geometry = slicer.vtkSegmentationConverter.SerializeImageGeometry(grid)
    moved.GetSegmentation().SetConversionParameter(_gridParameter(), geometry)
    copied = True
    for segmentId, name in uniqueNames(node).items():
        source, segment = node.GetSegmentation().GetSegment(segmentId), slicer.vtkSegment()
        segment.DeepCopyMetadata(source)
        segment.SetName(name)
        segment.SetLabelValue(1)
        mask, place = segmentBounds(source)
        segment.AddRepresentation(_LABELMAP, _maskOnGrid(mask, place, size[::-1], affine))
        moved.GetSegmentation().AddSegment(segment, segmentId)
        copied = copied and (not mask.size or onLattice(place, size[::-1], affine))
    if not any(segmentMask(segment).any() for segment in segmentsOf(moved)):
        raise SceneError(
            f"Nothing of the segmentation '{segmentationNode.GetName()}' lies on the volume '{volumeNode.GetName()}'",
            "Choose to export the volume without its segmentation.",
        )
    exportSegmentation(moved, path)
    return copied


def _maskOnGrid(mask: np.ndarray, place: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray):
    """A block of voxels, as `segmentBounds` gives it, on a grid: a vtkOrientedImageData of as little as holds it."""
    box = boxOfBlock(mask.shape, place, shape, affine)
    size = tuple(part.stop - part.start for part in box)
    if not mask.size or min(size) == 0:
        image = _orientedImage((0, -1, 0, -1, 0, -1), affine)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        return image
    voxels = resample(mask.astype(np.uint8), place, size, shifted(affine, box), linear=False)
    image = _orientedImage([n for part in box[::-1] for n in (part.start, part.stop - 1)], affine)
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel(), deep=True))
    return image


def _orientedImage(extent, affine: np.ndarray):
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*extent)
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(affine))
    return image


def importSegmentation(scene, path: str | Path, name: str | None = None) -> slicer.vtkMRMLSegmentationNode:
    """Reads a .seg.nrrd file into a new segmentation node with display and storage nodes.

    Args:
        scene: the MRML scene.
        path: the file.
        name: of the node; default the file's name without its suffixes.

    Raises:
        SceneError: the file is missing, cannot be read, or holds no segment with voxels.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise SceneError(f"Segmentation file '{path}' does not exist", "Check the path.")
    header = checkedHeader(path)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name or nameOfFile(path))
    try:
        if not storage.ReadData(node):
            raise SceneError(f"'{path}' could not be read as a segmentation", "Give a .seg.nrrd file.")
        checkSegmentation(node)
    except SceneError:
        scene.RemoveNode(node)
        raise
    _ensureGrid(node, _extentOfFile(header))
    scene.AddNode(storage)
    node.SetAndObserveStorageNodeID(storage.GetID())
    node.CreateDefaultDisplayNodes()
    return node


def checkSegmentation(segmentationNode) -> None:
    """Refuses what Slicer's writer loses or dies of.

    An empty segmentation is written as one voxel at the origin, and its geometry is lost. A segment without a name ends
    the whole process (std::logic_error in the writer, seen with Slicer 5.12.4), so it is given its ID for a name.

    Raises:
        SceneError: no segment, or no segment with voxels.
    """
    if segmentationNode is None:
        raise SceneError("No segmentation is selected", "Select or draw one.")
    segmentation = segmentationNode.GetSegmentation()
    name = segmentationNode.GetName() or "(unnamed)"
    if segmentation.GetNumberOfSegments() == 0:
        raise SceneError(f"The segmentation '{name}' has no segments", "Draw or load at least one.")
    for segmentId in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segmentId)
        if not segment.GetName():
            segment.SetName(segmentId)
    if isLabelmap(segmentationNode) and not any(segmentMask(segment).any() for segment in segmentsOf(segmentationNode)):
        raise SceneError(f"All segments of '{name}' are empty", "Draw into at least one of them.")


def isLabelmap(segmentationNode) -> bool:
    """Whether voxels are what the segmentation is drawn in, rather than surfaces."""
    return segmentationNode.GetSegmentation().IsSourceRepresentationImageData()


def segmentsOf(segmentationNode) -> list:
    """The vtkSegments of a node, in their order."""
    segmentation = segmentationNode.GetSegmentation()
    return [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]


def addressOf(representation) -> str:
    """Tells whether two segments share a representation: the same text for the same object."""
    return representation.GetAddressAsString("vtkDataObject")


def segmentMask(segment) -> np.ndarray:
    """Voxels of a segment on its own label map's extent: bool, shape (K, J, I); empty if it has no label map."""
    labelmap = segment.GetRepresentation(_LABELMAP)
    scalars = labelmap.GetPointData().GetScalars() if labelmap is not None else None
    if scalars is None:
        return np.zeros((0, 0, 0), bool)
    shape = tuple(reversed(labelmap.GetDimensions()))
    return vtk_to_numpy(scalars).reshape(shape) == segment.GetLabelValue()


def segmentBounds(segment) -> tuple[np.ndarray, np.ndarray]:
    """The smallest block of voxels that holds a segment, and where it lies; independent of how it is stored.

    Returns:
        mask: bool, shape (K, J, I).
        affine: (4, 4), voxel indices (i, j, k) of the block to RAS mm.
    """
    mask = segmentMask(segment)
    used = np.nonzero(mask)
    if not len(used[0]):
        return np.zeros((0, 0, 0), bool), np.eye(4)
    low = [int(axis.min()) for axis in used]
    block = tuple(slice(start, int(axis.max()) + 1) for start, axis in zip(low, used))
    labelmap = segment.GetRepresentation(_LABELMAP)
    shift = np.eye(4)
    shift[:3, 3] = np.array(labelmap.GetExtent()[::2]) + low[::-1]
    return mask[block], _imageToWorld(labelmap) @ shift


def hasGrid(segmentationNode) -> bool:
    """Whether a segmentation has a reference geometry, without which Slicer's writer crops it to the drawn voxels."""
    parameters = segmentationNode.GetSegmentation().SerializeAllConversionParameters()
    # "name|value|description&name|value|..."; asked in this way because GetConversionParameter logs an error if absent.
    values = {entry.split("|")[0]: entry.split("|")[1] for entry in parameters.split("&") if entry.count("|") >= 2}
    return bool(values.get(_gridParameter()))


def _gridParameter() -> str:
    return slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()


def _ensureGrid(segmentationNode, extent: tuple[int, ...] | None = None) -> None:
    """Gives a segmentation that has no reference geometry that of its label maps, provided that they share a lattice.

    Args:
        segmentationNode: its source representation is label maps.
        extent: first and last index along i, j, k; default the extents of all label maps together.
    """
    labelmaps = [segment.GetRepresentation(_LABELMAP) for segment in segmentsOf(segmentationNode)]
    labelmaps = [labelmap for labelmap in labelmaps if labelmap is not None and labelmap.GetNumberOfPoints()]
    if hasGrid(segmentationNode) or not labelmaps:
        return
    matrices = [_imageToWorld(labelmap) for labelmap in labelmaps]
    if not all(np.allclose(matrix, matrices[0], atol=1e-6) for matrix in matrices):
        return
    if extent is None:
        extents = np.array([labelmap.GetExtent() for labelmap in labelmaps])
        extent = [int(n) for pair in zip(extents[:, ::2].min(0), extents[:, 1::2].max(0)) for n in pair]
    geometry = slicer.vtkSegmentationConverter.SerializeImageGeometry(_orientedImage(extent, matrices[0]))
    segmentationNode.GetSegmentation().SetConversionParameter(_gridParameter(), geometry)


def _extentOfFile(header: Mapping[str, str]) -> tuple[int, ...] | None:
    """Extent of the whole grid of a .seg.nrrd file; the reader keeps only the segments' extents."""
    try:
        sizes = [int(n) for n in header["sizes"].split()][-3:]
        offset = [int(n) for n in header.get("Segmentation_ReferenceImageExtentOffset", "0 0 0").split()]
    except ValueError:
        return None
    if len(sizes) != 3 or len(offset) != 3:
        return None
    return tuple(n for start, size in zip(offset, sizes) for n in (start, start + size - 1))


def _imageToWorld(labelmap) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _withLabelmaps(segmentationNode) -> slicer.vtkMRMLSegmentationNode:
    """A copy outside of the scene whose source representation is label maps, on the node's reference geometry."""
    name = segmentationNode.GetName()
    if not hasGrid(segmentationNode):
        raise SceneError(
            f"The segmentation '{name}' consists of surfaces and has no voxel grid",
            "Choose its source volume in the Segment Editor.",
        )
    copy = _copyOf(segmentationNode)
    if not copy.GetSegmentation().CreateRepresentation(_LABELMAP):
        raise SceneError(f"The surfaces of '{name}' could not be turned into label maps", kind="internal")
    copy.GetSegmentation().SetSourceRepresentationName(_LABELMAP)
    checkSegmentation(copy)
    return copy


def _copyOf(segmentationNode) -> slicer.vtkMRMLSegmentationNode:
    """A node outside of the scene with copies of all segments, under the same IDs and in the same layers.

    Not vtkSegmentation.DeepCopy, which loses the voxels where Slicer's segmentation module has not been started.
    """
    source = segmentationNode.GetSegmentation()
    copy = slicer.vtkMRMLSegmentationNode()
    copy.SetName(segmentationNode.GetName())
    copy.GetSegmentation().SetSourceRepresentationName(source.GetSourceRepresentationName())
    copy.GetSegmentation().CopyConversionParameters(source)
    copied = {}
    for segmentId in source.GetSegmentIDs():
        segment, other = slicer.vtkSegment(), source.GetSegment(segmentId)
        segment.DeepCopyMetadata(other)
        names: list[str] = []
        other.GetContainedRepresentationNames(names)
        for name in names:
            data = other.GetRepresentation(name)
            layer = addressOf(data)
            if layer not in copied:
                copied[layer] = data.NewInstance()
                copied[layer].DeepCopy(data)
            segment.AddRepresentation(name, copied[layer])
        copy.GetSegmentation().AddSegment(segment, segmentId)
    return copy
