"""One volume of a set with its label map, from their files to the frame that all volumes of all sets are brought to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.training import mr_intensity
from SynthDiffusionLib.volumes import (
    Segmentation,
    Volume,
    read_segmentation,
    read_volume,
    reorient,
    resample_to,
    resample_volume,
    same_grid,
)
from SynthDiffusionLib.volumes.grid import grid_with_spacing

ORIENTATION = "LPS"
RANGES = {"CT": (-1000.0, 1000.0), "MR": (0.0, 1000.0)}
UNITS = {"CT": "HU", "MR": "arbitrary"}
LARGEST_LABEL = np.iinfo(np.uint16).max
# Of a voxel while its volume is read: its stored value, float32 twice, and float64 twice for the percentiles of MR.
_BYTES = {"CT": 12, "MR": 24}
_MEMORY_SHARE = 0.5  # of the free memory that one volume may take while it is read
_SAMPLED = 4_000_000  # voxels that are enough for a percentile
LARGEST_VALUE = float(np.finfo(np.float32).max) / 1e6  # of an image: what is computed with it must stay in float32
FEWEST_VOXELS = 8  # along an axis of a resampled volume, and of a cube; fewer show no anatomy


class SpacingFault(BadInput):
    """A volume that cannot be used because of `--spacing`, and could without."""


@dataclass(frozen=True)
class Frame:
    """How every volume of every set is brought to one form before anything is measured.

    Args:
        modality: "CT" (HU) or "MR".
        spacing_mm: (3,) along i, j, k in the orientation LPS; None keeps the volumes' own, which must be one.
        intensity_range: values are clipped to it; HU, or for MR the scale of `training.mr_intensity`.
        normalise: MR only: bring each volume to that scale by its own percentiles. False for volumes that are on one
            scale already, such as those of a prepared data set.
    """

    modality: str
    spacing_mm: tuple[float, float, float] | None
    intensity_range: tuple[float, float]
    normalise: bool = True

    def to_json(self) -> dict[str, Any]:
        """For the results."""
        return {
            "modality": self.modality,
            "unit": UNITS[self.modality],
            "spacing_mm": list(self.spacing_mm) if self.spacing_mm else None,
            "intensity_range": list(self.intensity_range),
            "normalised_by_percentiles": self.modality == "MR" and self.normalise,
            "orientation": ORIENTATION,
        }


@dataclass(frozen=True)
class SetCase:
    """One volume of a set.

    Args:
        name: file name without suffix.
        patient: the unit of every interval, split and fold; of a synthetic volume, whose mask it was made for.
        file: its path.
        sha256: of the file.
        image: (I, J, K) float32, in the set's frame.
        labels: (I, J, K) uint16 on the same grid, or None.
        affine: (4, 4) of both, RAS mm.
    """

    name: str
    patient: str
    file: Path
    sha256: str
    image: np.ndarray
    labels: np.ndarray | None
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        return tuple(float(n) for n in np.linalg.norm(self.affine[:3, :3], axis=0))


@dataclass(frozen=True)
class Read:
    """What `read_case` found in the files.

    Args:
        case: in the frame.
        darkest: smallest value of the image, and its first percentile, before anything was done to it.
        names: of label values, where the file has names for them.
    """

    case: SetCase
    darkest: tuple[float, float]
    names: dict[int, str]


def read_case(name: str, patient: str, path: Path, label_file: Path | None, frame: Frame) -> Read:
    """Reads a volume and its label map, and brings them to the frame.

    Raises:
        BadInput: either cannot be read, they have different grids, values too large, too few or all the same, or do
            not fit into memory.
        SpacingFault: at the frame's spacing it has too few voxels, or does not fit into memory.
    """
    image = read_volume(path, UNITS[frame.modality])
    check_fits(np.prod(image.shape, dtype=float) * _BYTES[frame.modality], path.name)
    check_values(image.array, path.name)
    if image.array.size < FEWEST_VOXELS**3:
        raise BadInput(f"{path.name}: {' x '.join(map(str, image.shape))} voxels are too few to show anatomy")
    if frame.spacing_mm is not None:
        _check_resampled(image, frame, path.name)
    darkest = float(image.array.min()), first_percentile(image.array)
    labels, names = _read_labels(label_file, image) if label_file is not None else (None, {})
    image = image.with_array(image.array.astype(np.float32))
    if frame.modality == "MR" and frame.normalise:
        scale = mr_intensity.percentile_range(image.array, path.name)
        image = image.with_array(mr_intensity.to_scale(image.array, *scale).astype(np.float32))
    image = reorient(image, ORIENTATION)
    labels = reorient(labels, ORIENTATION) if labels is not None else None
    if frame.spacing_mm is not None:
        image = resample_volume(image, frame.spacing_mm)
        labels = resample_to(labels, image.shape, image.affine) if labels is not None else None
    np.clip(image.array, *frame.intensity_range, out=image.array)  # a copy already, and volumes can be large
    array = np.ascontiguousarray(image.array, np.float32)
    if array.min() == array.max():
        low, high = frame.intensity_range
        raise BadInput(
            f"{path.name}: every voxel is {array.flat[0]:g} in the range {low:g} to {high:g}: it is constant"
        )
    classes = np.ascontiguousarray(labels.array, np.uint16) if labels is not None else None
    return Read(SetCase(name, patient, path, _digest(path), array, classes, image.affine), darkest, names)


def check_fits(wanted_bytes: float, name: str) -> None:
    """Refuses a volume that would fill the memory, such as a small file whose header and zeros unpack to gigabytes.

    Raises:
        BadInput: naming both sizes.
    """
    import psutil

    free = psutil.virtual_memory().available
    if wanted_bytes > _MEMORY_SHARE * free:
        raise BadInput(
            f"{name}: reading it takes {wanted_bytes / 2**30:.1f} GiB of memory, more than half of the "
            f"{free / 2**30:.1f} GiB free",
            "Crop the volume, or give a coarser --spacing.",
        )


def check_values(array: np.ndarray, name: str) -> None:
    """Refuses values that float32 has no room for.

    Raises:
        BadInput: naming the largest.
    """
    largest = max(abs(float(array.min())), abs(float(array.max())))
    if largest > LARGEST_VALUE:
        raise BadInput(
            f"{name}: it has values beyond float32, up to {largest:.3g}", "Save it in HU, or in its scanner's units."
        )


def _check_resampled(image: Volume, frame: Frame, name: str) -> None:
    own, affine = _along_axes(image)
    shape = grid_with_spacing(own, affine, frame.spacing_mm)[0]
    told = " x ".join(f"{mm:g}" for mm in frame.spacing_mm)
    if any(n < FEWEST_VOXELS and n < m for n, m in zip(shape, own, strict=True)):
        raise SpacingFault(
            f"{name}: at a spacing of {told} mm it has {' x '.join(map(str, shape))} voxels, fewer than "
            f"{FEWEST_VOXELS} along an axis",
            "Give a finer --spacing.",
        )
    try:
        check_fits(np.prod(shape, dtype=float) * _BYTES[frame.modality], name)
    except BadInput as error:
        raise SpacingFault(f"{error.message}, at a spacing of {told} mm", "Give a coarser --spacing.") from error


def first_percentile(array: np.ndarray) -> float:
    """The first percentile of an image; of a large one, of a regular part of its voxels."""
    step = max(1, int((array.size / _SAMPLED) ** (1 / 3)))
    return float(np.percentile(array[::step, ::step, ::step], 1))


def _along_axes(image: Volume) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine after `reorient`, which moves no voxel in memory."""
    turned = reorient(image, ORIENTATION)
    return turned.shape, turned.affine


def _read_labels(path: Path, image: Volume) -> tuple[Volume, dict[int, str]]:
    """A label map on the image's grid, and the names that its file gives to values."""
    try:
        return _labels_on_grid(path, image)
    except BadInput as error:  # whose file may have the name of the image's
        raise BadInput(f"label map {error.message}", error.hint) from error


def _labels_on_grid(path: Path, image: Volume) -> tuple[Volume, dict[int, str]]:
    segmentation = read_segmentation(path, empty=True)
    array = _one_layer(segmentation, path.name)
    if int(array.max()) > LARGEST_LABEL:
        raise BadInput(f"{path.name}: label value {int(array.max())} is too large", f"{LARGEST_LABEL} is the most.")
    if not array.any():
        raise BadInput(f"{path.name}: it has no class, only background")
    names = {s.value: s.name.strip() for s in segmentation.segments if s.name.strip() != str(s.value)}
    if not same_grid(image.shape, image.affine, array.shape, segmentation.affine):
        # Slicer saves no more of a segmentation than what is drawn.
        placed = placed_on(image, array, segmentation.affine) if path.name.lower().endswith(".seg.nrrd") else None
        if placed is None:
            raise BadInput(f"{path.name}: it is on another grid than its image")
        array = placed
    return Volume(array.astype(np.uint16), image.affine, "label"), names


def _one_layer(segmentation: Segmentation, name: str) -> np.ndarray:
    """(I, J, K) label map of a segmentation whose segments do not overlap."""
    if len(segmentation.layers) == 1:
        return segmentation.layers[0]
    out = np.zeros(segmentation.shape, np.uint32)
    seen: dict[int, str] = {}
    for segment in segmentation.segments:
        mask = segmentation.mask(segment)
        if not mask.any():
            continue
        if segment.value in seen:
            raise BadInput(
                f"{name}: '{seen[segment.value]}' and '{segment.name}' have the same label value, in different layers",
                "Save it as a label map, with one value for each class.",
            )
        if np.any(out[mask]):
            raise BadInput(f"{name}: its segments overlap", "Save it as a label map, with one value for each voxel.")
        seen[segment.value] = segment.name
        out[mask] = segment.value
    return out


def placed_on(image: Volume, array: np.ndarray, affine: np.ndarray, cut: bool = False) -> np.ndarray | None:
    """A part of the image's grid, with zeros all around; None if its voxels are not the image's.

    Args:
        image: whose grid it is put on.
        array: (I, J, K) labels.
        affine: of `array`.
        cut: what lies outside of the image is left away; otherwise there must be nothing.
    """
    index_map = np.linalg.solve(image.affine, affine)
    start = np.rint(index_map[:3, 3]).astype(int)
    moved = image.affine.copy()
    moved[:3, 3] += image.affine[:3, :3] @ start
    if not same_grid(array.shape, affine, array.shape, moved):
        return None
    low = np.maximum(start, 0)
    high = np.minimum(start + array.shape, image.shape)
    if np.any(high <= low):
        return None
    inner = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    if not cut and np.count_nonzero(array[inner]) < np.count_nonzero(array):  # drawn outside of the image
        return None
    out = np.zeros(image.shape, array.dtype)
    out[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = array[inner]
    return out


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
