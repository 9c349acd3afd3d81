"""One generator against chance, Likert scales, curves, and the simulator."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reader_study.statistics import curves, ordinal, roe_metz
from SynthDiffusionLib.reader_study.statistics.mrmc import obuchowski_rockette
from SynthDiffusionLib.reader_study.statistics.single_arm import forced_choice, logit, single_arm


def study(separation: float = 0.75, readers: int = 5, cases: int = 30, seed: int = 1, name: str = "LH", **extra):
    variances = roe_metz.structure(name, separation)
    cuts = roe_metz.rating_thresholds(6, separation, variances)
    design = roe_metz.Design(readers, cases, cases, (separation,), variances, cuts, 0.3, **extra)
    x, truth = roe_metz.simulate(design, np.random.default_rng(seed))
    return x[0], truth


def test_hillis_form_is_the_arm_of_obuchowski_rockette():
    """Two implementations: the arm of a comparison of two, and the analysis of one."""
    x, truth = study()
    other, _ = study(seed=2)
    for readers, cases in (("random", "random"), ("fixed", "random"), ("random", "fixed")):
        arm = obuchowski_rockette(np.stack([x, other]), truth, readers=readers, cases=cases).arms[0]
        one = single_arm(x, truth, readers=readers, cases=cases, floor=False, scale="identity")
        assert (arm.value, arm.se, arm.df) == (pytest.approx(one.value), pytest.approx(one.se), pytest.approx(one.df))
        assert (arm.low, arm.high) == (pytest.approx(one.low), pytest.approx(one.high))


def test_fixed_cases_is_the_t_test_over_readers():
    from scipy.stats import ttest_1samp

    x, truth = study()
    expected = ttest_1samp(curves.auc(x, truth), 0.5)
    found = single_arm(x, truth, cases="fixed", scale="identity")
    assert (found.t, found.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))


def test_fixed_readers_of_a_mean_is_the_z_test_over_cases():
    correct = (np.random.default_rng(0).random((4, 60)) < 0.6).astype(float)
    found = single_arm(
        correct, np.zeros(60, int), figure="mean", readers="fixed", scale="identity", reader_names=list("abcd")
    )
    averages = correct.mean(0)
    assert found.value == pytest.approx(averages.mean())
    assert found.se == pytest.approx(averages.std(ddof=1) / math.sqrt(60))
    assert [r.reader for r in found.reader_values] == list("abcd")


def test_floor_and_logit():
    """The interval is never narrower than the one for fixed readers, and stays within 0 and 1."""
    for seed in range(30):
        x, truth = study(2.5, readers=3, cases=12, seed=seed)
        random = single_arm(x, truth, scale="identity")
        fixed = single_arm(x, truth, readers="fixed", scale="identity")
        if not random.degenerate and random.cov2 > 0:
            assert random.se >= fixed.se - 1e-12
        found = single_arm(x, truth)
        assert 0.0 <= found.low < found.value <= found.high <= 1.0
        assert found.low < found.high
    x, truth = study()
    found = single_arm(x, truth)
    assert found.t == pytest.approx(logit(found.value) / (found.se / (found.value * (1 - found.value))))
    assert (found.p < 0.05) == (not found.low <= 0.5 <= found.high)


def test_degenerate_data_give_a_bound_and_a_note():
    truth = np.repeat([0, 1], 12)
    perfect = np.tile(truth * 5.0, (3, 1))
    found = single_arm(perfect, truth, margin=0.1)
    assert found.degenerate and found.value == 1.0 and found.high == 1.0
    assert found.low == pytest.approx(0.025 ** (1 / 12)), "Clopper and Pearson's bound of 12 of 12"
    assert "do not vary" in found.notes[0] and not found.equivalence.equivalent
    assert found.p == pytest.approx(2 * 0.5**12)
    always = single_arm(np.full((3, 24), 4.0), truth, figure="accuracy", threshold=2.5, margin=0.1)
    assert always.degenerate and always.value == 0.5 and always.p == 1.0
    assert always.low < 0.32 and always.high > 0.68 and not always.equivalence.equivalent
    choice = forced_choice(np.ones((4, 10)))
    assert choice.degenerate and choice.low == pytest.approx(0.025**0.1)
    same = ordinal.likert_difference(np.full((3, 24), 4.0), truth)
    assert same.degenerate and math.isnan(same.p) and same.notes
    by_pair = single_arm(perfect, truth, clusters=np.arange(24) % 4)
    assert by_pair.low == pytest.approx(0.025 ** (1 / 4)), "4 pairs are 4 trials"


def test_equivalence_and_difference_are_different_questions():
    few, truth = study(0.0, readers=3, cases=10, seed=3)
    found = single_arm(few, truth, margin=0.1)
    assert found.p > 0.05 and not found.equivalence.equivalent
    variances = roe_metz.Structure(0.0, 0.0, 0.1, 0.1, 0.2, 0.6)
    design = roe_metz.Design(8, 300, 300, (0.0,), variances)
    x, truth = roe_metz.simulate(design, np.random.default_rng(5))
    many = single_arm(x[0], truth, margin=0.1)
    assert many.equivalence.equivalent and 0.4 < many.equivalence.low < many.equivalence.high < 0.6
    assert many.low < many.equivalence.low, "1 - 2 alpha is narrower"


def test_missing_answers_are_taken():
    x, truth = study()
    holes = x.copy()
    holes[1, 3] = holes[4, 40] = np.nan
    found, complete = single_arm(holes, truth), single_arm(x, truth)
    assert found.value == pytest.approx(complete.value, abs=0.02) and found.value != complete.value


def test_coverage_with_three_readers_who_differ():
    """400 studies of 3 readers and 24 + 24 cases: 95 % +- 3.3 % of the defaults; Hillis's own falls short here."""
    variances = roe_metz.structure("LH", 1.5)
    design = roe_metz.Design(3, 24, 24, (1.5,), variances, roe_metz.rating_thresholds(6, 1.5, variances), 0.3)
    true, rng, held, plain = roe_metz.true_figure(design), np.random.default_rng(9), 0, 0
    for _ in range(400):
        x, truth = roe_metz.simulate(design, rng)
        found = single_arm(x[0], truth)
        held += found.low <= true <= found.high
        found = single_arm(x[0], truth, floor=False, scale="identity")
        plain += found.low <= true <= found.high
    assert 0.917 <= held / 400 <= 0.983 and plain < held


def test_misuse_of_one_arm_is_refused():
    x, truth = study()
    for wrong, message in (
        (lambda: single_arm(x[:1], truth), "One reader"),
        (lambda: single_arm(x[None], truth), "not one treatment"),
        (lambda: single_arm(x, truth, margin=0.6), "no use"),
        (lambda: single_arm(x, truth, figure="kappa"), "not known"),
        (lambda: single_arm(x, truth, reader_names=["a"]), "names"),
        (lambda: single_arm(x, truth, scale="probit"), "not known"),
        (lambda: forced_choice(x), "right"),
        (lambda: single_arm(x, truth, confidence=95), "confidence"),
    ):
        with pytest.raises(BadInput, match=message) as error:
            wrong()
        assert error.value.hint
    assert single_arm(x[:1], truth, readers="fixed").n_readers == 1


# Curves --------------------------------------------------------------------------------------------------------------


def test_area_is_that_of_the_points_and_of_mann_whitney():
    from scipy.stats import mannwhitneyu

    x, truth = study()
    for row in x:
        points = curves.roc_points(row, truth)
        area = np.trapezoid(points.true_positive, points.false_positive)
        u = mannwhitneyu(row[truth == 1], row[truth == 0]).statistic / (30 * 30)
        assert curves.auc(row, truth) == pytest.approx(area) == pytest.approx(u)
        assert (points.false_positive[0], points.true_positive[-1]) == (0.0, 1.0)
    values, covariance = curves.delong(x, truth)
    assert covariance.shape == (5, 5) and np.linalg.eigvalsh(covariance).min() > -1e-12
    one = curves.auc_interval(x[0], truth)
    assert (one.value, one.se) == (pytest.approx(values[0]), pytest.approx(math.sqrt(covariance[0, 0])))
    perfect = curves.auc_interval(truth * 1.0, truth)
    assert perfect.degenerate and perfect.high == 1.0 and perfect.low == pytest.approx(0.025 ** (1 / 30))
    with pytest.raises(BadInput):
        curves.roc_points([1.0, 2.0], [1, 1])


# Likert --------------------------------------------------------------------------------------------------------------


def test_published_mann_whitney_of_one_reader():
    """Lu Mao (rpubs 1250733; R wilcox.test), rater 1: p = .257."""
    real, synthetic = np.repeat([2, 3, 4, 5], [3, 37, 68, 17]), np.repeat([2, 3, 4, 5], [6, 32, 57, 30])
    found = ordinal.mann_whitney(real, synthetic)
    assert round(found.p, 5) == 0.25659
    assert (round(real.mean(), 1), round(synthetic.mean(), 1)) == (3.8, 3.9)
    assert found.difference == pytest.approx(synthetic.mean() - real.mean())
    assert ordinal.mann_whitney([3, 3], [3, 3]).p == 1.0


def test_pooling_readers_is_refused_with_the_reason():
    x, truth = study()
    with pytest.raises(BadInput, match="not independent") as error:
        ordinal.pooled_mann_whitney(x, truth)
    assert "likert_difference" in error.value.hint
    alone = ordinal.pooled_mann_whitney(x[:1], truth)
    assert alone.p == ordinal.mann_whitney(x[0, truth == 0], x[0, truth == 1]).p


def test_reader_averages():
    from scipy.stats import mannwhitneyu, permutation_test, wilcoxon

    x, truth = study()
    means, pairs = x.mean(0), np.tile(np.arange(30), 2)
    real, synthetic = means[truth == 0], means[truth == 1]
    rank = ordinal.reader_averaged_test(x, truth, method="rank")
    assert rank.p == pytest.approx(mannwhitneyu(synthetic, real, method="asymptotic").pvalue)
    found = ordinal.reader_averaged_test(x, truth)
    reference = permutation_test((synthetic, real), lambda a, b: a.mean() - b.mean(), n_resamples=9999, rng=1).pvalue
    assert found.p == pytest.approx(reference, abs=0.015) and found.difference == pytest.approx(
        synthetic.mean() - real.mean()
    )
    paired = ordinal.reader_averaged_test(x, truth, pairs, "rank")
    assert paired.p == pytest.approx(wilcoxon(synthetic - real, correction=True).pvalue)
    flips = ordinal.reader_averaged_test(x, truth, pairs)
    reference = permutation_test(
        (synthetic - real,), np.mean, permutation_type="samples", n_resamples=9999, rng=1
    ).pvalue
    assert flips.p == pytest.approx(reference, abs=0.015)
    assert ordinal.reader_averaged_test(np.ones((2, 4)), [0, 0, 1, 1]).p == 1.0
    lone = np.where(pairs < 25, pairs, 100 + np.arange(60))
    assert "10 pairs" in ordinal.reader_averaged_test(x, truth, lone).notes[0]
    with pytest.raises(BadInput, match="two pairs"):
        ordinal.reader_averaged_test(x, truth, np.arange(60))


def test_absent_lenient_reader_makes_no_difference():
    """A reader who gives 2 points more and reads half of the synthetic cases must not look like an effect."""
    base, truth = study(0.0, readers=3)
    x = np.concatenate([base[:1] * 0 + 1.0, base[:1] * 0 + 3.0])
    x[1, truth == 1] = np.where(np.arange(30) % 2, np.nan, 3.0)
    found = ordinal.reader_averaged_test(x, truth, method="permutation")
    assert abs(found.difference) < 0.35 < 0.5, "without adjustment the difference would be 0.5"


def test_two_way_clusters():
    """statsmodels' sandwich variance with two groups, on the same regression."""
    api = pytest.importorskip("statsmodels.api")
    x, truth = study()
    reader, case = (v.ravel() for v in np.indices(x.shape))
    fit = api.OLS(x.ravel(), api.add_constant(truth[case])).fit()
    robust = api.stats.sandwich_covariance.cov_cluster_2groups(fit, reader, case, use_correction=False)
    found = ordinal.two_way_cluster(x, truth)
    assert found.difference == pytest.approx(fit.params[1])
    plain = robust[0][1, 1]
    assert found.se**2 == pytest.approx(plain, rel=0.3)
    parts = [robust[1][1, 1] * 5 / 4, robust[2][1, 1] * 60 / 59]
    both = api.stats.sandwich_covariance.cov_white_simple(fit, use_correction=False)[1, 1] * 300 / 299
    assert found.se**2 == pytest.approx(sum(parts) - both)
    with pytest.raises(BadInput, match="sample of readers"):
        ordinal.two_way_cluster(x[:1], truth)


def test_ordinal_regression():
    pytest.importorskip("statsmodels")
    x, truth = study(1.0, readers=4, cases=60, name="LL", seed=4)
    found = ordinal.ordinal_regression(x, truth)
    assert found.p < 0.01 and found.odds_ratio == pytest.approx(math.exp(found.log_odds))
    assert found.se > found.model_se, "readings of a case are not independent"
    # With two levels it is logistic regression.
    api = pytest.importorskip("statsmodels.api")
    calls = (x > 2.5).astype(float)
    reader, case = (v.ravel() for v in np.indices(x.shape))
    design = np.column_stack([truth[case], *(reader == j for j in range(1, 4)), np.ones(x.size)]).astype(float)
    logistic = api.Logit(calls.ravel(), design).fit(disp=False, cov_type="cluster", cov_kwds={"groups": case})
    two = ordinal.ordinal_regression(calls, truth)
    assert two.log_odds == pytest.approx(logistic.params[0], abs=1e-4)
    assert two.se == pytest.approx(logistic.bse[0], rel=0.01)
    with pytest.raises(BadInput, match="separate"):
        ordinal.ordinal_regression(np.tile(truth * 2.0, (2, 1)), truth)


# Simulator -----------------------------------------------------------------------------------------------------------


def test_true_values_are_those_of_very_large_studies():
    for separation, cuts, sd in ((0.75, True, 0.4), (1.5, False, 0.0), (0.0, True, 0.3)):
        variances = roe_metz.structure("HH", separation)
        thresholds = roe_metz.rating_thresholds(6, separation, variances) if cuts else ()
        design = roe_metz.Design(1500, 30, 30, (separation,), variances, thresholds, sd)
        rng = np.random.default_rng(3)
        studies = [roe_metz.simulate(design, rng) for _ in range(20)]
        areas = np.mean([curves.auc(x[0][:300], truth).mean() for x, truth in studies])
        assert areas == pytest.approx(roe_metz.true_figure(design), abs=0.02)
        if cuts:
            right = np.mean([((x[0] > 2.5) == truth).mean() for x, truth in studies])
            assert right == pytest.approx(roe_metz.true_figure(design, "accuracy", 2.5), abs=0.015)
    assert roe_metz.true_figure(roe_metz.Design(3, 9, 9, (0.0,), roe_metz.structure("HL"))) == 0.5


def test_thresholds_cut_in_the_middle_and_into_equal_parts():
    from scipy.stats import norm

    variances = roe_metz.structure("LH", 1.5)
    cuts = np.array(roe_metz.rating_thresholds(6, 1.5, variances))
    assert cuts[2] == pytest.approx(0.75) and cuts[0] + cuts[4] == pytest.approx(1.5)
    sd = math.sqrt(variances.total)
    used = (norm.cdf(cuts / sd) + norm.cdf((cuts - 1.5) / sd)) / 2
    np.testing.assert_allclose(np.diff(used, prepend=0, append=1), 1 / 6, atol=0.02)


def test_published_areas_of_the_model():
    """Roe and Metz name their separations by the area at case variance 1: .702, .855, .962."""
    for separation, area in ((0.75, 0.702), (1.5, 0.855), (2.5, 0.962)):
        design = roe_metz.Design(3, 9, 9, (separation,), roe_metz.Structure(0.0, 0.0, 0.3, 0.3, 0.2, 0.2))
        assert round(roe_metz.true_figure(design), 3) == pytest.approx(area, abs=0.0011)
        assert roe_metz.structure("LH", separation).cases_total == pytest.approx(1.0)


def test_what_is_shared_in_simulated_studies():
    variances = roe_metz.structure("LL")
    design = roe_metz.Design(3, 200, 200, (0.0, 0.0), variances, shared_real=True, paired_synthetic=False)
    x, truth = roe_metz.simulate(design, np.random.default_rng(0))
    assert (x[0][:, truth == 0] == x[1][:, truth == 0]).all() and not (x[0] == x[1]).all()
    between = np.corrcoef(x[0, 0, truth == 1], x[1, 0, truth == 1])[0, 1]
    assert abs(between) < 0.2
    paired = roe_metz.Design(3, 2000, 2000, (0.0,), roe_metz.Structure(0, 0, 0.6, 0, 0, 0.4), pair_correlation=0.5)
    x, truth = roe_metz.simulate(paired, np.random.default_rng(0))
    assert np.corrcoef(x[0, 0, truth == 0], x[0, 0, truth == 1])[0, 1] == pytest.approx(0.3, abs=0.06)
    wide, wide_truth = roe_metz.spread(*roe_metz.simulate(design, np.random.default_rng(0)))
    assert wide.shape == (2, 3, 600) and wide_truth.sum() == 400 and np.isnan(wide).sum() == 2 * 3 * 200
    with pytest.raises(BadInput):
        roe_metz.structure("XX")
