"""Reorienting and resampling.

Images are interpolated linearly. Where the new grid is coarser they are smoothed first with the Gaussian that turns
the old point spread into the new one: FWHM = sqrt(f^2 - 1) voxels for a factor f (Cardoso et al. 2015, "Scale factor
point spread function matching", MICCAI, LNCS 9350:675). Linear interpolation never overshoots, so HU stay in range.

Label maps: every class is resampled like an image, as a mask, and each voxel takes the class with the largest share.
Unlike nearest neighbour this moves no boundary and has no stair steps when a coarse map is refined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes.grid import grid_with_spacing, same_grid
from SynthDiffusionLib.volumes.volume import Segmentation, Volume

_AIR_HU = -1000.0
_BLOCKS_PER_VOXEL = 8


def reorient(volume: Volume, codes: str) -> Volume:
    """The same voxels with axes permuted and flipped so that they point nearest to `codes`.

    Nothing is interpolated: an oblique volume stays oblique.

    Args:
        codes: where i, j, k shall point, such as "LPS" or "RAS".
    """
    array, affine = _reoriented(volume.array, volume.affine, codes)
    return replace(volume, array=array, affine=affine)


def reorient_segmentation(segmentation: Segmentation, codes: str) -> Segmentation:
    """As `reorient`, for all layers."""
    pairs = [_reoriented(layer, segmentation.affine, codes) for layer in segmentation.layers]
    return replace(segmentation, layers=tuple(array for array, _ in pairs), affine=pairs[0][1])


def resample_volume(volume: Volume, spacing_mm: float | Sequence[float]) -> Volume:
    """The volume at another spacing, with the same axes and the same box centre.

    Args:
        volume: label maps (unit "label") are resampled by class, everything else linearly.
        spacing_mm: one number, or one for each axis i, j, k.

    Returns:
        volume of the same dtype; the very same voxels if the spacing is the volume's own.
    """
    shape, affine = grid_with_spacing(volume.shape, volume.affine, spacing_mm)
    return resample_to(volume, shape, affine)


def resample_to(volume: Volume, shape: Sequence[int], affine: np.ndarray, fill: float | None = None) -> Volume:
    """The volume on any other grid.

    Args:
        shape: (I, J, K) of the new grid.
        affine: (4, 4) of the new grid, RAS mm.
        fill: value outside the volume's box; by default -1000 for HU, 0 for labels, else the volume's smallest value.

    Returns:
        volume of the same dtype (integers are rounded). Its voxels are exactly the input's if the grids are the same.
    """
    shape = tuple(int(n) for n in shape)
    affine = np.array(affine, float)
    if same_grid(volume.shape, volume.affine, shape, affine, tolerance_mm=1e-4):
        return replace(volume, affine=affine)
    if (found := _whole_steps(volume.array, _index_map(volume.affine, affine), shape)) is not None:
        return replace(volume, array=found, affine=affine)
    if volume.unit == "label":
        array = _resample_labels(volume.array, volume.affine, shape, affine, int(fill or 0))
    else:
        if fill is None:
            fill = _AIR_HU if volume.unit == "HU" else float(volume.array.min())
        array = _resample_image(volume.array, volume.affine, shape, affine, fill)
    return replace(volume, array=array, affine=affine)


def resample_segmentation(segmentation: Segmentation, shape: Sequence[int], affine: np.ndarray) -> Segmentation:
    """The segmentation on any other grid, layer by layer; outside its box is background."""
    layers = [resample_to(Volume(a, segmentation.affine, "label"), shape, affine) for a in segmentation.layers]
    return replace(segmentation, layers=tuple(v.array for v in layers), affine=np.array(affine, float))


def _reoriented(array: np.ndarray, affine: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    from nibabel.orientations import (
        apply_orientation,
        axcodes2ornt,
        inv_ornt_aff,
        io_orientation,
        ornt_transform,
    )

    codes = codes.upper()
    if len(codes) != 3 or any(len(set(codes) & set(pair)) != 1 for pair in ("RL", "AP", "SI")):
        raise BadInput(f'"{codes}" is no orientation', 'Give one letter of each of R/L, A/P and S/I, such as "LPS".')
    change = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(codes)))
    return apply_orientation(array, change), affine @ inv_ornt_aff(change, array.shape)


def _index_map(affine_in: np.ndarray, affine_out: np.ndarray) -> np.ndarray:
    """(4, 4) from indices of the new grid to indices of the old one."""
    index_map = np.linalg.solve(affine_in, affine_out)
    # Remove the dust of the solve and of float32 headers: whole steps give the very voxels back, and a mere change of
    # spacing stays a diagonal matrix (fast path of scipy). Over 512 voxels this moves no sample by 1e-4 voxels.
    for part, tolerance in ((index_map[:3, :3], 1e-7), (index_map[:3, 3], 1e-5)):
        whole = np.rint(part)
        near = np.abs(part - whole) < tolerance
        part[near] = whole[near]
    return index_map


def _whole_steps(array: np.ndarray, index_map: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray | None:
    """The voxels of a new grid that are all among the old one's: axes swapped or flipped, margins cut off.

    Interpolation gives the same in many times the time.

    Returns:
        (I, J, K), a copy; None for any other grid.
    """
    linear, offset = index_map[:3, :3], index_map[:3, 3]
    if not np.array_equal(index_map, np.rint(index_map)) or not np.array_equal(np.abs(linear) @ np.ones(3), np.ones(3)):
        return None
    new_axes = np.abs(linear).argmax(1)  # along which each old axis runs
    if sorted(new_axes) != [0, 1, 2]:
        return None
    parts = []
    for old, new in enumerate(new_axes):
        step, first = int(linear[old, new]), int(offset[old])
        last = first + step * (shape[new] - 1)
        if min(first, last) < 0 or max(first, last) >= array.shape[old]:
            return None
        stop = last + step
        parts.append(slice(first, None if stop < 0 else stop, step))
    return np.array(array[tuple(parts)].transpose(np.argsort(new_axes)), order="C")


def _blur_sigmas(index_map: np.ndarray) -> np.ndarray:
    """(3,) Gaussian sigma along the old axes, in old voxels; 0 where the new grid is not coarser."""
    factor = np.linalg.norm(index_map[:3, :3], axis=1)
    return np.sqrt(np.maximum(factor**2 - 1, 0) / (8 * np.log(2)))


def _resample_image(
    array: np.ndarray, affine_in: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray, fill: float
) -> np.ndarray:
    work = np.float64 if array.dtype in (np.float64, np.int32, np.uint32, np.int64, np.uint64) else np.float32
    index_map = _index_map(affine_in, affine)
    out = _interpolate(*_blurred(array, index_map, work), shape, work)
    out[~_inside(index_map, shape, array.shape)] = fill
    return _cast(out, array.dtype)


def _resample_labels(
    array: np.ndarray, affine_in: np.ndarray, shape: tuple[int, int, int], affine: np.ndarray, fill: int
) -> np.ndarray:
    index_map = _index_map(affine_in, affine)
    inverse = np.linalg.inv(index_map)
    best = np.full(shape, 0, dtype=array.dtype)
    best_share = np.full(shape, -1.0, dtype=np.float32)
    margin = 1 + np.ceil(4 * _blur_sigmas(index_map)).astype(int)
    for value in np.unique(array):
        mask = array == value
        start, stop = _box(mask, margin)
        # Where this class can have a share at all: the box of its voxels, seen in the new grid.
        corners = np.array(np.meshgrid(*zip(start - 1, stop, strict=True))).reshape(3, -1)
        seen = inverse[:3, :3] @ corners + inverse[:3, 3:]
        low = np.clip(np.floor(seen.min(1)).astype(int), 0, shape)
        high = np.clip(np.ceil(seen.max(1)).astype(int) + 1, 0, shape)
        if np.any(high <= low):
            continue
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        local_map = index_map.copy()
        local_map[:3, 3] += index_map[:3, :3] @ low - start
        crop = mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        share = _interpolate(*_blurred(crop, local_map, np.float32), tuple(high - low), np.float32)
        # A share of exactly one half is rounding dust on both sides: let the larger value win, whatever the dust.
        wins = share > best_share[part] - 1e-5
        wins &= share > 0
        best[part][wins] = value
        best_share[part][wins] = share[wins]
    best[~_inside(index_map, shape, array.shape)] = fill
    return best


def _box(mask: np.ndarray, margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and stop indices of the set voxels, widened by a margin but within the array."""
    start, stop = np.zeros(3, int), np.zeros(3, int)
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        start[axis], stop[axis] = hit[0], hit[-1] + 1
    return np.maximum(start - margin, 0), np.minimum(stop + margin, mask.shape)


def _blurred(array: np.ndarray, index_map: np.ndarray, work: type) -> tuple[np.ndarray, np.ndarray]:
    """The smoothed image, and the index map into it.

    Where the new grid is 16 times coarser or more, voxels are averaged to blocks first, an eighth of a new voxel or
    less, since the work of a Gaussian grows with its width. The Gaussian then adds the variance that the blocks lack,
    (b^2 - 1) / 12 for blocks of b.
    """
    from scipy.ndimage import gaussian_filter1d

    # scipy takes neither bool nor float16; other types are converted only where the blur needs it.
    out = array.astype({"?": np.uint8, "e": np.float32}.get(array.dtype.char, array.dtype), copy=False)
    sigmas = _blur_sigmas(index_map)
    factor = np.linalg.norm(index_map[:3, :3], axis=1)
    blocks = np.minimum(factor // _BLOCKS_PER_VOXEL, array.shape)
    index_map = index_map.copy()
    for axis, (sigma, block) in enumerate(zip(sigmas, blocks, strict=True)):
        if block > 1:
            out = _block_means(out, axis, int(block), work)
            index_map[axis, 3] -= (block - 1) / 2
            index_map[axis] /= block
            sigma = np.sqrt(sigma**2 - (block**2 - 1) / 12) / block
        if sigma > 1e-3:
            out = gaussian_filter1d(out, sigma, axis=axis, output=work, mode="nearest")
    return out, index_map


def _block_means(array: np.ndarray, axis: int, block: int, work: type) -> np.ndarray:
    """Means of `block` voxels along an axis; the last block is filled up with the last voxel."""
    count = -(-array.shape[axis] // block)
    missing = [(0, count * block - n if a == axis else 0) for a, n in enumerate(array.shape)]
    shape = array.shape[:axis] + (count, block) + array.shape[axis + 1 :]
    return np.pad(array, missing, mode="edge").reshape(shape).mean(axis + 1, dtype=work)


def _interpolate(array: np.ndarray, index_map: np.ndarray, shape: tuple[int, int, int], work: type) -> np.ndarray:
    from scipy.ndimage import affine_transform

    linear = index_map[:3, :3]
    # scipy.ndimage takes a vector for a diagonal matrix and then runs several times faster.
    matrix = np.diag(linear) if np.count_nonzero(linear - np.diag(np.diag(linear))) == 0 else linear
    return affine_transform(array, matrix, index_map[:3, 3], shape, output=work, order=1, mode="nearest")


def _inside(index_map: np.ndarray, shape: tuple[int, int, int], shape_in: Sequence[int]) -> np.ndarray:
    """Voxels of the new grid whose centre lies in the box of the old one (to half a voxel beyond its outer centres)."""
    axes = [np.arange(n, dtype=float) for n in shape]
    inside = np.ones(shape, bool)
    for row, size in zip(index_map[:3], shape_in, strict=True):
        plane = (row[0] * axes[0])[:, None] + (row[1] * axes[1])[None, :] + row[3]
        for k in range(shape[2]):
            index = plane + row[2] * k
            inside[:, :, k] &= (index >= -0.5 - 1e-6) & (index <= size - 0.5 + 1e-6)
    return inside


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        np.rint(array, out=array)
        np.clip(array, limits.min, limits.max, out=array)
    return array.astype(dtype, copy=False)
