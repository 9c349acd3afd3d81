"""Patients made from one label map: smooth deformations, and a structure that is larger. For tests and a benchmark."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def deformed(labels: np.ndarray, seed: int, strength: float = 0.06, size: float = 0.05) -> np.ndarray:
    """The label map under a smooth random deformation, scaled as a whole at random.

    Args:
        labels: (I, J, K).
        seed: of the deformation.
        strength: largest local shift, about, as a share of the volume's sides.
        size: standard deviation of the scale of the whole.
    """
    rng = np.random.default_rng([seed, 11])
    shape = np.array(labels.shape)
    grid = np.indices(labels.shape, np.float64)
    middle = (shape - 1)[:, None, None, None] / 2
    grid = middle + (grid - middle) / rng.normal(1.0, size)
    for axis in range(3):
        noise = ndimage.gaussian_filter(rng.standard_normal(labels.shape), shape / 8, mode="reflect")
        grid[axis] += strength * shape[axis] * noise / (2 * noise.std()) / 2
    return ndimage.map_coordinates(labels, grid, order=0, mode="constant").astype(labels.dtype)


def enlarged(labels: np.ndarray, value: int, factor: float) -> np.ndarray:
    """The label map with one structure grown (or shrunk) to `factor` times its voxels, into what is round it."""
    inside = labels == value
    wanted = int(round(inside.sum() * abs(factor - 1.0)))
    result = labels.copy()
    if factor >= 1:
        distance = ndimage.distance_transform_edt(~inside)
        distance[inside] = np.inf
        result.flat[np.argsort(distance, axis=None, kind="stable")[:wanted]] = value
    else:
        distance = ndimage.distance_transform_edt(inside)
        distance[~inside] = np.inf
        result.flat[np.argsort(distance, axis=None, kind="stable")[:wanted]] = 0
    return result
