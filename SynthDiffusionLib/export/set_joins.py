"""What joined the volumes of a training set, in words: by which mask of which class, and which masks joined nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from SynthDiffusionLib.errors import shortened
from SynthDiffusionLib.export.groups import Generic, Join
from SynthDiffusionLib.export.set_cases import REAL, SourceCase
from SynthDiffusionLib.export.set_classes import ClassTable
from SynthDiffusionLib.reports.sections import counted


def with_classes(joins: Sequence[Join], cases: Sequence[SourceCase], classes: ClassTable) -> list[Join]:
    """Joins that say which class's mask two volumes share."""
    return [replace(j, why=f"{j.why} ({_class(j.mask, j.one, cases, classes)})") if j.mask else j for j in joins]


def generic_masks(
    generic: Sequence[Generic], cases: Sequence[SourceCase], names: Sequence[str], classes: ClassTable
) -> list[dict[str, Any]]:
    """Generic masks for the manifest.

    Args:
        generic: see `groups.grouped`.
        cases: all volumes.
        names: of the volumes in the set.
        classes: of their label maps.

    Returns:
        class of the mask, and the volumes that have it, one of each patient. One file is listed by its masks.
    """
    found = []
    told: set[tuple[int, ...]] = set()
    for shape in generic:
        if shape.volumes not in told:
            what = _class(shape.mask, shape.volumes[0], cases, classes)
            found.append({"class": what, "volumes": [names[i] for i in shape.volumes]})
        told.add(shape.volumes)
    return found


def generic_notes(generic: Sequence[dict[str, Any]]) -> list[str]:
    """What the user is told of them."""
    if not generic:
        return []
    first = generic[0]
    one, other = first["volumes"][:2]
    more = f" (and {len(generic) - 1} more such masks)" if len(generic) > 1 else ""
    return [
        f"{len(first['volumes'])} patients whose images share nothing have the same mask ({first['class']}), first "
        f"'{shortened(one)}' and '{shortened(other)}'{more}: taken for a shape that says nothing of a patient, and not "
        "for a reason to keep them together (generic_masks in manifest.json). Copies of one patient "
        "must have one name of a patient"
    ]


def why_together(joins: Sequence[Join], groups: Sequence[int], cases: Sequence[SourceCase]) -> str:
    """Why patients of one group belong together, by its first two real volumes; "" if no two patients were joined.

    Of the groups, that with the most such joins; without real volumes, all joins count.

    Args:
        joins: see `with_classes`.
        groups: of all volumes.
        cases: all volumes.
    """
    any_real = any(case.kind == REAL for case in cases)
    between = [j for j in joins if not any_real or cases[j.one].patient.casefold() != cases[j.other].patient.casefold()]
    if not between:
        return ""
    largest, _ = Counter(groups[j.one] for j in between).most_common(1)[0]
    of_it = [j for j in between if groups[j.one] == largest]
    first = next((j for j in of_it if cases[j.one].kind == cases[j.other].kind == REAL), of_it[0])
    one, other = (shortened(cases[i].name) for i in (first.one, first.other))
    return f"'{one}' and '{other}', the first of {counted(len(of_it), 'pair')}, belong together by {first.why}"


def _class(mask: str, volume: int, cases: Sequence[SourceCase], classes: ClassTable) -> str:
    places = cases[volume].mask_places
    if places.get(mask) is None:
        return "all classes together"
    value = classes.of[volume].get(places[mask])
    return next((name for name, number in classes.values.items() if number == value), f"label value {places[mask][1]}")
