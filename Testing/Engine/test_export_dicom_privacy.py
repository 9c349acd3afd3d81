"""Nothing that tells who a patient is passes from a DICOM input to a record, a volume or an exported series.

Every text, name, date, time and UID that DICOM's dictionary knows is filled with a marker of its own, private elements
too; then all bytes that were written are searched for them.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from dicom_examples import exported
from tiny_package import make_working_package

from SynthDiffusionLib.jobs import GenerateRequest, run

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

SHAPE = (20, 20, 20)
LEFT_ALONE = {  # what the reader needs, and what says how bytes are to be read
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "StudyInstanceUID", "PatientName", "PatientID", "TransferSyntaxUID", "PixelData",
    "ImageType", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "ContentLabel", "SegmentLabel",
}  # fmt: skip
TEXTS = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE", "UR"}

_MARKERS = re.compile(  # a checksum may hold any digits
    rb"Qx\d{5}z|1\.3\.9999\.\d{6}\.7|031415\.\d{6}|(?<![0-9a-f])18\d{6}(?:031415)?(?![0-9a-f]{2})|Filename4711"
)


class Markers:
    """Values that nobody else would write, each one once."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def text(self) -> str:
        self.made.append(f"Qx{len(self.made):05d}z")
        return self.made[-1]

    def uid(self) -> str:
        self.made.append(f"1.3.9999.{len(self.made) + 770000}.7")
        return self.made[-1]

    def date(self) -> str:
        self.made.append(
            f"{1871 + len(self.made) // 336}{len(self.made) // 28 % 12 + 1:02d}{len(self.made) % 28 + 1:02d}"
        )
        return self.made[-1]

    def time(self) -> str:
        self.made.append(f"031415.{len(self.made) + 910000}")
        return self.made[-1]

    def moment(self) -> str:
        date = self.date()
        self.made[-1] = f"{date}031415"
        return self.made[-1]

    def value(self, vr: str) -> str | None:
        """For an element of a value representation; None for numbers and codes, which name nobody."""
        if vr in TEXTS:
            return self.text()
        make = {"UI": self.uid, "DA": self.date, "TM": self.time, "DT": self.moment}.get(vr)
        return make() if make else None


def fill(item: pydicom.Dataset, markers: Markers) -> None:
    """Gives every element of the dictionary up to group 0088 that can hold a marker one, and adds private elements."""
    from pydicom._dicom_dict import DicomDictionary

    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        known = keyword in LEFT_ALONE or not keyword or retired or keyword in item
        if known or not 0x00080000 < tag < 0x00890000 or (value := markers.value(vr)) is None:
            continue
        item.add_new(tag, vr, value)
    person = pydicom.Dataset()
    person.PersonName, person.InstitutionName, person.PersonAddress = markers.text(), markers.text(), markers.text()
    item.OperatorIdentificationSequence = [person]
    block = item.private_block(0x0011, markers.text(), create=True)
    block.add_new(0x01, "LO", markers.text())
    block.add_new(0x02, "UI", markers.uid())


def series(folder: Path, markers: Markers) -> list[pydicom.Dataset]:
    """A CT series of which three slices hold all markers, and all of them the patient, the institution and UIDs."""
    folder.mkdir()
    study, number, frame, name, patient = markers.uid(), markers.uid(), markers.uid(), markers.text(), markers.text()
    items = []
    for k in range(SHAPE[2]):
        item = pydicom.Dataset()
        item.file_meta = pydicom.dataset.FileMetaDataset()
        item.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        item.file_meta.ImplementationVersionName = markers.text()
        item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = markers.uid()
        item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, number, frame
        item.PatientName, item.PatientID = f"{name}^Jane", patient
        item.PatientBirthDate, item.AccessionNumber, item.StudyDate = markers.date(), markers.text(), markers.date()
        item.StudyTime, item.StudyID, item.InstitutionName = markers.time(), markers.text(), markers.text()
        item.PatientSex, item.Modality, item.InstanceNumber = "F", "CT", k + 1
        item.ReferringPhysicianName, item.DeviceSerialNumber = markers.text(), markers.text()
        item.ImageOrientationPatient, item.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-10, -12, 3 + k]
        item.PixelSpacing, item.SliceThickness = [1, 1], 1
        item.Columns, item.Rows = SHAPE[:2]
        item.SamplesPerPixel, item.PhotometricInterpretation, item.PixelRepresentation = 1, "MONOCHROME2", 1
        item.BitsAllocated, item.BitsStored, item.HighBit = 16, 16, 15
        item.RescaleSlope, item.RescaleIntercept = 1, 0
        item.PixelData = np.full(SHAPE[:2], -700 + k, np.int16).tobytes()
        if k in (0, 7, 19):
            fill(item, markers)
        item.save_as(folder / f"{k}.dcm", enforce_file_format=True)
        items.append(item)
    return items


def segmentation(path: Path, items: list[pydicom.Dataset], markers: Markers) -> Path:
    """A DICOM SEG on the series with all markers of its own; only the name of its segment is meant to be seen."""
    mask = np.zeros(SHAPE[::-1], np.uint8)
    mask[8:12, 8:12, 8:12] = 1
    code = pydicom.sr.coding.Code
    nodule = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="nodule",
        segmented_property_category=code("49755003", "SCT", "Morphologically Altered Structure"),
        segmented_property_type=code("27925004", "SCT", "Nodule"),
        algorithm_type="MANUAL",
        tracking_uid=markers.uid(),
        tracking_id=markers.text(),
    )
    seg = highdicom.seg.Segmentation(
        items, mask, "BINARY", [nodule], markers.uid(), 7, markers.uid(), 1, markers.text(), markers.text(),
        markers.text(), markers.text(), omit_empty_frames=False, content_creator_name=f"{markers.text()}^Jane",
    )  # fmt: skip
    nodule.SegmentDescription, nodule.SegmentAlgorithmName = markers.text(), markers.text()
    fill(seg, markers)
    seg.save_as(path, enforce_file_format=True)
    return path


def found_in(folder: Path, markers: set[str]) -> dict[str, set[str]]:
    """The markers that stand in the files of a folder, packed or not, or in the names of the files."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        words = _MARKERS.findall(content + b"\n" + str(path.relative_to(folder)).encode())
        if hits := markers & {word.decode() for word in words}:
            found[path.name] = hits
    return found


def test_no_identifying_value_of_a_dicom_input_gets_out(tmp_path):
    markers = Markers()
    items = series(tmp_path / "patient", markers)
    (tmp_path / "seg").mkdir()
    drawn = segmentation(tmp_path / "seg" / "Filename4711.dcm", items, markers)
    made = set(markers.made)
    assert len(made) == len(markers.made) > 2000
    kept = set.union(*found_in(tmp_path / "patient", made).values(), *found_in(tmp_path / "seg", made).values())
    assert len(kept) > 0.99 * len(made), "the search finds what is there"

    model = make_working_package(tmp_path / "tiny-ct").folder
    request = GenerateRequest(
        drawn, str(model), tmp_path / "generated", "inpaint", tmp_path / "patient", seed=3, steps=1, device="cpu"
    )
    (output,) = run(request).outputs
    assert found_in(tmp_path / "generated", made) == {}
    export = exported(output["volume"], tmp_path / "dicom", segmentation=drawn, date=None)
    assert export.segmentation and export.region and export.slices == SHAPE[2]
    assert found_in(tmp_path / "dicom", made | {"Filename4711"}) == {}
    for path in export.folder.rglob("*.dcm"):
        item = pydicom.dcmread(path)
        assert not [e for e in item.iterall() if e.tag.is_private]
        assert "real patient" in item.PatientComments
