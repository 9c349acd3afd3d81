"""The binormal ROC curve of a rating scale, fitted by maximum likelihood (Dorfman and Alf, J Math Psychol 1969).

Real readings are standard normal, synthetic ones normal with mean a / b and standard deviation 1 / b, and the answers
are the reading cut at thresholds. The area is Phi(a / sqrt(1 + b^2)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput

from .results import Result


@dataclass(frozen=True)
class Binormal(Result):
    """Area, parameters and log-likelihood; `counts` has one (real, synthetic) pair per answer that occurs."""

    auc: float
    a: float
    b: float
    log_likelihood: float
    counts: tuple[tuple[int, int], ...]


def _cells(real: np.ndarray, synthetic: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Counts per answer. Neighbours that only one kind uses tell nothing about each other and are taken together."""
    levels = np.unique(np.concatenate([real, synthetic]))
    cells: list[tuple[int, int]] = []
    for level in levels:
        n, p = int((real == level).sum()), int((synthetic == level).sum())
        if cells and ((p == 0 and cells[-1][1] == 0) or (n == 0 and cells[-1][0] == 0)):
            n, p = n + cells[-1][0], p + cells.pop()[1]
        cells.append((n, p))
    return tuple(cells)


def fit_binormal(real: np.ndarray, synthetic: np.ndarray) -> Binormal:
    """Fits the binormal curve to one reader's answers.

    Args:
        real, synthetic: (n,) answers, higher = more "synthetic"; NaN is refused.

    Raises:
        BadInput: no answers of a kind, or more than 30 different ones (continuous ratings: use the empirical area).
    """
    real, synthetic = np.asarray(real, np.float64), np.asarray(synthetic, np.float64)
    if not (real.size and synthetic.size and np.isfinite(real).all() and np.isfinite(synthetic).all()):
        raise BadInput("A binormal curve needs finite answers to real and synthetic cases", "Leave missing ones out.")
    cells = _cells(real, synthetic)
    if len(cells) > 30:
        raise BadInput("The answers are too many to be a rating scale", 'Use the empirical area, figure "auc".')
    return _fit(cells)


_LOG_B = 9.0  # where the likelihood still rises as b goes to 0 or infinity, the area has long reached its limit


def _cost(x: np.ndarray, n: np.ndarray, p: np.ndarray) -> tuple[float, np.ndarray]:
    """Negative log-likelihood and its gradient; x = a, log b, first threshold, logs of the steps to the next ones."""
    from scipy.special import ndtr

    a, b, steps = x[0], math.exp(min(max(x[1], -_LOG_B), _LOG_B)), np.exp(np.minimum(x[3:], 20.0))
    cuts = np.cumsum(np.concatenate([x[2:3], steps]))
    moved = b * cuts - a
    # The floor only keeps the search away from log(0); a cell with no answers has no part.
    chance0 = np.maximum(np.diff(np.concatenate([[0.0], ndtr(cuts), [1.0]])), 1e-300)
    chance1 = np.maximum(np.diff(np.concatenate([[0.0], ndtr(moved), [1.0]])), 1e-300)
    value = -float(n @ np.log(chance0) + p @ np.log(chance1))
    pull0, pull1 = -np.diff(n / chance0), -np.diff(p / chance1)
    by_cut0 = np.exp(-(cuts**2) / 2.0) / math.sqrt(2.0 * math.pi) * pull0
    by_cut1 = np.exp(-(moved**2) / 2.0) / math.sqrt(2.0 * math.pi) * pull1
    by_cut = -(by_cut0 + b * by_cut1)
    later = np.cumsum(by_cut[::-1])[::-1]
    return value, np.concatenate([[by_cut1.sum(), -b * float(cuts @ by_cut1), later[0]], later[1:] * steps])


def _fit(cells: tuple[tuple[int, int], ...]) -> Binormal:
    from scipy.optimize import minimize
    from scipy.special import ndtr, ndtri

    n, p = np.array(cells, np.float64).T
    if len(cells) == 1:  # every answer the same
        return Binormal(0.5, 0.0, 1.0, 0.0, cells)
    share = np.clip((np.cumsum(n)[:-1] + 0.5) / (n.sum() + 1.0), 0.02, 0.98)
    cuts = np.maximum.accumulate(ndtri(share)) + 0.1 * np.arange(len(share))
    steps = np.log(np.maximum(np.diff(cuts), 0.1))
    best = None
    for a, log_b in ((1.0, -0.3), (0.0, 0.0), (2.0, -2.0)):  # flat likelihoods hold a search up; the best of three
        start = np.concatenate([[a, log_b, cuts[0]], steps])
        found = minimize(_cost, start, (n, p), "L-BFGS-B", True, options={"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-8})
        best = found if best is None or found.fun < best.fun else best
    a, b = float(best.x[0]), math.exp(min(max(best.x[1], -_LOG_B), _LOG_B))
    return Binormal(float(ndtr(a / math.sqrt(1.0 + b * b))), a, b, -float(best.fun), cells)


class BinormalFits:
    """Areas by the counts of answers, so that the jackknife fits each different table once."""

    def __init__(self) -> None:
        self._areas: dict[tuple[tuple[int, int], ...], float] = {}

    def area(self, synthetic: np.ndarray, real: np.ndarray) -> float:
        """Area of the curve of these answers."""
        cells = _cells(real, synthetic)
        if cells not in self._areas:
            self._areas[cells] = fit_binormal(real, synthetic).auc
        return self._areas[cells]
