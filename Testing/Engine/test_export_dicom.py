"""`export dicom`: what is read back by ITK, pydicom, highdicom and our own reader, and what the headers say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dicom_examples import (
    DATE,
    LUNG,
    NODULE,
    SHAPE,
    WEIGHTS,
    assert_same_image,
    ct,
    drawing,
    exported,
    generated,
    itk_series,
    labels,
    nifti,
)

from SynthDiffusionLib import cli
from SynthDiffusionLib.export.dicom_geometry import shown_volume
from SynthDiffusionLib.export.dicom_values import stored_values
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, read_segmentation, read_volume, write_segmentation

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")


def slices(export) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(export.image.iterdir())]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LPI", "AIR", "PSL", "SAL", "ILP"])
def test_oblique_flipped_and_anisotropic_volumes_as_itk_and_we_read_them(tmp_path, oblique_affine, codes):
    affine = oblique_affine(codes)
    volume = generated(tmp_path, ct(), affine)
    export = exported(volume, tmp_path / "out", segmentation=drawing(tmp_path, affine))
    original = nifti(volume)
    assert_same_image(*original, *itk_series(export.image))
    ours = read_volume(export.image)
    assert ours.unit == "HU" and ours.array.dtype == np.int16
    assert_same_image(*original, ours.array, ours.affine)
    drawn = read_segmentation(export.segmentation)
    for segment, value in zip(drawn.segments, (1, 4), strict=True):
        assert_same_image(labels() == value, affine, drawn.mask(segment).astype(np.uint8), drawn.affine)
    np.testing.assert_allclose(drawn.affine, ours.affine, rtol=0, atol=1e-6)


def test_strict_readings_by_pydicom_and_highdicom(tmp_path, oblique_affine, monkeypatch):
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    affine = oblique_affine("AIR")
    volume = generated(tmp_path, ct(), affine, mode="inpaint")
    export = exported(volume, tmp_path / "out", segmentation=drawing(tmp_path, affine))
    for path in export.folder.rglob("*.dcm"):
        str(pydicom.dcmread(path))  # converts, and so checks, every value
    found = highdicom.get_volume_from_series(slices(export))
    lps = found.affine[:, [2, 1, 0, 3]]
    assert_same_image(*nifti(volume), found.array.T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)


@pytest.mark.parametrize("codes", ["RAS", "SAL", "ILP", "PSR"])
def test_rows_and_columns_run_as_radiologists_look_at_them(tmp_path, oblique_affine, codes):
    """To the patient's left and back (axial), back and down (sagittal) or left and down (coronal), and upwards."""
    export = exported(generated(tmp_path, ct(), oblique_affine(codes)), tmp_path / "out")
    items = slices(export)
    row, column = np.array(items[0].ImageOrientationPatient).reshape(2, 3)
    named = {"R": "PI", "L": "PI", "A": "LI", "P": "LI", "S": "LP", "I": "LP"}[codes[2]]
    along = {"L": (0, 1), "P": (1, 1), "I": (2, -1)}
    for direction, letter in zip((row, column), named):
        axis, sign = along[letter]
        assert np.abs(direction).argmax() == axis and np.sign(direction[axis]) == sign
    normal = np.cross(row, column)
    places = [normal @ np.array(item.ImagePositionPatient) for item in items]
    assert np.all(np.diff(places) > 0)
    np.testing.assert_allclose([item.SliceLocation for item in items], places, atol=1e-9)
    assert [item.InstanceNumber for item in items] == list(range(1, len(items) + 1))


def test_slices_ascend_along_the_normal_however_askew_a_grid_lies():
    rng = np.random.default_rng(4)
    for _ in range(300):
        affine = np.eye(4)
        affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * (0.7, 1.1, 2.3)  # with the right hand or the left
        _, planes = shown_volume(Volume(np.zeros((2, 3, 4), np.int16), affine))
        assert planes.location(1) - planes.location(0) == pytest.approx(2.3)


def test_thousands_of_thin_slices(tmp_path, oblique_affine):
    """The last of 2,001 slices of 0.0125 mm lies where it should; file names sort as the slices do."""
    shape = (4, 3, 2001)
    volume = generated(tmp_path, ct(shape), oblique_affine("LPI", spacing=(0.3, 0.4, 0.0125)))
    export = exported(volume, tmp_path / "out")
    paths = sorted(export.image.iterdir())
    assert export.slices == 2001 == len(paths)
    assert_same_image(*nifti(volume), *itk_series(export.image))
    first, last = (pydicom.dcmread(path) for path in (paths[0], paths[-1]))
    assert (first.InstanceNumber, last.InstanceNumber) == (1, 2001)
    assert last.SliceLocation - first.SliceLocation == pytest.approx(2000 * 0.0125, abs=1e-5)


def test_mr_in_whole_numbers_needs_no_rescaling(tmp_path, oblique_affine):
    array = np.random.default_rng(0).integers(0, 2**16, SHAPE).astype(np.uint16)
    volume = generated(tmp_path, array, oblique_affine("LPS"), "MR")
    export = exported(volume, tmp_path / "out")
    item = slices(export)[0]
    assert item.Modality == "MR" and item.SOPClassUID == pydicom.uid.MRImageStorage
    assert "RescaleSlope" not in item and item.PixelRepresentation == 0
    assert_same_image(*nifti(volume), *itk_series(export.image))


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_fractions_are_rounded_by_no_more_than_is_said(tmp_path, oblique_affine, modality):
    array = np.random.default_rng(1).normal(300, 90, SHAPE).astype(np.float32)
    volume = generated(tmp_path, array, oblique_affine("LPS"), modality)
    export = exported(volume, tmp_path / "out")
    error = export.stored.largest_error
    assert 0 < error <= export.stored.slope / 2 * 1.001
    assert export.stored.slope == pytest.approx((array.max() - array.min()) / 65535)
    assert any("rounded" in note for note in export.notes)
    item = slices(export)[0]
    assert f"by at most {error:.3g}" in item.DerivationDescription
    assert item.pixel_array.dtype == np.uint16 and item.RescaleType == {"CT": "HU", "MR": "US"}[modality]
    stored = [i.pixel_array.T * float(i.RescaleSlope) + float(i.RescaleIntercept) for i in slices(export)]
    np.testing.assert_allclose(np.stack(stored, 2), itk_series(export.image)[0], atol=1e-4)
    assert_same_image(*nifti(volume), *itk_series(export.image), error=error * 1.001 + 1e-4)
    ours = read_volume(export.image)
    assert_same_image(*nifti(volume), ours.array, ours.affine, error=error * 1.001 + 1e-4)


@pytest.mark.parametrize(
    ("array", "signed", "slope", "intercept"),
    [
        ([-1024, 3071], True, 1, 0),
        ([-32768, 32767], True, 1, 0),
        ([40000, 100000], False, 1, 40000),  # beyond int16, but not wider than 16 bits
        ([-2048.5, 3071.25], True, 0.25, 0),
        ([0.0, 2**16 - 1.0], False, 1, 0),
        ([-40000.5, -20000.0], False, 0.5, -40000.5),
    ],
)
def test_what_16_bits_can_hold_is_exact(array, signed, slope, intercept):
    array = np.array(array).reshape(1, 1, 2)
    stored = stored_values(array, unsigned=False)
    assert (stored.signed, stored.slope, stored.intercept, stored.largest_error) == (signed, slope, intercept, 0)
    assert np.array_equal(stored.decode(stored.encode(array)), array)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("unsigned", [True, False])
def test_whole_numbers_of_every_type_are_exact(dtype, unsigned):
    array = np.array([0, 3, 127], dtype).reshape(1, 1, 3)
    stored = stored_values(array, unsigned)
    assert stored.plain and stored.signed != unsigned
    assert np.array_equal(stored.decode(stored.encode(array)), array)


@pytest.mark.parametrize(
    "array", [[-100000, 1, 100000], [1e-9, 3.3e-9, 9e-9], [0.1, 0.1, 0.1], [0.0, 0.7, 65535.0], [-1e30, 0.5, 1e30]]
)
def test_everything_else_is_rounded_to_65536_levels(array):
    array = np.array(array).reshape(1, 1, 3)
    stored = stored_values(array, unsigned=True)
    back = stored.decode(stored.encode(array))
    assert np.abs(back - array).max() == pytest.approx(stored.largest_error, rel=1e-9)
    assert stored.largest_error <= max(0.5001 * np.ptp(array.astype(float)) / 65535, 1e-15)


def test_the_headers_say_that_it_is_synthetic_and_what_made_it(tmp_path, oblique_affine):
    affine = oblique_affine("LPS")
    volume = generated(tmp_path, ct(), affine)
    export = exported(volume, tmp_path / "out", segmentation=drawing(tmp_path, affine))
    items = [*slices(export), pydicom.dcmread(export.segmentation)]
    for item in items:
        assert item.SyntheticData == "YES"
        assert item.ImageType[0] == "DERIVED"
        (made,) = item.ContributingEquipmentSequence
        assert made.PurposeOfReferenceCodeSequence[0].CodeValue == "109100"  # Synthesizing Equipment
        assert (made.Manufacturer, made.ManufacturerModelName) == ("SynthDiffusion", "lung-nodule-ct")
        assert {"SynthDiffusion 0.0.9", "lung-nodule-ct 1.2.0"} <= set(made.SoftwareVersions)
        assert made.DeviceSerialNumber == WEIGHTS["denoiser.safetensors"]
        assert WEIGHTS["denoiser.safetensors"] in made.ContributionDescription
        assert (item.PatientName, item.PatientID) == (f"SYNTHETIC^{export.subject}", export.subject)
        assert item.PatientBirthDate == item.PatientSex == "" and "PatientIdentityRemoved" not in item
        assert item.BurnedInAnnotation == "NO" and item.LossyImageCompression == "00"
        assert item.StudyDate == item.ContentDate == DATE.strftime("%Y%m%d")
        assert not [e for e in item.iterall() if e.tag.is_private]
        own = [e.value for e in item.iterall() if e.VR == "UI" and not str(e.value).startswith("1.2.840.10008.")]
        assert own and all(uid.startswith("2.25.") and len(uid) <= 64 for uid in own)
    assert items[0].ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
    assert (items[0].WindowCenter, items[0].WindowWidth) == (-500, 1400)
    assert "No part of it was acquired from a patient" in items[0].DerivationDescription
    assert len({(i.StudyInstanceUID, i.FrameOfReferenceUID, i.PatientID) for i in items}) == 1


def test_an_inpainted_series_says_that_it_holds_real_pixels(tmp_path, oblique_affine):
    affine = oblique_affine("LPS")
    volume = generated(tmp_path, ct(), affine, mode="inpaint", inputs={"image_sha256": "12" * 32})
    export = exported(volume, tmp_path / "out")
    assert export.folder.name.endswith("_inpainted") and export.segmentation is None
    items = [*slices(export), pydicom.dcmread(export.region)]
    for item in items:
        assert item.SyntheticData == "YES"
        assert item.PatientIdentityRemoved == "NO" and "BurnedInAnnotation" not in item
        for text in (item.ImageComments, item.PatientComments):
            assert "not anonymous" in text
        assert "PARTLY SYNTHETIC" in item.SeriesDescription
    assert "real patient's pixels and is not anonymous" in items[0].DerivationDescription
    assert "LossyImageCompression" not in items[0]
    region = read_segmentation(export.region)
    assert [s.name for s in region.segments] == ["synthetic region"]
    assert_same_image(labels() == 4, affine, region.layers[0], region.affine)
    again = exported(generated(tmp_path / "b", ct(seed=1), affine, mode="inpaint", inputs={"image_sha256": "12" * 32}),
                     tmp_path / "out2")  # fmt: skip
    assert again.subject == export.subject, "volumes of one source patient stay together"


def test_the_segmentation_keeps_names_codes_and_colors_and_names_its_slices(tmp_path, oblique_affine):
    affine = oblique_affine("PSL")
    export = exported(generated(tmp_path, ct(), affine), tmp_path / "out", segmentation=drawing(tmp_path, affine))
    for found, given in zip(read_segmentation(export.segmentation).segments, (LUNG, NODULE), strict=True):
        for name in ("name", "category", "type", "type_modifier", "region", "region_modifier"):
            assert getattr(found, name) == getattr(given, name)
        np.testing.assert_allclose(found.color, given.color, atol=0.02)
    seg = highdicom.seg.segread(export.segmentation)
    places = {item.SOPInstanceUID: item.ImagePositionPatient for item in slices(export)}
    assert {uid for _, _, uid in seg.get_source_image_uids()} == set(places)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == places[source]
    described = [seg.get_segment_description(n) for n in (1, 2)]
    assert all(d.SegmentAlgorithmType == "MANUAL" for d in described)
    assert len({d.TrackingUID for d in described}) == 2


def test_a_plain_label_map_gets_the_codes_of_the_model_classes(tmp_path, oblique_affine):
    affine = oblique_affine("LPS")
    entries = [{"name": "1", "value": 1, "class": "lung"}, {"name": "4", "value": 4, "class": None}]
    volume = generated(tmp_path, ct(), affine, mapping={"segments": entries})
    plain = tmp_path / "plain.nii.gz"
    write_segmentation(Segmentation((labels(),), affine, (Segment("1", 1), Segment("4", 4))), plain)
    first, second = read_segmentation(exported(volume, tmp_path / "out", segmentation=plain).segmentation).segments
    assert (first.name, first.type.meaning) == ("lung", "Lung")
    assert (second.name, second.type.meaning, second.category.meaning) == ("4", "Tissue", "Tissue")


def test_what_a_joint_model_has_made_is_found_and_named_as_its_work(tmp_path, oblique_affine):
    affine = oblique_affine("LPS")
    tumour = {"asked": {}, "drawn": [], "used": {f"{n}_mm": 1.0 for n in ("center_r", "center_a", "center_s", "box_r",
              "box_a", "box_s")} | {"volume_mm3": 1.0, "surface_mm2": 1.0, "sphericity": 0.5}}  # fmt: skip
    settings = {"mode": "joint", "seed": 3, "tumour": tumour}
    volume = generated(tmp_path, ct(), affine, "MR", "joint", settings=settings, inputs={})
    made = Segmentation((labels(),), affine, (NODULE,))
    write_segmentation(made, tmp_path / "Doe_m_seed3.seg.nrrd")
    export = exported(volume, tmp_path / "out")
    described = highdicom.seg.segread(export.segmentation).get_segment_description(1)
    assert described.SegmentAlgorithmType == "AUTOMATIC" and described.SegmentAlgorithmName == "lung-nodule-ct"
    empty = Segmentation((np.zeros(SHAPE, np.uint8),), affine, (NODULE,))
    write_segmentation(empty, tmp_path / "Doe_m_seed3.seg.nrrd")
    without = exported(volume, tmp_path / "out2")
    assert without.segmentation is None and any("is empty" in note for note in without.notes)


def test_overlapping_segments_stay_whole(tmp_path, oblique_affine):
    affine = oblique_affine("LPS")
    layers = (labels(), np.where(labels() == 4, 0, 1).astype(np.uint8))
    path = tmp_path / "overlap.seg.nrrd"
    write_segmentation(Segmentation(layers, affine, (LUNG, NODULE, Segment("all", 1, 1))), path)
    export = exported(generated(tmp_path, ct(), affine), tmp_path / "out", segmentation=path)
    found = read_segmentation(export.segmentation)
    masks = (layers[0] == 1, layers[0] == 4, layers[1] == 1)
    for segment, mask in zip(found.segments, masks, strict=True):
        assert_same_image(mask, affine, found.mask(segment).astype(np.uint8), found.affine)


def test_the_same_export_has_the_same_bytes_and_another_one_other_uids(tmp_path, oblique_affine):
    affine = oblique_affine("LPS")
    volume, drawn = generated(tmp_path, ct(), affine), drawing(tmp_path, affine)

    def files(name, **options):
        export = exported(volume, tmp_path / name, segmentation=drawn, **options)
        return {p.relative_to(export.folder): p for p in export.folder.rglob("*.dcm")}

    def uids(found):
        return {p: pydicom.dcmread(path).SOPInstanceUID for p, path in found.items()}

    first, second = files("a"), files("b")
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in first) and len(first) == 10
    other = [files("c", date=None), files("d", subject="Phantom 7"), files("e", label="none")]
    assert not set(uids(first).values()) & set(uids(other[0]).values())
    assert not set(uids(first).values()) & set(uids(other[1]).values())
    assert uids(first) == uids(other[2])
    slice_1 = Path("image/slice0001.dcm")
    empty = pydicom.dcmread(other[0][slice_1])
    assert empty.StudyDate == empty.StudyTime == "" and "ContentDate" not in empty
    assert pydicom.dcmread(other[0][Path("segmentation.dcm")]).ContentDate == "19000101", "it must have one"
    assert pydicom.dcmread(other[1][slice_1]).PatientID == "Phantom 7"
    drawn = tmp_path / "other.seg.nrrd"
    write_segmentation(Segmentation((labels()[::-1],), affine, (LUNG, NODULE)), drawn)
    changed = uids(files("f"))
    assert {name for name, uid in uids(first).items() if changed[name] != uid} == {Path("segmentation.dcm")}


@pytest.mark.parametrize("all_frames", [True, False])
def test_a_segment_with_nothing_in_it(tmp_path, oblique_affine, monkeypatch, all_frames):
    from SynthDiffusionLib.export import dicom_seg

    monkeypatch.setattr(dicom_seg, "ALL_FRAMES_BYTES", dicom_seg.ALL_FRAMES_BYTES if all_frames else 0)
    affine, path = oblique_affine("LPS"), tmp_path / "empty.seg.nrrd"
    write_segmentation(Segmentation((labels(),), affine, (LUNG, Segment("none", 9), NODULE)), path)
    export = exported(generated(tmp_path, ct(), affine), tmp_path / "out", segmentation=path)
    found = read_segmentation(export.segmentation)
    assert [int(found.mask(s).sum()) for s in found.segments] == [int((labels() == n).sum()) for n in (1, 9, 4)]


def test_an_overlay_leaves_the_values_alone(tmp_path, oblique_affine):
    shape = (100, 80, 3)
    volume = generated(tmp_path, ct(shape), oblique_affine("LPS"))
    export = exported(volume, tmp_path / "out", label="overlay")
    assert_same_image(*nifti(volume), *itk_series(export.image))
    item = slices(export)[1]
    shown = item.overlay_array(0x6000)
    assert shown.shape == (80, 100) and 50 < shown.sum() < 1500
    assert not shown[20:].any(), "at the upper edge"
    assert item[0x6000, 0x1500].value == "SYNTHETIC" and item.BurnedInAnnotation == "NO"


def test_a_burned_in_label_is_in_the_voxels_and_is_said(tmp_path, oblique_affine):
    shape = (160, 80, 3)
    volume = generated(tmp_path, ct(shape), oblique_affine("LPS"), mode="inpaint")
    export = exported(volume, tmp_path / "out", label="burned-in")
    item = slices(export)[0]
    assert item.BurnedInAnnotation == "YES"
    assert "PARTLY SYNTHETIC is burned into the pixels" in item.DerivationDescription
    before, after = nifti(volume)[0], read_volume(export.image).array
    changed = before != after
    assert {int(v) for v in np.unique(after[changed])} == {-1200, 200}  # black and white of the window
    assert not changed[:, 20:].any() and changed[:, :, 0].sum() > 500


def test_progress_as_lines_for_a_program(tmp_path, oblique_affine, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a file named "cancel" would end it
    volume = generated(tmp_path, ct(), oblique_affine("LPS"), suffix=".nrrd")
    assert cli.main(["export", "dicom", str(volume), "--out", str(tmp_path / "out"), "--events"]) == 0
    *events, _path, last = capsys.readouterr().out.splitlines()
    events = [json.loads(line) for line in events]
    assert [(e["event"], e["step"], e["total"]) for e in events] == [("progress", n, 9) for n in range(1, 10)]
    assert json.loads(last)["slices"] == 9 and json.loads(last)["other_drawing"] is None


def test_who_reads_the_events_ends_it_by_a_file(tmp_path, oblique_affine, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cancel").touch()
    volume = generated(tmp_path, ct((16, 16, 4000)), oblique_affine("LPS"), suffix=".nrrd")
    assert cli.main(["export", "dicom", str(volume), "--out", str(tmp_path / "out"), "--events"]) == 130
    assert "Cancelled" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_from_the_command_line(tmp_path, oblique_affine, capsys):
    volume = generated(tmp_path, ct(), oblique_affine("LPS"), suffix=".nrrd")
    arguments = ["export", "dicom", str(volume), "--out", str(tmp_path / "out"), "--subject", "S 1", "--json"]
    assert cli.main([*arguments, "--date", "none"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["subject"] == "S 1" and printed["slices"] == 9 and printed["values"]["largest_error"] == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["S 1_lung-nodule-ct_seed3"]
    assert read_volume(printed["image"]).shape == SHAPE
