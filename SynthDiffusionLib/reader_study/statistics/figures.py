"""Figures of merit of many readings of the same cases, with their covariances.

A row is one reader's reading of one treatment (generator). Rows may have read different cases: what two rows have in
common is found by column, and only shared cases make two figures covary. This is what lets the Obuchowski-Rockette
analysis take any figure of merit, and designs that are only partly paired.

Three covariances, as in the literature of multi-reader studies:

    delong     from the structural components (DeLong et al., Biometrics 1988); by cluster: Obuchowski, Biometrics 1997
    jackknife  from leaving out one case (or cluster) at a time
    unbiased   the product of two figures less the U-statistic that estimates the product of their expectations without
               bias (Gallas, Acad Radiol 2006; Hillis, Stat Med 2014); may be negative

Real and synthetic cases are two strata whose sizes the design fixes. Accuracy is therefore the weighted mean of
sensitivity and specificity with fixed weights: a reader who calls almost everything synthetic is no noisier for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput

from .results import Result, as_truth, check_choice

FIGURES = (
    "auc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "mean_difference",
    "mean",
    "binormal_auc",
)
COVARIANCES = ("delong", "jackknife", "unbiased")
_THRESHOLDED = ("accuracy", "balanced_accuracy", "sensitivity", "specificity")


@dataclass(frozen=True)
class Figures(Result):
    """values: (rows,); covariance: (rows, rows); the counts are of distinct cases over all rows."""

    figure: str
    covariance_method: str
    values: np.ndarray
    covariance: np.ndarray
    cases: int
    positives: int
    negatives: int
    clusters: int
    crossed: bool


@dataclass(frozen=True)
class _Strata:
    """What the rows read, by stratum: masks of what was read, and the index of each case's cluster."""

    positive: np.ndarray  # (rows, n1), 0 where not read
    negative: np.ndarray  # (rows, n0)
    read1: np.ndarray  # (rows, n1) bool
    read0: np.ndarray  # (rows, n0) bool
    cluster1: np.ndarray  # (n1,) int
    cluster0: np.ndarray  # (n0,) int
    clusters: int
    alone: bool  # every case is a cluster of its own

    @property
    def m1(self) -> np.ndarray:
        return self.read1.sum(1).astype(np.float64)

    @property
    def m0(self) -> np.ndarray:
        return self.read0.sum(1).astype(np.float64)


def cluster_index(clusters: Sequence[Hashable] | np.ndarray | None, cases: int) -> tuple[np.ndarray, int]:
    """Clusters as indices 0, 1, ... in order of first occurrence, and their number; each case its own if None."""
    if clusters is None:
        return np.arange(cases), cases
    names = list(np.asarray(clusters).tolist()) if isinstance(clusters, np.ndarray) else list(clusters)
    if len(names) != cases:
        raise BadInput(f"{len(names)} clusters for {cases} cases", "Give one cluster per case.")
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] for name in names], np.int64), len(order)


def _strata(
    ratings: np.ndarray, truth: np.ndarray, clusters: Any, one_stratum: bool, needs: tuple[bool, bool]
) -> _Strata:
    read = np.isfinite(ratings)
    if (np.isinf(ratings)).any():
        raise BadInput("Ratings hold infinite values", "Use a finite rating, or NaN where a case was not read.")
    positive = np.ones_like(truth, bool) if one_stratum else truth == 1
    index, number = cluster_index(clusters, ratings.shape[1])
    filled = np.where(read, ratings, 0.0)
    strata = _Strata(
        filled[:, positive], filled[:, ~positive], read[:, positive], read[:, ~positive],
        index[positive], index[~positive], number, number == ratings.shape[1],
    )  # fmt: skip
    for name, count, needed in (("synthetic", strata.m1, needs[0]), ("real", strata.m0, needs[1])):
        if needed and count.min(initial=2) < 2:
            what = "cases" if one_stratum else f"{name} cases"
            raise BadInput(
                f"A reading has {int(count.min())} {what}; two or more are needed", "Leave that reader or arm out."
            )
    return strata


def _by_cluster(values: np.ndarray, index: np.ndarray, clusters: int) -> np.ndarray:
    """(rows, n) summed within clusters: (rows, clusters)."""
    member = np.zeros((len(index), clusters))
    member[np.arange(len(index)), index] = 1.0
    return values @ member


class _Linear:
    """A weighted sum of the means of the two strata."""

    def __init__(self, s: _Strata, x: np.ndarray, y: np.ndarray, w1: np.ndarray, w0: np.ndarray) -> None:
        self.s, self.w1, self.w0 = s, w1, w0
        self.x, self.y = np.where(s.read1, x, 0.0), np.where(s.read0, y, 0.0)
        self.mean1 = self.x.sum(1) / np.maximum(s.m1, 1.0)
        self.mean0 = self.y.sum(1) / np.maximum(s.m0, 1.0)
        self.values = w1 * self.mean1 + w0 * self.mean0

    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """Each case's part in the figure, centred: (rows, n1) and (rows, n0)."""
        s = self.s
        a = np.where(s.read1, self.x - self.mean1[:, None], 0.0) * (self.w1 / np.maximum(s.m1, 1.0))[:, None]
        b = np.where(s.read0, self.y - self.mean0[:, None], 0.0) * (self.w0 / np.maximum(s.m0, 1.0))[:, None]
        return a, b

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """The figure without each cluster (rows, clusters), and which clusters have a part in any figure."""
        s, parts, used = self.s, [], np.zeros(self.s.clusters, bool)
        strata = ((self.w1, self.x, s.read1, s.cluster1, s.m1), (self.w0, self.y, s.read0, s.cluster0, s.m0))
        for weight, values, read, index, count in strata:
            if not weight.any():
                continue
            remaining = count[:, None] - _by_cluster(read.astype(np.float64), index, s.clusters)
            _refuse_empty(remaining)
            parts.append(
                weight[:, None] * (values.sum(1)[:, None] - _by_cluster(values, index, s.clusters)) / remaining
            )
            used[index] = True
        return sum(parts), used

    def unbiased(self) -> np.ndarray:
        """(rows, rows) unbiased covariances."""
        s, total = self.s, 0.0
        for w, v, mean, read, m in (
            (self.w1, self.x, self.mean1, s.read1, s.m1),
            (self.w0, self.y, self.mean0, s.read0, s.m0),
        ):
            if not w.any():
                continue
            shared = read.astype(np.float64) @ read.T
            sums = v.sum(1)
            apart = (np.outer(sums, sums) - v @ v.T) / (np.outer(m, m) - shared)
            total = total + np.outer(w, w) * np.where(shared > 0, np.outer(mean, mean) - apart, 0.0)
        return np.asarray(total)


class _Auc:
    """The empirical area under the ROC curve: the mean over pairs of P(synthetic > real) + P(equal) / 2."""

    def __init__(self, s: _Strata) -> None:
        self.s = s
        difference = s.positive[:, :, None] - s.negative[:, None, :]
        both = s.read1[:, :, None] & s.read0[:, None, :]
        self.kernel = np.where(both, (np.sign(difference) + 1.0) / 2.0, 0.0)
        self.rows, self.columns = self.kernel.sum(2), self.kernel.sum(1)
        self.total = self.rows.sum(1)
        self.values = self.total / (s.m1 * s.m0)

    def components(self) -> tuple[np.ndarray, np.ndarray]:
        s, theta = self.s, self.values[:, None]
        a = np.where(s.read1, self.rows / s.m0[:, None] - theta, 0.0) / s.m1[:, None]
        b = np.where(s.read0, self.columns / s.m1[:, None] - theta, 0.0) / s.m0[:, None]
        return a, b

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        s, k = self.s, self.s.clusters
        gone = _by_cluster(self.rows, s.cluster1, k) + _by_cluster(self.columns, s.cluster0, k)
        i, j = np.nonzero(s.cluster1[:, None] == s.cluster0[None, :])
        if len(i):  # pairs within a cluster were taken off twice
            gone = gone - _by_cluster(self.kernel[:, i, j], s.cluster1[i], k)
        remaining1 = s.m1[:, None] - _by_cluster(s.read1.astype(np.float64), s.cluster1, k)
        remaining0 = s.m0[:, None] - _by_cluster(s.read0.astype(np.float64), s.cluster0, k)
        _refuse_empty(remaining1 * remaining0)
        return (self.total[:, None] - gone) / (remaining1 * remaining0), np.ones(k, bool)

    def unbiased(self) -> np.ndarray:
        s = self.s
        flat = self.kernel.reshape(len(self.kernel), -1)
        apart = (
            np.outer(self.total, self.total) - self.rows @ self.rows.T - self.columns @ self.columns.T + flat @ flat.T
        )
        shared1, shared0 = s.read1.astype(np.float64) @ s.read1.T, s.read0.astype(np.float64) @ s.read0.T
        pairs = (np.outer(s.m1, s.m1) - shared1) * (np.outer(s.m0, s.m0) - shared0)
        covariance = np.outer(self.values, self.values) - apart / pairs
        return np.where((shared1 > 0) | (shared0 > 0), covariance, 0.0)  # exactly, not up to rounding


class _Binormal:
    """The area under the binormal ROC curve; only the jackknife gives its covariances here."""

    def __init__(self, s: _Strata) -> None:
        from .binormal import BinormalFits

        self.s, self.fits = s, BinormalFits()
        self.values = np.array([self._area(f, np.ones(s.clusters, bool)) for f in range(len(s.positive))])

    def _area(self, row: int, kept: np.ndarray) -> float:
        s = self.s
        synthetic = s.positive[row, s.read1[row] & kept[s.cluster1]]
        real = s.negative[row, s.read0[row] & kept[s.cluster0]]
        return self.fits.area(synthetic, real)

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        k = self.s.clusters
        out = np.array([[self._area(f, np.arange(k) != c) for c in range(k)] for f in range(len(self.values))])
        return out, np.ones(k, bool)


def _refuse_empty(remaining: np.ndarray) -> None:
    if remaining.min() < 1:
        raise BadInput(
            "One cluster holds all cases of a kind, so the jackknife cannot leave it out",
            "Use smaller clusters (the pair or the patient).",
        )


def _figure(s: _Strata, figure: str, threshold: float | None, cases: int) -> _Linear | _Auc | _Binormal:
    rows = len(s.positive)
    ones, none = np.ones(rows), np.zeros(rows)
    if figure == "auc":
        return _Auc(s)
    if figure == "binormal_auc":
        return _Binormal(s)
    if figure == "mean":
        return _Linear(s, s.positive, s.negative, ones, none)
    if figure == "mean_difference":
        return _Linear(s, s.positive, s.negative, ones, -ones)
    hit, rejection = s.positive > threshold, s.negative <= threshold
    if figure == "sensitivity":
        return _Linear(s, hit, rejection, ones, none)
    if figure == "specificity":
        return _Linear(s, hit, rejection, none, ones)
    if figure == "balanced_accuracy":
        return _Linear(s, hit, rejection, ones / 2.0, ones / 2.0)
    share = s.m1 / (s.m1 + s.m0)
    return _Linear(s, hit, rejection, share, 1.0 - share)


def _delong(form: _Linear | _Auc, s: _Strata) -> np.ndarray:
    a, b = form.components()
    scaled = []
    for part, index, read in ((a, s.cluster1, s.read1), (b, s.cluster0, s.read0)):
        present = (_by_cluster(read.astype(np.float64), index, s.clusters) > 0).sum(1)
        scaled.append(_by_cluster(part, index, s.clusters) * _bessel(present)[:, None])
    covariance = scaled[0] @ scaled[0].T + scaled[1] @ scaled[1].T
    if s.alone:
        return covariance
    # Obuchowski's S11: real and synthetic cases of the same cluster covary.
    read = _by_cluster(s.read1.astype(np.float64), s.cluster1, s.clusters)
    read = read + _by_cluster(s.read0.astype(np.float64), s.cluster0, s.clusters)
    factor = _bessel((read > 0).sum(1))[:, None]
    sums1 = _by_cluster(a, s.cluster1, s.clusters) * factor
    sums0 = _by_cluster(b, s.cluster0, s.clusters) * factor
    return covariance + sums1 @ sums0.T + sums0 @ sums1.T


def _bessel(count: np.ndarray) -> np.ndarray:
    return np.sqrt(count / np.maximum(count - 1.0, 1.0))


def _jackknife(form: _Linear | _Auc | _Binormal) -> np.ndarray:
    values, used = form.left_out()
    values = values[:, used]
    n = values.shape[1]
    centred = values - values.mean(1, keepdims=True)
    return (n - 1.0) / n * (centred @ centred.T)


def figures(
    ratings: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    figure: str = "auc",
    covariance: str = "delong",
    threshold: float | None = None,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
) -> Figures:
    """Figures of merit of each row with the covariances of all pairs of rows.

    Args:
        ratings: (rows, cases) float, higher = more "synthetic"; NaN where the row did not read the case.
        truth: (cases,) 0 real, 1 synthetic.
        figure: "auc" (empirical), "binormal_auc" (jackknife only), "accuracy", "sensitivity", "specificity" and
            "balanced_accuracy", the mean of these two (a case is called synthetic if its rating is above `threshold`;
            guessing has an accuracy of 0.5 only where real and synthetic cases are equally many, a balanced one of 0.5
            always), "mean_difference" (mean rating of synthetic less
            real), "mean" (mean over all cases, truth ignored: forced choice, ratings of 1 right and 0 wrong).
        covariance: "delong", "jackknife" or "unbiased".
        threshold: for the figures that need a call.
        clusters: (cases,) what was sampled together (a pair, a patient); by default every case by itself. Not with
            "unbiased".

    Raises:
        BadInput: shapes, unknown names, a missing threshold, or fewer than two cases of a kind in a row.
    """
    check_choice("The figure of merit", figure, FIGURES)
    check_choice("The covariance", covariance, COVARIANCES)
    ratings = np.asarray(ratings, np.float64)
    if ratings.ndim != 2 or 0 in ratings.shape:
        raise BadInput(f"Ratings have shape {ratings.shape}", "Give one row per reading and one column per case.")
    truth = as_truth(truth, ratings.shape[1])
    if figure in _THRESHOLDED and threshold is None:
        raise BadInput(f"{figure} needs a threshold", "Say above which rating a case counts as called synthetic.")
    one_stratum = figure == "mean"
    needs = (figure != "specificity", figure != "sensitivity" and not one_stratum)
    strata = _strata(ratings, truth, clusters, one_stratum, needs)
    if covariance == "unbiased" and not strata.alone:
        raise BadInput("The unbiased covariance takes no clusters", 'Use "jackknife" or "delong" for clustered cases.')
    if figure == "binormal_auc" and covariance != "jackknife":
        raise BadInput("The binormal area has only jackknife covariances here", 'Use covariance "jackknife".')
    form = _figure(strata, figure, threshold, ratings.shape[1])
    if covariance == "delong":
        matrix = _delong(form, strata)
    elif covariance == "jackknife":
        matrix = _jackknife(form)
    else:
        matrix = form.unbiased()
    read = np.isfinite(ratings)
    seen = read.any(0)
    return Figures(
        figure, covariance, form.values, matrix, int(seen.sum()), int((seen & (truth == 1)).sum()),
        int((seen & (truth == 0)).sum()), strata.clusters, bool(read.all()),
    )  # fmt: skip
