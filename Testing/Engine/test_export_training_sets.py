"""`export nnunet`, `decathlon` and `bids` from files to folder: what others read of it, and that nothing leaks."""

from __future__ import annotations

import csv
import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from training_set_examples import CLASSES, affine, ct, export, joint, labels, read, real_set, synthetic, volumes_of

from SynthDiffusionLib import cli
from SynthDiffusionLib.export.set_files import has_plain_form
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, write_segmentation, write_volume


@pytest.fixture
def folders(tmp_path):
    """Six patients; volumes from the masks of p0 and p1, one inpainted into p2, one from a drawing of nobody."""
    found = real_set(tmp_path / "in", 6)
    synthetic(found, "p0", labels(0))
    synthetic(found, "p1", labels(1))
    synthetic(found, "p1", labels(1), seed=2)
    changed = ct(2)
    changed[5:8, 5:8, 5:8] = 77
    synthetic(found, "p2", labels(2), image=changed, source=found.real / "p2.nii.gz")
    synthetic(found, "drawn", labels(50))
    return found


def leaks(rows, splits) -> list[str]:
    """Groups that are trained and validated on in one fold."""
    found = []
    for fold in splits:
        train, val = ({rows[case]["group"] for case in fold[part]} for part in ("train", "val"))
        found += sorted(train & val)
    return found


def test_nnunet(folders, tmp_path):
    """The format of nnU-Net v2 (documentation/dataset_format.md): names, channels, labels, folds."""
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--name", "Liver", "--id", 7,
                    "--test-patients", "p0", "--folds", 5)  # fmt: skip
    assert folder.name == "Dataset007_Liver"
    about = read(folder / "dataset.json")
    assert about["channel_names"] == {"0": "CT"} and about["file_ending"] == ".nii.gz"
    assert about["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    names = {part: {p.name for p in (folder / part).iterdir()} for part in ("imagesTr", "labelsTr", "imagesTs")}
    assert names["imagesTs"] == {"p0_0000.nii.gz"} and (folder / "labelsTs" / "p0.nii.gz").is_file()
    assert names["imagesTr"] == {name.replace(".nii.gz", "_0000.nii.gz") for name in names["labelsTr"]}
    assert len(names["labelsTr"]) == about["numTraining"] == 9, "p0's synthetic volume is neither trained nor tested on"
    rows = volumes_of(folder)
    splits = read(folder / "splits_final.json")
    assert len(splits) == 5 and leaks(rows, splits) == []
    assert sorted(case for fold in splits for case in fold["val"]) == [f"p{i}" for i in range(1, 6)]
    for fold in splits:
        held = {rows[case]["group"] for case in fold["val"]}
        assert set(fold["train"]) == {c for c, r in rows.items() if r["group"] not in held and r["part"] == "training"}
    assert {case: row["kind"] for case, row in rows.items()} == about["kinds"]
    assert read(folder / "manifest.json")["held_back"] == ["p0_m_seed1"]
    for case, row in rows.items():
        image, label = nib.load(folder / row["file"]), nib.load(folder / row["label"])
        assert image.shape == label.shape and np.allclose(image.affine, label.affine, atol=1e-5)
        assert set(np.unique(label.dataobj)) <= {0, 1, 2}, case
        assert sha256_of(folder / row["file"]) == row["sha256"]
        assert sha256_of(folder / row["label"]) == row["label_sha256"]


def test_files_are_copied_bit_for_bit(folders, tmp_path):
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES)
    for name in ("p3", "p4"):
        assert (folder / "imagesTr" / f"{name}_0000.nii.gz").read_bytes() == (
            folders.real / f"{name}.nii.gz"
        ).read_bytes()
        assert (folder / "labelsTr" / f"{name}.nii.gz").read_bytes() == (
            folders.real_labels / f"{name}.nii.gz"
        ).read_bytes()


def test_the_same_export_has_the_same_bytes(folders, tmp_path):
    one, other = (export("bids", folders, tmp_path / n, "--classes", CLASSES, "--seed", 4) for n in ("a", "b"))
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file())
    assert all((one / f).read_bytes() == (other / f).read_bytes() for f in files)


def test_monai_reads_the_decathlon_form(folders, tmp_path):
    from monai.data import load_decathlon_datalist, load_decathlon_properties

    options = ("--classes", CLASSES, "--validation", 0.4, "--test-real", 1)
    folder = export("decathlon", folders, tmp_path / "out", *options)
    rows = volumes_of(folder)
    path = folder / "dataset.json"
    found = {part: load_decathlon_datalist(path, True, part) for part in ("training", "validation", "test", "testing")}
    properties = load_decathlon_properties(path, ["modality", "labels", "numTraining", "numTest", "tensorImageSize"])
    assert properties["labels"] == {"0": "background", "1": "liver", "2": "tumour"}
    assert properties["modality"] == {"0": "CT"} and properties["tensorImageSize"] == "3D"
    assert properties["numTraining"] == len(found["training"]) and properties["numTest"] == len(found["test"]) == 1
    assert [item["image"] for item in found["testing"]] == [item["image"] for item in found["test"]]
    assert len(found["validation"]) == 2 and {item["kind"] for item in found["validation"]} == {"real"}
    for part in ("training", "validation", "testing"):
        for item in found[part]:
            row = rows[item["case"]]
            assert (item["kind"], item["group"]) == (row["kind"], row["group"])
            assert sha256_of(item["image"]) == row["sha256"] and sha256_of(item["label"]) == row["label_sha256"]
    groups = [{item["group"] for item in found[part]} for part in ("training", "validation", "testing")]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_monai_loads_image_and_label_map_at_one_place(folders, tmp_path):
    """Of a label map that was written anew, beside an image that was copied."""
    from monai.data import load_decathlon_datalist
    from monai.transforms import LoadImaged

    for path in folders.real_labels.iterdir():
        write_volume(Volume(labels(int(path.name[1])) * np.uint8(10), affine(), "label"), path)
    folder = export("decathlon", folders, tmp_path / "out", "--classes", "10=liver,20=tumour", "--synthetic-classes",
                    CLASSES, "--validation", 0)  # fmt: skip
    for item in load_decathlon_datalist(folder / "dataset.json"):
        loaded = LoadImaged(["image", "label"], image_only=True)(item)
        assert np.allclose(loaded["image"].affine, loaded["label"].affine, atol=1e-6)
        whose = item["case"].split("_")[0]
        seed = 50 if whose == "drawn" else int(whose[1:])
        assert np.array_equal(loaded["label"].numpy(), labels(seed)), "one value for a class, wherever it is from"
    with pytest.raises(ValueError, match="validation"):
        load_decathlon_datalist(folder / "dataset.json", True, "validation")


def test_bids(folders, tmp_path):
    (folders.real / "p5.nii.gz").rename(folders.real / "p4 later.nii.gz")
    (folders.real_labels / "p5.nii.gz").rename(folders.real_labels / "p4 later.nii.gz")
    folder = export("bids", folders, tmp_path / "out", "--classes", CLASSES, "--patient-pattern", r"(p\d|drawn)")
    about = read(folder / "dataset_description.json")
    assert about["DatasetType"] == "derivative" and about["GeneratedBy"][0]["Name"] == "SynthDiffusion"
    with open(folder / "participants.tsv", encoding="utf-8", newline="") as file:
        people = {row["participant_id"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert set(people) == {p.name for p in folder.iterdir() if p.is_dir()}
    assert set(next(iter(people.values()))) == set(read(folder / "participants.json"))
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*_ct.nii.gz"))
    assert "sub-p0/anat/sub-p0_ct.nii.gz" in names and "sub-p4/ses-02/anat/sub-p4_ses-02_ct.nii.gz" in names
    rows = volumes_of(folder)
    for row in rows.values():
        image = folder / row["file"]
        subject = row["file"].split("/")[0]
        assert people[subject]["source"] == row["kind"] and people[subject]["group"] == row["group"]
        assert people[subject]["part"] == row["part"]
        said = read(image.with_name(image.name.replace(".nii.gz", ".json")))
        assert (
            said["Synthetic"] == (row["kind"] != "real")
            and f"desc-{row['kind']}" in image.name
            or (row["kind"] == "real" and "desc-" not in image.name)
        )
        if row["kind"] != "real":
            assert said["ContainsRealPatientPixels"] == (row["kind"] == "inpainted")
            assert (said["Model"], said["Seed"], said["Sampler"]) == ("lung-nodule-ct", row["seed"], "ddim")
        label = folder / row["label"]
        assert label.name.endswith("_dseg.nii.gz") and image.name.rsplit("_", 1)[0] == label.name.rsplit("_", 1)[0]
        table = label.with_name(label.name.replace(".nii.gz", ".tsv")).read_text(encoding="utf-8")
        assert table == "index\tname\n0\tbackground\n1\tliver\n2\ttumour\n"
    assert rows["p4"]["group"] == rows["p4_later"]["group"]


def test_bids_takes_images_without_label_maps_and_says_of_which_kind_they_are(tmp_path):
    folders = real_set(tmp_path / "in", 3)
    for path in [*folders.real_labels.iterdir()]:
        path.unlink()
    for path in folders.real.iterdir():
        write_volume(Volume(np.abs(ct(int(path.name[1]))), affine()), path)
    folder = export("bids", folders, tmp_path / "out", "--suffix", "T2w")
    assert len(list(folder.rglob("*_T2w.nii.gz"))) == 3 and not list(folder.rglob("*_dseg*"))
    assert cli.main(["export", "bids", *folders.arguments("--out", tmp_path / "ct", "--suffix", "ct")]) == 2


def test_the_manifest_tells_real_and_synthetic_apart(folders, tmp_path):
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--folds", 3)
    with open(folder / "manifest.csv", encoding="utf-8", newline="") as file:
        table = {row["case"]: row for row in csv.DictReader(file)}
    rows = volumes_of(folder)
    assert {c: {k: "" if v is None else str(v) for k, v in r.items()} for c, r in rows.items()} == table
    assert {c: r["kind"] for c, r in rows.items()} == {
        **{f"p{i}": "real" for i in range(6)},
        **dict.fromkeys(["p0_m_seed1", "p1_m_seed1", "p1_m_seed2", "drawn_m_seed1"], "synthetic"),
        "p2_m_seed1": "inpainted",
    }
    assert rows["p1_m_seed2"]["mask_origin"] == "real case p1" and rows["p1_m_seed2"]["subject"] == "p1"
    assert rows["drawn_m_seed1"]["mask_origin"] == "drawing" and rows["p0"]["mask_origin"] == "real label map"
    made = rows["p2_m_seed1"]
    assert (made["model"], made["model_version"], made["mode"], made["seed"]) == (
        "lung-nodule-ct", "1.2.0", "inpaint", 1)  # fmt: skip
    assert made["weights_sha256"] == "ab" * 32 and made["mask_sha256"] == sha256_of(folders.drawings / "p2.nii.gz")
    assert set(rows["p0"]) == set(read(folder / "manifest.json")["columns"])


# Planted leaks: each is found without a name that would tell.


def grouped(folders, tmp_path, *more):
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--folds", 2, *more)
    return {case: row["group"] for case, row in volumes_of(folder).items()}, read(folder / "manifest.json")["joins"]


def test_leak_the_same_mask_under_two_names(tmp_path):
    """A mask that was copied, one that was saved again in another format with another value, and a part of one."""
    folders = real_set(tmp_path / "in", 4)
    synthetic(folders, "x", labels(0))
    saved = Segmentation((labels(1) * np.uint8(3),), affine(), (Segment("liver", 3), Segment("tumour", 6)))
    write_segmentation(saved, folders.drawings / "y.seg.nrrd")
    path = synthetic(folders, "y", labels(1))
    (folders.drawings / "y.nii.gz").unlink()
    record = read(path.with_name("y_m_seed1.json"))
    record["inputs"] = {"segmentation_sha256": sha256_of(folders.drawings / "y.seg.nrrd")}
    path.with_name("y_m_seed1.json").write_text(json.dumps(record), encoding="utf-8")
    synthetic(folders, "z", np.where(labels(2) == 1, 1, 0).astype(np.uint8))
    synthetic(folders, "w", labels(60))
    groups, joins = grouped(folders, tmp_path)
    assert groups["x_m_seed1"] == groups["p0"] and groups["y_m_seed1"] == groups["p1"]
    assert groups["z_m_seed1"] == groups["p2"] and len(set(groups.values())) == 5
    assert {j["why"] for j in joins} == {"made from the same file", "the same mask (liver)"}


def test_leak_an_inpainted_volume_and_its_source_under_another_name(tmp_path):
    """By the checksum in the record; and where the source was saved again, by the slices that were not changed."""
    folders = real_set(tmp_path / "in", 4)
    for i, case in ((0, "lesion"), (1, "nodule")):
        changed = ct(i)
        changed[5:8, 5:8, 5:8] = 77
        synthetic(folders, case, labels(80 + i), image=changed, source=folders.real / f"p{i}.nii.gz")
    again = folders.real / "p1.nii.gz"
    image = nib.load(again)
    flipped = nib.as_closest_canonical(image)
    nib.save(nib.Nifti1Image(np.asarray(flipped.dataobj).astype(np.float32), flipped.affine), again)
    mask = nib.as_closest_canonical(nib.load(folders.real_labels / "p1.nii.gz"))
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj), mask.affine), folders.real_labels / "p1.nii.gz")
    groups, joins = grouped(folders, tmp_path)
    assert groups["lesion_m_seed1"] == groups["p0"] and groups["nodule_m_seed1"] == groups["p1"]
    assert len(set(groups.values())) == 4
    why = {frozenset((j["one"], j["other"])): j["why"] for j in joins}
    assert why[frozenset(("p0", "lesion_m_seed1"))] == "made from the same file"
    assert why[frozenset(("p1", "nodule_m_seed1"))] == "the same image in whole or in part"


def test_leak_volumes_of_one_drawing_and_inpainted_twice(tmp_path):
    """A volume inpainted into one that was inpainted: its source's source is in its group too."""
    folders = real_set(tmp_path / "in", 3)
    first = synthetic(folders, "a", labels(90), source=folders.real / "p0.nii.gz")
    synthetic(folders, "b", labels(91), source=first)
    synthetic(folders, "c", labels(91))
    synthetic(folders, "d", labels(92), seed=1)
    synthetic(folders, "d", labels(92), seed=2)
    groups, _ = grouped(folders, tmp_path)
    assert groups["p0"] == groups["a_m_seed1"] == groups["b_m_seed1"] == groups["c_m_seed1"]
    assert groups["d_m_seed1"] == groups["d_m_seed2"] and len(set(groups.values())) == 4


def test_leak_one_real_image_under_two_names(tmp_path, capsys):
    folders = real_set(tmp_path / "in", 3)
    write_volume(Volume(ct(1), affine()), folders.real / "other.nrrd")
    write_volume(Volume(labels(70), affine(), "label"), folders.real_labels / "other.nii.gz")
    groups, _ = grouped(folders, tmp_path)
    assert groups["other"] == groups["p1"] and len(set(groups.values())) == 3
    assert "1 pair of real volumes with different names of patients belongs together" in capsys.readouterr().err


def test_empty_label_maps_and_joint_volumes_join_nobody(tmp_path):
    """Files of empty label maps are equal, and every joint volume has the case "joint"."""
    folders = real_set(tmp_path / "in", 4)
    for name in ("p0", "p1"):
        write_volume(Volume(np.zeros(ct(0).shape, np.uint8), affine(), "label"), folders.real_labels / f"{name}.nii.gz")
    joint(folders, 1, labels(30))
    joint(folders, 2, np.zeros_like(labels(0)))
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--folds", 2)
    rows = volumes_of(folder)
    assert len({row["group"] for row in rows.values()}) == 6
    assert rows["joint_m_seed1"]["mask_origin"] == "made by the model"
    label = np.asarray(nib.load(folder / rows["joint_m_seed1"]["label"]).dataobj)
    assert np.array_equal(label, 2 * (labels(30) > 0)), "its Tumour is the real label maps' tumour"
    assert not np.asarray(nib.load(folder / rows["joint_m_seed2"]["label"]).dataobj).any()


# Files that must be written anew


def test_values_and_places_of_files_that_are_written_anew(tmp_path, oblique_affine):
    """NRRD, and NIfTI files whose two transforms differ or whose array has four axes: by nibabel and by ITK."""
    import SimpleITK as sitk

    folders = real_set(tmp_path / "in", 4)
    matrix = oblique_affine("LPS")
    write_volume(Volume(ct(1), matrix, metadata={"PatientName": "Doe^Jane"}), folders.real / "p1.nrrd")
    (folders.real / "p1.nii.gz").unlink()
    write_volume(Volume(labels(1), matrix, "label"), folders.real_labels / "p1.nii.gz")
    odd = nib.Nifti1Image(ct(2)[..., None], affine())
    odd.header["descrip"] = b"Doe^Jane"
    odd.set_qform(np.diag([1.0, 1, 1, 1]), 1)
    odd.set_sform(affine(), 1)
    nib.save(odd, folders.real / "p2.nii.gz")
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--folds", 2)
    for name, array, place in (("p1", ct(1), matrix), ("p2", ct(2), affine())):
        path = folder / "imagesTr" / f"{name}_0000.nii.gz"
        image = nib.load(path)
        assert image.get_data_dtype() == np.int16 and np.array_equal(np.asarray(image.dataobj), array)
        assert np.allclose(image.affine, place, atol=1e-5) and np.allclose(image.get_qform(), place, atol=1e-4)
        assert b"Doe" not in gzip.decompress(path.read_bytes())
        itk, mask = sitk.ReadImage(str(path)), sitk.ReadImage(str(folder / "labelsTr" / f"{name}.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(itk).T, array)
        assert np.allclose(itk.GetOrigin(), mask.GetOrigin()) and np.allclose(itk.GetDirection(), mask.GetDirection())
        assert np.allclose(itk.GetSpacing(), mask.GetSpacing())


@pytest.mark.parametrize(
    ("change", "plain"),
    [
        (lambda image: None, True),
        (lambda image: image.set_sform(None, 0), True),
        (lambda image: image.set_qform(None, 0), True),
        (lambda image: image.set_qform(np.diag([1.5, 1.5, 2, 1]), 1), False),
        (lambda image: (image.set_sform(None, 0), image.set_qform(None, 0)), False),
        (lambda image: image.header.set_xyzt_units("meter"), False),
        (lambda image: image.header.__setitem__("pixdim", [1, 3, 3, 3, 0, 0, 0, 0]), False),
    ],
)
def test_which_files_every_reader_puts_into_one_place(tmp_path, change, plain):
    image = nib.Nifti1Image(ct(1), affine())
    image.set_sform(affine(), 1)
    image.set_qform(affine(), 1)
    change(image)
    nib.save(image, tmp_path / "a.nii.gz")
    nib.save(image, tmp_path / "a.nii")
    assert has_plain_form(tmp_path / "a.nii.gz", Volume(ct(1), affine())) == plain
    assert not has_plain_form(tmp_path / "a.nii", Volume(ct(1), affine()))


def test_a_label_map_is_plain_only_if_its_values_are_stored_as_they_are(tmp_path):
    for dtype, slope, plain in ((np.uint8, None, True), (np.float32, None, False), (np.uint8, 2.0, False)):
        image = nib.Nifti1Image(labels(1).astype(dtype), affine())
        image.set_sform(affine(), 1)
        image.header.set_slope_inter(slope, 0 if slope else None)
        nib.save(image, tmp_path / "a.nii.gz")
        volume = Volume(ct(1), affine())
        assert has_plain_form(tmp_path / "a.nii.gz", volume, of_labels=True) == plain
        moved = Volume(ct(1), affine() + np.eye(4, k=3) * 1e-3)
        assert not has_plain_form(tmp_path / "a.nii.gz", moved, of_labels=True)


def test_a_synthetic_nrrd_is_marked_in_its_new_file(tmp_path):
    folders = real_set(tmp_path / "in", 3)
    synthetic(folders, "q", labels(40), suffix=".nrrd")
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--folds", 2)
    for part, name in (("imagesTr", "q_m_seed1_0000"), ("labelsTr", "q_m_seed1")):
        header = nib.load(folder / part / f"{name}.nii.gz").header
        marked = bytes(header["descrip"].item()).startswith(b"SYNTHETIC lung-nodule-ct 1.2.0 seed 1")
        assert marked == (part == "imagesTr")


def test_names_with_blanks_and_umlauts_are_safe_and_unique(tmp_path):
    folders = real_set(tmp_path / "in", 5)
    for i, name in enumerate(["Müller  Straße", "Muller_Strasse", "MULLER_STRASSE", "肝臓", "=cmd"]):
        for folder in (folders.real, folders.real_labels):
            (folder / f"p{i}.nii.gz").rename(folder / f"{name}.nii.gz")
    folder = export("nnunet", folders, tmp_path / "out with ü", "--classes", CLASSES, "--folds", 2)
    cases = {p.name.removesuffix(".nii.gz") for p in (folder / "labelsTr").iterdir()}
    assert len({case.casefold() for case in cases}) == 5 and all(case.isascii() for case in cases)
    assert cases == {"MULLER_STRASSE", "Muller_Strasse_2", "Muller_Strasse_3", "case", "cmd"}
    assert ",'=cmd," in (folder / "manifest.csv").read_text(encoding="utf-8"), "no formula for a spreadsheet"


def test_case_names_of_nnunet_and_its_channel(tmp_path):
    folders = real_set(tmp_path / "in", 3)
    for path in [*folders.real.iterdir()]:
        path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--folds", 3)
    assert {p.name for p in (folder / "imagesTr").iterdir()} == {f"p{i}_0000.nii.gz" for i in range(3)}
