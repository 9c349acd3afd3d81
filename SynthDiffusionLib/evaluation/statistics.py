"""The statistics behind the figures: intervals over patients, AUC, kernel distance.

Patients, not volumes, are what is drawn: the volumes of a patient, and the synthetic volumes of a patient's mask, stay
together in every resample. A resample is a vector of counts, one per patient, so that each statistic is a weighted one
and 2,000 resamples are a matrix product. Intervals are percentile intervals (Efron and Tibshirani 1993, chapter 13);
with 20 patients they are a little too narrow (nominal 95 % covers about 92 to 94 % for a mean).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 2026


@dataclass(frozen=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        return {k: None if not np.isfinite(v) else float(v) for k, v in vars(self).items()}


def patient_weights(patients: int, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """How often each patient occurs in each bootstrap resample.

    Returns:
        (resamples, patients) float64, rows sum to `patients`. The same arguments give the same resamples, so that
        statistics of the same patients are paired.
    """
    rng = np.random.default_rng([seed, patients])
    return rng.multinomial(patients, np.full(patients, 1.0 / patients), size=resamples).astype(np.float64)


def interval(value: float, resampled: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Percentile interval; resamples in which the statistic is undefined (not finite) are left out."""
    finite = resampled[np.isfinite(resampled)]
    if len(finite) == 0:
        return Estimate(float(value), float("nan"), float("nan"))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(finite, [tail, 1.0 - tail])
    return Estimate(float(value), float(low), float(high))


def bootstrap(statistic: Callable[[np.ndarray], np.ndarray], patients: int, resamples: int = RESAMPLES) -> Estimate:
    """A statistic of weighted patients with its interval.

    Args:
        statistic: maps weights (B, patients) to values (B,).
        patients: their number.
    """
    value = statistic(np.ones((1, patients)))[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval(value, statistic(patient_weights(patients, resamples)))


def mean_by_patient(values: Sequence[float], patients: Sequence[Hashable]) -> tuple[np.ndarray, list[Hashable]]:
    """The mean of each patient's values, so that every patient counts once; patients in order of first occurrence."""
    order = list(dict.fromkeys(patients))
    grouped: dict[Hashable, list[float]] = {p: [] for p in order}
    for value, patient in zip(values, patients):
        grouped[patient].append(float(value))
    return np.array([np.mean(grouped[p]) for p in order]), order


def bootstrap_mean(values: np.ndarray) -> Estimate:
    """Mean over patients; `values` has one entry per patient."""
    values = np.asarray(values, np.float64)
    return bootstrap(lambda w: w @ values / w.sum(1), len(values))


def bootstrap_ratio(numerator: np.ndarray, denominator: np.ndarray) -> Estimate:
    """Ratio of the means of paired values, entry i of both belonging to patient i. Not defined (nan) if the
    denominator's mean is 0."""
    a, b = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if not b.any():
        return Estimate(float("nan"), float("nan"), float("nan"))
    return bootstrap(lambda w: (w @ a) / (w @ b), len(a))


def auc(negative: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a positive scores higher than a negative, ties counting half
    (the Mann-Whitney U statistic divided by the number of pairs)."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([negative, positive]))[len(negative) :]
    u = ranks.sum() - len(positive) * (len(positive) + 1) / 2.0
    return float(u / (len(negative) * len(positive)))


def bootstrap_auc(
    negative: np.ndarray,
    negative_patients: Sequence[Hashable],
    positive: np.ndarray,
    positive_patients: Sequence[Hashable],
) -> Estimate:
    """AUC with an interval over patients. Conditional on the scores: the training of what gave them is not redrawn.

    Args:
        negative: scores (N,).
        negative_patients: the patient of each; a synthetic volume belongs to the patient of its mask.
        positive: scores (M,).
        positive_patients: as above.
    """
    patients = list(dict.fromkeys([*negative_patients, *positive_patients]))
    index = {p: i for i, p in enumerate(patients)}
    rows = np.array([index[p] for p in negative_patients])
    columns = np.array([index[p] for p in positive_patients])
    wins = (positive[None] > negative[:, None]) + 0.5 * (positive[None] == negative[:, None])
    totals = np.zeros((len(patients), len(patients)))
    counts = np.zeros_like(totals)
    np.add.at(totals, (rows[:, None], columns[None]), wins)
    np.add.at(counts, (rows[:, None], columns[None]), 1.0)

    def weighted(w: np.ndarray) -> np.ndarray:
        return ((w @ totals) * w).sum(1) / ((w @ counts) * w).sum(1)

    return bootstrap(weighted, len(patients))


def gaussian_kernel(a: np.ndarray, b: np.ndarray, bandwidth: float) -> np.ndarray:
    """exp(-|x - y|² / (2 bandwidth²)) for the rows of `a` (N, D) and `b` (M, D); (N, M)."""
    squared = ((a[:, None] - b[None]) ** 2).sum(-1)
    return np.exp(-squared / (2.0 * bandwidth**2))


def median_distance(points: np.ndarray) -> float:
    """Median Euclidean distance between different rows of (N, D): the usual bandwidth of a Gaussian kernel."""
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    return float(np.median(distances[np.triu_indices(len(points), 1)]))


def mmd2(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, JMLR 13:723, lemma 6).

    Args:
        x: (N, D) features; y: (M, D) features.
        bandwidth: of the Gaussian kernel.

    Returns:
        0 in expectation when both come from one distribution, so about half of such estimates are negative.
    """
    n, m = len(x), len(y)
    xx, yy, xy = (gaussian_kernel(a, b, bandwidth) for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2.0 * xy.mean())


def bootstrap_mmd2(x: np.ndarray, y: np.ndarray, bandwidth: float) -> Estimate:
    """Squared maximum mean discrepancy of two sets of equal size whose rows i belong to one patient.

    The estimate for paired sets (Gretton et al. 2012, equation 4) takes pairs of different patients only, between the
    sets too: a synthetic volume and the real one of its mask depend on each other. A patient that a resample draws
    twice is no pair of different patients either. Two equal sets are at exactly 0.
    """
    xx, yy, xy = (gaussian_kernel(a, b, bandwidth) for a, b in ((x, x), (y, y), (x, y)))
    different = 1.0 - np.eye(len(x))
    terms = (xx + yy - xy - xy.T) * different

    def weighted(w: np.ndarray) -> np.ndarray:
        return ((w @ terms) * w).sum(1) / ((w @ different) * w).sum(1)

    return bootstrap(weighted, len(x))


def marginal_frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet distance between normal distributions with diagonal covariance, averaged over the D features.

    Features are to be standardised beforehand. The full covariance is not used: with fewer volumes than features it is
    singular. The estimate is biased upwards, so it is read beside a real-to-real value of the same sizes.
    """
    mean = (x.mean(0) - y.mean(0)) ** 2
    spread = (x.std(0, ddof=1) - y.std(0, ddof=1)) ** 2
    return float(np.mean(mean + spread))


def bootstrap_frechet(x: np.ndarray, y: np.ndarray) -> Estimate:
    """`marginal_frechet` of two sets whose rows i belong to one patient, with an interval over patients."""

    def moments(w: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = w.sum(1, keepdims=True)
        mean = w @ a / total
        variance = np.maximum(w @ a**2 / total - mean**2, 0.0) * total / (total - 1.0)
        return mean, np.sqrt(variance)

    def weighted(w: np.ndarray) -> np.ndarray:
        (mean_x, sd_x), (mean_y, sd_y) = moments(w, x), moments(w, y)
        return ((mean_x - mean_y) ** 2 + (sd_x - sd_y) ** 2).mean(1)

    return bootstrap(weighted, len(x))


def wasserstein_of_histograms(a: np.ndarray, b: np.ndarray, bin_width: float) -> np.ndarray:
    """Wasserstein-1 distance between histograms over the same bins, in the unit of `bin_width`.

    Args:
        a: (..., bins) counts; b: the same.

    Returns:
        (...), nan where a histogram is empty.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        p = a / a.sum(-1, keepdims=True)
        q = b / b.sum(-1, keepdims=True)
    return np.abs(np.cumsum(p - q, axis=-1)).sum(-1) * bin_width


def l1_of_histograms(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of the absolute differences of two normalised histograms: 0 for equal ones, 2 for disjoint ones."""
    if a.sum() == 0 or b.sum() == 0:
        return float("nan")
    return float(np.abs(a / a.sum() - b / b.sum()).sum())
