"""The series of slices: CT Image Storage (PS3.3 A.3) and MR Image Storage (A.4), one file for each slice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from SynthDiffusionLib.export.dicom_geometry import Planes
from SynthDiffusionLib.export.dicom_marks import (
    Marks,
    add_body_part,
    add_marks,
    add_subject_and_study,
    described,
    series_description,
)
from SynthDiffusionLib.export.dicom_values import StoredValues, decimal_string

if TYPE_CHECKING:
    from pydicom import Dataset

_SOP_CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}


def series_header(
    marks: Marks, shape: tuple[int, int, int], planes: Planes, stored: StoredValues, window: tuple[float, float]
) -> Dataset:
    """All that the slices of a series have in common.

    Args:
        marks: of the export.
        shape: columns, rows, slices.
        planes: where the slices lie.
        stored: how their values are stored.
        window: values that are shown as black and white.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = _SOP_CLASSES[marks.modality]
    add_subject_and_study(item, marks)
    add_marks(item, marks)
    item.Modality = marks.modality
    item.SeriesInstanceUID = marks.uid("series")
    item.SeriesNumber, item.AcquisitionNumber = 1, None
    item.PatientPosition = ""  # nobody has lain on a table
    item.SeriesDescription = series_description(marks)
    add_body_part(item, marks)
    item.DerivationDescription = described(marks, stored_in_words(stored))
    if marks.wholly_made:  # of a real image, which an edited one may be, it is not known
        item.BurnedInAnnotation, item.LossyImageCompression = "NO", "00"
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.Columns, item.Rows = shape[:2]
    item.BitsAllocated, item.BitsStored, item.HighBit = 16, 16, 15
    item.PixelRepresentation = int(stored.signed)
    column_mm, row_mm, slice_mm = planes.spacing
    item.PixelSpacing = [decimal_string(row_mm), decimal_string(column_mm)]
    item.SliceThickness = item.SpacingBetweenSlices = decimal_string(slice_mm)
    item.ImageOrientationPatient = [decimal_string(v) for v in planes.orientation]
    if window[1] - window[0] >= 1:  # narrower ones are not allowed (C.11.2.1.2); viewers then choose their own
        item.WindowCenter = decimal_string(sum(window) / 2)
        item.WindowWidth = decimal_string(window[1] - window[0])
    if marks.modality == "CT" or not stored.plain:
        item.RescaleSlope, item.RescaleIntercept = decimal_string(stored.slope), decimal_string(stored.intercept)
        item.RescaleType = "HU" if marks.modality == "CT" else "US"
    if marks.modality == "CT":
        item.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        item.KVP = None
    else:
        item.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        item.ScanningSequence, item.SequenceVariant, item.ScanOptions = "RM", "NONE", ""  # RM: research mode
        item.MRAcquisitionType = item.EchoTime = item.RepetitionTime = item.EchoTrainLength = None
    return item


def stored_in_words(stored: StoredValues) -> str:
    """A sentence on how the values are stored."""
    if stored.largest_error == 0:
        return "Voxel values are stored exactly."
    return (
        f"Voxel values were rounded to steps of {stored.slope:.6g} for storage in 16 bits, by at most "
        f"{stored.largest_error:.3g}."
    )


def place_slice(item: Dataset, marks: Marks, planes: Planes, index: int) -> None:
    """Makes the header that of one slice, counted from 0 in the direction of the normal. Elements are replaced, not
    changed, since copies of a header share them."""
    item.add_new("SOPInstanceUID", "UI", marks.uid("slice", index))
    item.add_new("InstanceNumber", "IS", index + 1)
    item.add_new("ImagePositionPatient", "DS", [decimal_string(v) for v in planes.position(index)])
    item.add_new("SliceLocation", "DS", decimal_string(planes.location(index)))


def write_series(
    folder: Path,
    header: Dataset,
    array: np.ndarray,
    marks: Marks,
    planes: Planes,
    stored: StoredValues,
    on_slice: Callable[[int, int], None],
) -> None:
    """Writes the files of all slices, `slice0001.dcm` first.

    Args:
        folder: exists and is empty.
        header: see `series_header`; in the end it is that of the last slice.
        array: (columns, rows, slices).
        on_slice: is told how many of how many slices are written.

    Raises:
        OSError: a file cannot be written.
    """
    count = array.shape[2]
    digits = max(4, len(str(count)))
    for index in range(count):
        place_slice(header, marks, planes, index)
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        header.PixelData = np.ascontiguousarray(stored.encode(array[:, :, index].T)).tobytes()
        header["PixelData"].VR = "OW"
        header.save_as(folder / f"slice{index + 1:0{digits}d}.dcm", enforce_file_format=True)
        on_slice(index + 1, count)
