"""The drawing as a one-hot map, for networks that are told the background as a class of its own (Med-LSDM)."""

from __future__ import annotations

import numpy as np


def one_hot_condition(channels: np.ndarray) -> np.ndarray:
    """The background and the condition classes as maps of zeros and ones.

    Classes may nest, so that a voxel can be in several of them; it is background where it is in none. Where a class is
    not given nobody knows that, and the background is 0. With no class given, everything is 0: the null condition.

    Args:
        channels: (C, I, J, K) of `Condition.channels`: 1 inside a class, -1 outside it, 0 where it is not given.

    Returns:
        (C + 1, I, J, K) float32: the background, then the classes in their order.
    """
    hot = np.empty((len(channels) + 1, *channels.shape[1:]), np.float32)
    hot[0] = (channels == -1).all(axis=0)
    hot[1:] = channels > 0
    return hot
