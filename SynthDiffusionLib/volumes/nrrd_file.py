"""NRRD files (.nrrd, .nhdr).

Standard: "Definition of NRRD File Format" (http://teem.sourceforge.net/nrrd/format.html). pynrrd parses the fields.
Around it stands own code for what it does not do: key/value pairs in UTF-8 with the standard's escapes (it drops all
but ASCII), unpacking no more than the header declares, and headers without the time of writing.
"""

from __future__ import annotations

import bz2
import math
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes.atomic import GREY_LEVEL, LABEL_LEVEL, atomic_file, gzip_stream
from SynthDiffusionLib.volumes.checks import check_3d, check_size, storable
from SynthDiffusionLib.volumes.grid import LPS_TO_RAS, check_affine, check_spacing
from SynthDiffusionLib.volumes.stream import data_file_beside, decoding, read_voxels, truncated
from SynthDiffusionLib.volumes.volume import Volume

_MAX_HEADER_BYTES = 1 << 26
_SKIP_CHUNK = 1 << 22
_SKIPS = ("line skip", "lineskip", "byte skip", "byteskip")
_TEXT_ENCODINGS = ("ascii", "text", "txt")
_FLIPS_TO_RAS = {  # section "space" of the standard
    "right-anterior-superior": (1, 1),
    "ras": (1, 1),
    "left-anterior-superior": (-1, 1),
    "las": (-1, 1),
    "left-posterior-superior": (-1, -1),
    "lps": (-1, -1),
}
_TYPES = {
    np.dtype(t): name
    for t, name in [
        ("i1", "signed char"), ("u1", "unsigned char"), ("i2", "short"), ("u2", "unsigned short"),
        ("i4", "int"), ("u4", "unsigned int"), ("f4", "float"), ("f8", "double"),
    ]
}  # fmt: skip


@dataclass(frozen=True)
class NrrdHeader:
    """What stands before the voxels.

    Args:
        fields: the standard's fields, parsed.
        pairs: key/value pairs, unescaped.
        data_start: byte position after the header.
    """

    fields: dict
    pairs: dict[str, str]
    data_start: int


def read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Voxels, affine in RAS mm, and key/value pairs of a scalar 3D image.

    Without a `space` the directions are taken for LPS, as ITK and Slicer do.

    Raises:
        BadInput: not an NRRD file, damaged, not a scalar 3D image, or without a usable geometry.
    """
    header = read_nrrd_header(path)
    array, affine = read_nrrd_layers(path, header)
    if array.shape[0] != 1:
        text = " x ".join(str(n) for n in header.fields["sizes"])
        raise BadInput(
            f"{path.name}: it is not a scalar 3D image ({text}; color, vectors or a time series)",
            "Save the one 3D image that is meant.",
        )
    return array[0], affine, header.pairs


def read_nrrd_header(path: Path) -> NrrdHeader:
    """Fields and key/value pairs.

    Raises:
        BadInput: not an NRRD file, or a header that breaks the standard.
    """
    import nrrd

    field_lines, pairs = [], {}
    with decoding(path, "NRRD", nrrd.NRRDError), open(path, "rb") as file:
        magic = file.readline(64)
        if not magic.startswith(b"NRRD"):
            raise BadInput(f"{path.name}: it is not an NRRD image", "Choose an image, or correct the file's suffix.")
        field_lines.append(magic.decode("ascii", "replace").rstrip())
        while line := file.readline(_MAX_HEADER_BYTES):
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if not text.strip():
                break
            if file.tell() > _MAX_HEADER_BYTES:
                raise BadInput(f"{path.name}: its header does not end", "The file is damaged; copy it again.")
            pair, field = text.find(":="), text.find(": ")
            if pair > 0 and not 0 <= field < pair:
                pairs[text[:pair].strip()] = _unescaped(text[pair + 2 :])
            elif not text.startswith("#"):
                field_lines.append(text)
        _check_sizes_are_whole(field_lines, path.name)
        with np.errstate(all="ignore"):  # of numbers that are then refused
            fields = dict(nrrd.read_header(field_lines))
        data_start = file.tell()
        for needed in ("dimension", "type", "encoding", "sizes"):
            if needed not in fields:
                raise BadInput(f'{path.name}: its header lacks "{needed}"', "Export the image again.")
        if int(fields["dimension"]) != len(fields["sizes"]):
            raise BadInput(
                f"{path.name}: its header declares {fields['dimension']} axes and the sizes of {len(fields['sizes'])}",
                "Export the image again.",
            )
    return NrrdHeader(fields, pairs, data_start)


def read_nrrd_layers(path: Path, header: NrrdHeader) -> tuple[np.ndarray, np.ndarray]:
    """Voxels with the axis that is not spatial in front, (L, I, J, K), and the affine in RAS mm.

    Raises:
        BadInput: not three spatial axes, an unusable geometry, or truncated data.
    """
    import nrrd

    fields, name = header.fields, path.name
    with decoding(path, "NRRD", nrrd.NRRDError, DeprecationWarning):
        sizes = [int(n) for n in fields["sizes"]]
        spatial, affine = _geometry(fields, sizes, name)
        dtype = _dtype(fields, path)
        data = _data_path(fields, path)
        encoding = str(fields["encoding"]).lower()
        packed = encoding in ("gzip", "gz")
        stored = data.stat().st_size - (header.data_start if data == path else 0)
        check_size(sizes, dtype.itemsize, name, stored if packed or encoding == "raw" else None, packed)
        check_3d([sizes[axis] for axis in spatial], name)
        # A number takes a digit and a blank at least.
        if encoding in _TEXT_ENCODINGS and 2 * math.prod(sizes) - 1 > stored:
            raise truncated(name, "the file is too short for the voxels that its header declares")
        array = _read_data(path, data, header, dtype, sizes)
    others = [axis for axis in range(len(sizes)) if axis not in spatial]
    array = array.transpose(others + spatial)
    layers = array.reshape((-1, *array.shape[len(others) :]))
    return layers, check_affine(affine, name)


def write_nrrd(volume: Volume, path: Path) -> None:
    """Write a .nrrd file, gzip-packed, in space LPS, with the metadata as key/value pairs."""
    level = LABEL_LEVEL if volume.unit == "label" else GREY_LEVEL
    write_nrrd_layers(volume.array[None], volume.affine, volume.metadata, path, level)


def write_nrrd_layers(
    layers: np.ndarray, affine: np.ndarray, pairs: dict[str, str], path: Path, level: int = LABEL_LEVEL
) -> None:
    """Write voxels of shape (L, I, J, K); with more than one layer the file is 4-D with a list axis in front.

    Args:
        pairs: key/value pairs.
        level: of gzip.
    """
    array = storable(layers if len(layers) > 1 else layers[0])
    lps = LPS_TO_RAS @ affine
    several = array.ndim == 4
    lines = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {_TYPES[array.dtype]}",
        f"dimension: {array.ndim}",
        "space: left-posterior-superior",
        "sizes: " + " ".join(str(n) for n in array.shape),
        "space directions: " + "none " * several + " ".join(_vector(lps[:3, axis]) for axis in range(3)),
        "kinds: " + "list " * several + "domain domain domain",
        "endian: little",
        "encoding: gzip",
        "space origin: " + _vector(lps[:3, 3]),
        *(f"{_checked_key(key)}:={_escaped(str(value))}" for key, value in pairs.items()),
    ]
    little = array.dtype.newbyteorder("<")
    with atomic_file(path) as file:
        file.write(("\n".join(lines) + "\n\n").encode("utf-8"))
        with gzip_stream(file, level) as stream:
            # Slab by slab: a whole second copy of the voxels would double the memory.
            for k in range(array.shape[-1]):
                stream.write(array[..., k].astype(little, copy=False).tobytes(order="F"))


def _geometry(fields: dict, sizes: list[int], name: str) -> tuple[list[int], np.ndarray]:
    """The three spatial axes and the affine in RAS."""
    space = str(fields.get("space", "")).lower()
    if space.endswith("-time") or (len(space) == 4 and space.endswith("t")):
        raise BadInput(f"{name}: it is a time series", "Save the one 3D image that is meant.")
    kinds = [k.lower() for k in fields.get("kinds", [])]
    if len(kinds) != len(sizes):
        kinds = ["domain"] * len(sizes)
    affine = np.eye(4)
    if "space directions" in fields:
        rows = [np.asarray(row, float) for row in fields["space directions"]]
        spatial = [axis for axis, row in enumerate(rows) if not np.isnan(row).all()]
        if len(spatial) != 3 or len(rows) != len(sizes) or any(len(rows[axis]) != 3 for axis in spatial):
            raise BadInput(f"{name}: it has {len(spatial)} spatial axes", "Choose a 3D image.")
        affine[:3, :3] = np.stack([rows[axis] for axis in spatial], axis=1)
    else:
        spatial = [axis for axis, kind in enumerate(kinds) if kind in ("domain", "space", "???", "none")]
        if len(spatial) > 3:
            spatial = [axis for axis in spatial if sizes[axis] > 1]
        if len(spatial) != 3 or len(sizes) < 3:
            raise BadInput(f"{name}: it has {len(spatial)} spatial axes", "Choose a 3D image.")
        spacings = np.asarray(fields.get("spacings", np.ones(len(sizes))), float)
        if len(spacings) != len(sizes):
            raise BadInput(
                f"{name}: its header has {len(spacings)} spacings for {len(sizes)} axes", "Export the image again."
            )
        affine[:3, :3] = np.diag(check_spacing(spacings[spatial], name))
    if "space origin" in fields:
        origin = np.asarray(fields["space origin"], float)
        if origin.shape != (3,):
            raise BadInput(f"{name}: its space origin does not have three numbers", "Export the image again.")
        affine[:3, 3] = origin
    affine[:2] *= np.array(_FLIPS_TO_RAS.get(space, (-1, -1)))[:, None]
    return spatial, affine


def _dtype(fields: dict, path: Path) -> np.dtype:
    import nrrd

    if str(fields["type"]).lower() == "block":
        raise BadInput(f"{path.name}: its voxels are blocks, not numbers", "Choose a scalar image.")
    with decoding(path, "NRRD", nrrd.NRRDError):
        return nrrd.reader._determine_datatype({**fields, "endian": fields.get("endian", "little")})


def _data_path(fields: dict, path: Path) -> Path:
    named = fields.get("data file", fields.get("datafile"))
    if named is None:
        return path
    if named.upper().startswith("LIST") or "%" in named:
        raise BadInput(f"{path.name}: its voxels are spread over several files", "Save it as one file.")
    return data_file_beside(path, named)


def _read_data(path: Path, data: Path, header: NrrdHeader, dtype: np.dtype, sizes: list[int]) -> np.ndarray:
    import nrrd

    fields = header.fields
    encoding = str(fields["encoding"]).lower()
    with open(data, "rb") as file:
        if data == path:
            file.seek(header.data_start)
        lines = int(fields.get("line skip", fields.get("lineskip", 0)))
        skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
        if lines < 0 or skip < -1:
            raise BadInput(f"{path.name}: its header skips a negative number of lines or bytes", "Export it again.")
        for _ in range(lines):
            if not file.readline(_MAX_HEADER_BYTES):
                raise truncated(path.name, "it ends among the lines that its header says to skip")
        if encoding in _TEXT_ENCODINGS:
            _skip_bytes(file, skip, path.name)
            plain = {k: v for k, v in fields.items() if k not in ("data file", "datafile", *_SKIPS)}
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                # numpy only warns where the text stops being numbers.
                warnings.filterwarnings("error", "string or file could not be read", DeprecationWarning)
                return nrrd.read_data(plain, file, str(path))
        with _unpacking(file, encoding, path.name) as stream:
            if skip == -1 and encoding == "raw":
                file.seek(-dtype.itemsize * math.prod(sizes), 2)
            else:
                _skip_bytes(stream, skip, path.name)
            return read_voxels(stream, dtype, sizes, path.name)


def _skip_bytes(stream: BinaryIO, count: int, name: str) -> None:
    while count > 0:
        chunk = stream.read(min(count, _SKIP_CHUNK))
        if not chunk:
            raise truncated(name, "it ends among the bytes that its header says to skip")
        count -= len(chunk)


def _check_sizes_are_whole(field_lines: list[str], name: str) -> None:
    """pynrrd reads a size of 48.5 as 48."""
    for line in field_lines:
        field, _, value = line.partition(":")
        wrong = [v for v in value.split() if not re.fullmatch(r"[+-]?[0-9]{1,18}", v)]
        if field.strip().lower() == "sizes" and wrong:
            raise BadInput(f'{name}: its header has the size "{wrong[0][:40]}"', "Export the image again.")


@contextmanager
def _unpacking(file, encoding: str, name: str):
    import gzip

    if encoding == "raw":
        yield file
    elif encoding in ("gzip", "gz"):
        with gzip.GzipFile(fileobj=file, mode="rb") as stream:
            yield stream
    elif encoding in ("bzip2", "bz2"):
        with bz2.BZ2File(file) as stream:
            yield stream
    else:
        raise BadInput(f'{name}: its encoding "{encoding}" cannot be read', "Save it with encoding gzip.")


def _checked_key(key: str) -> str:
    if not key or key != key.strip() or key.startswith("#") or any(mark in key for mark in (":", "\n", "\r")):
        raise BadInput(f"The metadata key {key!r} cannot be written to NRRD", "Use a plain word.")
    return key


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _unescaped(value: str) -> str:
    return "\\".join(part.replace("\\n", "\n") for part in value.split("\\\\"))


def _vector(values: np.ndarray) -> str:
    # Adding 0 turns -0.0 into 0.0, so that equal geometry gives equal bytes.
    return "(" + ",".join(repr(float(v) + 0.0).removesuffix(".0") for v in values) + ")"
