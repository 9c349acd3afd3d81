"""Histograms of two volumes with the same bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 64
_PART = 1 << 22


@dataclass(frozen=True)
class HistogramPair:
    """Histograms of a real and a synthetic volume, or of a segment in both.

    Args:
        edges: borders of the bins, one more than there are bins; in the volumes' unit.
        real: per cent of the voxels in range, per bin; sums to 100, or to 0 if no voxel is in range.
        synthetic: likewise.
        realOutside: per cent of all voxels that lie outside of the range.
        syntheticOutside: likewise.
    """

    edges: np.ndarray
    real: np.ndarray
    synthetic: np.ndarray
    realOutside: float
    syntheticOutside: float

    @property
    def centers(self) -> np.ndarray:
        """Middle of each bin."""
        return (self.edges[:-1] + self.edges[1:]) / 2


def histogramPair(real: np.ndarray, synthetic: np.ndarray, low: float, high: float, bins: int = BINS) -> HistogramPair:
    """Counts the voxels of two volumes in the same bins.

    Args:
        real: voxels, any shape.
        synthetic: voxels, any shape and number.
        low: lower end of the range, as a rule of the window that both are shown in.
        high: upper end; a voxel of exactly this value is counted in the last bin.
        bins: how many.
    """
    if not high > low:
        low, high = low - 0.5, low + 0.5
    edges = np.linspace(low, high, bins + 1)
    (realPercent, realOutside), (syntheticPercent, syntheticOutside) = _percent(real, edges), _percent(synthetic, edges)
    return HistogramPair(edges, realPercent, syntheticPercent, realOutside, syntheticOutside)


def _percent(voxels: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, float]:
    values, counts = _valuesAndCounts(voxels)
    # Number and range rather than the edges: numpy is many times faster when it knows that the bins are equal.
    found = np.histogram(values, len(edges) - 1, (edges[0], edges[-1]), weights=counts)[0]
    inRange, total = found.sum(), voxels.size
    percent = 100.0 * found / inRange if inRange else np.zeros(len(edges) - 1)
    return percent, float(100.0 * (total - inRange) / total) if total else 0.0


def _valuesAndCounts(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The values that occur, and how often; counting them first makes whole CT volumes a matter of a second.

    For floating-point voxels the voxels themselves and None.
    """
    if voxels.dtype.kind not in "iu" or voxels.dtype.itemsize > 2:
        return voxels.reshape(-1), None
    lowest = int(np.iinfo(voxels.dtype).min)
    counts = np.zeros(1 << (8 * voxels.dtype.itemsize), np.int64)
    flat = voxels.reshape(-1)
    for start in range(0, flat.size, _PART):  # bincount needs eight bytes a voxel
        counts += np.bincount(flat[start : start + _PART].astype(np.int64) - lowest, minlength=counts.size)
    used = np.nonzero(counts)[0]
    return used + lowest, counts[used]
