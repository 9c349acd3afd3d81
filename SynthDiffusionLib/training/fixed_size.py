"""Cases of one size: a window round the target, cut from the volume or padded to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from SynthDiffusionLib.volumes import Volume, shifted_affine


def window_start(target: np.ndarray, size: Sequence[int]) -> tuple[int, int, int]:
    """Where the window begins in the volume; negative where the volume is padded.

    The window's middle is the middle of the target's bounding box, but for half a voxel. From there it is moved as
    little as needed: along an axis on which the volume is larger, so that the window stays inside the volume; along
    one on which it is smaller, so that the volume stays inside the window.

    Args:
        target: (I, J, K) bool, at least one voxel set.
        size: of the window, in voxels.
    """
    start = []
    for axis, (length, wanted) in enumerate(zip(target.shape, size, strict=True)):
        drawn = np.flatnonzero(target.any(axis=tuple(a for a in range(3) if a != axis)))
        centred = (int(drawn[0]) + int(drawn[-1]) + 1 - wanted) // 2
        spare = length - wanted
        start.append(min(max(centred, min(spare, 0)), max(spare, 0)))
    return tuple(start)


def cut_or_pad(volume: Volume, start: Sequence[int], size: Sequence[int], fill: float) -> Volume:
    """The window of a volume, each voxel where it was in the room.

    Args:
        volume: any.
        start: voxel of the volume that becomes (0, 0, 0); may lie outside.
        size: (I, J, K) of the result.
        fill: value outside the volume.
    """
    array = np.full(tuple(size), fill, volume.array.dtype)
    here, there = [], []
    for first, wanted, length in zip(start, size, volume.shape, strict=True):
        low, high = max(first, 0), min(first + wanted, length)
        there.append(slice(low, high))
        here.append(slice(low - first, high - first))
    array[tuple(here)] = volume.array[tuple(there)]
    return volume.with_array(array, affine=shifted_affine(volume.affine, start))
