"""Proportions, detection, power, and sizes, against published or independent numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.statistics import detection, power, proportions
from SynthDiffusionLib.reader_study.statistics.results import equivalence_t
from SynthDiffusionLib.reports.sections import holm


def rounded(values, digits: int) -> list[float]:
    return [round(float(v), digits) for v in values]


def test_published_proportions():
    assert rounded(proportions.clopper_pearson(5, 25), 3) == [0.068, 0.407]  # Conover
    assert rounded(proportions.clopper_pearson(5, 25), 5) == [0.06831, 0.40704]
    assert rounded(proportions.wilson(470, 768), 5) == [0.57704, 0.64580]  # Biomedicines 2025
    found = proportions.exact_test(682, 925, 0.75)
    assert (round(found.p, 7), *rounded((found.low, found.high), 6)) == (0.3824916, 0.707668, 0.765407)
    # The examples of Newcombe 1998.
    for k, n, score, exact in (
        (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20, (0.0, 0.1611), (0.0, 0.1684)),
        (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
    ):
        assert tuple(rounded(proportions.wilson(k, n), 4)) == score
        assert tuple(rounded(proportions.clopper_pearson(k, n), 4)) == exact
    barr = proportions.exact_test(116, 400, 0.25)  # 4 alternatives, arXiv 2510.22166
    assert (round(barr.p, 4), *rounded((barr.low, barr.high), 4)) == (0.0732, 0.2460, 0.3372)


def test_park_2021_pooled_counts():
    """The published p-values (.29, .36) do not follow from the published counts; these do."""
    from scipy.stats import chi2_contingency

    assert round(proportions.exact_test(779, 1500).p, 3) == 0.141
    assert round(chi2_contingency([[696, 504], [726, 474], [359, 241]], correction=False).pvalue, 3) == 0.444


def test_residents_and_seniors():
    from scipy.stats import chi2_contingency

    found = chi2_contingency([[269, 432 - 269], [201, 336 - 201]])
    assert (round(found.statistic, 4), round(found.pvalue, 4)) == (0.3791, 0.5381)


def test_exact_equivalence():
    statsmodels = pytest.importorskip("statsmodels.stats.proportion")
    for k, n, margin in ((107, 214, 0.1), (120, 214, 0.1), (12, 24, 0.2), (60, 96, 0.15)):
        found = proportions.tost_exact(k, n, 0.5, margin)
        p, lower, upper = statsmodels.binom_tost(k, n, 0.5 - margin, 0.5 + margin)
        assert (found.p, found.p_lower, found.p_upper) == (pytest.approx(p), pytest.approx(lower), pytest.approx(upper))
        inside = found.lower < found.low and found.high < found.upper
        assert found.equivalent == inside, "the interval at 1 - 2 alpha decides the same"
    assert not proportions.tost_exact(12, 24, 0.5, 0.1).equivalent, "p = 1 against chance, and yet no equivalence"
    assert proportions.exact_test(12, 24).p == 1.0


def test_equivalence_of_an_estimate():
    found = equivalence_t(0.02, 0.03, math.inf, -0.1, 0.1)
    assert found.equivalent and (found.low, found.high) == (
        pytest.approx(-0.02934, abs=1e-4),
        pytest.approx(0.06934, abs=1e-4),
    )
    certain = equivalence_t(0.0, 0.0, 5.0, -0.1, 0.1)
    assert not certain.equivalent and certain.p == 1.0, "no variance is no proof"
    assert json.loads(json.dumps(certain.to_json()))["low"] is None


def test_holm():
    """Barr 2025: Wilcoxon .128 .236 1.000, Holm .383 .471 1.000 (to the rounding of the published p-values)."""
    np.testing.assert_allclose(holm([0.128, 0.236, 1.0]), [0.383, 0.471, 1.0], atol=2e-3)
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    p = np.random.default_rng(0).random(20) ** 3
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], atol=1e-14)
    with_gap = holm([0.01, math.nan, 0.03])
    np.testing.assert_allclose(with_gap, [0.02, math.nan, 0.03])


def test_paired_proportions():
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    rng = np.random.default_rng(5)
    x = (rng.random((60, 4)) < [0.5, 0.6, 0.7, 0.55]).astype(int)
    expected = tables.cochrans_q(x)
    found = proportions.cochran_q(x)
    assert (found.statistic, found.p, found.df) == (
        pytest.approx(expected.statistic),
        pytest.approx(expected.pvalue),
        3,
    )
    cells = [[((x[:, 0] == i) & (x[:, 1] == j)).sum() for j in (0, 1)] for i in (0, 1)]
    assert proportions.mcnemar(x[:, 0], x[:, 1]).p == pytest.approx(tables.mcnemar(cells, exact=True).pvalue)
    assert proportions.mcnemar([1, 0], [1, 0]).p == 1.0 and proportions.cochran_q([[1, 1], [0, 0]]).p == 1.0


def test_impossible_proportions_are_refused():
    for wrong in (
        lambda: proportions.exact_test(3, 2),
        lambda: proportions.exact_test(1, 0),
        lambda: proportions.exact_test(1, 2, 1.5),
        lambda: proportions.exact_test(1, 2, confidence=95),
        lambda: proportions.tost_exact(1, 2, 0.5, 0.6),
        lambda: proportions.tost_exact(1, 2, 0.5, 0.0),
        lambda: proportions.mcnemar([1, 2], [1, 1]),
        lambda: proportions.mcnemar([1, 0], [1]),
        lambda: proportions.cochran_q([[1], [0]]),
    ):
        with pytest.raises(BadInput) as error:
            wrong()
        assert error.value.hint


def test_published_detection():
    """STAT's dprime manual (1985), Google-Health's test, and psyphy (Green and Dai)."""
    d, _, beta = detection.d_prime_from_rates(0.7, 0.4)
    assert (round(d, 2), round(beta, 2)) == (0.78, 0.90) and (round(d, 5), round(beta, 5)) == (0.77775, 0.89996)
    for proportion, expected in ((0.76025, 1.0), (0.5, 0.0), (0.23975, -1.0)):
        assert detection.d_prime_of_proportion(proportion) == pytest.approx(expected, abs=1e-5)
    assert round(detection.d_prime_of_proportion(0.8, 4), 5) == 1.89317
    assert round(detection.d_prime_of_proportion(0.29, 4), 5) == 0.14966


def test_integral_of_two_alternatives_is_the_closed_form():
    from scipy.stats import norm

    for d in (-1.3, 0.0, 0.4, 2.5):
        assert detection.proportion_correct_mafc(d, 2) == pytest.approx(norm.cdf(d / math.sqrt(2)), abs=1e-10)
    assert detection.proportion_correct_mafc(0.0, 5) == pytest.approx(0.2, abs=1e-10)
    for d in (0.3, 1.7):
        assert detection.d_prime_of_proportion(detection.proportion_correct_mafc(d, 4), 4) == pytest.approx(d, abs=1e-8)


def test_correction_and_extremes():
    plain = detection.d_prime_yes_no(35, 50, 20, 50, correction="none")
    assert plain.d_prime == pytest.approx(0.77775, abs=1e-5) and plain.correction == "none"
    corrected = detection.d_prime_yes_no(50, 50, 0, 50)
    assert corrected.hit_rate == 50.5 / 51 and corrected.false_alarm_rate == 0.5 / 51
    assert math.isfinite(corrected.d_prime) and corrected.criterion == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(BadInput, match="no finite d'") as error:
        detection.d_prime_yes_no(50, 50, 0, 50, correction="none")
    assert "loglinear" in error.value.hint
    assert detection.d_prime_2afc(5, 10).proportion == 5.5 / 11
    assert detection.d_prime_mafc(0, 12, 4).proportion == 0.25 / 13
    biased = detection.d_prime_yes_no(45, 50, 40, 50)
    assert biased.criterion < 0 < biased.d_prime and biased.beta < 1


def test_standard_errors_of_d_prime():
    """Against the spread over simulated readers (no formula in common), within 4 %; intervals cover."""
    rng = np.random.default_rng(8)
    hits, alarms = rng.binomial(200, 0.75, 3000), rng.binomial(150, 0.35, 3000)
    found = [detection.d_prime_yes_no(h, 200, f, 150) for h, f in zip(hits, alarms)]
    assert np.std([f.d_prime for f in found]) == pytest.approx(np.mean([f.se for f in found]), rel=0.04)
    assert np.std([f.criterion for f in found]) == pytest.approx(np.mean([f.criterion_se for f in found]), rel=0.04)
    true = detection.d_prime_from_rates(0.75, 0.35)[0]
    assert 0.93 < np.mean([f.low <= true <= f.high for f in found]) < 0.97
    for m in (2, 4):
        true = 0.9
        right = rng.binomial(200, detection.proportion_correct_mafc(true, m), 300)
        found = [detection.d_prime_mafc(k, 200, m) for k in right]
        assert np.std([f.d_prime for f in found]) == pytest.approx(np.mean([f.se for f in found]), rel=0.1)
    mean, low, high = detection.mean_d_prime(np.array([0.2, 0.4, 0.9]))
    assert (round(mean, 6), round(high - mean, 4)) == (0.5, round(4.302653 * 0.3605551 / math.sqrt(3), 4))
    assert low < 0 < mean


def test_sizes_of_exact_tests():
    """80 % power at 5 %, and at the next 11 sizes: two-sided exact test of .5; TOST: the first size with 80 %."""
    for true, n in ((0.55, 820), (0.60, 210), (0.65, 97), (0.70, 54), (0.75, 35)):
        size = power.binomial_size(true)
        assert size.trials == n and size.power == pytest.approx(power.binomial_power(n, true))
        assert all(power.binomial_power(n + i, true) >= 0.8 for i in range(12))
        assert min(power.binomial_power(n - i, true) for i in range(1, 12)) < 0.8
    for margin, n in ((0.05, 861), (0.10, 214), (0.15, 96)):
        assert power.tost_size(margin, stay=0).trials == n
        held = power.tost_size(margin).trials
        assert held > n and all(power.tost_power(held + i, margin=margin) >= 0.8 for i in range(12))


def test_power_against_the_tests_themselves():
    from scipy.stats import binom, binomtest

    n, true = 37, 0.68
    rejected = [binomtest(k, n, 0.5).pvalue <= 0.05 for k in range(n + 1)]
    assert power.binomial_power(n, true) == pytest.approx(binom.pmf(np.flatnonzero(rejected), n, true).sum())
    rejected = [binomtest(k, n, 0.25).pvalue <= 0.05 for k in range(n + 1)]  # not symmetrical
    assert power.binomial_power(n, true, 0.25) == pytest.approx(binom.pmf(np.flatnonzero(rejected), n, true).sum())
    equivalent = [proportions.tost_exact(k, 120, 0.5, 0.15).equivalent for k in range(121)]
    expected = binom.pmf(np.flatnonzero(equivalent), 120, 0.52).sum()
    assert power.tost_power(120, 0.52, margin=0.15) == pytest.approx(expected)
    statsmodels = pytest.importorskip("statsmodels.stats.proportion")
    assert power.tost_power(214) == pytest.approx(statsmodels.power_binom_tost(0.4, 0.6, 214))


def test_sizes_that_cannot_be_are_refused():
    for wrong in (
        lambda: power.binomial_size(0.5),
        lambda: power.binomial_size(0.5001),
        lambda: power.binomial_size(1.0),
        lambda: power.tost_size(0.05, true=0.56),
        lambda: power.tost_size(0.6),
        lambda: power.mrmc_power(power.PilotComponents(0.0, 0.0, 0.0, 0.0, 0.0, 50), 0.1, 5, 50),
    ):
        with pytest.raises(BadInput) as error:
            wrong()
        assert error.value.hint
    assert power.design_effect(3, 0.25) == 1.5


def test_power_of_one_arm_by_simulation():
    """What is planned from components that are known is what studies of that kind find (Hillis's form), within 6 %."""
    from SynthDiffusionLib.reader_study.statistics import roe_metz
    from SynthDiffusionLib.reader_study.statistics.single_arm import single_arm

    variances, rng = roe_metz.structure("HL", 0.75), np.random.default_rng(11)
    design = roe_metz.Design(5, 40, 40, (0.4,), variances)
    studies = [
        single_arm(x[0], t, floor=False, scale="identity")
        for x, t in (roe_metz.simulate(design, rng) for _ in range(500))
    ]
    var_r, error, cov2 = (float(np.mean([getattr(s, k) for s in studies])) for k in ("var_r", "error", "cov2"))
    effect = roe_metz.true_figure(design) - 0.5
    planned = power.single_arm_power(var_r, error, cov2, 80, effect, 5, 80).power
    assert np.mean([s.p < 0.05 for s in studies]) == pytest.approx(planned, abs=0.06)
    assert power.single_arm_power(var_r, error, cov2, 80, effect, 5, 200).power > planned
