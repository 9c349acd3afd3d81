"""Volumes in the scene: loading, and marking what is synthetic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk

from SynthDiffusionScene.errors import SceneError
from SynthDiffusionScene.hierarchy import placeInSameStudy
from SynthDiffusionScene.names import holdsRealPixels, modelId, nameOfFile, seedOf, syntheticName

SYNTHETIC = "SynthDiffusion.Synthetic"
PROVENANCE = "SynthDiffusion.Provenance"
MODEL = "SynthDiffusion.Model"
SEED = "SynthDiffusion.Seed"
REAL_PIXELS = "SynthDiffusion.ContainsRealPatientPixels"

# Lung window of chest CT, in HU.
_CT_WINDOW, _CT_LEVEL = 1400.0, -500.0
_GREY = "vtkMRMLColorTableNodeGrey"


def addSyntheticVolume(
    scene, imagePath: str | Path, provenance: Mapping, segmentationNode=None, name: str | None = None
) -> slicer.vtkMRMLScalarVolumeNode:
    """Loads a generated volume beside the segmentation that it was made from, named and marked as synthetic.

    It joins the segmentation's study in the subject hierarchy (made where missing) and its parent transform.

    Args:
        scene: the MRML scene.
        imagePath: the generated file (NIfTI, NRRD, MetaImage).
        provenance: what the engine wrote beside it. Used here: `case`, `model` (ID, or an object with `id`), `seed` and
            `mode` (here or in `settings`), `contains_real_patient_pixels`, `modality`, `display` ({"window", "level"}),
            `output_sha256` of the file. All of it is kept as the node's attribute.
        segmentationNode: what it was made from; None for unconditional generation.
        name: of the node; default "CASE synthetic (MODEL, seed N)".

    Raises:
        SceneError: the file cannot be read as a scalar 3D volume, is empty, or is not the one that was generated.
    """
    case = str(provenance.get("case") or (segmentationNode.GetName() if segmentationNode else nameOfFile(imagePath)))
    _checkUnchanged(Path(imagePath), provenance.get("output_sha256"))
    node = loadVolume(scene, imagePath, name or syntheticName(case, provenance))
    markSynthetic(node, provenance)
    setDisplay(node, provenance)
    if segmentationNode is not None:
        placeInSameStudy(scene, node, segmentationNode, case)
        node.SetAndObserveTransformNodeID(segmentationNode.GetTransformNodeID())
    return node


def loadVolume(scene, path: str | Path, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """Loads a scalar 3D image file as a volume node with display and storage nodes.

    Raises:
        SceneError: as for `addSyntheticVolume`. Nothing is left in the scene then.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise SceneError(f"Volume file '{path}' does not exist", "Check the path.")
    # Storage node rather than slicer.util.loadVolume: that one needs the application's I/O manager.
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetSingleFile(True)
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    if not storage.ReadData(node):
        raise SceneError(f"'{path}' could not be read as a 3D volume", "Give a NIfTI, NRRD or MetaImage file.")
    checkVolume(node)
    scene.AddNode(node)
    scene.AddNode(storage)
    node.SetAndObserveStorageNodeID(storage.GetID())
    node.CreateDefaultDisplayNodes()
    return node


def checkVolume(volumeNode) -> None:
    """Refuses a volume node without voxels, which a scene file could not hold.

    Raises:
        SceneError: no voxels.
    """
    image = volumeNode.GetImageData() if volumeNode else None
    if image is None or image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
        name = volumeNode.GetName() if volumeNode else "(none)"
        raise SceneError(f"The volume '{name}' has no voxels", "Load its file again, or generate it again.")


def markSynthetic(volumeNode, provenance: Mapping) -> None:
    """Writes the marks and the whole provenance into the node's attributes, which are saved with the scene."""
    volumeNode.SetAttribute(SYNTHETIC, "YES")
    volumeNode.SetAttribute(PROVENANCE, json.dumps(provenance, ensure_ascii=False, sort_keys=True))
    volumeNode.SetAttribute(MODEL, modelId(provenance))
    volumeNode.SetAttribute(SEED, seedOf(provenance))
    if holdsRealPixels(provenance):
        volumeNode.SetAttribute(REAL_PIXELS, "YES")


def provenanceOf(volumeNode) -> dict | None:
    """The provenance that a volume carries, or None if it is not one of ours."""
    text = volumeNode.GetAttribute(PROVENANCE)
    return json.loads(text) if text else None


def setDisplay(volumeNode, provenance: Mapping) -> None:
    """Grey scale, with a window and level for the modality.

    Args:
        volumeNode: a node with a display node.
        provenance: `display` ({"window", "level"}; empty for automatic), else `modality`: the lung window for "CT",
            which is the default, and automatic for others.
    """
    display = volumeNode.GetDisplayNode()
    display.SetAndObserveColorNodeID(_GREY)
    wanted = provenance.get("display")
    if wanted and "window" in wanted and "level" in wanted:
        window, level = float(wanted["window"]), float(wanted["level"])
    elif wanted is None and str(provenance.get("modality", "CT")).upper() == "CT":
        window, level = _CT_WINDOW, _CT_LEVEL
    else:
        display.SetAutoWindowLevel(True)
        return
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(window, level)


def _checkUnchanged(path: Path, sha256: str | None) -> None:
    """Refuses a file that was cut off: Slicer's reader takes a short NIfTI file without a word."""
    if not sha256 or not path.is_file():
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise SceneError(
            f"The file '{path}' is not the one that was generated (its checksum differs)", "Generate it again."
        )


def ijkToRas(volumeNode) -> np.ndarray:
    """(4, 4) voxel indices (i, j, k) to RAS mm, without the node's parent transform."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)
