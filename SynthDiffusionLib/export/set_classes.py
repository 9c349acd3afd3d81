"""Classes of a training set: by name over all label maps, whatever their values, as the values 1, 2, 3, ...

Which name a segment has, the first that applies:

1. in a .seg.nrrd file, its own; of a synthetic volume, the class that the model took it for, if no real label map has a
   class of the segment's own name;
2. the one that the options give to its value;
3. of a synthetic volume, the class that the model took its value for;
4. "class 1", ... if no label map has a name for anything.

A segment that the model was not given is not in the image either, and is left out of the label map. So is a class that
no real label map has: in real images it would count as background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.labels.matching import name_words
from SynthDiffusionLib.reports.sections import counted
from SynthDiffusionLib.volumes import Segmentation

if TYPE_CHECKING:
    from SynthDiffusionLib.export.set_cases import SourceCase

BACKGROUND = "background"
MOST_CLASSES = 65535
LARGEST_VALUE = 2**24  # of a label


@dataclass(frozen=True)
class Part:
    """A segment of a label map that has voxels.

    Args:
        layer, value: where it is.
        name: what its file calls it, or "".
        model_class: what the model took it for, by the record; "" if that is not known.
        given: False if the model was not given it.
    """

    layer: int
    value: int
    name: str
    model_class: str = ""
    given: bool = True


@dataclass(frozen=True)
class ClassTable:
    """The classes of a training set.

    Args:
        names: in the order of their values, which begin with 1; the background is not among them.
        of: for each case the value of each segment, by layer and value in its file; 0: left out.
        notes: what the user should know.
    """

    names: tuple[str, ...]
    of: tuple[Mapping[tuple[int, int], int], ...]
    notes: tuple[str, ...]

    @property
    def values(self) -> dict[str, int]:
        """Value by name, the background first."""
        return {BACKGROUND: 0} | {name: value for value, name in enumerate(self.names, 1)}


def parts_of(segmentation: Segmentation, record: Mapping[str, Any] | None) -> tuple[Part, ...]:
    """The segments that have voxels.

    Args:
        segmentation: of a case.
        record: of a synthetic volume, if this is the very file that it was made from.

    Raises:
        BadInput: a value that is too large.
    """
    entries = (record or {}).get("mapping", {}).get("segments", ())
    mapped = {(e.get("layer", 0), e.get("value")): e for e in entries}
    found = []
    present = [set(np.unique(layer).tolist()) for layer in segmentation.layers]
    if (largest := max(map(max, present))) > LARGEST_VALUE:
        raise BadInput(f"label value {largest} is too large", f"{LARGEST_VALUE} is the most.")
    for segment in segmentation.segments:
        if segment.value not in present[segment.layer]:
            continue
        entry = mapped.get((segment.layer, segment.value))
        name = segment.name.strip()
        found.append(
            Part(
                segment.layer,
                segment.value,
                "" if name == str(segment.value) else name,
                (entry or {}).get("class") or "",
                entry is None or entry.get("class") is not None,
            )
        )
    return tuple(found)


def class_table(
    cases: Sequence[SourceCase],
    real_names: Mapping[int, str],
    synthetic_names: Mapping[int, str],
    all_classes: bool = False,
) -> ClassTable:
    """The classes of all label maps.

    Args:
        cases: real ones first: their classes have the first values, in the order of those of their files.
        real_names: names of label values that the files of real volumes have no names for.
        synthetic_names: the same for synthetic ones.
        all_classes: keep classes that no real label map has.

    Raises:
        BadInput: a value without a name where others have names, or no class at all.
    """
    of_real = {
        _key(name)
        for case in cases
        if case.record is None
        for part in case.parts
        if (name := part.name or real_names.get(part.value, ""))
    }
    named = [_names(case, real_names if case.record is None else synthetic_names, of_real) for case in cases]
    nameless = [(case, value) for case, names in zip(cases, named) for (_, value), name in names.items() if name == ""]
    if nameless and any(name for names in named for name in names.values()):
        case, value = nameless[0]
        option = "--classes" if case.record is None else "--synthetic-classes"
        raise BadInput(
            f"The label value {value} of '{shortened(case.label.name)}' has no name, and other label maps have names",
            f"Name all values: {option} {value}=NAME.",
        )
    notes = _notes(cases, named, synthetic_names)
    if of_real and not all_classes:
        notes += _leave_out(named, of_real)
    shown: dict[tuple[str, ...], str] = {}
    first: dict[tuple[str, ...], tuple[int, int]] = {}
    for case, names in zip(cases, named):
        for (_, value), name in names.items():
            if name is not None:
                name = name or f"class {value}"
                shown.setdefault(_key(name), name)
                first.setdefault(_key(name), (int(case.record is not None), value))
    if not shown and any(case.label is not None for case in cases):
        raise BadInput("No label map has any class", "Give label maps in which something is segmented.")
    if _key(BACKGROUND) in shown:
        raise BadInput("A class is called background, which is the value 0 in every label map", "Rename it.")
    if len(shown) > MOST_CLASSES:
        raise BadInput(f"The label maps have {len(shown)} classes", f"{MOST_CLASSES} are the most.")
    order = {key: i for i, key in enumerate(sorted(shown, key=lambda k: (*first[k], shown[k])), 1)}
    of = [
        {place: 0 if n is None else order[_key(n or f"class {place[1]}")] for place, n in names.items()}
        for names in named
    ]
    notes += _missing(cases, of, tuple(shown[key] for key in order))
    return ClassTable(tuple(shown[key] for key in order), tuple(of), tuple(notes))


def painted(segmentation: Segmentation, values: Mapping[tuple[int, int], int], case: SourceCase) -> np.ndarray:
    """The label map of a case in the classes of the set.

    Where segments overlap, the record of a synthetic volume says which one the model saw.

    Args:
        segmentation: on the grid of the image.
        values: see `ClassTable.of`.

    Returns:
        (I, J, K) uint8, or uint16 where there are more classes.

    Raises:
        BadInput: segments overlap, and nothing says which one counts.
    """
    overlaps = (case.record or {}).get("mapping", {}).get("overlaps", ())
    over = {(o["over"], o["under"]) for o in overlaps}
    kept = [part for part in case.parts if _value(values, part)]
    owner = np.zeros(segmentation.shape, np.uint16)  # the number of the part that a voxel is of
    for number, layer in enumerate(segmentation.layers):
        new = _numbered(layer, {part.value: i for i, part in enumerate(kept, 1) if part.layer == number})
        both = (owner > 0) & (new > 0)
        for pair in np.unique(owner[both].astype(np.uint32) << 16 | new[both]):
            old, its = kept[(pair >> 16) - 1], kept[(pair & 0xFFFF) - 1]
            if (old.model_class, its.model_class) in over:
                new[both & (owner == pair >> 16) & (new == pair & 0xFFFF)] = 0
            elif (its.model_class, old.model_class) not in over and _value(values, old) != _value(values, its):
                raise BadInput(
                    f"{case.label.name}: its segments '{shortened(old.name)}' and '{shortened(its.name)}' overlap",
                    "Save it as a label map, with one value for each voxel.",
                )
        np.copyto(owner, new, where=new > 0)
    kind = np.uint8 if max(values.values(), default=0) < 256 else np.uint16
    table = np.array([0, *(_value(values, part) for part in kept)], kind)
    return table[owner]


def _value(values: Mapping[tuple[int, int], int], part: Part) -> int:
    return values[part.layer, part.value]


def _numbered(layer: np.ndarray, numbers: Mapping[int, int]) -> np.ndarray:
    """(I, J, K) uint16: the number of each label value, 0 for others."""
    table = np.zeros(int(layer.max()) + 1, np.uint16)
    for value, number in numbers.items():
        table[value] = number
    return table[layer]


def _names(case: SourceCase, given: Mapping[int, str], of_real: set) -> dict[tuple[int, int], str | None]:
    """The name of each part; "": it has none, None: it is left out."""
    found: dict[tuple[int, int], str | None] = {}
    for part in case.parts:
        own = part.name
        if own and part.model_class and _key(own) not in of_real:
            own = part.model_class
        name = own or given.get(part.value, "") or part.model_class
        found[part.layer, part.value] = name if part.given else None
    return found


def _leave_out(named: Sequence[dict[tuple[int, int], str | None]], of_real: set) -> list[str]:
    """Takes away classes that no real label map has, and tells of them."""
    others = sorted({name for names in named for name in names.values() if name and _key(name) not in of_real})
    for names in named:
        for place, name in names.items():
            if name in others:
                names[place] = None
    return [
        f"the class '{shortened(name)}' is in synthetic label maps only, and left out of them: in real images it would "
        "count as background (--all-classes keeps it)"
        for name in others
    ]


def _missing(
    cases: Sequence[SourceCase], of: Sequence[Mapping[tuple[int, int], int]], names: Sequence[str]
) -> list[str]:
    """Classes that every real label map has, and some synthetic ones have not."""
    notes = []
    for value, name in enumerate(names, 1):
        has = [value in values.values() for values in of]
        real = [h for h, case in zip(has, cases, strict=True) if case.record is None and case.parts]
        lacking = [h for h, case in zip(has, cases, strict=True) if case.record is not None and case.label].count(False)
        if real and all(real) and lacking:
            notes.append(
                f"{counted(lacking, 'synthetic label map')} without '{shortened(name)}', which every real one has: "
                "where an image shows it all the same, it would count as background"
            )
    return notes


def _notes(cases: Sequence[SourceCase], named: Sequence[Mapping], given: Mapping[int, str]) -> list[str]:
    notes = []
    left_out = {
        part.name or f"value {part.value}": case.label.name for case in cases for part in case.parts if not part.given
    }
    for segment, file in sorted(left_out.items()):
        notes.append(
            f"the segment '{shortened(segment)}' of '{shortened(file)}' was not given to the model, so that no image "
            "shows it: it is left out of the label maps"
        )
    otherwise = {
        (part.value, given[part.value], part.model_class)
        for case in cases
        for part in case.parts
        if not part.name
        and part.model_class
        and part.value in given
        and _key(given[part.value]) != _key(part.model_class)
    }
    for value, name, model_class in sorted(otherwise):
        notes.append(
            f"the value {value} of synthetic label maps is called '{shortened(name)}', and the model took it for "
            f"'{shortened(model_class)}': --synthetic-classes says what it is"
        )
    return notes


def _key(name: str) -> tuple[str, ...]:
    """What names of one class have in common: "Lungs_left" and "left lung" are one."""
    return name_words(name) or (name.casefold().strip(),)
