"""Agreement, intraclass correlations and repeatability, against published coefficients."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.statistics import agreement
from SynthDiffusionLib.reader_study.statistics.icc import icc
from SynthDiffusionLib.reader_study.statistics.repeatability import repeatability

# Fleiss 1971: 30 subjects, 6 psychiatrists, 5 diagnoses (irr's `diagnoses`).
_ROWS = (
    "444444 222555 233335 555555 222444 113333 333355 113334 114444 555555 144444 124444 222333 144444 224445 "
    "333335 111455 111112 224444 133555 555555 244444 224555 114444 144445 222224 111155 224444 133333 555555"
)
FLEISS = np.array([[int(c) for c in row] for row in _ROWS.split()], float)
_ = math.nan
# Krippendorff's 4 observers of 12 units.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
).T
# irrCAC's copy (cac.raw4raters) gives the single rating of the last unit to the third rater. Only Conger's kappa, which
# knows the raters, sees the difference.
IRRCAC = KRIPPENDORFF.copy()
IRRCAC[11] = [_, _, 3, _]
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)


def test_fleiss_1971():
    k = agreement.fleiss_kappa(FLEISS)
    assert (round(k.value, 7), round(k.z, 5)) == (0.4302445, 17.65183)
    assert (round(k.observed, 6), round(k.expected, 6)) == (0.555556, 0.219938)
    assert round(k.value / k.z, 7) == 0.0243739
    statsmodels = pytest.importorskip("statsmodels.stats.inter_rater")
    counts = (FLEISS[:, :, None] == np.arange(1, 6)).sum(1)
    assert k.value == pytest.approx(statsmodels.fleiss_kappa(counts), abs=1e-14)


def test_first_fifteen_subjects_against_irrcac():
    """irrCAC's distrib.6raters. Its alpha for such counts has a standard error (.08243228) in which chance agreement
    moves once rather than twice per unit; that of its raw ratings, which is used here, differs by 1.5 %."""
    part = FLEISS[:15]
    for coefficient, value, se in (
        (agreement.fleiss_kappa(part), 0.4139265, 0.08119291),
        (agreement.gwet_ac1(part), 0.4448007, 0.08418757),
        (agreement.brennan_prediger(part), 0.4388889, 0.08312142),
    ):
        assert (round(coefficient.value, 7), round(coefficient.se, 8)) == (value, se), coefficient.name
    alpha = agreement.krippendorff_alpha(part)
    assert round(alpha.value, 7) == 0.4204384 and alpha.se == pytest.approx(0.08243228, rel=0.02)


def test_gwet_with_missing_values():
    """irrCAC's README (R)."""
    for coefficient, value, se in (
        (agreement.gwet_ac1(IRRCAC), 0.77544, 0.14295),
        (agreement.fleiss_kappa(IRRCAC), 0.76117, 0.15302),
        (agreement.conger_kappa(IRRCAC), 0.76282, 0.14917),
        (agreement.brennan_prediger(IRRCAC), 0.77273, 0.14472),
        (agreement.krippendorff_alpha(IRRCAC), 0.74342, 0.14548),
    ):
        assert (round(coefficient.value, 5), round(coefficient.se, 5)) == (value, se), coefficient.name
    ac1 = agreement.gwet_ac1(IRRCAC)
    assert (round(ac1.low, 3), ac1.high, round(ac1.observed, 7)) == (0.461, 1.0, 0.8181818)
    assert round(agreement.conger_kappa(KRIPPENDORFF).value, 5) == 0.76207  # what Python's irrCAC has


def test_krippendorff_levels():
    """The package `krippendorff` 0.9.0."""
    expected = {"nominal": 0.743421, "ordinal": 0.815388, "interval": 0.849107, "ratio": 0.797403}
    for level, value in expected.items():
        alpha = agreement.krippendorff_alpha(KRIPPENDORFF, level)
        assert round(alpha.value, 6) == value
        assert alpha.low < alpha.value < alpha.high <= 1.0 and alpha.units == 11


def test_standard_errors_against_the_jackknife():
    """Leaving out one unit at a time, which knows nothing of the formulae."""
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 3, 150)
    ratings = np.where(rng.random((150, 4)) < 0.6, truth[:, None], rng.integers(0, 3, (150, 4))).astype(float)
    ratings[rng.random(ratings.shape) < 0.1] = np.nan
    for function in (
        agreement.fleiss_kappa,
        agreement.gwet_ac1,
        agreement.brennan_prediger,
        agreement.conger_kappa,
        agreement.krippendorff_alpha,
    ):
        left = np.array([function(np.delete(ratings, i, 0)).value for i in range(150)])
        jackknife = math.sqrt(149 / 150 * ((left - left.mean()) ** 2).sum())
        assert function(ratings).se == pytest.approx(jackknife, rel=0.03), function.__name__
    # The bootstrap, where only it is used, on data with two values: there all levels are the same coefficient.
    binary = np.where(np.isnan(ratings), np.nan, ratings > 0)
    analytic, bootstrap = agreement.krippendorff_alpha(binary), agreement.krippendorff_alpha(binary, "interval")
    assert bootstrap.value == pytest.approx(analytic.value, abs=1e-12)
    assert bootstrap.se == pytest.approx(analytic.se, rel=0.07)


def test_two_raters_interval_alpha_is_known():
    """Two raters, nothing missing: 1 less half the mean squared difference over the variance of all values."""
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(30, 1)) + 0.5 * rng.normal(size=(30, 2))
    pooled = pairs.ravel()
    expected = 1 - ((pairs[:, 0] - pairs[:, 1]) ** 2).mean() / (2 * pooled.var(ddof=1))
    assert agreement.krippendorff_alpha(pairs, "interval", resamples=10).value == pytest.approx(expected, abs=1e-12)


def test_randolph():
    """[[7, 1], [3, 5]] as a table of two raters is 0.214286 free, 0.161905 fixed (statsmodels' documentation)."""
    statsmodels = pytest.importorskip("statsmodels.stats.inter_rater")
    table = np.array([[7, 1], [3, 5]])
    free, fixed = statsmodels.fleiss_kappa(table, "randolph"), statsmodels.fleiss_kappa(table, "fleiss")
    assert (round(free, 6), round(fixed, 6)) == (0.214286, 0.161905)
    units = np.array([[0] * 7 + [1], [0] * 3 + [1] * 5], float)
    assert agreement.randolph_kappa(units).value == pytest.approx(free, abs=1e-12)
    assert agreement.fleiss_kappa(units).value == pytest.approx(fixed, abs=1e-12)


def test_weighted_cohen():
    """R irr's kappa2 on `anxiety`, raters 2 and 3, from statsmodels' own test data."""
    data = pytest.importorskip("statsmodels.stats.tests.test_inter_rater")
    ratings = np.asarray(data.anxiety, float)
    second, third = ratings[:, 1], ratings[:, 2]
    for weights, value in ((None, -0.006289308), ("linear", 0.1459075), ("squared", 0.2520325)):
        found = agreement.cohen_kappa(second, third, weights)
        assert found.value == pytest.approx(value, abs=5.1e-8 if weights else 5.1e-10)
        assert found.value == pytest.approx((found.observed - found.expected) / (1 - found.expected), abs=1e-12)


def test_undefined_agreement_is_said():
    same = np.ones((8, 3))
    for function in (agreement.fleiss_kappa, agreement.gwet_ac1, agreement.conger_kappa, agreement.krippendorff_alpha):
        found = function(same)
        assert math.isnan(found.value) and found.interval.startswith("none")
    assert agreement.gwet_ac1(same, categories=[1, 2]).value == 1.0
    for wrong, message in (
        (np.ones((3, 1)), "no agreement"),
        (np.array([[1.0, _], [_, 2.0]]), "No unit"),
    ):
        with pytest.raises(BadInput, match=message):
            agreement.fleiss_kappa(wrong)
    with pytest.raises(BadInput, match="not among"):
        agreement.gwet_ac1(FLEISS, categories=[1, 2])
    with pytest.raises(BadInput, match="ratio"):
        agreement.krippendorff_alpha(-KRIPPENDORFF, "ratio")
    assert len(agreement.agreement_table(FLEISS)) == 5


def test_shrout_and_fleiss():
    found = icc(SHROUT_FLEISS)
    expected = {
        "ICC(1,1)": 0.165742, "ICC(2,1)": 0.289764, "ICC(3,1)": 0.714841,
        "ICC(1,k)": 0.442797, "ICC(2,k)": 0.620051, "ICC(3,k)": 0.909316,
    }  # fmt: skip
    assert {f.name: round(f.value, 6) for f in found.forms} == expected
    assert [round(v, 4) for v in (found.bms, found.wms, found.jms, found.ems)] == [11.2417, 6.2639, 32.4861, 1.0194]
    # Intervals as the documentation of R's psych prints them.
    for name, low, high in (
        ("ICC(1,1)", -0.133, 0.72), ("ICC(2,1)", 0.019, 0.76), ("ICC(3,1)", 0.342, 0.95),
        ("ICC(1,k)", -0.884, 0.91), ("ICC(2,k)", 0.071, 0.93), ("ICC(3,k)", 0.676, 0.99),
    ):  # fmt: skip
        form = found.form(name)
        assert (round(form.low, 3), round(form.high, 2)) == (low, high), name


def test_icc_intervals_cover():
    """ICC(2,1) of a two-way random model, true value 0.5: 95 % +- 2 % of 1,000."""
    rng, held = np.random.default_rng(2026), 0
    for _study in range(1000):
        rater, rest = 0.2**0.5 * rng.normal(size=(1, 8)), 0.8**0.5 * rng.normal(size=(40, 8))
        form = icc(rng.normal(size=(40, 1)) + rater + rest).form("ICC(2,1)")
        held += form.low <= 0.5 <= form.high
    assert 0.93 <= held / 1000 <= 0.97
    for wrong in (np.ones((1, 3)), np.array([[1.0, _], [2.0, 3.0]])):
        with pytest.raises(BadInput):
            icc(wrong)


def test_repeatability():
    pytest.importorskip("statsmodels")
    first = np.array([0, 1, 2, 3, 4, 5, 2, 2, 3, 1, 4, 0], float)
    second = first.copy()
    second[0], second[5] = 1, 4
    found = repeatability(first, second, "ordinal", "R1")
    assert (found.pairs, found.agreement, found.bias) == (12, 10 / 12, 0.0)
    assert found.kappa.value == pytest.approx(agreement.cohen_kappa(first, second, "squared").value)
    assert found.icc.value == pytest.approx(icc(np.stack([first, second], 1)).form("ICC(2,1)").value)
    assert found.within_sd == pytest.approx(math.sqrt((2 / 12) / 2))
    assert found.repeatability_coefficient == pytest.approx(2.77 * found.within_sd, rel=1e-3)
    few = repeatability([1, 1, _], [1, 1, 2], "nominal")
    assert few.pairs == 2 and math.isnan(few.kappa.value) and len(few.notes) == 2
    with pytest.raises(BadInput, match="read twice"):
        repeatability([1.0], [_], "nominal")


def test_an_interval_that_ends_at_the_least_possible_correlation_is_given_without_a_crash():
    """ICC(2,1) can have -1 / (k - 1) for a lower bound, where Spearman and Brown's formula divides by nothing."""
    form = icc(np.array([[3.0, 3.0], [1.0, 4.0]]), 0.95).form("ICC(2,k)")
    assert form.low == -np.inf and form.high <= 1.0
    rng = np.random.default_rng(0)
    for _ in range(2000):
        for found in icc(rng.integers(1, 5, (2, 2)).astype(float), 0.95).forms:
            assert not found.low > found.high
