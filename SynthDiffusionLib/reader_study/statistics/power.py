"""How many cases and readers: accuracy against chance, equivalence, and multi-reader multi-case designs.

Exact power is not monotone in n: a size holds only if some more cases do not undo it, which is why `stay` further sizes
are looked at. For several readers of the same cases, sizes of independent answers are too small: multiply by
`design_effect`, or better plan with `mrmc_power` or `single_arm_power` from a pilot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput

from .mrmc import Components, check_effects
from .results import ALPHA, Result

STAY = 11
LARGEST = 20000


@dataclass(frozen=True)
class Size(Result):
    """Smallest number of independent trials with the power asked for, and the power there."""

    trials: int
    power: float
    true: float
    null: float
    alpha: float
    margin: float | None = None


@dataclass(frozen=True)
class PilotComponents(Result):
    """Variance components of a pilot study (see `mrmc.Components`) and its number of cases."""

    var_tr: float
    error: float
    cov1: float
    cov2: float
    cov3: float
    cases: int


@dataclass(frozen=True)
class MrmcPower(Result):
    """Power of a design with so many readers and cases. df2 is infinite for fixed readers."""

    readers: int
    cases: int
    power: float
    ncp: float
    df1: int
    df2: float
    effect: float
    alpha: float


def _probability(value: float, what: str) -> float:
    if not 0.0 < value < 1.0:
        raise BadInput(f"{what} of {value:.6g} is not between 0 and 1", "Give a proportion.")
    return float(value)


def binomial_power(trials: int, true: float, null: float = 0.5, alpha: float = ALPHA) -> float:
    """Power of the two-sided exact binomial test.

    Args:
        trials: number of independent answers.
        true, null: proportions.

    Raises:
        BadInput: proportions outside (0, 1).
    """
    from scipy.stats import binom

    _probability(null, "A null"), _probability(true, "A truth")
    k = np.arange(trials + 1)
    chance = binom.pmf(k, trials, null)
    # Two-sided p of each outcome: all outcomes that are no more likely, as scipy's binomtest has it.
    order = np.argsort(chance, kind="stable")
    cumulated = np.concatenate([[0.0], np.cumsum(chance[order])])
    p = cumulated[np.searchsorted(chance[order], chance * (1.0 + 1e-7), "right")]
    return float(binom.pmf(k, trials, true)[p <= alpha].sum())


def tost_power(trials: int, true: float = 0.5, null: float = 0.5, margin: float = 0.1, alpha: float = ALPHA) -> float:
    """Power of the exact test of equivalence within null +- margin.

    Raises:
        BadInput: limits outside (0, 1).
    """
    from scipy.stats import binom

    _probability(null - margin, "A lower limit"), _probability(null + margin, "An upper limit")
    k = np.arange(trials + 1)
    inside = (binom.sf(k - 1, trials, null - margin) <= alpha) & (binom.cdf(k, trials, null + margin) <= alpha)
    return float(binom.pmf(k, trials, true)[inside].sum())


def _smallest(power_at: Callable[[int], float], power: float, stay: int) -> tuple[int, float]:
    """The first n whose power and that of the `stay` sizes after it reach `power`."""
    low, high = 1, 16
    while power_at(high) < power:  # first a size that certainly does; power rises but for a saw tooth
        low, high = high, high * 2
        if high > LARGEST:
            raise BadInput(f"More than {LARGEST} trials would be needed", "Plan for a larger effect or a wider margin.")
    run, n, first = 0, max(low // 2, 2), math.nan
    while run <= stay:
        reached = power_at(n)
        if reached >= power:
            first = reached if run == 0 else first
            run += 1
        else:
            run = 0
        n += 1
    return n - run, first


def binomial_size(true: float, null: float = 0.5, power: float = 0.8, alpha: float = ALPHA, stay: int = STAY) -> Size:
    """Smallest number of independent answers with this power, kept by the next `stay` sizes.

    Raises:
        BadInput: proportions outside (0, 1), no effect, or more than 20,000 needed.
    """
    _probability(null, "A null"), _probability(true, "A truth")
    if true == null:
        raise BadInput("There is no effect to find", "Give a true proportion that differs from the null.")
    n, reached = _smallest(lambda size: binomial_power(size, true, null, alpha), power, stay)
    return Size(n, reached, true, null, alpha)


def tost_size(
    margin: float,
    true: float = 0.5,
    null: float = 0.5,
    power: float = 0.8,
    alpha: float = ALPHA,
    stay: int = STAY,
) -> Size:
    """Smallest number of independent answers that shows equivalence with this power, kept by the next `stay` sizes.

    Raises:
        BadInput: limits outside (0, 1), a truth outside them, or more than 20,000 needed.
    """
    _probability(true, "A truth"), _probability(margin, "A margin")
    if not abs(true - null) < margin:
        raise BadInput(f"A truth of {true:.6g} is not within the margin", "Give a true proportion inside the limits.")
    n, reached = _smallest(lambda size: tost_power(size, true, null, margin, alpha), power, stay)
    return Size(n, reached, true, null, alpha, margin)


def design_effect(readers: int, correlation: float) -> float:
    """1 + (readers - 1) correlation: by how much the answers of readers of the same case count for less.

    Raises:
        BadInput: no reader, or a correlation outside of 0 to 1.
    """
    if readers < 1:
        raise BadInput(f"{readers} readers make no study", "Give 1 or more.")
    if not 0.0 <= correlation <= 1.0:
        raise BadInput(f"A correlation of {correlation:g} is not between 0 and 1", "0: independent; 1: all alike.")
    return 1.0 + (readers - 1) * correlation


def mrmc_power(
    pilot: Components | PilotComponents,
    effect: float,
    readers: int,
    cases: int,
    readers_model: str = "random",
    cases_model: str = "random",
    alpha: float = ALPHA,
) -> MrmcPower:
    """Power of the Obuchowski-Rockette test of two treatments (Hillis et al., Acad Radiol 2011, eq. 10).

    Args:
        pilot: components of a pilot study; its error covariances are scaled to the number of cases planned.
        effect: difference of the reader-averaged figures of merit.
        readers, cases: planned, in the pilot's ratio of real to synthetic.

    Raises:
        BadInput: nothing random, or too few readers.
    """
    from scipy.stats import chi2 as chi_square
    from scipy.stats import f as fisher
    from scipy.stats import ncf, ncx2

    check_effects(readers_model, cases_model, readers)
    if cases < 1 or readers < 1:
        raise BadInput(f"{cases} cases and {readers} readers make no study", "Give 1 or more of both.")
    if not math.isfinite(effect):
        raise BadInput(f"An effect of {effect} is no difference", "Give a number, such as 0.05.")
    scale = pilot.cases / cases
    # What is negative by chance in the pilot is taken as 0, which errs on the side of more readers and cases.
    tr, shared = max(pilot.var_tr, 0.0), max(pilot.cov2 - pilot.cov3, 0.0)
    own = scale * (pilot.error - pilot.cov1)
    if readers_model == "fixed":
        variance, df2 = own + scale * (readers - 1) * shared, math.inf
    elif cases_model == "fixed":
        variance, df2 = tr + own - scale * shared, float(readers - 1)
    else:
        variance = tr + own + scale * (readers - 1) * shared
        by_reader = tr + own - scale * shared
        df2 = variance**2 / (by_reader**2 / (readers - 1)) if by_reader > 0 else math.inf
    if not variance > 0:
        raise BadInput("The pilot's variance components leave no variance", "Use a larger pilot study.")
    ncp = readers * effect**2 / (2.0 * variance)
    if math.isinf(df2):
        power = float(ncx2.sf(chi_square.isf(alpha, 1), 1, ncp)) if ncp > 0 else alpha
    else:
        power = float(ncf.sf(fisher.isf(alpha, 1, df2), 1, df2, ncp)) if ncp > 0 else alpha
    return MrmcPower(int(readers), int(cases), power, ncp, 1, df2, effect, alpha)


def single_arm_power(
    var_r: float,
    error: float,
    cov2: float,
    pilot_cases: int,
    effect: float,
    readers: int,
    cases: int,
    alpha: float = ALPHA,
) -> MrmcPower:
    """Power of the test of one generator against a value, readers and cases random (Hillis's form of `single_arm`).

    Args:
        var_r, error, cov2, pilot_cases: fields of a pilot's `SingleArm` (its `n_cases`).
        effect: distance of the true reader-averaged figure of merit from the value.
    """
    from scipy.stats import nct, t

    check_effects("random", "random", readers)
    if cases < 1:
        raise BadInput(f"{cases} cases make no study", "Give 1 or more.")
    scale = pilot_cases / cases
    own, shared = max(var_r, 0.0) + scale * (error - cov2), scale * max(cov2, 0.0)
    variance = own + readers * shared
    if not variance > 0 or not own > 0:
        raise BadInput("The pilot's variance components leave no variance", "Use a larger pilot study.")
    df = variance**2 / (own**2 / (readers - 1))
    shift, critical = abs(effect) / math.sqrt(variance / readers), float(t.isf(alpha / 2.0, df))
    power = float(nct.sf(critical, df, shift) + nct.cdf(-critical, df, shift)) if shift > 0 else alpha
    return MrmcPower(int(readers), int(cases), power, shift**2, 1, df, effect, alpha)


def mrmc_cases(
    pilot: Components | PilotComponents,
    effect: float,
    readers: int,
    power: float = 0.8,
    readers_model: str = "random",
    cases_model: str = "random",
    alpha: float = ALPHA,
    most: int = 2000,
) -> MrmcPower | None:
    """The design with the fewest cases that reaches `power` with this many readers; None if `most` are too few."""

    def at(cases: int) -> MrmcPower:
        return mrmc_power(pilot, effect, readers, cases, readers_model, cases_model, alpha)

    if at(most).power < power:
        return None
    low, high = 3, most  # power rises with the cases
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle).power >= power else (middle + 1, high)
    return at(low)


def mrmc_search(
    pilot: Components | PilotComponents,
    effect: float,
    readers: Iterable[int] = range(3, 13),
    power: float = 0.8,
    readers_model: str = "random",
    cases_model: str = "random",
    alpha: float = ALPHA,
    most: int = 2000,
) -> tuple[MrmcPower, ...]:
    """For each number of readers the fewest cases that reach `power`; numbers of readers that cannot are left out."""
    found = (mrmc_cases(pilot, effect, r, power, readers_model, cases_model, alpha, most) for r in readers)
    return tuple(design for design in found if design is not None)
