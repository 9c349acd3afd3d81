"""What the header of an image file says, without reading its voxels: for the leak report, and to see whether an image
is marked as synthetic.

Numbers are kept as they are stored, also those that no viewer shows (type codes, scaling, the time in a gzip header):
whatever differs between real and synthetic files can give a study away to somebody who looks.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, shortened

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


@dataclass(frozen=True)
class SourceHeader:
    """Header of one image.

    Args:
        kind: "nifti", "nrrd", "metaimage" or "dicom".
        numbers: everything in it that is a number.
        categories: everything that is one of a few words, such as the voxel type or the orientation.
        texts: text fields by name, such as NIfTI's `descrip`, NRRD's key/value pairs or DICOM's attributes.
    """

    kind: str
    numbers: dict[str, float] = field(default_factory=dict)
    categories: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def says_synthetic(self) -> str | None:
        """Where the header says that the image is synthetic; None if it does not.

        The marks of this project in any text, DICOM's attribute Synthetic Data (0008,001C), and a description that has
        the word at all.
        """
        from SynthDiffusionLib.volumes.marks import own_mark

        if self.texts.get("SyntheticData", "").upper() == "YES":
            return "the DICOM attribute Synthetic Data (0008,001C) is YES"
        text = self.texts.get("descrip") or self.texts.get("Comment") or self.texts.get("description", "")
        if own_mark(self.texts) is not None or "SYNTHETIC" in text.upper():
            return f"its header says '{text}'" if text else "its header says so"
        return None


def stem_of(path: Path) -> str:
    """File name without the suffix of an image or segmentation; a folder's whole name."""
    name = path.name
    for suffix in (".seg.nrrd", *IMAGE_SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, sorted: image files, and folders that hold a DICOM series. Segmentations (.seg.nrrd),
    hidden files and what lies beside images (.json, .png) are left out.

    Raises:
        BadInput: the folder does not exist; something in it is named like an image and is none (a link to nothing, a
            folder without DICOM), or has a name that is not UTF-8.
    """
    from SynthDiffusionLib.volumes.files import is_dicom

    found = []
    for path in folder_entries(Path(folder)):
        name = path.name.lower()
        if name.startswith("."):
            continue
        if path.is_dir() and any(is_dicom(p) for p in folder_entries(path)[:3]):
            check_image_name(path, is_series=True)
            found.append(path)
        elif name.endswith(IMAGE_SUFFIXES) and not name.endswith(".seg.nrrd"):
            check_image_name(path)
            found.append(path)
    return found


def folder_entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted.

    Raises:
        BadInput: it does not exist, or cannot be read.
    """
    try:
        if not folder.is_dir():
            raise BadInput(
                f"The folder '{shortened(folder)}' does not exist", "Check the path; it is relative to the design file."
            )
        return sorted(folder.iterdir())
    except OSError as error:
        raise BadInput(
            f"The folder '{shortened(folder)}' cannot be read ({error.strerror})", "Check the path and its permissions."
        ) from error


def check_image_name(path: Path, *, is_series: bool = False) -> None:
    """Refuses what is named like an image and would be left out without a word, or could not be written down.

    Args:
        path: entry of a folder of images.
        is_series: it is a folder that holds a series.

    Raises:
        BadInput: says what it is.
    """
    shown = shortened(path)
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(f"The name of '{shown}' is not UTF-8", "Rename the file; a copy will do.") from error
    if is_series or path.is_file():
        return
    if path.is_symlink() and not path.exists():
        raise BadInput(f"'{shown}' is a link to nothing", "Mend the link, or take it out of the folder.")
    what = "a folder without DICOM files" if path.is_dir() else "no regular file"
    raise BadInput(f"'{shown}' is named like an image, and is {what}", "Take it out of the folder.")


def read_header(path: Path) -> SourceHeader:
    """The header of an image.

    Args:
        path: NIfTI, NRRD or MetaImage file, or a folder with one DICOM series.

    Raises:
        BadInput: missing, damaged, or of another format.
        MissingExtra: DICOM without the extra `dicom`.
    """
    from SynthDiffusionLib.volumes.files import existing

    path = existing(path)
    name = path.name.lower()
    if path.is_dir():
        header = _dicom(path)
    elif name.endswith((".nii", ".nii.gz")):
        header = _nifti(path)
    elif name.endswith((".nrrd", ".nhdr")):
        header = _nrrd(path)
    elif name.endswith((".mha", ".mhd")):
        header = _metaimage(path)
    else:
        raise BadInput(f"{path.name}: it is not an image in a format that can be read", "Use NIfTI, NRRD, MetaImage.")
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    header.numbers["file_bytes"] = float(sum(p.stat().st_size for p in files))
    header.numbers["file_time_s"] = float(max(p.stat().st_mtime for p in files))
    header.numbers["text_characters"] = float(sum(len(v) for v in header.texts.values()))
    header.categories["format"] = "".join(path.suffixes[-2:]).lower() if header.kind == "nifti" else header.kind
    return header


def raw_start(path: Path, size: int = 65536) -> bytes:
    """The first bytes of a file, unpacked if it is gzip-packed: its header, to be searched for words."""
    from SynthDiffusionLib.volumes.stream import open_unpacked

    if path.is_dir():
        return b""
    with open_unpacked(path) as stream:
        return stream.read(size)


def _geometry(numbers: dict[str, float], categories: dict[str, str], shape: Any, affine: Any) -> None:
    import numpy as np

    from SynthDiffusionLib.volumes.grid import axis_codes

    affine = np.asarray(affine, float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    for axis, name in enumerate("ijk"):
        numbers[f"size_{name}"] = float(shape[axis])
        numbers[f"spacing_{name}"] = float(spacing[axis])
        numbers[f"origin_{'ras'[axis]}"] = float(affine[axis, 3])
    with np.errstate(invalid="ignore", divide="ignore"):
        directions = np.nan_to_num(affine[:3, :3] / spacing)
    numbers["oblique"] = float(1.0 - np.abs(directions).max(axis=0).min())
    categories["orientation"] = axis_codes(affine) if np.isfinite(affine).all() and spacing.min() > 0 else "none"


def _nifti(path: Path) -> SourceHeader:
    from SynthDiffusionLib.volumes.nifti import read_nifti_header as raw_header
    from SynthDiffusionLib.volumes.stream import decoding, is_gzip, open_unpacked

    with decoding(path, "NIfTI"):
        header = raw_header(path)
        start = open_unpacked(path)
        with start as stream:
            stream.seek(int(header["sizeof_hdr"]))
            flag = stream.read(4)
        shape = (*(int(n) for n in header["dim"][1:4]), 1, 1, 1)[:3]
        numbers = {
            f"nifti_{key}": float(header[key])
            for key in (
                "sizeof_hdr", "datatype", "bitpix", "vox_offset", "scl_slope", "scl_inter", "cal_min", "cal_max",
                "xyzt_units", "intent_code", "qform_code", "sform_code", "slice_code", "slice_duration", "toffset",
            )
        }  # fmt: skip
        numbers["nifti_dimensions"] = float(header["dim"][0])
        numbers["nifti_extension"] = float(flag[0] if flag else 0)
        categories = {"voxel_type": header.get_data_dtype().name}
        _geometry(numbers, categories, shape, header.get_best_affine())
    texts = {key: _text(header[key].item()) for key in ("descrip", "aux_file", "intent_name")}
    texts |= {key: _text(header[key].item()) for key in ("data_type", "db_name") if key in header}
    if is_gzip(path):
        texts |= _gzip_header(path, numbers)
    return SourceHeader("nifti", _finite(numbers), categories, {k: v for k, v in texts.items() if v})


def _gzip_header(path: Path, numbers: dict[str, float]) -> dict[str, str]:
    """RFC 1952, section 2.3: the time and the name of the packed file."""
    with open(path, "rb") as file:
        start = file.read(4096)
    flags, time_s, extra, system = struct.unpack("<BIBB", start[3:10])
    numbers |= {"gzip_flags": flags, "gzip_time": time_s, "gzip_level": extra, "gzip_system": system}
    position = 10
    if flags & 4:
        position += 2 + struct.unpack("<H", start[10:12])[0]
    return {"gzip_name": _text(start[position:].split(b"\0")[0])} if flags & 8 else {}


def _nrrd(path: Path) -> SourceHeader:
    from SynthDiffusionLib.volumes.nrrd_file import _geometry as nrrd_geometry
    from SynthDiffusionLib.volumes.nrrd_file import read_nrrd_header
    from SynthDiffusionLib.volumes.stream import decoding

    header = read_nrrd_header(path)
    fields = header.fields
    numbers = {"header_bytes": float(header.data_start), "nrrd_pairs": float(len(header.pairs))}
    categories = {k: str(fields.get(k, "")) for k in ("encoding", "endian", "space")}
    categories["voxel_type"] = str(fields["type"])
    with decoding(path, "NRRD"):
        spatial, affine = nrrd_geometry(fields, [int(n) for n in fields["sizes"]], path.name)
        _geometry(numbers, categories, [int(fields["sizes"][axis]) for axis in spatial], affine)
    texts = dict(header.pairs)
    for key in ("content", "sample units", "measurement frame"):
        if key in fields:
            texts[key] = str(fields[key])
    return SourceHeader("nrrd", _finite(numbers), categories, texts)


def _metaimage(path: Path) -> SourceHeader:
    import numpy as np

    from SynthDiffusionLib.volumes.grid import LPS_TO_RAS

    texts: dict[str, str] = {}
    with open(path, "rb") as file:
        for line in file.read(65536).split(b"\n"):
            key, equals, value = line.decode("utf-8", "replace").partition("=")
            if equals:
                texts[key.strip()] = value.strip()
            if key.strip() == "ElementDataFile":
                break
    try:
        spacing = [float(v) for v in texts.get("ElementSpacing", texts.get("ElementSize", "1 1 1")).split()]
        matrix = np.array([float(v) for v in texts.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split()])
        affine = np.eye(4)
        affine[:3, :3] = matrix.reshape(3, 3).T @ np.diag(spacing[:3])
        affine[:3, 3] = [float(v) for v in texts.get("Offset", texts.get("Position", "0 0 0")).split()][:3]
        shape = [int(v) for v in texts["DimSize"].split()][:3]
        numbers: dict[str, float] = {}
        categories = {"voxel_type": texts.get("ElementType", ""), "compressed": texts.get("CompressedData", "")}
        _geometry(numbers, categories, shape, LPS_TO_RAS @ affine)
    except (KeyError, ValueError, IndexError) as error:
        raise BadInput(f"{path.name}: its header is damaged ({error})", "Export the image again.") from error
    known = ("DimSize", "ElementSpacing", "Offset", "TransformMatrix", "ElementType")
    return SourceHeader("metaimage", _finite(numbers), categories, {k: v for k, v in texts.items() if k not in known})


def _dicom(path: Path) -> SourceHeader:
    try:
        import pydicom
    except ImportError as error:
        from SynthDiffusionLib.errors import MissingExtra

        raise MissingExtra("Reading DICOM", "dicom") from error
    import numpy as np

    from SynthDiffusionLib.volumes.dicom_series import dicom_faults, quiet_dicom
    from SynthDiffusionLib.volumes.files import is_dicom
    from SynthDiffusionLib.volumes.grid import LPS_TO_RAS

    files = [p for p in sorted(path.iterdir()) if is_dicom(p)]
    if not files:
        raise BadInput(f"'{path}' holds no DICOM files", "Give the folder that holds the series.")
    try:
        with quiet_dicom():
            data = pydicom.dcmread(files[0], stop_before_pixels=True)
            spacing = [float(v) for v in data.get("PixelSpacing", [1, 1])]
            row, column = np.array(data.get("ImageOrientationPatient", [1, 0, 0, 0, 1, 0]), float).reshape(2, 3)
            affine = np.eye(4)
            depth = float(data.get("SpacingBetweenSlices", data.get("SliceThickness", 1)) or 1)
            affine[:3, :3] = np.stack([row * spacing[1], column * spacing[0], np.cross(row, column) * depth], axis=1)
            affine[:3, 3] = np.array(data.get("ImagePositionPatient", [0, 0, 0]), float)
            numbers = {"dicom_attributes": float(len(data)), "files": float(len(files))}
            for key in ("RescaleSlope", "RescaleIntercept", "BitsStored", "PixelRepresentation", "SliceThickness"):
                if data.get(key) not in (None, ""):
                    numbers[f"dicom_{key}"] = float(data.get(key))
            categories = {"voxel_type": f"{data.get('BitsAllocated', '')} bits"}
            _geometry(
                numbers, categories, (data.get("Columns", 0), data.get("Rows", 0), len(files)), LPS_TO_RAS @ affine
            )
            texts = {e.keyword or str(e.tag): str(e.value)[:200] for e in data if e.VR not in ("SQ", "OB", "OW", "UN")}
    except (*dicom_faults(), ValueError, TypeError, KeyError, OSError) as error:
        raise BadInput(f"'{path.name}': its DICOM header is damaged ({error})", "Export the series again.") from error
    return SourceHeader("dicom", _finite(numbers), categories, texts)


def _text(value: bytes | str) -> str:
    raw = value if isinstance(value, bytes) else str(value).encode()
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()


def _finite(numbers: dict[str, float]) -> dict[str, float]:
    """A field that is not a number (NIfTI's unset scaling) becomes a number that no field has."""
    import math

    return {k: float(v) if math.isfinite(v) else -99999.0 for k, v in numbers.items()}
