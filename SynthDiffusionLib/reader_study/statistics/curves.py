"""ROC curves of single readings: points, empirical area, DeLong's covariance."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput

from .figures import figures
from .results import CONFIDENCE, Result, as_truth, check_confidence
from .single_arm import interval, logit


@dataclass(frozen=True)
class RocPoints(Result):
    """Points of the empirical ROC curve from (0, 0) to (1, 1); a case is called synthetic if rating > threshold."""

    false_positive: np.ndarray
    true_positive: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class Area(Result):
    """Area under one reading's ROC curve against 0.5. `p` is DeLong's z test on the logit scale, as is the interval."""

    value: float
    se: float
    low: float
    high: float
    z: float
    p: float
    positives: int
    negatives: int
    degenerate: bool


def roc_points(ratings: np.ndarray, truth: Sequence[int] | np.ndarray) -> RocPoints:
    """Points of the empirical ROC curve, one per different rating.

    Args:
        ratings: (cases,) finite, higher = more "synthetic".
        truth: (cases,) 0 real, 1 synthetic.

    Raises:
        BadInput: no cases of a kind, or ratings that are not finite.
    """
    ratings = np.asarray(ratings, np.float64)
    truth = as_truth(truth, len(ratings))
    if not np.isfinite(ratings).all() or truth.min(initial=1) == truth.max(initial=0):
        raise BadInput("A ROC curve needs finite ratings of real and synthetic cases", "Leave missing answers out.")
    thresholds = np.concatenate([np.unique(ratings)[::-1], [-math.inf]])
    synthetic, real = np.sort(ratings[truth == 1]), np.sort(ratings[truth == 0])
    above = 1.0 - np.searchsorted(synthetic, thresholds, "right") / len(synthetic)
    false = 1.0 - np.searchsorted(real, thresholds, "right") / len(real)
    return RocPoints(false, above, thresholds)


def auc(ratings: np.ndarray, truth: Sequence[int] | np.ndarray) -> np.ndarray | float:
    """Empirical area under the ROC curve of each row: P(synthetic > real) + P(equal) / 2.

    Args:
        ratings: (cases,) or (rows, cases); NaN where not read.
        truth: (cases,).
    """
    ratings = np.asarray(ratings, np.float64)
    values = figures(np.atleast_2d(ratings), truth, "auc").values
    return float(values[0]) if ratings.ndim == 1 else values


def delong(ratings: np.ndarray, truth: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas and their covariances (DeLong, DeLong and Clarke-Pearson, Biometrics 1988, 44:837).

    Args:
        ratings: (rows, cases).

    Returns:
        (rows,) and (rows, rows).
    """
    fitted = figures(ratings, truth, "auc", "delong")
    return fitted.values, fitted.covariance


def auc_interval(
    ratings: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    confidence: float = CONFIDENCE,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
) -> Area:
    """Area of one reading with DeLong's interval on the logit scale.

    Where the estimated variance is 0 (perfect separation), the interval is the exact binomial one of as many
    independent pairs as there are cases of the rarer kind.

    Raises:
        BadInput: fewer than two cases of a kind.
    """
    from scipy.stats import norm

    check_confidence(confidence)
    fitted = figures(np.atleast_2d(np.asarray(ratings, np.float64)), truth, "auc", "delong", clusters=clusters)
    value, variance = float(fitted.values[0]), float(fitted.covariance[0, 0])
    se = math.sqrt(max(variance, 0.0))
    trials = min(fitted.positives, fitted.negatives)
    low, high, degenerate = interval(value, se if se > 1e-12 else 0.0, math.inf, "logit", confidence, trials)
    z = math.nan if degenerate else logit(value) / (se / (value * (1.0 - value)))
    p = math.nan if degenerate else float(2.0 * norm.sf(abs(z)))
    return Area(value, se, low, high, z, p, fitted.positives, fitted.negatives, degenerate)
