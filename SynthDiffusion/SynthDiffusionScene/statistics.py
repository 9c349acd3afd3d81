"""What a table beside two volumes says of each segment: volume, mean, standard deviation, adherence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import slicer.util

from SynthDiffusionScene.grids import boxOfBlock, countOutside, insideGrid, resample, shifted
from SynthDiffusionScene.segmentations import segmentBounds
from SynthDiffusionScene.volumes import ijkToRas, provenanceOf

_LABELMAP = "Binary labelmap"


@dataclass(frozen=True)
class RegionStatistics:
    """A segment in one volume, in the part of it that the other volume shows too.

    Where one volume is a crop, what lies beside it is other tissue, which must not count in the other volume only.

    Args:
        voxels: voxels of the volume's own grid whose centres lie in the segment and in the other volume.
        mean: their mean, in the volume's unit; None without voxels.
        deviation: their standard deviation (n - 1, as in Slicer's Segment Statistics and ITK); None without voxels.
        outsideMl: how much of what was drawn lies beyond the volume, in ml.
        leftOut: voxels of the volume in the segment that are not counted, since the other volume does not show them.
    """

    voxels: int
    mean: float | None
    deviation: float | None
    outsideMl: float
    leftOut: int = 0


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
        note: why there is no Dice, or "".
        segments: names of the segments that were drawn for this class.
        structures: how many connected structures are drawn; None if not known, as in volumes of earlier versions.
        found: how many of them the segmenter finds; None if not known.
        realDice: mean Dice of the same segmenter on real images; None if not known.
        ballDice: for this drawing, that of a ball that does not look at the image; None if not known.
        cartoonDice: mean Dice of the same segmenter on a blurred blob in flat lung; None if not known.
        ofDrawing: "the earlier drawing" or the like if it was not measured with the drawing that is shown; else "".
        others: what was measured for further classes, of models whose segmenter finds several.
    """

    className: str
    dice: float | None
    note: str = ""
    segments: tuple[str, ...] = ()
    structures: int | None = None
    found: int | None = None
    realDice: float | None = None
    ballDice: float | None = None
    cartoonDice: float | None = None
    ofDrawing: str = ""
    others: tuple[Adherence, ...] = ()

    def textOf(self, segmentName: str) -> str:
        """For the cell of a segment: the text of the class that it was drawn for; "" if that was not measured."""
        measured = [a for a in (self, *self.others) if segmentName in a.segments]
        return replace(measured[0], ofDrawing=self.ofDrawing).text if measured else ""

    @property
    def text(self) -> str:
        """For a cell: "0.88, 1 of 1 found", or the note."""
        if self.dice is None:
            return self.note
        counted = f"{self.dice:.2f}" if self.found is None else f"{self.dice:.2f}, {self._count}"
        return f"{counted}, of {self.ofDrawing}" if self.ofDrawing else counted

    @property
    def brief(self) -> str:
        """For a narrow cell: "0.88", with ", 1 of 2 found" only where not all are; "" if it was not measured."""
        if self.dice is None:
            return ""
        return f"{self.dice:.2f}" if self.found == self.structures else self.text

    @property
    def explanation(self) -> str:
        """For a tooltip: what the figure is, what to compare it with and what it does not show; or the note."""
        if self.dice is None:
            return self.note
        what = f"Dice of the model's segmenter with the drawn {self.className or 'structure'}: {self.dice:.2f}"
        what += "." if self.found is None else f", {self._count}."
        what += "".join(f" {other.className}: {other.text}." for other in self.others)
        rows = (
            (self.realDice, "real images get {:.2f} on average"),
            (self.ballDice, "a ball that does not look at the image gets {:.2f} for this drawing"),
            (self.cartoonDice, "a flat picture with a blurred blob gets {:.2f} on average"),
        )
        known = [text.format(dice) for dice, text in rows if dice is not None]
        of = f", {self.className}" if self.others else ""
        compared = [f"For comparison{of}: {', '.join(known)}."] if known else []
        limit = (
            "A low value may mean that a structure is missing or misplaced; small and long structures get less, "
            "whatever the image. A value at or above that of real images does not mean that the image is realistic."
        )
        return " ".join([what, *compared, limit])

    @property
    def _count(self) -> str:
        return f"{self.found} of {self.structures} found"


def compareSegments(segmentationNode, realNode, syntheticNode) -> list[SegmentRow]:
    """Measures every segment in both volumes, each on its own grid (nearest neighbour of the segment's label map).

    Means are of the part that both volumes show; the volume in ml is of all that is drawn.

    All three are taken in their own coordinates: they belong under the same transform.
    """
    segmentation = segmentationNode.GetSegmentation()
    return [
        _row(segmentId, segmentation.GetSegment(segmentId), realNode, syntheticNode)
        for segmentId in segmentation.GetSegmentIDs()
    ]


def segmentVoxels(segment, volumeNode, otherNode) -> np.ndarray:
    """Voxels of a volume whose centres lie in a segment and in another volume, one after the other.

    None if the segment has no label map.
    """
    mask, box = segmentOnGrid(segment, volumeNode)
    return slicer.util.arrayFromVolume(volumeNode)[box][_shownToo(mask, box, volumeNode, otherNode)]


def commonVoxels(volumeNode, otherNode) -> np.ndarray:
    """Voxels of a volume whose centres lie in another volume; in the volume's shape if all of them do."""
    array, other = slicer.util.arrayFromVolume(volumeNode), slicer.util.arrayFromVolume(otherNode)
    box = boxOfBlock(other.shape, ijkToRas(otherNode), array.shape, ijkToRas(volumeNode))
    part = array[box]
    inside = insideGrid(part.shape, shifted(ijkToRas(volumeNode), box), other.shape, ijkToRas(otherNode))
    return part if inside is None else part[inside]


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
    return adherenceFrom(provenanceOf(syntheticNode) or {})


def adherenceFrom(provenance: Mapping) -> Adherence:
    """What a provenance says of adherence. Those of earlier versions say less."""
    measured = provenance.get("adherence")
    if not isinstance(measured, Mapping) or measured.get("dice") is None:
        return Adherence("", None, str(provenance.get("adherence_note") or "not measured"))
    entries = (provenance.get("mapping") or {}).get("segments") or []
    main = _oneAdherence(measured, entries)
    others = [target for name, target in (measured.get("targets") or {}).items() if name != main.className]
    return replace(main, others=tuple(_oneAdherence(target, entries) for target in others))


def _oneAdherence(measured: Mapping, entries: Sequence[Mapping]) -> Adherence:
    className = str(measured.get("class") or "")
    isCounted = measured.get("structures") is not None and measured.get("found") is not None
    return Adherence(
        className,
        measured["dice"],
        segments=tuple(str(entry.get("name")) for entry in entries if entry.get("class") == className),
        structures=measured["structures"] if isCounted else None,
        found=measured["found"] if isCounted else None,
        realDice=measured.get("real_dice"),
        # Without the counts it is the ball's mean over other drawings.
        ballDice=measured.get("ball_dice") if isCounted else None,
        cartoonDice=measured.get("cartoon_dice"),
    )


def _row(segmentId: str, segment, realNode, syntheticNode) -> SegmentRow:
    real, synthetic = _region(segment, realNode, syntheticNode), _region(segment, syntheticNode, realNode)
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


def _region(segment, volumeNode, otherNode) -> RegionStatistics:
    mask, box = segmentOnGrid(segment, volumeNode)
    array = slicer.util.arrayFromVolume(volumeNode)
    values = array[box][_shownToo(mask, box, volumeNode, otherNode)].astype(np.float64)
    drawn, place = segmentBounds(segment)
    outsideMl = 0.0
    if drawn.size:
        outsideMl = countOutside(drawn, place, array.shape, ijkToRas(volumeNode)) * _voxelMl(place)
    leftOut = int(mask.sum()) - int(values.size)
    if not values.size:
        return RegionStatistics(0, None, None, outsideMl, leftOut)
    deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return RegionStatistics(int(values.size), float(values.mean()), deviation, outsideMl, leftOut)


def _shownToo(mask: np.ndarray, box: tuple[slice, slice, slice], volumeNode, otherNode) -> np.ndarray:
    """The voxels of a mask (see `segmentOnGrid`) whose centres lie in another volume."""
    other = slicer.util.arrayFromVolume(otherNode)
    inside = insideGrid(mask.shape, shifted(ijkToRas(volumeNode), box), other.shape, ijkToRas(otherNode))
    return mask if inside is None else mask & inside


def _note(drawn: int | None, real: RegionStatistics, synthetic: RegionStatistics) -> str:
    if drawn is None:
        return "A surface without voxels: create its binary label map in the Segmentations module."
    if drawn == 0:
        return "Nothing is drawn."
    notes = []
    for title, region in (("real", real), ("synthetic", synthetic)):
        isSeen = region.voxels or region.leftOut
        if region.outsideMl and not isSeen:
            notes.append(f"It lies outside of the {title} volume.")
        elif region.outsideMl:
            notes.append(f"{formatMl(region.outsideMl)} ml of it lie outside of the {title} volume.")
        elif not isSeen:
            notes.append(f"It is smaller than the voxels of the {title} volume.")
    if real.leftOut or synthetic.leftOut:
        isShared = real.voxels or synthetic.voxels
        both = "Means, SD and voxels are of the part that both volumes show." if isShared else "No part is in both."
        notes.append(both)
    return " ".join(notes)


def formatMl(volumeMl: float) -> str:
    """Millilitres with three significant digits, and no exponent: "0.0123", "4.57", "3210"."""
    if volumeMl <= 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(volumeMl)))
    return f"{volumeMl:.{digits}f}"


def _voxelMl(affine: np.ndarray) -> float:
    return float(abs(np.linalg.det(affine[:3, :3])) / 1000.0)
