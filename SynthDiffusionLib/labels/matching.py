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

_SIDE_OF = {"left": "left", "right": "right", "l": "left", "r": "right"}
# "Left" and "Right" of SNOMED CT, and of the SNOMED RT of older files.
_SIDE_CODES = {"7771000": "left", "24028007": "right", "G-A101": "left", "G-A100": "right"}
_NUMBERED = re.compile(r"\d+|[ctls]\d{1,2}")  # "rib 7", "vertebrae T12", "nodule 2"
_NO_NAME = re.compile(r"(segment|label|mask|roi|region|object|structure|unnamed|untitled)?[\W_]*\d*", re.IGNORECASE)
_COUNTER = re.compile(r"(?<=\w)[\W_]+\d+\s*$")  # "left kidney 2", but not "T12"
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


@lru_cache(maxsize=4096)
def _without_side_and_number(name: str) -> tuple[str, ...]:
    return tuple(w for w in name_words(name) if w not in _SIDE_OF and not _NUMBERED.fullmatch(w))


@lru_cache(maxsize=4096)
def side_of(name: str) -> str | None:
    """ "left" or "right" if the name says one of them."""
    sides = {_SIDE_OF[w] for w in name_words(name) if w in _SIDE_OF}
    return sides.pop() if len(sides) == 1 else None


@lru_cache(maxsize=4096)
def _numbers(name: str) -> frozenset[str]:
    return frozenset(w for w in name_words(name) if _NUMBERED.fullmatch(w))


@lru_cache(maxsize=4096)
def _spelled_out(name: str) -> tuple[str, ...]:
    """The words of a name, "l" and "r" written as "left" and "right"."""
    return tuple(sorted(_SIDE_OF.get(word, word) for word in name_words(name)))


def class_by_name(name: str, scheme: LabelScheme) -> LabelClass | None:
    """The class that has this name or synonym; case, blanks, underscores, word order and plural do not count.

    If no class has the name, sides and numbers are dropped too: "rib_left_7" is a rib, "Nodule 2" a nodule. Not so
    where that leaves the choice between classes: "kidney" is neither the left nor the right one.
    """
    for form, text in ((name_words, name), (_spelled_out, name), (_spelled_out, _COUNTER.sub("", name))):
        wanted = form(text)
        for c in scheme.classes:
            if wanted and any(form(known) == wanted for known in (c.name, *c.synonyms)):
                return c
    found = classes_like(name, scheme)
    return found[0] if len(found) == 1 else None


def classes_like(name: str, scheme: LabelScheme) -> list[LabelClass]:
    """The classes that the name may mean if sides and numbers are dropped: both kidneys for "kidney"."""
    wanted = _without_side_and_number(name)
    return [
        c
        for c in scheme.classes
        if wanted
        and any(
            _without_side_and_number(known) == wanted and not _contradict(name, known)
            for known in (c.name, *c.synonyms)
        )
    ]


def _contradict(name: str, known: str) -> bool:
    """ "left rib 13" is not "right rib 13", nor "left rib 12"."""
    sides, numbers = {side_of(name), side_of(known)} - {None}, (_numbers(name), _numbers(known))
    return len(sides) > 1 or (all(numbers) and numbers[0].isdisjoint(numbers[1]))


def class_by_code(
    code: Code | None, scheme: LabelScheme, side: str | None = None, region: Code | None = None, name: str = ""
) -> LabelClass | None:
    """The class that lists this SNOMED code; codes of SNOMED RT are translated where pydicom is installed.

    Where several classes list it (one code for both kidneys, "neoplasm" for the tumours of all organs), the region and
    the side decide, then the name; None if they do not.

    Args:
        code: type of the segment.
        scheme: the model's classes.
        side: "left" or "right", see `side_of_segment`.
        region: anatomic region of the segment.
        name: of the segment.
    """
    if code is None or code.value in _UNINFORMATIVE_CODES:
        return None
    found = [c for c in scheme.classes if any(_same_code(code, known) for known in c.codes)]
    if len(found) > 1 and region is not None:
        found = [c for c in found if c.region is None or _same_code(region, c.region)]
    if len(found) > 1 and side is not None:
        found = [c for c in found if side_of(c.name) in (None, side)]
    if len(found) > 1:
        named = class_by_name(name, scheme)
        found = [c for c in found if c is named]
    return found[0] if found else None


def _same_code(code: Code, known: Code) -> bool:
    designator = code.scheme.upper()
    if designator in _SNOMED_CT:
        return known.scheme == "SCT" and known.value == code.value
    if designator in _SNOMED_RT:
        try:
            from pydicom.sr.coding import Code as DicomCode
        except ImportError:
            return False
        # pydicom's codes are equal across SNOMED RT and CT by the table of PS3.16 annex O.
        return DicomCode(code.value, "SRT", "") == DicomCode(known.value, "SCT", "")
    return known.scheme == code.scheme and known.value == code.value


def side_of_segment(segment: Segment) -> str | None:
    """ "left" or "right" if the segment's modifiers, or else its name, say so."""
    for modifier in (segment.type_modifier, segment.region_modifier):
        if modifier is not None and modifier.value in _SIDE_CODES:
            return _SIDE_CODES[modifier.value]
    return side_of(segment.name)


def says_nothing(segment: Segment) -> bool:
    """The segment has neither a code nor a name that tells what it is ("Segment_1", "label 3", "7")."""
    no_code = segment.type is None or segment.type.value in _UNINFORMATIVE_CODES
    return no_code and _NO_NAME.fullmatch(segment.name.strip()) is not None
