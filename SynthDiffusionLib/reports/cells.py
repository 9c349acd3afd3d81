"""Cells of tables: of comma-separated ones, and as people read them.

Text that a person typed may begin with `=`, `+`, `-` or `@`, which a spreadsheet runs as a formula. Such cells get an
apostrophe in front, as OWASP's page "CSV Injection" advises; `plain_cell` takes it off again: nothing is lost.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

_FORMULA = re.compile(r"^'*[=+\-@\t\r\n]")


def safe_cell(text: str) -> str:
    """Text that a spreadsheet does not run as a formula: an apostrophe goes before `=`, `+`, `-`, `@`, tab, return."""
    return f"'{text}" if _FORMULA.match(text) else text


def original_cell(text: str) -> str:
    """Undoes `safe_cell`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def cell(value: Any) -> str:
    """A value as a cell: numbers as they are (shortest form that reads back the same), None empty, lists as JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, ensure_ascii=False)
    return safe_cell(str(value))


def formatted(value: Any, kind: str) -> str:
    """A cell as people read it."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    match kind:
        case "percent":
            return f"{100 * value:.1f} %"
        case "p":
            return "<0.001" if value < 0.001 else f"{value:.3f}"
        case "number":
            return f"{value:g}" if isinstance(value, int) else f"{value:.3f}"
        case "number6":
            return f"{value:.6g}"
        case "seconds":
            return f"{value:.1f} s"
    return str(value)
