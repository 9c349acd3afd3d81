"""Radiomics features of whole volumes, of a mask, or of slices, as the Image Biomarker Standardisation Initiative
(IBSI) defines them.

Definitions, names and four-character codes: Zwanenburg et al., IBSI reference manual, arXiv:1612.07003, chapter 3; the
code stands in every feature's name. The test computes them on IBSI's digital phantom, in 3D and slice by slice.

Of IBSI's features those are taken that do not grow with the size of the image (no energy, no coarseness, no sums over
runs or zones), so that sets of crops of different sizes can be compared, and not those that only scale another one
(cluster tendency, sum average, dissimilarity). Fewer features are a virtue here: a Fréchet distance with a full
covariance needs more volumes than features.

None of them knows where in the image something is. They see intensities, edges, texture and noise; a chest with its
parts in the wrong places has nearly the same features.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

VERSION = 1  # of the computation; part of the key of cached features
LEVELS = 32

# Code, and the name by which a report shows the feature.
INTENSITY = (
    ("Q4LE", "mean intensity"),
    ("ECT3", "intensity variance"),
    ("KE2A", "intensity skewness"),
    ("IPH6", "intensity kurtosis"),
    ("Y12H", "median intensity"),
    ("QG58", "10th percentile"),
    ("8DWT", "90th percentile"),
    ("SALO", "interquartile range"),
    ("1128", "robust mean absolute deviation"),
)
HISTOGRAM = (("TLU2", "histogram entropy"), ("BJ5W", "histogram uniformity"))
CO_OCCURRENCE = (
    ("GYBY", "co-occurrence: joint maximum"),
    ("TU9B", "co-occurrence: joint entropy"),
    ("TF7R", "co-occurrence: difference average"),
    ("D3YU", "co-occurrence: difference variance"),
    ("NTRS", "co-occurrence: difference entropy"),
    ("8ZQL", "co-occurrence: angular second moment"),
    ("ACUI", "co-occurrence: contrast"),
    ("IB1Z", "co-occurrence: inverse difference"),
    ("NI2N", "co-occurrence: correlation"),
    ("7NFM", "co-occurrence: cluster shade"),
    ("AE86", "co-occurrence: cluster prominence"),
    ("R8DG", "co-occurrence: information correlation 1"),
    ("JN9H", "co-occurrence: information correlation 2"),
)
RUNS = (
    ("22OV", "runs: short runs emphasis"),
    ("OVBL", "runs: grey level non-uniformity, normalised"),
    ("IC23", "runs: run length non-uniformity, normalised"),
    ("9ZK5", "runs: run percentage"),
    ("8CE5", "runs: grey level variance"),
    ("HJ9O", "runs: run entropy"),
)
ZONES = (
    ("9SAK", "zones: small zone emphasis"),
    ("Y1RO", "zones: grey level non-uniformity, normalised"),
    ("VB3A", "zones: zone size non-uniformity, normalised"),
    ("P30P", "zones: zone percentage"),
    ("BYLV", "zones: grey level variance"),
    ("GU8N", "zones: zone size entropy"),
)
TONE_DIFFERENCE = (("65HE", "tone difference: contrast"), ("HDEZ", "tone difference: complexity"))

FEATURES: tuple[tuple[str, str], ...] = (*INTENSITY, *HISTOGRAM, *CO_OCCURRENCE, *RUNS, *ZONES, *TONE_DIFFERENCE)
CODES = tuple(code for code, _ in FEATURES)
NAMES = tuple(f"{name} ({code})" for code, name in FEATURES)


def discretise(image: np.ndarray, intensity_range: tuple[float, float], levels: int = LEVELS) -> np.ndarray:
    """Grey levels 1 to `levels` of equal width over a fixed range (arXiv:1612.07003, section 2.7, fixed bin number,
    with the limits of the range in place of the image's own, so that a level means the same in every image).

    Args:
        image: any shape.
        intensity_range: what lies outside gets the first or the last level.

    Returns:
        int64, the same shape.
    """
    low, high = intensity_range
    scaled = (np.asarray(image, np.float64) - low) / (high - low)
    return np.clip(np.floor(scaled * levels).astype(np.int64) + 1, 1, levels)


def radiomics(
    image: np.ndarray,
    intensity_range: tuple[float, float],
    mask: np.ndarray | None = None,
    levels: int = LEVELS,
) -> np.ndarray:
    """Features of one volume or one slice.

    Args:
        image: (I, J, K) volume, or (I, J) slice; HU or another unit.
        intensity_range: of the grey levels; the same for all images that are compared.
        mask: bool of the image's shape: what counts; None: everything.
        levels: number of grey levels.

    Returns:
        (D,) float64 in the order of `FEATURES`; finite. An image of one value has no texture: its variances,
        entropies, skewness and kurtosis are 0, its correlation is 1 (as IBSI sets it).

    Raises:
        ValueError: no voxel is in the mask.
    """
    inside = np.ones(image.shape, bool) if mask is None else np.asarray(mask, bool)
    if not inside.any():
        raise ValueError("No voxel is in the mask")
    grey = np.where(inside, discretise(image, intensity_range, levels), 0)
    return np.concatenate(
        [
            _intensity(np.asarray(image, np.float64)[inside]),
            _histogram(grey[inside], levels),
            _co_occurrence(grey, levels),
            _runs(grey, levels),
            _zones(grey, levels),
            _tone_difference(grey, levels),
        ]
    )


def directions(dimensions: int) -> list[tuple[int, ...]]:
    """One of each two opposite directions to the neighbours at Chebyshev distance 1: 13 in 3D, 4 in 2D."""
    return [d for d in product((-1, 0, 1), repeat=dimensions) if d > (0,) * dimensions]


def _intensity(values: np.ndarray) -> np.ndarray:
    """Section 3.3, intensity-based statistics."""
    mean = values.mean()
    away = values - mean
    variance = np.mean(away**2)
    flat = variance <= 1e-12 * max(mean**2, 1e-12)
    skewness = 0.0 if flat else np.mean(away**3) / variance**1.5
    kurtosis = 0.0 if flat else np.mean(away**4) / variance**2 - 3.0
    p10, p25, median, p75, p90 = np.percentile(values, (10, 25, 50, 75, 90))
    middle = values[(values >= p10) & (values <= p90)]
    robust = np.mean(np.abs(middle - middle.mean()))
    return np.array([mean, variance, skewness, kurtosis, median, p10, p90, p75 - p25, robust])


def _histogram(grey: np.ndarray, levels: int) -> np.ndarray:
    """Section 3.4: entropy and uniformity."""
    p = np.bincount(grey, minlength=levels + 1)[1:] / len(grey)
    return np.array([_entropy(p), np.sum(p**2)])


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-np.sum(p * np.log2(p))) + 0.0


def shifted(array: np.ndarray, direction: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Views of an array's voxels that have a neighbour in a direction, and of those neighbours."""
    here = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(direction, array.shape))
    there = tuple(slice(max(0, d), n - max(0, -d)) for d, n in zip(direction, array.shape))
    return array[here], array[there]


def _co_occurrence(grey: np.ndarray, levels: int) -> np.ndarray:
    """Section 3.6, one symmetric matrix of all directions (merged: by volume IAZD, by slice SUJT)."""
    counts = np.zeros((levels + 1) ** 2)
    for direction in directions(grey.ndim):
        a, b = shifted(grey, direction)
        counts += np.bincount((a * (levels + 1) + b).ravel(), minlength=len(counts))
    p = counts.reshape(levels + 1, levels + 1)[1:, 1:]
    p = p + p.T
    if p.sum() == 0:  # no two neighbours
        return np.zeros(len(CO_OCCURRENCE))
    p = p / p.sum()
    i, j = np.meshgrid(np.arange(1, levels + 1), np.arange(1, levels + 1), indexing="ij")
    difference = np.abs(i - j)
    marginal = p.sum(1)
    level = np.arange(1, levels + 1)
    mean = np.sum(level * marginal)
    variance = np.sum((level - mean) ** 2 * marginal)
    apart = np.bincount(difference.ravel(), p.ravel(), minlength=levels)
    k = np.arange(levels)
    average = np.sum(k * apart)
    correlation = (np.sum(i * j * p) - mean**2) / variance if variance > 1e-12 else 1.0
    independent = np.outer(marginal, marginal)
    known = p > 0
    joint, single = _entropy(p), _entropy(marginal)
    hxy1 = -np.sum(p[known] * np.log2(independent[known]))
    hxy2 = _entropy(independent)
    information1 = (joint - hxy1) / single if single > 1e-12 else 0.0
    information2 = np.sqrt(max(0.0, 1.0 - np.exp(-2.0 * (hxy2 - joint))))
    together = i + j - 2.0 * mean
    return np.array(
        [
            p.max(),
            joint,
            average,
            np.sum((k - average) ** 2 * apart),
            _entropy(apart),
            np.sum(p**2),
            np.sum(difference**2 * p),
            np.sum(p / (1.0 + difference)),
            correlation,
            np.sum(together**3 * p),
            np.sum(together**4 * p),
            information1,
            information2,
        ]
    )


def run_lengths(grey: np.ndarray, direction: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """All runs of one grey level along a direction.

    Args:
        grey: levels; 0 is outside.

    Returns:
        level and length of each run.
    """
    goes_on = np.zeros(grey.shape, bool)
    a, b = shifted(grey, direction)
    here = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(direction, grey.shape))
    there = tuple(slice(max(0, d), n - max(0, -d)) for d, n in zip(direction, grey.shape))
    goes_on[here] = (a == b) & (a > 0)
    starts = grey > 0
    starts[there] &= ~goes_on[here]
    level = grey.ravel()
    goes_on = goes_on.ravel()
    step = int(np.dot(direction, [int(np.prod(grey.shape[axis + 1 :])) for axis in range(grey.ndim)]))
    at = np.flatnonzero(starts)
    which, length = np.arange(len(at)), np.ones(len(at), np.int64)
    found = level[at]
    while len(at):
        on = goes_on[at]
        at, which = at[on] + step, which[on]
        length[which] += 1
    return found, length


def _size_matrix(level: np.ndarray, size: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of (level, size) that occur: levels (M,), sizes (M,), share of all (M,)."""
    key = size * (levels + 1) + level
    keys, counts = np.unique(key, return_counts=True)
    return keys % (levels + 1), keys // (levels + 1), counts / counts.sum()


def _runs(grey: np.ndarray, levels: int) -> np.ndarray:
    """Section 3.7, one matrix of all directions (merged: by volume IAZD, by slice SUJT)."""
    ways = directions(grey.ndim)
    found = [run_lengths(grey, d) for d in ways]
    level, length = (np.concatenate([f[n] for f in found]) for n in (0, 1))
    i, j, p = _size_matrix(level, length, levels)
    by_level, by_length = np.bincount(i, p), np.bincount(j, p)
    mean = np.sum(i * p)
    return np.array(
        [
            np.sum(p / j**2.0),
            np.sum(by_level**2),
            np.sum(by_length**2),
            len(length) / (np.count_nonzero(grey) * len(ways)),
            np.sum((i - mean) ** 2 * p),
            _entropy(p),
        ]
    )


def _zones(grey: np.ndarray, levels: int) -> np.ndarray:
    """Section 3.8: connected voxels of one level (26 neighbours, in a slice 8), by volume KOBO, by slice 8QNN."""
    from scipy import ndimage

    structure = np.ones((3,) * grey.ndim)
    level, size = [], []
    for value in np.flatnonzero(np.bincount(grey.ravel(), minlength=levels + 1)):
        if value == 0:
            continue
        labels, count = ndimage.label(grey == value, structure)
        size.append(np.bincount(labels.ravel())[1:])
        level.append(np.full(count, value))
    level, size = np.concatenate(level), np.concatenate(size)
    i, j, p = _size_matrix(level, size, levels)
    sizes = np.unique(j, return_inverse=True)[1]
    mean = np.sum(i * p)
    return np.array(
        [
            np.sum(p / j**2.0),
            np.sum(np.bincount(i, p) ** 2),
            np.sum(np.bincount(sizes, p) ** 2),
            len(size) / np.count_nonzero(grey),
            np.sum((i - mean) ** 2 * p),
            _entropy(p),
        ]
    )


def _tone_difference(grey: np.ndarray, levels: int) -> np.ndarray:
    """Section 3.10, neighbourhood grey tone difference at Chebyshev distance 1: contrast and complexity."""
    from scipy import ndimage

    inside = (grey > 0).astype(np.float64)
    total, number = grey.astype(np.float64), inside.copy()
    for axis in range(grey.ndim):
        total, number = (
            ndimage.correlate1d(a, (1.0, 1.0, 1.0), axis, mode="constant", cval=0.0) for a in (total, number)
        )
    number = np.rint(number - inside)
    valid = (grey > 0) & (number > 0)
    if not valid.any():
        return np.zeros(len(TONE_DIFFERENCE))
    level = grey[valid]
    difference = np.abs(level - (total[valid] - level) / number[valid])
    n = np.bincount(level, minlength=levels + 1)
    s = np.bincount(level, difference, minlength=levels + 1)
    there = np.flatnonzero(n)
    if len(there) == 1:
        return np.zeros(len(TONE_DIFFERENCE))
    p, s = n[there] / n.sum(), s[there]
    apart = np.abs(there[:, None] - there[None])
    spread = np.sum(p[:, None] * p[None] * apart**2) / (len(there) * (len(there) - 1))
    weighted = p * s
    complexity = np.sum(apart * (weighted[:, None] + weighted[None]) / (p[:, None] + p[None])) / n.sum()
    return np.array([spread * s.sum() / n.sum(), complexity])
