"""`prepare` for MR and for classes taken from the file: intensities, labels, one size for all cases."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tiny_training import LPS, ball, write_pairs

from SynthDiffusionLib.cli import main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels import map_to_model
from SynthDiffusionLib.labels.scheme import load_scheme
from SynthDiffusionLib.training.dataset import load_split, read_description
from SynthDiffusionLib.training.fixed_size import cut_or_pad, window_start
from SynthDiffusionLib.training.mr_intensity import percentile_range, to_scale
from SynthDiffusionLib.training.prepare import prepare, split_by_patient
from SynthDiffusionLib.volumes import Code, Segment, Segmentation, Volume, write_segmentation, write_volume

ANTERIOR, POSTERIOR = "anterior hippocampus", "posterior hippocampus"
SHAPE = (20, 22, 14)


def phantom_mr(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An MR image in no unit and labels 1 and 2, one behind the other."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    labels[ball(SHAPE, (10, 7, 7), 3.5)] = 1
    labels[ball(SHAPE, (10, 14, 7), 3.5)] = 2
    return (rng.gamma(4.0, 50.0, SHAPE) + 150 * labels).astype(np.float32), labels


def write_mr(folder: Path, names: list[str], affine: np.ndarray = LPS) -> tuple[Path, Path]:
    """`images/NAME.nii.gz` and `labels/NAME.nii.gz`; returns both folders."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        image, labels = phantom_mr(seed)
        write_volume(Volume(image, affine, "arbitrary"), folder / "images" / f"{name}.nii.gz")
        write_volume(Volume(labels, affine, "label"), folder / "labels" / f"{name}.nii.gz")
    return folder / "images", folder / "labels"


def refusal(capsys, *arguments: object) -> str:
    assert main(["prepare", *map(str, arguments)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("synthdiffusion: error: ")
    return error


# --- intensities --------------------------------------------------------------------------------------------------


def test_the_two_percentiles_become_0_and_1000():
    """On the whole numbers from 0 to 1000, percentile 0.5 is 5 and 99.5 is 995: v becomes (v - 5) 1000 / 990."""
    ramp = np.random.default_rng(0).permutation(np.arange(1001)).reshape(7, 11, 13)
    assert percentile_range(ramp, "a") == (5.0, 995.0)
    scaled = to_scale(ramp, 5.0, 995.0)
    assert scaled.dtype == np.int16
    expected = {0: 0, 5: 0, 104: 100, 500: 500, 896: 900, 995: 1000, 1000: 1005}
    assert {v: int(scaled[ramp == v][0]) for v in expected} == expected
    assert to_scale(np.array([-1e9, 1e9]), 5.0, 995.0).tolist() == [0, 1500]


@pytest.mark.parametrize(("factor", "offset"), [(1e4, 0.0), (1e-4, 0.0), (3.0, -500.0)])
def test_the_scale_of_the_scanner_does_not_matter(factor, offset):
    """To one grey value of 1000: the data sets differ by four orders of magnitude."""
    image, _ = phantom_mr(1)
    other = image.astype(np.float64) * factor + offset
    a, b = (to_scale(v, *percentile_range(v, "a")).astype(int) for v in (image, other))
    assert np.abs(a - b).max() <= 1
    assert (a <= 0).mean() == pytest.approx(0.005, abs=0.001) and (a >= 1000).mean() == pytest.approx(0.005, abs=0.001)


def test_images_without_contrast_are_refused(tmp_path, capsys):
    images, labels = write_mr(tmp_path, ["p1"])
    arguments = (images, labels, "--out", tmp_path / "out", "--scheme", "limb-tumour-mr", "--split", "1,0,0")
    flat = np.full(SHAPE, 7.0, np.float32)
    write_volume(Volume(flat, LPS, "arbitrary"), images / "p1.nii.gz")
    assert "'p1.nii.gz' is constant (7)" in refusal(capsys, *arguments)
    flat[3, 3, 3] = 100
    write_volume(Volume(flat, LPS, "arbitrary"), images / "p1.nii.gz")
    assert "is 7 in more than 99 % of its voxels" in refusal(capsys, *arguments)
    assert not (tmp_path / "out").exists()


# --- classes ------------------------------------------------------------------------------------------------------


def test_the_label_values_of_the_hippocampus_are_its_classes(tmp_path):
    images, labels = write_mr(tmp_path, ["p1", "p2", "p3"])
    prepare(images, labels, tmp_path / "out", load_scheme("hippocampus-mr"), split=(1, 1, 1))
    description = read_description(tmp_path / "out")
    assert description["unit"] == "arbitrary"
    assert description["classes"] == {ANTERIOR: 1, POSTERIOR: 2}
    assert (description["target"], description["targets"]) == (ANTERIOR, [ANTERIOR, POSTERIOR])
    assert description["normalisation"] == {"percentiles": [0.5, 99.5], "become": [0.0, 1000.0], "limits": [0, 1500]}
    assert "size" not in description
    for part in ("train", "validation", "test"):
        (case,) = load_split(tmp_path / "out", part)
        image, drawn = phantom_mr(int(case.name[1]) - 1)
        assert case.image.unit == "arbitrary" and case.image.array.dtype == np.int16
        np.testing.assert_array_equal(case.classes.array, drawn)
        low, high = description["cases"][case.name]["intensity"]
        np.testing.assert_allclose((low, high), np.percentile(image.astype(np.float64), (0.5, 99.5)))
        expected = np.clip((image.astype(np.float64) - low) / (high - low) * 1000, 0, 1500)
        np.testing.assert_allclose(case.image.array, expected, atol=0.51)
        assert "cut_share" not in description["cases"][case.name]


def test_any_label_is_the_tumour_of_a_limb(tmp_path):
    images, labels = write_mr(tmp_path, ["p1"])
    prepare(images, labels, tmp_path / "out", load_scheme("limb-tumour-mr"), split=(1, 0, 0))
    description = read_description(tmp_path / "out")
    assert (description["classes"], description["target"], description["unit"]) == (
        {"tumour": 1},
        "tumour",
        "arbitrary",
    )
    assert "targets" not in description
    (case,) = load_split(tmp_path / "out", "train")
    np.testing.assert_array_equal(case.classes.array, phantom_mr(0)[1] > 0)


def test_labels_that_are_no_class_are_refused_by_name(tmp_path, capsys):
    images, labels = write_mr(tmp_path, ["p1"])
    arguments = (images, labels, "--out", tmp_path / "out", "--scheme", "hippocampus-mr", "--split", "1,0,0")
    _, drawn = phantom_mr(0)
    strange = drawn.copy()
    strange[0, 0, :2] = (4, 3)
    write_volume(Volume(strange, LPS, "label"), labels / "p1.nii.gz")
    error = refusal(capsys, *arguments)
    assert "'p1.nii.gz' has the labels 3, 4, but the classes are 1 (anterior hippocampus), 2 (posterior" in error

    def write_segments(*segments: Segment) -> str:
        layers = tuple(
            np.where(np.isin(drawn, [s.value for s in segments if s.layer == n]), drawn, 0).astype(np.uint8)
            for n in range(1 + max(s.layer for s in segments))
        )
        (labels / "p1.nii.gz").unlink(missing_ok=True)
        write_segmentation(Segmentation(layers, LPS, segments), labels / "p1.seg.nrrd")
        return labels / "p1.seg.nrrd"

    write_segments(Segment("posterior", 1), Segment("anterior", 2))
    assert "has 'posterior' as 1, which is 2 in this scheme" in refusal(capsys, *arguments)
    write_segments(Segment("anterior", 1, 0), Segment("posterior", 2, 1))
    assert "overlapping segments in 2 layers" in refusal(capsys, *arguments)
    assert not (tmp_path / "out").exists()
    write_segments(Segment("Hippocampus head", 1), Segment("Segment_2", 2))
    assert main(["prepare", *map(str, arguments)]) == 0
    np.testing.assert_array_equal(load_split(tmp_path / "out", "train")[0].classes.array, drawn)


def test_a_class_that_vanishes_is_named(tmp_path):
    images, labels = write_mr(tmp_path, ["p1"])
    _, drawn = phantom_mr(0)
    drawn[drawn == 2] = 0
    drawn[2, 2, 2] = 2
    write_volume(Volume(drawn, LPS, "label"), labels / "p1.nii.gz")
    with pytest.raises(BadInput, match="The posterior hippocampus of 'p1' vanishes at a spacing of 3 mm"):
        prepare(images, labels, tmp_path / "out", load_scheme("hippocampus-mr"), spacing_mm=3.0, split=(1, 0, 0))


# --- the label schemes --------------------------------------------------------------------------------------------

HIPPOCAMPUS = Code("SCT", "5366008", "Hippocampus")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hippocampus head", ANTERIOR),
        ("Hippocampal_Head", ANTERIOR),
        ("head of the hippocampus", ANTERIOR),
        ("left hippocampus anterior", ANTERIOR),
        ("Anterior", ANTERIOR),
        ("hippocampal body and tail", POSTERIOR),
        ("Hippocampal body", POSTERIOR),
        ("tail of hippocampus", POSTERIOR),
        ("posterior right", POSTERIOR),
        ("hippocampus", None),  # the whole one is neither
        ("Left-Hippocampus", None),
        ("body", None),  # rather the patient's
        ("head", None),
        ("amygdala", None),
    ],
)
@pytest.mark.parametrize("code", [None, HIPPOCAMPUS])
def test_parts_of_the_hippocampus_are_told_apart(name, expected, code):
    """Slicer's terminology has one code, for the whole hippocampus: with it or without, the name decides."""
    scheme = load_scheme("hippocampus-mr")
    block = np.zeros((4, 4, 4), np.uint8)
    block[0], block[3] = 1, 2
    drawn = Segmentation((block,), LPS, (Segment(name, 1, type=code), Segment("anterior hippocampus", 2)))
    mapped = map_to_model(drawn, scheme)
    assert mapped.report.entries[0].target == expected
    assert mapped.class_map[0, 0, 0] == {None: 0, ANTERIOR: 1, POSTERIOR: 2}[expected]
    assert mapped.class_map[3, 0, 0] == 1


def test_label_values_of_the_hippocampus_are_mapped_as_they_stand():
    block = np.zeros((4, 4, 4), np.uint8)
    block[1], block[2] = 2, 1
    mapped = map_to_model(
        Segmentation((block,), LPS, (Segment("1", 1), Segment("2", 2))), load_scheme("hippocampus-mr")
    )
    np.testing.assert_array_equal(mapped.class_map, block)
    assert {e.segment: (e.target, e.how) for e in mapped.report.entries} == {
        "1": (ANTERIOR, "value"),
        "2": (POSTERIOR, "value"),
    }


def test_the_code_of_the_hippocampus_is_the_standards():
    """CID 7140 "Brain Structure for Volumetric Measurement" and others of PS3.16, as pydicom has them."""
    codes = pytest.importorskip("pydicom.sr.codedict").codes.SCT
    for c in load_scheme("hippocampus-mr").classes:
        assert [(k.scheme, k.value) for k in c.codes] == [("SCT", codes.Hippocampus.value)] == [("SCT", "5366008")]


@pytest.mark.parametrize(
    "name", ["tumour", "Tumor 1", "GTV_Mass", "Soft tissue sarcoma", "Neoplasm", "muscle", "femur"]
)
def test_the_limb_tumour_of_mr_is_recognised(name):
    block = np.zeros((4, 4, 4), np.uint8)
    block[0], block[3] = 1, 2
    drawn = Segmentation((block,), LPS, (Segment(name, 1), Segment("sarcoma", 2)))
    expected = None if name in ("muscle", "femur") else "tumour"
    assert map_to_model(drawn, load_scheme("limb-tumour-mr")).report.entries[0].target == expected


# --- one size -----------------------------------------------------------------------------------------------------


def test_windows_are_moved_as_little_as_needed():
    """By brute force: of all windows within the volume (or round it), none is nearer to the target's middle."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        shape, size = rng.integers(3, 24, 3), rng.integers(1, 28, 3)
        target = np.zeros(shape, bool)
        low = [rng.integers(0, n) for n in shape]
        high = [rng.integers(a, n) + 1 for a, n in zip(low, shape)]
        target[tuple(slice(a, b) for a, b in zip(low, high))] = rng.random(np.subtract(high, low)) < 0.5
        target[tuple(low)] = target[tuple(np.subtract(high, 1))] = True
        for axis, start in enumerate(window_start(target, size)):
            n, wanted = int(shape[axis]), int(size[axis])
            allowed = range(n - wanted + 1) if n >= wanted else range(n - wanted, 1)
            middle = (low[axis] + high[axis]) / 2
            assert start in allowed
            assert abs(start + wanted / 2 - middle) == min(abs(s + wanted / 2 - middle) for s in allowed)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SPL"])
def test_voxels_stay_where_they_were_in_the_room(codes, tmp_path):
    """By SimpleITK's physical points, on oblique axes in several orders: no voxel moves by more than rounding."""
    sitk = pytest.importorskip("SimpleITK")
    image, drawn = phantom_mr(4)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("LPS"), nibabel.orientations.axcodes2ornt(tuple(codes))
    )
    a = np.deg2rad(12.0)
    oblique = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])
    affine = LPS.copy()
    affine[:3, :3] = oblique @ LPS[:3, :3] @ np.diag([1.5, 1.0, 2.5])
    affine[:3, 3] = (41.5, -20.25, 7.75)
    source = affine @ nibabel.orientations.inv_ornt_aff(turn, SHAPE)
    (tmp_path / "i").mkdir()
    (tmp_path / "l").mkdir()
    for folder, array in (("i", image), ("l", drawn)):
        turned = nibabel.orientations.apply_orientation(array, turn)
        nibabel.save(nibabel.Nifti1Image(turned, source), tmp_path / folder / "p1.nii.gz")
    scheme = load_scheme("hippocampus-mr")
    prepare(tmp_path / "i", tmp_path / "l", tmp_path / "out", scheme, spacing_mm=None, split=(1, 0, 0), size=(8, 32, 9))
    before, after, classes_before, classes_after = (
        sitk.ReadImage(str(tmp_path / path / "p1.nii.gz")) for path in ("i", "out/images", "l", "out/classes")
    )
    low, high = read_description(tmp_path / "out")["cases"]["p1"]["intensity"]
    assert after.GetSize() == classes_after.GetSize() == (8, 32, 9)
    inside = 0
    for index in np.ndindex(8, 32, 9):
        point = after.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(point, classes_after.TransformIndexToPhysicalPoint(index), atol=1e-5)
        there = before.TransformPhysicalPointToContinuousIndex(point)
        nearest = tuple(int(n) for n in np.rint(there))
        np.testing.assert_allclose(there, nearest, atol=1e-4)
        if all(0 <= n < size for n, size in zip(nearest, before.GetSize())):
            inside += 1
            expected = np.clip((before[nearest] - low) / (high - low) * 1000, 0, 1500)
            assert abs(after[index] - expected) < 0.51
            assert classes_after[index] == classes_before[nearest]
        else:
            assert (after[index], classes_after[index]) == (0, 0)
    assert inside == 8 * SHAPE[1] * 9


def test_padding_has_the_smallest_value_and_no_class(tmp_path):
    """CT too: its smallest HU, not 0, which would be water."""
    images, labels = write_pairs(tmp_path, ["p1"])
    scheme = load_scheme("lung-nodule-ct")
    prepare(images, labels, tmp_path / "own", scheme, split=(1, 0, 0))
    prepare(images, labels, tmp_path / "out", scheme, split=(1, 0, 0), size=(30, 24, 26))
    (own,), (case,) = (load_split(tmp_path / name, "train") for name in ("own", "out"))
    assert case.image.shape == (30, 24, 26) and read_description(tmp_path / "out")["size"] == [30, 24, 26]
    start = window_start(own.classes.array == 4, (30, 24, 26))
    inner = tuple(slice(-s, n - s) for s, n in zip(start, own.image.shape))
    np.testing.assert_array_equal(case.image.array[inner], own.image.array)
    np.testing.assert_array_equal(case.classes.array[inner], own.classes.array)
    outside = np.ones(case.image.shape, bool)
    outside[inner] = False
    assert set(case.image.array[outside].tolist()) == {int(own.image.array.min())}
    assert not case.classes.array[outside].any()
    assert read_description(tmp_path / "out")["cases"]["p1"]["cut_share"] == 0.0
    # Without a size and without MR, the description is what it was: its checksum is part of every model's record.
    assert set(read_description(tmp_path / "own")) == {
        "format", "unit", "spacing_mm", "orientation", "classes", "target", "split_seed", "split", "cases"
    }  # fmt: skip
    assert set(read_description(tmp_path / "own")["cases"]["p1"]) == {"patient", "image_sha256", "label_sha256"}


def test_what_the_window_cuts_off_is_told(tmp_path, capsys):
    """A bar of 12 x 2 x 2 voxels in a window of 9: a quarter of it is lost."""
    images, labels = write_mr(tmp_path, ["p1", "p2"])
    bar = np.zeros(SHAPE, np.uint8)
    bar[4:16, 5:7, 5:7] = 1
    write_volume(Volume(bar, LPS, "label"), labels / "p2.nii.gz")
    bar[:] = 0
    bar[8:10, 5:7, 5:7] = 1
    write_volume(Volume(bar, LPS, "label"), labels / "p1.nii.gz")
    arguments = [str(images), str(labels), "--scheme", "limb-tumour-mr", "--split", "1,0,1", "--json"]
    assert main(["prepare", *arguments, "--out", str(tmp_path / "a"), "--size", "9x8x8"]) == 0
    *_, line, told = capsys.readouterr().out.splitlines()
    assert line == (
        "1 of 2 cases lost part of their tumour to the size, most 'p2' (25.0 %); see cut_share in dataset.json"
    )
    assert json.loads(told)["cut"] == ["p2"]
    cases = read_description(tmp_path / "a")["cases"]
    assert (cases["p1"]["cut_share"], cases["p2"]["cut_share"]) == (0.0, 0.25)
    assert main(["prepare", *arguments, "--out", str(tmp_path / "b"), "--size", "12X8X8"]) == 0
    assert "no case lost part of its tumour to the size" in capsys.readouterr().out


def test_spacing_comes_before_size(tmp_path):
    """Both together: voxels of the new spacing, and the tumour's volume in mm³ within the error of its outline."""
    affine = LPS @ np.diag([1.0, 1.0, 1.5, 1.0])
    images, labels = write_mr(tmp_path, ["p1"], affine)
    scheme = load_scheme("limb-tumour-mr")
    prepare(images, labels, tmp_path / "out", scheme, spacing_mm=(0.8, 0.8, 1.2), split=(1, 0, 0), size=(24, 28, 10))
    (case,) = load_split(tmp_path / "out", "train")
    assert case.image.shape == (24, 28, 10)
    np.testing.assert_allclose(case.image.spacing, (0.8, 0.8, 1.2), atol=1e-5)
    drawn = phantom_mr(0)[1] > 0
    assert (case.classes.array > 0).sum() * 0.8 * 0.8 * 1.2 == pytest.approx(drawn.sum() * 1.5, rel=0.1)
    centres = [a[:3, :3] @ np.argwhere(m).mean(0) + a[:3, 3] for m, a in
               ((drawn, affine), (case.classes.array > 0, case.classes.affine))]  # fmt: skip
    np.testing.assert_allclose(centres[0], centres[1], atol=0.3)


def test_cut_or_pad_of_a_window_beside_the_volume():
    volume = Volume(np.arange(8, dtype=np.int16).reshape(2, 2, 2), LPS, "arbitrary")
    window = cut_or_pad(volume, (-1, 0, 1), (4, 1, 3), -5)
    np.testing.assert_array_equal(window.array[:, 0, 0], [-5, 1, 5, -5])
    assert (window.array[:, :, 1:] == -5).all()
    np.testing.assert_array_equal(window.affine[:3, 3], (1, 0, 1))


# --- splits and refusals ------------------------------------------------------------------------------------------


def test_no_patient_of_a_prepared_set_is_in_two_parts(tmp_path):
    """Random numbers of scans, split sizes and seeds, and once through the files."""
    rng = np.random.default_rng(11)
    for seed in range(50):
        scans = rng.integers(1, 5, rng.integers(3, 40))
        cases = [f"STS_{p:03d}_{s}" for p, n in enumerate(scans) for s in range(n)]
        cuts = np.sort(rng.integers(0, len(scans) + 1, 2))
        sizes = (int(cuts[0]), int(cuts[1] - cuts[0]), int(len(scans) - cuts[1]))
        split = split_by_patient(cases, sizes, seed, r"(STS_\d+)")
        parts = [{c.rsplit("_", 1)[0] for c in names} for names in split.values()]
        assert tuple(map(len, parts)) == sizes and sum(sizes) == len(set.union(*parts))
        assert sorted(c for names in split.values() for c in names) == sorted(cases)
    images, labels = write_mr(tmp_path, [f"STS_{p:03d}_{s}" for p in range(4) for s in range(2)])
    pattern = ("--patient-pattern", r"(STS_\d+)", "--split", "2,1,1", "--scheme", "limb-tumour-mr")
    assert main(["prepare", str(images), str(labels), "--out", str(tmp_path / "out"), *pattern]) == 0
    description = read_description(tmp_path / "out")
    parts = [{description["cases"][c]["patient"] for c in names} for names in description["split"].values()]
    assert [len(p) for p in parts] == [2, 1, 1] and len(set.union(*parts)) == 4


def test_bad_arguments_are_refused(tmp_path, capsys):
    images, labels = write_mr(tmp_path, ["p1"])
    arguments = (images, labels, "--out", tmp_path / "out", "--split", "1,0,0")
    error = refusal(capsys, *arguments, "--scheme", "hippocampus")
    assert "Unknown label scheme 'hippocampus'" in error and "hippocampus-mr" in error
    for text in ("96", "96x96", "96x96x40x1", "0x8x8", "8x8x-1", "8x8x8.5", "axbxc", "", "8x8x2000", "8x8x" + "9" * 99):
        assert "is no size" in refusal(capsys, *arguments, "--scheme", "limb-tumour-mr", "--size", text)
    assert "only these can be prepared" in refusal(capsys, *arguments, "--scheme", "maisi-ct")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("unit", ["hu", "Kelvin", ""])
def test_unknown_units_of_a_data_set_are_refused(unit, tmp_path):
    images, labels = write_mr(tmp_path, ["p1"])
    path = prepare(images, labels, tmp_path / "out", load_scheme("limb-tumour-mr"), split=(1, 0, 0))
    description = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**description, "unit": unit}), encoding="utf-8")
    with pytest.raises(BadInput, match="its unit is"):
        read_description(tmp_path / "out")


def test_ct_and_mr_of_the_limbs_are_split_alike(shared_data):
    """The MR model's test patients must not be the CT model's training patients, where somebody combines them."""
    folder = shared_data / "soft_tissue_sarcoma"
    if not folder.is_dir():
        pytest.skip("no soft_tissue_sarcoma")
    cases = sorted(p.parent.name for p in folder.glob("STS_*/MR_T1_image.nii.gz"))
    package = Path(__file__).resolve().parents[2] / "Resources" / "Models" / "limb-tumour-ct" / "model.json"
    if not package.is_file():
        pytest.skip("no limb-tumour-ct")
    split = split_by_patient(cases, (25, 5, 10), 2026, r"(STS_\d+)")
    assert json.loads(package.read_text(encoding="utf-8"))["training"]["split"] == split


def test_a_real_hippocampus(tmp_path, shared_data):
    """Every hippocampus of the set has its anterior part in front, whatever the order of the file's axes."""
    folder = shared_data / "hippocampus_msd"
    if not folder.is_dir():
        pytest.skip("no hippocampus_msd")
    names = sorted(p.name for p in (folder / "images").glob("*.nii.gz"))[::52]
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for name in names:
            (tmp_path / kind / name).write_bytes((folder / kind / name).read_bytes())
    out = ("--out", str(tmp_path / "out"), "--patient-pattern", r"(hippocampus_\d+)", "--split", "4,0,0")
    assert (
        main(["prepare", str(tmp_path / "images"), str(tmp_path / "labels"), "--scheme", "hippocampus-mr", *out]) == 0
    )
    for case in load_split(tmp_path / "out", "train"):
        classes = case.classes.array
        assert set(np.unique(classes)) == {0, 1, 2}
        # The second axis runs to posterior; a hippocampus is some 4 cm long.
        assert 10 < np.argwhere(classes == 2).mean(0)[1] - np.argwhere(classes == 1).mean(0)[1] < 30
        source = np.asarray(nibabel.load(folder / "labels" / f"{case.name}.nii.gz").dataobj)
        assert [(classes == v).sum() for v in (1, 2)] == [(source == v).sum() for v in (1, 2)]
