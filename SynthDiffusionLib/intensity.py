"""Between the unit of a volume (HU) and the range that networks work in."""

from __future__ import annotations

import numpy as np


def normalise(values: np.ndarray, intensity_range: tuple[float, float]) -> np.ndarray:
    """Values to [-1, 1], clipped at the ends of `intensity_range`. Returns float32."""
    low, high = intensity_range
    return (2.0 * (np.clip(values, low, high) - low) / (high - low) - 1.0).astype(np.float32)


def denormalise(values: np.ndarray, intensity_range: tuple[float, float]) -> np.ndarray:
    """The inverse of `normalise` for values within [-1, 1]. Returns float32."""
    low, high = intensity_range
    return ((np.clip(values, -1.0, 1.0) + 1.0) / 2.0 * (high - low) + low).astype(np.float32)
