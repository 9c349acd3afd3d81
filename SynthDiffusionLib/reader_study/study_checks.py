"""Whether the content of study.json and key.json is of the types and within the bounds that the rest relies on.

Hashes say that a file is the one that the study was built with, not that a program wrote it: whoever computes them anew
can put anything in. Only the standard library is used: readers' Slicer has no jsonschema. What `study.schema.json` says
beyond this (patterns of names) is not asked of a study that is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from SynthDiffusionLib.errors import BadInput, shortened

LONGEST_WASHOUT_DAYS = 3650.0
LONGEST_VIEW_S = 3600.0
_HINT_STUDY, _HINT_KEY = "Copy the study again.", "Put back the original key."


class Rule(NamedTuple):
    """What a value must be: `fits` decides, `words` say it ("text"), `needed`: it must be there."""

    fits: Callable[[Any], bool]
    words: str
    needed: bool = True

    def optional(self) -> Rule:
        return self._replace(needed=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(low: float = -1e15, high: float = 1e15, above: float | None = None) -> Rule:
    words = f"a number from {low:g} to {high:g}" if above is None else f"a number above {above:g}, at most {high:g}"
    return Rule(lambda v: _is_number(v) and low <= v <= high and (above is None or v > above), words)


def _whole(low: int, high: int) -> Rule:
    return Rule(lambda v: type(v) is int and low <= v <= high, f"a whole number from {low} to {high}")


def _one_of(*words: str) -> Rule:
    return Rule(lambda v: isinstance(v, str) and v in words, f"one of {', '.join(words)}")


_TEXT = Rule(lambda v: isinstance(v, str), "text")
_NAME = Rule(lambda v: isinstance(v, str) and v != "", "text that is not empty")
_YES_NO = Rule(lambda v: isinstance(v, bool), "true or false")
_OBJECT = Rule(lambda v: isinstance(v, Mapping), "an object")
_LIST = Rule(lambda v: isinstance(v, list), "a list")
_FILLED = Rule(lambda v: isinstance(v, list) and bool(v), "a list that is not empty")
_NAMES = Rule(lambda v: isinstance(v, list) and bool(v) and all(isinstance(x, str) for x in v), "a list of names")
_PHASE, _KIND = _one_of("training", "main"), _one_of("single", "forced_choice")

_STUDY = {
    "id": _NAME, "title": _NAME, "description": _TEXT.optional(), "created_utc": _TEXT.optional(),
    "seed": _whole(-(2**63), 2**63).optional(), "key_sha256": _NAME, "notice": _TEXT.optional(),
    "secondary": _TEXT.optional(), "readers_planned": _LIST.optional(), "tasks": _FILLED, "sessions": _FILLED,
    "randomisation": _OBJECT, "viewing": _OBJECT, "primary": _OBJECT, "units": _FILLED, "volumes": _FILLED,
}  # fmt: skip
_ENTRIES: dict[str, dict[str, Rule]] = {
    "tasks": {"id": _NAME, "kind": _KIND, "form": _OBJECT, "show_mask": _YES_NO.optional()},
    "sessions": {
        "id": _NAME, "tasks": _NAMES, "min_days_after_previous": _number(0, LONGEST_WASHOUT_DAYS).optional(),
        "repeats_only": _YES_NO.optional(),
    },
    "units": {"id": _NAME, "task": _NAME, "phase": _PHASE, "volumes": _NAMES, "feedback": _TEXT.optional()},
    "volumes": {
        "id": _NAME, "file": _NAME, "sha256": _NAME, "mask": _NAME.optional(), "mask_sha256": _NAME.optional(),
    },
}  # fmt: skip
_READER = {"id": _NAME, "experience": _TEXT.optional(), "role": _TEXT.optional()}
_WINDOW = {"name": _NAME, "center": _number(), "width": _number(0, above=0)}
_VIEWING = {
    "layout": _TEXT, "windows": _LIST, "window_locked": _YES_NO, "start_slice": _one_of("middle", "mask"),
    "back": _one_of("none", "session"), "idle_cap_s": _number(0, 86400, above=0),
    "min_view_s": _number(0, LONGEST_VIEW_S), "show_position": _YES_NO,
}  # fmt: skip
_RANDOMISATION = {
    "algorithm": _TEXT, "block_size": _whole(0, 10**6), "longest_run": _whole(0, 10**6), "repeats": _number(0, 1),
    "repeat_min_distance": _whole(0, 10**6), "repeats_in": _TEXT, "task_order": _TEXT, "session_order": _TEXT,
}  # fmt: skip
_PRIMARY = {
    "measure": _one_of("accuracy", "auc", "mrmc_auc_difference", "likert_difference", "forced_choice"),
    "task": _NAME, "item": _NAME, "arm": _NAME.optional(), "arm2": _NAME.optional(),
    "test": _one_of("difference", "equivalence").optional(), "null": _number().optional(),
    "margin": _number(0, above=0).optional(), "alpha": _number(0, 0.5, above=0).optional(),
    "readers": _one_of("random", "fixed").optional(), "cases": _one_of("random", "fixed").optional(),
    "covariance": _one_of("delong", "jackknife", "unbiased").optional(),
}  # fmt: skip
_CHANCE = ("accuracy", "auc", "forced_choice")  # compared with a proportion
_TRUTH = Rule(lambda v: type(v) is int and v in (0, 1), "0 or 1")
_KEY = {"study_id": _NAME, "nonce": _NAME, "arms": _FILLED, "volumes": _OBJECT, "units": _OBJECT}
_KEY_ARM = {"id": _NAME, "truth": _one_of("real", "synthetic"), "model": _TEXT.optional()}
_KEY_ENTRY = {"arm": _NAME, "truth": _TRUTH, "pair": _TEXT.optional(), "patient": _TEXT.optional()}
_KEY_VOLUME = {
    **_KEY_ENTRY, "source": _TEXT.optional(), "source_sha256": _TEXT.optional(), "phase": _PHASE.optional(),
}  # fmt: skip


def check_study(data: Mapping[str, Any], name: str = "study.json") -> None:
    """Refuses a study file whose values are not what reading, merging and analysis take them for.

    Args:
        data: content of study.json. Entries that are not known are passed over.
        name: how a message calls the file.

    Raises:
        BadInput: names the entry, what it must be, and what it is.
    """
    check = _Checker(f"'{name}' is damaged", _HINT_STUDY)
    check.entries(data, _STUDY, "")
    for part, rules in _ENTRIES.items():
        for i, entry in enumerate(data[part]):
            check.entries(entry, rules, f"{part}[{i}]")
        ids = [entry["id"] for entry in data[part]]
        if twice := next((x for x in ids if ids.count(x) > 1), None) if len(set(ids)) < len(ids) else None:
            raise check.error(f"'{part}' has '{shortened(twice, 60)}' twice")
    for i, reader in enumerate(data.get("readers_planned", ())):
        if not _NAME.fits(reader):  # a name alone is one too
            check.entries(reader, _READER, f"readers_planned[{i}]")
    check.entries(data["viewing"], {k: rule.optional() for k, rule in _VIEWING.items()}, "viewing")
    for i, window in enumerate(data["viewing"].get("windows", ())):
        check.entries(window, _WINDOW, f"viewing.windows[{i}]")
    check.entries(data["randomisation"], {k: rule.optional() for k, rule in _RANDOMISATION.items()}, "randomisation")
    primary = data["primary"]
    check.entries(primary, _PRIMARY, "primary")
    if primary["measure"] in _CHANCE and not 0 < primary.get("null", 0.5) < 1:
        raise check.error(f"'primary.null' must lie between 0 and 1, not be {primary['null']:g}")


def check_key(key: Any) -> None:
    """Refuses a key whose values are not what merging takes them for; whether it is the study's is not asked here.

    Args:
        key: parsed content of key.json.

    Raises:
        BadInput: names the entry, what it must be, and what it is.
    """
    check = _Checker("The key is damaged", _HINT_KEY)
    check.entries(key, _KEY, "")
    for i, arm in enumerate(key["arms"]):
        check.entries(arm, _KEY_ARM, f"arms[{i}]")
    truths = {arm["id"]: int(arm["truth"] == "synthetic") for arm in key["arms"]}
    if len(truths) < len(key["arms"]):
        raise check.error("'arms' has an arm twice")
    for part, rules in (("volumes", _KEY_VOLUME), ("units", _KEY_ENTRY)):
        for name, entry in key[part].items():
            place = f"{part}.{shortened(name, 40)}"
            check.entries(entry, rules, place)
            if entry["arm"] not in truths:
                raise check.error(f"'{place}.arm' names '{shortened(entry['arm'], 60)}', which is none of the arms")
            if entry["truth"] != truths[entry["arm"]]:
                raise check.error(f"'{place}.truth' does not fit its arm '{shortened(entry['arm'], 60)}'")


class _Checker:
    """Holds entries against rules; `start` begins every message, `hint` is its mend."""

    def __init__(self, start: str, hint: str) -> None:
        self.start, self.hint = start, hint

    def error(self, message: str) -> BadInput:
        return BadInput(f"{self.start}: {message}", self.hint)

    def entries(self, data: Any, rules: Mapping[str, Rule], place: str) -> None:
        where = f"'{place}'" if place else "the top level"
        if not isinstance(data, Mapping):
            raise self.error(f"{where} must be an object, not {_kind(data)}")
        for name, rule in rules.items():
            path = f"{place}.{name}" if place else name
            if name not in data:
                if rule.needed:
                    raise self.error(f"'{path}' is missing")
            elif not rule.fits(data[name]):
                raise self.error(f"'{path}' must be {rule.words}, not {_kind(data[name])}")


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"'{shortened(value, 40)}'"
    if isinstance(value, int | float):
        return shortened(value, 40)
    return "an object" if isinstance(value, Mapping) else "a list"
