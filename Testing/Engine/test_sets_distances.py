"""Distances of sets of features against closed forms, SciPy, MONAI, torchmetrics; and the traps of released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets import distances as d
from SynthDiffusionLib.evaluation.sets import resampling as r


def gaussians(n: int, features: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((features, features)) / np.sqrt(features)
    x = rng.standard_normal((n, features))
    return x, rng.standard_normal((n, features)) @ mix + 0.5


def test_frechet_of_normal_distributions_in_closed_form():
    """One feature: (m1 - m2)² + (s1 - s2)²; covariances that commute: the sum of that over the axes."""
    one = d.frechet_of_moments(np.array([1.0]), np.array([[4.0]]), np.array([3.0]), np.array([[9.0]]))
    assert one == pytest.approx((1 - 3) ** 2 + (2 - 3) ** 2, abs=1e-12)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((5, 5)))[0]
    a, b = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 0, 4, 7])  # one axis has no spread at all
    mean = np.arange(5.0)
    found = d.frechet_of_moments(mean, turn * a**2 @ turn.T, np.zeros(5), turn * b**2 @ turn.T)
    assert found == pytest.approx(np.sum(mean**2) + np.sum((a - b) ** 2), rel=1e-6)


def test_frechet_of_samples_tends_to_the_closed_form():
    rng = np.random.default_rng(3)
    x = rng.normal((0.0, 1.0), (1.0, 2.0), (200_000, 2))
    y = rng.normal((0.5, 1.0), (1.5, 1.0), (200_000, 2))
    assert d.frechet(x, y) == pytest.approx(0.5**2 + 0.5**2 + 1.0, rel=0.02)


def test_frechet_agrees_with_scipys_matrix_root():
    from scipy.linalg import sqrtm

    x, y = gaussians(400, 6)
    cx, cy = np.cov(x.T), np.cov(y.T)
    by_root = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cx + cy - 2 * np.real(sqrtm(cx @ cy)))
    assert d.frechet(x, y) == pytest.approx(by_root, rel=1e-8)


def test_frechet_agrees_with_monai_where_scipy_lets_it():
    from monai.metrics import FIDMetric

    x, y = gaussians(300, 7)
    try:
        theirs = float(FIDMetric()(torch.from_numpy(y), torch.from_numpy(x)))
    except TypeError:
        pytest.skip("MONAI's FIDMetric calls scipy.linalg.sqrtm with an argument that SciPy 1.18 no longer has")
    assert d.frechet(x, y) == pytest.approx(theirs, rel=1e-6)


def test_frechet_agrees_with_torchmetrics():
    image = pytest.importorskip("torchmetrics.image.fid")
    x, y = gaussians(300, 7)
    moments = [torch.from_numpy(a) for a in (x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))]
    assert d.frechet(x, y) == pytest.approx(float(image._compute_fid(*moments)), rel=1e-6)


def test_kernel_distance_agrees_with_torchmetrics():
    image = pytest.importorskip("torchmetrics.image.kid")
    x, y = gaussians(80, 7)
    theirs = float(image.poly_mmd(torch.from_numpy(x), torch.from_numpy(y)))
    assert d.mmd2(x, y) == pytest.approx(theirs, rel=1e-6)


def test_kernel_distance_agrees_with_monai():
    """MONAI's metric is the unbiased estimate with a linear kernel."""
    from monai.metrics import MMDMetric

    x, y = gaussians(40, 6)
    theirs = float(MMDMetric()(torch.from_numpy(x)[:, :, None, None], torch.from_numpy(y)[:, :, None, None]))
    assert d.mmd2(x, y, lambda a, b: a @ b.T) == pytest.approx(theirs, rel=1e-9)


def test_energy_distance_agrees_with_scipys_on_a_line():
    """SciPy's is the root of the statistic in which a volume is a pair with itself."""
    from scipy.stats import energy_distance

    rng = np.random.default_rng(5)
    x, y = rng.normal(0, 1, (30, 1)), rng.normal(0.4, 2, (45, 1))
    within = [np.abs(a - a.T).sum() / (len(a) * (len(a) - 1)) for a in (x, y)]
    with_itself = d.mmd2(x, y, d.energy_kernel) + within[0] / 30 + within[1] / 45
    assert energy_distance(x[:, 0], y[:, 0]) ** 2 == pytest.approx(with_itself, rel=1e-9)
    # Of D copies of one feature it is the same.
    assert d.mmd2(np.repeat(x, 7, 1), np.repeat(y, 7, 1), d.energy_kernel) == pytest.approx(
        d.mmd2(x, y, d.energy_kernel), rel=1e-9
    )


def test_gaussian_kernel_agrees_with_the_other_implementation():
    from SynthDiffusionLib.evaluation import statistics

    x, y = gaussians(30, 4)
    assert d.mmd2(x, y, d.gaussian_kernel(1.7)) == pytest.approx(statistics.mmd2(x, y, 1.7), abs=1e-12)


def test_trap_frechet_does_not_need_the_argument_that_scipy_removed(monkeypatch):
    """SciPy 1.18: `sqrtm(a, disp=...)` is a TypeError, and with it MONAI's metric; any call of it fails here."""
    import scipy.linalg

    def gone(a, disp=None, blocksize=None):
        raise TypeError("sqrtm() got an unexpected keyword argument 'disp'")

    monkeypatch.setattr(scipy.linalg, "sqrtm", gone)
    x, y = gaussians(300, 7)
    assert d.frechet(x, y) > 0
    from monai.metrics import FIDMetric

    with pytest.raises(TypeError):
        FIDMetric()(torch.from_numpy(y), torch.from_numpy(x))


def test_trap_each_set_has_its_own_mean():
    """Released code took the mean of the synthetic set from the real one, so that a shift of all of it was not seen."""
    x, _ = gaussians(400, 5)
    shifted = x + np.array([3.0, 0, 0, 0, 0])
    wrong = d.frechet_of_moments(x.mean(0), np.cov(x.T), x.mean(0), np.cov(shifted.T))
    assert wrong == pytest.approx(0.0, abs=1e-6)
    assert d.frechet(x, shifted) == pytest.approx(9.0, rel=1e-6)
    assert d.mmd2(x, shifted) > 1.0


def test_trap_a_buffer_with_rows_that_nobody_filled():
    """Released code makes a buffer of 1000 rows and fills as many as there are samples."""
    x, y = gaussians(60, 5)
    buffer = np.full((1000, 5), 1e3)
    buffer[: len(y)] = y
    with pytest.raises(BadInput, match=r"\(1000, 5\) for 60 volumes"):
        d.check_features(buffer, len(y))
    buffer = np.full((60, 5), np.nan)
    buffer[:50] = y[:50]
    with pytest.raises(BadInput, match="10 rows of features of the synthetic are not finite, first number 50"):
        d.check_features(buffer, 60, "synthetic")
    assert d.check_features(y, 60) is not None


@pytest.mark.parametrize("n", [5, 6])
def test_trap_fewer_volumes_than_features(n):
    """Refused for one set as for the other; the kernel distance is the answer. The biased figure would be far off."""
    x, _ = gaussians(500, 6)
    for pair in ((x, x[:n]), (x[:n], x)):
        with pytest.raises(BadInput, match="needs more than 6 volumes in each set"):
            d.frechet(*pair)
    assert np.isfinite(d.mmd2(x, x[:n]))


def test_kernel_distance_has_no_bias_and_frechet_has():
    """Two samples of one distribution: the kernel distance is 0 on average at any N, Fréchet's grows as N falls."""
    rng = np.random.default_rng(7)
    kernels, frechets = {}, {}
    for n in (12, 60):
        pairs = [rng.standard_normal((2, n, 4)) for _ in range(300)]
        kernels[n] = np.array([d.mmd2(*p) for p in pairs])
        frechets[n] = np.mean([d.frechet(*p) for p in pairs])
        assert abs(kernels[n].mean()) < 3 * kernels[n].std() / np.sqrt(300)
    assert frechets[12] > 3 * frechets[60] > 0.1


def test_two_sets_of_the_same_files_are_at_zero():
    x, _ = gaussians(30, 4)
    names = [str(i) for i in range(30)]
    sums = d.pair_sums(x, names, x, names, d.polynomial_kernel)
    assert sums.value() == pytest.approx(0.0, abs=1e-12)
    w = r.bootstrap_weights(sums.patients, names, names, 200)
    assert sums.mmd2(w, w) == pytest.approx(np.zeros(200), abs=1e-9)
    estimate = r.kept_parts_interval(lambda i, j: d.frechet(x[i], x[j]), names, names, 5, parts=20)
    assert estimate.value == pytest.approx(0.0, abs=1e-9) and estimate.low <= 0.0 <= estimate.high


def test_patients_that_are_drawn_twice_are_no_pairs():
    """By hand: weights 2, 0, 1, 1 of four patients; no pair of a patient with herself, so nothing is at distance 0."""
    x, y = gaussians(4, 3)
    names = list("abcd")
    kernel = d.gaussian_kernel(1.0)
    found = d.pair_sums(x, names, y, names, kernel).mmd2(*[np.array([[2.0, 0.0, 1.0, 1.0]])] * 2)[0]
    drawn = [0, 0, 2, 3]
    pairs = [(i, j) for i in drawn for j in drawn if i != j]

    def mean(a, b):
        return np.mean([kernel(a[i : i + 1], b[j : j + 1])[0, 0] for i, j in pairs])

    assert found == pytest.approx(mean(x, x) + mean(y, y) - 2 * mean(x, y), abs=1e-12)


def test_many_slices_of_a_patient_narrow_no_interval():
    """Twenty slices that are copies: the interval is that of one slice a patient."""
    x, y = gaussians(12, 3)
    names, others = [f"x{i}" for i in range(12)], [f"y{i}" for i in range(12)]
    once = d.pair_sums(x, names, y, others, d.polynomial_kernel)
    often = d.pair_sums(
        np.repeat(x, 20, 0), np.repeat(names, 20), np.repeat(y, 20, 0), np.repeat(others, 20), d.polynomial_kernel
    )
    w = r.bootstrap_weights(once.patients, names, others, 500)
    assert often.mmd2(w, w) == pytest.approx(once.mmd2(w, w), abs=1e-9)


def test_interval_of_the_kernel_distance_covers_the_truth():
    """Two normal distributions with means 0 and 1: the linear kernel's MMD² is 1. Nominal 95 %."""
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(200):
        x, y = rng.normal(0, 1, (25, 1)), rng.normal(1, 1, (25, 1))
        names, others = [f"x{i}" for i in range(25)], [f"y{i}" for i in range(25)]
        sums = d.pair_sums(x, names, y, others, lambda a, b: a @ b.T)
        w = r.bootstrap_weights(sums.patients, names, others, 300, seed=int(rng.integers(1 << 30)))
        low, high = np.quantile(sums.mmd2(w, w), [0.025, 0.975])
        covered += low <= 1.0 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_interval_of_the_frechet_distance_covers_what_it_estimates():
    """The mean of the estimate over samples of this size, which parts without repetition surround (nominal 95 %)."""
    rng = np.random.default_rng(9)
    names, others = [f"x{i}" for i in range(40)], [f"y{i}" for i in range(40)]
    samples = [(rng.normal(0, 1, (40, 2)), rng.normal(1.5, 1, (40, 2))) for _ in range(200)]
    truth = np.mean([d.frechet(*s) for s in samples])
    found = [
        r.kept_parts_interval(lambda i, j, x=x, y=y: d.frechet(x[i], y[j]), names, others, 3, parts=50)
        for x, y in samples[:100]
    ]
    covered = np.mean([e.low <= truth <= e.high for e in found])
    assert 0.86 <= covered <= 1.0


def test_no_interval_where_no_patient_can_be_left_out():
    x, y = gaussians(8, 6)
    names = [f"x{i}" for i in range(8)]
    estimate = r.kept_parts_interval(lambda i, j: d.frechet(x[i], y[j]), names, [f"y{i}" for i in range(8)], 8)
    assert estimate.value > 0 and np.isnan(estimate.low)


def test_overlap_by_hand():
    """On a line, k = 1: real 0, 1, 10, 12; synthetic 1.5, 11, 40, 41."""
    real, synthetic = np.array([[0.0], [1], [10], [12]]), np.array([[1.5], [11.0], [40], [41]])
    found = d.overlap(real, list("abcd"), synthetic, list("efgh"), 1)
    # Real balls: [-1, 1], [0, 2], [8, 12], [10, 14]. Synthetic balls: 1.5 +- 9.5, 11 +- 9.5, 40 +- 1, 41 +- 1.
    assert found.precise.tolist() == [True, True, False, False]
    assert found.dense.tolist() == [1, 2, 0, 0]
    assert found.covered.tolist() == [False, True, True, True]
    assert found.recalled.tolist() == [True, True, True, True]
    assert found.to_json() == {"precision": 0.5, "recall": 1.0, "density": 0.75, "coverage": 0.75}


def test_overlap_knows_mode_collapse_and_what_is_foreign():
    rng = np.random.default_rng(10)
    real, same = rng.standard_normal((2, 80, 4))
    names, others = [f"x{i}" for i in range(80)], [f"y{i}" for i in range(80)]
    good = d.overlap(real, names, same, others, 5).to_json()
    collapsed = d.overlap(real, names, np.repeat(real[:1], 80, 0), others, 5).to_json()
    foreign = d.overlap(real, names, same + 50.0, others, 5).to_json()
    assert min(good.values()) > 0.7
    assert collapsed["precision"] == 1.0 and collapsed["recall"] < 0.1 and collapsed["coverage"] < 0.2
    assert foreign == {"precision": 0.0, "recall": 0.0, "density": 0.0, "coverage": 0.0}


def test_overlap_does_not_reward_the_image_of_the_same_patient():
    """Copies of the real images under their own patients' names score as other real images would, not 1."""
    rng = np.random.default_rng(11)
    real, other = rng.standard_normal((2, 60, 6))
    names = [f"x{i}" for i in range(60)]
    copies = d.overlap(real, names, real, names, 3).to_json()
    fresh = d.overlap(real, names, other, [f"y{i}" for i in range(60)], 3).to_json()
    assert copies["precision"] < 1.0 and copies["precision"] == pytest.approx(fresh["precision"], abs=0.2)
    with pytest.raises(BadInput, match="need more than 5 patients"):
        d.overlap(real[:5], names[:5], other, [f"y{i}" for i in range(60)], 5)


def test_splits_are_of_different_patients_and_equal_numbers():
    real = [f"p{i}" for i in range(30)]
    for synthetic in ([f"s{i}" for i in range(12)], real[:20], real[10:] + ["new"], [*real[:10], *real[:10]]):
        found = r.splits(real, synthetic, 30)
        assert len(found) == 30
        for split in found:
            one, other = ({real[i] for i in part} for part in (split.one, split.other))
            made = {synthetic[i] for i in split.synthetic}
            assert not one & other and not one & made
            assert len(split.one) == 15 and len(split.other) == len(split.synthetic) == len(made) >= 4
    assert r.splits(real[:6], real[:6]) == []


def test_bootstrap_draws_paired_patients_together_and_keeps_the_sizes():
    real, synthetic = ["a", "b", "c", "d"], ["c", "d", "e"]
    names = ["a", "b", "c", "d", "e"]
    weights = r.bootstrap_weights(names, real, synthetic, 100)
    assert (weights[:, :2].sum(1) == 2).all() and (weights[:, 2:4].sum(1) == 2).all() and (weights[:, 4] == 1).all()
