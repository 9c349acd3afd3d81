"""The part of a real volume that a model sees when it inpaints, and the way back into the volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.inpainting.regions import Region, rim_sampling, rim_widths
from SynthDiffusionLib.labels.condition import Condition
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.volumes import Volume, reorient, resample_to, shifted_affine

CONTEXT_MM = 12.0  # surroundings that the model sees on each side, where its grid allows
LEAST_CONTEXT_MM = 6.0
LARGEST_VALUE = 1e6  # of what the model sees; no unit of CT or MR comes near it


@dataclass(frozen=True)
class InpaintCrop:
    """One region on the model's grid.

    Args:
        condition: classes on the crop's grid.
        image: real values on the crop's grid, in the volume's unit.
        known: (I, J, K) bool, voxels that lie in the volume and outside the region and its rim.
        inside: (I, J, K) bool, voxels that lie in the volume.
        drawn: (I, J, K) bool, voxels of the region itself.
    """

    condition: Condition
    image: Volume
    known: np.ndarray
    inside: np.ndarray
    drawn: np.ndarray


def largest_region_mm(max_size: Sequence[int], spacing_mm: Sequence[float], rim_mm: float, limit_mm: float) -> float:
    """Longest side of a drawn region that fits the grid with its rim and the least surroundings, in mm."""
    side = min(n * s for n, s in zip(max_size, spacing_mm))
    return min(limit_mm, side - 2 * (rim_mm + LEAST_CONTEXT_MM))


def cut_crop(
    volume: Volume,
    class_map: np.ndarray,
    region: Region,
    scheme: LabelScheme,
    given: tuple[str, ...],
    *,
    orientation: str,
    spacing_mm: Sequence[float],
    max_size: Sequence[int],
    margin_mm: float,
    pending: np.ndarray | None = None,
) -> InpaintCrop:
    """Resamples a region and its surroundings to the model's spacing and orientation.

    Args:
        volume: the real volume.
        class_map: (I, J, K) on the volume's grid.
        region: where to inpaint.
        given: classes that the user has drawn.
        margin_mm: width of the rim; see also `rim_sampling`.
        pending: (I, J, K) bool on the volume's grid, voxels that other regions will change later. The class map shows
            those regions as they will be, so the volume's present values are not known there.
    """
    from scipy import ndimage

    box = region.box
    reach = [int(np.ceil(max(n * s for n, s in zip(max_size, spacing_mm)) / s)) for s in volume.spacing]
    start = [max(0, b.start - r) for b, r in zip(box, reach)]
    wide = tuple(slice(a, min(n, b.stop + r)) for a, b, r, n in zip(start, box, reach, volume.shape))
    affine = shifted_affine(volume.affine, start)

    drawn = np.zeros(volume.array[wide].shape, np.uint8)
    drawn[tuple(slice(b.start - a, b.stop - a) for a, b in zip(start, box))] = region.drawn()
    local = reorient(Volume(volume.array[wide], affine, volume.unit), orientation)
    local_drawn = reorient(Volume(drawn, affine, "label"), orientation)
    later = np.zeros(drawn.shape, np.uint8) if pending is None else pending[wide].astype(np.uint8)
    local_later = reorient(Volume(later, affine, "label"), orientation)
    local_classes = reorient(Volume(class_map[wide], affine, "label"), orientation)

    where = np.argwhere(local_drawn.array)
    low, high = where.min(0) - 0.5, where.max(0) + 0.5
    extent = (high - low) * local.spacing
    rim = rim_widths(local.spacing, margin_mm)
    size = [
        int(min(n, np.ceil((e + 2 * (r + CONTEXT_MM)) / s - 1e-3)))
        for n, e, r, s in zip(max_size, extent, rim, spacing_mm)
    ]
    grid = np.array(local.affine, float)
    grid[:3, :3] = local.affine[:3, :3] / local.spacing * np.asarray(spacing_mm)
    ratio = np.asarray(spacing_mm) / local.spacing
    first = (low + high) / 2 - (np.asarray(size) - 1) / 2 * ratio
    first = np.where(np.isclose(ratio, 1.0, atol=1e-3), np.rint(first), first)  # the volume's own voxels, not blurred
    grid[:3, 3] = local.affine[:3, :3] @ first + local.affine[:3, 3]

    finite = np.clip(local.array, -LARGEST_VALUE, LARGEST_VALUE).astype(np.float32)  # 1e300 would become infinite
    image = resample_to(Volume(finite, local.affine, local.unit), size, grid)
    ones = Volume(np.ones(local.shape, np.uint8), local.affine, "label")
    inside = resample_to(ones, size, grid, fill=0).array > 0
    region_here = resample_to(local_drawn, size, grid, fill=0).array > 0
    if not region_here.any():  # a drawing thinner than the model's voxels
        nearest = np.linalg.inv(grid) @ local.affine @ np.vstack([where.T, np.ones(len(where))])
        index = np.clip(np.rint(nearest[:3]).astype(int).T, 0, np.asarray(size) - 1)
        region_here[tuple(index.T)] = True
    sampling = np.asarray(spacing_mm) * rim_sampling(local.spacing, margin_mm) / local.spacing
    unknown = ndimage.distance_transform_edt(~region_here, sampling=sampling) <= margin_mm
    unknown |= resample_to(local_later, size, grid, fill=0).array > 0
    classes = resample_to(local_classes, size, grid, fill=0).array
    if not inside.all():  # the anatomy goes on beyond the border: a class that is given is not absent there
        nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
        classes = classes[tuple(nearest)]
    return InpaintCrop(Condition(classes, grid, scheme, given), image, inside & ~unknown, inside, region_here)


def paste(volume: Volume, region: Region, synthetic: Volume, margin_mm: float) -> Volume:
    """The volume with the region's voxels replaced, blended with the real ones over the outer half of the rim.

    Voxels outside the region and its rim keep their value, bit for bit.

    Args:
        volume: the real volume.
        synthetic: the crop with known voxels real and unknown ones synthetic, on the model's grid.
    """
    box = region.box
    here = tuple(s.stop - s.start for s in box)
    affine = shifted_affine(volume.affine, [s.start for s in box])
    wider = shifted_affine(synthetic.affine, (-1, -1, -1))
    padded = Volume(np.pad(synthetic.array, 1, mode="edge"), wider, volume.unit)
    values = resample_to(padded, here, affine).array
    weights = region.blend_weights(margin_mm)
    real = volume.array[box]
    blended = weights * values + (1.0 - weights) * real
    if np.issubdtype(volume.array.dtype, np.integer):
        limits = np.iinfo(volume.array.dtype)
        blended = np.clip(np.rint(blended), limits.min, limits.max)
    array = volume.array.copy()
    array[box] = np.where(weights > 0, blended.astype(array.dtype), real)
    return volume.with_array(array)
