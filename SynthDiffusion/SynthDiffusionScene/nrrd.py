"""Checks a NRRD file before Slicer's reader sees it; adds entries to the header of one.

The segmentation reader of Slicer 5.12.4 lets an ITK exception end the process when a .seg.nrrd file begins well but has
an unknown type or too few data. So the whole file is looked at first. Fields and encodings are those of the NRRD
definition (teem.sourceforge.net/nrrd/format.html).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from SynthDiffusionScene.errors import SceneError

_TYPES = {
    1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
    2: ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"),
    8: ("longlong", "long long", "long long int", "int64", "int64_t", "uint64", "uint64_t", "double"),
}
_TYPES[2] += ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t")
_BYTES = {name: size for size, names in _TYPES.items() for name in names}
_BLOCK = 1 << 20


def checkedHeader(path: Path) -> dict[str, str]:
    """Header of a NRRD file whose data are all there.

    Returns:
        Its fields and key/value pairs.

    Raises:
        SceneError: it is no NRRD file with the data in the same file, or it is cut off or damaged.
    """
    damaged = SceneError(f"The file '{path}' is cut off or damaged", "Save or copy it again.")
    with open(path, "rb") as file:
        if file.read(4) != b"NRRD":
            raise SceneError(f"'{path}' is not a NRRD file", "Give a .seg.nrrd file.")
        file.readline()
        header = _fields(file)
        try:
            sizes = [int(n) for n in header["sizes"].split()]
            expected = math.prod(sizes) * _BYTES[header["type"].lower()]
            encoding = header["encoding"].lower()
        except (KeyError, ValueError):
            raise damaged from None
        if "data file" in header or "datafile" in header or encoding not in ("raw", "gzip", "gz"):
            raise SceneError(f"'{path}' keeps its data in another file or encoding", "Save it again as .seg.nrrd.")
        if len(sizes) != int(header.get("dimension", 0)) or min(sizes) < 1:
            raise damaged
        try:
            found = _length(file, zipped=encoding != "raw", enough=expected)
        except zlib.error:
            raise damaged from None
        if found < expected:
            raise damaged
    return header


def _fields(file: BinaryIO) -> dict[str, str]:
    """Lines "field: value" and "key:=value", up to the blank line before the data."""
    fields = {}
    for line in file:
        text = line.decode("utf-8", "replace").strip()
        if not text:
            break
        name, _, value = text.partition(":=" if ":=" in text else ":")
        fields[name.strip()] = value.strip()
    return fields


def _length(file: BinaryIO, zipped: bool, enough: int) -> int:
    """Bytes of data from here on, unzipped where zipped; counting stops at `enough`.

    Raises:
        zlib.error: the zipped stream is damaged.
    """
    stream = zlib.decompressobj(wbits=31) if zipped else None  # 31: gzip with its header and checksum
    found = 0
    while found < enough:
        block = stream.unconsumed_tail if stream and stream.unconsumed_tail else file.read(_BLOCK)
        if not block:
            break
        found += len(stream.decompress(block, _BLOCK)) if stream else len(block)
    return found


def addEntries(path: str | Path, entries: Mapping[str, str]) -> None:
    """Adds key/value pairs to the header of a NRRD file, whose data are in the same file.

    Args:
        path: the file; it is written anew.
        entries: text by key, without line ends.
    """
    path = Path(path)
    header, blank, data = path.read_bytes().partition(b"\n\n")
    lines = [f"{key}:={' '.join(value.split())}" for key, value in entries.items()]
    path.write_bytes(b"\n".join([header, *(line.encode("utf-8") for line in lines)]) + blank + data)
