"""Makes all volumes of a study alike in everything but the image: grid, orientation, range, type, header, file size.

What decides the common form is chosen from all volumes, by rules that do not look at single arms where they can do
without: the coarsest voxel spacing, the largest field that all volumes have, the range of values that real and
synthetic volumes both reach. Nothing is padded: a border that one arm has and another has not is the plainest leak.

Two things remain that no rewriting takes away, and the leak report names both: the image itself, and the traces of
interpolation where the volumes of one arm had to be resampled and those of another had not.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.reader_study.equalise_notes import (
    SAME_SPACING,
    by,
    coarsest,
    cutting_notes,
    in_mm,
    resampling_notes,
    smallest,
)
from SynthDiffusionLib.volumes import Volume, read_segmentation, read_volume, write_segmentation, write_volume
from SynthDiffusionLib.volumes.checks import MAX_VOXELS
from SynthDiffusionLib.volumes.volume import Segment, Segmentation

PERCENTILES = (0.5, 99.5)
PERCENTILE_LEVELS = 1000  # what the percentiles become
LARGEST_VALUE = 1e9  # of a voxel: no CT or MR intensity is as large, and calculations with it stay exact enough
SMALLEST_RANGE = 100  # grey values: with fewer, rounding to whole numbers shows
_RIGHT_ANGLE = 0.01  # cosine of two axes, 0.6 degrees: below it, the shear moves no voxel visibly
_MEMBER = struct.pack("<4BIBB", 0x1F, 0x8B, 8, 4, 0, 0, 255)  # RFC 1952: deflate, with an extra field, no time, unknown
_EMPTY = b"\x03\x00" + bytes(8)  # an empty deflate block, the CRC-32 and the length of nothing
_MEMBER_BYTES = len(_MEMBER) + 2 + len(_EMPTY)
_LARGEST_EXTRA = 65535


@dataclass(frozen=True)
class Survey:
    """What one source volume is like, its axes turned to R, A and S.

    Args:
        shape: (I, J, K).
        spacing: mm.
        low, high: smallest and largest value.
        oblique_deg: largest angle between an axis of the volume and one of the patient.
        name: of the file, for messages.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    low: float
    high: float
    oblique_deg: float
    name: str = ""


@dataclass(frozen=True)
class Target:
    """The form that all volumes get.

    Args:
        spacing: mm along R, A, S.
        size: voxels.
        low, high: range that values are clipped to.
        step: distance of grey values, a whole number; 1 keeps all of them.
        percentiles: whether each volume is scaled by its own `PERCENTILES` first (for MR, whose numbers have no unit).
        notes: sentences for the coordinator: what the volumes lose.
    """

    spacing: tuple[float, float, float]
    size: tuple[int, int, int]
    low: float
    high: float
    step: int = 1
    percentiles: bool = False
    notes: tuple[str, ...] = ()

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) RAS, the middle of the volume at the origin."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = -np.asarray(self.spacing) * (np.asarray(self.size) - 1) / 2
        return affine

    def to_json(self) -> dict[str, Any]:
        return {
            "spacing_mm": list(self.spacing),
            "size": list(self.size),
            "intensity": [self.low, self.high],
            "step": self.step,
            "scaled_by_percentiles": list(PERCENTILES) if self.percentiles else None,
            "dtype": "int16",
            "orientation": "RAS",
            "notes": list(self.notes),
        }


def read_turned(path: Path) -> Volume:
    """A source volume as float32 with its axes turned nearest to R, A, S.

    Raises:
        BadInput: as `read_volume`; axes that are not at right angles, as of a series with a tilted gantry: it is shown
            on a rectangular grid, which would distort it; values beyond `LARGEST_VALUE`.
    """
    from SynthDiffusionLib.volumes.resample import reorient

    with np.errstate(over="ignore", invalid="ignore"):  # a scaling that is too large gives infinite voxels, refused
        volume = read_volume(path)
    directions = volume.affine[:3, :3] / volume.spacing
    cosine = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if cosine > _RIGHT_ANGLE:
        angle = float(np.degrees(np.arccos(min(1.0, cosine))))
        raise BadInput(
            f"'{shortened(path.name)}' is sheared: two of its axes stand at {angle:.1f} degrees instead of 90, as with "
            "a tilted gantry, and it would be shown distorted",
            "Resample it to a grid with right angles first, or leave it out.",
        )
    for value in (float(volume.array.min()), float(volume.array.max())):
        if abs(value) > LARGEST_VALUE:
            raise BadInput(
                f"'{shortened(path.name)}' holds the value {value:g}, which no CT or MR intensity is: at most "
                f"{LARGEST_VALUE:g} in size can be shown",
                "Is the file damaged, or its scaling? Export it again, or leave it out.",
            )
    return reorient(volume.with_array(volume.array.astype(np.float32)), "RAS")


def survey(volume: Volume, name: str = "") -> Survey:
    """What is needed of a volume, as `read_turned` gives it, to choose the common form; `name` is for messages."""
    directions = volume.affine[:3, :3] / volume.spacing
    cosine = np.abs(np.diag(directions)).min()
    return Survey(
        volume.shape,
        tuple(float(s) for s in volume.spacing),
        float(volume.array.min()),
        float(volume.array.max()),
        float(np.degrees(np.arccos(min(1.0, cosine)))),
        name,
    )


def choose_target(
    surveys: Sequence[Survey],
    truths: Sequence[int],
    blinding: Mapping[str, Any],
    viewing: Mapping[str, Any] = {},
) -> Target:
    """The common form of all volumes of a study.

    Args:
        surveys: of all volumes.
        truths: 0 real, 1 synthetic, of each.
        blinding: the design's part of this name.
        viewing: the design's part of this name: with locked windows, nothing outside of them is ever seen, and values
            are clipped to them.

    Raises:
        BadInput: a size that not all volumes have, a range without grey values, or one that int16 cannot hold.
    """
    notes: list[str] = []
    given = blinding.get("spacing_mm", "common")
    own = np.array([s.spacing for s in surveys])
    spacing = own.max(0) if given == "common" else np.asarray(given, float)
    spacing = np.array([float(f"{v:.6g}") for v in spacing])  # without the dust of single precision
    fields = np.array([_shape_at(s, spacing) for s in surveys])
    resampled = np.array([needs_resampling(s, spacing) for s in surveys])
    notes += resampling_notes(surveys, resampled, np.asarray(truths), spacing, asked=given != "common")
    least = fields.min(0)
    wanted = blinding.get("size", "common")
    size = least if wanted == "common" else np.asarray(wanted, int)
    if (size > least).any():
        raise BadInput(
            f"The size {by(size)} is larger than some volumes ({by(least)} voxels is what all have): "
            f"{smallest(surveys, fields, [axis for axis in range(3) if size[axis] > least[axis]])}",
            'Give that or less, or "common": volumes are never padded, since a border tells where they come from.',
        )
    if size.min() < 2:
        narrow = [axis for axis in range(3) if size[axis] < 2]
        coarse = coarsest(surveys, narrow) if given == "common" else ""
        raise BadInput(
            f"At a spacing of {in_mm(spacing)} mm the volumes have {by(size)} voxels in common: "
            f"{smallest(surveys, fields, narrow)}" + (f"; the spacing is the coarsest: {coarse}" if coarse else ""),
            "Give a finer spacing_mm, or leave out the volumes that are so small.",
        )
    if (voxels := math.prod(int(n) for n in size)) > MAX_VOXELS:
        raise BadInput(
            f"At a spacing of {in_mm(spacing)} mm the volumes would have {by(size)} = {voxels:.3g} voxels, more than "
            f"the {MAX_VOXELS:,} that can be read",
            "Give a coarser spacing_mm, or a smaller size.",
        )
    notes += cutting_notes(surveys, fields, size, asked=wanted != "common")
    worst = max(s.oblique_deg for s in surveys)
    if worst > 1.0:
        notes.append(
            f"Directions are dropped, since they could tell volumes apart: one volume is turned by {worst:.0f} degrees "
            "against the axes of the patient, and is shown along its own axes."
        )
    low, high, percentiles = _range(surveys, truths, blinding, viewing, notes)
    step = int(blinding.get("step", 1))
    if (high - low) / step < SMALLEST_RANGE:
        raise BadInput(
            f"The values from {low:g} to {high:g} in steps of {step} leave fewer than {SMALLEST_RANGE} grey values",
            'Give "intensity": "percentiles" under "blinding", which scales them to '
            f"0 to {PERCENTILE_LEVELS}, or a smaller step.",
        )
    limits = np.iinfo(np.int16)
    if low < limits.min or high > limits.max:
        raise BadInput(
            f"The values from {low:g} to {high:g} do not fit into 16 bits",
            'Give a range as "intensity" under "blinding", or "percentiles".',
        )
    return Target(
        tuple(float(s) for s in spacing),
        tuple(int(n) for n in size),
        low,
        high,
        step,
        percentiles,
        tuple(notes),
    )


def needs_resampling(found: Survey, spacing: Sequence[float]) -> bool:
    """Whether a volume has to be interpolated to get this spacing."""
    return not np.allclose(found.spacing, spacing, rtol=SAME_SPACING, atol=0)


def equalised(volume: Volume, target: Target, name: str = "A volume") -> Volume:
    """A volume, as `read_turned` gives it, in the common form; int16, without metadata.

    Raises:
        BadInput: nothing is left to see: all voxels have one value.
    """
    shape, affine = target_grid(volume, target)
    from SynthDiffusionLib.volumes.resample import resample_to

    array = resample_to(volume, shape, affine).array
    if target.percentiles:
        # The middle that is shown, not the whole volume: a larger field would shift the scale of its arm.
        low, high = np.percentile(array, PERCENTILES)
        array = (array - low) * (PERCENTILE_LEVELS / max(high - low, 1e-6))
    array = np.rint(np.clip(array, target.low, target.high))
    if target.step != 1:
        # Down, not to the nearest: half-way values would go to every second step, and tell where they came from.
        array = np.floor(array / target.step) * target.step
    if array.min() == array.max():
        raise BadInput(
            f"Of '{name}' nothing is to be seen: between {target.low:g} and {target.high:g} all voxels have one value",
            "Is it in the unit of the others (HU)? Leave it out, or give another range of 'intensity'.",
        )
    return Volume(array.astype(np.int16), target.affine, "arbitrary")


def target_grid(volume: Volume, target: Target) -> tuple[tuple[int, int, int], np.ndarray]:
    """The part of a turned volume that is kept, in the volume's own frame: shape and affine.

    Where the spacing is (nearly) the volume's own, the grid lies on its voxels, so that nothing is interpolated.
    """
    found = survey_of_grid(volume)
    spacing = np.asarray(target.spacing)
    if not needs_resampling(found, spacing):
        start = (np.asarray(volume.shape) - target.size) // 2
        affine = volume.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        return target.size, affine
    directions = volume.affine[:3, :3] / volume.spacing
    middle = volume.affine[:3, 3] + volume.affine[:3, :3] @ ((np.asarray(volume.shape) - 1) / 2)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.asarray(target.size) - 1) / 2)
    return target.size, affine


def survey_of_grid(volume: Volume) -> Survey:
    """`survey` of the grid alone."""
    return Survey(volume.shape, tuple(float(s) for s in volume.spacing), 0.0, 0.0, 0.0)


def write_equal_files(volumes: Mapping[Path, Callable[[], Volume]], on_file: Callable[[int], None] = id) -> int:
    """Writes volumes as .nii.gz files of one and the same size.

    The files are filled up with empty gzip members, which every reader of gzip passes over (RFC 1952, section 2.2: a
    file is a series of members, and unpacks to the series of their contents).

    Args:
        volumes: path, ending with .nii.gz, and what makes the volume; one volume is in memory at a time.
        on_file: called with the number of files written so far.

    Returns:
        bytes of each file.

    Raises:
        BadInput, RunFailed: as `write_volume`.
    """
    for number, (path, make) in enumerate(volumes.items(), 1):
        write_volume(make(), path)
        on_file(number)
    return equal_sizes(list(volumes))


def equal_sizes(paths: Sequence[Path]) -> int:
    """Fills gzip files up to one size; returns it.

    Raises:
        RunFailed: the disk is full.
    """
    from SynthDiffusionLib.volumes.atomic import writing_error

    sizes = [path.stat().st_size for path in paths]
    # Every file gets a filling, also the largest: that it has none would tell it from the others.
    size = max(sizes) + 2 * _MEMBER_BYTES
    for path, own in zip(paths, sizes):
        try:
            with open(path, "ab") as file:
                file.write(gzip_filling(size - own))
        except OSError as error:
            raise writing_error(error, path) from error
    return size


def gzip_filling(size: int) -> bytes:
    """Empty gzip members of so many bytes altogether, at least 22."""
    if size < _MEMBER_BYTES:
        raise ValueError(f"a gzip member cannot have {size} bytes")
    largest = _MEMBER_BYTES + _LARGEST_EXTRA
    out = io.BytesIO()
    while size:
        # What is left for the next one must be enough for a member.
        part = size if size <= largest else min(largest, size - _MEMBER_BYTES)
        out.write(_MEMBER + struct.pack("<H", part - _MEMBER_BYTES) + bytes(part - _MEMBER_BYTES) + _EMPTY)
        size -= part
    return out.getvalue()


def segment_table(paths: Sequence[Path]) -> tuple[Segment, ...]:
    """One list of segments for the masks of all arms: names and colors must not differ between them.

    For each label value the name that most masks give it, and no other attribute but its terminology if all agree.

    Raises:
        BadInput: as `read_segmentation`; a mask with overlapping segments.
    """
    named: dict[int, dict[str, int]] = {}
    for path in paths:
        segmentation = read_segmentation(path, empty=True)
        if len(segmentation.layers) > 1:
            raise BadInput(f"{path.name}: its segments overlap", "Give masks as label maps of one layer.")
        for segment in segmentation.segments:
            names = named.setdefault(segment.value, {})
            names[segment.name] = names.get(segment.name, 0) + 1
    table = []
    for value in sorted(named):
        names = named[value]
        name = max(sorted(names), key=lambda n: names[n])
        table.append(Segment(f"Structure {name}" if name.isdecimal() else name, value))
    return tuple(table)


def equalised_mask(path: Path, volume: Volume, target: Target, table: tuple[Segment, ...]) -> Segmentation:
    """A mask on the grid that its volume gets.

    Args:
        path: of the mask, on any grid in the frame of the volume.
        volume: as `read_turned` gives it.
        table: of `segment_table`.

    Raises:
        BadInput: nothing of it is left in the part of the volume that is shown.
    """
    from SynthDiffusionLib.volumes.resample import resample_segmentation

    shape, affine = target_grid(volume, target)
    placed = resample_segmentation(read_segmentation(path), shape, affine)
    array = placed.layers[0].astype(np.uint8 if max(s.value for s in table) < 256 else np.uint16)
    if not array.any():
        raise BadInput(
            f"{path.name}: the mask lies outside of the part of its volume that is shown",
            "Crop the volumes around their masks first, or give a larger size.",
        )
    return Segmentation((array,), target.affine, table)


def write_equal_masks(masks: Mapping[Path, Callable[[], Segmentation]]) -> None:
    """Writes masks as .seg.nrrd files of one size, filled up by a header field that is in all of them."""
    kept = {}
    for path, make in masks.items():
        kept[path] = make
        write_segmentation(make(), path, {"Filling": ""})
    largest = max((path.stat().st_size for path in kept), default=0)
    for path, make in kept.items():
        write_segmentation(make(), path, {"Filling": "0" * (largest - path.stat().st_size)})


def _shape_at(found: Survey, spacing: np.ndarray) -> tuple[int, int, int]:
    """Voxels that a volume has at a spacing, only those that lie in it whole."""
    if not needs_resampling(found, spacing):
        return found.shape
    return tuple(int(n) for n in np.floor(np.asarray(found.shape) * found.spacing / spacing + 1e-6))


def _range(
    surveys: Sequence[Survey],
    truths: Sequence[int],
    blinding: Mapping[str, Any],
    viewing: Mapping[str, Any],
    notes: list[str],
) -> tuple[float, float, bool]:
    given = blinding.get("intensity", "common")
    if given == "percentiles":
        return 0.0, float(PERCENTILE_LEVELS), True
    if given != "common":
        return float(given[0]), float(given[1]), False
    groups = [[s for s, t in zip(surveys, truths) if t == truth] for truth in sorted(set(truths))]
    # Half of the volumes of either kind reach the limits: one with a single odd voxel does not set them.
    low = max(float(np.median([s.low for s in group])) for group in groups)
    high = min(float(np.median([s.high for s in group])) for group in groups)
    windows = viewing.get("windows") or ()
    if viewing.get("window_locked") and windows:
        seen_low = min(w["center"] - w["width"] / 2 for w in windows)
        seen_high = max(w["center"] + w["width"] / 2 for w in windows)
        if seen_low < high and seen_high > low:
            low, high = max(low, seen_low), min(high, seen_high)
    low, high = float(np.floor(low)), float(np.ceil(high))
    widest = max(s.high for s in surveys) - min(s.low for s in surveys)
    if high - low < 0.999 * widest:
        notes.append(
            f"Values are clipped to {low:g} to {high:g}; the volumes hold {min(s.low for s in surveys):g} to "
            f"{max(s.high for s in surveys):g}."
        )
    return low, high, False
