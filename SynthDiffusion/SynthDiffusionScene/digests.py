"""Digests of drawings and volumes: whether a node is still what a synthetic volume was made from."""

from __future__ import annotations

import hashlib

import numpy as np
import slicer.util
from vtk.util.numpy_support import vtk_to_numpy

from SynthDiffusionScene.segmentations import isLabelmap, segmentBounds, uniqueNames
from SynthDiffusionScene.volumes import ijkToRas

# Attributes of a synthetic volume. They are saved with the scene.
DRAWING_DIGEST = "SynthDiffusion.DrawingDigest"
REAL_VOLUME_DIGEST = "SynthDiffusion.RealVolumeDigest"
VOXEL_DIGEST = "SynthDiffusion.VoxelDigest"

_PLACES_A_MM = 1000
# Places are rounded, since a file may change their last digits. This keeps usual ones (half a voxel of 0.625 mm) away
# from the limit between two rounded values.
_ROUNDING_OFFSET = 0.2718


def segmentationDigest(segmentationNode) -> str:
    """The same text for the same drawing, however it is stored: names, voxels and places of the segments, in order.

    Segments in which nothing is drawn do not count, and neither do colours, terminology and the transform above. Of a
    segmentation of surfaces, their points count.
    """
    segmentation, found = segmentationNode.GetSegmentation(), hashlib.sha256()
    for segmentId, name in uniqueNames(segmentationNode).items():
        segment = segmentation.GetSegment(segmentId)
        if isLabelmap(segmentationNode):
            mask, affine = segmentBounds(segment)
            content = [np.array(mask.shape), np.packbits(mask), _rounded(affine)] if mask.size else []
        else:
            surface = segment.GetRepresentation(segmentation.GetSourceRepresentationName())
            points = surface.GetPoints() if surface is not None else None
            content = [_rounded(vtk_to_numpy(points.GetData()))] if points is not None else []
        if content:
            found.update(name.encode() + b"\0")
        for part in content:
            found.update(np.ascontiguousarray(part))
    return found.hexdigest()


def volumeDigest(volumeNode) -> str:
    """The same text for the same voxels, of the same type, at the same place; the transform above does not count."""
    voxels = slicer.util.arrayFromVolume(volumeNode)
    found = hashlib.sha256(f"{voxels.dtype} {voxels.shape}".encode())
    found.update(np.ascontiguousarray(voxels))
    found.update(_rounded(ijkToRas(volumeNode)))
    return found.hexdigest()


def drawingChanged(volumeNode, segmentationNode) -> bool:
    """Whether a segmentation is another drawing than the one that a synthetic volume was made from.

    False where the volume does not say what it was made from.
    """
    made = volumeNode.GetAttribute(DRAWING_DIGEST)
    return bool(made) and made != segmentationDigest(segmentationNode)


def realVolumeChanged(volumeNode, realNode) -> bool:
    """Whether a real volume is another one than that which a synthetic volume was inpainted into; see above."""
    made = volumeNode.GetAttribute(REAL_VOLUME_DIGEST)
    return bool(made) and made != volumeDigest(realNode)


def voxelsChanged(volumeNode) -> bool:
    """Whether a synthetic volume is not as the engine has made it any more."""
    made = volumeNode.GetAttribute(VOXEL_DIGEST)
    return bool(made) and made != volumeDigest(volumeNode)


def _rounded(places: np.ndarray) -> np.ndarray:
    return np.floor(places.astype(float) * _PLACES_A_MM + _ROUNDING_OFFSET).astype(np.int64)
