"""Arithmetic of regional volumes: shares of the body, distances between distributions, permutation tests over patients.

Everything here is numpy on one number per patient; `volumes` gets the numbers from label maps and says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.evaluation.sets.radiomics import directions, shifted
from SynthDiffusionLib.evaluation.statistics import RESAMPLES, Estimate, interval

PERMUTATIONS = 9999
CHUNK = 2000  # permutations at once
BODY_ABOVE = {"CT": -300.0, "MR": 100.0}  # HU; or a tenth of the MR scale of `training.mr_intensity`
LOCAL_SIDE = 3  # voxels of the neighbourhood of the local standard deviation
LEAST_OF_NEIGHBOURHOOD = 14  # of its 27 voxels that must lie in the region


def voxel_ml(affine: np.ndarray) -> float:
    """Volume of a voxel: the absolute determinant of the affine, in ml."""
    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000.0


def region_counts(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Voxels of each label value, (len(values),) int64."""
    counts = np.bincount(labels.ravel(), minlength=max([0, *values]) + 1)
    return counts[list(values)].astype(np.int64)


def body_mask(image: np.ndarray, above: float) -> np.ndarray:
    """The body: the largest connected part brighter than a threshold, its holes filled slice by slice along the third
    axis, so that lungs and bowel gas count. (I, J, K) bool."""
    from scipy import ndimage

    bright = image > above
    if not bright.any():
        return bright
    parts, n = ndimage.label(bright)
    if n > 1:
        bright = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    return np.stack([ndimage.binary_fill_holes(bright[:, :, k]) for k in range(bright.shape[2])], axis=2)


def texture(image: np.ndarray, mask: np.ndarray) -> tuple[float, float, float, float]:
    """Mean, standard deviation, local standard deviation (in the unit of the image) and neighbour correlation of a
    region.

    The local standard deviation is that of the voxels of the region in a neighbourhood of 3 x 3 x 3, averaged over all
    voxels of the region with at least 14 of the region's voxels in theirs: how rough the region is at the scale of a
    voxel. NaN where it has no such voxel.

    The neighbour correlation is that of all pairs of the region's voxels that touch, by face, edge or corner: IBSI's
    co-occurrence correlation (NI2N, arXiv:1612.07003, section 3.6) of the intensities as they are, without grey levels.
    Noise has 0, and the smoother the texture, the nearer it comes to 1; brightness and contrast do not matter. 1 where
    all voxels are alike, as IBSI sets it; NaN where no two touch.

    Args:
        image: (I, J, K).
        mask: (I, J, K) bool.
    """
    from scipy import ndimage

    values = image[mask].astype(np.float64)
    if len(values) == 0:
        return np.nan, np.nan, np.nan, np.nan
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    inside, part = mask[box], image[box].astype(np.float64)
    centred = np.where(inside, part - values.mean(), 0.0)  # about the mean: no cancellation
    grain = _local_sd(inside, centred), _neighbour_correlation(inside, centred)
    return float(values.mean()), float(values.std()), *grain


def _local_sd(inside: np.ndarray, centred: np.ndarray) -> float:
    from scipy import ndimage

    size = LOCAL_SIDE**3
    count, first, second = (
        ndimage.uniform_filter(a, LOCAL_SIDE, mode="constant") * size
        for a in (inside.astype(np.float64), centred, centred**2)
    )
    used = inside & (np.rint(count) >= LEAST_OF_NEIGHBOURHOOD)
    if not used.any():
        return np.nan
    n = np.rint(count[used])
    variance = np.maximum(second[used] / n - (first[used] / n) ** 2, 0.0)
    return float(np.sqrt(variance).mean())


def _neighbour_correlation(inside: np.ndarray, centred: np.ndarray) -> float:
    pairs = [  # both orders of a pair count, so that either side has the same mean and variance
        (a[both], b[both])
        for d in directions(3)
        for (a, b), both in ((shifted(centred, d), np.logical_and(*shifted(inside, d))),)
    ]
    a, b = (np.concatenate(side) for side in zip(*pairs))
    if not len(a):
        return np.nan
    ends = np.concatenate([a, b])
    variance = ends.var()
    if variance <= 1e-12 * max(float(np.abs(ends).max()) ** 2, 1e-12):
        return 1.0
    return float(np.mean((a - ends.mean()) * (b - ends.mean())) / variance)


@dataclass(frozen=True)
class Distance:
    """Of two samples of numbers, one per patient.

    Args:
        wasserstein: Wasserstein-1 distance, in the unit of the numbers.
        ks: Kolmogorov-Smirnov statistic.
        difference: of the means, second minus first.
        wasserstein_p: by permutation.
        ks_p: by permutation.
        difference_p: by permutation, two-sided.
    """

    wasserstein: float
    ks: float
    difference: float
    wasserstein_p: float
    ks_p: float
    difference_p: float


def distances(pooled: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wasserstein-1 distance and Kolmogorov-Smirnov statistic of many splits of one pooled sample.

    Both are of the empirical distribution functions F and G: the integral, and the largest value, of |F - G|.

    Args:
        pooled: (N,) numbers.
        first: (B, N) bool: which are in the first sample; each row has at least one in either.

    Returns:
        (B,) and (B,).
    """
    order = np.argsort(pooled, kind="stable")
    steps = np.diff(pooled[order])
    member = first[:, order].astype(np.float64)
    f = np.cumsum(member, axis=1) / member.sum(1, keepdims=True)
    g = np.cumsum(1.0 - member, axis=1) / (1.0 - member).sum(1, keepdims=True)
    gap = np.abs(f - g)[:, :-1]
    wasserstein = gap @ steps
    ks = (gap[:, steps > 0]).max(1) if (steps > 0).any() else np.zeros(len(first))
    return wasserstein, ks


def compare(
    first: Mapping[str, float], second: Mapping[str, float], permutations: int = PERMUTATIONS, seed: int = 2026
) -> Distance:
    """Distance of two samples with permutation p-values over patients.

    Patients of both samples keep their two numbers together: a permutation exchanges them or not. The others are dealt
    anew between the samples. So a synthetic volume that was made from a patient's own mask is compared with that
    patient. The distances are of the two distributions, and hardly see a small shift that all patients have in common,
    if patients differ much more from each other: exchanging such pairs leaves the distributions as far apart. The
    difference of the means sees it. p = (1 + permutations at least as far) / (1 + permutations): Phipson and Smyth,
    SAGMB 2010;9:39.

    Args:
        first: a finite number for each patient.
        second: a finite number for each patient.
    """
    both = sorted(set(first) & set(second))
    one, two = sorted(set(first) - set(both)), sorted(set(second) - set(both))
    names = [*both, *one]
    pooled = np.array([first[p] for p in names] + [second[p] for p in (*both, *two)], np.float64)
    if np.ptp(pooled) == 0:
        return Distance(0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    n, pairs = len(names), len(both)
    observed = np.zeros((1, len(pooled)), bool)
    observed[:, :n] = True
    (w,), (k,) = distances(pooled, observed)
    (m,) = _mean_differences(pooled, observed)
    rng = np.random.default_rng([seed, n, len(pooled), pairs])
    free = np.concatenate([np.arange(pairs, n), np.arange(n + pairs, len(pooled))])
    at_least = np.zeros(3)
    # Rounding must not tell equal splits apart.
    dust = 1e-12 * float(np.abs(pooled).max())
    far_w, far_k, far_m = w * (1 - 1e-9) - dust, k - 1e-9, abs(m) * (1 - 1e-9) - dust
    for begin in range(0, permutations, CHUNK):
        rows = min(CHUNK, permutations - begin)
        member = np.repeat(observed, rows, axis=0)
        swapped = rng.random((rows, pairs)) < 0.5
        member[:, :pairs] = ~swapped
        member[:, n : n + pairs] = swapped
        if len(one) and len(two):
            dealt = rng.permuted(np.tile(observed[0, free], (rows, 1)), axis=1)
            member[:, free] = dealt
        ws, ks = distances(pooled, member)
        ms = np.abs(_mean_differences(pooled, member))
        at_least += (ws >= far_w).sum(), (ks >= far_k).sum(), (ms >= far_m).sum()
    p = (1 + at_least) / (1 + permutations)
    return Distance(float(w), float(k), float(m), *map(float, p))


def difference_interval(
    first: Mapping[str, float], second: Mapping[str, float], resamples: int = RESAMPLES, seed: int = 2026
) -> Estimate:
    """Mean of the second minus that of the first sample, with a percentile bootstrap interval over patients.

    Patients of both samples are drawn with both of their numbers, the others within their sample (Efron and Tibshirani
    1993, chapters 8 and 13).

    Args:
        first: a finite number for each patient.
        second: a finite number for each patient.
    """
    both = sorted(set(first) & set(second))
    one, two = sorted(set(first) - set(both)), sorted(set(second) - set(both))
    rng = np.random.default_rng([seed, 11, len(both), len(one), len(two)])
    paired, alone, other = (
        rng.multinomial(len(g), np.full(len(g), 1 / len(g)), size=resamples) if g else np.zeros((resamples, 0))
        for g in (both, one, two)
    )

    def means(values: Mapping[str, float], own: Sequence[str], weights: np.ndarray) -> np.ndarray:
        all_weights = np.hstack([paired, weights])
        return all_weights @ np.array([values[p] for p in (*both, *own)]) / all_weights.sum(1)

    value = float(np.mean(list(second.values())) - np.mean(list(first.values())))
    return interval(value, means(second, two, other) - means(first, one, alone))


def _mean_differences(pooled: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Mean of the second sample minus that of the first, of many splits. (B,)"""
    n = first.sum(1)
    total = first @ pooled
    return (pooled.sum() - total) / (len(pooled) - n) - total / n


@dataclass(frozen=True)
class Sensitivity:
    """What the comparison finds between halves of the real patients; shares of random halvings.

    Args:
        floor: median Wasserstein distance of two halves.
        floor_95: its 95th percentile.
        false: unchanged halves that are called different (nominal: 5 %).
        larger_10: halves of which one has the region 10 % larger that are called different.
        larger_20: the same for 20 %.
        mean_only: halves of which one has its mean everywhere that are called different.
    """

    floor: float
    floor_95: float
    false: float
    larger_10: float
    larger_20: float
    mean_only: float


def sensitivity(
    values: np.ndarray, larger_10: np.ndarray, larger_20: np.ndarray, halvings: int = 100, seed: int = 2026
) -> Sensitivity:
    """Compares random halves of the real patients, as two samples, unchanged and changed; uncorrected p below 0.05.

    Args:
        values: (N,) shares of a region, one per patient.
        larger_10: (N,) the shares if the region were 10 % larger.
        larger_20: (N,) if it were 20 % larger.
    """
    rng = np.random.default_rng([seed, 7, len(values)])
    floor, called = [], np.zeros(4)
    member = np.zeros((1, len(values)), bool)
    for _ in range(halvings):
        order = rng.permutation(len(values))
        a, b = order[: len(order) // 2], order[len(order) // 2 :]
        member = np.arange(len(order))[None] < len(a)
        floor.append(distances(np.concatenate([values[a], values[b]]), member)[0][0])
        alike = np.full(len(b), values[b].mean())
        for i, other in enumerate((values[b], larger_10[b], larger_20[b], alike)):
            called[i] += _called(values[a], other, rng) < 0.05
    rates = called / halvings
    return Sensitivity(float(np.median(floor)), float(np.quantile(floor, 0.95)), *map(float, rates))


def _called(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, permutations: int = 199) -> float:
    pooled = np.concatenate([a, b])
    observed = np.arange(len(pooled))[None] < len(a)
    member = np.concatenate([observed, rng.permuted(np.repeat(observed, permutations, axis=0), axis=1)])
    w = distances(pooled, member)[0]
    return float((1 + (w[1:] >= w[0] * (1 - 1e-9) - 1e-15).sum()) / (1 + permutations))
