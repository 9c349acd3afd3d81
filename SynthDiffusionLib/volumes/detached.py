"""Header files whose voxels lie in another file: .mhd, .nhdr, and .nrrd with a detached header."""

from __future__ import annotations

import re
from pathlib import Path

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes.stream import data_file_beside

_SUFFIXES = (".mhd", ".mha", ".nhdr", ".nrrd")
_NAMED = re.compile(rb"^(?:elementdatafile\s*=|data ?file\s*:)\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_MOST_BYTES = 1 << 20  # of a header


def detached_data(path: Path) -> Path | None:
    """The file that a header file names for its voxels; None if they are in the file itself, or nowhere.

    Formats: MetaImage's ElementDataFile (itk.org/Wiki/ITK/MetaIO/Documentation), NRRD's "data file"
    (teem.sourceforge.net/nrrd/format.html).
    """
    if not path.name.lower().endswith(_SUFFIXES):
        return None
    with path.open("rb") as stream:
        header = re.split(rb"\r?\n\r?\n", stream.read(_MOST_BYTES), maxsplit=1)[0]
    named = _NAMED.search(header)
    if named is None or named.group(1).upper() == b"LOCAL":
        return None
    try:
        return data_file_beside(path, named.group(1).decode("utf-8", "replace"))
    except BadInput:  # whoever reads the image says so
        return None
