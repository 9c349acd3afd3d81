"""Coarse anatomy of limb CT, as a person would draw it: body outline, subcutaneous fat, muscle compartment, bone.

Training needs such maps for images that come with a tumour mask only. As in `coarse_anatomy`, they start from HU and
are then made blunt: marrow is inside the bone, the fat between the muscles and the vessels are inside the muscle
compartment, skin and the strands in the subcutaneous fat are part of it, and every outline is smooth. All lengths are
in mm, so that slices may be thicker than the pixels are wide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

BODY, FAT, MUSCLE, BONE, TUMOUR = 1, 2, 3, 4, 5
AIR_BELOW_HU = -300.0
LEAN_ABOVE_HU = -30.0  # half way between fat and muscle
BONE_ABOVE_HU = 170.0
SMALLEST_BODY_PART = 0.05  # of the largest: the other leg stays, a blanket's fold goes
SMALLEST_MUSCLE_MM3 = 8000.0
SMALLEST_BONE_MM3 = 1000.0
THICKEST_TABLE_MM = 14.0
THICKEST_SKIN_MM = 6.0
WIDEST_FAT_PLANE_MM = 16.0
MARROW_WIDTH_MM = 14.0
LARGEST_MARROW_MM2 = 4000.0
CLEFT_MM = 5.0


def _padding(radius_mm: float, spacing: np.ndarray) -> list[tuple[int, int]]:
    return [(n, n) for n in np.ceil(radius_mm / spacing).astype(int) + 1]


def _inner(array: np.ndarray, padding: list[tuple[int, int]]) -> np.ndarray:
    return array[tuple(slice(a, -b) for a, b in padding)]


def _within(mask: np.ndarray, radius_mm: float, spacing: np.ndarray) -> np.ndarray:
    """Voxels no farther than `radius_mm` from the mask."""
    if not mask.any():
        return np.zeros_like(mask)
    return ndimage.distance_transform_edt(~mask, sampling=spacing) <= radius_mm


def _open(mask: np.ndarray, radius_mm: float, spacing: np.ndarray) -> np.ndarray:
    """Without what is thinner than twice the radius; what the array's border cuts counts as going on beyond it."""
    padding = _padding(2 * radius_mm, spacing)
    padded = np.pad(mask, padding, mode="edge")
    core = ~_within(~padded, radius_mm, spacing)
    return _inner(_within(core, radius_mm, spacing), padding) & mask


def _close(mask: np.ndarray, radius_mm: float, spacing: np.ndarray) -> np.ndarray:
    """With gaps narrower than twice the radius filled; the border as in `_open`."""
    return ~_open(~mask, radius_mm, spacing) | mask


def _fill_planes(mask: np.ndarray, axes: Sequence[int] = (2,), largest: np.ndarray | None = None) -> np.ndarray:
    """Holes filled in the planes across some axes: a marrow cavity is open along the shaft, where the array ends.

    Args:
        axes: a plane's normal is one of them.
        largest: (3,) hole that is still filled, in voxels of the planes across each axis; every hole if None.
    """
    filled = mask.copy()
    for axis in axes:
        for k in range(mask.shape[axis]):
            plane = mask.take(k, axis)
            holes = ndimage.binary_fill_holes(plane) & ~plane
            if largest is not None and holes.any():
                parts, _ = ndimage.label(holes)
                holes &= (np.bincount(parts.ravel()) <= largest[axis])[parts]
            if holes.any():
                filled[(slice(None),) * axis + (k,)] |= holes
    return filled


def _blurred(array: np.ndarray, sigma_mm: float, spacing: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(array.astype(np.float32), sigma_mm / spacing, mode="nearest")


def _large_parts(mask: np.ndarray, smallest: float, relative: bool = False) -> np.ndarray:
    """Connected parts of at least `smallest` voxels, or of that fraction of the largest part."""
    parts, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    keep = sizes >= (smallest * sizes.max() if relative else smallest)
    keep[0] = False
    return keep[parts]


def body_mask(hu: np.ndarray, spacing_mm: Sequence[float], sigma_mm: float = 2.0) -> np.ndarray:
    """The filled outline of the limb or trunk, without table, mattress and clothes where they are thin or loose.

    Lung that the array's border cuts counts as outside: it cannot be told from a mattress by its HU.

    Args:
        hu: (I, J, K) HU; k along the patient.
        spacing_mm: of i, j, k.
        sigma_mm: smoothing of the outline.
    """
    spacing = np.asarray(spacing_mm, float)
    dense = _blurred(hu, 1.0, spacing) > AIR_BELOW_HU
    # Opening cuts the table off and rounds the limb; what lay near the rounded parts is given back.
    solid = _large_parts(_open(dense, THICKEST_TABLE_MM / 2, spacing), SMALLEST_BODY_PART, relative=True)
    solid = _within(solid, THICKEST_TABLE_MM / 4, spacing) & dense
    solid = _fill_planes(_close(solid, CLEFT_MM / 2, spacing))
    return _blurred(solid, sigma_mm, spacing) > 0.5


def limb_class_map(
    hu: np.ndarray, tumour: np.ndarray, spacing_mm: Sequence[float], sigma_mm: float = 3.0
) -> np.ndarray:
    """Class map of one limb CT: 1 body, 2 fat, 3 muscle, 4 bone, 5 tumour, 0 outside.

    Value 1 is what lies within the body outline and in none of the compartments.

    Args:
        hu: (I, J, K) HU; k along the patient.
        tumour: (I, J, K) bool, kept as it is.
        spacing_mm: of i, j, k.
        sigma_mm: smoothing of the outlines; that of bone is half of it.

    Returns:
        (I, J, K) uint8 in the label scheme `limb-tumour-ct`.
    """
    spacing = np.asarray(spacing_mm, float)
    voxel_mm3 = float(np.prod(spacing))
    body = body_mask(hu, spacing, min(sigma_mm, 2.0)) | tumour

    dense = (_blurred(hu, 1.0, spacing) > BONE_ABOVE_HU) & body & ~tumour
    dense = _large_parts(dense, SMALLEST_BONE_MM3 / voxel_mm3)
    # In all planes, since the ends of long bones have a thin shell that is broken in some; the pelvis stays open.
    marrow = LARGEST_MARROW_MM2 * spacing / voxel_mm3
    bone = _fill_planes(_close(dense, MARROW_WIDTH_MM / 2, spacing), (0, 1, 2), marrow) & ~tumour
    bone = (_blurred(bone, sigma_mm / 2, spacing) > 0.5) & body

    lean = (_blurred(hu, 1.5, spacing) > LEAN_ABOVE_HU) & body | bone
    # Skin is thin, and lies at the outline; the opening takes it and the vessels of the subcutaneous fat.
    lean = _open(lean & (~_within(~body, THICKEST_SKIN_MM / 2, spacing) | bone), THICKEST_SKIN_MM / 2, spacing)
    lean = _large_parts(lean | tumour, SMALLEST_MUSCLE_MM3 / voxel_mm3)
    muscle = _fill_planes(_close(lean, WIDEST_FAT_PLANE_MM / 2, spacing))
    muscle = (_blurred(muscle, sigma_mm, spacing) > 0.5) & body

    rest = body & ~muscle & ~bone & ~tumour
    fatty = rest & (hu > AIR_BELOW_HU) & (hu < LEAN_ABOVE_HU)
    fat = rest & (_blurred(fatty, 2 * sigma_mm, spacing) > 0.5 * _blurred(rest, 2 * sigma_mm, spacing))

    classes = np.zeros(hu.shape, np.uint8)
    classes[body] = BODY
    classes[fat] = FAT
    classes[muscle] = MUSCLE
    classes[bone] = BONE
    classes[tumour] = TUMOUR
    return classes
