"""Proportions: exact tests and intervals, equivalence, paired proportions, correction for several tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput

from .results import ALPHA, CONFIDENCE, Equivalence, Result, check_confidence


@dataclass(frozen=True)
class Proportion(Result):
    """Successes of independent trials. `low` and `high` are Clopper-Pearson's, which never cover too rarely."""

    successes: int
    trials: int
    value: float
    null: float
    p: float
    low: float
    high: float
    wilson_low: float
    wilson_high: float
    confidence: float


@dataclass(frozen=True)
class PairedProportions(Result):
    """Two or more proportions of the same cases. `discordant` is only given for two."""

    statistic: float
    df: int
    p: float
    proportions: tuple[float, ...]
    discordant: tuple[int, int] | None = None


def _counts(successes: int, trials: int) -> tuple[int, int]:
    if int(successes) != successes or int(trials) != trials or not 0 <= successes <= trials or trials < 1:
        raise BadInput(
            f"{successes} of {trials} is not a count of successes", "Give whole numbers, 0 <= k <= n, n >= 1."
        )
    return int(successes), int(trials)


def exact_test(successes: int, trials: int, null: float = 0.5, confidence: float = CONFIDENCE) -> Proportion:
    """Two-sided exact binomial test of a proportion, with Clopper-Pearson's and Wilson's intervals.

    The trials must be independent: one reader's answers to different cases are, the pooled answers of several readers
    to the same cases are not (use `single_arm` for those).

    Raises:
        BadInput: not a count, or `null` outside [0, 1].
    """
    from scipy.stats import binomtest

    successes, trials = _counts(successes, trials)
    check_confidence(confidence)
    if not 0.0 <= null <= 1.0:
        raise BadInput(f"A proportion of {null} cannot be tested", "Give a value from 0 to 1.")
    test = binomtest(successes, trials, null)
    exact = test.proportion_ci(confidence, "exact")
    score = test.proportion_ci(confidence, "wilson")
    return Proportion(
        successes, trials, successes / trials, null, float(test.pvalue),
        float(exact.low), float(exact.high), float(score.low), float(score.high), confidence,
    )  # fmt: skip


def clopper_pearson(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson, Biometrika 1934)."""
    result = exact_test(successes, trials, confidence=confidence)
    return result.low, result.high


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval of a proportion (Wilson, JASA 1927); narrower than the exact one, right on average."""
    result = exact_test(successes, trials, confidence=confidence)
    return result.wilson_low, result.wilson_high


def tost_exact(
    successes: int, trials: int, null: float = 0.5, margin: float = 0.1, alpha: float = ALPHA
) -> Equivalence:
    """Exact test that a proportion lies within `margin` of `null`: two one-sided exact binomial tests.

    The interval is Clopper-Pearson's at 1 - 2 alpha: it lies inside the limits exactly when the test rejects.

    Raises:
        BadInput: not a count, or limits outside (0, 1).
    """
    from scipy.stats import binom

    successes, trials = _counts(successes, trials)
    lower, upper = null - margin, null + margin
    if not (margin > 0 and 0.0 < lower and upper < 1.0):
        raise BadInput(f"Limits of equivalence {lower:g} and {upper:g} are of no use", "Give a smaller margin above 0.")
    p_lower = float(binom.sf(successes - 1, trials, lower))
    p_upper = float(binom.cdf(successes, trials, upper))
    low, high = clopper_pearson(successes, trials, 1.0 - 2.0 * alpha)
    p = max(p_lower, p_upper)
    return Equivalence(successes / trials, lower, upper, p_lower, p_upper, p, low, high, alpha, p <= alpha)


def _binary(values: Sequence[int] | np.ndarray, dimensions: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != dimensions or array.size == 0 or not np.isin(array, (0, 1)).all():
        raise BadInput("Paired proportions need answers of 0 and 1", "Leave out the cases with a missing answer.")
    return array.astype(np.int64)


def mcnemar(first: Sequence[int] | np.ndarray, second: Sequence[int] | np.ndarray) -> PairedProportions:
    """Exact test of two proportions of the same cases (McNemar, Psychometrika 1947): binomial on the discordant pairs.

    Args:
        first, second: (cases,) of 0 and 1.

    Raises:
        BadInput: other values, or different lengths.
    """
    from scipy.stats import binomtest

    a, b = _binary(first, 1), _binary(second, 1)
    if len(a) != len(b):
        raise BadInput(f"{len(a)} and {len(b)} answers cannot be paired", "Give both answers of each case.")
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    p = 1.0 if only_a + only_b == 0 else float(binomtest(only_a, only_a + only_b, 0.5).pvalue)
    return PairedProportions(float(min(only_a, only_b)), 1, p, (float(a.mean()), float(b.mean())), (only_a, only_b))


def cochran_q(answers: Sequence[Sequence[int]] | np.ndarray) -> PairedProportions:
    """Cochran's Q: do several readers (or conditions) have the same proportion on the same cases? (Biometrika 1950)

    Args:
        answers: (cases, conditions) of 0 and 1.

    Raises:
        BadInput: other values, or fewer than two conditions.
    """
    from scipy.stats import chi2

    x = _binary(answers, 2)
    k = x.shape[1]
    if k < 2:
        raise BadInput("Cochran's Q needs two or more columns", "Give one column per reader or condition.")
    columns, rows = x.sum(0), x.sum(1)
    spread = float(k * rows.sum() - (rows**2).sum())
    if spread == 0:  # every case is all 0 or all 1: the columns are the same
        return PairedProportions(0.0, k - 1, 1.0, tuple(float(v) for v in x.mean(0)))
    q = (k - 1) * (k * float((columns**2).sum()) - float(rows.sum()) ** 2) / spread
    return PairedProportions(float(q), k - 1, float(chi2.sf(q, k - 1)), tuple(float(v) for v in x.mean(0)))
