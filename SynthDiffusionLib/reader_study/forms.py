"""Forms: the questions of a task, which of them are shown, and whether answers fit.

A form is JSON (`Resources/Schemas/form.schema.json`). Its names follow FHIR Questionnaire (HL7 FHIR R4, Questionnaire
resource), so that `exports` maps them one to one: `id` is linkId, `show_if` is enableWhen, `options` is answerOption,
the value of a scale's option is the ordinalValue extension.

    {"id": "turing", "title": "Real or synthetic?", "items": [
        {"id": "score", "type": "confidence", "text": "Is this volume real or synthetic?", "required": true,
         "options": [{"value": -3, "label": "Real, certain"}, ..., {"value": 3, "label": "Synthetic, certain"}]},
        {"id": "why", "type": "text", "text": "What gave it away?", "show_if": {"item": "score", "at_least": 1}}]}

Only the standard library is used: readers' Slicer has no jsonschema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput, shortened

# What an answer is, as JSON:
#   confidence, scale, choice   the value of an option (scale and confidence: a number)
#   multiple_choice             a list of values of options
#   forced_choice               "left" or "right"
#   text                        text
#   number                      a number
#   boolean                     true or false
#   point                       a list of {"volume": opaque ID, "ras": [R, A, S in mm], "slice"?: text}
#   info                        none: it only shows its text
TYPES = (
    "confidence",
    "scale",
    "choice",
    "multiple_choice",
    "forced_choice",
    "text",
    "number",
    "boolean",
    "point",
    "info",
)
FORMAT = "synthdiffusion-form-1"
WITH_OPTIONS = ("confidence", "scale", "choice", "multiple_choice")
PER = ("case", "pair", "study")
CONDITIONS = ("equals", "in", "at_least", "at_most", "answered")
LONGEST_TEXT = 10_000
LARGEST_NUMBER = 1e15  # of options, limits and answers: whole numbers up to here are exact in every program
LONGEST_ID = 80  # of a question: it becomes the name of a column
MOST_ITEMS, DEEPEST_CONDITION = 500, 20


@dataclass(frozen=True)
class Option:
    """One possible answer.

    Args:
        value: what is stored; a number for scales and confidences.
        label: what the reader sees.
        code: {"system", "code", "display"} of a terminology, carried along.
    """

    value: int | float | str
    label: str
    code: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Item:
    """A question.

    Args:
        id: unique in the form.
        type: one of `TYPES`.
        text: the question.
        per: what it is asked of: each case, each pair, or the study once (at its end).
        required: whether the reader must answer it before going on, where it is shown.
        options: of the types in `WITH_OPTIONS`.
        min: smallest number, shortest text, fewest points or choices (`form_bounds`).
        max: largest number, longest text, most points or choices, at least 1 of what is counted.
        step: of a number.
        show_if: {"item": id of an earlier question, and one of `CONDITIONS`: value}; None: always shown.
        help: a further explanation.
        code: as `Option.code`.
    """

    id: str
    type: str
    text: str
    per: str = "case"
    required: bool = False
    options: tuple[Option, ...] = ()
    min: float | None = None
    max: float | None = None
    step: float | None = None
    show_if: Mapping[str, Any] | None = None
    help: str = ""
    code: Mapping[str, str] | None = None

    @property
    def is_ordered(self) -> bool:
        """Whether its answers are numbers on a scale."""
        return self.type in ("confidence", "scale", "number")


@dataclass(frozen=True)
class Form:
    """The questions of a task."""

    id: str
    title: str
    items: tuple[Item, ...]
    description: str = ""
    source: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_json(cls, data: Any, where: str = "The form") -> Form:
        """Reads a form and checks it.

        Args:
            data: parsed JSON.
            where: how an error names it.

        Raises:
            BadInput: something is missing, there twice, unknown, or asks for itself in a circle.
        """
        from SynthDiffusionLib.schemas import unusable

        if not isinstance(data, Mapping):
            raise _bad(where, "it must be an object with 'id', 'title' and 'items'")
        if (fault := unusable(data)) is not None:
            raise _bad(where, fault)
        _known(data, ("format", "id", "title", "description", "source", "items", "version"), where)
        if data.get("format", FORMAT) != FORMAT:
            raise _bad(where, f"its format is '{data['format']}', not {FORMAT}")
        for key in ("id", "title"):
            if not _is_text(data.get(key)) or not data[key].strip():
                raise _bad(where, f"it lacks '{key}', or that is no text")
        for key in ("description", "source", "version"):
            if not _is_text(data.get(key, "")):
                raise _bad(where, f"'{key}' must be text")
        raw_items = data.get("items")
        if not isinstance(raw_items, list) or not raw_items:
            raise _bad(where, "it has no 'items'")
        if len(raw_items) > MOST_ITEMS:
            raise _bad(where, f"it has {len(raw_items)} items, more than {MOST_ITEMS}")
        items = tuple(_item(entry, i, where) for i, entry in enumerate(raw_items))
        seen: set[str] = set()
        for item in items:
            if item.id in seen:
                raise _bad(where, f"two items have the id '{item.id}'", "Give each item an id of its own.")
            seen.add(item.id)
        if all(item.type == "info" for item in items):
            raise _bad(where, "it asks nothing: all of its items are of the type 'info'", "Add a question.")
        _check_conditions(items, where)
        return cls(data["id"], data["title"], items, data.get("description", ""), data.get("source", ""), dict(data))

    def item(self, item_id: str) -> Item:
        """The question of that id.

        Raises:
            KeyError: there is none.
        """
        return next(item for item in self.items if item.id == item_id) if self.has(item_id) else _missing(item_id)

    def has(self, item_id: str) -> bool:
        return any(item.id == item_id for item in self.items)

    def visible(self, answers: Mapping[str, Any], per: Sequence[str] = ("case", "pair")) -> list[Item]:
        """The questions to show, given the answers so far, in the form's order.

        A question is shown if its condition holds and the question that it refers to is itself shown.
        """
        by_id = {item.id: item for item in self.items}
        known: dict[str, bool] = {}

        def shown(item: Item) -> bool:
            if item.id not in known:
                rule = item.show_if
                known[item.id] = rule is None or (
                    shown(by_id[rule["item"]]) and _holds(rule, answers.get(rule["item"]))
                )
            return known[item.id]

        return [item for item in self.items if item.per in per and shown(item)]

    def problems(self, answers: Mapping[str, Any], per: Sequence[str] = ("case", "pair")) -> dict[str, str]:
        """What is wrong with answers: item id to one sentence. Empty: they can be stored.

        Answers to questions that are not shown are wrong too; `cleaned` takes them out.
        """
        shown = {item.id: item for item in self.visible(answers, per)}
        found: dict[str, str] = {}
        for item_id, value in answers.items():
            if item_id not in shown:
                known = self.has(item_id)
                found[item_id] = "It is not shown." if known else "The form has no such question."
            elif (problem := answer_problem(shown[item_id], value)) is not None:
                found[item_id] = problem
        for item in shown.values():
            if item.required and item.type != "info" and _is_empty(answers.get(item.id)):
                found[item.id] = "An answer is needed."
        return found

    def cleaned(self, answers: Mapping[str, Any], per: Sequence[str] = ("case", "pair")) -> dict[str, Any]:
        """The answers without empty ones and without those to questions that are not shown."""
        shown = {item.id for item in self.visible(answers, per)}
        return {k: v for k, v in answers.items() if k in shown and not _is_empty(v)}


def answer_problem(item: Item, value: Any) -> str | None:
    """Why a value is no answer to a question, as one sentence; None if it is one, or is empty."""
    if _is_empty(value):
        return None
    match item.type:
        case "confidence" | "scale" | "choice":
            if not any(_same(value, option.value) for option in item.options):
                return "It is none of the options."
        case "multiple_choice":
            if not isinstance(value, list) or len({json.dumps(v) for v in value}) < len(value):
                return "It must be a list of different options."
            if any(not any(_same(v, option.value) for option in item.options) for v in value):
                return "It holds something that is none of the options."
            return _count_problem(item, len(value), "options")
        case "forced_choice":
            if value not in ("left", "right"):
                return "It must be left or right."
        case "text":
            if not isinstance(value, str):
                return "It must be text."
            if "\0" in value or not _is_text(value):
                return "It holds a character that cannot be stored."
            if len(value) > (item.max or LONGEST_TEXT):
                return f"It is longer than {int(item.max or LONGEST_TEXT)} characters."
            if item.min is not None and len(value.strip()) < item.min:
                return f"It needs at least {int(item.min)} characters."
        case "number":
            if not _is_number(value):
                return "It must be a number."
            if item.min is not None and value < item.min:
                return f"It must be at least {item.min:g}."
            if item.max is not None and value > item.max:
                return f"It must be at most {item.max:g}."
        case "boolean":
            if not isinstance(value, bool):
                return "It must be yes or no."
        case "point":
            if not isinstance(value, list) or not all(_is_point(p) for p in value):
                return "It must be a list of points, each with a volume and three coordinates in mm."
            return _count_problem(item, len(value), "points")
        case "info":
            return "It takes no answer."
    return None


def load_form(path: Path) -> Form:
    """Reads a form from a JSON file.

    Raises:
        BadInput: it cannot be read, or is no form.
    """
    from SynthDiffusionLib.schemas import read_json

    try:
        data = read_json(Path(path))
    except OSError as error:
        raise BadInput(f"The form '{shortened(path)}' cannot be read ({error.strerror})", "Check the path.") from error
    except ValueError as error:
        raise BadInput(f"The form '{shortened(path)}' is damaged: {error}", "Mend the file.") from error
    return Form.from_json(data, f"The form '{shortened(path)}'")


def shipped_forms() -> dict[str, Path]:
    """The forms that come with the project, by their id."""
    from SynthDiffusionLib.resources import resource_path

    return {path.stem: path for path in sorted(resource_path("Forms").glob("*.json"))}


def _item(data: Any, index: int, where: str) -> Item:
    from SynthDiffusionLib.reader_study.form_bounds import bounds_problem

    if not isinstance(data, Mapping):
        raise _bad(where, f"item {index + 1} is no object")
    item_id = data.get("id")
    if not isinstance(item_id, str) or not item_id.strip():
        raise _bad(where, f"item {index + 1} lacks its 'id'")
    place = f"{where}, item '{shortened(item_id, 60)}'"
    if len(item_id) > LONGEST_ID or not item_id.isprintable():
        raise _bad(place, f"its 'id' is longer than {LONGEST_ID} characters, or holds some that do not print")
    fields = ("id", "type", "text", "per", "required", "options", "min", "max", "step", "show_if", "help", "code")
    _known(data, fields, place)
    if data.get("type") not in TYPES:
        raise _bad(place, f"its type '{data.get('type')}' is unknown", f"Types are {', '.join(TYPES)}.")
    if not _is_text(data.get("text")) or not data["text"].strip():
        raise _bad(place, "it lacks 'text'")
    if not _is_text(data.get("help", "")):
        raise _bad(place, "'help' must be text")
    _check_code(data.get("code"), place)
    if data.get("per", "case") not in PER:
        raise _bad(place, f"'per' is '{data['per']}'", f"It can be {', '.join(PER)}.")
    if not isinstance(data.get("required", False), bool):
        raise _bad(place, "'required' must be true or false")
    if data["type"] == "info" and data.get("required", False):
        raise _bad(place, "it is 'required', but an 'info' takes no answer", "Leave 'required' out.")
    options = _options(data, place)
    if (problem := bounds_problem(data, len(options))) is not None:
        raise _bad(place, problem)
    if data.get("type") == "forced_choice" and data.get("per") == "study":
        raise _bad(place, "a forced choice is made for a pair, not for the study")
    return Item(
        item_id,
        data["type"],
        data["text"],
        data.get("per", "case"),
        data.get("required", False),
        options,
        data.get("min"),
        data.get("max"),
        data.get("step"),
        data.get("show_if"),
        data.get("help", ""),
        data.get("code"),
    )


def _options(data: Mapping[str, Any], place: str) -> tuple[Option, ...]:
    raw = data.get("options")
    if data["type"] not in WITH_OPTIONS:
        if raw is not None:
            raise _bad(place, f"'{data['type']}' takes no 'options'")
        return ()
    if not isinstance(raw, list) or len(raw) < 2:
        raise _bad(place, "it needs at least two 'options'")
    options = []
    for entry in raw:
        if not isinstance(entry, Mapping) or "value" not in entry or not _is_text(entry.get("label")):
            raise _bad(place, "each option needs 'value' and 'label'")
        _known(entry, ("value", "label", "code"), f"{place}, an option")
        value = entry["value"]
        numeric = _is_number(value)
        if data["type"] in ("scale", "confidence") and not numeric:
            raise _bad(place, f"the option '{entry['label']}' needs a number as value")
        if not numeric and not (_is_text(value) and value.strip()):
            raise _bad(place, f"the option '{entry['label']}' needs a number or text as value")
        _check_code(entry.get("code"), place)
        options.append(Option(value, entry["label"], entry.get("code")))
    for i, option in enumerate(options):
        if any(_same(option.value, other.value) for other in options[:i]):
            raise _bad(place, f"two options have the value {json.dumps(option.value)}")
    if data["type"] == "confidence":
        values = [option.value for option in options]
        if not (min(values) < 0 < max(values)) or 0 in values:
            raise _bad(
                place,
                "a signed confidence needs negative values (real) and positive ones (synthetic), and no 0",
                "A level that is neither leaves the question open.",
            )
    return tuple(options)


def _check_conditions(items: Sequence[Item], where: str) -> None:
    from SynthDiffusionLib.reader_study.form_conditions import never_holds

    by_id = {item.id: item for item in items}
    for item in items:
        rule, place = item.show_if, f"{where}, item '{item.id}'"
        if rule is None:
            continue
        if not isinstance(rule, Mapping) or not isinstance(rule.get("item"), str):
            raise _bad(place, "'show_if' needs 'item', the id of another question")
        _known(rule, ("item", *CONDITIONS), f"{place}, 'show_if'")
        if rule["item"] not in by_id:
            raise _bad(place, f"'show_if' names '{rule['item']}', which the form does not have")
        if len([key for key in CONDITIONS if key in rule]) != 1:
            raise _bad(place, f"'show_if' needs exactly one of {', '.join(CONDITIONS)}")
        if "in" in rule and not isinstance(rule["in"], list):
            raise _bad(place, "'show_if': 'in' must be a list")
        for key in ("at_least", "at_most"):
            if key in rule and not _is_number(rule[key]):
                raise _bad(place, f"'show_if': '{key}' must be a number")
        if not isinstance(rule.get("answered", True), bool):
            raise _bad(place, "'show_if': 'answered' must be true or false")
        if by_id[rule["item"]].type == "info":
            raise _bad(place, f"'show_if' names '{rule['item']}', which takes no answer")
        if (problem := never_holds(rule, by_id[rule["item"]])) is not None:
            raise _bad(place, f"'show_if' can never hold: {problem}", "Give a value that can be answered.")
    for item in items:
        chain, current = [item.id], item
        while current.show_if is not None:
            current = by_id[current.show_if["item"]]
            if current.id in chain:
                circle = " -> ".join([*chain[chain.index(current.id) :], current.id])
                raise _bad(where, f"the conditions go in a circle: {circle}", "Remove one of these 'show_if'.")
            chain.append(current.id)
            if len(chain) > DEEPEST_CONDITION:
                raise _bad(where, f"more than {DEEPEST_CONDITION} conditions hang on one another, from '{item.id}' on")
    for item in items:
        if item.show_if is not None and (item.per == "study") != (by_id[item.show_if["item"]].per == "study"):
            raise _bad(
                f"{where}, item '{item.id}'",
                f"'show_if' names '{item.show_if['item']}', which is not asked at the same time ('per')",
            )


def _holds(rule: Mapping[str, Any], answer: Any) -> bool:
    if "answered" in rule:
        return _is_empty(answer) != bool(rule["answered"])
    if _is_empty(answer):
        return False
    values = answer if isinstance(answer, list) else [answer]
    if "equals" in rule:
        return any(_same(v, rule["equals"]) for v in values)
    if "in" in rule:
        return any(_same(v, wanted) for v in values for wanted in rule["in"])
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return False
    return answer >= rule["at_least"] if "at_least" in rule else answer <= rule["at_most"]


def _same(a: Any, b: Any) -> bool:
    """Equal, with true not taken for 1."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _is_empty(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def _is_text(value: Any) -> bool:
    """Text that UTF-8 can hold: JSON may have halves of characters."""
    try:
        return isinstance(value, str) and value.encode("utf-8") is not None
    except UnicodeEncodeError:
        return False


def _check_code(code: Any, place: str) -> None:
    if code is not None and not (isinstance(code, Mapping) and all(_is_text(v) for v in code.values())):
        raise _bad(place, '\'code\' must be an object such as {"system": ..., "code": ..., "display": ...}')


def _is_point(value: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("volume"), str):
        return False
    ras = value.get("ras")
    return isinstance(ras, list) and len(ras) == 3 and all(_is_number(x) for x in ras)


def _count_problem(item: Item, count: int, what: str) -> str | None:
    if item.min is not None and count < item.min:
        return f"It needs at least {int(item.min)} {what}."
    if item.max is not None and count > item.max:
        return f"It may have at most {int(item.max)} {what}."
    return None


def _known(data: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    from SynthDiffusionLib.schemas import closest

    for key in data:
        if key not in keys:
            near = closest(str(key), keys)
            raise _bad(where, f"it has an unknown entry '{key}'", f"Did you mean '{near}'?" if near else "")


def _bad(where: str, message: str, hint: str = "Mend the form; Docs/READER_STUDIES.md, Forms, shows one.") -> BadInput:
    return BadInput(f"{shortened(where, 200)}: {shortened(message, 240)}", shortened(hint, 240))


def _missing(item_id: str) -> Item:
    raise KeyError(item_id)
