"""No-skill rows have the properties that they are named for; features and comparisons answer to what they are about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from tiny_evaluation import RANGE, VALUES, phantom_case, phantom_data

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation import noskill
from SynthDiffusionLib.evaluation.adherence import measure_adherence
from SynthDiffusionLib.evaluation.features import band_power, feature_table, standard_of, standardise, volume_features
from SynthDiffusionLib.evaluation.fidelity import measure_fidelity, split_halves
from SynthDiffusionLib.evaluation.rows import Row, as_evaluated, real_items, region_crop, synthesised_share

NODULE = VALUES["nodule"]


@pytest.fixture(scope="module")
def data():
    return phantom_data()


@pytest.fixture(scope="module")
def real(data):
    return real_items(data.evaluated, RANGE)


@pytest.fixture(scope="module")
def statistics(data):
    return noskill.training_statistics(data.training, range(5), NODULE, RANGE)


def test_training_statistics_are_those_of_the_training_cases(data, statistics):
    means = [c.image.array[c.classes.array == 2].clip(*RANGE).mean() for c in data.training]
    assert statistics.mean[2] == pytest.approx(np.mean(means), abs=0.01)
    volumes = [(c.classes.array == NODULE).sum() for c in data.training]
    assert 4 / 3 * np.pi * statistics.radius_mm**3 == pytest.approx(np.median(volumes))
    assert statistics.mean[0] == RANGE[0] and statistics.sd[0] == 0.0  # no case has a voxel outside the body
    assert np.abs(statistics.offset).max() < 1e-9  # the phantoms' nodules are in the middle


def test_the_ball_has_the_radius_and_place_and_sees_no_image(data, statistics):
    ball = noskill.ball((24, 24, 24), data.evaluated[0].image.affine, statistics)
    assert ball.sum() == pytest.approx(4 / 3 * np.pi * statistics.radius_mm**3, rel=0.2)
    assert np.argwhere(ball).mean(0) == pytest.approx([11.5] * 3)
    half_spacing = noskill.ball((48, 48, 48), np.diag([0.5, 0.5, 0.5, 1.0]), statistics)
    assert half_spacing.sum() == pytest.approx(8 * ball.sum(), rel=0.2)


def test_unrelated_images_are_real_and_of_other_patients(data, real):
    row = noskill.unrelated_real(real, data.others, RANGE)
    others = [as_evaluated(c.image.array, RANGE) for c in data.others]
    used = [next(i for i, o in enumerate(others) if np.array_equal(o, item.hu)) for item in row.items]
    assert sorted(used) == list(range(len(others)))  # each of them once
    assert row.patients == [i.patient for i in real]
    assert all(np.array_equal(a.classes, b.classes) for a, b in zip(row.items, real))
    assert [i.case for i in noskill.unrelated_real(real, data.others, RANGE).items] == [i.case for i in row.items]
    with pytest.raises(BadInput, match="two parts"):
        noskill.unrelated_real(real, data.evaluated, RANGE)


def test_painted_classes_have_the_mean_and_the_noise_of_the_classes(real, statistics):
    row = noskill.class_means_noise(real, statistics, RANGE)
    lung = np.concatenate([i.hu[i.classes == 2] for i in row.items])
    # Clipping at the ends of the range moves a normal distribution by an amount that is known.
    drawn = np.clip(np.random.default_rng(0).normal(statistics.mean[2], statistics.sd[2], 400_000), *RANGE)
    assert lung.mean() == pytest.approx(drawn.mean(), abs=2) and lung.std() == pytest.approx(drawn.std(), rel=0.05)
    hu, inside = row.items[0].hu, row.items[0].classes == 2
    pairs = inside[:-1] & inside[1:]
    assert abs(np.corrcoef(hu[:-1][pairs], hu[1:][pairs])[0, 1]) < 0.05  # no texture
    again = noskill.class_means_noise(real, statistics, RANGE)
    assert all(np.array_equal(a.hu, b.hu) for a, b in zip(row.items, again.items))


def test_the_blob_is_the_only_thing_in_the_lung(real, statistics):
    row = noskill.blob_flat(real, statistics, 2, NODULE, RANGE, "lung")
    for item in row.items:
        far = ndimage.distance_transform_edt(item.classes != NODULE) > 5
        assert np.ptp(item.hu[far]) == 0 and item.hu[far][0] == np.rint(statistics.mean[2])
        assert item.hu.max() == item.hu[item.classes == NODULE].max()


def test_pasting_changes_the_region_and_nothing_else(real, statistics):
    blob = noskill.blob_flat(real, statistics, 2, NODULE, RANGE, "lung")
    row = noskill.pasted(blob, real, NODULE, 4.0)
    for item, original, filling in zip(row.items, real, blob.items):
        share = synthesised_share(original.classes == NODULE, original.affine, 4.0)
        inside = original.classes == NODULE
        assert np.array_equal(item.hu[share == 0], original.hu[share == 0])
        assert np.array_equal(item.hu[inside], filling.hu[inside])
        assert 0 < (share > 0).mean() < 0.5


def test_a_region_crop_holds_the_nodule_and_keeps_its_place(real):
    item = replace(real[0], classes=np.roll(real[0].classes, (8, -8, 0), (0, 1, 2)))
    crop = region_crop(item, NODULE, 12)
    assert crop.hu.shape == (12, 12, 12)
    assert (crop.classes == NODULE).sum() == (item.classes == NODULE).sum()
    voxel = np.argwhere(crop.classes == NODULE)[0]
    world = crop.affine @ [*voxel, 1]
    back = np.rint(np.linalg.inv(item.affine) @ world)[:3].astype(int)
    assert crop.hu[tuple(voxel)] == item.hu[tuple(back)]


def test_features_see_what_they_are_named_for(real):
    item = real[0]
    nodule = item.classes == NODULE
    plain = volume_features(item.hu, nodule, RANGE)
    smooth = volume_features(ndimage.gaussian_filter(item.hu, 1.0), nodule, RANGE)
    brighter = volume_features(np.where(nodule, item.hu + 200, item.hu), nodule, RANGE)
    assert smooth["lung noise"] < plain["lung noise"]
    assert smooth["residual correlation at 1"] > plain["residual correlation at 1"]
    assert smooth["log power 0.3-0.5"] < plain["log power 0.3-0.5"] - 0.5
    assert abs(smooth["log power 0.03-0.1"] - plain["log power 0.03-0.1"]) < 0.2
    assert brighter["nodule mean"] == pytest.approx(plain["nodule mean"] + 200, abs=0.01)
    assert brighter["rim mean"] == plain["rim mean"]
    flat = volume_features(np.full((12, 12, 12), -800.0), np.zeros((12, 12, 12), bool), RANGE)
    assert np.isnan(flat["nodule mean"]) and flat["texture contrast"] == 0 and flat["residual correlation at 1"] == 0


def test_white_noise_has_a_flat_spectrum():
    bands = band_power(np.random.default_rng(0).standard_normal((32, 32, 32)) * 50)
    assert np.ptp(bands) < 0.1


def test_standardised_training_features_have_mean_0_and_deviation_1(data):
    names, values = feature_table(real_items(data.training, RANGE), NODULE, RANGE)
    scaled = standardise(values, standard_of(names, values))
    vary = values.std(0) > 1e-3 * np.abs(values.mean(0)) + 1e-6
    assert vary.sum() > 25
    assert np.allclose(scaled.mean(0), 0, atol=1e-9) and np.allclose(scaled[:, vary].std(0, ddof=1), 1)


def test_halves_of_one_population_are_round_zero_apart():
    values = np.random.default_rng(0).normal(size=(40, 5))
    found = split_halves(values, 30, 3.0)
    assert found["size"] == 20
    assert found["mmd2"][0] < 0 < found["mmd2"][2] and abs(found["mmd2"][1]) < 0.05


def test_adherence_of_a_perfect_and_of_a_wrong_model(data):
    """The segmenter is a threshold, so all that counts is what the arms draw."""
    real = real_items(data.evaluated, RANGE)
    drawn = tuple(replace(i, hu=np.where(i.classes == NODULE, 300.0, -1000.0).astype(np.float32), seed=0) for i in real)
    beside = tuple(replace(i, hu=np.roll(i.hu, 10, 1)) for i in drawn)
    arms = {
        "nodule": Row("nodule", "nodule alone", "ours", drawn),
        "anatomy": Row("anatomy", "anatomy", "ours", beside),
    }
    result = measure_adherence(data, arms, lambda hu: hu > 250.0, None)
    rows = {r["row"]: r for r in result["rows"]}
    assert rows["nodule"]["dice_mean"] == 1.0 and rows["nodule"]["found"] == 1.0 and rows["nodule"]["false_ml"] == 0.0
    assert rows["anatomy"]["dice_mean"] == 0.0 and rows["anatomy"]["found"] == 0.0 and rows["anatomy"]["false_ml"] > 0
    assert set(rows) >= {"real", "real_shifted", "ball", "unrelated_real", "class_means_noise", "blob_flat_lung"}
    assert not result["verdicts"]["anatomy"]["ratio_within_limits"]
    assert not result["real_dice_sufficient"]  # the threshold finds no phantom nodule


def test_ratio_one_when_the_arm_is_the_real_images(data):
    real = real_items(data.evaluated, RANGE)
    arms = {"nodule": Row("nodule", "nodule alone", "ours", real)}

    def segment(hu):
        middle = np.zeros(hu.shape, bool)
        middle[8:16, 8:16, 8:16] = True
        return (hu > -400) & middle

    result = measure_adherence(data, arms, segment, None)
    row = next(r for r in result["rows"] if r["row"] == "nodule")
    assert row["ratio"] == 1.0 and row["ratio_interval"] == [1.0, 1.0]
    assert (
        result["verdicts"]["nodule"]["ratio_within_limits"] and result["verdicts"]["nodule"]["interval_within_limits"]
    )
    assert set(result["verdicts"]["nodule"]["against_no_skill"]) == {
        "ball",
        "unrelated_real",
        "class_means_noise",
        "blob_flat_lung",
    }


def test_fidelity_tells_a_shift_of_the_nodule_and_leaves_the_rest(data):
    real = real_items(data.evaluated, RANGE)
    lighter = tuple(replace(i, hu=i.hu + np.where(i.classes == NODULE, 60.0, 0.0).astype(np.float32)) for i in real)
    arms = {
        "anatomy": Row("anatomy", "anatomy", "ours", lighter),
        "inpainting": Row("inpainting", "inpainting", "ours", real),
    }
    result = measure_fidelity(data, arms, 4.0, auc_steps=0)
    rows = {(r["row"], r["view"]): r for r in result["rows"]}
    ours = rows["anatomy", "whole"]["classes"]
    assert ours["nodule"]["difference"]["value"] == pytest.approx(60, abs=0.01)
    assert ours["nodule"]["wasserstein"]["value"] == pytest.approx(60, abs=5)
    assert ours["lung"]["difference"]["value"] == 0 and ours["lung"]["l1"] == 0
    assert "nodule mean" in rows["anatomy", "whole"]["largest_differences"]
    # Real images under the same masks: no difference at all, and nothing outside the region is compared.
    same = rows["inpainting", "region"]
    assert set(same["classes"]) == {"nodule", "rim"}
    assert all(c["l1"] == 0 for c in same["classes"].values()) and same["frechet"]["value"] == 0
    assert same["mmd2"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    # What a person sees at once: painted classes are far from real ones, other real images are near.
    assert rows["class_means_noise", "whole"]["mmd2"]["low"] > rows["real_reference", "whole"]["mmd2"]["value"]
    assert set(rows["anatomy", "whole"]["auc"]) == {"features"}  # no networks were asked for
    assert rows["inpainting", "region"]["auc"]["features"]["value"] == 0.5
    assert rows["class_means_noise", "whole"]["auc"]["features"]["low"] > 0.9
    assert 0.1 < rows["real_reference", "whole"]["auc"]["features"]["value"] < 0.9


def test_given_the_nodule_alone_lung_and_bone_are_not_compared(data):
    real = real_items(data.evaluated, RANGE)
    result = measure_fidelity(data, {"nodule": Row("nodule", "nodule alone", "ours", real)}, None, auc_steps=0)
    row = next(r for r in result["rows"] if r["row"] == "nodule")
    assert set(row["classes"]) == {"all", "nodule"}


def test_an_arm_that_realism_is_not_measured_on_is_refused(data):
    arms = {"moved": Row("moved", "moved", "ours", real_items(data.evaluated, RANGE))}
    with pytest.raises(BadInput, match="no arm that realism"):
        measure_fidelity(data, arms, None, auc_steps=0)


def test_phantoms_differ_from_each_other():
    assert not np.array_equal(phantom_case(0).image.array, phantom_case(1).image.array)
