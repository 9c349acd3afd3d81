"""One generator against a value: can readers tell its volumes from real ones?

The reader-averaged figure of merit (AUC, accuracy, proportion right in forced choice) is compared with chance, with
readers and cases random: Obuchowski-Rockette for a single treatment (Hillis, Stat Med 2007),

    var(mean) = (MSR + r max(cov2, 0)) / r,    df = (MSR + r max(cov2, 0))^2 / (MSR^2 / (r - 1)).

Two things are done differently here, because simulation (Testing/Benchmarks/reader_study_simulation.py) shows that they
bring 95 % intervals from 86-96 % to 92-98 % coverage, also with 3 readers:

    floor      MSR is never taken below error - cov2, which it must exceed on average since readers' variance is not
               negative. With 3 readers MSR has 2 degrees of freedom and is often far too small by luck. The degrees of
               freedom keep the observed MSR, as the floor is known from the cases. At MSR = 0 this is the interval for
               fixed readers: random readers never make it narrower than that.
    logit      tests and intervals are made on the logit scale (delta method), so that intervals stay within 0 and 1 and
               are right near 1, where Wald's fail.

`floor=False, scale="identity"` gives Hillis's own. Where the estimated variance is 0 (everybody perfect, or everybody
always of one opinion), no variance can be estimated: the result says so and gives the exact binomial bound of as many
independent trials as there are cases (pairs, for the AUC) for one reader, never a width of zero.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput

from .figures import Figures, figures
from .mrmc import check_effects
from .results import ALPHA, CONFIDENCE, Equivalence, Result, check_choice, check_confidence, equivalence_t

SCALES = ("logit", "identity")
_UNBOUNDED = ("mean_difference",)


@dataclass(frozen=True)
class ReaderFigure(Result):
    """One reader's figure of merit with an interval over cases."""

    reader: str
    value: float
    se: float
    low: float
    high: float


@dataclass(frozen=True)
class SingleArm(Result):
    """Reader-averaged figure of merit against `null`. `se` is on the figure's own scale; t and df as tested."""

    figure: str
    covariance: str
    readers: str
    cases: str
    value: float
    null: float
    se: float
    df: float
    t: float
    p: float
    low: float
    high: float
    confidence: float
    equivalence: Equivalence | None
    reader_values: tuple[ReaderFigure, ...]
    msr: float
    error: float
    cov2: float
    var_r: float
    n_readers: int
    n_cases: int
    degenerate: bool
    notes: tuple[str, ...]


def logit(p: float) -> float:
    """log(p / (1 - p)) for 0 < p < 1."""
    return math.log(p / (1.0 - p))


def _inverse(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > -700 else 0.0


def _binomial_bounds(value: float, trials: int, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson's interval of value * trials successes, which need not be a whole number."""
    from scipy.stats import beta

    k, tail = value * trials, (1.0 - confidence) / 2.0
    low = 0.0 if k <= 0 else float(beta.ppf(tail, k, trials - k + 1.0))
    high = 1.0 if k >= trials else float(beta.ppf(1.0 - tail, k + 1.0, trials - k))
    return low, high


def _binomial_tails(value: float, trials: int, null: float) -> tuple[float, float]:
    """P(as many or more), P(as many or fewer) if the proportion is `null`."""
    from scipy.stats import beta

    k = value * trials
    more = 1.0 if k <= 0 else float(beta.cdf(null, k, trials - k + 1.0))
    fewer = 1.0 if k >= trials else float(beta.sf(null, k + 1.0, trials - k))
    return more, fewer


def interval(
    value: float, se: float, df: float, scale: str, confidence: float, trials: int
) -> tuple[float, float, bool]:
    """Interval of a figure of merit between 0 and 1: low, high, and whether it is the bound for degenerate data."""
    from scipy.stats import t as student

    if not se > 0 or (scale == "logit" and not 0.0 < value < 1.0):
        return *_binomial_bounds(value, trials, confidence), True
    quantile = float(student.ppf(0.5 + confidence / 2.0, df))
    if scale == "identity":
        return value - quantile * se, value + quantile * se, False
    half = quantile * se / (value * (1.0 - value))
    return _inverse(logit(value) - half), _inverse(logit(value) + half), False


def _variance(values: np.ndarray, fitted: Figures, readers: str, cases: str, floor: bool) -> tuple[float, ...]:
    """variance of the mean, df, msr, error, cov2."""
    r, matrix = len(values), fitted.covariance
    error = float(np.trace(matrix)) / r
    cov2 = float(matrix.sum() - np.trace(matrix)) / (r * (r - 1)) if r > 1 else 0.0
    msr = float(values.var(ddof=1)) if r > 1 else 0.0
    if readers == "fixed":
        return max(error + (r - 1) * cov2, 0.0) / r, math.inf, msr, error, cov2
    if cases == "fixed":
        return msr / r, float(r - 1), msr, error, cov2
    shared = max(cov2, 0.0)
    total = (max(msr, error - shared) if floor else msr) + r * shared
    df = math.inf if msr == 0 else total**2 / (msr**2 / (r - 1))
    return total / r, df, msr, error, cov2


def _trials(fitted: Figures, clusters: object) -> int:
    """Independent trials in one reader's data: what the bound for degenerate data rests on."""
    if fitted.figure in ("auc", "binormal_auc"):
        number = min(fitted.positives, fitted.negatives)
    elif fitted.figure == "balanced_accuracy":
        number = 2 * min(fitted.positives, fitted.negatives)
    elif fitted.figure == "sensitivity":
        number = fitted.positives
    elif fitted.figure == "specificity":
        number = fitted.negatives
    else:
        number = fitted.cases
    return number if clusters is None else min(number, fitted.clusters)


def _equivalence(
    value: float, se: float, df: float, null: float, margin: float, alpha: float, scale: str, bounded: bool
) -> Equivalence:
    lower, upper = null - margin, null + margin
    if not bounded:
        return equivalence_t(value, se, df, lower, upper, alpha)
    if not 0.0 < lower < upper < 1.0:
        raise BadInput(f"Limits of equivalence {lower:g} and {upper:g} are of no use", "Give a smaller margin above 0.")
    if scale == "identity" or not se > 0 or not 0.0 < value < 1.0:  # without variation, never equivalent
        return equivalence_t(value, se, df, lower, upper, alpha)
    e = equivalence_t(logit(value), se / (value * (1.0 - value)), df, logit(lower), logit(upper), alpha)
    return Equivalence(
        value, lower, upper, e.p_lower, e.p_upper, e.p, _inverse(e.low), _inverse(e.high), alpha, e.equivalent
    )


def single_arm(
    ratings: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    *,
    figure: str = "auc",
    null: float | None = None,
    covariance: str = "delong",
    readers: str = "random",
    cases: str = "random",
    threshold: float | None = None,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    margin: float | None = None,
    alpha: float = ALPHA,
    confidence: float = CONFIDENCE,
    reader_names: Sequence[str] | None = None,
    floor: bool = True,
    scale: str = "logit",
) -> SingleArm:
    """Reader-averaged figure of merit of one generator against a value.

    Args:
        ratings: (readers, cases), higher = more "synthetic"; NaN where a reader did not answer.
        truth: (cases,) 0 real, 1 synthetic.
        figure, covariance, threshold: see `figures.figures`.
        null: the value compared with; by default 0.5, and 0 for "mean_difference".
        readers, cases: "random" or "fixed". With readers fixed the result holds for these readers only.
        clusters: (cases,) pair or patient. A synthetic volume and the real one of its mask are not independent: give
            the pair, and both stay together (DeLong by cluster, or the jackknife over clusters).
        margin: adds the test of equivalence within null +- margin at `alpha`.
        floor, scale: see the module; mean_difference is always on its own scale.

    Raises:
        BadInput: shapes, one random reader, nothing random, a margin that reaches 0 or 1.
    """
    from scipy.stats import t as student

    ratings = np.asarray(ratings, np.float64)
    if ratings.ndim != 2:
        raise BadInput(f"Ratings of shape {ratings.shape} are not one treatment's", "Give (readers, cases).")
    r = len(ratings)
    check_effects(readers, cases, r)
    check_confidence(confidence)
    check_choice("The scale", scale, SCALES)
    if reader_names is not None and len(reader_names) != r:
        raise BadInput(f"{len(reader_names)} names for {r} readers", "Give one name for each.")
    fitted = figures(ratings, truth, figure, covariance, threshold, clusters)
    bounded = figure not in _UNBOUNDED and not (figure == "mean" and not _is_binary(ratings))
    if null is None:
        null = 0.5 if bounded else 0.0
    used_scale = scale if bounded else "identity"
    trials = _trials(fitted, clusters)
    values = fitted.values
    value = float(values.mean())
    variance, df, msr, error, cov2 = _variance(values, fitted, readers, cases, floor)
    se = math.sqrt(variance)
    notes: list[str] = []
    degenerate = not se > 1e-12 or (bounded and used_scale == "logit" and not 0.0 < value < 1.0)
    if degenerate:
        se = 0.0
    if degenerate and bounded:
        low, high, _ = interval(value, 0.0, df, used_scale, confidence, trials)
        more, fewer = _binomial_tails(value, trials, null)
        t, p = math.nan, min(1.0, 2.0 * min(more, fewer))
        notes.append(
            "The readers' figures do not vary at all, so no variance can be estimated. Interval and p-value are the "
            f"exact binomial ones of {trials} independent trials; they say nothing about readers other than these."
        )
    elif degenerate:
        t, p, low, high = math.nan, math.nan, math.nan, math.nan
        notes.append("The readers' figures do not vary at all: neither interval nor test can be given.")
    else:
        slope = 1.0 if used_scale == "identity" else 1.0 / (value * (1.0 - value))
        distance = (value - null) if used_scale == "identity" else logit(value) - logit(null)
        t = distance / (se * slope)
        p = float(2.0 * student.sf(abs(t), df))
        if bounded:
            low, high, _ = interval(value, se, df, used_scale, confidence, trials)
        else:
            half = float(student.ppf(0.5 + confidence / 2.0, df)) * se
            low, high = value - half, value + half
    if readers == "random" and cases == "random" and r < 4:
        notes.append(f"{r} readers tell little about readers at large; the interval is wide for that reason.")
    equivalence = None
    if margin is not None:
        equivalence = _equivalence(value, se, df, null, margin, alpha, used_scale, bounded)
        if degenerate:
            notes.append("Without variation, equivalence is taken as not shown (p = 1).")
    names = reader_names or [f"reader {j + 1}" for j in range(r)]
    return SingleArm(
        figure, covariance, readers, cases, value, null, se, df, t, p, low, high, confidence, equivalence,
        tuple(
            _reader(str(names[j]), float(v), float(fitted.covariance[j, j]), bounded, used_scale, confidence, trials)
            for j, v in enumerate(values)
        ),
        msr, error, cov2, msr - error + cov2, r, fitted.cases, degenerate, tuple(notes),
    )  # fmt: skip


def _is_binary(ratings: np.ndarray) -> bool:
    read = ratings[np.isfinite(ratings)]
    return bool(np.isin(read, (0.0, 1.0)).all())


def _reader(
    name: str, value: float, variance: float, bounded: bool, scale: str, confidence: float, trials: int
) -> ReaderFigure:
    from scipy.stats import norm

    se = math.sqrt(max(variance, 0.0))
    if bounded:
        low, high, _ = interval(value, se if se > 1e-12 else 0.0, math.inf, scale, confidence, trials)
        return ReaderFigure(name, value, se, low, high)
    half = float(norm.ppf(0.5 + confidence / 2.0)) * se
    return ReaderFigure(name, value, se, value - half, value + half)


def forced_choice(
    correct: np.ndarray,
    *,
    null: float = 0.5,
    readers: str = "random",
    cases: str = "random",
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    margin: float | None = None,
    alpha: float = ALPHA,
    confidence: float = CONFIDENCE,
    reader_names: Sequence[str] | None = None,
) -> SingleArm:
    """Proportion right in forced choice, averaged over readers, with readers and units (pairs shown) random.

    Args:
        correct: (readers, units) 1 right, 0 wrong, NaN not answered.
        null: chance: 0.5 for two alternatives, 1 / m for m.
        clusters: (units,) where a patient has several units.

    Raises:
        BadInput: other values than 0 and 1, or what `single_arm` refuses.
    """
    correct = np.asarray(correct, np.float64)
    if correct.ndim != 2 or not _is_binary(correct):
        raise BadInput("Forced choice needs answers that are right (1) or wrong (0)", "Give (readers, units).")
    return single_arm(
        correct, np.zeros(correct.shape[1], np.int64), figure="mean", null=null, readers=readers, cases=cases,
        clusters=clusters, margin=margin, alpha=alpha, confidence=confidence, reader_names=reader_names,
    )  # fmt: skip
