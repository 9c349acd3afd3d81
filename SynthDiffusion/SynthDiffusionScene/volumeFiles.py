"""Volume nodes as files: the real image of a job, and a generated volume that is to be exported."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk

from SynthDiffusionScene.bundle import moveIntoPlace
from SynthDiffusionScene.drawing import isBlank
from SynthDiffusionScene.errors import SceneError
from SynthDiffusionScene.volumes import MODEL, SEED, SYNTHETIC, checkVolume, ijkToRas

# What the engine must learn about an image. Not the other attributes: they may tell who the patient is.
_MARKS = (SYNTHETIC, MODEL, SEED)
_SAME_PLACE = 1e-6
_RIGHT_ANGLE = 1e-4  # largest cosine of the angle between two axes


def writeVolume(volumeNode, path: str | Path, segmentationNode=None) -> Path:
    """Writes a volume as NRRD: its voxels and geometry exactly, its marks if it is synthetic, and nothing else.

    Args:
        volumeNode: a vtkMRMLScalarVolumeNode; stays as it is.
        path: file to write, ending in .nrrd. It gets its name when it is complete.
        segmentationNode: for the real image of a job, the segmentation that goes with it. Both files then hold the
            nodes' own coordinates, so both nodes must lie under the same transform. Without a segmentation a linear
            transform above the volume is applied, so that the file lies where the user sees the volume.

    Returns:
        `path`.

    Raises:
        SceneError: no volume, one without voxels or with several values a voxel, labels, the blank volume of a drawing,
            a transform that a file cannot hold or that differs from the segmentation's, or a folder that cannot be
            written to.
    """
    path = Path(path)
    if path.suffix.lower() != ".nrrd":
        raise SceneError(f"The file name '{path.name}' does not end in .nrrd", "Give it that ending.")
    _checkScalar(volumeNode)
    if segmentationNode is None:
        affine = _affineInWorld(volumeNode)
    else:
        _checkImageFor(volumeNode, segmentationNode)
        affine = ijkToRas(volumeNode)
    if not np.isfinite(affine).all():
        raise SceneError(
            f"The volume '{volumeNode.GetName()}' has no valid position",
            "Check its origin and spacing (Volumes module).",
        )
    copy = slicer.vtkMRMLScalarVolumeNode()
    copy.SetAndObserveImageData(volumeNode.GetImageData())
    copy.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    for mark in _MARKS:
        if volumeNode.GetAttribute(mark):
            copy.SetAttribute(mark, volumeNode.GetAttribute(mark))
    with tempfile.TemporaryDirectory(prefix="synthdiffusion-", ignore_cleanup_errors=True) as folder:
        # Not vtkMRMLVolumeArchetypeStorageNode, which writes no attributes.
        storage = slicer.vtkMRMLNRRDStorageNode()
        storage.SetUseCompression(False)
        storage.SetFileName(str(Path(folder) / "volume.nrrd"))
        if not storage.WriteData(copy):
            raise SceneError(
                f"The volume '{volumeNode.GetName()}' could not be written",
                "Check the free space of the temporary folder.",
                kind="internal",
            )
        moveIntoPlace(Path(storage.GetFileName()), path)
    return path


def _checkScalar(volumeNode) -> None:
    if volumeNode is None:
        raise SceneError("No volume is selected", "Select one.")
    checkVolume(volumeNode)
    name = volumeNode.GetName()
    if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise SceneError(f"'{name}' is a label map, not an image", "Choose the image, or import it as a segmentation.")
    values = volumeNode.GetImageData().GetNumberOfScalarComponents()
    if values != 1:
        raise SceneError(f"'{name}' has {values} values a voxel", "Choose a volume of grey values.")


def _checkImageFor(volumeNode, segmentationNode) -> None:
    """Refuses what cannot be the real image of a job with this segmentation."""
    name = volumeNode.GetName()
    if isBlank(volumeNode):
        raise SceneError(f"'{name}' is the blank volume of a drawing, not an image", "Choose a real volume.")
    own, other = volumeNode.GetParentTransformNode(), segmentationNode.GetParentTransformNode()
    between = vtk.vtkMatrix4x4()
    same = own is other or (
        slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(own, other, between)
        and np.allclose(slicer.util.arrayFromVTKMatrix(between), np.eye(4), rtol=0, atol=_SAME_PLACE)
    )
    if not same:
        raise SceneError(
            f"The volume '{name}' and the segmentation '{segmentationNode.GetName()}' lie under different transforms",
            "Put both under the same transform, or harden the transforms (Data module, right click).",
        )


def _affineInWorld(volumeNode) -> np.ndarray:
    """(4, 4) voxel indices to RAS mm, with the transforms above the node applied."""
    toWorld = vtk.vtkMatrix4x4()
    linear = slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(
        volumeNode.GetParentTransformNode(), None, toWorld
    )
    affine = slicer.util.arrayFromVTKMatrix(toWorld) @ ijkToRas(volumeNode)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / np.where(lengths > 0, lengths, 1)
    if not linear or np.abs(axes.T @ axes - np.eye(3)).max() > _RIGHT_ANGLE:
        raise SceneError(
            f"The volume '{volumeNode.GetName()}' lies under a transform that bends or shears it, which a file cannot "
            "hold",
            "Harden it (Data module, right click), which resamples the volume, or take the volume out of it.",
        )
    return affine
