"""Which class of a model a segment stands for, judged by its code or its name."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from SynthDiffusionLib.labels.scheme import LabelClass, LabelScheme
from SynthDiffusionLib.volumes.volume import Code, Segment

# Slicer gives every new segment the type "Tissue" until the user picks one, so that this code tells nothing.
_UNINFORMATIVE_CODES = {"85756007"}

_SNOMED_CT = {"SCT", "SNOMED", "SNOMEDCT", "SNOMED-CT", "2.16.840.1.113883.6.96"}
# Designators of SNOMED RT identifiers ("T-28000"), which DICOM objects before 2019 carry: PS3.16 section 8.1.
_SNOMED_RT = {"SRT", "SNM3", "99SDM"}

_SIDES = {"left", "right", "l", "r"}
_NUMBERED = re.compile(r"\d+|[ctls]\d{1,2}")  # "rib 7", "vertebrae T12", "nodule 2"
_NO_NAME = re.compile(r"(segment|label|mask|roi|region|object|structure|unnamed|untitled)?[\W_]*\d*", re.IGNORECASE)
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)")


def _singular(word: str) -> str:
    if word.endswith("ae") and len(word) > 3:
        return word[:-1]  # vertebrae, scapulae
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"  # bodies
    if word.endswith(("ses", "xes")) and len(word) > 4:
        return word[:-2]  # masses, boxes
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 2:
        return word[:-1]
    return word


@lru_cache(maxsize=4096)
def name_words(name: str) -> tuple[str, ...]:
    """The words of a name in singular and lower case, sorted: "Lungs_left", "LeftLung" and "left lung" agree."""
    # Letter-and-digit pairs that belong together ("T12") are cut here and joined again below.
    text = unicodedata.normalize("NFKD", _CAMEL_CASE.sub(" ", name))
    text = "".join(c for c in text if not unicodedata.combining(c)).casefold()
    text = re.sub(r"(?<![a-z])([a-z]) (?=\d)", r"\1", text)
    return tuple(sorted(_singular(word) for word in re.split(r"[\W_]+", text) if word))


def _without_side_and_number(name: str) -> tuple[str, ...]:
    return tuple(w for w in name_words(name) if w not in _SIDES and not _NUMBERED.fullmatch(w))


def class_by_name(name: str, scheme: LabelScheme) -> LabelClass | None:
    """The class that has this name or synonym; case, blanks, underscores, word order and plural do not count.

    If no class has the name, sides and numbers are dropped too: "rib_left_7" is a rib, "Nodule 2" a nodule.
    """
    for form in (name_words, _without_side_and_number):
        wanted = form(name)
        for c in scheme.classes:
            if wanted and any(form(known) == wanted for known in (c.name, *c.synonyms)):
                return c
    return None


def class_by_code(code: Code | None, scheme: LabelScheme) -> LabelClass | None:
    """The class that lists this SNOMED code; codes of SNOMED RT are translated where pydicom is installed."""
    if code is None or code.value in _UNINFORMATIVE_CODES:
        return None
    designator = code.scheme.upper()
    if designator in _SNOMED_CT:
        for c in scheme.classes:
            if any(known.scheme == "SCT" and known.value == code.value for known in c.codes):
                return c
    elif designator in _SNOMED_RT:
        try:
            from pydicom.sr.coding import Code as DicomCode
        except ImportError:
            return None
        for c in scheme.classes:
            # pydicom's codes are equal across SNOMED RT and CT by the table of PS3.16 annex O.
            if any(DicomCode(code.value, "SRT", "") == DicomCode(known.value, "SCT", "") for known in c.codes):
                return c
    else:
        for c in scheme.classes:
            if any(known.scheme == code.scheme and known.value == code.value for known in c.codes):
                return c
    return None


def says_nothing(segment: Segment) -> bool:
    """The segment has neither a code nor a name that tells what it is ("Segment_1", "label 3", "7")."""
    no_code = segment.type is None or segment.type.value in _UNINFORMATIVE_CODES
    return no_code and _NO_NAME.fullmatch(segment.name.strip()) is not None
