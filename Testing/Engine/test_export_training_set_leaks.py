"""Leaks into a training set that no name, whole file or whole slice gives away, and what is only told."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from training_set_examples import CLASSES, affine, ct, export, joint, labels, read, real_set, synthetic, volumes_of

from SynthDiffusionLib import cli
from SynthDiffusionLib.jobs.outputs import header_marks
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.jobs.sources import source_of_image
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, read_volume, write_segmentation, write_volume


def groups_of(folders, tmp_path, *more, form="nnunet"):
    more = [*more, *(["--folds", 2] if form == "nnunet" else [])]
    folder = export(form, folders, tmp_path / "out", "--classes", CLASSES, *more)
    return {case: row["group"] for case, row in volumes_of(folder).items()}


def add_real(folders, name: str, image: np.ndarray, label: np.ndarray, matrix=None) -> None:
    matrix = affine() if matrix is None else matrix
    write_volume(Volume(np.ascontiguousarray(image), matrix), folders.real / f"{name}.nii.gz")
    write_volume(Volume(np.ascontiguousarray(label), matrix, "label"), folders.real_labels / f"{name}.nii.gz")


@pytest.mark.parametrize(
    "change",
    [lambda a: a[:, 1:, 2:], lambda a: a[1:, 1:, 1:], lambda a: np.pad(a, 2, constant_values=-1000)],
    ids=["two axes", "three axes", "padded"],
)
def test_a_crop_on_several_axes_and_a_rim(tmp_path, change):
    folders = real_set(tmp_path / "in", 3)
    image = change(ct(1))
    add_real(folders, "zz", image, labels(60, (20, 20, 20))[tuple(map(slice, image.shape))])
    groups = groups_of(folders, tmp_path)
    assert groups["zz"] == groups["p1"] and len(set(groups.values())) == 3


def test_an_inpainted_volume_and_its_source_that_was_cropped_and_saved_again(tmp_path):
    folders = real_set(tmp_path / "in", 3)
    changed = ct(1)
    changed[2:5, 2:5, 2:5] = 77  # away from the middle, so that a few blocks of so small an image are whole
    synthetic(folders, "lesion", labels(80), image=changed, source=folders.real / "p1.nii.gz")
    add_real(folders, "p1", ct(1)[1:, 1:, :-1], labels(1)[1:, 1:, :-1])
    groups = groups_of(folders, tmp_path)
    assert groups["lesion_m_seed1"] == groups["p1"] and len(set(groups.values())) == 3


def test_steps_of_inpainting_without_the_volumes_between(tmp_path):
    """By what the record says of the way back, though no voxel is left of the patient's image, and by its voxels where
    the image was saved again."""
    folders = real_set(tmp_path / "in", 3)
    source = folders.real / "p0.nii.gz"
    first = synthetic(folders, "a", labels(90), source=source, source_of=source_of_image(source, read_volume(source)))
    record = json.loads(first.with_name("a_m_seed1.json").read_text(encoding="utf-8"))
    record["source"] = record.pop("source_of")
    first.with_name("a_m_seed1.json").write_text(json.dumps(record), encoding="utf-8")
    second = synthetic(folders, "b", labels(91), source=first, way=source_of_image(first, read_volume(first)))
    record = json.loads(second.with_name("b_m_seed1.json").read_text(encoding="utf-8"))
    record["source"] = record.pop("way")
    second.with_name("b_m_seed1.json").write_text(json.dumps(record), encoding="utf-8")
    for path in (first, first.with_name("a_m_seed1.json"), first.with_name("a_m_seed1_region.seg.nrrd")):
        path.unlink()
    image = nib.load(source)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.float32), image.affine), source)
    assert sha256_of(source) not in record["source"]["files"]
    groups = groups_of(folders, tmp_path)
    assert groups["b_m_seed1"] == groups["p0"] and len(set(groups.values())) == 3


def test_a_mask_whose_classes_were_merged(tmp_path):
    folders = real_set(tmp_path / "in", 3)
    synthetic(folders, "merged", (labels(2) > 0).astype(np.uint8))
    groups = groups_of(folders, tmp_path)
    assert groups["merged_m_seed1"] == groups["p2"] and len(set(groups.values())) == 3


@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (0,)], ids=["RAS for LPS", "another half turn", "mirrored"])
def test_a_copy_whose_axes_were_flipped_or_swapped(tmp_path, axes):
    folders = real_set(tmp_path / "in", 3)
    add_real(folders, "zz", np.flip(ct(1), axes), labels(60))
    add_real(folders, "yy", np.flip(ct(2), axes).transpose(2, 0, 1)[2:], labels(61, (12, 14, 13))[2:])
    groups = groups_of(folders, tmp_path)
    assert groups["zz"] == groups["p1"] and groups["yy"] == groups["p2"] and len(set(groups.values())) == 3


def test_joint_volumes_of_one_seed_are_one_whatever_the_steps(tmp_path):
    """Other steps change little of what a model makes of one noise; another seed, model or mode is another volume."""
    folders = real_set(tmp_path / "in", 3)
    for seed in (1, 2):
        joint(folders, seed, labels(90 + seed))
    first = folders.synthetic / "joint_m_seed1.json"
    for name, change in (("more", {"steps": 50}), ("free", {"mode": "unconditional"})):
        record = read(first)
        image = folders.synthetic / f"{name}_m_seed1.nii.gz"
        write_volume(Volume(ct(sum(name.encode())), affine(), metadata=header_marks(record)), image)
        record["settings"] |= change
        if name == "free":
            del record["settings"]["tumour"]
        record["output_sha256"], record["case"] = sha256_of(image), name
        image.with_name(f"{name}_m_seed1.json").write_text(json.dumps(record), encoding="utf-8")
    folder = export("bids", folders, tmp_path / "out", "--classes", CLASSES)
    groups = {case: row["group"] for case, row in volumes_of(folder).items()}
    assert groups["joint_m_seed1"] == groups["more_m_seed1"] and len(set(groups.values())) == 6
    assert [j["why"] for j in read(folder / "manifest.json")["joins"]] == ["made from the same noise"]


def tube(folders, names) -> None:
    """One shape of label 1 as the label map of several patients."""
    drawn = np.zeros((14, 13, 12), np.uint8)
    drawn[2:9, 2:9, 2:9] = (sum((np.indices((7, 7)) - 3) ** 2) <= 9)[..., None]
    for name in names:
        write_volume(Volume(drawn, affine(), "label"), folders.real_labels / f"{name}.nii.gz")


def test_a_shape_drawn_for_all_patients_joins_nobody(tmp_path, capsys):
    folders = real_set(tmp_path / "in", 6)
    tube(folders, [f"p{i}" for i in range(5)])
    synthetic(folders, "s", labels(95))
    drawing = read_volume(folders.real_labels / "p0.nii.gz", "label").array
    for case in ("t", "u"):
        synthetic(folders, case, drawing)
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--folds", 3)
    groups = {case: row["group"] for case, row in volumes_of(folder).items()}
    assert len({groups[f"p{i}"] for i in range(6)}) == 6 and len(set(groups.values())) == 8
    assert groups["t_m_seed1"] == groups["u_m_seed1"]
    told = read(folder / "manifest.json")["generic_masks"]
    assert told == [{"class": "liver", "volumes": [f"p{i}" for i in range(5)]}]
    said = capsys.readouterr().err
    assert "5 patients whose images share nothing have the same mask (liver), first 'p0' and 'p1'" in said


@pytest.mark.parametrize("same_file", [False, True])
def test_the_message_says_why_volumes_belong_together(tmp_path, capsys, same_file):
    folders = real_set(tmp_path / "in", 3)
    tube(folders, ["p0", "p1"])
    if not same_file:
        image = nib.load(folders.real_labels / "p1.nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.int32), image.affine), image.get_filename())
    arguments = folders.arguments("--out", tmp_path / "o", "--classes", CLASSES, "--folds", 3)
    assert cli.main(["export", "nnunet", *arguments]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "2 groups of volumes that belong together cannot be dealt to 3 folds" in line
    assert "'p0' and 'p1', the first of 1 pair, belong together by the same mask (liver)" in line
    assert "Give --folds 2, or volumes of more patients, or remove or mend one of each two that are alike" in line


def test_nrrd_with_a_header_file_of_its_own(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    folders = real_set(tmp_path / "in", 3)
    for kind in (folders.real, folders.real_labels):
        sitk.WriteImage(sitk.ReadImage(str(kind / "p1.nii.gz")), str(kind / "p1.nhdr"))
        (kind / "p1.nii.gz").unlink()
    assert set(groups_of(folders, tmp_path)) == {"p0", "p1", "p2"}


def test_a_drawing_that_was_not_given_is_told_of(tmp_path, capsys):
    folders = real_set(tmp_path / "in", 3)
    synthetic(folders, "other", labels(0), notice="Jane Doe")
    (folders.drawings / "other.nii.gz").unlink()
    groups_of(folders, tmp_path, form="bids")
    assert not [p for p in (tmp_path / "out").rglob("*.json") if "Jane" in p.read_text(encoding="utf-8")]
    told = capsys.readouterr().err
    assert "1 synthetic or inpainted volume came without the drawing, first 'other_m_seed1'" in told


def test_a_synthetic_volume_saved_by_another_program_is_no_real_one(tmp_path, capsys):
    """ITK moves the text of the header to another field."""
    sitk = pytest.importorskip("SimpleITK")
    folders = real_set(tmp_path / "in", 3)
    model = {"id": "lung-nodule-ct", "version": "1.2.0"}
    record = {"contains_real_patient_pixels": False, "model": model, "settings": {"seed": 1}, "notice": "x"}
    made = tmp_path / "made.nii.gz"
    write_volume(Volume(ct(8), affine(), metadata=header_marks(record)), made)
    sitk.WriteImage(sitk.ReadImage(str(made)), str(folders.real / "p9.nrrd"))
    write_volume(Volume(labels(8), affine(), "label"), folders.real_labels / "p9.nii.gz")
    arguments = folders.arguments("--out", tmp_path / "o", "--classes", CLASSES, "--folds", 2)
    assert cli.main(["export", "nnunet", *arguments]) == 2
    assert "its header says that it is synthetic (ITK_FileNotes)" in capsys.readouterr().err


def test_what_others_call_synthetic_is_told_of(tmp_path, capsys):
    folders = real_set(tmp_path / "in", 3)
    volume = Volume(ct(0), affine(), metadata={"description": "SyMRI Synthetic T1w TE=10"})
    write_volume(volume, folders.real / "p0.nii.gz")
    assert len(groups_of(folders, tmp_path)) == 3
    assert "the headers of 1 real volume speak of something synthetic, first 'p0' (descrip)" in capsys.readouterr().err


def test_a_record_that_contradicts_the_header(tmp_path, capsys):
    folders = real_set(tmp_path / "in", 3)
    path = synthetic(folders, "q", labels(9), source=folders.real / "p0.nii.gz")
    record = read(path.with_name("q_m_seed1.json"))
    write_volume(Volume(ct(70), affine(), metadata=header_marks(record)), path)
    record["output_sha256"], record["contains_real_patient_pixels"] = sha256_of(path), False
    record["settings"]["mode"] = "whole"
    path.with_name("q_m_seed1.json").write_text(json.dumps(record), encoding="utf-8")
    arguments = folders.arguments("--out", tmp_path / "o", "--classes", CLASSES, "--folds", 2)
    assert cli.main(["export", "nnunet", *arguments]) == 2
    assert "partly a real patient's by its header, and synthetic as a whole by its record" in capsys.readouterr().err


def test_channels_of_nnunet_are_of_one_patient(tmp_path, capsys):
    """CASE_0000 and CASE_0001; but many numbers are cases that somebody has counted."""
    folders = real_set(tmp_path / "a", 4, "s_000{}")
    for i in (7, 8):
        add_real(folders, f"t_000{i}", ct(20 + i), labels(20 + i))
    add_real(folders, "other", ct(40), labels(40))
    groups = groups_of(folders, tmp_path / "a")
    assert len({groups[case] for case in groups if case.startswith("s")}) == 1 and len(set(groups.values())) == 4
    assert "4 real volumes with names like 's'" in capsys.readouterr().err
    told = groups_of(folders, tmp_path / "b", "--patient-pattern", "(.*)")
    assert len(set(told.values())) == 7
    many = real_set(tmp_path / "c", 9, "s_000{}")
    assert len(set(groups_of(many, tmp_path / "c").values())) == 9


def test_a_label_map_of_one_name_for_all_channels(tmp_path):
    folders = real_set(tmp_path / "in", 3)
    for i in range(3):
        (folders.real / f"p{i}.nii.gz").rename(folders.real / f"p{i}_0000.nii.gz")
        write_volume(Volume(ct(30 + i), affine()), folders.real / f"p{i}_0001.nii.gz")
    groups = groups_of(folders, tmp_path)
    assert len(groups) == 6 and len(set(groups.values())) == 3


@pytest.mark.parametrize(("pattern", "cause"), [("(p", "is no regular expression"), ("p", "has no group")])
def test_a_pattern_that_cannot_be_is_refused_before_anything_is_read(tmp_path, capsys, monkeypatch, pattern, cause):
    from SynthDiffusionLib.export import set_cases

    monkeypatch.setattr(set_cases, "read_volume", None)
    folders = real_set(tmp_path / "in", 2)
    arguments = folders.arguments("--out", tmp_path / "o", "--skip-unusable", "--patient-pattern", pattern)
    assert cli.main(["export", "nnunet", *arguments]) == 2
    line = capsys.readouterr().err
    assert f"--patient-pattern '{pattern}' {cause}" in line and "'(P[0-9]+)'" in line


def test_parts_of_a_segmentation_on_layers_are_one_shape(tmp_path):
    """A .seg.nrrd with a layer for each class has the shape of the label map that it was made from."""
    folders = real_set(tmp_path / "in", 3)
    layers = tuple((labels(2) == value).astype(np.uint8) for value in (1, 2))
    path = synthetic(folders, "y", labels(70))
    (folders.drawings / "y.nii.gz").unlink()
    halves = (np.where(np.arange(14)[:, None, None] < 6, layers[0], 0), np.where(
        np.arange(14)[:, None, None] < 6, layers[1], layers[0] | layers[1]))  # fmt: skip
    drawn = Segmentation(halves, affine(), (Segment("liver", 1), Segment("tumour", 1, 1)))
    write_segmentation(drawn, folders.drawings / "y.seg.nrrd")
    record = read(path.with_name("y_m_seed1.json"))
    record["inputs"] = {"segmentation_sha256": sha256_of(folders.drawings / "y.seg.nrrd")}
    path.with_name("y_m_seed1.json").write_text(json.dumps(record), encoding="utf-8")
    groups = groups_of(folders, tmp_path)
    assert groups["y_m_seed1"] == groups["p2"]
