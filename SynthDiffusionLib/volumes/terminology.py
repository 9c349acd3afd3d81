"""Slicer's terminology entries, as they stand in the tags of a segment.

An entry is seven parts joined by "~": context, category, type, type modifier, region context, region, region modifier;
each code is `scheme^value^meaning`
(https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html#terminologyentry-tag).
"""

from __future__ import annotations

from dataclasses import replace

from SynthDiffusionLib.volumes.volume import Code, Segment

_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
_REGION_CONTEXT = "Anatomic codes - DICOM master list"
_CODED = {"category": 1, "type": 2, "type_modifier": 3, "region": 5, "region_modifier": 6}


def terminology_entry(segment: Segment) -> str:
    """The entry of a segment, or "" if its type is not known."""
    if segment.type is None:
        return ""
    parts = [_CONTEXT, "", "", "", _REGION_CONTEXT, "", ""]
    for field, place in _CODED.items():
        parts[place] = _triplet(getattr(segment, field))
    return "~".join(parts)


def with_terminology(segment: Segment, entry: str) -> Segment:
    """The segment with the codes of an entry; parts that are missing or malformed stay unknown."""
    parts = entry.split("~")
    codes = {field: _code(parts[place]) for field, place in _CODED.items() if place < len(parts)}
    return replace(segment, **codes)


def current_code(code: Code) -> Code:
    """The SNOMED CT code of a concept that is given by its retired SNOMED RT code, if pydicom is there to tell it.

    DICOM files before 2017 and old Slicer terminologies name concepts as ("SRT", "T-28000", "Lung"); PS3.16 since then
    has ("SCT", "39607008", "Lung").
    """
    if code.scheme not in ("SRT", "SNM3", "99SDM"):
        return code
    try:
        from pydicom.sr.coding import snomed_mapping
    except ImportError:
        return code
    value = snomed_mapping["SRT"].get(code.value)
    return Code("SCT", value, code.meaning) if value else code


def _triplet(code: Code | None) -> str:
    # The marks that separate parts cannot be escaped in Slicer's format.
    def clean(text: str) -> str:
        return "".join(" " if mark in "~^|\n\r" else mark for mark in text)

    return "^^" if code is None else "^".join((clean(code.scheme), clean(code.value), clean(code.meaning)))


def _code(triplet: str) -> Code | None:
    scheme, value, meaning = (part.strip() for part in (triplet + "^^").split("^")[:3])
    return current_code(Code(scheme, value, meaning)) if scheme and value else None
