"""Obuchowski-Rockette and the figures of merit, against published analyses of the Van Dyke data.

Answers: Iowa OR-DBM 2.51 and RJafroc (jackknife), MRMCaov 0.3.0 (DeLong, unbiased, binormal, sensitivity, nested).
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.statistics import roe_metz
from SynthDiffusionLib.reader_study.statistics.binormal import fit_binormal
from SynthDiffusionLib.reader_study.statistics.figures import COVARIANCES, figures
from SynthDiffusionLib.reader_study.statistics.mrmc import (
    Readings,
    obuchowski_rockette,
    or_partly_paired,
    readings_from_long,
)


@pytest.fixture(scope="module")
def long_rows(shared_data: Path) -> list[dict[str, str]]:
    path = shared_data / "reader_oracles" / "vandyke.csv"
    if not path.is_file():
        pytest.skip(f"the Van Dyke table is not at {path}")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read(rows: list[dict[str, str]], case=lambda row: row["case"]) -> Readings:
    return readings_from_long(
        [r["reader"] for r in rows],
        [r["treatment"] for r in rows],
        [case(r) for r in rows],
        [int(r["truth"]) for r in rows],
        [float(r["rating"]) for r in rows],
    )


@pytest.fixture(scope="module")
def vandyke(long_rows) -> Readings:
    return read(long_rows)


def test_areas_and_mean_squares(vandyke):
    assert vandyke.crossed and vandyke.ratings.shape == (2, 5, 114) and vandyke.truth.sum() == 45
    result = obuchowski_rockette(vandyke.ratings, vandyke.truth)
    first = [r.first_value for r in result.reader_differences]
    second = [r.second_value for r in result.reader_differences]
    np.testing.assert_allclose(first, [0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066], atol=5e-9)
    np.testing.assert_allclose(second, [0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169], atol=5e-9)
    np.testing.assert_allclose([a.value for a in result.arms], [0.89703704, 0.94083736], atol=5e-9)
    c = result.components
    assert (round(c.mst, 9), round(c.mstr, 10), round(c.msr, 7)) == (0.004796171, 0.0005510306, 0.0038362)


def test_delong(vandyke):
    result = obuchowski_rockette(vandyke.ratings, vandyke.truth, covariance="delong")
    c = result.components
    expected = [0.0007921325, 0.0003420090, 0.0003395265, 0.0002358497]
    np.testing.assert_allclose([c.error, c.cov1, c.cov2, c.cov3], expected, atol=5.1e-11)
    assert (round(result.statistic, 6), result.df1, round(result.df2, 5)) == (4.484854, 1, 15.06611)
    assert round(result.p, 8) == 0.05123303
    difference = result.differences[0]
    assert (round(difference.value, 8), round(difference.se, 7)) == (-0.04380032, 0.0206825)
    assert (round(difference.low, 10), round(difference.high, 10)) == (-0.0878671960, 0.0002665519)
    assert difference.p == pytest.approx(result.p, rel=1e-9), "t squared is F for two treatments"


def test_jackknife_which_is_dbm(vandyke):
    result = obuchowski_rockette(vandyke.ratings, vandyke.truth, covariance="jackknife")
    c, difference = result.components, result.differences[0]
    values = [c.var_r, c.var_tr, c.cov1, c.cov2, c.cov3, c.error]
    expected = [0.00153500, 0.00020040, 0.00034661, 0.00034407, 0.00023903, 0.00080229]
    np.testing.assert_allclose(values, expected, atol=5.1e-9)
    assert (round(result.statistic, 6), round(result.df2, 5), round(result.p, 8)) == (4.456319, 15.25967, 0.05166569)
    assert (round(difference.low, 5), round(difference.high, 5)) == (-0.08796, 0.00036)


def test_dbm_of_pseudovalues_gives_the_same_f(vandyke):
    """The three-way ANOVA of jackknife pseudovalues (Dorfman, Berbaum and Metz, as corrected by Hillis 2005)."""
    t, r, n = vandyke.ratings.shape
    full = figures(vandyke.ratings.reshape(t * r, n), vandyke.truth).values
    pseudo = np.empty((t * r, n))
    for c in range(n):
        kept = np.arange(n) != c
        left = figures(vandyke.ratings.reshape(t * r, n)[:, kept], vandyke.truth[kept]).values
        pseudo[:, c] = n * full - (n - 1) * left
    # Moved so that each reading's mean is its figure of merit ("normalised" pseudovalues), as Hillis has it.
    y = (pseudo - pseudo.mean(1, keepdims=True) + full[:, None]).reshape(t, r, n)
    by_t, by_tr, by_tc = y.mean((1, 2)), y.mean(2), y.mean(1)
    ms_t = r * n * ((by_t - y.mean()) ** 2).sum() / (t - 1)
    ms_tr = n * ((by_tr - by_t[:, None] - by_tr.mean(0) + y.mean()) ** 2).sum() / ((t - 1) * (r - 1))
    ms_tc = r * ((by_tc - by_t[:, None] - by_tc.mean(0) + y.mean()) ** 2).sum() / ((t - 1) * (n - 1))
    rest = (
        y - by_tr[:, :, None] - by_tc[:, None, :] - y.mean(0)[None]
        + by_t[:, None, None] + y.mean((0, 2))[None, :, None] + y.mean((0, 1))[None, None, :] - y.mean()
    )  # fmt: skip
    ms_trc = (rest**2).sum() / ((t - 1) * (r - 1) * (n - 1))
    f = ms_t / (ms_tr + max(ms_tc - ms_trc, 0.0))
    result = obuchowski_rockette(vandyke.ratings, vandyke.truth, covariance="jackknife")
    assert f == pytest.approx(result.statistic, rel=1e-9)


def test_fixed_readers_fixed_cases_and_single_readers(vandyke):
    result = obuchowski_rockette(vandyke.ratings, vandyke.truth, covariance="jackknife", readers="fixed")
    assert result.statistic_name == "chi2" and math.isinf(result.df2)
    assert (round(result.statistic, 5), round(result.p, 4)) == (5.47595, 0.0193)
    assert round(result.differences[0].t, 6) == -2.340075
    each = [round(r.p, 4) for r in result.reader_differences]
    assert each == [0.2693, 0.0768, 0.5668, 0.1290, 0.0230]
    fixed = obuchowski_rockette(vandyke.ratings, vandyke.truth, cases="fixed")
    assert (round(fixed.statistic, 3), fixed.df1, fixed.df2, round(fixed.p, 4)) == (8.704, 1, 4.0, 0.0420)


def test_unbiased_and_sensitivity(vandyke):
    result = obuchowski_rockette(vandyke.ratings, vandyke.truth, covariance="unbiased")
    assert round(result.p, 7) == 0.0511618
    for covariance in COVARIANCES:  # of a mean all three are the same
        result = obuchowski_rockette(
            vandyke.ratings, vandyke.truth, figure="sensitivity", threshold=2.5, covariance=covariance
        )
        np.testing.assert_allclose([a.value for a in result.arms], [0.82222222, 0.92], atol=5e-9)
        assert round(result.p, 8) == 0.02008822


def test_binormal(vandyke):
    """Means to all digits. p is .1313633 where MRMCaov has .1313682: for one reader, leaving case 107 out moves b to 0,
    where the area has a limit (42/44) that its search and this one stop short of by .00004 and .00003."""
    result = obuchowski_rockette(vandyke.ratings, vandyke.truth, figure="binormal_auc", covariance="jackknife")
    assert [round(a.value, 7) for a in result.arms] == [0.9109867, 0.9515536]
    assert result.statistic == pytest.approx(2.67666, abs=2e-4)
    assert result.df2 == pytest.approx(10.51789, abs=2e-3)
    assert result.p == pytest.approx(0.1313682, abs=1e-5)


def test_nested_cases(long_rows):
    """Ids that make the cases of each reader, or of each treatment, different ones: what is shared follows from ids."""
    in_readers = read(long_rows, lambda row: (row["reader"], row["case"]))
    in_treatments = read(long_rows, lambda row: (row["treatment"], row["case"]))
    assert not in_readers.crossed and in_treatments.ratings.shape == (2, 5, 228)
    result = or_partly_paired(in_readers.ratings, in_readers.truth, covariance="jackknife")
    assert round(result.p, 8) == 0.04195875 and result.components.cov2 == pytest.approx(0.0, abs=1e-15)
    result = or_partly_paired(in_treatments.ratings, in_treatments.truth, covariance="jackknife")
    assert (round(result.statistic, 6), round(result.df2, 5)) == (2.104491, 68.42325)
    assert round(result.p, 7) == 0.1514363
    assert result.partly_paired and result.components.cov1 == pytest.approx(0.0, abs=1e-15)


def test_power_of_vandyke(vandyke):
    """RJafroc's test-SsSampleSizeRoc.R."""
    from SynthDiffusionLib.reader_study.statistics.power import mrmc_cases, mrmc_power, mrmc_search

    pilot = obuchowski_rockette(vandyke.ratings, vandyke.truth, covariance="jackknife").components
    effect = -0.043800322
    both = mrmc_power(pilot, effect, 10, 165)
    assert (round(both.power, 8), round(both.ncp, 6), round(both.df2, 5)) == (0.80541995, 8.209597, 62.70728)
    assert round(mrmc_power(pilot, effect, 10, 131, readers_model="fixed").power, 8) == 0.80091813
    assert round(mrmc_power(pilot, effect, 10, 53, cases_model="fixed").power, 8) == 0.80496663
    fewest = mrmc_cases(pilot, effect, 10)
    assert fewest.power >= 0.8 > mrmc_power(pilot, effect, 10, fewest.cases - 1).power
    assert mrmc_cases(pilot, effect, 3) is None, "3 readers cannot reach it: readers differ too much"
    designs = mrmc_search(pilot, effect, range(3, 13))
    assert [d.readers for d in designs] == list(range(4, 13))
    assert all(a.cases > b.cases for a, b in zip(designs, designs[1:]))


def test_floor_is_not_reached_by_these_data(vandyke):
    for covariance in COVARIANCES:
        result = obuchowski_rockette(vandyke.ratings, vandyke.truth, covariance=covariance)
        plain = obuchowski_rockette(vandyke.ratings, vandyke.truth, covariance=covariance, floor=False)
        assert (result.p, result.differences) == (plain.p, plain.differences) and not result.notes


def test_crossed_formula_refuses_missing_readings(vandyke):
    ratings = vandyke.ratings.copy()
    ratings[0, 0, 0] = np.nan
    with pytest.raises(BadInput, match="1 readings are missing") as error:
        obuchowski_rockette(ratings, vandyke.truth)
    assert "or_partly_paired" in error.value.hint
    complete = obuchowski_rockette(vandyke.ratings, vandyke.truth)
    same = or_partly_paired(vandyke.ratings, vandyke.truth)
    assert same.p == complete.p and not same.partly_paired
    nearly = or_partly_paired(ratings, vandyke.truth)
    assert nearly.p == pytest.approx(complete.p, abs=0.01) and nearly.p != complete.p


# Without the table ---------------------------------------------------------------------------------------------------


def study(seed: int = 1, **extra) -> tuple[np.ndarray, np.ndarray]:
    variances = roe_metz.structure("HL", 0.75)
    cuts = roe_metz.rating_thresholds(6, 0.75, variances)
    design = roe_metz.Design(4, 14, 12, (0.75, 1.0), variances, cuts, 0.3, **extra)
    return roe_metz.simulate(design, np.random.default_rng(seed))


def test_unbiased_auc_covariance_by_counting_all_quadruples():
    x, truth = study()
    a, b = x[0, 0], x[1, 2]
    positive, negative = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)

    def kernel(v, i, j):
        return float(v[i] > v[j]) + 0.5 * float(v[i] == v[j])

    products = [
        kernel(a, i, j) * kernel(b, k, m)
        for i in positive for j in negative for k in positive for m in negative
        if i != k and j != m
    ]  # fmt: skip
    found = figures(np.stack([a, b]), truth, covariance="unbiased")
    expected = found.values[0] * found.values[1] - float(np.mean(products))
    assert found.covariance[0, 1] == pytest.approx(expected, abs=1e-12)


def test_jackknife_by_leaving_out():
    x, truth = study()
    rows = x.reshape(8, -1)
    clusters = np.arange(len(truth)) // 2
    for figure, threshold in (("auc", None), ("mean_difference", None), ("sensitivity", 2.5)):
        found = figures(rows, truth, figure, "jackknife", threshold, clusters).covariance
        kept = [clusters != c for c in range(13)]
        left = np.array([figures(rows[:, k], truth[k], figure, "delong", threshold).values for k in kept])
        used = [c for c in range(13) if figure != "sensitivity" or (truth[clusters == c] == 1).any()]
        left = left[used] - left[used].mean(0)
        np.testing.assert_allclose(found, (len(used) - 1) / len(used) * left.T @ left, atol=1e-13)


def test_covariances_of_means_are_the_sample_covariance():
    x, truth = study()
    rows = x.reshape(8, -1)
    synthetic, real = rows[:, truth == 1], rows[:, truth == 0]
    expected = np.cov(synthetic) / synthetic.shape[1] + np.cov(real) / real.shape[1]
    for covariance in ("delong", "unbiased"):
        found = figures(rows, truth, "mean_difference", covariance)
        np.testing.assert_allclose(found.covariance, expected, atol=1e-12)
    calls = (rows > 2.5) == truth
    share = truth.mean()
    found = figures(rows, truth, "accuracy", "delong", 2.5)
    np.testing.assert_allclose(found.values, calls.mean(1), atol=1e-12)
    hits, rejections = calls[:, truth == 1].astype(float), calls[:, truth == 0].astype(float)
    expected = share**2 * np.cov(hits) / hits.shape[1] + (1 - share) ** 2 * np.cov(rejections) / rejections.shape[1]
    np.testing.assert_allclose(found.covariance, expected, atol=1e-12)


def test_clusters_change_the_variance_as_they_should():
    """Every case twice, as a cluster: the variance must be that of the single cases, not half of it."""
    x, truth = study()
    rows = x.reshape(8, -1)
    twice, truth2, clusters = np.repeat(rows, 2, axis=1), np.repeat(truth, 2), np.repeat(np.arange(len(truth)), 2)
    single, naive = figures(rows, truth), figures(twice, truth2)
    by_cluster = figures(twice, truth2, clusters=clusters)
    np.testing.assert_allclose(by_cluster.covariance, single.covariance, atol=1e-12)
    assert np.trace(naive.covariance) < 0.55 * np.trace(single.covariance)
    jackknife = figures(twice, truth2, covariance="jackknife", clusters=clusters)
    alone = figures(rows, truth, covariance="jackknife")
    np.testing.assert_allclose(jackknife.covariance, alone.covariance, atol=1e-12)
    own = figures(rows, truth, clusters=[f"case {i}" for i in range(len(truth))])
    np.testing.assert_allclose(own.covariance, single.covariance, atol=1e-15)


def test_positively_related_pairs_make_the_area_more_certain():
    """Real and synthetic of a pair that covary: their difference varies less, by cluster and by jackknife alike."""
    rng = np.random.default_rng(3)
    pair = rng.normal(size=200)
    ratings = np.concatenate([pair + 0.5 * rng.normal(size=200), pair + 0.5 * rng.normal(size=200) + 0.3])[None]
    truth, clusters = np.repeat([0, 1], 200), np.tile(np.arange(200), 2)
    plain = figures(ratings, truth).covariance[0, 0]
    paired = figures(ratings, truth, clusters=clusters).covariance[0, 0]
    jackknife = figures(ratings, truth, covariance="jackknife", clusters=clusters).covariance[0, 0]
    assert paired < 0.6 * plain and jackknife == pytest.approx(paired, rel=0.02)


def test_partly_paired_covariances_follow_what_is_shared():
    x, truth = study(shared_real=True, paired_synthetic=False)
    spread, spread_truth = roe_metz.spread(x, truth)
    for covariance in COVARIANCES:
        apart = or_partly_paired(spread, spread_truth, covariance=covariance).components
        # Only the real cases are shared, so their part of the covariance is all there is.
        real_only = figures(spread.reshape(8, -1), spread_truth, covariance=covariance).covariance.reshape(2, 4, 2, 4)
        assert apart.cov1 == pytest.approx(np.mean([real_only[0, j, 1, j] for j in range(4)]), abs=1e-12)
    rows, n0 = x.reshape(8, -1), int((truth == 0).sum())
    placement = np.array([
        [(np.sign(row[truth == 1] - row[j]) / 2 + 0.5).mean() for j in range(n0)] for row in rows
    ])  # fmt: skip
    expected = np.cov(placement) / n0
    found = figures(spread.reshape(8, -1), spread_truth).covariance
    np.testing.assert_allclose(found[:4, 4:], expected[:4, 4:], atol=1e-12)


def test_partly_paired_keeps_its_level():
    """Simulated: two equal generators, shared real cases, own synthetic ones. 400 studies: 5 % +- 3.3 %."""
    variances = roe_metz.structure("HL", 0.75)
    design = roe_metz.Design(5, 30, 30, (0.75, 0.75), variances, shared_real=True, paired_synthetic=False)
    rng, hits, ignoring = np.random.default_rng(20), 0, 0
    for _ in range(400):
        x, truth = roe_metz.simulate(design, rng)
        hits += or_partly_paired(*roe_metz.spread(x, truth)).p < 0.05
        nested = np.full((2, 5, 120), np.nan)
        nested[0, :, :60], nested[1, :, 60:] = x
        ignoring += or_partly_paired(nested, np.tile(truth, 2)).p < 0.05
    assert 0.017 <= hits / 400 <= 0.083
    assert ignoring < hits, "taking shared cases as different wastes what they tell"


def test_floor_of_mstr():
    """At MSTR = 0 the floor gives the test for fixed readers; a note tells of it and of Hillis's p."""
    x, truth = study()
    one = np.repeat(x[:, :1], 4, axis=1) + np.arange(4)[None, :, None]  # four readers of one mind: no interaction
    random = obuchowski_rockette(one, truth)
    fixed = obuchowski_rockette(one, truth, readers="fixed")
    assert random.components.mstr == pytest.approx(0.0, abs=1e-20)
    assert random.differences[0].se == pytest.approx(fixed.differences[0].se)
    raised = 0
    for seed in range(40):
        x, truth = study(seed)
        result, plain = (obuchowski_rockette(x, truth, floor=floor) for floor in (True, False))
        if any("was raised" in note for note in result.notes):
            raised += 1
            assert result.p > plain.p and result.differences[0].se > plain.differences[0].se
            low, high = plain.differences[0].low, plain.differences[0].high
            assert f"p would be {plain.p:.3g} and the interval {low:.3g} to {high:.3g}" in " ".join(result.notes)
        else:
            assert result.p == plain.p
    assert 5 < raised < 35


def test_level_with_three_readers_who_differ():
    """500 studies: 5 % +- 3 % with the floor; without it more."""
    variances = roe_metz.structure("LH", 0.75)
    design = roe_metz.Design(3, 24, 24, (0.75, 0.75), variances)
    rng, hits, plain = np.random.default_rng(5), 0, 0
    for _ in range(500):
        x, truth = roe_metz.simulate(design, rng)
        hits += obuchowski_rockette(x, truth).p < 0.05
        plain += obuchowski_rockette(x, truth, floor=False).p < 0.05
    assert 0.02 <= hits / 500 <= 0.08 and plain > hits


def test_three_arms_and_equivalence():
    variances = roe_metz.structure("HL", 0.75)
    design = roe_metz.Design(5, 40, 40, (0.75, 0.75, 2.5), variances)
    x, truth = roe_metz.simulate(design, np.random.default_rng(6))
    result = obuchowski_rockette(x, truth, margin=0.15, treatment_names=["a", "b", "c"])
    assert (result.df1, result.p < 1e-3, len(result.differences)) == (2, True, 3)
    by_pair = {(d.first, d.second): d for d in result.differences}
    assert all(d.p_holm >= d.p for d in result.differences)
    assert by_pair["a", "b"].equivalence.equivalent == (by_pair["a", "b"].equivalence.p < 0.05)
    assert not by_pair["a", "c"].equivalence.equivalent
    assert set(result.to_json()) >= {"p", "components", "differences"}


def test_misuse_is_refused():
    x, truth = study()
    for wrong, message in (
        (lambda: obuchowski_rockette(x[0], truth), "do not compare treatments"),
        (lambda: obuchowski_rockette(x[:1], truth), "do not compare treatments"),
        (lambda: obuchowski_rockette(x[:, :1], truth), "One reader"),
        (lambda: obuchowski_rockette(x, truth, readers="fixed", cases="fixed"), "both fixed"),
        (lambda: obuchowski_rockette(x, truth, readers="some"), "not known"),
        (lambda: obuchowski_rockette(x, truth, covariance="bootstrap"), "not known"),
        (lambda: obuchowski_rockette(x, truth, figure="accuracy"), "needs a threshold"),
        (lambda: obuchowski_rockette(x, truth[:-1]), "Truth has shape"),
        (lambda: obuchowski_rockette(x, truth + 1), "other than 0 and 1"),
        (lambda: obuchowski_rockette(x, np.ones_like(truth)), "0 real cases"),
        (lambda: obuchowski_rockette(x, truth, margin=0.0), "not above 0"),
        (lambda: figures(x[0], truth, covariance="unbiased", clusters=truth), "takes no clusters"),
        (lambda: figures(x[0], truth, covariance="jackknife", clusters=truth), "holds all cases"),
        (lambda: readings_from_long("aa", "tt", "cc", [0, 0], [1.0, 2.0]), "two readings"),
        (lambda: readings_from_long("ab", "tt", "cc", [0, 1], [1.0, 2.0]), "real in one reading"),
        (lambda: readings_from_long("ab", "t", "cc", [0, 1], [1.0, 2.0]), "different lengths"),
    ):
        with pytest.raises(BadInput, match=message) as error:
            wrong()
        assert error.value.hint


def test_no_variance_is_said():
    perfect = np.tile(np.repeat([0.0, 1.0], 10), (2, 3, 1))
    result = obuchowski_rockette(perfect, np.repeat([0, 1], 10))
    assert math.isnan(result.p) and any("nothing can be tested" in note for note in result.notes)


def test_binormal_of_exact_shares():
    """Counts that are the model's own shares give its parameters back."""
    from scipy.stats import norm

    a, b, cuts = 1.2, 0.8, np.array([-np.inf, -0.5, 0.3, 0.9, 1.6, np.inf])
    real = np.round(1e6 * np.diff(norm.cdf(cuts))).astype(int)
    synthetic = np.round(1e6 * np.diff(norm.cdf(b * cuts - a))).astype(int)
    fit = fit_binormal(np.repeat(np.arange(5), real), np.repeat(np.arange(5), synthetic))
    assert (fit.a, fit.b) == (pytest.approx(a, abs=1e-4), pytest.approx(b, abs=1e-4))
    assert fit.auc == pytest.approx(norm.cdf(a / math.hypot(1, b)), abs=1e-5)
    with pytest.raises(BadInput, match="too many"):
        fit_binormal(np.arange(40.0), np.arange(40.0) + 0.5)
