"""The six intraclass correlations of Shrout and Fleiss (Psychol Bull 1979), with F and the intervals of McGraw and Wong
(Psychol Methods 1996).

ICC(1,.): each subject rated by other raters; ICC(2,.): raters random, agreement; ICC(3,.): raters fixed, consistency.
(.,1): of one rater; (.,k): of the mean of k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput

from .results import CONFIDENCE, Result, check_confidence


@dataclass(frozen=True)
class IccForm(Result):
    """One form. F tests that it is 0. Where there is no variance at all, everything is NaN."""

    name: str
    value: float
    f: float
    df1: float
    df2: float
    p: float
    low: float
    high: float


@dataclass(frozen=True)
class Icc(Result):
    """All six forms and the mean squares between subjects, within subjects, between raters, and of the residual."""

    forms: tuple[IccForm, ...]
    bms: float
    wms: float
    jms: float
    ems: float
    subjects: int
    raters: int

    def form(self, name: str) -> IccForm:
        """The form of this name: "ICC(1,1)", "ICC(2,1)", "ICC(3,1)", "ICC(1,k)", "ICC(2,k)", "ICC(3,k)"."""
        for form in self.forms:
            if form.name == name:
                return form
        raise BadInput(
            f"{name!r} is no intraclass correlation", 'Use "ICC(1,1)" to "ICC(3,1)" or "ICC(1,k)" to "ICC(3,k)".'
        )


def _ratio(a: float, b: float) -> float:
    return a / b if b != 0 else (math.inf if a > 0 else math.nan)


def icc(matrix: np.ndarray, confidence: float = CONFIDENCE) -> Icc:
    """Six intraclass correlations.

    Args:
        matrix: (subjects, raters), complete and finite.

    Raises:
        BadInput: fewer than two subjects or raters, or missing values.
    """
    from scipy.stats import f as fisher

    x = np.asarray(matrix, np.float64)
    check_confidence(confidence)
    if x.ndim != 2 or min(x.shape) < 2:
        raise BadInput(f"Ratings of shape {x.shape} have no intraclass correlation", "Give two or more of each.")
    if not np.isfinite(x).all():
        raise BadInput(
            "Intraclass correlations need every rating", "Leave out incomplete cases, or use Krippendorff's alpha."
        )
    n, k = x.shape
    grand, by_subject, by_rater = x.mean(), x.mean(1), x.mean(0)
    bms = k * float(((by_subject - grand) ** 2).sum()) / (n - 1)
    wms = float(((x - by_subject[:, None]) ** 2).sum()) / (n * (k - 1))
    jms = n * float(((by_rater - grand) ** 2).sum()) / (k - 1)
    rest = x - by_subject[:, None] - by_rater[None, :] + grand
    ems = float((rest**2).sum()) / ((n - 1) * (k - 1))
    tail = 0.5 + confidence / 2.0

    def one_over(error: float, df2: float) -> tuple[float, float, float, float]:
        """F, p and the bounds of F for forms 1 and 3."""
        ratio = _ratio(bms, error)
        low = ratio / float(fisher.ppf(tail, n - 1, df2))
        return ratio, float(fisher.sf(ratio, n - 1, df2)), low, ratio * float(fisher.ppf(tail, df2, n - 1))

    def single(f_value: float) -> float:
        return 1.0 if math.isinf(f_value) else (f_value - 1.0) / (f_value + k - 1.0)

    def mean(f_value: float) -> float:
        return 1.0 if math.isinf(f_value) else (1.0 - 1.0 / f_value if f_value > 0 else -math.inf)

    df_w, df_e = float(n * (k - 1)), float((n - 1) * (k - 1))
    f1, p1, low1, high1 = one_over(wms, df_w)
    f3, p3, low3, high3 = one_over(ems, df_e)
    two = _ratio(bms - ems, bms + (k - 1) * ems + k * (jms - ems) / n)
    two_mean = _ratio(bms - ems, bms + (jms - ems) / n)
    low2, high2 = _bounds_two(two, bms, jms, ems, n, k, tail)

    def stepped(r: float) -> float:  # Spearman and Brown; below -1/(k - 1) a single reading bears no mean
        below = 1.0 + (k - 1.0) * r
        return k * r / below if below > 1e-12 else -math.inf

    forms = (
        IccForm("ICC(1,1)", single(f1), f1, n - 1, df_w, p1, single(low1), single(high1)),
        IccForm("ICC(2,1)", two, f3, n - 1, df_e, p3, low2, high2),
        IccForm("ICC(3,1)", single(f3), f3, n - 1, df_e, p3, single(low3), single(high3)),
        IccForm("ICC(1,k)", mean(f1), f1, n - 1, df_w, p1, mean(low1), mean(high1)),
        IccForm("ICC(2,k)", two_mean, f3, n - 1, df_e, p3, stepped(low2), stepped(high2)),
        IccForm("ICC(3,k)", mean(f3), f3, n - 1, df_e, p3, mean(low3), mean(high3)),
    )
    return Icc(forms, bms, wms, jms, ems, n, k)


def _bounds_two(rho: float, bms: float, jms: float, ems: float, n: int, k: int, tail: float) -> tuple[float, float]:
    """Interval of ICC(2,1): McGraw and Wong 1996, table 7 (Satterthwaite's degrees of freedom)."""
    from scipy.stats import f as fisher

    if not math.isfinite(rho):
        return math.nan, math.nan
    if rho >= 1.0:
        return 1.0, 1.0
    a = k * rho / (n * (1.0 - rho))
    b = 1.0 + k * rho * (n - 1.0) / (n * (1.0 - rho))
    below = (a * jms) ** 2 / (k - 1.0) + (b * ems) ** 2 / ((n - 1.0) * (k - 1.0))
    if below == 0:
        return math.nan, math.nan
    v = (a * jms + b * ems) ** 2 / below
    lower, upper = float(fisher.ppf(tail, n - 1, v)), float(fisher.ppf(tail, v, n - 1))
    rest = k * jms + (k * n - k - n) * ems
    low = n * (bms - lower * ems) / (lower * rest + n * bms)
    high = n * (upper * bms - ems) / (rest + n * upper * bms)
    return low, high
