"""Agreement between readers, corrected for chance, with intervals.

Ratings are (units, raters), NaN where missing. Intervals are over units (the raters are these), with n - 1 degrees of
freedom; where no analytic standard error is in use, they are percentile intervals of the bootstrap over units.
Kappa falls when one answer is much more frequent than the others although readers agree; AC1 does not. Reporting both
is better than choosing after the fact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput, MissingExtra

from . import chance_corrected as formulae
from .results import CONFIDENCE, Result, check_choice, check_confidence

LEVELS = ("nominal", "ordinal", "interval", "ratio")
RESAMPLES = 2000
SEED = 2026


@dataclass(frozen=True)
class Coefficient(Result):
    """An agreement coefficient. observed/expected are agreements, for Krippendorff's alpha disagreements.

    `interval` says how the interval was made. `z` and `p` test that the coefficient is 0, where given.
    """

    name: str
    value: float
    se: float
    low: float
    high: float
    observed: float
    expected: float
    units: int
    raters: int
    interval: str
    z: float = math.nan
    p: float = math.nan


def _ratings(ratings: np.ndarray) -> np.ndarray:
    array = np.asarray(ratings, np.float64)
    if array.ndim != 2 or array.shape[1] < 2:
        raise BadInput(f"Ratings of shape {array.shape} have no agreement", "Give (units, raters), two raters or more.")
    array = array[np.isfinite(array).any(1)]
    if (np.isfinite(array).sum(1) >= 2).sum() < 1:
        raise BadInput("No unit was rated by two raters", "Give each unit to two raters or more.")
    return array


def _values(ratings: np.ndarray, categories: Sequence[float] | None) -> np.ndarray:
    seen = np.unique(ratings[np.isfinite(ratings)])
    if categories is None:
        return seen
    values = np.unique(np.asarray(categories, np.float64))
    if not np.isin(seen, values).all():
        raise BadInput("A rating is not among the categories", "Name every category that may occur.")
    return values


def _counts(ratings: np.ndarray, values: np.ndarray) -> np.ndarray:
    return (ratings[:, :, None] == values).sum(1).astype(np.float64)


def _undefined(name: str, value: float, observed: float, expected: float, units: int, raters: int) -> Coefficient:
    """A coefficient without an interval: all answers are the same, or there is one unit."""
    nan = math.nan
    return Coefficient(name, value, nan, nan, nan, observed, expected, units, raters, "none: no variance")


def _coefficient(name: str, parts: formulae.Parts, raters: int, confidence: float) -> Coefficient:
    from scipy.stats import t

    units, se = len(parts.by_unit), parts.se
    if not math.isfinite(parts.value) or not se >= 0:
        return _undefined(name, parts.value, parts.observed, parts.expected, units, raters)
    half = float(t.ppf(0.5 + confidence / 2.0, units - 1)) * se
    p = float(2.0 * t.sf(abs(parts.value / se), units - 1)) if se > 0 else math.nan
    low, high = max(parts.value - half, -1.0), min(parts.value + half, 1.0)
    how = f"t with {units - 1} degrees of freedom, analytic standard error"
    return Coefficient(
        name, parts.value, se, low, high, parts.observed, parts.expected, units, raters, how,
        parts.value / se if se > 0 else math.nan, p,
    )  # fmt: skip


def _by_counts(
    name: str,
    formula: Callable[[np.ndarray], formulae.Parts],
    ratings: np.ndarray,
    categories: Sequence[float] | None,
    confidence: float,
) -> Coefficient:
    array = _ratings(ratings)
    check_confidence(confidence)
    values = _values(array, categories)
    if len(values) < 2:
        # One answer only: agreement is perfect, and nothing can be said about chance.
        return _undefined(name, math.nan, 1.0, 1.0, *array.shape)
    return _coefficient(name, formula(_counts(array, values)), array.shape[1], confidence)


def fleiss_kappa(
    ratings: np.ndarray, categories: Sequence[float] | None = None, confidence: float = CONFIDENCE
) -> Coefficient:
    """Fleiss's kappa of any number of raters (Psychol Bull 1971).

    With equal numbers of ratings, z is the one under no agreement (Fleiss, Nee and Landis, Psychol Bull 1979); the
    interval is always made with the standard error of the coefficient itself.

    Args:
        ratings: (units, raters), NaN where missing.
        categories: all that may occur, if some did not.
    """
    from scipy.stats import norm

    result = _by_counts("Fleiss's kappa", formulae.fleiss, ratings, categories, confidence)
    array = _ratings(ratings)
    if np.isnan(array).any() or not math.isfinite(result.value):
        return result
    counts = _counts(array, _values(array, categories))
    n, m = array.shape
    p = counts.sum(0) / (n * m)
    spread = float((p * (1.0 - p)).sum())
    variance = 2.0 / (n * m * (m - 1)) * (spread**2 - float((p * (1.0 - p) * (1.0 - 2.0 * p)).sum())) / spread**2
    z = result.value / math.sqrt(variance)
    fields = {**vars(result), "z": z, "p": float(2.0 * norm.sf(abs(z)))}
    return Coefficient(**fields)


def gwet_ac1(
    ratings: np.ndarray, categories: Sequence[float] | None = None, confidence: float = CONFIDENCE
) -> Coefficient:
    """Gwet's AC1 (Br J Math Stat Psychol 2008). Arguments as in `fleiss_kappa`."""
    return _by_counts("Gwet's AC1", formulae.gwet, ratings, categories, confidence)


def brennan_prediger(
    ratings: np.ndarray, categories: Sequence[float] | None = None, confidence: float = CONFIDENCE
) -> Coefficient:
    """Brennan and Prediger's coefficient: chance is 1 / number of categories. Arguments as in `fleiss_kappa`."""
    return _by_counts("Brennan-Prediger", formulae.uniform, ratings, categories, confidence)


def randolph_kappa(
    ratings: np.ndarray, categories: Sequence[float] | None = None, confidence: float = CONFIDENCE
) -> Coefficient:
    """Randolph's free-marginal kappa, which is Brennan and Prediger's for several raters."""
    return _by_counts("Randolph's kappa", formulae.uniform, ratings, categories, confidence)


def conger_kappa(
    ratings: np.ndarray, categories: Sequence[float] | None = None, confidence: float = CONFIDENCE
) -> Coefficient:
    """Conger's kappa: Cohen's for any number of raters (Psychol Bull 1980). Arguments as in `fleiss_kappa`."""
    array = _ratings(ratings)
    values = _values(array, categories)
    codes = np.where(np.isfinite(array), np.searchsorted(values, np.nan_to_num(array, nan=values[0])), -1)
    return _by_counts("Conger's kappa", lambda _: formulae.conger(codes, len(values)), ratings, categories, confidence)


def cohen_kappa(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    weights: str | None = None,
    categories: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
) -> Coefficient:
    """Cohen's kappa of two readings (statsmodels' cohens_kappa), units with both readings.

    Args:
        weights: None, "linear" or "squared" (by the position of the categories in order).

    Raises:
        BadInput: no unit with both readings.
        MissingExtra: statsmodels is not installed.
    """
    from scipy.stats import norm

    try:
        from statsmodels.stats.inter_rater import cohens_kappa
    except ImportError as error:
        raise MissingExtra("Cohen's kappa", "study") from error
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise BadInput(f"{a.shape} and {b.shape} readings cannot be paired", "Give both readings of each unit.")
    check_choice("The weighting", weights or "none", ("none", "linear", "squared"))
    both = np.isfinite(a) & np.isfinite(b)
    array = _ratings(np.stack([a[both], b[both]], axis=1))
    values = _values(array, categories)
    name = "Cohen's kappa" if weights is None else f"Cohen's kappa, {weights} weights"
    if len(values) < 2:
        return _undefined(name, math.nan, 1.0, 1.0, len(array), 2)
    codes = np.searchsorted(values, array)
    table = np.zeros((len(values), len(values)))
    np.add.at(table, (codes[:, 0], codes[:, 1]), 1.0)
    found = cohens_kappa(table, wt={None: None, "linear": "linear", "squared": "quadratic"}[weights])
    value, se = float(found.kappa), float(found.std_kappa)
    shares = table / table.sum()
    step = np.abs(np.arange(len(values))[:, None] - np.arange(len(values)))
    power = {None: 0, "linear": 1, "squared": 2}[weights]
    credit = (step == 0) * 1.0 if power == 0 else 1.0 - (step / step.max()) ** power
    expected = float((credit * np.outer(shares.sum(1), shares.sum(0))).sum())
    half = float(norm.ppf(0.5 + confidence / 2.0)) * se
    return Coefficient(
        name, value, se, max(value - half, -1.0), min(value + half, 1.0), float((credit * shares).sum()), expected,
        len(array), 2, "normal, asymptotic standard error (Fleiss, Cohen and Everitt 1969)",
        float(found.z_value), float(found.pvalue_two_sided),
    )  # fmt: skip


def krippendorff_alpha(
    ratings: np.ndarray,
    level: str = "nominal",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Coefficient:
    """Krippendorff's alpha with missing values (Content Analysis, 2004, chapter 11).

    The interval is analytic for nominal data, else the percentile interval of the bootstrap over units.

    Args:
        ratings: (units, raters), NaN where missing.
        level: "nominal", "ordinal", "interval" or "ratio" (values of 0 or more).

    Raises:
        BadInput: unknown level, no unit with two ratings, or negative values on a ratio scale.
    """
    check_choice("The level of measurement", level, LEVELS)
    check_confidence(confidence)
    array = _ratings(ratings)
    array = array[np.isfinite(array).sum(1) >= 2]
    values = _values(array, None)
    if level == "ratio" and values[0] < 0:
        raise BadInput("A ratio scale has no negative values", 'Use level "interval".')
    name, counts = f"Krippendorff's alpha, {level}", _counts(array, values)
    each = formulae.coincidences(counts)
    value, observed, expected = formulae.alpha_of(each.sum(0), values, level)
    if not math.isfinite(value):
        return _undefined(name, value, observed, expected, *array.shape)
    if level == "nominal":
        found = _coefficient(name, formulae.nominal_alpha(counts), array.shape[1], confidence)
        return Coefficient(**{**vars(found), "observed": observed, "expected": expected})
    rng = np.random.default_rng([seed, len(array)])
    weights = rng.multinomial(len(array), np.full(len(array), 1.0 / len(array)), size=resamples).astype(np.float64)
    flat = each.reshape(len(array), -1)
    drawn = np.array([formulae.alpha_of((w @ flat).reshape(each.shape[1:]), values, level)[0] for w in weights])
    drawn = drawn[np.isfinite(drawn)]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail]) if len(drawn) else (math.nan, math.nan)
    se = float(drawn.std(ddof=1)) if len(drawn) > 1 else math.nan
    how = f"bootstrap over units, percentiles of {len(drawn)}"
    return Coefficient(name, value, se, float(low), float(high), observed, expected, len(array), array.shape[1], how)


def agreement_table(
    ratings: np.ndarray,
    level: str = "nominal",
    categories: Sequence[float] | None = None,
    confidence: float = CONFIDENCE,
) -> tuple[Coefficient, ...]:
    """All coefficients that fit the level.

    For nominal answers Fleiss, Conger, AC1, Brennan-Prediger and alpha; for others alpha at their level.
    """
    check_choice("The level of measurement", level, LEVELS)
    if level != "nominal":
        return (krippendorff_alpha(ratings, level, confidence),)
    return (
        fleiss_kappa(ratings, categories, confidence),
        conger_kappa(ratings, categories, confidence),
        gwet_ac1(ratings, categories, confidence),
        brennan_prediger(ratings, categories, confidence),
        krippendorff_alpha(ratings, level, confidence),
    )
