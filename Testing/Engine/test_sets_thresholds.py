"""Limits from few distances flag what they say, by simulation; intervals and tests agree with SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from SynthDiffusionLib.evaluation.memorisation import rank_test
from SynthDiffusionLib.evaluation.sets.membership import candidates, membership
from SynthDiffusionLib.evaluation.sets.thresholds import (
    clopper_pearson,
    conformal_rank,
    fewest,
    smallest_auc,
    threshold_of,
)


@pytest.mark.parametrize(("patients", "rank"), [(1, 0), (18, 0), (19, 1), (20, 1), (38, 1), (39, 2), (59, 3), (99, 5)])
def test_the_rank_of_the_limit(patients, rank):
    assert conformal_rank(patients) == rank


def test_nineteen_patients_are_needed():
    assert fewest() == 19 and fewest(0.1) == 9 and fewest(0.01) == 99
    assert not threshold_of(range(18)).exists and threshold_of(range(19)).exists
    few = threshold_of([3.0, 1.0, 2.0])
    assert few.value == 1.0 and few.expected == 1 / 4  # a rank: nearer than all


@pytest.mark.parametrize("patients", [19, 20, 39, 50])
def test_no_more_than_five_percent_of_fresh_distances_are_flagged(patients):
    """Uniform distances: of any continuous distribution, the ranks are the same."""
    rng = np.random.default_rng(patients)
    reference, fresh = rng.random((4000, patients)), rng.random((4000, 20))
    limits = [threshold_of(row) for row in reference]
    rates = (fresh < np.array([t.value for t in limits])[:, None]).mean(1)
    error = rates.std() / np.sqrt(len(rates))
    assert rates.mean() <= 0.05 + 2 * error
    assert rates.mean() == pytest.approx(limits[0].expected, abs=4 * error)
    # The rate of a limit is the limit itself here: 19 of 20 keep to `upper`.
    assert np.mean([t.value <= t.upper for t in limits]) == pytest.approx(0.95, abs=0.015)


def test_the_plain_quantile_flags_too_many():
    """What is easily taken instead: the 5 % quantile of 20 distances flags 9 % of fresh ones."""
    rng = np.random.default_rng(1)
    limits = np.quantile(rng.random((4000, 20)), 0.05, axis=1)
    assert limits.mean() > 0.08


def nearest(dimensions: int, training: int, validation: int, fresh: int, rng: np.random.Generator):
    """Squared distances to the nearest training case of points of one distribution; a training case's, to another."""
    points = rng.standard_normal((training + validation + fresh, dimensions))
    known = points[:training]
    squared = (points**2).sum(1)[:, None] + (known**2).sum(1)[None] - 2 * points @ known.T
    squared[np.arange(training), np.arange(training)] = np.inf
    return np.split(squared.min(1), [training, training + validation])


@pytest.mark.parametrize("dimensions", [1, 4, 20])
def test_training_cases_may_join_one_rank_lower(dimensions):
    rng = np.random.default_rng(dimensions)
    rates, plain, rejected = [], [], []
    for _ in range(700):
        training, validation, fresh = nearest(dimensions, 40, 5, 20, rng)
        limit = threshold_of(validation, training)
        hits = int((fresh < limit.value).sum())
        rates.append(hits / 20)
        rejected.append(rank_test(hits, 20, limit.safe_rank, limit.patients) < 0.025)
        plain.append((fresh < np.sort([*training, *validation])[conformal_rank(45) - 1]).mean())
    error = np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) <= 0.05 and np.mean(rates) <= limit.expected + 2 * error
    assert np.mean(rejected) <= 0.025 + 0.012  # two standard errors
    if dimensions < 20:  # pairs of training cases are the reason for the lower rank; in many dimensions there are few
        assert np.mean(plain) > limit.expected + 2 * error


def test_the_test_of_flags_is_exact_for_a_drawn_limit():
    rng = np.random.default_rng(3)
    rejected = []
    for _ in range(3000):
        limit = threshold_of(rng.random(20))
        rejected.append(rank_test(int((rng.random(20) < limit.value).sum()), 20, limit.rank, 20) < 0.025)
    assert np.mean(rejected) <= 0.025 + 0.006


@pytest.mark.parametrize(("hits", "trials"), [(0, 20), (1, 20), (7, 20), (20, 20), (3, 117)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_of_a_share_is_that_of_scipy(hits, trials, confidence):
    exact = stats.binomtest(hits, trials).proportion_ci(confidence, method="exact")
    assert clopper_pearson(hits, trials, confidence) == pytest.approx((exact.low, exact.high))


def all_of(n: int, m: int, volumes: int):
    return candidates([f"t{i}" for i in range(n)], [f"f{i}" for i in range(m)], ["x"] * volumes, False, 0)


def test_the_auc_is_the_statistic_of_mann_and_whitney():
    rng = np.random.default_rng(4)
    near, far = rng.integers(0, 9, (30, 6)).astype(float), rng.integers(1, 12, (14, 6)).astype(float)
    names = [f"t{i}" for i in range(30)], [f"f{i}" for i in range(14)]
    found = membership(near, far, all_of(30, 14, 6), *names)
    exact = stats.mannwhitneyu(-near.min(1), -far.min(1))
    assert found["auc"] == pytest.approx(exact.statistic / (30 * 14)) and found["p"] == pytest.approx(exact.pvalue)
    assert found["low"] <= found["auc"] <= found["high"]


def test_a_generator_that_gives_its_patients_away_has_an_auc_of_one():
    near, far = np.full((20, 5), 0.1), np.full((10, 5), 0.5)
    far[:, 0] = np.arange(10) + 1
    found = membership(near, far, all_of(20, 10, 5), [f"t{i}" for i in range(20)], [f"f{i}" for i in range(10)])
    assert found["auc"] == 1.0 and found["p"] < 0.001


def test_nobody_has_more_volumes_to_be_near_to_when_own_masks_are_left_out():
    """All distances of one distribution, 8 volumes made for the masks of 8 fresh patients. Leaving out a fresh case's
    own volume alone would make training cases nearer, for they had one more: an AUC above 0.5 from nothing."""
    rng = np.random.default_rng(5)
    training, fresh = [f"t{i}" for i in range(30)], [f"f{i}" for i in range(8)]
    fair, naive, kept = [], [], []
    for trial in range(250):
        near, far = rng.random((30, 8)), rng.random((8, 8))
        far[np.arange(8), np.arange(8)] = 0.0  # its own mask: near for the mask's sake
        allowed = candidates(training, fresh, fresh, True, trial)
        assert (allowed.training.sum(1) == 7).all() and not allowed.fresh.diagonal().any()
        auc = [
            stats.mannwhitneyu(-a, -b).statistic / (30 * 8)
            for a, b in (
                (np.where(allowed.training, near, 9).min(1), np.where(allowed.fresh, far, 9).min(1)),
                (near.min(1), np.where(np.eye(8, dtype=bool), 9, far).min(1)),
                (near.min(1), far.min(1)),
            )
        ]
        for values, one in zip((fair, naive, kept), auc):
            values.append(one)
    error = np.std(fair) / np.sqrt(len(fair))
    assert np.mean(fair) == pytest.approx(0.5, abs=3 * error)
    assert np.mean(naive) > 0.5 + 3 * error and np.mean(kept) < 0.01


def test_nothing_is_said_of_cases_without_volumes():
    one = candidates(["t"], ["f"], ["f", "f"], True, 0)
    assert membership(np.ones((1, 2)), np.ones((1, 2)), one, ["t"], ["f"]) is None


@pytest.mark.parametrize(("training", "fresh", "tests"), [(67, 20, 1), (67, 20, 2), (25, 10, 2)])
def test_the_smallest_auc_is_found_in_four_of_five_studies(training, fresh, tests):
    """At the level that the correction for so many searches leaves to the smaller p."""
    near, far = np.arange(training * 1.0)[:, None], np.arange(fresh * 1.0)[:, None]
    names = [f"t{i}" for i in range(training)], [f"f{i}" for i in range(fresh)]
    found = membership(near, far, all_of(training, fresh, 1), *names, tests=tests)
    auc = found["smallest_found"]
    assert auc == smallest_auc(training, fresh, 0.05 / tests)
    shift = np.sqrt(2.0) * stats.norm.ppf(auc)  # normal scores with that AUC
    rng = np.random.default_rng(6)
    p = [stats.mannwhitneyu(rng.normal(shift, 1, training), rng.normal(0, 1, fresh)).pvalue for _ in range(800)]
    assert np.mean(np.array(p) < 0.05 / tests) == pytest.approx(0.8, abs=0.06)
    assert smallest_auc(4, 3) == 1.0 or smallest_auc(4, 3) > 0.95
