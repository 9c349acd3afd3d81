"""Signal detection: sensitivity d', criterion c and likelihood ratio beta (Macmillan and Creelman, 2005).

Rates of 0 and 1 have no z value. The log-linear correction adds 0.5 to hits and false alarms and 1 to the numbers of
trials, always and not only at the extremes (Hautus, Behav Res Methods 1995); it is the default, and results name it.
Standard errors are those of Gourevitch and Galanter (Psychometrika 1967).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput

from .results import CONFIDENCE, Result, check_choice, check_confidence

CORRECTIONS = ("loglinear", "none")


@dataclass(frozen=True)
class Detection(Result):
    """d' of a yes/no task with its interval; criterion c > 0 is a reluctance to say "synthetic"."""

    d_prime: float
    se: float
    low: float
    high: float
    criterion: float
    criterion_se: float
    beta: float
    hit_rate: float
    false_alarm_rate: float
    correction: str


@dataclass(frozen=True)
class ForcedChoice(Result):
    """d' of forced choice. `proportion` is the corrected proportion right that d' was computed from."""

    d_prime: float
    se: float
    low: float
    high: float
    proportion: float
    alternatives: int
    correction: str


def d_prime_from_rates(hit_rate: float, false_alarm_rate: float) -> tuple[float, float, float]:
    """d' = z(H) - z(F), criterion c = -(z(H) + z(F)) / 2, beta = exp(c d').

    Raises:
        BadInput: a rate of 0 or 1, whose z is infinite.
    """
    from scipy.stats import norm

    if not (0.0 < hit_rate < 1.0 and 0.0 < false_alarm_rate < 1.0):
        raise BadInput(
            f"Rates of {hit_rate:g} and {false_alarm_rate:g} have no finite d'", 'Use the "loglinear" correction.'
        )
    hit, alarm = float(norm.ppf(hit_rate)), float(norm.ppf(false_alarm_rate))
    d, c = hit - alarm, -(hit + alarm) / 2.0
    return d, c, math.exp(c * d)


def _count(k: int, n: int) -> tuple[int, int]:
    if int(k) != k or int(n) != n or not 0 <= k <= n or n < 1:
        raise BadInput(f"{k} of {n} is not a count", "Give whole numbers, 0 <= k <= n, n >= 1.")
    return int(k), int(n)


def _rate(k: int, n: int, correction: str) -> float:
    check_choice("The correction", correction, CORRECTIONS)
    return (k + 0.5) / (n + 1.0) if correction == "loglinear" else k / n


def d_prime_yes_no(
    hits: int,
    signal: int,
    false_alarms: int,
    noise: int,
    correction: str = "loglinear",
    confidence: float = CONFIDENCE,
) -> Detection:
    """d', c and beta of "is it synthetic?", of one reader.

    Args:
        hits, signal: synthetic cases called synthetic, and synthetic cases.
        false_alarms, noise: real cases called synthetic, and real cases.
        correction: "loglinear" or "none".

    Raises:
        BadInput: not counts; a rate of 0 or 1 without correction.
    """
    from scipy.stats import norm

    hits, signal = _count(hits, signal)
    false_alarms, noise = _count(false_alarms, noise)
    check_confidence(confidence)
    h, f = _rate(hits, signal, correction), _rate(false_alarms, noise, correction)
    d, c, beta = d_prime_from_rates(h, f)
    variance = h * (1 - h) / (signal * norm.pdf(norm.ppf(h)) ** 2) + f * (1 - f) / (noise * norm.pdf(norm.ppf(f)) ** 2)
    se = math.sqrt(float(variance))
    half = float(norm.ppf(0.5 + confidence / 2.0)) * se
    return Detection(d, se, d - half, d + half, c, se / 2.0, beta, h, f, correction)


def proportion_correct_mafc(d_prime: float, alternatives: int) -> float:
    """Proportion right of an unbiased observer among m alternatives (Green and Dai, Percept Psychophys 1991).

    The integral of phi(x - d') Phi(x)^(m - 1) over x.
    """
    from scipy.integrate import quad
    from scipy.special import ndtr

    def integrand(x: float) -> float:
        return math.exp(-((x - d_prime) ** 2) / 2.0) / math.sqrt(2.0 * math.pi) * float(ndtr(x)) ** (alternatives - 1)

    return float(quad(integrand, d_prime - 9.0, d_prime + 9.0, epsabs=1e-12, epsrel=1e-10)[0])


def d_prime_of_proportion(proportion: float, alternatives: int = 2) -> float:
    """d' at which an unbiased observer is right this often: sqrt(2) z(p) for two alternatives, else by root finding.

    Raises:
        BadInput: a proportion of 0 or 1, or fewer than two alternatives.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    if int(alternatives) != alternatives or alternatives < 2:
        raise BadInput(f"{alternatives} alternatives are no choice", "Give 2 or more.")
    if not 0.0 < proportion < 1.0:
        raise BadInput(f"A proportion of {proportion:g} has no finite d'", 'Use the "loglinear" correction.')
    if alternatives == 2:
        return math.sqrt(2.0) * float(norm.ppf(proportion))
    return float(brentq(lambda d: proportion_correct_mafc(d, alternatives) - proportion, -20.0, 20.0, xtol=1e-10))


def d_prime_mafc(
    correct: int, trials: int, alternatives: int, correction: str = "loglinear", confidence: float = CONFIDENCE
) -> ForcedChoice:
    """d' of m-alternative forced choice, of one reader.

    The log-linear correction adds 1 / m to the number right and 1 to the trials (0.5 and 1 for two alternatives), so
    that it draws towards chance. The standard error follows from the binomial one by the delta method.

    Raises:
        BadInput: not a count, or a proportion of 0 or 1 without correction.
    """
    from scipy.stats import norm

    correct, trials = _count(correct, trials)
    check_choice("The correction", correction, CORRECTIONS)
    check_confidence(confidence)
    p = correct / trials
    if correction == "loglinear":
        p = (correct + 1.0 / alternatives) / (trials + 1.0)
    d, step = d_prime_of_proportion(p, alternatives), 1e-4
    slope = proportion_correct_mafc(d + step, alternatives) - proportion_correct_mafc(d - step, alternatives)
    se = math.sqrt(p * (1.0 - p) / trials) / (slope / (2.0 * step))
    half = float(norm.ppf(0.5 + confidence / 2.0)) * se
    return ForcedChoice(d, se, d - half, d + half, p, int(alternatives), correction)


def d_prime_2afc(
    correct: int, trials: int, correction: str = "loglinear", confidence: float = CONFIDENCE
) -> ForcedChoice:
    """d' of two-alternative forced choice: sqrt(2) z(proportion right). See `d_prime_mafc`."""
    return d_prime_mafc(correct, trials, 2, correction, confidence)


def mean_d_prime(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Mean of readers' d' with a t interval over readers (readers random, these cases): value, low, high.

    Raises:
        BadInput: fewer than two readers.
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise BadInput("The mean d' of readers needs two or more finite values", "Give one value per reader.")
    half = float(t.ppf(0.5 + confidence / 2.0, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = float(values.mean())
    return mean, mean - half, mean + half
