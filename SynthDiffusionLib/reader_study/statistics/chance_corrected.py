"""Formulae of the chance-corrected agreement coefficients: value and standard error over units.

All are (observed - expected) / (1 - expected). Each unit's part in the coefficient, linearised, gives the standard
error (Gwet, Handbook of Inter-Rater Reliability, 4th ed. 2014, chapters 2 and 5; Gwet, Br J Math Stat Psychol 2008 for
AC1): units are the sample, raters are fixed. Missing ratings are allowed.

Arrays: `counts` is (units, categories), how many raters put the unit into the category.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parts:
    """A coefficient, its parts, and each unit's linearised value (whose mean is the coefficient)."""

    value: float
    observed: float
    expected: float
    by_unit: np.ndarray

    @property
    def se(self) -> float:
        """Standard error over units; NaN for a single unit."""
        n = len(self.by_unit)
        if n < 2:
            return float("nan")
        return float(np.sqrt(((self.by_unit - self.value) ** 2).sum() / (n * (n - 1))))


def _agreement(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Each unit's observed agreement (0 with fewer than two ratings), which units count, and the mean."""
    rated = counts.sum(1)
    paired = rated >= 2
    pairs = (counts * (counts - 1.0)).sum(1)
    each = np.where(paired, pairs / np.maximum(rated * (rated - 1.0), 1.0), 0.0)
    return each, paired, float(each[paired].mean())


def _combine(counts: np.ndarray, expected: float, expected_by_unit: np.ndarray) -> Parts:
    each, paired, observed = _agreement(counts)
    value = (observed - expected) / (1.0 - expected) if expected < 1.0 else float("nan")
    weight = len(counts) / paired.sum()
    own = np.where(paired, weight * (each - expected) / (1.0 - expected), 0.0) if expected < 1.0 else each * np.nan
    by_unit = own - 2.0 * (1.0 - value) * (expected_by_unit - expected) / (1.0 - expected) if expected < 1.0 else own
    return Parts(value, observed, expected, by_unit)


def _shares(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    share = counts / counts.sum(1, keepdims=True)
    return share, share.mean(0)


def fleiss(counts: np.ndarray) -> Parts:
    """Chance agreement: sum of the squared shares of the categories (Fleiss, Psychol Bull 1971)."""
    share, pi = _shares(counts)
    return _combine(counts, float((pi**2).sum()), share @ pi)


def gwet(counts: np.ndarray) -> Parts:
    """AC1. Chance agreement: sum of pi (1 - pi) / (q - 1) over q categories."""
    share, pi = _shares(counts)
    scale = 1.0 / (counts.shape[1] - 1.0)
    return _combine(counts, scale * float((pi * (1.0 - pi)).sum()), scale * (share @ (1.0 - pi)))


def uniform(counts: np.ndarray) -> Parts:
    """Chance agreement 1 / q (Brennan and Prediger 1981; for several raters Randolph's free-marginal kappa)."""
    expected = 1.0 / counts.shape[1]
    return _combine(counts, expected, np.full(len(counts), expected))


def conger(codes: np.ndarray, categories: int) -> Parts:
    """Chance agreement of raters who keep their own shares (Conger, Psychol Bull 1980).

    Args:
        codes: (units, raters) category index, -1 where missing.
    """
    n, r = codes.shape
    rated = codes >= 0
    chosen = codes[:, :, None] == np.arange(categories)
    numbers = np.maximum(rated.sum(0), 1)
    p = chosen.sum(0) / numbers[:, None]
    total = p.sum(0)
    expected = float((total**2).sum() - (p**2).sum()) / (r * (r - 1.0))
    # How far each unit moves the raters' shares, weighted by what that does to the chance agreement.
    moved = (chosen - p[None]) * rated[:, :, None] * (n / numbers)[None, :, None]
    by_unit = expected + (moved * (total[None, :] - p)[None]).sum((1, 2)) / (r * (r - 1.0))
    return _combine(chosen.sum(1).astype(np.float64), expected, by_unit)


def nominal_alpha(counts: np.ndarray) -> Parts:
    """Krippendorff's alpha for nominal data, with the small-sample correction of observed agreement."""
    counts = counts[counts.sum(1) >= 2]
    n, rated = len(counts), counts.sum(1)
    mean = rated.mean()
    epsilon = 1.0 / (n * mean)
    pairs = (counts * (counts - 1.0)).sum(1) / (rated - 1.0)
    raw = float(pairs.sum()) / (n * mean)
    pi = counts.sum(0) / (n * mean)
    observed, expected = (1.0 - epsilon) * raw + epsilon, float((pi**2).sum())
    if expected >= 1.0:
        return Parts(float("nan"), observed, expected, np.full(n, np.nan))
    value = (observed - expected) / (1.0 - expected)
    # The standard error is that of the coefficient without the correction, as in the current release of irrCAC.
    uncorrected = (raw - expected) / (1.0 - expected)
    observed_moves = (pairs - raw * rated) / mean
    expected_moves = (counts @ pi - expected * rated) / mean
    moves = (observed_moves - 2.0 * (1.0 - uncorrected) * expected_moves) / (1.0 - expected)
    return Parts(value, observed, expected, value + moves)


def metric(level: str, values: np.ndarray, marginal: np.ndarray) -> np.ndarray:
    """(q, q) squared differences between values (Krippendorff, Content Analysis, 2004, chapter 11)."""
    a, b = values[:, None], values[None, :]
    if level == "nominal":
        return (a != b).astype(np.float64)
    if level == "interval":
        return (a - b) ** 2
    if level == "ratio":
        total = a + b
        return np.where(total == 0, 0.0, (a - b) / np.where(total == 0, 1.0, total)) ** 2
    upto = np.cumsum(marginal)
    # From the first of the two to the last, less half of both: the number of ratings between the middles of two ranks.
    low = np.minimum(np.arange(len(values))[:, None], np.arange(len(values))[None, :])
    high = np.maximum(np.arange(len(values))[:, None], np.arange(len(values))[None, :])
    between = upto[high] - upto[low] + marginal[low] - (marginal[low] + marginal[high]) / 2.0
    return between**2 * (low != high)


def coincidences(counts: np.ndarray) -> np.ndarray:
    """(units, q, q) coincidences of each unit with two or more ratings; others are zero."""
    rated = counts.sum(1)
    pairs = counts[:, :, None] * counts[:, None, :]
    index = np.arange(counts.shape[1])
    pairs[:, index, index] -= counts
    scale = np.where(rated >= 2, 1.0 / np.maximum(rated - 1.0, 1.0), 0.0)
    return pairs * scale[:, None, None]


def alpha_of(coincidence: np.ndarray, values: np.ndarray, level: str) -> tuple[float, float, float]:
    """alpha, observed and expected disagreement of one (q, q) coincidence matrix; NaN if all ratings are the same."""
    marginal = coincidence.sum(1)
    total = marginal.sum()
    if total <= 1:
        return float("nan"), float("nan"), float("nan")
    distance = metric(level, values, marginal)
    observed = float((coincidence * distance).sum()) / total
    expected = float(marginal @ distance @ marginal) / (total * (total - 1.0))
    return (1.0 - observed / expected if expected > 0 else float("nan")), observed, expected
