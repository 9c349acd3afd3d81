"""What `export nnunet`, `decathlon` and `bids` refuse or tell, in one line that names cause and mend."""

from __future__ import annotations

import errno
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from dicom_examples import generated
from training_set_examples import CLASSES, affine, ct, export, joint, labels, read, real_set, synthetic, volumes_of

from SynthDiffusionLib import cli
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.resources import resource_path
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, write_segmentation, write_volume


@pytest.fixture
def folders(tmp_path):
    return real_set(tmp_path / "in", 4)


@pytest.fixture
def refused(tmp_path, capsys):
    """Calls the command line; returns the line of the error, and checks that nothing is left."""

    def call(folders, *more, form="nnunet", code=2) -> str:
        out = tmp_path / "deep" / "out"
        arguments = ["--out", out, *([] if "--classes" in more else ["--classes", CLASSES]), *more]
        arguments += ["--folds", 2] if form == "nnunet" and "--folds" not in more else []
        assert cli.main(["export", form, *folders.arguments(*arguments)]) == code
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("synthdiffusion: error: ") and "fault of SynthDiffusion" not in line
        assert not out.parent.exists(), "nothing is left"
        return line

    return call


def test_folders_and_options(folders, refused, tmp_path):
    assert "does not exist" in refused(folders, "--real", tmp_path / "none")
    assert "--folds is 1" in refused(folders, "--folds", 1)
    assert "4 groups of volumes that belong together cannot be dealt to 5 folds" in refused(folders, "--folds", 5)
    assert "1000 is no number of a data set" in refused(folders, "--id", 1000)
    assert "cannot be the name of a data set of nnU-Net" in refused(folders, "--name", "a b")
    assert "cannot be the name of a folder" in refused(folders, "--name", "../x", form="bids")
    assert "--validation is 1" in refused(folders, "--validation", 1, form="decathlon")
    assert "exclude each other" in refused(folders, "--test-real", 1, "--test-patients", "p0")
    assert "'nobody' is not among the real volumes" in refused(folders, "--test-patients", "p0,nobody")
    assert "'x1w' is no suffix of an image" in refused(folders, "--suffix", "x1w", form="bids")
    assert "'T1w' is no suffix of CT images" in refused(folders, "--suffix", "T1w", form="bids")
    arguments = ["export", "nnunet", "--out", str(tmp_path / "o"), "--real", str(folders.real)]
    assert cli.main(arguments) == 2 and cli.main(arguments[:4]) == 2
    assert cli.main([*arguments[:4], "--synthetic-labels", str(folders.real)]) == 2


def test_a_real_volume_without_a_label_map_or_on_another_grid(folders, refused):
    (folders.real_labels / "p1.nii.gz").unlink()
    assert "'p1.nii.gz' cannot be used: it has no label map" in refused(folders)
    write_volume(Volume(labels(1)[:, :, 1:], affine(), "label"), folders.real_labels / "p1.nii.gz")
    assert "on another grid than its image (14 x 13 x 11 voxels, the image has 14 x 13 x 12)" in refused(folders)
    moved = affine()
    moved[0, 3] += 0.5
    write_volume(Volume(labels(1), moved, "label"), folders.real_labels / "p1.nii.gz")
    assert "on another grid" in refused(folders)


def test_a_label_value_that_no_table_holds(folders, refused):
    write_volume(Volume(labels(1) * np.uint32(2**24), affine(), "label"), folders.real_labels / "p1.nii.gz")
    assert "'p1.nii.gz' cannot be used: label value 33554432 is too large" in refused(folders)


def test_unusable_files_are_counted_and_left_out_on_request(folders, refused, tmp_path, capsys):
    whole = (folders.real / "p1.nii.gz").read_bytes()
    (folders.real / "p1.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folders.real / "p2.nii.gz").write_bytes(b"")
    line = refused(folders)
    assert "'p1.nii.gz' cannot be used" in line and "and 1 more" in line and "--skip-unusable" in line
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--folds", 2, "--skip-unusable")
    assert set(volumes_of(folder)) == {"p0", "p3"}
    assert [entry["file"] for entry in read(folder / "manifest.json")["left_out"]] == ["p1.nii.gz", "p2.nii.gz"]
    assert "note: 'p1.nii.gz' is left out" in capsys.readouterr().err


def test_real_and_synthetic_cannot_be_mistaken_for_each_other(folders, refused, tmp_path):
    """A synthetic volume among the real ones is marked; a real one among the synthetic ones has no record, or not its
    own."""
    path = synthetic(folders, "q", labels(9))
    volume = Volume(ct(8), affine(), metadata={"description": "SYNTHETIC lung-nodule-ct 1.0 seed 1, research only"})
    write_volume(volume, folders.real / "p9.nii.gz")
    write_volume(Volume(labels(8), affine(), "label"), folders.real_labels / "p9.nii.gz")
    assert "'p9.nii.gz' cannot be used: its header says that it is synthetic" in refused(folders)
    (folders.real / "p9.nii.gz").unlink()
    shutil.copy(folders.real / "p0.nii.gz", folders.synthetic / "other.nii.gz")
    assert "has no record ('other.json') beside it" in refused(folders)
    shutil.copy(path.with_name("q_m_seed1.json"), folders.synthetic / "other.json")
    assert "the checksums differ" in refused(folders)


def test_classes_without_names_where_others_have_some(folders, refused):
    drawing = Segmentation((labels(7),), affine(), (Segment("liver", 1), Segment("tumour", 2)))
    synthetic(folders, "q", labels(7))
    (folders.drawings / "q.nii.gz").unlink()
    write_segmentation(drawing, folders.drawings / "q.seg.nrrd")
    line = refused(folders, "--classes", "1=liver")
    assert "The label value 2 of 'p0.nii.gz' has no name" in line and "--classes 2=NAME" in line


def test_segments_that_overlap(folders, refused, tmp_path):
    """Refused, unless the record says which one the model saw."""
    whole = (labels(7) > 0).astype(np.uint8)
    inner = (labels(7) == 2).astype(np.uint8)
    drawing = Segmentation((inner, whole), affine(), (Segment("tumour", 1), Segment("liver", 1, layer=1)))
    path = synthetic(folders, "q", labels(7))
    (folders.drawings / "q.nii.gz").unlink()
    write_segmentation(drawing, folders.drawings / "q.seg.nrrd")
    assert "its segments 'tumour' and 'liver' overlap" in refused(folders)
    record = read(path.with_name("q_m_seed1.json"))
    record["inputs"] = {"segmentation_sha256": sha256_of(folders.drawings / "q.seg.nrrd")}
    entries = [("tumour", 1, 0, "tumour"), ("liver", 1, 1, "liver")]
    record["mapping"] = {
        "segments": [dict(zip(("name", "value", "layer", "class"), entry)) for entry in entries],
        "overlaps": [{"over": "tumour", "under": "liver", "voxels": 8, "nested": True}],
    }
    path.with_name("q_m_seed1.json").write_text(json.dumps(record), encoding="utf-8")
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--folds", 2)
    assert np.array_equal(np.asarray(nib.load(folder / "labelsTr" / "q_m_seed1.nii.gz").dataobj), labels(7))


def test_what_the_model_was_not_given_is_no_label(folders, tmp_path, capsys):
    """And values without names get those of the classes that the model took them for."""
    path = synthetic(folders, "q", labels(7))
    record = read(path.with_name("q_m_seed1.json"))
    classes = [
        {"name": "1", "value": 1, "layer": 0, "class": "Tumours"},
        {"name": "2", "value": 2, "layer": 0, "class": None},
    ]
    record["mapping"] = {"segments": classes}
    path.with_name("q_m_seed1.json").write_text(json.dumps(record), encoding="utf-8")
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--synthetic-classes", "9=none",
                    "--folds", 2)  # fmt: skip
    found = np.asarray(nib.load(folder / "labelsTr" / "q_m_seed1.nii.gz").dataobj)
    assert np.array_equal(found, np.where(labels(7) == 1, 2, 0))
    assert "the segment 'value 2' of 'q.nii.gz' was not given to the model" in capsys.readouterr().err
    export("nnunet", folders, tmp_path / "other", "--classes", CLASSES, "--folds", 2)
    assert "the value 1 of synthetic label maps is called 'liver', and the model took it" in capsys.readouterr().err


def test_classes_that_only_real_or_only_synthetic_label_maps_have(folders, tmp_path, capsys):
    """What one side does not label would be background there."""
    drawing = Segmentation((labels(7),), affine(), (Segment("Liver", 1), Segment("rib", 2)))
    synthetic(folders, "q", labels(7))
    (folders.drawings / "q.nii.gz").unlink()
    write_segmentation(drawing, folders.drawings / "q.seg.nrrd")
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--folds", 2)
    assert read(folder / "dataset.json")["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    found = np.asarray(nib.load(folder / "labelsTr" / "q_m_seed1.nii.gz").dataobj)
    assert np.array_equal(found, labels(7) == 1)
    told = capsys.readouterr().err
    assert "the class 'rib' is in synthetic label maps only" in told
    assert "1 synthetic label map without 'tumour', which every real one has" in told
    folder = export("nnunet", folders, tmp_path / "all", "--classes", CLASSES, "--folds", 2, "--all-classes")
    assert read(folder / "dataset.json")["labels"] == {"background": 0, "liver": 1, "tumour": 2, "rib": 3}


def test_a_crop_and_a_drawn_part_are_put_on_the_grid_of_the_image(folders, tmp_path):
    """Of `generate --crop` the drawing is larger than the image; Slicer saves no more than what is drawn."""
    whole = labels(7)
    inner = (slice(2, 12), slice(1, 12), slice(2, 11))
    moved = affine()
    moved[:3, 3] += affine()[:3, :3] @ (2, 1, 2)
    write_volume(Volume(whole, affine(), "label"), folders.drawings / "crop.nii.gz")
    cropped = generated(folders.synthetic, ct(70)[inner], moved, case="crop", seed=1, inputs={})
    record = read(cropped.with_name("crop_m_seed1.json"))
    record["settings"]["crop"] = True
    cropped.with_name("crop_m_seed1.json").write_text(json.dumps(record), encoding="utf-8")
    synthetic(folders, "part", whole)
    (folders.drawings / "part.nii.gz").unlink()
    drawn = Segmentation((whole[inner],), moved, (Segment("liver", 1), Segment("tumour", 2)))
    write_segmentation(drawn, folders.drawings / "part.seg.nrrd")
    folder = export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--folds", 2)
    crop = nib.load(folder / "labelsTr" / "crop_m_seed1.nii.gz")
    assert np.array_equal(np.asarray(crop.dataobj), whole[inner]) and np.allclose(crop.affine, moved)
    assert np.array_equal(np.asarray(nib.load(folder / "labelsTr" / "part_m_seed1.nii.gz").dataobj), whole)


def test_ct_and_mr_in_one_set(folders, refused):
    synthetic(folders, "q", labels(9), image=np.abs(ct(3)), modality="MR")
    assert "'p0.nii.gz' holds values like the air of a CT, and the set is MR" in refused(folders)
    synthetic(folders, "r", labels(10))
    assert "A training set is of one modality" in refused(folders)
    assert "A training set is of one modality" in refused(folders, "--modality", "CT")


def test_modality_that_the_values_do_not_tell(folders, refused, tmp_path):
    write_volume(Volume(np.abs(ct(1)), affine()), folders.real / "p1.nii.gz")
    assert "Whether the real volumes are CT or MR cannot be told" in refused(folders)
    assert "'p1.nii.gz' is not in HU like the others" in refused(folders, "--modality", "CT")
    for path in folders.real.iterdir():
        write_volume(Volume(np.abs(ct(int(path.name[1]))), affine()), path)
    synthetic(folders, "q", labels(9))
    assert "'p0.nii.gz' is not in HU like the others" in refused(folders), "the others are synthetic"


def seen_by_the_model(folders, names: list[str]) -> None:
    """Patients of these names, and a volume of the shipped model, with its real weights in the record."""
    spec = read(resource_path("Models", "lung-nodule-ct", "model.json"))
    for i, name in enumerate(names):
        for folder in (folders.real, folders.real_labels):
            (folder / f"p{i}.nii.gz").rename(folder / f"{name}.nii.gz")
    files = {f["path"]: f["sha256"] for f in spec["files"] if f["role"] not in ("card", "figure")}
    model = {"id": spec["id"], "version": spec["version"], "modality": "CT", "files": files}
    synthetic(folders, "drawn", labels(40), model=model)


def test_a_test_patient_that_the_generator_was_trained_on(folders, refused, tmp_path, capsys):
    split = read(resource_path("Models", "lung-nodule-ct", "model.json"))["training"]["split"]
    seen, unseen = split["train"][0], split["test"][0]
    seen_by_the_model(folders, [seen, unseen])
    line = refused(folders, "--test-patients", seen)
    assert "1 test patient is among those that the model 'lung-nodule-ct'" in line and f"first '{seen}'" in line
    export("nnunet", folders, tmp_path / "out", "--classes", CLASSES, "--folds", 2, "--test-patients", unseen)
    told = capsys.readouterr().err
    again = export("nnunet", folders, tmp_path / "drawn", "--classes", CLASSES, "--folds", 2, "--test-real", 1)
    assert volumes_of(again)[seen]["part"] == "training", "drawn among those that the model has not seen"
    assert "4 real patients cannot be taken for the test part: there are 3 that no" in refused(
        folders, "--test-real", 4
    )
    assert "no test patient is among the" in told and "1 real patient outside of the test part was trained on" in told


def test_what_a_generator_has_seen_is_not_always_known(folders, refused, tmp_path, capsys):
    """Weights that are not the installed ones; a list says it."""
    synthetic(folders, "drawn", labels(40))
    options = ("--classes", CLASSES, "--folds", 2, "--test-patients", "p0")
    export("nnunet", folders, tmp_path / "out", *options)
    assert "has seen a test patient is not known: the installed model of this name has other" in capsys.readouterr().err
    seen = tmp_path / "seen.txt"
    seen.write_text("P0_0000.nii.gz\nx\n", encoding="utf-8")
    assert "1 test patient is among those" in refused(folders, *options, "--trained-on", seen)


def test_a_folder_that_is_there_and_a_full_disk(folders, refused, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    folder = export("nnunet", folders, out, "--classes", CLASSES, "--folds", 2)
    before = sorted(p.name for p in folder.rglob("*"))
    arguments = ["export", "nnunet", *folders.arguments("--out", out, "--classes", CLASSES, "--folds", 2)]
    assert cli.main(arguments) == 2
    assert "is there already. Remove it, or choose another" in capsys.readouterr().err
    assert sorted(p.name for p in folder.rglob("*")) == before and len(list(out.iterdir())) == 1

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert "No space left on the disk" in refused(folders, code=1)


def test_a_file_that_changes_while_the_set_is_written(folders, refused, monkeypatch):
    copy = shutil.copyfile

    def changing(source, target):
        write_volume(Volume(ct(77), affine()), folders.real / "p0.nii.gz")
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", changing)
    assert "'p0.nii.gz' has changed while it was read" in refused(folders)


def test_joint_volumes_alone(tmp_path):
    """No real volumes: folds of synthetic ones, each a group of its own."""
    folders = real_set(tmp_path / "in", 0)
    for seed in range(4):
        joint(folders, seed, labels(seed))
    folder = export("nnunet", folders, tmp_path / "out", "--folds", 2)
    splits = read(folder / "splits_final.json")
    assert sorted(case for fold in splits for case in fold["val"]) == [f"joint_m_seed{i}" for i in range(4)]
    assert read(folder / "dataset.json")["labels"] == {"background": 0, "Tumour": 1}
