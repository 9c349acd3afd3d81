"""A synthetic volume beside the training case that it is nearest to, laid on it, and what differs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np

from SynthDiffusionLib.evaluation.sets.embedding import central, thinned
from SynthDiffusionLib.evaluation.sets.registered import VoxelSpace, align, laid_on

SCALE_TO = 150  # pixels of the longest side, about
GAP = 4
COLUMNS = ("synthetic", "training case, laid on it", "difference")


def pair_picture(
    image: np.ndarray, other: np.ndarray, space: VoxelSpace, spacing: Sequence[float]
) -> tuple[str, float]:
    """Three planes through the middle, a row each; columns as in `COLUMNS`.

    Args:
        image: (I, J, K), LPS.
        other: (I, J, K), the training case; shifted by whole voxels and mirrored as it fits best.
        spacing: mm along i, j, k.

    Returns:
        PNG as base64 text, and the correlation of the core at that place.
    """
    alignment = align(image, other, space)
    one = thinned(central(image, space.box), space.factor).astype(np.float64)
    two = laid_on(other, alignment, space).astype(np.float64)
    low, high = (float(v) for v in np.percentile(np.concatenate([one.ravel(), two.ravel()]), (1, 99)))
    span = max(high - low, 1e-6)
    grey = [np.clip((a - low) / span, 0.0, 1.0) for a in (one, two)]
    grey.append(np.clip(0.5 + (one - two) / (2.0 * span), 0.0, 1.0))
    rows = [[_plane(a, axis, spacing) for a in grey] for axis in (2, 1, 0)]
    return base64.b64encode(_sheet(rows)).decode("ascii"), alignment.correlation


def _plane(array: np.ndarray, axis: int, spacing: Sequence[float]) -> np.ndarray:
    """The middle slice across an axis as a picture, patient's left on the right, front or head up; (rows, columns)."""
    from scipy import ndimage

    across, down = [a for a in range(3) if a != axis]
    plane = np.take(array, array.shape[axis] // 2, axis).T
    plane = plane[::-1] if down == 2 else plane  # LPS: k goes up
    mm = [plane.shape[0] * spacing[down], plane.shape[1] * spacing[across]]
    scale = SCALE_TO / max(array.shape[a] * spacing[a] for a in range(3))
    zoom = [max(1.0, m * scale) / n for m, n in zip(mm, plane.shape)]
    return ndimage.zoom(plane, zoom, order=0, mode="nearest", grid_mode=True)


def _sheet(rows: Sequence[Sequence[np.ndarray]]) -> bytes:
    from PIL import Image

    widths = [max(row[c].shape[1] for row in rows) for c in range(len(rows[0]))]
    heights = [max(plane.shape[0] for plane in row) for row in rows]
    sheet = np.full((sum(heights) + GAP * (len(rows) - 1), sum(widths) + GAP * (len(widths) - 1)), 255, np.uint8)
    y = 0
    for row, height in zip(rows, heights):
        x = 0
        for plane, width in zip(row, widths):
            top, left = y + (height - plane.shape[0]) // 2, x + (width - plane.shape[1]) // 2
            pixels = np.rint(255 * plane).astype(np.uint8)
            sheet[top : top + plane.shape[0], left : left + plane.shape[1]] = pixels
            x += width + GAP
        y += height + GAP
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG", optimize=True)
    return file.getvalue()
