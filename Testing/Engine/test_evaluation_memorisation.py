"""Copies are found, other images are not; the search agrees with one written out by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from scipy import ndimage, stats
from tiny_evaluation import RANGE, phantom_data

from SynthDiffusionLib.evaluation import memorisation as m
from SynthDiffusionLib.evaluation.rows import Row, real_items


@pytest.fixture(scope="module")
def data():
    """Phantoms whose images are vessels only, each of its own course: like lung, without a wall that all have."""

    def with_vessels(number, case):
        rough = np.random.default_rng([5, number]).standard_normal(case.image.shape)
        vessels = ndimage.gaussian_filter(rough, 1.5)
        hu = np.where(vessels > 0.8 * vessels.std(), -200, -850).astype(np.int16)
        return replace(case, image=case.image.with_array(hu))

    plain = phantom_data(train=12, validation=8, test=8)
    numbers = iter(range(28))
    parts = {
        k: [with_vessels(next(numbers), c) for c in getattr(plain, k)] for k in ("training", "others", "evaluated")
    }
    return replace(plain, **parts)


def test_distance_is_that_of_a_search_by_hand():
    rng = np.random.default_rng(0)
    gallery_volumes = {str(i): rng.standard_normal((7, 7, 7)) for i in range(3)}
    volume, core = rng.standard_normal((7, 7, 7)), 4
    gallery = m.build_gallery(gallery_volumes, core)
    found = m.distances(volume, (3, 3, 3), gallery)
    piece = volume[1:5, 1:5, 1:5]
    for i, other in enumerate(gallery_volumes.values()):
        best = max(
            np.corrcoef(np.flip(piece, flips).ravel(), other[a : a + core, b : b + core, c : c + core].ravel())[0, 1]
            for flips in [[ax for ax in range(3) if on[ax]] for on in product((0, 1), repeat=3)]
            for a, b, c in product(range(4), repeat=3)
        )
        assert found[i] == pytest.approx(1 - best, abs=1e-4)


def test_brightness_and_contrast_do_not_hide_a_copy():
    rng = np.random.default_rng(1)
    volume = rng.standard_normal((10, 10, 10))
    gallery = m.build_gallery({"a": volume}, 5)
    assert m.distances(0.5 * volume + 3.0, (5, 5, 5), gallery)[0] == pytest.approx(0.0, abs=1e-4)


def test_a_flat_volume_is_no_copy_of_anything():
    gallery = m.build_gallery({"a": np.random.default_rng(2).standard_normal((10, 10, 10))}, 5)
    assert m.distances(np.full((10, 10, 10), 0.3), (5, 5, 5), gallery)[0] == pytest.approx(1.0, abs=1e-3)


def test_copies_are_found_and_unseen_images_are_not(data, monkeypatch):
    monkeypatch.setattr(m, "CORES_VOXELS", {"whole": 16, "region": 10})
    monkeypatch.setattr(m, "CONTROL_SHIFT", (2, -2, 1))
    copies = m.control_items(real_items(data.training, RANGE), data)
    test = real_items(data.evaluated, RANGE)
    copied = tuple(replace(t, hu=c.hu, classes=c.classes) for t, c in zip(test, copies))
    arms = {
        "nodule": Row("nodule", "nodule alone", "ours", copied),
        "anatomy": Row("anatomy", "anatomy", "ours", test),
    }
    result = m.measure_memorisation(data, arms)
    rows = {(r["row"], r["view"]): r for r in result["rows"]}
    copied_row, fresh = rows["nodule", "whole"], rows["anatomy", "whole"]
    assert copied_row["suspected"] and copied_row["below_quantile"] >= 6
    assert copied_row["nearest_is_training"] == 8 and copied_row["median_ratio"] < 0.5
    assert not fresh["suspected"] and fresh["below_quantile"] <= 1
    assert rows["copies", "whole"]["below_quantile"] >= 6 > rows["copies_warped", "whole"]["below_quantile"]
    named = {v["case"]: v["nearest"] for v in result["per_volume"] if v["row"] == "copies" and v["view"] == "whole"}
    assert sum(case == nearest for case, nearest in named.items()) >= 7  # of the right case, too
    assert result["verdicts"]["nodule_whole"]["copying_suspected"]


def test_inpainting_is_judged_by_its_region_only(data, monkeypatch):
    monkeypatch.setattr(m, "CORES_VOXELS", {"whole": 16, "region": 10})
    arms = {"inpainting": Row("inpainting", "inpainting", "ours", real_items(data.evaluated, RANGE))}
    result = m.measure_memorisation(data, arms)
    assert [r["view"] for r in result["rows"] if r["row"] == "inpainting"] == ["region"]


def test_the_expected_counts_are_those_of_exchangeable_images(data, monkeypatch):
    monkeypatch.setattr(m, "CORES_VOXELS", {"whole": 16})
    rows = m.measure_memorisation(data, {})["rows"]
    reference = next(r for r in rows if r["row"] == "reference")
    # Validation cases are their own nearest and are not counted, the 8 test cases are; 12 of 20 searched are training.
    assert reference["nearest_compared"] == 8 and reference["expected_nearest_is_training"] == pytest.approx(
        8 * 12 / 20
    )
    # One of 16 is the lower quantile itself; the reference is not tested against the limit that it sets.
    assert reference["below_quantile"] == 1 and reference["expected_below_quantile"] == 1.0
    assert reference["p_below"] is None and reference["p_nearest"] > 0.05 and not reference["suspected"]


def test_the_probability_of_ranks_is_that_of_all_orders():
    """By counting: every choice of the places of 4 values among those of 5 others."""
    for rank, below in product((1, 2, 3), range(5)):
        hits = 0
        for places in combinations(range(9), 4):
            others = [i for i in range(9) if i not in places]
            hits += sum(p < others[rank - 1] for p in places) >= below
        assert m.rank_test(below, 4, rank, 5) == pytest.approx(hits / comb(9, 4))


def test_the_rank_test_rejects_no_more_than_it_says_where_a_binomial_test_does():
    rng = np.random.default_rng(0)
    reference, ours = np.sort(rng.random((4000, 40)), 1), rng.random((4000, 20))
    below = (ours <= reference[:, 1:2]).sum(1)
    of_limit = (ours < np.quantile(reference, 0.05, axis=1)[:, None]).sum(1)
    exact = [m.rank_test(b, 20, 2, 40) < m.SUSPICION for b in range(21)]
    assert 0.005 < np.mean(np.array(exact)[below]) < 0.02
    assert np.mean(stats.binom.sf(of_limit - 1, 20, 0.05) < m.SUSPICION) > 0.06
    # Not more either where each volume depends on the real image of its mask, which is half of the reference.
    normal = rng.standard_normal((4000, 40))
    paired = 0.6 * normal[:, 20:] + 0.8 * rng.standard_normal((4000, 20))
    below = (paired <= np.sort(normal, 1)[:, 1:2]).sum(1)
    assert np.mean(np.array(exact)[below]) < 0.02


def test_the_split_test_rejects_no_more_than_it_says_when_a_few_volumes_are_nearest_to_all():
    names = [f"p{n}" for n in range(30)]
    hits = {"p0": 14, "p1": 4, "p2": 2}
    exact, binomial = [], []
    for trial in range(150):
        order = [names[i] for i in np.random.default_rng(trial).permutation(30)]
        exact.append(m.split_test(hits, order[:23], order[23:], 499))
        on_training = sum(hits.get(p, 0) for p in order[:23])
        binomial.append(stats.binom.sf(on_training - 1, 20, 23 / 30))
    assert np.mean(np.array(exact) <= 0.05) <= 0.1 and np.mean(np.array(binomial) <= 0.05) > 0.3
    # Spread over many, it agrees with drawing without replacement.
    spread = {p: 1 for p in names[:20]}
    assert m.split_test(spread, names[:23], names[23:]) == pytest.approx(stats.hypergeom.sf(19, 30, 20, 23), abs=0.003)


def test_several_volumes_of_a_patient_count_once_in_the_rank_test(data, monkeypatch):
    monkeypatch.setattr(m, "CORES_VOXELS", {"whole": 16})
    copies = m.control_items(real_items(data.training, RANGE), data)
    test = real_items(data.evaluated, RANGE)
    one = tuple(replace(test[0], hu=copies[0].hu, seed=s) for s in range(8))
    result = m.measure_memorisation(data, {"nodule": Row("nodule", "nodule alone", "ours", one)})
    row = next(r for r in result["rows"] if r["row"] == "nodule")
    assert row["below_quantile"] == 8 and row["p_below"] == pytest.approx(1 / 17)


def test_warped_copies_keep_their_values_and_lose_their_shape(data):
    training = real_items(data.training, RANGE)
    warped = m.warped_items(training, data)
    assert len(warped) == len(data.evaluated)
    for before, after in zip(training, warped):
        assert after.hu.min() >= before.hu.min() and after.hu.max() <= before.hu.max()
        assert abs(after.hu.mean() - before.hu.mean()) < 60
        assert np.corrcoef(before.hu.ravel(), after.hu.ravel())[0, 1] < 0.8
        assert (after.classes == data.target_value).any()
