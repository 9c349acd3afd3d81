"""Coordinate channels of the patch-wise DDPM (PatchDDM, arXiv:2303.15288, section 2.2)."""

from __future__ import annotations

import numpy as np


def coordinate_channels(shape: tuple[int, int, int]) -> np.ndarray:
    """Position of every voxel in the whole volume, from -1 to 1 along each axis.

    Args:
        shape: (I, J, K) of the whole volume.

    Returns:
        (3, I, J, K) float32.
    """
    axes = [np.linspace(-1.0, 1.0, n, dtype=np.float32) if n > 1 else np.zeros(1, np.float32) for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"))
