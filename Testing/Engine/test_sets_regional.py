"""Regional volumes: arithmetic against scipy and SimpleITK, tests that keep their level, changes that must be found."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats
from tiny_label_sets import AFFINE, as_set, case, phantom_set

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets import regional, volumes
from SynthDiffusionLib.evaluation.sets.image_set import Frame, read_set
from SynthDiffusionLib.evaluation.sets.radiomics import CODES, radiomics
from SynthDiffusionLib.evaluation.sets.segmenters import Segmented
from SynthDiffusionLib.evaluation.sets.volumes import Whole, measure_case, measure_sets
from SynthDiffusionLib.evaluation.sets.volumes_report import build_sections


def numbered(values, prefix="p") -> dict[str, float]:
    return {f"{prefix}{i}": float(v) for i, v in enumerate(values)}


# Distances and tests.


@pytest.mark.parametrize("sizes", [(12, 12), (10, 25), (30, 11)])
def test_distances_are_those_of_scipy(sizes):
    rng = np.random.default_rng(sizes)
    a, b = rng.normal(size=sizes[0]).round(1), rng.normal(0.4, 1.3, sizes[1]).round(1)  # rounded: ties
    found = regional.compare(numbered(a), numbered(b, "q"), permutations=99)
    assert found.wasserstein == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-9)
    assert found.ks == pytest.approx(stats.ks_2samp(a, b).statistic, rel=1e-9)


def test_p_values_are_those_of_scipys_permutation_test():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=14), rng.normal(0.7, 1, 11)
    found = regional.compare(numbered(a), numbered(b, "q"), permutations=9999)
    theirs = stats.permutation_test(
        (a, b),
        stats.wasserstein_distance,
        alternative="greater",
        n_resamples=2999,
        random_state=np.random.default_rng(4),
    ).pvalue
    assert found.wasserstein_p == pytest.approx(theirs, abs=0.02)
    theirs = stats.permutation_test(
        (a, b),
        lambda x, y: np.mean(y) - np.mean(x),
        n_resamples=2999,
        random_state=np.random.default_rng(4),
        vectorized=False,
    ).pvalue
    assert found.difference_p == pytest.approx(theirs, abs=0.02)
    assert found.ks_p == pytest.approx(stats.ks_2samp(a, b, method="exact").pvalue, abs=0.02)


def test_patients_of_both_sets_are_exchanged_within_themselves():
    # Patients differ a lot, each synthetic volume is a little larger than its own patient's: only pairs show it. With
    # all n differences of one sign, 2 of the 2^n exchanges have as large a difference of the means. The trap: the
    # distance of the distributions is the same however pairs are exchanged that lie so far from each other.
    rng = np.random.default_rng(5)
    a = rng.normal(100, 20, 8)
    b = a + 0.5
    paired = regional.compare(numbered(a), numbered(b), permutations=19999)
    assert paired.difference == pytest.approx(0.5)
    assert paired.difference_p == pytest.approx(2 / 2**8, abs=0.003)
    theirs = stats.permutation_test((a, b), lambda x, y: np.mean(y - x), permutation_type="samples", vectorized=False)
    assert paired.difference_p == pytest.approx(theirs.pvalue, abs=0.003)
    assert paired.wasserstein == pytest.approx(0.5) and paired.wasserstein_p > 0.4
    apart = regional.compare(numbered(a), numbered(b, "q"), permutations=999)
    assert apart.wasserstein_p > 0.5 and apart.difference_p > 0.5
    same = regional.compare(numbered(a), numbered(a), permutations=999)
    assert same.wasserstein == 0.0 and same.wasserstein_p == same.difference_p == same.ks_p == 1.0


@pytest.mark.parametrize("shared", [0, 12, 6])
def test_the_level_is_kept(shared):
    rng = np.random.default_rng(6)
    called = np.zeros(2, int)
    for _ in range(300):
        a, b = rng.lognormal(0, 0.4, 12), rng.lognormal(0, 0.4, 12)
        second = {f"{'p' if i < shared else 'q'}{i}": float(v) for i, v in enumerate(b)}
        found = regional.compare(numbered(a), second, permutations=199)
        called += np.array([found.wasserstein_p, found.difference_p]) <= 0.05
    assert all(stats.binomtest(int(n), 300, 0.05).pvalue > 0.005 for n in called)


def test_sensitivity_knows_what_halves_show():
    rng = np.random.default_rng(7)
    values = rng.normal(100, 3, 40)
    found = regional.sensitivity(values, 1.1 * values, 1.2 * values, halvings=50)
    assert found.false < 0.2 and found.larger_10 > 0.95 and found.larger_20 == 1.0 and found.mean_only > 0.95
    wide = rng.normal(100, 40, 40)
    found = regional.sensitivity(wide, 1.1 * wide, 1.2 * wide, halvings=50)
    assert found.larger_10 < 0.4
    assert found.floor < found.floor_95 < 40


# Volumes and texture.


def test_voxel_volume_is_of_the_affine_even_where_it_is_oblique():
    turn = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.5, 2.0, 3.0])
    assert regional.voxel_ml(affine) == pytest.approx(0.003)


def test_counts_and_shares():
    labels = np.zeros((10, 10, 10), np.uint16)
    labels[:4] = 1
    labels[9] = 5
    assert regional.region_counts(labels, [1, 5, 9]).tolist() == [400, 100, 0]
    one = case("a", labels, np.zeros(labels.shape, np.float32))
    found = measure_case(one, None, [1, 5, 9], Whole())
    assert found.ml == pytest.approx({1: 4.8, 5: 1.2, 9: 0.0}) and found.whole_ml == pytest.approx(6.0)
    assert found.share(1) == pytest.approx(0.8) and np.isnan(found.share(9))
    # Ten per cent larger, the whole with it: 4.4 of 6.4 thirds.
    assert found.share(1, 1.1, grows=True) == pytest.approx(5.28 / 6.48)
    assert found.share(1, 1.1) == pytest.approx(5.28 / 6.0)
    assert measure_case(one, None, [1, 5], Whole("classes", (5,))).share(1) == pytest.approx(4.0)


def test_overlapping_classes_of_a_segmenter_count_once_in_the_union():
    first, second = np.zeros((4, 4, 4), np.uint16), np.zeros((4, 4, 4), np.uint16)
    first[:2], second[1:3] = 1, 2
    one = case("a", None, np.zeros((4, 4, 4), np.float32))
    found = measure_case(one, Segmented((first, second)), [1, 2], Whole())
    assert found.whole_ml == pytest.approx(48 * 0.012) and found.ml[1] == found.ml[2] == pytest.approx(32 * 0.012)


def test_texture_of_known_patterns():
    grid = np.indices((12, 12, 12)).sum(0)
    checks = np.where(grid % 2, 1.0, -1.0)
    everywhere = np.ones(checks.shape, bool)
    mean, sd, local, _ = regional.texture(checks * 7 + 1000, everywhere)
    assert mean == pytest.approx(1000) and sd == pytest.approx(7)
    # 13 or 14 of 27 voxels are of the one kind, and 9 of 18 or 6 of 12 at the ends: nearly the same everywhere.
    assert local == pytest.approx(7, rel=2e-3)
    halves = np.where(np.indices(checks.shape)[0] < 6, 0.0, 100.0)
    mean, sd, local, _ = regional.texture(halves, everywhere)
    assert sd == pytest.approx(50) and local < 10  # flat but for the plane where they meet
    inner = np.zeros(checks.shape, bool)
    inner[2:5] = True
    assert regional.texture(halves, inner) == (0.0, 0.0, 0.0, 1.0)  # what lies outside a region does not count
    line = np.zeros(checks.shape, bool)
    line[5, 5] = True
    assert np.isnan(regional.texture(checks, line)[2])
    assert np.isnan(regional.texture(checks, ~everywhere)).all()


def test_texture_is_that_of_scipys_generic_filter():
    rng = np.random.default_rng(8)
    image = rng.normal(50, 9, (9, 9, 9))
    mask = np.zeros(image.shape, bool)
    mask[1:8, 1:8, 1:8] = True
    local = ndimage.generic_filter(np.where(mask, image, np.nan), np.nanstd, 3)
    count = ndimage.uniform_filter(mask.astype(float), 3) * 27
    expected = local[mask & (np.rint(count) >= 14)].mean()
    assert regional.texture(image, mask)[2] == pytest.approx(expected, rel=1e-9)


def test_neighbour_correlation_is_ibsis_of_grey_levels():
    rng = np.random.default_rng(9)
    rough = rng.normal(0, 1, (12, 10, 9))
    mask = rng.random(rough.shape) < 0.8
    for image in (rough, ndimage.gaussian_filter(rough, 1.0)):
        levels = np.clip(np.round(image / image.std() * 6) + 16, 1, 32)
        expected = radiomics(levels - 0.5, (0.0, 32.0), mask)[CODES.index("NI2N")]
        found = regional.texture(40.0 * levels - 1000.0, mask)[3]  # whatever the brightness and contrast
        assert found == pytest.approx(expected, rel=1e-9)
    assert abs(regional.texture(rough, mask)[3]) < 0.1 and found > 0.5
    corners = np.indices((5, 5, 5)).sum(0) % 2 == 0
    corners[1::2] = corners[:, 1::2] = corners[:, :, 1::2] = False  # no two touch
    assert np.isnan(regional.texture(rough[:5, :5, :5], corners)[3])


def test_the_interval_of_a_mean_difference_is_scipys():
    rng = np.random.default_rng(10)
    first = {f"a{i}": float(v) for i, v in enumerate(rng.normal(3, 1, 25))}
    second = {f"b{i}": float(v) for i, v in enumerate(rng.normal(4, 2, 30))}
    found = regional.difference_interval(first, second)
    samples = np.array(list(first.values())), np.array(list(second.values()))
    expected = stats.bootstrap(
        samples, lambda a, b, axis: b.mean(axis) - a.mean(axis), n_resamples=4999, method="percentile", rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.1)
    # All patients alike by 0.5 more: paired, nothing else varies.
    found = regional.difference_interval(first, {p: v + 0.5 for p, v in first.items()})
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_main_figures_stand_beside_the_floor_and_a_model_without_skill():
    real, synthetic = phantom_set("real", 14, seed=1), phantom_set("synthetic", 14, seed=2, prefix="q")
    found = measure_sets(real, synthetic, None, [], Whole(), permutations=199, seed=1)
    mean, distance = build_sections(found, "HU", None, True)[0].headlines[:2]
    row = next(r for r in found.rows if found.names[r["value"]] == mean["row"])
    shares = np.array(list(volumes.by_patient(found.real, [c.share(row["value"]) for c in found.real]).values()))
    alike = stats.wasserstein_distance(shares, np.full(len(shares), shares.mean()))
    assert distance["cartoon"] == pytest.approx(100 * alike) and mean["cartoon"] == 0
    assert mean["low"] <= mean["value"] <= mean["high"] and mean["n"] == 14


def test_body_is_taken_from_the_image_with_its_lungs():
    image = np.full((20, 20, 8), -1000.0, np.float32)
    image[3:17, 3:17] = 40
    image[6:10, 6:10] = -850  # lung
    image[0, 0] = 500  # the table
    mask = regional.body_mask(image, -300)
    assert mask.sum() == 14 * 14 * 8
    assert not regional.body_mask(np.full((4, 4, 4), -1000.0), -300).any()


# Sets.


def test_a_region_that_is_larger_is_found_and_others_are_not():
    real, synthetic = phantom_set("real", 24, seed=1), phantom_set("synthetic", 24, seed=2, prefix="q")
    same = measure_sets(real, synthetic, None, [], Whole("classes", (1,)), permutations=1999, seed=1)
    assert not any(r["differs"] for r in same.rows)
    # All small boxes grow by a plane on one side: by a third.
    grown = []
    for c in synthetic.cases:
        labels = np.where(ndimage.binary_dilation(c.labels == 2, iterations=1), 2, c.labels).astype(np.uint16)
        grown.append(replace(c, labels=labels))
    other = measure_sets(real, as_set("synthetic", grown), None, [], Whole("classes", (1,)), permutations=1999, seed=1)
    assert {r["value"]: r["differs"] for r in other.rows} == {1: False, 2: True}
    text = " ".join(build_sections(other, "HU", None, True)[0].sentences)
    assert "spleen" in text and "larger on average" in text and "liver:" not in text


def test_intensities_that_differ_are_found():
    real, synthetic = phantom_set("real", 12, seed=1), phantom_set("synthetic", 12, seed=2, prefix="q", noise=10.0)
    found = measure_sets(real, synthetic, None, [], Whole(), permutations=1999, seed=1)
    called = {(r["value"], r["figure"]): r["differs"] for r in found.textures}
    assert called[1, "sd"] and called[1, "local_sd"] and not called[1, "mean"]


def test_fewer_than_ten_patients_are_listed_and_not_compared():
    real, synthetic = phantom_set("real", 12), phantom_set("synthetic", 9, seed=2, prefix="q")
    found = measure_sets(real, synthetic, None, [], Whole(), seed=1)
    assert not found.compared and not found.rows
    sections = build_sections(found, "HU", None, True)
    assert "no distribution is compared" in sections[0].sentences[0]
    assert [r["synthetic_n"] for r in sections[0].tables[0].rows] == [9, 9]
    # Of one patient a hundred volumes are still one patient.
    many = [replace(c, patient="one") for c in phantom_set("synthetic", 15, seed=2).cases]
    assert not measure_sets(real, as_set("synthetic", many), None, [], Whole(), seed=1).compared


def test_masks_of_real_patients_are_noticed():
    real = phantom_set("real", 12)
    found = measure_sets(real, replace(real, role="synthetic"), None, [], Whole(), permutations=199, seed=1)
    assert found.same_masks == 12 and all(r["p"] == 1.0 for r in found.rows)
    text = " ".join(build_sections(found, "HU", None, True)[0].sentences)
    assert "12 of the 12 synthetic label maps are real ones, so that agreement with the real ones says nothing" in text
    assert "asked for, not what is in the images" in text


def test_one_real_mask_among_many_does_not_dismiss_the_others():
    real, synthetic = phantom_set("real", 12), phantom_set("synthetic", 12, seed=2, prefix="q")
    mixed = as_set("synthetic", [replace(synthetic.cases[0], labels=real.cases[0].labels), *synthetic.cases[1:]])
    found = measure_sets(real, mixed, None, [], Whole(), permutations=199, seed=1)
    answer = build_sections(found, "HU", None, True)[0].sentences[0]
    assert answer.endswith("; 1 of the 12 synthetic label maps is a real one, which says nothing about the model.")


def test_missing_regions_and_empty_masks_are_counted():
    real, synthetic = phantom_set("real", 16), phantom_set("synthetic", 16, seed=2, prefix="q")
    cases = list(synthetic.cases)
    for i in range(12):
        cases[i] = replace(cases[i], labels=np.where(cases[i].labels == 2, 0, cases[i].labels))
    cases[12] = replace(cases[12], labels=np.zeros_like(cases[12].labels))
    found = measure_sets(real, as_set("synthetic", cases), None, [], Whole(), permutations=199, seed=1)
    sections = {s.id: s for s in build_sections(found, "HU", None, True)}
    left = sections["left-out"]
    text = " ".join(left.sentences)
    assert "1 synthetic volume without any region: q12" in text
    assert "Not equally often there in real and synthetic patients: spleen" in text
    row = next(r for r in left.tables[0].rows if r["region"] == "spleen")
    assert (row["real"], row["synthetic"]) == (16, 3)
    assert row["p"] == pytest.approx(stats.fisher_exact([[16, 0], [3, 13]]).pvalue)
    shares = sections["shares"]
    assert "fewer than 10 patients of either set, and not compared: spleen" in " ".join(shares.sentences)
    # A report shows the first sentence and the main figures alone.
    assert shares.sentences[0].startswith("spleen is in 3 of 16 synthetic patients and in 16 of 16 real ones (")
    first = shares.headlines[0]
    assert (first["row"], first["value"], first["reference"]) == ("spleen", 3 / 16, 1.0)


def test_a_region_that_no_synthetic_volume_has_is_told_first():
    real, synthetic = phantom_set("real", 12), phantom_set("synthetic", 12, seed=2, prefix="q")
    without = [replace(c, labels=np.where(c.labels == 2, 0, c.labels)) for c in synthetic.cases]
    whole = Whole("body", above=-300.0)
    found = measure_sets(real, as_set("synthetic", without), None, [], whole, permutations=199, seed=1)
    answer = build_sections(found, "HU", None, True)[0].sentences[0]
    assert answer.startswith("spleen is in none of 12 synthetic patients and in 12 of 12 real ones")
    same = measure_sets(real, synthetic, None, [], Whole(), permutations=199, seed=1)
    assert build_sections(same, "HU", None, True)[0].sentences[0].startswith("Of 2 regions")


def test_the_only_region_has_no_share_of_itself():
    real = as_set("real", [replace(c, labels=(c.labels == 1).astype(np.uint16)) for c in phantom_set("real", 3).cases])
    with pytest.raises(BadInput, match="only region") as error:
        measure_sets(real, None, None, [], Whole(), seed=1)
    assert "--of body" in error.value.hint
    assert measure_sets(real, None, None, [], Whole("body", above=-300.0), seed=1).real[0].share(1) > 0


def test_no_region_at_all():
    real = as_set("real", [case("a", np.zeros((4, 4, 4), np.uint16), np.zeros((4, 4, 4), np.float32))])
    with pytest.raises(BadInput, match="No volume has any"):
        measure_sets(real, None, None, [], Whole(), seed=1)


# The CT with 61 classes.


@pytest.fixture(scope="module")
def abdomen(shared_data, tmp_path_factory):
    folder = shared_data / "inputs" / "abdomen"
    with (folder / "label_names_total.csv").open() as stream:
        names = {int(r["value"]): r["name"] for r in csv.DictReader(stream)}
    one = folder / "abdomen_pelvis_ct_3mm"
    images, labels = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("labels")
    (images / "a.nii.gz").write_bytes((one / "example_ct.nii.gz").read_bytes())
    (labels / "a.nii.gz").write_bytes((one / "example_seg_fast_force_split.nii.gz").read_bytes())
    frame = Frame("CT", None, (-1000.0, 1000.0))
    return read_set("real", images, frame, labels=labels, classes=names, least=1), labels / "a.nii.gz"


def test_volumes_of_61_classes_are_those_of_simpleitk(abdomen):
    sitk = pytest.importorskip("SimpleITK")
    real, file = abdomen
    found = measure_sets(real, None, None, [], Whole(), seed=1)
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(sitk.Cast(sitk.ReadImage(str(file)), sitk.sitkUInt16))
    theirs = {v: statistics.GetPhysicalSize(v) / 1000 for v in statistics.GetLabels()}
    assert len(theirs) == 61 and set(found.real[0].ml) == set(theirs)
    assert found.real[0].ml == pytest.approx(theirs, rel=1e-9)
    assert found.real[0].share(5) == pytest.approx(theirs[5] / sum(theirs.values()), rel=1e-9)
    text = build_sections(found, "HU", None, True)[0].sentences[0]
    assert "nothing is compared" in text
    assert sum(len(s.tables[0].rows) for s in build_sections(found, "HU", None, True) if s.id == "shares") == 61


def test_of_deformed_abdomens_the_larger_liver_is_found_and_no_vertebra(abdomen):
    """Patients made from one: smooth deformations of its label map, with every structure's size varying."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))
    from regional_changes import deformed, enlarged

    real, _ = abdomen
    labels = real.cases[0].labels[::3, ::3, ::3]
    values = [v for v in (1, 2, 3, 5, 6, 27, 28, 29, 52) if (labels == v).sum() > 30]
    labels = np.where(np.isin(labels, values), labels, 0)
    image = np.zeros(labels.shape, np.float32)

    def people(role: str, first: int, factor: float):
        cases = []
        for seed in range(first, first + 14):
            one = deformed(labels, seed)
            cases.append(case(f"{role}{seed}", enlarged(one, 5, factor) if factor != 1 else one, image))
        return replace(as_set(role, cases), classes=real.classes)

    whole = Whole("classes", tuple(v for v in values if v != 5))
    first = people("real", 0, 1.0)
    found = measure_sets(first, people("synthetic", 100, 1.2), None, [], whole, permutations=1999, seed=1)
    called = [found.names[r["value"]] for r in found.rows if r["differs"]]
    assert called == ["liver"]
    found = measure_sets(first, people("synthetic", 100, 1.0), None, [], whole, permutations=1999, seed=1)
    assert not [r for r in found.rows if r["differs"]]
    assert volumes.FEWEST_CASES == 10 and AFFINE.shape == (4, 4)
