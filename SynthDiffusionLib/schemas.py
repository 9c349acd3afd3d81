"""Checks JSON from outside against the schemas in Resources/Schemas, and says in plain words what is wrong."""

from __future__ import annotations

import difflib
import json
import math
import stat
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import drives_a_terminal, shortened
from SynthDiffusionLib.resources import resource_path

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

LARGEST_JSON_BYTES = 16 * 1024 * 1024
MOST_DIGITS = 300  # of a whole number: a longer one fits into no other number, nor into a calculation
DEEPEST = 100  # objects and lists within one another, in what a person writes

_KINDS = {
    "object": "an object",
    "array": "a list",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}


def parse_json(text: str | bytes) -> Any:
    """Strict JSON: no NaN or Infinity, no number that is too large for a double, no key twice in one object, UTF-8 with
    or without a byte order mark.

    Raises:
        ValueError: with one line that says what is wrong and where.
    """

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is not a JSON number")

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key '{shortened(twice)}' is there twice")
        return found

    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        return json.loads(
            text,
            parse_constant=no_constant,
            object_pairs_hook=no_duplicates,
            parse_int=whole_number,
            parse_float=finite_number,
        )
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def whole_number(text: str) -> int:
    """A whole number of a JSON text (`parse_int` of json.loads).

    Raises:
        ValueError: it has more than `MOST_DIGITS` digits.
    """
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(text)} digits, and {MOST_DIGITS} are the most")
    return int(text)


def finite_number(text: str) -> float:
    """A number of a JSON text with a point or an exponent (`parse_float` of json.loads).

    Raises:
        ValueError: a double cannot hold it.
    """
    if math.isinf(value := float(text)):
        raise ValueError(f"the number {shortened(text, 40)} is too large")
    return value


def unusable(data: Any) -> str | None:
    """What no file of a person should hold and no schema says, in one line, or None.

    Args:
        data: parsed JSON, or the like made in Python.

    Returns:
        for example "'title' holds the character NUL"; also half characters (lone surrogates), numbers that are not
        finite or too large for a double, and more than `DEEPEST` levels.
    """
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), data)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, str):
            if "\0" in value:
                return f"{_place(path)} holds the character NUL"
            if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
                return f"{_place(path)} holds half a character, which UTF-8 does not have"
        elif isinstance(value, float) and not math.isfinite(value):
            return f"{_place(path)} must be a finite number, not {value}"
        elif isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
            return f"{_place(path)} is too large a number"
        elif isinstance(value, dict | list | tuple):
            if len(path) >= DEEPEST:
                return f"{_place(path[:3])} is nested too deeply"
            pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
            for key, inner in reversed(pairs):
                if isinstance(key, str) and key != shortened(key, 10**6):
                    return f"{_place(path)} has an entry '{shortened(key)}', whose name does not print"
                stack.append(((*path, key), inner))
    return None


def driving(data: Any) -> str | None:
    """What no one-line text of a description should hold, since it is printed: control characters, line ends, and marks
    that turn the direction of a line.

    Args:
        data: parsed JSON, not nested endlessly.

    Returns:
        for example "'license.attribution' holds the character \\x1b, which does not print", or None.
    """
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), data)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, str) and (found := drives_a_terminal(value)):
            return f"{_place(path)} holds the character {found}, which does not print"
        if isinstance(value, dict):
            for key in value:
                if found := drives_a_terminal(key):
                    return f"{_place(path)} has an entry whose name holds the character {found}, which does not print"
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        stack += [((*path, key), inner) for key, inner in reversed(list(pairs))]
    return None


def read_json(path: Path, largest_bytes: int = LARGEST_JSON_BYTES) -> Any:
    """`parse_json` of a file of a bounded size.

    Raises:
        OSError: it cannot be read.
        ValueError: too large, not JSON, or a pipe or device, which might never end.
    """
    if stat.S_IFMT(Path(path).stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):  # open() refuses folders
        raise ValueError("it is not a regular file")
    with open(path, "rb") as file:
        data = file.read(largest_bytes + 1)
    if len(data) > largest_bytes:
        raise ValueError(f"it is larger than {largest_bytes // 1024**2} MiB")
    return parse_json(data)


@cache
def _validator(schema_name: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    schema = read_json(resource_path("Schemas", f"{schema_name}.schema.json"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def first_problem(data: Any, schema_name: str) -> str | None:
    """What is wrong with `data`, in one line, or None.

    Args:
        data: parsed JSON.
        schema_name: `NAME` of Resources/Schemas/NAME.schema.json.

    Returns:
        for example "'grid.divisor' must be a whole number, not text ('8')".
    """
    from jsonschema.exceptions import best_match

    error = best_match(_validator(schema_name).iter_errors(data))
    return None if error is None else _plain(error)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The entry of `known` that `name` is probably meant to be, ignoring case; None if none is near."""
    by_folded = {k.casefold(): k for k in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.55)
    return by_folded[found[0]] if found else None


def _place(path: Iterable[str | int]) -> str:
    place = ""
    for part in path:
        name = shortened(part, 60)
        place += f"[{part}]" if isinstance(part, int) else f".{name}" if place else name
    return f"'{place}'" if place else "the top level"


def _shown(value: Any) -> str:
    try:
        return shortened(json.dumps(value, ensure_ascii=False), 60)
    except (ValueError, TypeError, RecursionError):  # no JSON: made in Python, or nested too deeply to be spelled
        return _kind(value)


def _kind(value: Any) -> str:
    for types, name in (
        ((bool,), "boolean"),
        ((int, float), "number"),
        ((str,), "string"),
        ((dict,), "object"),
        ((list,), "array"),
    ):
        if isinstance(value, types):
            return _KINDS[name]
    return _KINDS["null"]


def _plain(error: ValidationError) -> str:
    where, value, rule = _place(error.absolute_path), error.instance, error.validator_value
    match error.validator:
        case "required":
            return f"{where} lacks '{next(name for name in rule if name not in value)}'"
        case "additionalProperties" | "unevaluatedProperties":
            known = list(error.schema.get("properties", {}))
            extra = next((name for name in value if name not in known), "")
            near = closest(extra, known)
            return f"{where} has an unknown entry '{shortened(extra)}'" + (f" (did you mean '{near}'?)" if near else "")
        case "type":
            kinds = [_KINDS[k] for k in ([rule] if isinstance(rule, str) else rule)]
            return f"{where} must be {' or '.join(kinds)}, not {_kind(value)} ({_shown(value)})"
        case "enum":
            near = closest(value, map(str, rule)) if isinstance(value, str) else None
            hint = f" (did you mean '{near}'?)" if near else ""
            return f"{where} must be one of {', '.join(map(str, rule))}, not {_shown(value)}{hint}"
        case "const":
            return f"{where} must be {_shown(rule)}, not {_shown(value)}"
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            words = {
                "minimum": "at least",
                "exclusiveMinimum": "greater than",
                "maximum": "at most",
                "exclusiveMaximum": "less than",
            }
            return f"{where} must be {words[error.validator]} {rule}, not {_shown(value)}"
        case "minItems" | "maxItems" | "minProperties" | "maxProperties":
            words = "at least" if error.validator.startswith("min") else "at most"
            return f"{where} must have {words} {rule} entries, not {len(value)}"
        case "minLength":
            return f"{where} must not be empty"
        case "maxLength":
            return f"{where} is longer than {rule} characters"
        case "uniqueItems":
            return f"{where} names something twice"
        case "pattern":
            wanted = error.schema.get("description", f"of the form {rule}")
            return f"{where} must be {wanted}, not {_shown(value)}"
    return f"{where}: {shortened(' '.join(error.message.split()), 160)}"
