"""Bounds of questions (`min`, `max`, `step`) that leave no answer: a required one would keep every reader from going
on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from SynthDiffusionLib.reader_study.forms import LONGEST_TEXT, _is_number

_COUNTED = {"multiple_choice": "options", "point": "points", "text": "characters"}


def bounds_problem(data: Mapping[str, Any], options: int) -> str | None:
    """What is wrong with the bounds of a question, in one sentence; None: they can be kept.

    Options, points and characters are counted, so their bounds are whole numbers, and at most 0 of them is no answer.

    Args:
        data: item of a form, whose type is known to be one.
        options: how many it has.
    """
    for key in ("min", "max", "step"):
        value = data.get(key)
        if value is not None and not _is_number(value):
            return f"'{key}' must be a number"
    least, most, step = data.get("min"), data.get("max"), data.get("step")
    if (counted := _COUNTED.get(data["type"])) is not None:
        for key, value, lowest in (("min", least, 0), ("max", most, 1)):
            if value is not None and (value < lowest or value != int(value)):
                return f"'{key}' is {value:g}, but {counted} are counted: give a whole number of at least {lowest}"
    if None not in (least, most) and least > most:
        return "'min' is larger than 'max'"
    if step is not None and step <= 0:
        return "'step' must be greater than 0"
    if None not in (least, most, step) and least < most and step > most - least:
        return f"'step' is {step:g}, more than from 'min' to 'max'"
    if data["type"] == "multiple_choice" and (least or 0) > options:
        return f"'min' asks for more options than the {options} there are"
    if data["type"] == "text" and (least or 0) > (most or LONGEST_TEXT):
        return "'min' asks for a longer text than is allowed"
    if data["type"] == "point" and data.get("per") == "study":
        return "a point is marked in a volume, and what is asked of the 'study' is shown without one"
    return None
