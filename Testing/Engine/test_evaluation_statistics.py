"""The statistics of `evaluate` against SciPy, closed forms and identities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from SynthDiffusionLib.evaluation import statistics as s


@pytest.mark.parametrize("ties", [False, True])
def test_auc_is_the_mann_whitney_statistic(ties):
    rng = np.random.default_rng(1)
    negative, positive = rng.normal(0, 1, 23), rng.normal(0.7, 1.5, 31)
    if ties:
        negative, positive = np.round(negative), np.round(positive)
    u = stats.mannwhitneyu(positive, negative, method="asymptotic").statistic
    assert s.auc(negative, positive) == pytest.approx(u / (23 * 31), abs=1e-12)


def test_auc_knows_its_ends():
    assert s.auc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0
    assert s.auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 0.0
    assert s.auc(np.ones(4), np.ones(3)) == 0.5


def test_bootstrapped_auc_has_the_plain_value_and_resamples_patients():
    rng = np.random.default_rng(2)
    negative, positive = rng.normal(0, 1, 40), rng.normal(1, 1, 40)
    one_each = [str(i) for i in range(40)]
    estimate = s.bootstrap_auc(negative, one_each, positive, one_each)
    assert estimate.value == pytest.approx(s.auc(negative, positive), abs=1e-12)
    assert estimate.low < estimate.value < estimate.high
    # Ten scores that are all but copies of each patient's say nothing new: the interval must not shrink.
    repeated = s.bootstrap_auc(
        np.repeat(negative, 10),
        [p for p in one_each for _ in range(10)],
        np.repeat(positive, 10),
        [p for p in one_each for _ in range(10)],
    )
    assert repeated.value == pytest.approx(estimate.value, abs=1e-12)
    assert (repeated.low, repeated.high) == pytest.approx((estimate.low, estimate.high), abs=1e-12)


def test_bootstrap_of_a_mean_agrees_with_scipy():
    values = np.random.default_rng(3).gamma(2.0, 1.0, 30)
    ours = s.bootstrap_mean(values)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(4)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(values.mean())
    assert abs(ours.low - theirs.low) < 0.05 * width and abs(ours.high - theirs.high) < 0.05 * width


def test_bootstrap_of_a_ratio_is_paired():
    rng = np.random.default_rng(5)
    b = rng.uniform(0.2, 1.0, 20)
    exact = s.bootstrap_ratio(0.8 * b, b)
    assert (exact.value, exact.low, exact.high) == pytest.approx((0.8, 0.8, 0.8))
    theirs = stats.bootstrap(
        (b**2, b),
        lambda x, y, axis: x.mean(axis) / y.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=20000,
        method="percentile",
        rng=np.random.default_rng(6),
    ).confidence_interval
    ours = s.bootstrap_ratio(b**2, b)
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.06 * width and abs(ours.high - theirs.high) < 0.06 * width


def test_ratio_to_nothing_is_not_defined():
    assert s.bootstrap_ratio(np.ones(5), np.zeros(5)).to_json() == {"value": None, "low": None, "high": None}


def test_interval_of_the_mean_covers_about_as_often_as_it_says():
    rng = np.random.default_rng(7)
    hits = [e.low <= 0.0 <= e.high for e in (s.bootstrap_mean(rng.normal(0, 1, 20)) for _ in range(300))]
    assert 0.88 <= np.mean(hits) <= 0.98


def test_patients_count_once_however_many_volumes_they_have():
    values, patients = s.mean_by_patient([1.0, 3.0, 10.0], ["a", "a", "b"])
    assert patients == ["a", "b"] and values.tolist() == [2.0, 10.0]


def test_mmd_is_zero_on_average_between_samples_of_one_distribution():
    rng = np.random.default_rng(8)
    found = [s.mmd2(rng.normal(size=(15, 4)), rng.normal(size=(15, 4)), 2.0) for _ in range(400)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(400)
    assert 0.3 < np.mean(np.array(found) < 0) < 0.8


def test_mmd_of_shifted_normals_has_its_closed_form():
    """E k(x, y) for x, y normal with unit covariance and means d apart: (h²/(h²+2))^(D/2) exp(-d²/(2(h²+2)))."""
    rng = np.random.default_rng(9)
    dimension, h, d = 3, 1.5, 1.2
    x = rng.normal(size=(1500, dimension))
    y = rng.normal(size=(1500, dimension)) + d / np.sqrt(dimension)
    scale = (h**2 / (h**2 + 2)) ** (dimension / 2)
    expected = 2 * scale * (1 - np.exp(-(d**2) / (2 * (h**2 + 2))))
    assert s.mmd2(x, y, h) == pytest.approx(expected, abs=0.012)


def test_mmd_of_paired_sets_takes_pairs_of_different_patients():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(25, 3))
    y = x + 0.3 * rng.normal(size=(25, 3)) + 0.5
    k = [[s.gaussian_kernel(a, b, 2.0) for b in (x, y)] for a in (x, y)]
    pairs = [(i, j) for i in range(25) for j in range(25) if i != j]
    by_hand = np.mean([k[0][0][i, j] + k[1][1][i, j] - k[0][1][i, j] - k[0][1][j, i] for i, j in pairs])
    estimate = s.bootstrap_mmd2(x, y, 2.0)
    assert estimate.value == pytest.approx(by_hand, abs=1e-12)
    assert estimate.low < estimate.value < estimate.high
    same = s.bootstrap_mmd2(x, x, 2.0)
    assert (same.value, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_bootstrapped_mmd_of_equal_distributions_stays_round_zero():
    """Counting copies of a row within a resample would push all of them above it."""
    rng = np.random.default_rng(13)
    found = [s.bootstrap_mmd2(rng.normal(size=(20, 3)), rng.normal(size=(20, 3)), 2.0) for _ in range(40)]
    assert abs(np.mean([e.value for e in found])) < 0.01
    assert np.mean([e.low <= 0 <= e.high for e in found]) > 0.7


def test_frechet_of_normals_has_its_closed_form():
    rng = np.random.default_rng(11)
    x, y = rng.normal(0, 1, (4000, 2)), rng.normal([0.5, -1.0], [2.0, 1.0], (4000, 2))
    expected = ((0.5**2 + 1.0**2) + (2.0 - 1.0) ** 2) / 2
    assert s.marginal_frechet(x, y) == pytest.approx(expected, rel=0.05)
    assert s.marginal_frechet(x, x) == 0.0
    assert s.bootstrap_frechet(x[:30], y[:30]).value == pytest.approx(s.marginal_frechet(x[:30], y[:30]))


def test_wasserstein_of_histograms_is_that_of_scipy():
    rng = np.random.default_rng(12)
    a, b = rng.integers(0, 50, 70).astype(float), rng.integers(0, 50, 70).astype(float)
    middles = np.arange(70) * 20.0
    assert float(s.wasserstein_of_histograms(a, b, 20.0)) == pytest.approx(
        stats.wasserstein_distance(middles, middles, a, b)
    )
    shifted = np.roll(np.r_[a[:60], np.zeros(10)], 3)
    assert float(s.wasserstein_of_histograms(np.r_[a[:60], np.zeros(10)], shifted, 20.0)) == pytest.approx(60.0)


def test_l1_of_histograms_knows_its_ends():
    assert s.l1_of_histograms(np.array([1.0, 2.0]), np.array([10.0, 20.0])) == pytest.approx(0.0)
    assert s.l1_of_histograms(np.array([1.0, 0.0]), np.array([0.0, 5.0])) == 2.0
    assert np.isnan(s.l1_of_histograms(np.zeros(2), np.ones(2)))


def test_bandwidth_is_the_median_distance():
    assert s.median_distance(np.array([[0.0], [1.0], [4.0]])) == 3.0
