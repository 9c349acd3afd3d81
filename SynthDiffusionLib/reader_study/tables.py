"""The long table: one answer a line, with what the key says about it. Merging writes it, the analysis takes it.

Cells that a spreadsheet would run as a formula are defused (`reports.cells`); `read_ratings` undoes it.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.reports.cells import cell, original_cell
from SynthDiffusionLib.volumes.atomic import atomic_file

Value = int | float | str | bool | list
NUMERIC = ("confidence", "scale", "number")


@dataclass(frozen=True)
class Rating:
    """One answer of one reader to one question.

    Args:
        reader, session: who, and in which part of the study.
        sitting: 1, 2, ...: from one log-in to its close.
        position: 0-based place in the reader's order; -1 for a question that is asked once in a study.
        task, kind: the way of reading; kind is "single" or "forced_choice".
        unit: what was shown, the same ID for all readers.
        presentation: 1, or 2 for a hidden repeat.
        phase: "training" or "main".
        arm: of the volume; in a forced choice, of the synthetic one.
        truth: 0 real, 1 synthetic; in a forced choice, 1 if the synthetic one was on the right. None: no case.
        pair: name that volumes of one mask share.
        patient: whom the mask is from.
        volume_left, volume_right: opaque IDs; a single volume is `volume_left`.
        item, item_type: the question.
        value: the last answer.
        answered_utc: when it was first committed.
        active_s: seconds that the reader worked on the case, without pauses and idle time.
        changed: how often the answer was changed afterwards.
        old_value: the first answer, if it was changed.
        reason: the reader's reasons for changing it.
        first_touch_s, committed_s: seconds from showing to the first input and to the commit.
    """

    reader: str
    session: str
    sitting: int
    position: int
    task: str
    kind: str
    unit: str
    presentation: int
    phase: str
    arm: str
    truth: int | None
    pair: str
    patient: str
    volume_left: str
    volume_right: str
    item: str
    item_type: str
    value: Value
    answered_utc: str = ""
    active_s: float | None = None
    changed: int = 0
    old_value: Value | None = None
    reason: str = ""
    first_touch_s: float | None = None
    committed_s: float | None = None

    @property
    def is_first(self) -> bool:
        """Whether it counts in the primary analysis: a first reading outside of training."""
        return self.phase == "main" and self.presentation == 1 and self.position >= 0

    @property
    def is_correct(self) -> bool | None:
        """Whether a signed confidence (positive: called synthetic) or a forced choice hit the truth; None for others.

        In a forced choice, the side that is named is the one that the reader takes for synthetic.
        """
        if self.truth is None:
            return None
        if self.item_type == "confidence" and self.kind == "single":
            return (self.value > 0) == (self.truth == 1)
        if self.item_type == "forced_choice":
            return self.value == ("right" if self.truth == 1 else "left")
        return None


COLUMNS = tuple(f.name for f in fields(Rating))
_WHOLE = ("sitting", "position", "presentation", "changed")
_SECONDS = ("active_s", "first_touch_s", "committed_s")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Writes a comma-separated table (RFC 4180; UTF-8; lines end with CR LF), whole or not at all.

    Raises:
        BadInput, RunFailed: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([cell(column) for column in columns])
    writer.writerows([cell(v) for v in row] for row in rows)
    with atomic_file(Path(path)) as file:
        file.write(text.getvalue().encode("utf-8"))
    return Path(path)


def write_ratings(path: Path, ratings: Iterable[Rating]) -> Path:
    """Writes the long table as CSV, columns as `Rating`'s fields."""

    def shown(rating: Rating, name: str) -> Any:
        value = getattr(rating, name)
        if name in ("value", "old_value") and rating.item_type == "choice" and isinstance(value, str):
            return json.dumps(value) if _is_number(value) or value.startswith('"') else value  # "3" is not 3
        return value

    return write_csv(path, COLUMNS, ([shown(r, name) for name in COLUMNS] for r in ratings))


def read_ratings(path: Path) -> list[Rating]:
    """Reads what `write_ratings` wrote.

    Raises:
        BadInput: it cannot be read, lacks a column, or a cell is no value of its column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise BadInput(f"'{path}' lacks the column '{lacking[0]}'", "Give a long table of study merge.")
            ratings = []
            for line, row in enumerate(reader, start=2):
                try:
                    ratings.append(_rating(row))
                except (ValueError, TypeError, AttributeError, KeyError) as error:
                    raise BadInput(f"'{path}', row {line}: {error}", "Export the table again.") from error
            return ratings
    except OSError as error:
        raise BadInput(f"'{path}' cannot be read ({error.strerror})", "Check the path.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"'{path}' is no table: {error}", "Export the table again.") from error


def _rating(row: dict[str, str]) -> Rating:
    values: dict[str, Any] = {}
    for name in COLUMNS:
        text = row[name]
        if name in _WHOLE:
            values[name] = int(text)
        elif name == "truth":
            values[name] = int(text) if text else None
        elif name in _SECONDS:
            values[name] = float(text) if text else None
        elif name in ("value", "old_value"):
            values[name] = None if name == "old_value" and not text else _value(text, row["item_type"])
        else:
            values[name] = original_cell(text)
    return Rating(**values)


def _value(text: str, item_type: str) -> Value:
    if item_type in NUMERIC:
        return float(text) if any(c in text for c in ".eE") else int(text)
    if item_type == "boolean":
        return {"true": True, "false": False}[text]
    if item_type in ("multiple_choice", "point") or (item_type == "choice" and text.startswith('"')):
        return json.loads(text)
    if item_type == "choice" and _is_number(text):
        return float(text) if any(c in text for c in ".eE") else int(text)
    return original_cell(text)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?", text) is not None
