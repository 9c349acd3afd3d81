"""MR intensities, which have no unit, on one scale.

The values of two MR images compare only after both are brought to a scale of their own: in the hippocampus task of the
Medical Segmentation Decathlon they differ by a factor of ten thousand. Each image is stretched so that its percentile
0.5 becomes 0 and its percentile 99.5 becomes 1000; both are taken over all voxels of the image as it was acquired or
cropped, air included. Percentiles instead of the extremes, since a few bright voxels of a vessel would set the scale.
"""

from __future__ import annotations

import numpy as np

from SynthDiffusionLib.errors import BadInput

UNIT = "arbitrary"
PERCENTILES = (0.5, 99.5)
SCALE = (0.0, 1000.0)  # what the two percentiles become
LIMITS = (0, 1500)  # values beyond are clipped: what is half as bright again as the 99.5th percentile is an artefact

DESCRIPTION = {"percentiles": list(PERCENTILES), "become": list(SCALE), "limits": list(LIMITS)}
"""The same for `dataset.json`."""


def percentile_range(array: np.ndarray, name: str) -> tuple[float, float]:
    """The two percentiles of an image, over all its voxels.

    Args:
        array: voxels of one image, any shape and type.
        name: file name for the message.

    Raises:
        BadInput: the percentiles are the same, so that there is no scale.
    """
    low, high = (float(p) for p in np.percentile(np.asarray(array, np.float64), PERCENTILES))
    if not high > low:
        constant = float(np.min(array)) == float(np.max(array))
        raise BadInput(
            f"'{name}' " + (f"is constant ({low:g})" if constant else f"is {low:g} in more than 99 % of its voxels"),
            "Remove the case, or give the image itself instead of a mask or an empty series.",
        )
    return low, high


def to_scale(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """An image on the common scale: `low` becomes 0 and `high` 1000, clipped to [0, 1500]. Returns int16."""
    # In units of the range first: its difference may lie far from 1, and float32 has seven digits.
    scaled = (np.asarray(array, np.float64) - low) / (high - low) * (SCALE[1] - SCALE[0]) + SCALE[0]
    return np.clip(np.rint(scaled), *LIMITS).astype(np.int16)
