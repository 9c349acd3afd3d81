"""Copies are found, other images are not; the search agrees with one written out by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

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
    assert rows["copies", "whole"]["below_quantile"] >= 6
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
    assert reference["below_quantile"] == 1 and reference["expected_below_quantile"] == pytest.approx(0.8)
    assert reference["p_nearest"] == pytest.approx(
        stats.binomtest(reference["nearest_is_training"], 8, 0.6, alternative="greater").pvalue
    )
