"""How a request names the tumour of the joint mode: as a mapping in JSON, as text on the command line.

`{"volume_mm3": 20000, "sphericity": 0.6, "center": [0, 10, -5]}` is `volume_mm3=20000,sphericity=0.6,center=0x10x-5`.
What is not named is drawn (`jobs.joint`). Nothing here needs more than the standard library.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.schemas import closest

# Name in a request, and the characteristics that it stands for: three are given along R, A and S.
FIELDS = {
    "volume_mm3": ("volume_mm3",),
    "surface_mm2": ("surface_mm2",),
    "sphericity": ("sphericity",),
    "center": ("center_r_mm", "center_a_mm", "center_s_mm"),
    "box": ("box_r_mm", "box_a_mm", "box_s_mm"),
}
# As in `models.characteristics`, which needs more than a request may.
NAMES = tuple(name for names in FIELDS.values() for name in names)
EXAMPLE = "--tumour volume_mm3=20000,sphericity=0.6,center=0x10x-5,box=40x30x50"
# Python's own reading takes 2_000, and the digits of other scripts, too.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
Tumour = Mapping[str, "float | tuple[float, float, float]"]


def parse_tumour(text: str) -> dict[str, float | tuple[float, ...]]:
    """What `--tumour` says.

    Raises:
        BadInput: an entry without a value or with one that is no number, an unknown name, or one that stands twice.
    """
    found: dict[str, float | tuple[float, ...]] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in entry.partition("="))
        _check_name(name)
        if not equals or not value:
            raise BadInput(f"'{entry}' in --tumour has no value", f"Give it as in {EXAMPLE}.")
        if name in found:
            raise BadInput(f"'{name}' stands twice in --tumour", "Give it once.")
        found[name] = _numbers(name, value)
    if not found:
        raise BadInput("--tumour is empty", f"Leave it out to have all drawn, or give it as in {EXAMPLE}.")
    check_tumour(found)
    return found


def check_tumour(tumour: Any) -> None:
    """Refuses what is no description of a tumour; whether there can be one like it is seen by `jobs.joint`.

    Raises:
        BadInput: an unknown name, a value that is no finite number, or not three of them where three belong.
    """
    if not isinstance(tumour, Mapping):
        raise BadInput("The tumour is not described by names and values", f"Give it as in {EXAMPLE}.")
    for name, value in tumour.items():
        _check_name(name)
        numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
        for number in numbers:
            if not _finite(number):
                raise BadInput(
                    f"'{name}' of the tumour is {_shown(number)}, which is no finite number", "Give a number."
                )
        wanted = len(FIELDS[name])
        if len(numbers) != wanted or isinstance(value, list | tuple) != (wanted > 1):
            what = "three numbers, RxAxS in mm" if wanted > 1 else "one number"
            raise BadInput(
                f"'{name}' of the tumour has {len(numbers)} numbers, and needs {what}", f"Give it as in {EXAMPLE}."
            )


def tumour_values(tumour: Tumour) -> dict[str, float]:
    """The characteristics that a request names, by the names of `models.characteristics.NAMES`, in their order."""
    values: dict[str, float] = {}
    for field, names in FIELDS.items():
        if field in tumour:
            value = tumour[field]
            values |= zip(names, map(float, value if isinstance(value, list | tuple) else (value,)))
    return values


def tumour_text(values: Mapping[str, float]) -> str:
    """The text of `--tumour` for characteristics by their names; those of one field all or none."""
    parts = [
        f"{field}={'x'.join(repr(float(values[name])) for name in names)}"
        for field, names in FIELDS.items()
        if names[0] in values
    ]
    return ",".join(parts)


def as_values(used: Mapping[str, Any]) -> tuple[float, ...]:
    """All nine, in the order of `NAMES`."""
    return tuple(float(used[name]) for name in NAMES)


def _check_name(name: Any) -> None:
    if name in FIELDS:
        return
    near = closest(str(name), FIELDS)
    suggestion = f"Did you mean '{near}'? " if near else ""
    with contextlib.suppress(ValueError):
        float(name)  # of a place that was written with commas
        suggestion = f"The numbers of a place or a box are joined by x, as in {EXAMPLE}. "
    raise BadInput(
        f"'{_cut(str(name))}' is no characteristic of a tumour", f"{suggestion}They are: {', '.join(FIELDS)}."
    )


def _numbers(name: str, text: str) -> float | tuple[float, ...]:
    """The value of an entry; a mistake is shown with all of it."""
    three = len(FIELDS[name]) > 1
    parts = text.lower().split("x") if three else [text]
    if not all(_NUMBER.fullmatch(part.strip()) and math.isfinite(float(part)) for part in parts):
        what = "three finite numbers, RxAxS in mm" if three else "one number, a finite one"
        raise BadInput(f"'{name}' in --tumour is '{_cut(text)}', and needs {what}", f"Give it as in {EXAMPLE}.")
    numbers = tuple(map(float, parts))
    return numbers if three else numbers[0]


def _finite(value: Any) -> bool:
    """Whether it is a number that a float can hold: an int can be larger."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def _shown(value: Any) -> str:
    try:
        return _cut(json.dumps(value, default=str))
    except ValueError:  # Python writes no integer of thousands of digits
        return "a number of thousands of digits"
