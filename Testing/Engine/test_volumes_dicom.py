"""DICOM series and segmentations against ITK's (GDCM) and highdicom's reading, generated and real."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SynthDiffusionLib.errors import BadInput, MissingExtra
from SynthDiffusionLib.volumes import Code, read_segmentation, read_volume, same_grid, voxel_positions

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (6, 5, 4)  # columns, rows, slices
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"


def _slices(affine: np.ndarray, shape=SHAPE, modality="CT", seed=0, **elements) -> list[pydicom.Dataset]:
    """A series whose axes (column, row, slice) are those of a RAS affine; slices need not be along the normal."""
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 3000, shape).astype(np.uint16)
    series, study, frame = (pydicom.uid.generate_uid(entropy_srcs=[str(seed), part]) for part in ("a", "b", "c"))
    out = []
    for k in range(shape[2]):
        item = pydicom.Dataset()
        item.file_meta = pydicom.dataset.FileMetaDataset()
        item.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = CT if modality == "CT" else MR
        item.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(seed), str(k)])
        item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID
        item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, series, frame
        item.Modality, item.SeriesDescription, item.SeriesNumber = modality, f"Series {seed}", 3
        item.PatientName, item.PatientID = "Doe^Jane", "4711"
        item.PatientBirthDate, item.PatientSex, item.StudyID, item.AccessionNumber = "", "", "", ""
        item.StudyDate = item.StudyTime = ""
        item.InstanceNumber = shape[2] - k  # contradicts the positions: those decide
        item.ImageOrientationPatient = [round(float(v), 9) for v in (lps[:3, :2] / spacing[:2]).T.ravel()]
        item.ImagePositionPatient = [round(float(v), 6) for v in lps[:3, 3] + k * lps[:3, 2]]
        item.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        item.SliceThickness = float(spacing[2])
        item.Rows, item.Columns = shape[1], shape[0]
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 0
        if modality == "CT":
            item.RescaleSlope, item.RescaleIntercept = 1, -1024
        item.PixelData = np.ascontiguousarray(stored[:, :, k].T).tobytes()
        for key, value in elements.items():
            setattr(item, key, value)
        out.append(item)
    return out


def _save(folder: Path, slices: list[pydicom.Dataset], prefix="s", order=None) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for name, item in zip(order or range(len(slices)), slices, strict=True):
        item.save_as(folder / f"{prefix}{name}", enforce_file_format=True)
    return folder


def _itk(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def _assert_as_itk(volume, image: sitk.Image) -> None:
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    shape = np.array(image.GetSize()) - 1
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]) * shape
    theirs = np.array([image.TransformIndexToPhysicalPoint([int(n) for n in p]) for p in points]) * [-1, -1, 1]
    np.testing.assert_allclose(voxel_positions(volume.affine, points), theirs, atol=1e-3)


@pytest.mark.parametrize("codes", ["LPS", "LPI", "RAS", "AIR", "PSL", "SAL"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_series_in_any_direction_as_itk_reads_it(tmp_path, oblique_affine, codes, modality):
    slices = _slices(oblique_affine(codes), modality=modality)
    folder = _save(tmp_path / "Serie ü", slices, order=[2, 0, 3, 1])
    volume = read_volume(folder)
    _assert_as_itk(volume, _itk(folder))
    assert volume.unit == ("HU" if modality == "CT" else "arbitrary")
    assert volume.metadata == {}, "nothing of the patient travels along"
    assert volume.array.dtype == (np.int16 if modality == "CT" else np.uint16)


def test_a_tilted_gantry_gives_the_slices_where_they_lie(tmp_path, oblique_affine):
    affine = oblique_affine("LPS", angles_deg=(0, 0, 0), spacing=(0.8, 0.8, 3.0))
    affine[1, 2] += 0.9  # each slice lies a bit more anterior
    folder = _save(tmp_path / "tilt", _slices(affine))
    volume = read_volume(folder)
    for k, item in enumerate(sorted(_slices(affine), key=lambda s: s.ImagePositionPatient[2])):
        expected = np.array(item.ImagePositionPatient, float) * [-1, -1, 1]
        np.testing.assert_allclose(voxel_positions(volume.affine, np.array([0, 0, k])), expected, atol=1e-5)


def test_fractional_slope_and_slope_of_its_own_for_each_slice(tmp_path, oblique_affine):
    slices = _slices(oblique_affine("LPS"))
    for n, item in enumerate(slices):
        item.RescaleSlope, item.RescaleIntercept = 0.5 + n / 4, -1000.5
    volume = read_volume(_save(tmp_path / "a", slices))
    assert volume.array.dtype == np.float32
    for k, item in enumerate(slices):
        expected = item.pixel_array.T * float(item.RescaleSlope) - 1000.5
        np.testing.assert_allclose(volume.array[:, :, k], expected, atol=1e-3)


def test_other_files_in_the_folder_do_no_harm(tmp_path, oblique_affine):
    folder = _save(tmp_path / "a", _slices(oblique_affine("LPS")))
    (folder / "notes.txt").write_text("hello")
    (folder / "sub").mkdir()
    report = _slices(oblique_affine("LPS"), seed=7)[0]
    report.Modality = "SR"
    del report.Rows, report.PixelData
    _save(folder, [report], prefix="sr")
    assert read_volume(folder).shape == SHAPE


def _refused(folder: Path, match: str) -> str:
    with pytest.raises(BadInput, match=match) as caught:
        read_volume(folder)
    line = caught.value.one_line()
    assert folder.name in line and "\n" not in line and caught.value.hint
    return line


def test_several_series_are_named(tmp_path, oblique_affine):
    affine = oblique_affine("LPS")
    folder = _save(tmp_path / "two", _slices(affine))
    _save(folder, _slices(affine, seed=1, modality="MR"), prefix="t")
    line = _refused(folder, "2 series")
    assert '"Series 0" (CT, 4 files)' in line and '"Series 1" (MR, 4 files)' in line


def test_missing_doubled_and_uneven_slices(tmp_path, oblique_affine):
    affine = oblique_affine("LPS")
    slices = _slices(affine, shape=(6, 5, 8))
    _refused(_save(tmp_path / "gap", slices[:3] + slices[4:]), "missing between s2 and s3")
    twice = _slices(affine, shape=(6, 5, 8))[3]
    _refused(_save(tmp_path / "twice", [*slices, twice]), "same place")
    uneven = _slices(affine, shape=(6, 5, 8))
    step = np.array(uneven[1].ImagePositionPatient) - np.array(uneven[0].ImagePositionPatient)
    uneven[3].ImagePositionPatient = list(np.array(uneven[3].ImagePositionPatient, float) + 0.2 * step)
    _refused(_save(tmp_path / "uneven", uneven), "evenly spaced")
    aside = _slices(affine, shape=(6, 5, 8))
    across = np.array(aside[0].ImageOrientationPatient[:3], float)
    aside[3].ImagePositionPatient = list(np.array(aside[3].ImagePositionPatient, float) + 2 * across)
    _refused(_save(tmp_path / "aside", aside), "straight line")


def test_rounded_positions_are_no_gap(tmp_path, oblique_affine):
    slices = _slices(oblique_affine("LPS", spacing=(0.7, 0.7, 1.25)), shape=(6, 5, 30))
    for item in slices:
        item.ImagePositionPatient = [round(float(v), 2) for v in item.ImagePositionPatient]
    assert read_volume(_save(tmp_path / "rounded", slices)).spacing[2] == pytest.approx(1.25, abs=1e-3)


@pytest.mark.parametrize(
    "changes, match",
    [({"Rows": 4}, "different size"), ({"PixelSpacing": [9.0, 9.0]}, "different pixel spacing"),
     ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "different direction"), ({"SamplesPerPixel": 3}, "color"),
     ({"ImagePositionPatient": None}, "lacks ImagePositionPatient"), ({"RescaleIntercept": None}, "Hounsfield"),
     ({"PixelData": bytes(10)}, "cannot be read")],
)  # fmt: skip
def test_mixed_and_incomplete_slices(tmp_path, oblique_affine, changes, match):
    slices = _slices(oblique_affine("LPS"))
    for key, value in changes.items():
        setattr(slices[2], key, value)
    with pytest.raises(BadInput, match=match):
        read_volume(_save(tmp_path / "mixed", slices))


def test_truncated_slice(tmp_path, oblique_affine):
    folder = _save(tmp_path / "cut", _slices(oblique_affine("LPS"), shape=(64, 64, 4)))
    data = (folder / "s1").read_bytes()
    (folder / "s1").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match="s1"):
        read_volume(folder)


def test_compressed_pixels_without_a_decoder(tmp_path, oblique_affine, caplog):
    slices = _slices(oblique_affine("LPS"))
    for item in slices:
        item.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        item.PixelData = pydicom.encaps.encapsulate([b"no JPEG at all"])
        item["PixelData"].is_undefined_length = True
    _refused(_save(tmp_path / "jpeg", slices), "cannot be decoded")
    assert not caplog.records, "the one line is all that is printed"


def test_zero_spacing_and_single_slice(tmp_path, oblique_affine):
    affine = oblique_affine("LPS")
    _refused(_save(tmp_path / "zero", _slices(affine, PixelSpacing=[0.0, 1.0])), "spacing")
    _refused(_save(tmp_path / "one", _slices(affine)[:1]), "single slice")


def test_missing_packages_are_named(tmp_path, oblique_affine, monkeypatch):
    folder = _save(tmp_path / "a", _slices(oblique_affine("LPS")))
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("pydicom", "highdicom"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for read, path in ((read_volume, folder), (read_segmentation, folder / "s0")):
        with pytest.raises(MissingExtra, match="not installed") as caught:
            read(path)
        assert "[dicom]" in caught.value.hint


def _dicom_seg(slices, masks: np.ndarray, path: Path, kind="BINARY") -> Path:
    """masks: (segments, columns, rows, slices)."""
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=n + 1, segment_label=f"part {n + 1}",
            segmented_property_category=pydicom.sr.coding.Code("49755003", "SCT", "Morphologically Altered Structure"),
            segmented_property_type=pydicom.sr.coding.Code("27925004", "SCT", "Nodule"),
            algorithm_type="MANUAL",
            anatomic_regions=[pydicom.sr.coding.Code("39607008", "SCT", "Lung")],
            display_color=highdicom.color.CIELabColor.from_rgb(255, 0, 0),
        )
        for n in range(len(masks))
    ]  # fmt: skip
    pixels = masks.transpose(3, 2, 1, 0)
    highdicom.seg.Segmentation(
        source_images=slices, pixel_array=pixels if kind == "FRACTIONAL" else pixels.astype(np.uint8),
        segmentation_type=kind, segment_descriptions=described, series_instance_uid=pydicom.uid.generate_uid(),
        series_number=9, sop_instance_uid=pydicom.uid.generate_uid(), instance_number=1, manufacturer="x",
        manufacturer_model_name="y", software_versions="1", device_serial_number="2", omit_empty_frames=True,
    ).save_as(path)  # fmt: skip
    return path


@pytest.mark.parametrize("codes", ["LPS", "SAL", "LPI"])
def test_dicom_seg_lies_on_the_image_and_keeps_codes(tmp_path, oblique_affine, codes):
    shape = (16, 12, 8)
    slices = _slices(oblique_affine(codes), shape=shape)
    image = read_volume(_save(tmp_path / "ct", slices))
    masks = np.zeros((2, *shape), bool)
    masks[0, 3:9, 2:7, 1:7] = True
    masks[1, 6:12, 5:9, 0:8] = True  # overlaps the first
    ours = read_segmentation(_dicom_seg(slices, masks, tmp_path / "seg.dcm"))
    ascending = np.linalg.det(oblique_affine(codes)[:3, :3]) > 0  # else the image counts slices the other way
    assert same_grid(ours.shape, ours.affine, image.shape, image.affine)
    assert len(ours.layers) == 2
    for segment, mask in zip(ours.segments, masks, strict=True):
        np.testing.assert_array_equal(ours.mask(segment), mask if ascending else mask[:, :, ::-1])
        assert segment.category == Code("SCT", "49755003", "Morphologically Altered Structure")
        assert (segment.type, segment.region) == (Code("SCT", "27925004", "Nodule"), Code("SCT", "39607008", "Lung"))
        np.testing.assert_allclose(segment.color, (1, 0, 0), atol=0.02)
    assert [s.name for s in ours.segments] == ["part 1", "part 2"]


def test_segments_that_do_not_overlap_share_a_layer(tmp_path, oblique_affine):
    slices = _slices(oblique_affine("LPS"), shape=(16, 12, 8))
    masks = np.zeros((2, 16, 12, 8), bool)
    masks[0, :5, :, 2:4] = True
    masks[1, 9:, :, 6:8] = True
    ours = read_segmentation(_dicom_seg(slices, masks, tmp_path / "seg.dcm"))
    assert len(ours.layers) == 1 and set(np.unique(ours.layers[0])) == {0, 1, 2}
    assert [int(ours.mask(s).sum()) for s in ours.segments] == [int(m.sum()) for m in masks]


def test_probabilities_and_images_are_no_segmentations(tmp_path, oblique_affine):
    slices = _slices(oblique_affine("LPS"))
    path = _dicom_seg(slices, np.full((1, *SHAPE), 0.5), tmp_path / "f.dcm", "FRACTIONAL")
    with pytest.raises(BadInput, match="probabilities"):
        read_segmentation(path)
    folder = _save(tmp_path / "a", slices)
    with pytest.raises(BadInput, match="DICOM CT, not a segmentation"):
        read_segmentation(folder / "s0")
    (tmp_path / "seg").mkdir()
    _dicom_seg(slices, np.ones((1, *SHAPE), bool), tmp_path / "seg" / "a.dcm")
    with pytest.raises(BadInput, match="no DICOM images"):
        read_volume(tmp_path / "seg")


def test_truncated_dicom_seg(tmp_path, oblique_affine):
    slices = _slices(oblique_affine("LPS"), shape=(64, 64, 4))
    path = _dicom_seg(slices, np.ones((1, 64, 64, 4), bool), tmp_path / "seg.dcm")
    data = path.read_bytes()
    for keep in (0.3, 0.7, 0.95):
        path.write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(BadInput, match="seg.dcm"):
            read_segmentation(path)


def test_multi_frame_ct_as_the_same_slices(tmp_path, oblique_affine):
    """An Enhanced CT made from the slices' own values; highdicom reads it, its axes must come out as the series'."""
    slices = _slices(oblique_affine("LPS"))
    expected = read_volume(_save(tmp_path / "single", slices))
    enhanced = pydicom.Dataset()
    enhanced.update(slices[0])
    enhanced.file_meta = slices[0].file_meta
    enhanced.SOPClassUID = enhanced.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    enhanced.NumberOfFrames = len(slices)
    enhanced.PixelData = b"".join(item.PixelData for item in slices)
    for key in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
                "RescaleIntercept"):  # fmt: skip
        delattr(enhanced, key)

    def group(**elements):
        item = pydicom.Dataset()
        for key, value in elements.items():
            setattr(item, key, value)
        return pydicom.Sequence([item])

    shared = pydicom.Dataset()
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=slices[0].ImageOrientationPatient)
    shared.PixelMeasuresSequence = group(PixelSpacing=slices[0].PixelSpacing, SliceThickness=slices[0].SliceThickness)
    shared.PixelValueTransformationSequence = group(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
    enhanced.SharedFunctionalGroupsSequence = pydicom.Sequence([shared])
    frames = []
    for item in slices:
        frame = pydicom.Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=item.ImagePositionPatient)
        frames.append(frame)
    enhanced.PerFrameFunctionalGroupsSequence = pydicom.Sequence(frames)
    volume = read_volume(_save(tmp_path / "multi", [enhanced]))
    np.testing.assert_array_equal(volume.array, expected.array)
    assert same_grid(volume.shape, volume.affine, expected.shape, expected.affine)
    assert (volume.unit, volume.array.dtype) == ("HU", np.int16)


def test_real_ct_series(shared_data):
    folder = shared_data / "inputs/abdomen/dicom_ct_20slices"
    _assert_as_itk(read_volume(folder), _itk(folder))


def test_real_ct_series_of_three_slices_and_its_segmentation(shared_data):
    folder = shared_data / "inputs/dicom_seg"
    image = read_volume(folder / "ct-3slice")
    _assert_as_itk(image, _itk(folder / "ct-3slice"))
    ours = read_segmentation(folder / "liver.dcm")
    nrrd_file = read_segmentation(folder / "liver_seg.nrrd")
    np.testing.assert_array_equal(ours.layers[0], nrrd_file.layers[0])
    assert same_grid(ours.shape, ours.affine, nrrd_file.shape, nrrd_file.affine)
    assert same_grid(ours.shape, ours.affine, image.shape, image.affine)
    (liver,) = ours.segments
    assert liver.name == "Liver"
    assert liver.type == Code("SCT", "10200004", "Liver"), "its code is SRT T-62000"


@pytest.mark.parametrize(
    ("keyword", "other", "named"),
    [
        ("PatientID", "4712", "Patient ID"),
        ("PatientName", "Roe^Richard", "Patient's Name"),
        ("FrameOfReferenceUID", "1.2.3.99", "Frame of Reference UID"),
    ],
)
def test_slices_of_two_patients_or_scans_are_no_volume(tmp_path, oblique_affine, keyword, other, named):
    """Also where they share a Series Instance UID; the message tells what differs, and nobody's name."""
    slices = _slices(oblique_affine("LPS"))
    own = str(getattr(slices[0], keyword))
    setattr(slices[2], keyword, other)
    with pytest.raises(BadInput) as caught:
        read_volume(_save(tmp_path / "mixed", slices))
    said = f"{caught.value.message} {caught.value.hint}"
    assert f"2 different values of {named}" in said and "own folder" in said and "\n" not in said
    assert own not in said and other not in said and "Doe" not in said


def test_spellings_and_gaps_are_no_second_patient(tmp_path, oblique_affine):
    slices = _slices(oblique_affine("LPS"))
    slices[1].PatientName, slices[2].PatientName = "DOE^JANE^^", "Doe^Jane "
    slices[3].PatientName = slices[3].PatientID = ""
    del slices[0].FrameOfReferenceUID
    assert read_volume(_save(tmp_path / "one", slices)).shape == SHAPE
