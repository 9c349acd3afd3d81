"""Regression and correlation of requested and measured values, with intervals; what chance and a ball get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def partial_slope(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Coefficient of x when (..., N) y is regressed on x, z and a constant; nan where z gives x.

    By the theorem of Frisch, Waugh and Lovell: the slope of y on what is left of x when z is taken out.
    """
    dx, dy, dz = (v - v.mean(-1, keepdims=True) for v in (x, y, z))
    with np.errstate(invalid="ignore", divide="ignore"):
        left = dx - ((dx * dz).sum(-1) / (dz * dz).sum(-1))[..., None] * dz
        found = (left * dy).sum(-1) / (left * left).sum(-1)
    return np.where(np.abs(left).max(-1) > 1e-9 * np.abs(dx).max(-1), found, np.nan)


def _defined(values: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """nan where all deviations are nothing but rounding."""
    return np.where(np.abs(deviations).max(-1) > 1e-12, values, np.nan)


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "slope": ols_slope,
    "theil_sen": theil_sen,
    "pearson": pearson,
    "spearman": spearman,
}


def _bootstrap(number: int) -> np.ndarray:
    """(RESAMPLES, number): which pairs each resample draws."""
    return np.random.default_rng([SEED, number, 1]).integers(0, number, (RESAMPLES, number))


def given(asked: np.ndarray, measured: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    """`partial_slope` of N measured values on the asked ones given N others, with a bootstrap interval over them."""
    drawn = _bootstrap(len(asked))
    value = float(partial_slope(asked, measured, other))
    return interval(value, partial_slope(asked[drawn], measured[drawn], other[drawn])).to_json()


def compare(asked: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """All measures of N pairs with bootstrap intervals over the pairs, errors, and a permutation test.

    Returns:
        "slope", "theil_sen", "pearson", "spearman": value, low, high; "intercept" of least squares; "bias" and
        "absolute_error": mean of measured minus asked, and of its magnitude; "p_spearman"; "n".
    """
    number = len(asked)
    drawn = _bootstrap(number)
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
    values = _deal(len(asked), others)
    wide = np.broadcast_to(asked, values.shape)
    found: dict[str, Any] = {name: _middle(measure(wide, values)) for name, measure in MEASURES.items()}
    return found | {"absolute_error": float(np.abs(values - asked).mean())}


def given_dealt(asked: np.ndarray, others: np.ndarray, fixed: np.ndarray) -> dict[str, float | None]:
    """`partial_slope` of the same deals of (M,) others on (N,) asked values given (N,) fixed ones; as `dealt`."""
    values = _deal(len(asked), others)
    wide = [np.broadcast_to(v, values.shape) for v in (asked, fixed)]
    return _middle(partial_slope(wide[0], values, wide[1]))


def _deal(number: int, others: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng([SEED, number, len(others), 3])
    rounds = -(-number // len(others))
    orders = [np.concatenate([rng.permutation(len(others)) for _ in range(rounds)])[:number] for _ in range(DEALS)]
    return others[np.array(orders)]


def _middle(each: np.ndarray) -> dict[str, float | None]:
    each = each[np.isfinite(each)]
    if not len(each):
        return {"value": None, "low": None, "high": None}
    tail = (1.0 - CONFIDENCE) / 2.0
    return Estimate(*(each.mean(), *np.quantile(each, [tail, 1.0 - tail]))).to_json()


def random_balls(volumes: np.ndarray, extent_mm: Sequence[float], voxel_mm: Sequence[float]) -> list[dict[str, float]]:
    """What heeds nothing but the volume: the characteristics of a ball of each volume at a random place.

    Args:
        volumes: (N,) mm3.
        extent_mm: of the grid along R, A and S; voxel_mm: of its voxels.

    Returns:
        by the names of `models.characteristics.NAMES`, measured on the voxels as those of any mask. A ball lies wholly
        within the grid where it can, and in the middle along an axis that is too short for it.
    """
    from SynthDiffusionLib.labels.characteristics import measure

    extent, voxel = np.asarray(extent_mm, float), np.asarray(voxel_mm, float)
    shape = np.rint(extent / voxel).astype(int)
    rng = np.random.default_rng([SEED, len(volumes), 4])
    found = []
    for volume in volumes:
        radius = (3.0 * volume / (4.0 * np.pi)) ** (1 / 3)
        center = rng.uniform(-1.0, 1.0, 3) * np.maximum(extent / 2 - radius, 0.0)
        places = [(np.arange(n) - (n - 1) / 2) * step - c for n, step, c in zip(shape, voxel, center)]
        squared = sum(np.square(p).reshape([-1 if a == axis else 1 for a in range(3)]) for axis, p in enumerate(places))
        mask = squared <= max(radius**2, squared.min())  # a ball between the voxels is the nearest one
        found.append(measure(mask, np.diag([*voxel, 1.0])))
    return found
