"""Grids: the shape and affine of a volume, and how two of them relate.

Affines map voxel indices (i, j, k, 1) to RAS+ millimetres, voxel centres at integer indices, as NIfTI, ITK and VTK do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from SynthDiffusionLib.errors import BadInput

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns DICOM's and ITK's patient frame (left, posterior, superior) into RAS; it is its own inverse."""

SMALLEST_VOXEL_MM, LARGEST_VOXEL_MM = 0.001, 1000.0
"""Voxel edge lengths that a scan of a body or a specimen can have. Others are a mistake in the unit."""

Shape = Sequence[int]


def affine_from_lps(directions: np.ndarray, spacing: Sequence[float], origin: Sequence[float]) -> np.ndarray:
    """RAS affine from an ITK style geometry.

    Args:
        directions: (3, 3), unit vectors of the axes i, j, k as columns, in LPS.
        spacing: voxel edge lengths in mm.
        origin: centre of voxel (0, 0, 0) in LPS mm.
    """
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, float).reshape(3, 3) @ np.diag(np.asarray(spacing, float))
    affine[:3, 3] = origin
    return LPS_TO_RAS @ affine


def check_affine(affine: np.ndarray, name: str) -> np.ndarray:
    """The affine as (4, 4) float64 if it is one that a volume can have.

    Args:
        affine: (4, 4).
        name: file name for the message.

    Raises:
        BadInput: non-finite numbers, an axis of length zero, axes in one plane, or voxels of an impossible size.
    """
    affine = np.array(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise BadInput(
            f"{name}: its affine holds values that are not finite", "Export the image again from its source."
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() <= 1e-6:
        check_spacing(np.where(lengths <= 1e-6, 0, lengths), name)
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        raise BadInput(
            f"{name}: its affine is singular (two image axes point the same way)",
            "Correct the orientation in the header or export the image again.",
        )
    # Single precision and oblique axes change the last digits.
    if lengths.min() < 0.999 * SMALLEST_VOXEL_MM or lengths.max() > 1.001 * LARGEST_VOXEL_MM:
        raise BadInput(
            f"{name}: its voxels of {_numbers(lengths)} mm are implausible (is its unit metres or microns?)",
            f"Correct the spacing in the header; {SMALLEST_VOXEL_MM:g} to {LARGEST_VOXEL_MM:g} mm can be used.",
        )
    return affine


def check_spacing(spacing: Sequence[float], name: str) -> np.ndarray:
    """The spacing that a header declares, (3,) mm, if it is positive.

    Raises:
        BadInput: zero, negative or not finite.
    """
    spacing = np.asarray(spacing, float)
    if not (np.isfinite(spacing).all() and spacing.min() > 0):
        raise BadInput(
            f"{name}: its header has a zero, negative or non-finite voxel spacing ({_numbers(spacing)} mm)",
            "Correct the spacing in the header or export the image again.",
        )
    return spacing


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """(3,) voxel edge lengths in mm along i, j, k."""
    return np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)


def axis_codes(affine: np.ndarray) -> str:
    """Where the axes i, j, k point, to the nearest patient axis: "LPS" for an axial DICOM series."""
    from nibabel.orientations import aff2axcodes

    return "".join(aff2axcodes(affine))


def shear_mm(shape: Shape, affine: np.ndarray) -> float:
    """How far a voxel of the grid moves at most where a reader takes its axes for being at right angles: the first axis
    as it is, the third along the normal of the first two, and the second at a right angle to both."""
    spacing = spacing_of(affine)
    directions = np.asarray(affine)[:3, :3] / spacing
    normal = np.cross(directions[:, 0], directions[:, 1])
    normal *= np.sign(normal @ directions[:, 2]) / np.linalg.norm(normal)
    second = np.cross(normal, directions[:, 0])
    second *= np.sign(second @ directions[:, 1])
    straight = np.stack([directions[:, 0], second, normal], axis=1) * spacing
    apart = corner_indices(shape) @ (np.asarray(affine)[:3, :3] - straight).T
    return float(np.linalg.norm(apart, axis=1).max())


def is_orthogonal(affine: np.ndarray, tolerance: float = 1e-4) -> bool:
    """Whether the axes are at right angles (no shear), so that directions and spacing say all."""
    directions = np.asarray(affine)[:3, :3] / spacing_of(affine)
    return bool(np.allclose(directions.T @ directions, np.eye(3), atol=tolerance))


def voxel_positions(affine: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """RAS mm of voxel indices, both (..., 3)."""
    return np.asarray(indices, float) @ affine[:3, :3].T + affine[:3, 3]


def corner_indices(shape: Shape) -> np.ndarray:
    """(8, 3) indices of the corner voxels."""
    return np.array(list(product(*[(0, n - 1) for n in shape])), dtype=float)


def same_grid(
    shape_a: Shape, affine_a: np.ndarray, shape_b: Shape, affine_b: np.ndarray, tolerance_mm: float = 1e-3
) -> bool:
    """Whether two grids have the same voxels at the same places.

    Args:
        tolerance_mm: how far apart the corner voxels of the two may lie. No voxel lies further apart than a corner.
    """
    if tuple(shape_a) != tuple(shape_b):
        return False
    corners = corner_indices(shape_a)
    distance = np.linalg.norm(voxel_positions(affine_a, corners) - voxel_positions(affine_b, corners), axis=1)
    return bool(distance.max() <= tolerance_mm)


def grid_difference(shape_a: Shape, affine_a: np.ndarray, shape_b: Shape, affine_b: np.ndarray) -> str:
    """What makes two grids differ, in numbers: "14 x 13 x 11 voxels, the image has 14 x 13 x 12", else the first of
    spacing, directions and origin that does.

    Args:
        shape_a, affine_a: of what is told of.
        shape_b, affine_b: of the image.
    """
    if tuple(shape_a) != tuple(shape_b):
        sizes = [" x ".join(str(int(n)) for n in shape) for shape in (shape_a, shape_b)]
        return f"{sizes[0]} voxels, the image has {sizes[1]}"
    spacing_a, spacing_b = spacing_of(affine_a), spacing_of(affine_b)
    parts = (
        ("spacing", "mm", spacing_a, spacing_b, 1e-4),
        (
            "axes in RAS", "",
            (affine_a[:3, :3] / spacing_a).T.ravel(), (affine_b[:3, :3] / spacing_b).T.ravel(), 1e-4,
        ),
        ("origin in RAS", "mm", affine_a[:3, 3], affine_b[:3, 3], 0.0),
    )  # fmt: skip
    for what, unit, one, other, tolerance in parts:
        if np.abs(one - other).max() > tolerance:
            first, second = (", ".join(f"{v:.6g}" for v in np.asarray(values) + 0.0) for values in (one, other))
            return f"{what} {first} {unit}".rstrip() + f", of the image {second} {unit}".rstrip()
    return "its corners lie elsewhere"


def grids_overlap(shape_a: Shape, affine_a: np.ndarray, shape_b: Shape, affine_b: np.ndarray) -> float:
    """Fraction of the box of grid a that lies inside the box of grid b, 0 to 1.

    Counted on a lattice of at most 24 points an axis, so an overlap thinner than a 24th of the box may be missed.
    """
    axes = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in ((n, min(int(n), 24)) for n in shape_a)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    in_b = voxel_positions(np.linalg.inv(affine_b), voxel_positions(affine_a, points))
    inside = np.all((in_b >= -0.5) & (in_b <= np.asarray(shape_b) - 0.5), axis=1)
    return float(inside.mean())


def grid_with_spacing(
    shape: Shape, affine: np.ndarray, spacing_mm: float | Sequence[float]
) -> tuple[tuple, np.ndarray]:
    """The grid of another spacing that shares the box centre and axes of a grid.

    The size is rounded to whole voxels, so its box is larger or smaller by up to half a new voxel on either side.

    Args:
        spacing_mm: one number, or one for each axis i, j, k.

    Returns:
        shape and affine of the new grid.
    """
    spacing = np.broadcast_to(np.asarray(spacing_mm, float), (3,))
    if not (np.isfinite(spacing).all() and spacing.min() > 0):
        raise BadInput(f"Spacing {spacing_mm} mm cannot be used", "Give positive numbers.")
    old = spacing_of(affine)
    if np.allclose(spacing, old, rtol=1e-6, atol=0):
        return tuple(int(n) for n in shape), np.array(affine, float)
    # The tiny amount keeps 51 * 1.0 / 2.0 = 25.5 from rounding down or up by the last bit of a float32 header.
    new_shape = tuple(int(n) for n in np.maximum(1, np.floor(np.asarray(shape) * old / spacing + 0.5 + 1e-6)))
    new_affine = np.array(affine, float)
    new_affine[:3, :3] = affine[:3, :3] / old * spacing
    centre = voxel_positions(affine, (np.asarray(shape) - 1) / 2)
    new_affine[:3, 3] = centre - new_affine[:3, :3] @ ((np.asarray(new_shape) - 1) / 2)
    return new_shape, new_affine


def shifted_affine(affine: np.ndarray, start: Sequence[float]) -> np.ndarray:
    """Affine of the sub-grid whose voxel (0, 0, 0) is voxel `start` of the grid."""
    moved = np.array(affine, float)
    moved[:3, 3] = voxel_positions(affine, np.asarray(start, float))
    return moved


def _numbers(values: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)
