"""All text in the header of an image file, without its voxels."""

from __future__ import annotations

from pathlib import Path

from SynthDiffusionLib.volumes.stream import decoding, open_unpacked

_NIFTI_FIELDS = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
_MOST_EXTENSION_BYTES = 1 << 20


def header_texts(path: Path) -> dict[str, str]:
    """The texts by the names of their fields; of a DICOM series none, see `dicom_series`.

    It may hold a patient's name: to look at, not to pass on.

    Args:
        path: NIfTI (its extensions are one text), NRRD (key/value pairs and content) or MetaImage (every field).

    Raises:
        BadInput: the header is damaged.
    """
    name = path.name.lower()
    if path.is_dir():
        return {}
    if name.endswith((".nrrd", ".nhdr")):
        from SynthDiffusionLib.volumes.nrrd_file import read_nrrd_header

        header = read_nrrd_header(path)
        return header.pairs | {"content": str(header.fields.get("content", ""))}
    if name.endswith((".mha", ".mhd")):
        from SynthDiffusionLib.volumes.metaimage import read_metaimage_fields

        return read_metaimage_fields(path)
    from SynthDiffusionLib.volumes.nifti import read_nifti_header

    with decoding(path, "NIfTI"):
        header = read_nifti_header(path)
        texts = {field: _text(header[field].item()) for field in _NIFTI_FIELDS if field in header}
        start, end = int(header["sizeof_hdr"]) + 4, int(header["vox_offset"])
        with open_unpacked(path) as stream:
            stream.read(start)
            raw = stream.read(max(0, min(end - start, _MOST_EXTENSION_BYTES)))
    return {field: text for field, text in {**texts, "extension": _text(raw.replace(b"\0", b" "))}.items() if text}


def _text(value: bytes | str) -> str:
    raw = value if isinstance(value, bytes) else str(value).encode()
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()
