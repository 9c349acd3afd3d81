"""Dice, surface Dice and HD95 of masks: closed forms, scipy's distance transform as the oracle, and empty masks."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import ndimage, stats

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets.overlap import check_tolerance, default_tolerance, median_hd95, overlap

SPACING = (1.0, 1.5, 4.0)


def cube(start: tuple[int, int, int], size: tuple[int, int, int], shape=(24, 24, 16)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size))] = True
    return mask


def blob(seed: int, shape=(24, 20, 16)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 3)
    return noise > np.quantile(noise, 0.85)


def by_scipy(a: np.ndarray, b: np.ndarray, spacing, tolerance: float) -> tuple[float, float, float]:
    """The three figures from distance transforms, as their papers define them."""
    edges = [m & ~ndimage.binary_erosion(np.pad(m, 1))[1:-1, 1:-1, 1:-1] for m in (a, b)]
    to_b = ndimage.distance_transform_edt(~edges[1], sampling=spacing)[edges[0]]
    to_a = ndimage.distance_transform_edt(~edges[0], sampling=spacing)[edges[1]]
    near = (to_b <= tolerance).sum() + (to_a <= tolerance).sum()
    dice = 2 * (a & b).sum() / (a.sum() + b.sum())
    return dice, near / (len(to_a) + len(to_b)), max(np.percentile(to_a, 95), np.percentile(to_b, 95))


@pytest.mark.parametrize("seed", range(4))
def test_as_scipy_computes_them(seed):
    a, b = blob(seed), blob(seed + 10) | blob(seed)
    found = overlap(a, b, SPACING, 2.0)
    expected = by_scipy(a, b, SPACING, 2.0)
    assert [found["dice"], found["surface_dice"], found["hd95_mm"]] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("axis", range(3))
def test_a_shifted_slab_is_as_far_as_its_spacing_says(axis):
    # A slab through the whole volume, shifted along one axis: all its boundary moves by as much. The spacing in mm
    # counts, and the end of the volume is a boundary as well.
    size = [24, 24, 16]
    size[axis] = 4
    first, second = [0, 0, 0], [0, 0, 0]
    first[axis], second[axis] = 3, 6
    found = overlap(cube(tuple(first), tuple(size)), cube(tuple(second), tuple(size)), SPACING, 0.5)
    assert found["dice"] == pytest.approx(2 * 1 / 8)
    assert found["hd95_mm"] == pytest.approx(3 * SPACING[axis], rel=1e-6)


def test_tolerance_is_in_mm():
    a, b = cube((5, 5, 5), (8, 8, 4)), cube((5, 5, 6), (8, 8, 4))
    assert overlap(a, b, SPACING, 4.0)["surface_dice"] == pytest.approx(1.0)
    assert overlap(a, b, SPACING, 3.9)["surface_dice"] < 1.0
    assert overlap(a, a, SPACING, 0.0)["surface_dice"] == 1.0


def test_empty_masks_count_as_is_said_and_not_as_monai_leaves_them():
    empty, full = np.zeros((24, 24, 16), bool), cube((5, 5, 5), (8, 8, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        missed = overlap(empty, full, SPACING, 2.0)
        false = overlap(full, empty, SPACING, 2.0)
        neither = overlap(empty, empty, SPACING, 2.0)
    assert missed["state"] == "missed" and missed["dice"] == missed["surface_dice"] == 0.0
    assert missed["hd95_mm"] == math.inf
    assert false["state"] == "not drawn" and math.isnan(false["dice"]) and false["found_ml"] == pytest.approx(1.536)
    assert neither["state"] == "neither" and all(math.isnan(neither[k]) for k in ("dice", "surface_dice", "hd95_mm"))


def test_what_monai_gives_for_empty_masks_is_no_figure():
    # The trap: a mean over these is NaN or infinite, and dropping them makes missing structures free.
    import torch
    from monai.metrics import compute_hausdorff_distance

    empty, full = torch.zeros(1, 1, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)
    with pytest.warns(UserWarning, match="may result in nan/inf"):
        for a, b in ((empty, full), (full, empty), (empty, empty)):
            assert not torch.isfinite(compute_hausdorff_distance(a, b, include_background=True, percentile=95)).any()


def test_single_voxels():
    one, other = cube((4, 4, 4), (1, 1, 1)), cube((4, 4, 7), (1, 1, 1))
    found = overlap(one, other, SPACING, 1.0)
    assert found["dice"] == 0.0 and found["surface_dice"] == 0.0 and found["hd95_mm"] == pytest.approx(12.0)
    assert found["state"] == "both"


def test_median_distance_takes_missed_ones_for_infinitely_far():
    assert median_hd95([1.0, 3.0, math.inf], ["a", "b", "c"]).value == 3.0
    assert median_hd95([1.0, math.inf], ["a", "b"]).value == math.inf
    assert median_hd95([1.0, 2.0, math.nan], ["a", "b", "c"]).value == 1.5
    found = median_hd95([1.0, 9.0, 3.0], ["a", "a", "b"])
    assert found.value == 4.0 and math.isnan(found.low)  # of patients, not of volumes; too few for an interval
    assert math.isnan(median_hd95([math.nan], ["a"]).value)


def test_the_interval_of_median_hd95_is_scipys():
    values = np.random.default_rng(2).gamma(2.0, 3.0, 30)
    found = median_hd95(values.tolist(), [str(i) for i in range(30)])
    expected = stats.bootstrap((values,), np.median, n_resamples=9999, method="percentile", rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.4)
    missed = median_hd95([2.0] * 7 + [math.inf] * 6, [str(i) for i in range(13)])
    assert (missed.value, missed.low, missed.high) == (2.0, 2.0, math.inf)


def test_tolerance_is_checked():
    assert default_tolerance((1.0, 2.0, 2.0)) == pytest.approx(3.0)
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(BadInput, match="no tolerance"):
            check_tolerance(wrong)
