"""Voxels moved from one grid to another one."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# A grid whose voxels lie this close (in voxels) to those of another one is on the same lattice: its voxels are copied.
_SAME_LATTICE = 1e-4
_INSIDE_TOLERANCE = 1e-6


def resample(
    array: np.ndarray, source: np.ndarray, shape: tuple[int, int, int], target: np.ndarray, linear: bool
) -> np.ndarray:
    """Samples an image on another grid, as ITK does: a voxel of the image reaches half a voxel beyond its centre.

    Args:
        array: the image, shape (K, J, I).
        source: (4, 4), its voxel indices (i, j, k) to mm.
        shape: (K, J, I) of the grid to sample on.
        target: (4, 4), voxel indices of that grid to the same mm.
        linear: trilinear, for intensities; else nearest neighbour, for masks.

    Returns:
        With `linear`, float32 with NaN where the image does not reach; else the image's dtype with 0 there. On the same
        lattice the voxels are copied exactly, also where one grid is a crop of the other.
    """
    toSource = np.linalg.inv(source) @ target
    outside, dtype = (np.nan, np.float32) if linear else (0, array.dtype)
    if min(shape) == 0 or min(array.shape) == 0:
        return np.full(shape, outside, dtype)
    shift = _wholeVoxelShift(toSource, shape)
    if shift is None:
        return _interpolate(array, toSource, shape, linear, outside)
    result = np.full(shape, outside, dtype)
    # Ranges along k, j, i: what of the image is taken, and where it comes to lie.
    low = [max(0, -start) for start in shift[::-1]]
    high = [min(n, size - start) for n, size, start in zip(shape, array.shape, shift[::-1])]
    if all(a < b for a, b in zip(low, high)):
        taken = tuple(slice(a + start, b + start) for a, b, start in zip(low, high, shift[::-1]))
        result[tuple(slice(a, b) for a, b in zip(low, high))] = array[taken]
    return result


def onLattice(source: np.ndarray, shape: tuple[int, int, int], target: np.ndarray) -> bool:
    """Whether `resample` copies voxels, rather than interpolating; arguments as there."""
    return _wholeVoxelShift(np.linalg.inv(source) @ target, shape) is not None


def boxOfBlock(
    blockShape: tuple[int, int, int], block: np.ndarray, shape: tuple[int, int, int], grid: np.ndarray
) -> tuple[slice, slice, slice]:
    """The part of a grid in which a block of voxels on another grid lies; empty slices where it lies outside.

    Args:
        blockShape: (K, J, I) of the block.
        block: (4, 4), its voxel indices (i, j, k) to mm.
        shape: (K, J, I) of the grid.
        grid: (4, 4), the grid's voxel indices to the same mm.

    Returns:
        Slices along k, j, i of the grid.
    """
    corners = _corners(blockShape, 0.5) @ (np.linalg.inv(grid) @ block).T
    low = np.floor(corners[:, :3].min(0) - _INSIDE_TOLERANCE).astype(int)[::-1]
    high = np.ceil(corners[:, :3].max(0) + _INSIDE_TOLERANCE).astype(int)[::-1] + 1
    return tuple(slice(*np.clip([a, max(a, b)], 0, n).tolist()) for a, b, n in zip(low, high, shape))


def countOutside(mask: np.ndarray, block: np.ndarray, shape: tuple[int, int, int], grid: np.ndarray) -> int:
    """How many voxels of a mask have their centre outside of a grid's voxels.

    Args:
        mask: bool, shape (K, J, I).
        block: (4, 4), voxel indices (i, j, k) of the mask to mm.
        shape: (K, J, I) of the grid.
        grid: (4, 4), the grid's voxel indices to the same mm.
    """
    toGrid = np.linalg.inv(grid) @ block
    if _areInside(_corners(mask.shape, 0) @ toGrid.T, shape).all():
        return 0
    outside = 0
    for k, plane in enumerate(mask):  # a plane at a time: a lung has tens of millions of voxels
        j, i = np.nonzero(plane)
        points = np.stack([i, j, np.full(len(i), k)], -1) @ toGrid[:3, :3].T + toGrid[:3, 3]
        outside += int(np.count_nonzero(~_areInside(points, shape)))
    return outside


def insideGrid(
    blockShape: tuple[int, int, int], block: np.ndarray, shape: tuple[int, int, int], grid: np.ndarray
) -> np.ndarray | None:
    """Which voxels of a block have their centre inside of a grid's voxels.

    Args:
        blockShape: (K, J, I) of the block.
        block: (4, 4), its voxel indices (i, j, k) to mm.
        shape: (K, J, I) of the grid.
        grid: (4, 4), the grid's voxel indices to the same mm.

    Returns:
        bool, shape of the block; None if all of them are inside.
    """
    toGrid = np.linalg.inv(grid) @ block
    if min(blockShape) == 0 or _areInside(_corners(blockShape, 0) @ toGrid.T, shape).all():
        return None
    inside = np.ones(blockShape, bool)
    indices = np.ogrid[tuple(slice(n) for n in blockShape[1:])]
    for row, size in zip(toGrid[:3], shape[::-1]):
        # Where the axes are parallel, a place depends on one index, and numpy has to look at a line of voxels only.
        alongK, *others = (
            step if abs(step) * n > _INSIDE_TOLERANCE else 0.0 for step, n in zip(row[2::-1], blockShape)
        )
        start = sum((step * index for step, index in zip(others, indices) if step), np.array(row[3]))
        for k in range(blockShape[0]):  # a plane at a time, for memory
            place = start + alongK * k
            inside[k] &= (place >= -0.5 - _INSIDE_TOLERANCE) & (place <= size - 0.5 + _INSIDE_TOLERANCE)
    return inside


def shifted(affine: np.ndarray, box: tuple[slice, slice, slice]) -> np.ndarray:
    """(4, 4) affine of a part of a grid; `box` as slices along k, j, i."""
    move = np.eye(4)
    move[:3, 3] = [box[2].start, box[1].start, box[0].start]
    return affine @ move


def _corners(shape: tuple[int, int, int], margin: float) -> np.ndarray:
    """(8, 4) homogeneous voxel indices (i, j, k) of the corner voxels' centres, moved outwards by `margin`."""
    ends = [(-margin, n - 1 + margin) for n in shape[::-1]]
    return np.array([(i, j, k, 1) for i in ends[0] for j in ends[1] for k in ends[2]], float)


def _areInside(points: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Whether voxel indices (i, j, k, and what follows) lie inside of the voxels of a grid; bool, one a point."""
    places, size = points[:, :3], np.array(shape[::-1])
    return np.all((places >= -0.5 - _INSIDE_TOLERANCE) & (places <= size - 0.5 + _INSIDE_TOLERANCE), axis=1)


def _wholeVoxelShift(toSource: np.ndarray, shape: tuple[int, int, int]) -> list[int] | None:
    """Whole voxels (i, j, k) from one grid to the other if all voxels of the grid lie on voxels of the source."""
    moved = np.eye(4)
    moved[:3, 3] = np.round(toSource[:3, 3])
    distance = _corners(shape, 0) @ (toSource - moved).T
    return [int(n) for n in moved[:3, 3]] if np.abs(distance).max() < _SAME_LATTICE else None


def _interpolate(
    array: np.ndarray, toSource: np.ndarray, shape: tuple[int, int, int], linear: bool, outside: float
) -> np.ndarray:
    """Samples off the lattice, in double precision. (VTK's reslicing is faster, and off by some 1e-5 of a voxel.)"""
    rotation, offset = toSource[2::-1, 2::-1], toSource[2::-1, 3]  # for indices in the order k, j, i
    if not linear:
        return ndimage.affine_transform(array, rotation, offset, shape, order=0, mode="grid-constant", cval=outside)
    result = ndimage.affine_transform(array, rotation, offset, shape, np.float32, order=1, mode="nearest")
    j, i = np.arange(shape[1])[:, None], np.arange(shape[2])
    for k in range(shape[0]):  # a plane at a time, for memory
        inside = np.ones(shape[1:], bool)
        for (alongK, alongJ, alongI), start, size in zip(rotation, offset, array.shape):
            place = alongK * k + alongJ * j + alongI * i + start
            inside &= (place >= -0.5 - _INSIDE_TOLERANCE) & (place <= size - 0.5 + _INSIDE_TOLERANCE)
        result[k][~inside] = outside
    return result
