"""What all results of the statistics share."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput

CONFIDENCE = 0.95
ALPHA = 0.05


def _plain(value: Any) -> Any:
    """The value as JSON has it: no numpy, no NaN or infinity (null stands for both)."""
    if isinstance(value, Result):
        return value.to_json()
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


@dataclass(frozen=True)
class Result:
    """Base of all results."""

    def to_json(self) -> dict[str, Any]:
        """The fields as a dictionary that json.dump takes; NaN and infinity become null."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True)
class Equivalence(Result):
    """Two one-sided tests (TOST; Schuirmann 1987): is the value between two limits?

    `low` and `high` are the 1 - 2 alpha interval that goes with the test. `p` is the larger of the one-sided p-values.
    A large p-value of a test for a difference never shows equivalence; only this does.
    """

    value: float
    lower: float
    upper: float
    p_lower: float
    p_upper: float
    p: float
    low: float
    high: float
    alpha: float
    equivalent: bool


def equivalence_t(value: float, se: float, df: float, lower: float, upper: float, alpha: float = ALPHA) -> Equivalence:
    """TOST of an estimate with standard error `se` and `df` degrees of freedom (infinity: normal).

    Raises:
        BadInput: lower is not below upper.
    """
    from scipy.stats import t

    if not lower < upper:
        raise BadInput(f"The limits of equivalence {lower} and {upper} are not in order", "Give a margin above 0.")
    if not se > 0:
        # A standard error of zero says that the data are degenerate, not that the value is known.
        return Equivalence(value, lower, upper, 1.0, 1.0, 1.0, math.nan, math.nan, alpha, False)
    p_lower = float(t.sf((value - lower) / se, df))
    p_upper = float(t.cdf((value - upper) / se, df))
    half = float(t.isf(alpha, df)) * se
    p = max(p_lower, p_upper)
    return Equivalence(value, lower, upper, p_lower, p_upper, p, value - half, value + half, alpha, p < alpha)


def check_confidence(confidence: float) -> float:
    """The confidence level if it is one. Raises BadInput otherwise."""
    if not 0.0 < confidence < 1.0:
        raise BadInput(f"A confidence level of {confidence} is not between 0 and 1", "Give 0.95 for 95 %.")
    return float(confidence)


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> str:
    """The value if it is one of the choices. Raises BadInput otherwise."""
    if value not in choices:
        raise BadInput(f"{what} {value!r} is not known", f"Use one of: {', '.join(choices)}.")
    return value


def as_truth(truth: Any, cases: int) -> np.ndarray:
    """Truth as an int array of 0 (real) and 1 (synthetic), one entry per case. Raises BadInput otherwise."""
    array = np.asarray(truth)
    if array.shape != (cases,):
        raise BadInput(f"Truth has shape {array.shape} for {cases} cases", "Give one 0 or 1 per case.")
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise BadInput("Truth holds values other than 0 and 1", "Use 0 for real and 1 for synthetic.")
    return array.astype(np.int64)
