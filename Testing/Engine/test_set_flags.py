"""Flag rates and tests where patients have several volumes, by simulation; probable doubles of training cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from SynthDiffusionLib.evaluation.sets.flags import (
    combined,
    flag_figures,
    flags_needed,
    patient_shares,
    place_tests,
    places_of,
    share_interval,
)
from SynthDiffusionLib.evaluation.sets.leaks import leak_limit
from SynthDiffusionLib.evaluation.sets.thresholds import clopper_pearson, threshold_of


def correlated(rng: np.random.Generator, patients: int, each: int, within: float) -> np.ndarray:
    """Uniform numbers (patients, each), with that correlation of their normal scores within a patient."""
    own, shared = rng.standard_normal((patients, each)), rng.standard_normal((patients, 1))
    return stats.norm.cdf(np.sqrt(within) * shared + np.sqrt(1 - within) * own)


@pytest.mark.parametrize("within", [0.0, 0.6, 0.99])
def test_the_level_holds_when_volumes_of_a_patient_hang_together(within):
    """Two searches are corrected afterwards, so the smaller p of them is held against 2.5 %."""
    rng = np.random.default_rng(1)
    names = [f"p{i}" for i in range(12) for _ in range(3)]
    rejected, rates = [], []
    for _ in range(700):
        limit = threshold_of(rng.random(20))
        flagged = (correlated(rng, 12, 3, within) < limit.value).ravel()
        rejected.append(combined(place_tests(flagged, names, limit)) < 0.025)
        rates.append(patient_shares(flagged, names).mean())
    assert np.mean(rejected) <= 0.025 + 0.012  # two standard errors
    assert np.mean(rates) == pytest.approx(limit.expected, abs=4 * np.std(rates) / np.sqrt(len(rates)))


def test_all_volumes_as_if_they_were_of_different_patients_are_no_test():
    """What is easily done instead: 72 volumes of 12 patients as 72 patients."""
    rng = np.random.default_rng(2)
    rejected = []
    for _ in range(700):
        limit = threshold_of(rng.random(20))
        flagged = (correlated(rng, 12, 6, 0.99) < limit.value).ravel()
        tests = place_tests(flagged, [f"v{i}" for i in range(72)], limit)
        rejected.append(combined(tests) < 0.025)
    assert np.mean(rejected) > 0.025 + 3 * np.sqrt(0.025 * 0.975 / 700)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_copies_are_found_at_whichever_place(place):
    """Eight of twelve patients have a copy there; the other volumes are fresh."""
    rng = np.random.default_rng(3)
    names = [f"p{i}" for i in range(12) for _ in range(3)]
    found = []
    for _ in range(60):
        limit = threshold_of(rng.random(20))
        values = correlated(rng, 12, 3, 0.5)
        values[:8, place] = 0.0
        found.append(combined(place_tests((values < limit.value).ravel(), names, limit)) < 0.025)
    assert np.mean(found) == 1.0


def test_a_patient_with_more_volumes_than_others_costs_little():
    names = [*(f"p{i}" for i in range(12)), *["p0"] * 8]
    assert places_of(names).tolist() == [0] * 12 + list(range(1, 9))
    limit = threshold_of(np.arange(1, 21) / 20)
    tests = place_tests([True] * 6 + [False] * 14, names, limit)
    assert [t["patients"] for t in tests] == [12] + [1] * 8
    assert combined(tests) == pytest.approx(tests[0]["p"] * 20 / 12) and combined(tests) < 0.025
    needed = flags_needed(tests, limit.safe_rank, limit.patients, 0.025)
    for hits in (needed - 1, needed):
        flags = [True] * hits + [False] * (20 - hits)
        assert (combined(place_tests(flags, names, limit)) < 0.025) == (hits == needed)


def test_one_volume_a_patient_has_the_exact_interval():
    for hits, patients in ((0, 20), (1, 20), (7, 12), (12, 12)):
        flags, names = [True] * hits + [False] * (patients - hits), [str(i) for i in range(patients)]
        found = flag_figures(flags, names, threshold_of(range(20)), True)
        exact = stats.binomtest(hits, patients).proportion_ci(0.95, method="exact")
        assert (found["low"], found["high"]) == pytest.approx((exact.low, exact.high), abs=1e-9)
        assert found["rate"] == hits / patients and found["patients_flagged"] == hits


@pytest.mark.parametrize("within", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_the_interval_over_patients_covers(within, rate):
    rng = np.random.default_rng(4)
    covered, plain = [], []
    for _ in range(500):
        flagged = correlated(rng, 15, 4, within) < rate
        low, high = share_interval(flagged.mean(1), 60)
        covered.append(low <= rate <= high)
        low, high = clopper_pearson(int(flagged.sum()), 60)
        plain.append(low <= rate <= high)
    assert np.mean(covered) >= 0.95 - 0.02
    if within > 0.9 and rate > 0.2:  # as if the volumes were patients: too narrow
        assert np.mean(plain) < 0.9


@pytest.mark.parametrize("dimensions", [3, 6, 20])
def test_nearest_neighbours_of_one_distribution_are_hardly_ever_taken_for_doubles(dimensions):
    """Points, no images: even where planted copies may lie as far off as they will, Tukey's fence holds."""
    rng = np.random.default_rng(dimensions)
    named = cases = 0
    for _ in range(300):
        points = rng.standard_normal((60, dimensions))
        squared = ((points[:, None] - points[None, :40]) ** 2).sum(-1)
        squared[np.arange(40), np.arange(40)] = np.inf
        nearest = np.sqrt(squared.min(1))
        limit = leak_limit(nearest[:40], [9.0])
        named += int((nearest < limit).sum())
        cases += 60
    assert named <= 0.003 * cases


def test_the_limit_of_doubles_is_not_above_what_planted_copies_reach():
    between = np.linspace(0.4, 0.7, 40)
    assert leak_limit(between, np.linspace(0, 0.1, 101)) == pytest.approx(0.09)
    low, high = np.quantile(between, [0.25, 0.75])
    assert leak_limit(between, [0.9]) == pytest.approx(np.exp(np.log(low) - 3 * np.log(high / low)))
    assert leak_limit([0.0] * 10, [0.1]) <= 1e-9  # all training cases alike: nobody stands out
