"""Which image an inpainted volume goes back to: over several steps, over files saved again, and by headers."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from dicom_examples import SHAPE, ct, exported, generated

from SynthDiffusionLib.jobs.outputs import header_marks
from SynthDiffusionLib.jobs.provenance import is_synthetic, sha256_of
from SynthDiffusionLib.jobs.records import edits_of
from SynthDiffusionLib.jobs.sources import source_key, source_of_image
from SynthDiffusionLib.schemas import first_problem
from SynthDiffusionLib.volumes import Volume, read_volume, reorient, write_volume
from SynthDiffusionLib.volumes.header_texts import header_texts
from SynthDiffusionLib.volumes.marks import EDITED, MARK, SYNTHETIC_DATA, mention, own_mark

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
sitk = pytest.importorskip("SimpleITK")

RECORD = {
    "contains_real_patient_pixels": False,
    "model": {"id": "lung-nodule-ct", "version": "1.2.0"},
    "settings": {"seed": 3},
    "notice": "Synthetic image for research. Not for diagnosis.",
}


def source(path):
    return source_of_image(path, read_volume(path))


def inpainted(folder, image, seed=3, **changes):
    """A volume inpainted into an image, with the record that `generate` would write."""
    inputs = {"image_sha256": sha256_of(image), "segmentation_sha256": f"{seed:064x}"}
    changes = {"inputs": inputs, "source": source(image), **changes}
    return generated(folder, ct(seed=seed), np.eye(4), mode="inpaint", seed=seed, **changes)


def subject(volume, out):
    return exported(volume, out).subject


def test_all_volumes_of_one_image_have_one_subject(tmp_path, oblique_affine):
    """Other drawings, a second step, the image as another program saves it, and what was exported from a scene."""
    image = tmp_path / "patient.nii.gz"
    write_volume(Volume(ct(seed=1), oblique_affine("RAS")), image)
    first = inpainted(tmp_path / "a", image)
    second = inpainted(tmp_path / "b", first, seed=4)
    third = inpainted(tmp_path / "c", second, seed=5)
    again = tmp_path / "again.nrrd"
    turned = reorient(read_volume(image), "LPS")
    write_volume(Volume(turned.array.astype(np.float64), turned.affine), again)
    resaved = inpainted(tmp_path / "d", again, seed=6)
    subjects = {subject(v, tmp_path / f"out{i}") for i, v in enumerate((first, second, third, resaved))}
    assert len(subjects) == 1
    other = tmp_path / "other.nii.gz"
    write_volume(Volume(ct(seed=2), np.eye(4)), other)
    assert subject(inpainted(tmp_path / "e", other), tmp_path / "oute") not in subjects
    record = json.loads(third.with_name("Doe_m_seed5.json").read_text(encoding="utf-8"))
    files = record["source"]["files"]
    assert {sha256_of(p) for p in (image, first, second)} <= set(files), "the whole way back"
    assert first_problem(record, "provenance") is None and source_key(record) == record["source"]["key"]


def test_inpainted_into_a_synthetic_volume_it_belongs_to_that_volumes_drawing(tmp_path):
    whole = generated(tmp_path / "a", ct(seed=1), np.eye(4))
    found = source(whole)
    assert found["image_synthetic"] and found["known"] and found["key"] == "cd" * 32
    into = inpainted(tmp_path / "b", whole, seed=4)
    assert subject(into, tmp_path / "o1") == subject(whole, tmp_path / "o2")


def test_a_synthetic_image_without_its_record_is_told_of(tmp_path):
    path = tmp_path / "lost.nii.gz"
    write_volume(Volume(ct(), np.eye(4), metadata=header_marks(RECORD)), path)
    (tmp_path / "lost.json").write_text('{"EchoTime": 0.03}', encoding="utf-8")  # a sidecar of BIDS
    found = source(path)
    assert found["image_synthetic"] and not found["known"]
    export = exported(inpainted(tmp_path / "b", path), tmp_path / "out")
    assert any("no record beside it" in note for note in export.notes)
    write_volume(Volume(ct(), np.eye(4)), path)
    assert source(path) | {"known": True, "image_synthetic": False} == source(path)


def test_records_of_older_versions_are_told_of(tmp_path):
    old = generated(tmp_path / "a", ct(), np.eye(4), mode="inpaint", inputs={"image_sha256": "12" * 32})
    assert any("follows from the image's file" in note for note in exported(old, tmp_path / "o").notes)
    assert not any("follows" in note for note in exported(old, tmp_path / "p", subject="S1").notes)


def test_an_image_that_was_synthetic_already_is_not_called_a_patients(tmp_path):
    """Else the header would contradict the notice beside it."""
    first = inpainted(tmp_path / "b", generated(tmp_path / "a", ct(seed=1), np.eye(4)), seed=4)
    item = pydicom.dcmread(next(exported(first, tmp_path / "o").image.iterdir()))
    assert "Outside the inpainted region it holds a real" not in item.DerivationDescription
    assert "partly or wholly synthetic already" in item.DerivationDescription
    assert "partly or wholly synthetic already" in item.PatientComments


@pytest.mark.parametrize("kind", ["ours", "others", "none"])
def test_a_dicom_series_that_is_marked_as_synthetic(tmp_path, kind):
    """Ours by its name and comments, other people's by Synthetic Data (0008,001C)."""
    export = exported(generated(tmp_path / "a", ct(), np.eye(4)), tmp_path / "out")
    for path in export.image.iterdir():
        item = pydicom.dcmread(path)
        if kind != "ours":
            item.PatientName, item.ImageComments, item.SeriesDescription = "Doe^Jane", "", "thorax"
        if kind != "others":
            del item.SyntheticData
        item.save_as(path)
    metadata = read_volume(export.image).metadata
    assert metadata == {"ours": {MARK: "YES"}, "others": {SYNTHETIC_DATA: "YES"}, "none": {}}[kind]
    assert is_synthetic(metadata) == source(export.image)["image_synthetic"] == (kind != "none")


@pytest.mark.parametrize("partly", [False, True])
@pytest.mark.parametrize(
    "model", ["lung-nodule-ct", "a-model-with-a-name-that-leaves-no-room-for-anything-else-at-all"]
)
def test_the_mark_is_found_wherever_programs_have_put_it(tmp_path, partly, model):
    record = RECORD | {"contains_real_patient_pixels": partly, "model": {"id": model, "version": "1.2.0"}}
    first = tmp_path / "a.nii.gz"
    write_volume(Volume(ct(), np.eye(4), metadata=header_marks(record)), first)
    image = sitk.ReadImage(str(first))
    for name in ("b.nrrd", "c.nii.gz", "d.mha"):
        sitk.WriteImage(image, str(tmp_path / name))
    text = header_marks(record)["description"]
    for field in ("aux_file", "db_name", "intent_name"):
        moved = nib.Nifti1Image(ct(), np.eye(4))
        moved.header[field] = "PARTLY SYNTHETIC (inpai"[:16] if partly else "SYNTHETIC. Synthetic im"[:24]
        if partly or field == "aux_file":
            nib.save(moved, tmp_path / f"{field}.nii.gz")
    extended = nib.Nifti1Image(ct(), np.eye(4))
    extended.header.extensions.append(nib.nifti1.Nifti1Extension("comment", text.encode()))
    nib.save(extended, tmp_path / "extended.nii.gz")
    nib.save(nib.Nifti2Image(ct(), np.eye(4), extra=None, header=nib.Nifti2Header.from_header(nib.load(first).header)),
             tmp_path / "second.nii")  # fmt: skip
    paths = sorted(p for p in tmp_path.iterdir() if p.name != "d.mha")
    assert len(paths) == (8 if partly else 6)
    for path in paths:
        assert read_volume(path).metadata.get(MARK) == "YES", path.name
    write_volume(Volume(ct(), np.eye(4), metadata=header_marks(record)), tmp_path / "e.mha")
    assert is_synthetic(read_volume(tmp_path / "e.mha").metadata)


def test_what_others_call_synthetic_is_no_mark_of_ours(tmp_path):
    for text in ("SyMRI Synthetic T1w TE=10", "SYNTHETIC MR", "SYNTHETIC T1 seed point", "synthetic"):
        path = tmp_path / "scan.nii.gz"
        write_volume(Volume(ct(), np.eye(4), metadata={"description": text}), path)
        assert own_mark(header_texts(path)) is None and mention(header_texts(path)) == "descrip"
        assert not is_synthetic(read_volume(path).metadata)
    write_volume(Volume(ct(), np.eye(4), metadata={"description": "Philips TE=4"}), path)
    assert mention(header_texts(path)) is None and read_volume(path).shape == SHAPE


@pytest.mark.parametrize(("mark", "edits"), [("modified_after_generation", "yes"), ("voxels_unchecked", "not checked")])
def test_an_edited_image_stays_one_over_every_later_step(tmp_path, mark, edits):
    """Inpainting into it does not make it known whose voxels it holds."""
    whole = generated(tmp_path / "a", ct(seed=1), np.eye(4), **{mark: True})
    first = inpainted(tmp_path / "b", whole, seed=4)
    second = inpainted(tmp_path / "c", first, seed=5)
    for volume in (first, second):
        record = json.loads(volume.with_name(volume.name.replace(".nii.gz", ".json")).read_text(encoding="utf-8"))
        assert record["source"]["edited"] == edits == edits_of(record) and not record["source"]["known"]
        assert first_problem(record, "provenance") is None
        assert (header_marks(record).get(EDITED) == "YES") == (edits == "yes")
    export = exported(second, tmp_path / "out")
    assert any("nothing shows whose voxels" in note for note in export.notes)
    text = pydicom.dcmread(next(export.image.iterdir())).DerivationDescription
    assert "oxels of the image that it was made from" in text and "nothing shows whose they are" in text


def test_an_edited_image_without_its_record_says_so_in_its_header(tmp_path):
    record = RECORD | {"modified_after_generation": True}
    for name in ("a.nii.gz", "b.nrrd", "c.mha"):
        write_volume(Volume(ct(), np.eye(4), metadata=header_marks(record)), tmp_path / name)
        assert source(tmp_path / name)["edited"] == "yes"
    series = exported(
        generated(tmp_path / "a", ct(), np.eye(4), modified_after_generation=True), tmp_path / "out"
    ).image
    assert source(series)["edited"] == "yes" and not source(series)["known"]
    write_volume(Volume(ct(), np.eye(4), metadata=header_marks(RECORD)), tmp_path / "d.nrrd")
    assert "edited" not in source(tmp_path / "d.nrrd")
