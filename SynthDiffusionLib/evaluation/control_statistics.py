"""Regression and correlation of requested and measured values, with intervals; what chance gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.statistics import CONFIDENCE, RESAMPLES, Estimate, interval

SEED = 2026
DEALS = 2000


def latin_hypercube(number: int, dimensions: int, rng: np.random.Generator) -> np.ndarray:
    """Points of which exactly one lies in each of `number` equal intervals of every axis.

    Returns:
        (number, dimensions), within [0, 1).
    """
    cells = np.stack([rng.permutation(number) for _ in range(dimensions)], axis=1)
    return (cells + rng.uniform(size=cells.shape)) / number


def pieces(mask: np.ndarray) -> int:
    """Number of connected pieces of a mask; voxels that share a corner are connected."""
    from scipy import ndimage

    return int(ndimage.label(mask, np.ones((3, 3, 3)))[1])


def ols_slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slopes of (..., N) y on (..., N) x; nan where x does not vary."""
    dx, dy = (v - v.mean(-1, keepdims=True) for v in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return _defined((dx * dy).sum(-1) / (dx * dx).sum(-1), dx)


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation along the last axis; nan where either does not vary."""
    dx, dy = (v - v.mean(-1, keepdims=True) for v in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (dx * dy).sum(-1) / np.sqrt((dx * dx).sum(-1) * (dy * dy).sum(-1))
    return _defined(_defined(found, dx), dy)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation of the ranks along the last axis, equal values sharing theirs."""
    from scipy.stats import rankdata

    return pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def theil_sen(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Median of the slopes of all pairs of points with different x, along the last axis (Sen 1968, JASA 63:1379)."""
    first, second = np.triu_indices(x.shape[-1], 1)
    run, rise = (v[..., second] - v[..., first] for v in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        slopes = np.sort(np.where(run == 0, np.inf, rise / run), axis=-1)  # pairs without a slope come last
    known = (run != 0).sum(-1)
    middle = [np.maximum(known - 1, 0) // 2, known // 2]
    values = [np.take_along_axis(slopes, m[..., None], -1)[..., 0] for m in middle]
    return np.where(known > 0, 0.5 * (values[0] + values[1]), np.nan)


def _defined(values: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """nan where all deviations are nothing but rounding."""
    return np.where(np.abs(deviations).max(-1) > 1e-12, values, np.nan)


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "slope": ols_slope,
    "theil_sen": theil_sen,
    "pearson": pearson,
    "spearman": spearman,
}


def compare(asked: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """All measures of N pairs with bootstrap intervals over the pairs, errors, and a permutation test.

    Returns:
        "slope", "theil_sen", "pearson", "spearman": value, low, high; "intercept" of least squares; "bias" and
        "absolute_error": mean of measured minus asked, and of its magnitude; "p_spearman"; "n".
    """
    number = len(asked)
    drawn = np.random.default_rng([SEED, number, 1]).integers(0, number, (RESAMPLES, number))
    found: dict[str, Any] = {"n": number}
    for name, measure in MEASURES.items():
        value = float(measure(asked, measured))
        found[name] = interval(value, measure(asked[drawn], measured[drawn])).to_json()
    slope = found["slope"]["value"]
    found["intercept"] = None if slope is None else float(measured.mean() - slope * asked.mean())
    found["bias"] = float((measured - asked).mean())
    found["absolute_error"] = float(np.abs(measured - asked).mean())
    rng = np.random.default_rng([SEED, number, 2])
    shuffled = rng.permuted(np.tile(measured, (DEALS, 1)), axis=1)
    chance = spearman(np.broadcast_to(asked, shuffled.shape), shuffled)
    own = found["spearman"]["value"]
    # A permutation that is equal but for rounding counts as equal.
    found["p_spearman"] = None if own is None else float((1 + (chance >= own - 1e-9).sum()) / (1 + DEALS))
    return found


def dealt(asked: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    """What values get that know nothing of the requests: (M,) others dealt to (N,) requests at random, again and again;
    each as often as any other, as far as their number allows.

    Returns:
        by measure: mean over the deals as "value", the middle `CONFIDENCE` of them as "low" and "high"; and the mean
        "absolute_error".
    """
    rng = np.random.default_rng([SEED, len(asked), len(others), 3])
    rounds = -(-len(asked) // len(others))
    orders = [np.concatenate([rng.permutation(len(others)) for _ in range(rounds)])[: len(asked)] for _ in range(DEALS)]
    values = others[np.array(orders)]
    wide = np.broadcast_to(asked, values.shape)
    tail = (1.0 - CONFIDENCE) / 2.0
    found: dict[str, Any] = {}
    for name, measure in MEASURES.items():
        each = measure(wide, values)
        each = each[np.isfinite(each)]
        estimate = Estimate(*(each.mean(), *np.quantile(each, [tail, 1.0 - tail]))) if len(each) else None
        found[name] = estimate.to_json() if estimate else {"value": None, "low": None, "high": None}
    return found | {"absolute_error": float(np.abs(values - asked).mean())}
