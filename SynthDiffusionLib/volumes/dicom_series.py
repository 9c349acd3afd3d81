"""DICOM CT and MR series, one folder each, through pydicom (multi-frame files through highdicom).

Geometry: PS3.3 C.7.6.2.1.1 (Image Position and Orientation); values: C.11.1 (Modality LUT: Rescale Slope, Intercept).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from SynthDiffusionLib.errors import BadInput, MissingExtra
from SynthDiffusionLib.volumes.checks import check_3d, check_size, rescaled
from SynthDiffusionLib.volumes.grid import LPS_TO_RAS, check_affine, check_spacing
from SynthDiffusionLib.volumes.marks import EDITED, MARK, SYNTHETIC_DATA, own_edit, own_mark
from SynthDiffusionLib.volumes.stream import decoding
from SynthDiffusionLib.volumes.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

_NO_IMAGES = {"SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "REG", "FID", "DOC", "PLAN"}
_POSITION_TOLERANCE = 0.02  # of the slice distance; scanners round positions to micrometres, a gap is 1.0
_HEADER_TAGS = [
    "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "Modality", "Rows", "Columns",
    "SamplesPerPixel", "BitsAllocated", "NumberOfFrames", "PixelSpacing", "ImageOrientationPatient",
    "ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "SyntheticData", "PatientName", "ImageComments",
    "DerivationDescription", "PatientID", "FrameOfReferenceUID",
]  # fmt: skip

_OF_ONE_PATIENT = {
    "PatientID": "Patient ID",
    "PatientName": "Patient's Name",
    "FrameOfReferenceUID": "Frame of Reference UID",
}

_MARKED = ("PatientName", "ImageComments", "SeriesDescription")


@contextmanager
def quiet_dicom() -> Iterator[None]:
    """Keeps pydicom from printing: it warns of each small breach of the standard, slice by slice, and logs tracebacks
    of what becomes a `BadInput` here."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def dicom_faults() -> tuple[type[Exception], ...]:
    """What pydicom and highdicom (which keeps frames in SQLite) raise on damaged files, beyond the common errors."""
    import sqlite3
    import struct

    from pydicom.errors import BytesLengthException, InvalidDicomError

    own = (BytesLengthException, InvalidDicomError, sqlite3.Error, struct.error)
    return (AttributeError, NotImplementedError, RuntimeError, AssertionError, *own)


@dataclass(frozen=True)
class _Slice:
    """What is needed of one file's header; None where the header lacks it."""

    path: Path
    series: str
    description: str
    modality: str
    size: tuple[int, int]  # columns, rows
    samples: int
    bits: int
    frames: int
    spacing: np.ndarray | None  # (2,) mm between rows, between columns
    orientation: np.ndarray | None  # (6,) directions of a row and of a column
    position: np.ndarray | None  # (3,) LPS mm
    slope: float | None
    intercept: float | None
    marks: tuple[str, ...]  # names of the attributes of the metadata that are "YES"
    whose: tuple[str, ...]  # values of `_OF_ONE_PATIENT`, to be compared only: they are a patient's

    @classmethod
    def from_header(cls, path: Path, header: Dataset) -> _Slice:
        def numbers(keyword: str, count: int) -> np.ndarray | None:
            value = header.get(keyword)
            if value is None or np.size(value) != count:
                return None
            return np.array(value, float).reshape(count)

        slope, intercept = numbers("RescaleSlope", 1), numbers("RescaleIntercept", 1)
        return cls(
            path=path,
            series=str(header.get("SeriesInstanceUID", "")),
            description=str(header.get("SeriesDescription") or f"series {header.get('SeriesNumber', '?')}"),
            modality=str(header.get("Modality", "")),
            size=(int(header.Columns), int(header.Rows)),
            samples=int(header.get("SamplesPerPixel") or 1),
            bits=int(header.get("BitsAllocated") or 16),
            frames=int(header.get("NumberOfFrames") or 1),
            spacing=numbers("PixelSpacing", 2),
            orientation=numbers("ImageOrientationPatient", 6),
            position=numbers("ImagePositionPatient", 3),
            slope=None if slope is None else float(slope[0]),
            intercept=None if intercept is None else float(intercept[0]),
            marks=_marks(header),
            whose=tuple(_compared(header.get(keyword)) for keyword in _OF_ONE_PATIENT),
        )


def _compared(value: object) -> str:
    """Without what programs add to it: blanks, empty components of a name, capitals."""
    return " ".join(str(value or "").replace("^", " ").split()).casefold()


def _marks(header: Dataset) -> tuple[str, ...]:
    texts = {name: str(header.get(name, "")) for name in _MARKED}
    found = [MARK] if own_mark(texts) is not None else []
    if found and own_edit({"derivation": str(header.get("DerivationDescription", ""))}):
        found.append(EDITED)
    return (*found, *([SYNTHETIC_DATA] if str(header.get("SyntheticData", "")).strip().upper() == "YES" else []))


def read_dicom_series(folder: Path) -> Volume:
    """The one series of a folder: slices in the order of their positions, axes i, j, k along row, column and normal.

    A tilted gantry gives a sheared affine, exactly as the slices lie.

    Returns:
        volume in HU for CT, else unit "arbitrary". Its metadata say whether a slice is marked as synthetic
        (`marks.MARK`, `marks.SYNTHETIC_DATA`, `marks.EDITED`); all else stays behind: headers are patients'.

    Raises:
        BadInput: no series, several of them, slices of different patients or scans, or such as are missing, doubled
            or of different size or direction.
        MissingExtra: pydicom or highdicom are not installed.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise MissingExtra("Reading DICOM", "dicom") from error
    with quiet_dicom():
        slices = _the_one_series(_image_files(folder), folder)
        if slices[0].frames > 1:
            return _read_multi_frame(slices, folder)
        slices, affine = _ordered(slices, folder)
        array = _read_slices(slices, folder)
    unit = "HU" if slices[0].modality == "CT" else "arbitrary"
    return Volume(array, check_affine(affine, folder.name), unit, _metadata(slices))


def _metadata(slices: list[_Slice]) -> dict[str, str]:
    return dict.fromkeys(sorted({mark for item in slices for mark in item.marks}), "YES")


def _image_files(folder: Path) -> list[_Slice]:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    found = []
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        with decoding(path, "DICOM", *dicom_faults()):
            try:
                header = dcmread(path, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
            except InvalidDicomError:
                continue  # notes and other files may lie in the folder
            if "Rows" in header and header.get("Modality") not in _NO_IMAGES:
                found.append(_Slice.from_header(path, header))
    if not found:
        hint = "Choose the folder whose files are the slices of one CT or MR series."
        raise BadInput(f"{folder}: there are no DICOM images in this folder", hint)
    return found


def _the_one_series(slices: list[_Slice], folder: Path) -> list[_Slice]:
    series: dict[str, list[_Slice]] = {}
    for item in slices:
        series.setdefault(item.series, []).append(item)
    if len(series) > 1:
        names = [f'"{s[0].description}" ({s[0].modality or "?"}, {len(s)} files)' for s in series.values()]
        shown = "; ".join(names[:6]) + ("; ..." if len(names) > 6 else "")
        raise BadInput(
            f"{folder.name}: it holds {len(series)} series: {shown}", "Put the one to use into its own folder."
        )
    _require_one_patient(slices, folder)
    return next(iter(series.values()))


def _require_one_patient(slices: list[_Slice], folder: Path) -> None:
    """Refuse slices of two patients, or of two scans, that share a Series Instance UID; the message names nobody. What
    is empty contradicts nothing."""
    for name, values in zip(_OF_ONE_PATIENT.values(), zip(*(item.whose for item in slices), strict=True), strict=True):
        count = len(set(filter(None, values)))
        if count > 1:
            raise BadInput(
                f"{folder.name}: its slices say that they are of one series, but hold {count} different values of "
                f"{name}: of more than one patient or scan",
                "Put the slices of one patient and scan into their own folder.",
            )


def _ordered(slices: list[_Slice], folder: Path) -> tuple[list[_Slice], np.ndarray]:
    """Slices along their normal, and the affine (RAS) of voxels (column, row, slice)."""
    first = slices[0]
    for item in slices:
        _require_usable(item, first, folder)
    check_3d((*first.size, len(slices)), folder.name)
    row_spacing, column_spacing = check_spacing([*first.spacing, 1.0], folder.name)[:2]
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    positions = np.array([item.position for item in slices])
    order = np.argsort(positions @ normal, kind="stable")
    slices, positions = [slices[n] for n in order], positions[order]
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    _require_regular(positions @ normal, float(step @ normal), slices, folder)
    drift = np.linalg.norm(positions - positions[0] - np.arange(len(slices))[:, None] * step, axis=1).max()
    if drift > max(_POSITION_TOLERANCE * np.linalg.norm(step), 0.01):
        raise BadInput(
            f"{folder.name}: its slices do not lie on a straight line ({drift:.2f} mm off)", "Choose a volume series."
        )
    lps = np.eye(4)
    lps[:3, 0] = first.orientation[:3] * column_spacing
    lps[:3, 1] = first.orientation[3:] * row_spacing
    lps[:3, 2] = step
    lps[:3, 3] = positions[0]
    return slices, LPS_TO_RAS @ lps


def _require_usable(item: _Slice, first: _Slice, folder: Path) -> None:
    """Refuse a slice that is no grey image with a place, or that does not go with the first one."""
    name = f"{folder.name}/{item.path.name}"
    for keyword, value in (
        ("ImagePositionPatient", item.position),
        ("ImageOrientationPatient", item.orientation),
        ("PixelSpacing", item.spacing),
    ):
        if value is None or not np.isfinite(value).all():
            raise BadInput(f"{name}: its header lacks {keyword}", "Choose a CT or MR series with positions.")
    if item.samples != 1:
        raise BadInput(f"{name}: it is a color image", "Choose a CT or MR series.")
    if item.modality == "CT" and item.intercept is None:
        raise BadInput(f"{name}: a CT without Rescale Intercept has no Hounsfield units", "Export the series again.")
    alike = (
        ("size", first.size, item.size, 0),
        ("pixel spacing", first.spacing, item.spacing, 1e-4),
        ("direction", first.orientation, item.orientation, 1e-3),
    )
    for what, expected, found, tolerance in alike:
        if not np.allclose(expected, found, rtol=0, atol=tolerance):
            raise BadInput(
                f"{folder.name}: slices of different {what} are mixed ({item.path.name} differs)",
                "Leave localizers and other images out of the folder.",
            )


def _require_regular(along: np.ndarray, step: float, slices: list[_Slice], folder: Path) -> None:
    """Refuse doubled and missing slices; `along` are positions along the normal, ascending, in mm."""
    distances = np.diff(along)
    usual = float(np.median(distances))
    tolerance = max(_POSITION_TOLERANCE * usual, 0.01)
    if distances.min() < 1e-3:
        at = int(distances.argmin())
        raise BadInput(
            f"{folder.name}: {slices[at].path.name} and {slices[at + 1].path.name} lie at the same place",
            "Give one phase, echo or reconstruction only.",
        )
    widest = int(distances.argmax())
    if distances[widest] - usual > max(0.5 * usual, tolerance):
        raise BadInput(
            f"{folder.name}: slices are missing between {slices[widest].path.name} and {slices[widest + 1].path.name} "
            f"({distances[widest]:.2f} mm apart, elsewhere {usual:.2f} mm)",
            "Copy the whole series.",
        )
    if np.abs(along - along[0] - np.arange(len(along)) * step).max() > tolerance:
        raise BadInput(
            f"{folder.name}: its slices are not evenly spaced ({distances.min():.2f} to {distances.max():.2f} mm)",
            "Resample the series to even spacing first.",
        )


def _read_slices(slices: list[_Slice], folder: Path) -> np.ndarray:
    from pydicom import dcmread

    shape = (*slices[0].size, len(slices))
    check_size(shape, max(slices[0].bits // 8, 1), folder.name)
    planes: list[np.ndarray] = []
    for item in slices:
        name = f"{folder.name}/{item.path.name}"
        with decoding(item.path, "DICOM", *dicom_faults()):
            try:
                raw = dcmread(item.path).pixel_array
            except RuntimeError as error:
                raise BadInput(
                    f"{name}: its compressed pixels cannot be decoded",
                    "Install pylibjpeg and its plug-ins, or export the series uncompressed.",
                ) from error
        if raw.shape != (shape[1], shape[0]):
            raise BadInput(f"{name}: its pixels have another size than its header says", "Export the series again.")
        slope = 1.0 if item.slope is None else item.slope
        planes.append(rescaled(raw, slope, item.intercept or 0.0))
    array = np.empty(shape, dtype=np.result_type(*{plane.dtype for plane in planes}), order="F")
    for k, plane in enumerate(planes):
        array[:, :, k] = plane.T
        planes[k] = None
    return array


def _read_multi_frame(slices: list[_Slice], folder: Path) -> Volume:
    try:
        import highdicom
    except ImportError as error:
        raise MissingExtra("Reading multi-frame DICOM", "dicom") from error
    if len(slices) > 1:
        raise BadInput(
            f"{folder.name}: it holds {len(slices)} multi-frame files", "Leave the one to use in the folder."
        )
    item = slices[0]
    check_size((*item.size, item.frames), 8, folder.name)
    with decoding(item.path, "multi-frame DICOM", *dicom_faults()):
        found = highdicom.imread(item.path).get_volume(dtype=np.float64, apply_voi_transform=False)
    array, affine = from_highdicom(found.array, found.affine)
    check_3d(array.shape, folder.name)
    whole = np.array_equal(array, np.rint(array)) and np.abs(array).max() < 2**15
    unit = "HU" if item.modality == "CT" else "arbitrary"
    array = array.astype(np.int16 if whole else np.float32)
    return Volume(array, check_affine(affine, folder.name), unit, _metadata(slices))


def from_highdicom(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (column, row, slice) and RAS affine from highdicom's (slice, row, column) in LPS.

    highdicom may count slices downwards; here they ascend along the normal, as `read_dicom_series` has them.
    """
    array, affine = array.T, affine[:, [2, 1, 0, 3]].copy()
    if np.linalg.det(affine[:3, :3]) < 0:
        array = array[:, :, ::-1]
        affine[:3, 3] += affine[:3, 2] * (array.shape[2] - 1)
        affine[:3, 2] *= -1
    return np.asfortranarray(array), LPS_TO_RAS @ affine
