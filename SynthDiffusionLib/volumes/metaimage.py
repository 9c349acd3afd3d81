"""MetaImage files (.mha, .mhd).

Format: "MetaIO documentation" (https://itk.org/Wiki/ITK/MetaIO/Documentation): text lines "key = value", then the
voxels. ITK's own reader prints its complaints to stderr and takes the header's size at its word, so the few fields
that an image has are read here; the tests compare with SimpleITK.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes.atomic import atomic_file
from SynthDiffusionLib.volumes.checks import check_3d, check_size, spatial_shape, storable
from SynthDiffusionLib.volumes.grid import LPS_TO_RAS, affine_from_lps, check_affine, check_spacing, spacing_of
from SynthDiffusionLib.volumes.stream import Inflate, data_file_beside, decoding, read_voxels
from SynthDiffusionLib.volumes.volume import Volume

_MAX_HEADER_BYTES = 1 << 20
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _TYPES.items() if "LONG" not in name}


def read_metaimage(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Voxels, affine in RAS mm, and the comment of a scalar 3D image.

    Raises:
        BadInput: not a MetaImage, damaged, not a scalar 3D image, or without a usable geometry.
    """
    name = path.name
    with decoding(path, "MetaImage"):
        fields, data_start = _read_header(path)
        sizes = [int(n) for n in fields["dimsize"].split()]
        channels = int(fields.get("elementnumberofchannels", 1))
        type_name = fields["elementtype"].upper()
    if channels != 1 or type_name.endswith("_ARRAY"):
        raise BadInput(f"{name}: it has {channels} values a voxel (color or vectors)", "Choose a scalar image.")
    if type_name not in _TYPES:
        raise BadInput(f"{name}: its voxel type {type_name} cannot be read", "Save it with another voxel type.")
    big = _true(fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "False")))
    dtype = np.dtype(_TYPES[type_name]).newbyteorder(">" if big else "<")
    packed = _true(fields.get("compresseddata", "False"))
    local = fields["elementdatafile"].upper() == "LOCAL"
    if fields["elementdatafile"].upper().startswith("LIST") or "%" in fields["elementdatafile"]:
        raise BadInput(f"{name}: its voxels are spread over several files", "Save it as one file.")
    if not _true(fields.get("binarydata", "True")):
        raise BadInput(f"{name}: its voxels are stored as text", "Save it with binary data.")
    data = path if local else data_file_beside(path, fields["elementdatafile"])
    stored = data.stat().st_size - (data_start if local else 0)
    check_size(sizes or (0,), dtype.itemsize, name, stored, packed)
    shape = spatial_shape(sizes, name)
    check_3d(shape, name)
    with decoding(path, "MetaImage"):
        affine = _affine(fields, len(sizes), name)
        skip = int(fields.get("headersize", 0))
        with open(data, "rb") as file:
            if skip == -1 and not packed:
                file.seek(-dtype.itemsize * math.prod(shape), 2)
            else:
                file.seek((data_start if local else 0) + max(skip, 0))
            array = read_voxels(Inflate(file) if packed else file, dtype, shape, name)
    comment = fields.get("comment", "")
    return array, affine, {"description": comment} if comment else {}


def write_metaimage(volume: Volume, path: Path) -> None:
    """Write .mha, or .mhd with its voxels beside it in `<stem>.zraw`; packed, with the description as comment."""
    array = storable(volume.array)
    local = path.suffix.lower() == ".mha"
    little = array.dtype.newbyteorder("<")
    packer = zlib.compressobj(6)
    packed = [
        packer.compress(array[..., k].astype(little, copy=False).tobytes(order="F")) for k in range(array.shape[2])
    ]
    packed.append(packer.flush())
    lps = LPS_TO_RAS @ volume.affine
    spacing = spacing_of(lps)
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {sum(len(part) for part in packed)}",
        # One axis after the other, each a unit vector in LPS.
        "TransformMatrix = " + _numbers((lps[:3, :3] / spacing).T.ravel()),
        "Offset = " + _numbers(lps[:3, 3]),
        "CenterOfRotation = 0 0 0",
        "ElementSpacing = " + _numbers(spacing),
        "DimSize = " + " ".join(str(n) for n in array.shape),
    ]
    comment = " ".join(volume.metadata.get("description", "").split())
    if comment:
        lines.append(f"Comment = {comment}")
    lines.append(f"ElementType = {_NAMES[array.dtype]}")
    if local:
        lines.append("ElementDataFile = LOCAL")
        with atomic_file(path) as file:
            file.write(("\n".join(lines) + "\n").encode("utf-8"))
            file.writelines(packed)
        return
    data = path.with_suffix(".zraw")
    lines.append(f"ElementDataFile = {data.name}")
    with atomic_file(data) as file:
        file.writelines(packed)
    with atomic_file(path) as file:
        file.write(("\n".join(lines) + "\n").encode("utf-8"))


def read_metaimage_fields(path: Path) -> dict[str, str]:
    """All fields of the header by lower-case key, as text.

    Raises:
        BadInput: not a MetaImage.
    """
    return _read_header(path)[0]


def _read_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields by lower-case key, and where the header ends."""
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        while line := file.readline(4096):
            key, equals, value = line.decode("utf-8", "replace").partition("=")
            if not equals or file.tell() > _MAX_HEADER_BYTES:
                break
            fields[key.strip().lower()] = value.strip()
            if key.strip().lower() == "elementdatafile":
                needed = {"dimsize", "elementtype"} - fields.keys()
                if needed:
                    raise BadInput(f"{path.name}: its header lacks {', '.join(sorted(needed))}", "Export it again.")
                return fields, file.tell()
    raise BadInput(f"{path.name}: it is not a MetaImage", "Choose an image, or correct the file's suffix.")


def _affine(fields: dict[str, str], dimension: int, name: str) -> np.ndarray:
    def numbers(*keys: str, default: list[float]) -> np.ndarray:
        for key in keys:
            if key in fields:
                return np.array([float(v) for v in fields[key].split()])
        return np.array(default, float)

    spacing = numbers("elementspacing", "elementsize", default=[1.0] * dimension)
    check_spacing(spacing, name)
    axes = numbers("transformmatrix", "rotation", "orientation", default=list(np.eye(dimension).ravel()))
    directions = axes.reshape(dimension, dimension).T[:3, :3]
    origin = numbers("offset", "position", "origin", default=[0.0] * dimension)
    return check_affine(affine_from_lps(directions, spacing[:3], origin[:3]), name)


def _true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "t", "yes")


def _numbers(values: np.ndarray) -> str:
    # Adding 0 turns -0.0 into 0.0, so that equal geometry gives equal bytes.
    return " ".join(repr(float(v) + 0.0).removesuffix(".0") for v in values)
