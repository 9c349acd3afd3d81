"""The leak report: planted leaks are found and named, none are found where there are none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu

from SynthDiffusionLib.reader_study import leak_classifier, leaks
from SynthDiffusionLib.reader_study.build import build_study
from SynthDiffusionLib.reader_study.design import design_from_folders
from SynthDiffusionLib.reader_study.headers import read_header
from SynthDiffusionLib.reader_study.leak_classifier import find_leak, patient_folds
from SynthDiffusionLib.reader_study.leak_features import feature_table, intensity_features, texture_features
from SynthDiffusionLib.schemas import read_json
from SynthDiffusionLib.volumes import Volume, read_volume, write_volume

N = 10


def noise(seed: int, shape: tuple[int, int, int] = (12, 12, 12)) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.0)
    return np.rint(np.clip(field / field.std() * 200 - 400, -1000, 400)).astype(np.int16)


def write_arms(folder: Path, real_spacing=1.0, fake_spacing=1.0, fake_dtype=np.int16, metadata=None) -> None:
    """Ten volumes of either kind from one distribution, one time for all files."""
    for k, (arm, spacing) in enumerate((("real", real_spacing), ("fake", fake_spacing))):
        (folder / arm).mkdir()
        for i in range(N):
            array = noise(100 * k + i).astype(fake_dtype if k else np.int16)
            path = folder / arm / f"p{i}.nii.gz"
            write_volume(Volume(array, np.diag([spacing] * 3 + [1.0]), "HU", (metadata or {}) if k else {}), path)
            os.utime(path, (1_700_000_000, 1_700_000_000))


def report_of(folder: Path) -> dict:
    design = design_from_folders(folder / "real", {"arm-x": folder / "fake"})
    result = build_study(design, folder / "study", permutations=39)
    return read_json(result.private / "leaks.json")


@pytest.mark.parametrize(
    ("planted", "feature"),
    [({"fake_spacing": 0.5}, "spacing_i"), ({"fake_dtype": np.float32}, "voxel_type=float32")],
)
def test_a_planted_leak_is_found_before_and_gone_after(tmp_path, planted, feature):
    write_arms(tmp_path, **planted)
    report = report_of(tmp_path)
    before = report["before"]["header"]
    assert before["auc"]["value"] > 0.99 and before["p"] <= 0.05
    top = {f["name"]: f for f in before["features"] if f["p_holm"] < 0.01}
    assert feature in top
    after = report["after"]["header"]
    assert after["auc"] == {"value": 0.5, "low": 0.5, "high": 0.5} and after["p"] == 1.0
    assert any("told by" in line and "AUC 1.00" in line for line in leaks.summary(report))


def test_without_a_leak_nothing_is_found(tmp_path):
    write_arms(tmp_path)
    report = report_of(tmp_path)
    for stage in ("before", "after"):
        assert report[stage]["format"]["p"] > 0.05
    assert leaks.leaking(report["after"]) == []


def test_a_leak_that_is_left_is_warned_of(tmp_path):
    """Even numbers only, in one arm: a reader does not see it, but the files tell."""
    write_arms(tmp_path)
    for path in (tmp_path / "fake").iterdir():
        volume = read_volume(path)
        write_volume(volume.with_array(((volume.array // 2) * 2).astype(np.int16)), path)
    design = design_from_folders(tmp_path / "real", {"arm-x": tmp_path / "fake"})
    events: list[dict] = []
    result = build_study(design, tmp_path / "study", events.append, permutations=39)
    assert result.warnings and "odd_numbers" in result.warnings[0]
    assert any(e["event"] == "warning" and "odd_numbers" in e["message"] for e in events)
    # A step of 2 takes it away.
    mended = design_from_folders(tmp_path / "real", {"arm-x": tmp_path / "fake"}, blinding={"step": 2})
    assert build_study(mended, tmp_path / "mended", permutations=39).warnings == ()


def draw(seed: int, patients: int, features: int, paired: bool) -> tuple[np.ndarray, list, list]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(patients, features)) if paired else 0.0
    rows = [0.7 * shared + rng.normal(size=(patients, features)) for _ in range(2)]
    names = list(range(patients))
    return np.vstack(rows), [0] * patients + [1] * patients, names * 2 if paired else list(range(2 * patients))


@pytest.mark.parametrize("paired", [True, False])
def test_without_a_difference_the_interval_holds_one_half_and_p_is_small_seldom(paired):
    """40 tables of noise. At 5 %, two are expected below; seven or more have a probability below 0.4 %."""
    found = [
        find_leak(x, [str(i) for i in range(20)], truth, patients, permutations=19)
        for x, truth, patients in (draw(seed, 12, 20, paired) for seed in range(40))
    ]
    assert sum(f.auc.low <= 0.5 <= f.auc.high for f in found) >= 30
    assert sum(f.p <= 0.05 for f in found) <= 6
    p_values = np.array([f.p for f in found])
    assert 0.35 < p_values.mean() < 0.65


def test_patients_with_several_volumes_of_one_kind_do_not_make_p_small():
    """The null: what is alike within patients, six with four real volumes each and six with four synthetic ones."""
    small = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        patients = [i // 4 for i in range(48)]
        values = rng.normal(size=(12, 8))[patients] + 0.3 * rng.normal(size=(48, 8))
        found = find_leak(values, [f"f{i}" for i in range(8)], [0] * 24 + [1] * 24, patients, permutations=19)
        small.append(found.p <= 0.05)
    assert sum(small) <= 5  # P(6 or more of 30 at 5 %) = 0.003; exchanging single volumes gives about 7


def test_so_few_volumes_that_nothing_can_be_found():
    found = find_leak(np.array([[0.0], [0.0], [9.0], [9.0]]), ["f"], [0, 0, 1, 1], "abcd", permutations=99)
    assert found.smallest_p == pytest.approx(2 / 6)  # of the six ways to call two of four synthetic
    assert find_leak(np.zeros((4, 1)), ["f"], [0, 1, 0, 1], "aabb", permutations=9).smallest_p == pytest.approx(0.5)


@pytest.mark.parametrize("fault", ["none", "mirrored", "marked"])
def test_where_bright_and_dark_parts_lie(tmp_path, fault):
    """Volumes that are brighter at one side; of the synthetic ones all are mirrored, or marked in a corner."""
    for k, arm in enumerate(("real", "fake")):
        (tmp_path / arm).mkdir()
        for i in range(N):
            array = noise(100 * k + i) + np.linspace(0, 150, 12).astype(np.int16)[:, None, None]
            if k and fault == "mirrored":
                array = array[::-1]
            elif k and fault == "marked":
                array[0, 0, :] = 400
            write_volume(Volume(array, np.eye(4), "HU", {}), tmp_path / arm / f"p{i}.nii.gz")
    design = design_from_folders(tmp_path / "real", tmp_path / "fake", suffix=None)
    built = build_study(design, tmp_path / "study", permutations=39)
    told = any("Where bright and dark parts lie tells" in warning for warning in built.warnings)
    assert told == (fault != "none")


def test_real_differences_are_found_by_either_classifier():
    x, truth, patients = draw(3, 20, 15, False)
    truth_array = np.array(truth)
    linear = x.copy()
    linear[:, :8] += 0.9 * truth_array[:, None]  # many weak hints
    weak = find_leak(linear, [str(i) for i in range(15)], truth, patients, permutations=39)
    assert weak.aucs["linear"] > 0.85 and weak.p <= 0.05
    # In the middle of the range: no straight line parts it.
    middle = x.copy()
    middle[:, 4] = np.where(truth_array == 1, 0.0, np.where(np.arange(40) % 2 == 0, -3.0, 3.0))
    middle[:, 4] += 0.1 * np.random.default_rng(1).normal(size=40)
    curved = find_leak(middle, [str(i) for i in range(15)], truth, patients, permutations=39)
    assert curved.aucs["stumps"] > 0.95 > 0.75 > curved.aucs["linear"]
    assert curved.classifier == "stumps" and curved.p <= 0.05


def test_constant_features_give_one_half_and_no_nan():
    leak = find_leak(np.ones((12, 4)), list("abcd"), [0] * 6 + [1] * 6, list(range(12)), permutations=19)
    assert leak.to_json()["auc"] == {"value": 0.5, "low": 0.5, "high": 0.5} and leak.p == 1.0
    assert all(f["auc"] == 0.5 and f["p"] == f["p_holm"] == 1.0 for f in leak.features)
    json.dumps(leak.to_json(), allow_nan=False)


def test_no_features_and_single_patients_are_no_trouble():
    leak = find_leak(np.empty((6, 0)), [], [0, 1] * 3, [1, 1, 2, 2, 3, 3], permutations=9)
    assert leak.auc.value == 0.5 and leak.features == ()
    alone = find_leak(
        np.random.default_rng(0).normal(size=(4, 3)), list("abc"), [0, 1, 0, 1], [1, 1, 1, 1], permutations=9
    )
    assert alone.auc.value == 0.5  # one patient: nobody is left to learn from


def test_volumes_of_a_patient_are_never_in_training_and_test():
    truth = np.array([0, 1] * 10)
    patients = [i // 4 for i in range(20)]
    folds = patient_folds(patients, truth, 5, 1)
    for p in set(patients):
        assert len({f for f, q in zip(folds, patients) if q == p}) == 1
    assert len(set(folds)) == 5


def test_the_holm_correction_is_that_of_statsmodels():
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    x, truth, _ = draw(5, 15, 12, False)
    x[:, 2] += 2 * np.array(truth)
    rows = leak_classifier.single_features(x, [str(i) for i in range(12)], np.array(truth))
    expected = multipletests([r["p"] for r in rows], method="holm")[1]
    assert np.allclose([r["p_holm"] for r in rows], expected)


def test_auc_of_single_features_is_that_of_scipys_mann_whitney_statistic():
    x, truth, _ = draw(6, 15, 5, False)
    rounded, truth = np.round(x), np.array(truth)  # with ties
    for row in leak_classifier.single_features(rounded, list("abcde"), truth):
        column = rounded[:, "abcde".index(row["name"])]
        assert row["auc"] == pytest.approx(mannwhitneyu(column[truth == 1], column[truth == 0]).statistic / 225)


# Features


def test_intensity_features_name_what_a_format_leaves_behind():
    whole = np.arange(-500, 500, 2, dtype=np.int16)[:480].reshape(8, 10, 6)
    found = intensity_features(whole)
    assert found["whole_numbers"] == 1.0 and found["odd_numbers"] == 0.0 and found["smallest_step"] == 2.0
    assert found["distinct_values"] == 480 and found["entropy_bits"] == pytest.approx(np.log2(480))
    padded = np.pad(np.random.default_rng(0).normal(size=(8, 8, 8)), 2, constant_values=-1000.0)
    assert intensity_features(padded)["constant_border"] == 1.0
    assert intensity_features(padded)["at_minimum"] == pytest.approx(1 - 512 / 12**3)
    assert intensity_features(padded)["whole_numbers"] < 0.8


def test_texture_tells_smooth_from_sharp_and_does_not_depend_on_the_scale_of_values():
    sharp = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    blurred = gaussian_filter(sharp, 1.5)
    a, b, c = (texture_features(v, (1, 1, 1)) for v in (sharp, blurred, 40 * sharp + 7))
    assert a["laplacian_energy"] > b["laplacian_energy"] + 3 and a["high_frequency_i"] > 5 * b["high_frequency_i"]
    assert all(a[k] == pytest.approx(c[k], abs=1e-3) for k in a)
    # White noise: the second difference (1, -2, 1) has six times the variance, along each of three axes.
    assert np.exp(a["laplacian_energy"]) == pytest.approx(18, rel=0.05)


def test_a_field_that_only_some_files_have_is_a_feature(tmp_path):
    for name, marks in (("a", {}), ("b", {"description": "SYNTHETIC"})):
        write_volume(Volume(noise(1), np.eye(4), "HU", marks), tmp_path / f"{name}.nii.gz")
        write_volume(Volume(noise(1), np.eye(4), "HU", marks), tmp_path / f"{name}.nrrd")
    headers = [read_header(p) for p in sorted(tmp_path.iterdir())]
    table = feature_table(headers, [{}] * 4, [{}] * 4)
    assert "field descrip=none" in table.names and any(n.startswith("format=") for n in table.names)
    assert np.isfinite(table.values).all()


def test_headers_of_all_formats_tell_the_same_geometry(tmp_path):
    affine = np.diag([0.5, 0.75, 2.0, 1.0])
    affine[:3, 3] = (-10.0, 20.0, 30.0)
    found = []
    for suffix in ("nii.gz", "nii", "nrrd", "mha"):
        path = tmp_path / f"v.{suffix}"
        write_volume(Volume(noise(2, (9, 8, 7)), affine, "HU"), path)
        numbers = read_header(path).numbers
        found.append([numbers[f"{k}_{a}"] for k in ("size", "spacing") for a in "ijk"])
        found[-1] += [numbers[f"origin_{a}"] for a in "ras"]
    assert all(np.allclose(f, [9, 8, 7, 0.5, 0.75, 2, -10, 20, 30]) for f in found)


def test_a_dicom_series_is_looked_at_too(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    for synthetic in (False, True):
        folder = tmp_path / f"series{synthetic}"
        folder.mkdir()
        for k in range(3):
            data = Dataset()
            data.file_meta = FileMetaDataset()
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            data.SOPClassUID, data.SOPInstanceUID, data.Modality = CTImageStorage, generate_uid(), "CT"
            data.Rows, data.Columns, data.PixelSpacing, data.SliceThickness = 4, 6, [0.5, 0.25], 2.0
            data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2.0 * k]
            if synthetic:
                data.add_new(0x0008001C, "CS", "YES")
            data.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    real, fake = (read_header(tmp_path / f"series{s}") for s in (False, True))
    assert (real.numbers["spacing_i"], real.numbers["spacing_j"], real.numbers["spacing_k"]) == (0.25, 0.5, 2.0)
    assert real.numbers["size_i"] == 6 and real.numbers["files"] == 3
    assert real.says_synthetic is None and "0008,001C" in fake.says_synthetic
    assert pydicom is not None


# Words and the page


def test_words_are_found_in_names_and_headers(tmp_path):
    volumes, truths = [], []
    for i, (name, marks) in enumerate((("case7", {}), ("case7_m_seed1", {"description": "made by model-x"}))):
        path = tmp_path / f"{name}.nii.gz"
        write_volume(Volume(noise(i), np.eye(4), "HU", marks), path)
        volumes.append(leaks.measure_volume(path, noise(i), (1, 1, 1)))
        truths.append(i)
    found = leaks.find_words(volumes, truths, ["model-x", "s"], ["case7", "7"])  # an arm "s" is not in "case7"
    assert {(w["word"], w["where"], w["real"], w["synthetic"]) for w in found} == {
        ("case7", "file name", 1, 1),
        ("seed", "file name", 0, 1),
        ("model-x", "header", 0, 1),
    }
    assert found[-1]["is_name"]  # "7" alone is in too many files to tell anything


def test_the_page_is_escaped_and_says_how_wide_the_interval_is(tmp_path):
    write_arms(tmp_path)
    report = report_of(tmp_path)
    page = leaks.leaks_html(report, "<script>alert(1)</script>")
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "wide: with 10 real and 10 synthetic volumes, chance alone comes to" in page
    assert "image content (texture)" in page
