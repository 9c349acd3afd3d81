"""`prepare`: pairs, split by patient, geometry, and what it refuses."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tiny_training import LPS, phantom_pair, write_pairs

from SynthDiffusionLib.cli import main
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.scheme import LabelClass, LabelScheme, load_scheme
from SynthDiffusionLib.training.dataset import load_split, read_description
from SynthDiffusionLib.training.prepare import find_pairs, patient_of, prepare, split_by_patient
from SynthDiffusionLib.volumes import Volume, write_volume

FIRST = r"([^_]+)"
CASES = [f"p{patient}_scan{scan}" for patient in range(20) for scan in range(1 + patient % 3)]


@pytest.fixture(scope="module")
def scheme() -> LabelScheme:
    return load_scheme("lung-nodule-ct")


def test_no_patient_is_in_two_parts():
    for seed in range(20):
        split = split_by_patient(CASES, (12, 5, 3), seed, FIRST)
        patients = {part: {c.split("_")[0] for c in cases} for part, cases in split.items()}
        assert {part: len(p) for part, p in patients.items()} == {"train": 12, "validation": 5, "test": 3}
        assert sum(len(p) for p in patients.values()) == len(set.union(*patients.values()))
        assert sorted(c for cases in split.values() for c in cases) == sorted(CASES)


def test_a_split_depends_on_the_seed_and_on_nothing_else():
    split = split_by_patient(CASES, (12, 5, 3), 4, FIRST)
    assert split_by_patient(CASES[::-1], (12, 5, 3), 4, FIRST) == split
    assert split_by_patient(CASES, (12, 5, 3), 5, FIRST) != split
    # What the docstring promises, so that any program can deal the same split.
    order = sorted({c.split("_")[0] for c in CASES}, key=lambda p: hashlib.sha256(f"4:{p}".encode()).hexdigest())
    assert {c.split("_")[0] for c in split["test"]} == set(order[17:])


def test_a_further_patient_moves_few_others():
    """Order by hash: with one patient more, nobody changes the part but where the borders shift by one."""
    before = split_by_patient(CASES, (12, 5, 3), 4, FIRST)
    after = split_by_patient([*CASES, "p99_scan0"], (13, 5, 3), 4, FIRST)
    part = {case: name for name, cases in before.items() for case in cases}
    moved = {c.split("_")[0] for name, cases in after.items() for c in cases if part.get(c, name) != name}
    assert len(moved) <= 2


@pytest.mark.parametrize("sizes", [(12, 5, 4), (12, 5, 2), (-1, 18, 3)])
def test_sizes_must_add_up(sizes):
    with pytest.raises(BadInput, match=r"there are 20 patients|adds up"):
        split_by_patient(CASES, sizes, 0, FIRST)


def test_the_patient_is_the_first_group():
    assert patient_of("LIDC-0003_nod1", FIRST) == "LIDC-0003"
    assert patient_of("site2-0003-b", r"(site\d-\d+)") == "site2-0003"
    for pattern in (r"(\d+)", r"LIDC.*"):
        with pytest.raises(BadInput, match="does not match the patient pattern"):
            patient_of("LIDC-0003_nod1", pattern)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SPL"])
def test_prepared_cases_lie_in_one_orientation_where_the_sources_lie(codes, tmp_path, scheme):
    """Read back by nibabel: whatever the order of the source's axes, arrays run to L, P and S, and every nodule voxel
    is where it was in the room."""
    target = nibabel.orientations.axcodes2ornt("LPS")
    turned = nibabel.orientations.ornt_transform(target, nibabel.orientations.axcodes2ornt(tuple(codes)))
    hu, nodule = phantom_pair(3)
    affine = LPS.copy()
    affine[:3, 3] = (100.5, -20.25, 7.75)
    source = affine @ nibabel.orientations.inv_ornt_aff(turned, hu.shape)
    (tmp_path / "i").mkdir()
    (tmp_path / "l").mkdir()
    for folder, array in (("i", hu), ("l", nodule.astype(np.uint8))):
        there = nibabel.orientations.apply_orientation(array, turned)
        nibabel.save(nibabel.Nifti1Image(there, source), tmp_path / folder / "p1.nii.gz")
    prepare(tmp_path / "i", tmp_path / "l", tmp_path / "out", scheme, split=(1, 0, 0))
    image = nibabel.load(tmp_path / "out" / "images" / "p1.nii.gz")
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(image.dataobj), hu)
    classes = np.asarray(nibabel.load(tmp_path / "out" / "classes" / "p1.nii.gz").dataobj)
    np.testing.assert_array_equal(classes == 4, nodule)


def test_prepared_sets_are_complete_and_repeatable(tmp_path, scheme):
    images, labels = write_pairs(tmp_path / "source", [f"p{i // 2}_{i}" for i in range(6)])
    files = [prepare(images, labels, tmp_path / name, scheme, split=(1, 1, 1), seed=3) for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    description = read_description(tmp_path / "a")
    assert description["classes"] == {"body": 1, "lung": 2, "bone": 3, "nodule": 4}
    assert (description["unit"], description["spacing_mm"], description["orientation"]) == ("HU", 1.0, "LPS")
    for name, case in description["cases"].items():
        assert case["patient"] == name.split("_")[0]
        for kind, folder in (("image", images), ("label", labels)):
            content = (folder / f"{name}.nii.gz").read_bytes()
            assert case[f"{kind}_sha256"] == hashlib.sha256(content).hexdigest()
    seen = 0
    for part in ("train", "validation", "test"):
        for case in load_split(tmp_path / "a", part):
            hu, nodule = phantom_pair(int(case.name.split("_")[1]))
            np.testing.assert_array_equal(case.image.array, hu)
            np.testing.assert_array_equal(case.classes.array == 4, nodule)
            assert case.image.array.dtype == np.int16 and set(np.unique(case.classes.array)) <= {0, 1, 2, 3, 4}
            np.testing.assert_array_equal(case.image.affine, case.classes.affine)
            seen += 1
    assert seen == 6
    with pytest.raises(BadInput, match="no part of the data set"):
        load_split(tmp_path / "a", "tests")


def test_other_spacings_are_resampled(tmp_path, scheme):
    """A nodule keeps its volume in mm³ within the error of its outline, and its place."""
    affine = np.diag([-0.8, -0.8, 1.6, 1.0])
    images, labels = write_pairs(tmp_path, ["p1"], affine)
    prepare(images, labels, tmp_path / "out", scheme, split=(1, 0, 0))
    case = load_split(tmp_path / "out", "train")[0]
    np.testing.assert_allclose(case.image.spacing, 1.0)
    nodule = phantom_pair(0)[1]
    assert (case.classes.array == 4).sum() == pytest.approx(nodule.sum() * 0.8 * 0.8 * 1.6, rel=0.15)
    centers = [a[:3, :3] @ np.argwhere(m).mean(0) + a[:3, 3] for m, a in
               ((nodule, affine), (case.classes.array == 4, case.classes.affine))]  # fmt: skip
    np.testing.assert_allclose(centers[0], centers[1], atol=0.3)


def refusal(capsys, *arguments: object) -> str:
    assert main(["prepare", *map(str, arguments)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("synthdiffusion: error: ")
    return error


def test_refusals_get_one_line_and_leave_no_data_set(tmp_path, capsys):
    images, labels = write_pairs(tmp_path, ["p1", "p2", "p3"])
    out = tmp_path / "out"

    def write_label(name: str, array: np.ndarray, affine: np.ndarray = LPS) -> None:
        write_volume(Volume(array.astype(np.uint8), affine, "label"), labels / f"{name}.nii.gz")

    assert "is not a folder" in refusal(capsys, images / "nowhere", labels, "--out", out)
    (tmp_path / "empty").mkdir()
    assert "No readable image" in refusal(capsys, tmp_path / "empty", tmp_path / "empty", "--out", out)
    (labels / "p3.nii.gz").rename(labels / "p4.nii.gz")
    error = refusal(capsys, images, labels, "--out", out)
    assert "2 files have no partner" in error and "'p3'" in error
    (labels / "p4.nii.gz").rename(labels / "p3.nii.gz")

    for split in ("2,2,2", "1,1", "a,b,c"):
        assert "split" in refusal(capsys, images, labels, "--out", out, "--split", split).lower()
    assert "patient pattern" in refusal(capsys, images, labels, "--out", out, "--patient-pattern", "no group")
    assert "spacing" in refusal(capsys, images, labels, "--out", out, "--spacing", "0")
    assert "Unknown label scheme" in refusal(capsys, images, labels, "--out", out, "--scheme", "brain")

    hu, nodule = phantom_pair(1)
    write_label("p2", np.zeros_like(nodule))
    assert "p2.nii.gz: the segmentation is empty" in refusal(capsys, images, labels, "--out", out)
    write_label("p2", nodule[1:])
    assert "'p2.nii.gz' and its label map lie on different grids" in refusal(capsys, images, labels, "--out", out)
    write_label("p2", nodule, np.diag([-1.0, -1.0, 1.1, 1.0]))
    assert "different grids" in refusal(capsys, images, labels, "--out", out)
    speck = np.zeros_like(nodule)
    speck[3, 3, 3] = True
    write_label("p2", speck)
    assert "vanishes" in refusal(capsys, images, labels, "--out", out, "--spacing", "6")
    assert not (out / "dataset.json").exists()

    write_label("p2", nodule)
    assert main(["prepare", *map(str, (images, labels, "--out", out)), "--split", "1,1,1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["split"] == {"train": 1, "validation": 1, "test": 1}
    assert "already holds a data set" in refusal(capsys, images, labels, "--out", out)


def test_other_schemes_are_refused(tmp_path):
    other = LabelScheme((LabelClass("liver", 1), LabelClass("tumour", 2, within=("liver",))))
    with pytest.raises(BadInput, match="liver, tumour"):
        prepare(tmp_path, tmp_path, tmp_path / "out", other)


def test_files_pair_up_by_their_name_whatever_the_format(tmp_path):
    """Only the suffix of the format is taken off: dots before it, as in DICOM UIDs, tell cases apart."""
    pairs = [
        ("1.2.840.1.nii.gz", "1.2.840.1.seg.nrrd", "1.2.840.1"),
        ("1.2.840.2.nii.gz", "1.2.840.2.NRRD", "1.2.840.2"),
        ("103_nod1_ann0.nii.gz", "103_nod1_ann0.mha", "103_nod1_ann0"),
    ]
    for folder in ("i", "l"):
        (tmp_path / folder).mkdir()
    for image, label, _ in pairs:
        (tmp_path / "i" / image).write_bytes(b"")
        (tmp_path / "l" / label).write_bytes(b"")
    (tmp_path / "i" / "notes.txt").write_bytes(b"")
    (tmp_path / "i" / "._103_nod1_ann0.nii.gz").write_bytes(b"")  # what macOS leaves on foreign disks
    expected = {case: (tmp_path / "i" / image, tmp_path / "l" / label) for image, label, case in pairs}
    assert find_pairs(tmp_path / "i", tmp_path / "l") == expected
    (tmp_path / "i" / "1.2.840.1.mha").write_bytes(b"")
    with pytest.raises(BadInput, match=r"'1\.2\.840\.1\.mha' and '1\.2\.840\.1\.nii\.gz' .* same case"):
        find_pairs(tmp_path / "i", tmp_path / "l")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_sources_are_never_overwritten(tmp_path, capsys):
    images, labels = write_pairs(tmp_path, ["p1", "p2", "p3"])
    before = contents(tmp_path)
    assert "would be overwritten" in refusal(capsys, images, labels, "--out", tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, "damaged file"])
def test_an_attempt_that_ends_early_leaves_nothing(stop, tmp_path, scheme):
    images, labels = write_pairs(tmp_path / "source", ["p1", "p2", "p3"])
    whole = (images / "p3.nii.gz").read_bytes()
    if stop == "damaged file":
        (images / "p3.nii.gz").write_bytes(whole[:500])

    def on_progress(done: int, total: int) -> None:
        if stop is KeyboardInterrupt and done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "new" / "out"
    with pytest.raises((KeyboardInterrupt, BadInput)):
        prepare(images, labels, out, scheme, split=(1, 1, 1), on_progress=on_progress)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]

    out.mkdir(parents=True)
    (out / "notes.txt").write_text("kept", encoding="utf-8")
    (images / "p3.nii.gz").unlink()
    (labels / "p3.nii.gz").unlink()
    prepare(images, labels, out, scheme, split=(1, 1, 0))
    assert {p.name for p in out.iterdir()} == {"notes.txt", "dataset.json", "images", "classes"}
    assert {p.name for p in (out / "images").iterdir()} == {"p1.nii.gz", "p2.nii.gz"}


@pytest.mark.parametrize("pattern", ["(", "*", "a{99999999999}", "(x)?p"])
def test_unusable_patient_patterns_are_refused(pattern):
    with pytest.raises(BadInput, match="patient pattern"):
        patient_of("p1", pattern)


def test_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, scheme, monkeypatch):
    images, labels = write_pairs(tmp_path, ["p1"])
    (tmp_path / "file").write_bytes(b"")
    seen = []
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "a\0b"):
        with pytest.raises(BadInput, match="cannot be written to"):
            prepare(images, labels, out, scheme, split=(1, 0, 0), on_progress=lambda *a: seen.append(a))

    def refuse(**kwargs: object) -> str:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # who runs as root may write to every folder
    with pytest.raises(BadInput, match="cannot be written to .Read-only"):
        prepare(images, labels, tmp_path / "out", scheme, split=(1, 0, 0))
    assert not seen and not (tmp_path / "out").exists()


def test_the_split_of_the_shipped_model(shared_data):
    """67, 20 and 20 of the 107 LIDC patients, as its model.json says."""
    folder = shared_data / "lidc_nodules_51"
    if not folder.is_dir():
        pytest.skip("no lidc_nodules_51")
    cases = sorted(p.name.split(".")[0] for p in (folder / "images").glob("*.nii.gz"))
    assert len(cases) == len({patient_of(c, FIRST) for c in cases}) == 107
    split = split_by_patient(cases, (67, 20, 20), 2026, FIRST)
    assert {part: len(names) for part, names in split.items()} == {"train": 67, "validation": 20, "test": 20}
    package = Path(__file__).resolve().parents[2] / "Resources" / "Models" / "lung-nodule-ct" / "model.json"
    if package.is_file():
        assert json.loads(package.read_text(encoding="utf-8"))["training"]["split"] == split


def test_the_same_image_under_two_patients_is_refused(scheme, tmp_path):
    """Whatever its file: of another format, number type or orientation. Of one patient it may be there twice."""
    images, labels = write_pairs(tmp_path, ["a_1", "b_1"])
    image, label = (nibabel.load(folder / "a_1.nii.gz") for folder in (images, labels))
    for copy in ("a_2", "c_1"):
        for one, folder in ((image, images), (label, labels)):
            voxels = np.asanyarray(one.dataobj)[::-1].astype(np.float32)
            turned = one.affine @ [[-1, 0, 0, one.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
            nibabel.save(nibabel.Nifti1Image(voxels, turned), folder / f"{copy}.nii")
        if copy == "a_2":
            prepare(images, labels, tmp_path / "out", scheme, split=(1, 1, 0))
    with pytest.raises(BadInput, match="'a_1.nii.gz' and 'c_1.nii' hold the same image, but are of the patients 'a'"):
        prepare(images, labels, tmp_path / "other", scheme, split=(1, 1, 1))
    assert not (tmp_path / "other").exists()
