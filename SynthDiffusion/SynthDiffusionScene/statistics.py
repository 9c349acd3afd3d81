"""What a table beside two volumes says of each segment: volume, mean, standard deviation, adherence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import slicer.util

from SynthDiffusionScene.grids import boxOfBlock, countOutside, resample, shifted
from SynthDiffusionScene.segmentations import segmentBounds
from SynthDiffusionScene.volumes import ijkToRas, provenanceOf

_LABELMAP = "Binary labelmap"


@dataclass(frozen=True)
class RegionStatistics:
    """A segment in one volume.

    Args:
        voxels: voxels of the volume's own grid whose centres lie in the segment.
        mean: their mean, in the volume's unit; None without voxels.
        deviation: their standard deviation (n - 1, as in Slicer's Segment Statistics and ITK); None without voxels.
        outsideMl: how much of what was drawn lies beyond the volume, in ml.
    """

    voxels: int
    mean: float | None
    deviation: float | None
    outsideMl: float


@dataclass(frozen=True)
class SegmentRow:
    """One line of the table.

    Args:
        segmentId: in its segmentation.
        name: of the segment.
        color: red, green, blue, 0 to 1.
        drawnVoxels: voxels of the segment's own label map; None if it has none (a surface).
        volumeMl: those voxels in ml.
        real: the segment in the real volume.
        synthetic: the segment in the synthetic volume.
        meanDifference: mean of the synthetic minus mean of the real volume; None if one of them is missing.
        note: what the reader should know, or "".
    """

    segmentId: str
    name: str
    color: tuple[float, float, float]
    drawnVoxels: int | None
    volumeMl: float | None
    real: RegionStatistics
    synthetic: RegionStatistics
    meanDifference: float | None
    note: str


@dataclass(frozen=True)
class Adherence:
    """How far the package's segmenter finds in the synthetic volume what was drawn.

    Args:
        className: the model's class that was measured; "" if none was.
        dice: Dice of found and drawn voxels, 0 to 1; None if it was not measured.
        realDice: mean Dice of the same segmenter on real images; None if not known.
        ballDice: that of a ball in the middle that does not look at the image; None if not known.
        note: why there is no Dice, or "".
        segments: names of the segments that were drawn for this class.
    """

    className: str
    dice: float | None
    realDice: float | None
    ballDice: float | None
    note: str
    segments: tuple[str, ...]

    @property
    def text(self) -> str:
        """For a cell: "0.71 (real images: 0.68, blind ball: 0.42)", or the note."""
        if self.dice is None:
            return self.note
        rows = (("real images", self.realDice), ("blind ball", self.ballDice))
        known = ", ".join(f"{name}: {dice:.2f}" for name, dice in rows if dice is not None)
        return f"{self.dice:.2f} ({known})" if known else f"{self.dice:.2f}"


def compareSegments(segmentationNode, realNode, syntheticNode) -> list[SegmentRow]:
    """Measures every segment in both volumes, each on its own grid (nearest neighbour of the segment's label map).

    All three are taken in their own coordinates: they belong under the same transform.
    """
    segmentation = segmentationNode.GetSegmentation()
    return [
        _row(segmentId, segmentation.GetSegment(segmentId), realNode, syntheticNode)
        for segmentId in segmentation.GetSegmentIDs()
    ]


def segmentVoxels(segment, volumeNode) -> np.ndarray:
    """Voxels of a volume whose centres lie in a segment, one after the other; none if it has no label map."""
    mask, box = segmentOnGrid(segment, volumeNode)
    return slicer.util.arrayFromVolume(volumeNode)[box][mask]


def segmentOnGrid(segment, volumeNode) -> tuple[np.ndarray, tuple[slice, slice, slice]]:
    """A segment on the grid of a volume, in the part of it that the segment touches.

    Returns:
        mask: bool, shape of the part (K, J, I).
        box: the part, as slices along k, j, i of the volume's array.
    """
    block, place = segmentBounds(segment)
    array, grid = slicer.util.arrayFromVolume(volumeNode), ijkToRas(volumeNode)
    if not block.size:
        return np.zeros((0, 0, 0), bool), (slice(0, 0),) * 3
    box = boxOfBlock(block.shape, place, array.shape, grid)
    shape = tuple(part.stop - part.start for part in box)
    mask = resample(block.astype(np.uint8), place, shape, shifted(grid, box), linear=False)
    return mask.astype(bool), box


def adherenceOf(syntheticNode) -> Adherence:
    """What the engine measured when it made the volume, from its provenance."""
    provenance = provenanceOf(syntheticNode) or {}
    measured = provenance.get("adherence")
    if not isinstance(measured, Mapping):
        return Adherence("", None, None, None, str(provenance.get("adherence_note") or "not measured"), ())
    className = str(measured.get("class") or "")
    entries = (provenance.get("mapping") or {}).get("segments") or []
    segments = tuple(str(entry.get("name")) for entry in entries if entry.get("class") == className)
    figures = [measured.get(name) for name in ("dice", "real_dice", "ball_dice")]
    return Adherence(className, *figures, "" if figures[0] is not None else "not measured", segments)


def _row(segmentId: str, segment, realNode, syntheticNode) -> SegmentRow:
    real, synthetic = _region(segment, realNode), _region(segment, syntheticNode)
    drawn = volumeMl = difference = None
    if segment.GetRepresentation(_LABELMAP) is not None:
        mask, place = segmentBounds(segment)
        drawn, volumeMl = int(mask.sum()), float(mask.sum() * _voxelMl(place))
    if real.mean is not None and synthetic.mean is not None:
        difference = synthetic.mean - real.mean
    note = _note(drawn, real, synthetic)
    return SegmentRow(
        segmentId, segment.GetName(), segment.GetColor(), drawn, volumeMl, real, synthetic, difference, note
    )


def _region(segment, volumeNode) -> RegionStatistics:
    values = segmentVoxels(segment, volumeNode).astype(np.float64)
    mask, place = segmentBounds(segment)
    outside = 0
    if mask.size:
        shape = slicer.util.arrayFromVolume(volumeNode).shape
        outside = countOutside(mask, place, shape, ijkToRas(volumeNode))
    if not values.size:
        return RegionStatistics(0, None, None, outside * _voxelMl(place))
    deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return RegionStatistics(int(values.size), float(values.mean()), deviation, outside * _voxelMl(place))


def _note(drawn: int | None, real: RegionStatistics, synthetic: RegionStatistics) -> str:
    if drawn is None:
        return "A surface without voxels: create its binary label map in the Segmentations module."
    if drawn == 0:
        return "Nothing is drawn."
    notes = []
    for title, region in (("real", real), ("synthetic", synthetic)):
        if region.outsideMl and not region.voxels:
            notes.append(f"It lies outside of the {title} volume.")
        elif region.outsideMl:
            notes.append(f"{formatMl(region.outsideMl)} ml of it lie outside of the {title} volume.")
        elif not region.voxels:
            notes.append(f"It is smaller than the voxels of the {title} volume.")
    return " ".join(notes)


def formatMl(volumeMl: float) -> str:
    """Millilitres with three significant digits, and no exponent: "0.0123", "4.57", "3210"."""
    if volumeMl <= 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(volumeMl)))
    return f"{volumeMl:.{digits}f}"


def _voxelMl(affine: np.ndarray) -> float:
    return float(abs(np.linalg.det(affine[:3, :3])) / 1000.0)
