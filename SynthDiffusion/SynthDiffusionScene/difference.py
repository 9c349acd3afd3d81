"""The difference volume: synthetic minus real, on the grid of the synthetic volume."""

from __future__ import annotations

import numpy as np
import slicer.util

from SynthDiffusionScene.digests import realVolumeChanged, voxelsChanged
from SynthDiffusionScene.grids import resample
from SynthDiffusionScene.names import holdsRealPixels
from SynthDiffusionScene.runs import REAL_VOLUME_ROLE
from SynthDiffusionScene.temporaryNodes import addTemporary
from SynthDiffusionScene.volumes import ijkToRas, provenanceOf

NOTE_WHOLE = (
    "A wholly synthetic volume shows new anatomy around the drawing, so differences from a real volume are not errors."
)
NOTE_INPAINTED = "The synthetic volume was inpainted into this real one: only the drawn region and its rim differ."
NOTE_INPAINTED_ELSEWHERE = (
    "The synthetic volume was inpainted into another real volume, so differences from this one are not errors."
)
NOTE_INPAINTED_UNKNOWN = "The synthetic volume was inpainted into a real one, which may be another one than this."
NOTE_REAL_CHANGED = "The real volume was changed after this volume was made."
NOTE_SYNTHETIC_CHANGED = "The synthetic volume was changed after it was made."

# Stands where the real volume does not reach; a difference never comes near it. It is below the display's threshold.
OUTSIDE = -1.0e9
_COLORS = 256
# Blue where the synthetic volume is lower, red where it is higher: told apart with any colour vision. The middle is a
# grey that differs from the black beside the volume.
_LOWER, _MIDDLE, _HIGHER = (0.13, 0.55, 1.0), (0.22, 0.22, 0.22), (1.0, 0.35, 0.1)
_SAMPLES = 2_000_000


def unitOf(syntheticNode) -> str:
    """The unit "HU" for CT, else "". A volume that does not say its modality is taken for CT, as for its display."""
    modality = str((provenanceOf(syntheticNode) or {}).get("modality") or "CT").upper()
    return "HU" if modality == "CT" else ""


def differenceTitle(unit: str) -> str:
    """Caption of the difference view; `unit` as of `unitOf`."""
    return "Difference (synthetic minus real)" + (f", {unit}" if unit else "")


def differenceNote(syntheticNode, realNode) -> str:
    """What the difference means for these volumes, in a sentence or two; belongs beside every one that is shown.

    Both volumes are looked at as a whole, which takes a moment.
    """
    changed = [NOTE_SYNTHETIC_CHANGED] if voxelsChanged(syntheticNode) else []
    if not holdsRealPixels(provenanceOf(syntheticNode) or {}):
        return " ".join([NOTE_WHOLE, *changed])
    source = syntheticNode.GetNodeReference(REAL_VOLUME_ROLE)
    if source is None:
        return " ".join([NOTE_INPAINTED_UNKNOWN, *changed])
    if source is not realNode:
        return " ".join([NOTE_INPAINTED_ELSEWHERE, *changed])
    if realVolumeChanged(syntheticNode, realNode):
        changed.append(NOTE_REAL_CHANGED)
    return " ".join(changed) or NOTE_INPAINTED


def differenceArray(syntheticNode, realNode) -> np.ndarray:
    """Synthetic minus real, the real one interpolated linearly at the synthetic one's voxels.

    Both nodes are taken in their own coordinates: they belong under the same transform.

    Returns:
        float32, shape (K, J, I) of the synthetic volume; NaN where the real volume does not reach.
    """
    synthetic = slicer.util.arrayFromVolume(syntheticNode)
    real = slicer.util.arrayFromVolume(realNode)
    moved = resample(real, ijkToRas(realNode), synthetic.shape, ijkToRas(syntheticNode), linear=True)
    return synthetic.astype(np.float32) - moved


def suggestedLimit(difference: np.ndarray) -> float:
    """End of the colour scale: what 99 % of the differing voxels stay below, rounded up to two significant digits.

    Voxels without a difference are not counted, so that a small inpainted region sets the scale by itself.

    Args:
        difference: as of `differenceArray`.
    """
    values = difference.reshape(-1)
    values = np.abs(values[np.isfinite(values) & (values != 0)])
    if not values.size:
        return 1.0
    wanted = float(np.percentile(values[:: max(1, values.size // _SAMPLES)], 99))
    step = 10.0 ** (np.floor(np.log10(wanted)) - 1)
    return float(np.ceil(round(wanted / step, 6)) * step)


def addDifferenceVolume(scene, syntheticNode, difference: np.ndarray, limit: float) -> list:
    """Adds the difference as a volume that is hidden from editors and never saved.

    Args:
        scene: the MRML scene.
        syntheticNode: gives grid and parent transform.
        difference: as of `differenceArray`.
        limit: end of the colour scale; see `setDifferenceLimit`.

    Returns:
        The volume node first, then what else was added: its display node and its colours.
    """
    colors = addTemporary(scene, "vtkMRMLColorTableNode", "Difference colors")
    colors.SetTypeToUser()
    colors.SetNumberOfColors(_COLORS)
    for index in range(_COLORS):
        place = 2 * index - (_COLORS - 1)  # odd, -255 to 255: the two colours in the middle are both plain grey
        part, end = (abs(place) - 1) / (_COLORS - 2), _HIGHER if place > 0 else _LOWER
        color = [middle + part * (far - middle) for middle, far in zip(_MIDDLE, end)]
        colors.SetColor(index, f"{index}", *color, 1.0)
    display = addTemporary(scene, "vtkMRMLScalarVolumeDisplayNode", "Difference display")
    display.SetAndObserveColorNodeID(colors.GetID())
    display.SetAutoWindowLevel(False)
    # Voxels as they are: between the last voxel and OUTSIDE, an interpolated rim would show as a large difference.
    display.SetInterpolate(False)
    display.SetAutoThreshold(False)
    display.SetThreshold(OUTSIDE / 2, -OUTSIDE)
    display.SetApplyThreshold(True)
    volume = addTemporary(scene, "vtkMRMLScalarVolumeNode", differenceTitle(unitOf(syntheticNode)))
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRas(syntheticNode)))
    slicer.util.updateVolumeFromArray(volume, np.where(np.isnan(difference), np.float32(OUTSIDE), difference))
    volume.SetAndObserveTransformNodeID(syntheticNode.GetTransformNodeID())
    volume.SetAndObserveDisplayNodeID(display.GetID())
    setDifferenceLimit(volume, limit)
    return [volume, display, colors]


def setDifferenceLimit(differenceNode, limit: float) -> None:
    """Sets the colour scale to run from -limit to +limit (the volume's unit), with no difference in its middle."""
    differenceNode.GetDisplayNode().SetWindowLevel(2.0 * limit, 0.0)
