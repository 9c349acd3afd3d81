"""Conditions of questions (`show_if`) that no answer can fulfil: a question that nobody would ever see is a mistake."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from SynthDiffusionLib.reader_study.forms import (
    WITH_OPTIONS,
    Item,
    _holds,
    _is_empty,
    _is_number,
    _same,
    answer_problem,
)


def never_holds(rule: Mapping[str, Any], asked: Item) -> str | None:
    """Why no answer to the question that a condition names fulfils it, or a value of it; None: some answer does."""
    if "answered" in rule:
        return None
    limit = next((key for key in ("at_least", "at_most") if key in rule), None)
    if limit is not None:
        numbers = [o.value for o in asked.options if _is_number(o.value)]
        if asked.type == "number":
            numbers = [math.inf if asked.max is None else asked.max, -math.inf if asked.min is None else asked.min]
        if asked.type == "multiple_choice" or not any(_holds(rule, n) for n in numbers):
            return f"'{asked.id}' ('{asked.type}') has no answer that is '{limit}' {rule[limit]:g}"
        return None
    wanted = [rule["equals"]] if "equals" in rule else rule["in"]
    if not wanted:
        return "'in' is empty"
    for value in wanted:
        if asked.type in WITH_OPTIONS:
            fits = any(_same(value, option.value) for option in asked.options)
        elif asked.type == "point":  # a list of places, which nothing equals
            fits = False
        else:
            fits = not _is_empty(value) and answer_problem(asked, value) is None
        if not fits:
            return f"{json.dumps(value, ensure_ascii=False)} is no answer to '{asked.id}' ('{asked.type}')"
    return None
