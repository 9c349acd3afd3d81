"""Which voxels of a real volume are synthesised: the drawn regions and a rim around each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput

LEAST_RIM_VOXELS = 1.5  # so that at least the neighbours of the drawing are blended, however coarse the volume


@dataclass(frozen=True)
class Region:
    """One region to inpaint.

    Args:
        box: slices of the volume that hold the region and its rim.
        distance_mm: distance of every voxel in the box to the drawn region, 0 inside it; infinite beyond the rim
            and on voxels that belong to another region. Along axes where voxels are large beside the margin it is
            counted as `rim_sampling` says.
    """

    box: tuple[slice, slice, slice]
    distance_mm: np.ndarray

    def drawn(self) -> np.ndarray:
        """Voxels of the box that the user has drawn, bool."""
        return self.distance_mm == 0

    def changed(self) -> np.ndarray:
        """Voxels of the box that may change: the drawn ones and the rim, bool."""
        return np.isfinite(self.distance_mm)

    def blend_weights(self, margin_mm: float) -> np.ndarray:
        """Share of the synthetic value: 1 in the drawn region, falling to 0 over the outer half of the rim."""
        feather = max(margin_mm / 2, 1e-6)
        weights = np.clip((margin_mm - self.distance_mm) / feather, 0.0, 1.0) * self.changed()
        return np.where(self.drawn(), 1.0, weights)  # also without a rim


def rim_sampling(spacing: Sequence[float], margin_mm: float) -> np.ndarray:
    """Voxel size to measure the rim with: the real one, but at most what lets the rim be `LEAST_RIM_VOXELS` wide.

    Args:
        spacing: voxel size in mm.
        margin_mm: width of the rim; without one (0) nothing is changed.

    Returns:
        (3,) mm.
    """
    spacing = np.asarray(spacing, float)
    return np.minimum(spacing, margin_mm / LEAST_RIM_VOXELS) if margin_mm > 0 else spacing


def rim_widths(spacing: Sequence[float], margin_mm: float) -> np.ndarray:
    """(3,) width of the rim along each axis in mm: the margin, or `LEAST_RIM_VOXELS` where that is more."""
    return np.asarray(spacing, float) / rim_sampling(spacing, margin_mm) * margin_mm


def find_regions(drawn: np.ndarray, spacing: Sequence[float], margin_mm: float) -> list[Region]:
    """Connected regions of a drawing, each with its rim. Regions whose rims touch are one.

    Args:
        drawn: (I, J, K) bool.
        spacing: voxel size in mm.
        margin_mm: width of the rim; see also `rim_sampling`.
    """
    from scipy import ndimage

    if not drawn.any():
        return []
    sampling = rim_sampling(spacing, margin_mm)
    reach = [int(np.ceil(margin_mm / s)) + 1 for s in sampling]
    coarse, _ = ndimage.label(drawn, structure=np.ones((3, 3, 3)))
    boxes = [_grow(box, reach, drawn.shape) for box in ndimage.find_objects(coarse)]
    regions = []
    for box in _merge_overlapping(boxes):
        inside = drawn[box]
        distance = ndimage.distance_transform_edt(~inside, sampling=sampling)
        near = distance <= margin_mm
        parts, count = ndimage.label(near, structure=np.ones((3, 3, 3)))
        for part, sub in enumerate(ndimage.find_objects(parts), start=1):
            own = parts[sub] == part
            place = tuple(slice(b.start + s.start, b.start + s.stop) for b, s in zip(box, sub))
            regions.append(Region(place, np.where(own, distance[sub], np.inf)))
    return regions


def check_region_size(region: Region, spacing: Sequence[float], limit_mm: float) -> None:
    """Refuses a region that the model cannot see together with its surroundings.

    Raises:
        BadInput: naming the size and the limit.
    """
    where = np.argwhere(region.drawn())
    extent = (where.max(0) - where.min(0) + 1) * np.asarray(spacing)
    if extent.max() > limit_mm + 1e-6:
        raise BadInput(
            f"A drawn region is {' x '.join(f'{e:.0f}' for e in extent)} mm large; this model can inpaint at most "
            f"{limit_mm:.0f} mm along each axis",
            "Draw a smaller region, or several that lie apart.",
        )


def _grow(box: tuple[slice, ...], reach: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(max(0, s.start - r), min(n, s.stop + r)) for s, r, n in zip(box, reach, shape))


def _merge_overlapping(boxes: list[tuple[slice, ...]]) -> list[tuple[slice, ...]]:
    """Unites boxes until none overlap."""
    merged: list[tuple[slice, ...]] = []
    for box in boxes:
        while True:
            other = next(
                (m for m in merged if all(a.start < b.stop and b.start < a.stop for a, b in zip(m, box))), None
            )
            if other is None:
                break
            merged.remove(other)
            box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(box, other))
        merged.append(box)
    return merged
