"""Likert scales: are synthetic volumes rated differently from real ones?

Several readers rate the same cases, so ratings are clustered twice, by reader and by case. Pooling them as if each
rating were a case of its own (a Mann-Whitney test over all ratings) counts every case as often as there are readers and
is refused. What is offered instead:

    likert_difference     readers and cases random: Obuchowski-Rockette with the difference of means, or with
                          P(synthetic > real) + P(equal) / 2, as figure of merit. The primary analysis: in simulation it
                          keeps its level from 3 readers on.
    reader_averaged_test  readers fixed: one mean per case, then a permutation or rank test over cases (or pairs).
    two_way_cluster       the difference of means with a variance clustered by reader and by case, for comparison: with
                          few readers it is too careful (in simulation it rejects 0.4 to 5 % instead of 5 %).
    ordinal_regression    proportional odds with reader effects (visual grading regression; Smedby and Fredrikson, Br J
                          Radiol 2010), variance clustered by case.
    mann_whitney          one reader's ratings.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput, MissingExtra

from .figures import cluster_index
from .results import ALPHA, CONFIDENCE, Result, as_truth, check_choice, check_confidence
from .single_arm import SingleArm, single_arm

RESAMPLES = 9999
SEED = 2026


@dataclass(frozen=True)
class LikertTest(Result):
    """Difference of ratings, synthetic less real. `effect`: P(synthetic > real) + P(equal) / 2, where computed."""

    method: str
    difference: float
    se: float
    low: float
    high: float
    statistic: float
    df: float
    p: float
    effect: float
    readers: int
    cases: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class OrdinalRegression(Result):
    """Log odds of a higher rating of synthetic against real cases, with reader effects."""

    log_odds: float
    se: float
    z: float
    p: float
    odds_ratio: float
    low: float
    high: float
    model_se: float
    reader_log_odds: tuple[float, ...]
    readers: int
    cases: int
    notes: tuple[str, ...]


def _matrix(ratings: np.ndarray, truth: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    array = np.asarray(ratings, np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise BadInput(f"Ratings have shape {array.shape}", "Give (readers, cases).")
    truth = as_truth(truth, array.shape[1])
    if min((truth == 0).sum(), (truth == 1).sum()) < 2:
        raise BadInput("Fewer than two real or synthetic cases", "Both kinds are needed, twice or more.")
    return array, truth


def likert_difference(
    ratings: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    *,
    figure: str = "mean_difference",
    readers: str = "random",
    cases: str = "random",
    covariance: str = "delong",
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    margin: float | None = None,
    alpha: float = ALPHA,
    confidence: float = CONFIDENCE,
    reader_names: Sequence[str] | None = None,
) -> SingleArm:
    """Likert ratings of synthetic against real cases, readers and cases as crossed random effects.

    Args:
        ratings: (readers, cases), NaN where missing.
        truth: (cases,) 0 real, 1 synthetic.
        figure: "mean_difference" (points of the scale, tested against 0) or "auc" (ordinal; tested against 0.5).
        clusters: (cases,) the pair or patient.
        Others as in `single_arm`.
    """
    check_choice("The figure of merit", figure, ("mean_difference", "auc"))
    array, truth = _matrix(ratings, truth)
    return single_arm(
        array, truth, figure=figure, covariance=covariance, readers=readers, cases=cases, clusters=clusters,
        margin=margin, alpha=alpha, confidence=confidence, reader_names=reader_names,
    )  # fmt: skip


def _effect(real: np.ndarray, synthetic: np.ndarray) -> float:
    return float(((np.sign(synthetic[:, None] - real[None, :]) + 1.0) / 2.0).mean())


def mann_whitney(real: Sequence[float] | np.ndarray, synthetic: Sequence[float] | np.ndarray) -> LikertTest:
    """Mann-Whitney test of one reader's ratings (asymptotic, with ties and continuity correction).

    Args:
        real, synthetic: (cases,) ratings of different cases by the same reader; NaN are left out.

    Raises:
        BadInput: no ratings of a kind.
    """
    from scipy.stats import mannwhitneyu

    a, b = np.asarray(real, np.float64).ravel(), np.asarray(synthetic, np.float64).ravel()
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if len(a) == 0 or len(b) == 0:
        raise BadInput("No ratings of real or of synthetic cases", "Give one reader's ratings of both.")
    found = mannwhitneyu(b, a, alternative="two-sided", method="asymptotic", use_continuity=True)
    p = 1.0 if np.unique(np.concatenate([a, b])).size == 1 else float(found.pvalue)
    return LikertTest(
        "Mann-Whitney, one reader", float(b.mean() - a.mean()), math.nan, math.nan, math.nan, float(found.statistic),
        math.nan, p, _effect(a, b), 1, len(a) + len(b), (),
    )  # fmt: skip


def pooled_mann_whitney(ratings: np.ndarray, truth: Sequence[int] | np.ndarray) -> LikertTest:
    """A single reader's Mann-Whitney test; with several readers it is refused.

    Args:
        ratings: (readers, cases).

    Raises:
        BadInput: more than one reader.
    """
    array, truth = _matrix(ratings, truth)
    if len(array) > 1:
        raise BadInput(
            f"A Mann-Whitney test over the pooled ratings of {len(array)} readers is not made: the readings of a case "
            "are not independent, and each case would count once per reader, so that the p-value is far too small",
            "Use likert_difference (readers and cases random), reader_averaged_test, or mann_whitney for each reader.",
        )
    return mann_whitney(array[0, truth == 0], array[0, truth == 1])


def _case_means(array: np.ndarray) -> np.ndarray:
    """Mean over readers of each case, after taking out reader means where answers are missing."""
    read = np.isfinite(array)
    if not read.any(0).all():
        raise BadInput("A case has no rating at all", "Leave that case out.")
    if read.all():
        return array.mean(0)
    # With gaps, a lenient reader's absence would otherwise look like a worse case.
    centred = array - np.nanmean(array, axis=1, keepdims=True)
    return np.nanmean(centred, axis=0) + float(np.nanmean(array))


def reader_averaged_test(
    ratings: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    pairs: Sequence[Hashable] | np.ndarray | None = None,
    method: str = "permutation",
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> LikertTest:
    """One mean per case over readers, then a test over cases. It speaks of these readers only.

    Args:
        ratings: (readers, cases), NaN where missing.
        truth: (cases,) 0 real, 1 synthetic.
        pairs: (cases,) the pair of each case. With it, means are taken per kind within a pair, pairs without both kinds
            are left out, and signs are flipped by pair (permutation) or Wilcoxon's signed-rank test is made (rank).
        method: "permutation" of the difference of means, or "rank" (Mann-Whitney; with pairs Wilcoxon).

    Raises:
        BadInput: fewer than two cases of a kind, or fewer than two complete pairs.
    """
    from scipy.stats import mannwhitneyu, wilcoxon

    check_choice("The method", method, ("permutation", "rank"))
    array, truth = _matrix(ratings, truth)
    means = _case_means(array)
    readers, rng, notes = len(array), np.random.default_rng([seed, len(truth)]), []
    if pairs is None:
        real, synthetic = means[truth == 0], means[truth == 1]
        difference = float(synthetic.mean() - real.mean())
        se = math.sqrt(real.var(ddof=1) / len(real) + synthetic.var(ddof=1) / len(synthetic))
        if method == "rank":
            found = mannwhitneyu(synthetic, real, alternative="two-sided", method="asymptotic", use_continuity=True)
            statistic, p = float(found.statistic), float(found.pvalue)
        else:
            order = rng.permuted(np.tile(means, (resamples, 1)), axis=1)
            drawn = order[:, : len(synthetic)].mean(1) - order[:, len(synthetic) :].mean(1)
            statistic, p = difference, _permutation_p(difference, drawn)
        effect, cases = _effect(real, synthetic), len(means)
        name = "Mann-Whitney of reader averages" if method == "rank" else "permutation of reader averages"
    else:
        index, number = cluster_index(pairs, len(truth))
        kinds = [(index == i) & (truth == kind) for i in range(number) for kind in (0, 1)]
        both = [(a, b) for a, b in zip(kinds[::2], kinds[1::2]) if a.any() and b.any()]
        if len(both) < 2:
            raise BadInput("Fewer than two pairs have a real and a synthetic case", "Leave `pairs` out.")
        if len(both) < number:
            notes.append(f"{number - len(both)} pairs without both kinds were left out.")
        gap = np.array([means[b].mean() - means[a].mean() for a, b in both])
        difference, se = float(gap.mean()), float(gap.std(ddof=1)) / math.sqrt(len(gap))
        if method == "rank":
            found = wilcoxon(gap, zero_method="wilcox", correction=True) if gap.any() else None
            statistic, p = (float(found.statistic), float(found.pvalue)) if found else (0.0, 1.0)
        else:
            drawn = (rng.choice((-1.0, 1.0), size=(resamples, len(gap))) * gap).mean(1)
            statistic, p = difference, _permutation_p(difference, drawn)
        effect, cases = float(((np.sign(gap) + 1.0) / 2.0).mean()), 2 * len(gap)
        name = "Wilcoxon of paired reader averages" if method == "rank" else "sign flips of paired reader averages"
    notes.append("Readers are taken as fixed: the result holds for these readers.")
    return LikertTest(
        name, difference, se, math.nan, math.nan, statistic, math.nan, p, effect, readers, cases, tuple(notes)
    )


def _permutation_p(value: float, drawn: np.ndarray) -> float:
    """Two-sided; the observed arrangement counts as one of the draws (Phipson and Smyth 2010)."""
    as_extreme = int((np.abs(drawn) >= abs(value) * (1.0 - 1e-9) - 1e-12).sum())
    return (as_extreme + 1.0) / (len(drawn) + 1.0)


def two_way_cluster(
    ratings: np.ndarray, truth: Sequence[int] | np.ndarray, confidence: float = CONFIDENCE
) -> LikertTest:
    """Difference of means with a variance clustered by reader and by case (Cameron, Gelbach and Miller, JBES 2011).

    V = V(reader) + V(case) - V(reader and case), each with G / (G - 1), and t with (readers - 1) degrees of freedom.

    Args:
        ratings: (readers, cases), NaN where missing.

    Raises:
        BadInput: one reader, or fewer than two cases of a kind.
    """
    from scipy.stats import t as student

    array, truth = _matrix(ratings, truth)
    check_confidence(confidence)
    r, n = array.shape
    if r < 2:
        raise BadInput("One reader cannot be a sample of readers", "Use mann_whitney for one reader.")
    read = np.isfinite(array)
    parts = np.zeros(array.shape)
    means = []
    for kind, sign in ((0, -1.0), (1, 1.0)):
        of_kind = read & (truth == kind)
        mean = float(array[of_kind].mean())
        parts[of_kind] = sign * (array[of_kind] - mean) / of_kind.sum()
        means.append(mean)
    by_reader = r / (r - 1.0) * float((parts.sum(1) ** 2).sum())
    by_case = n / (n - 1.0) * float((parts.sum(0) ** 2).sum())
    both = read.sum() / (read.sum() - 1.0) * float((parts**2).sum())
    variance, notes = by_reader + by_case - both, []
    if not variance > 0:  # the remedy of Cameron, Gelbach and Miller
        variance = max(by_reader, by_case)
        notes.append("The two-way variance was not above 0; the larger of the one-way variances was used.")
    if r < 10:
        notes.append(f"With {r} readers this test rejects too rarely; likert_difference keeps its level.")
    difference, se, df = means[1] - means[0], math.sqrt(variance), r - 1
    half = float(student.ppf(0.5 + confidence / 2.0, df)) * se
    t = difference / se if se > 0 else math.nan
    p = float(2.0 * student.sf(abs(t), df)) if se > 0 else math.nan
    return LikertTest(
        "difference of means, clustered by reader and case", difference, se, difference - half, difference + half, t,
        float(df), p, math.nan, r, n, tuple(notes),
    )  # fmt: skip


def ordinal_regression(
    ratings: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    confidence: float = CONFIDENCE,
) -> OrdinalRegression:
    """Proportional-odds regression of the rating on truth and reader (statsmodels' OrderedModel, logit).

    Readers are fixed effects; the variance is a sandwich clustered by case (or by `clusters`: pair, patient), with
    G / (G - 1).

    Args:
        ratings: (readers, cases), NaN where missing; two levels or more must occur.

    Raises:
        BadInput: one level only, more than 20 levels, or a fit that does not converge (separated data).
        MissingExtra: statsmodels is not installed.
    """
    from scipy.stats import norm

    try:
        from statsmodels.miscmodels.ordinal_model import OrderedModel
    except ImportError as error:
        raise MissingExtra("Ordinal regression", "study") from error
    array, truth = _matrix(ratings, truth)
    check_confidence(confidence)
    r, n = array.shape
    index, _ = cluster_index(clusters, n)
    reader, case = np.nonzero(np.isfinite(array))
    levels, codes = np.unique(array[reader, case], return_inverse=True)
    if not 2 <= len(levels) <= 20:
        raise BadInput(f"{len(levels)} different ratings are no Likert scale", "Give a scale of 2 to 20 levels.")
    design = np.column_stack([truth[case], *(reader == j for j in range(1, r))]).astype(np.float64)
    model = OrderedModel(codes, design, distr="logit")
    fit = model.fit(method="bfgs", disp=False, maxiter=1000, gtol=1e-6)
    scores = np.asarray(model.score_obs(fit.params))
    information = -np.asarray(model.hessian(fit.params))
    try:
        bread = np.linalg.inv(information)
    except np.linalg.LinAlgError:
        bread = np.full(information.shape, math.nan)
    if not (np.isfinite(bread).all() and bread[0, 0] > 0) or abs(fit.params[0]) > 15:
        raise BadInput(
            "The ordinal regression has no finite solution (the ratings separate real from synthetic)",
            "Report the AUC with its interval instead.",
        )
    owner = index[case]
    groups = np.unique(owner)
    sums = np.array([scores[owner == g].sum(0) for g in groups])
    robust = len(groups) / (len(groups) - 1.0) * bread @ (sums.T @ sums) @ bread
    value, se = float(fit.params[0]), math.sqrt(float(robust[0, 0]))
    half, z = float(norm.ppf(0.5 + confidence / 2.0)) * se, value / se
    notes = ["Readers are fixed effects: the result holds for these readers."]
    if len(groups) < 40:
        notes.append(f"With {len(groups)} clusters the standard error is on average somewhat too small.")
    return OrdinalRegression(
        value, se, z, float(2.0 * norm.sf(abs(z))), math.exp(value), math.exp(value - half), math.exp(value + half),
        math.sqrt(float(bread[0, 0])), (0.0, *(float(v) for v in fit.params[1:r])), r, n, tuple(notes),
    )  # fmt: skip
