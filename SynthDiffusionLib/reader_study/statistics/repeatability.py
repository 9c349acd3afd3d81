"""One reader against the same reader later: the hidden repeats of a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput

from .agreement import Coefficient, cohen_kappa
from .icc import IccForm, icc
from .results import CONFIDENCE, Result, check_choice

SCALES = ("nominal", "ordinal", "interval")


@dataclass(frozen=True)
class Repeatability(Result):
    """First against second readings of a reader.

    Attributes:
        agreement: share of pairs with the same answer; `low` and `high` its exact interval.
        kappa: Cohen's, unweighted for nominal and squared weights for ordinal answers.
        icc: ICC(2,1) for ordinal and interval answers.
        within_sd: within-case standard deviation; 2.77 times it is the repeatability coefficient (Bland and Altman,
            Stat Methods Med Res 1999): two readings differ by less in 95 % of cases.
        bias: mean of second less first.
    """

    reader: str
    pairs: int
    agreement: float
    low: float
    high: float
    kappa: Coefficient | None
    icc: IccForm | None
    within_sd: float
    repeatability_coefficient: float
    bias: float
    notes: tuple[str, ...]


def repeatability(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    level: str = "nominal",
    reader: str = "",
    confidence: float = CONFIDENCE,
) -> Repeatability:
    """Intra-reader agreement.

    Args:
        first, second: (units,) answers; units with a missing one are left out.
        level: "nominal", "ordinal" or "interval".

    Raises:
        BadInput: different lengths, or no complete pair.
        MissingExtra: statsmodels is not installed and the level is not "interval".
    """
    from .proportions import clopper_pearson

    check_choice("The level of measurement", level, SCALES)
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise BadInput(f"{a.shape} and {b.shape} readings cannot be paired", "Give both readings of each unit.")
    both = np.isfinite(a) & np.isfinite(b)
    a, b, n = a[both], b[both], int(both.sum())
    if n == 0:
        raise BadInput("No unit was read twice", "Add hidden repeats to the study's design.")
    same = int((a == b).sum())
    low, high = clopper_pearson(same, n, confidence)
    notes = [] if n >= 10 else [f"{n} repeats are too few to say much about a reader."]
    kappa = None
    if level != "interval":
        kappa = cohen_kappa(a, b, None if level == "nominal" else "squared", confidence=confidence)
        if not math.isfinite(kappa.value):
            notes.append("All answers were the same, so kappa is not defined.")
    form, within, coefficient, bias = None, math.nan, math.nan, math.nan
    if level != "nominal":
        bias = float((b - a).mean())
        within = math.sqrt(float(((b - a) ** 2).mean()) / 2.0)
        coefficient = 1.959963984540054 * math.sqrt(2.0) * within
        form = icc(np.stack([a, b], axis=1), confidence).form("ICC(2,1)") if n > 1 else None
    return Repeatability(reader, n, same / n, low, high, kappa, form, within, coefficient, bias, tuple(notes))
