"""The table of patients: which files belong together in the statistics and in training.

A CSV with the columns file and patient, in upper or lower case, as spreadsheets save it: UTF-8 with or without a byte
order mark, or UTF-16 with one; separated by commas, semicolons or tabs.
"""

from __future__ import annotations

import codecs
import csv
import io
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.reader_study.headers import stem_of

if TYPE_CHECKING:
    from SynthDiffusionLib.reader_study.design_cases import StudyCase

LARGEST_TABLE_BYTES = 64 * 1024 * 1024
_SEPARATORS = ",;\t"
_MOST_NAMES = 3
_SAVE_AS = "In a spreadsheet program, save it as 'CSV UTF-8'."


def with_patients(cases: Sequence[StudyCase], table: Path | None) -> tuple[list[StudyCase], list[str]]:
    """Cases with their patients.

    Args:
        cases: those with a patient keep it.
        table: CSV; None: every pair is a patient of its own.

    Returns:
        cases, and a note on files of the table that are not in the study.

    Raises:
        BadInput: the table cannot be read, contradicts itself, or lacks a case.
    """
    if table is None:
        return [replace(c, patient=c.patient or c.pair) for c in cases], []
    rows = read_patients(table)
    known: dict[str, str] = {}
    for file, patient in rows.items():
        known |= {file: patient, stem_of(Path(file)): patient}
    found, used = [], set()
    for case in cases:
        names = [case.pair]
        if case.image is not None:
            names = [str(case.image), case.image.name, stem_of(case.image), case.pair]
        patient = case.patient or next((known[n] for n in names if n in known), None)
        if patient is None:
            raise BadInput(
                f"'{table.name}' does not say which patient '{case.name}' is of",
                f"Add a line with the file, or with the name of its pair, '{case.pair}'.",
            )
        found.append(replace(case, patient=patient))
        used |= set(names)
    unused = [file for file in rows if file not in used and stem_of(Path(file)) not in used]
    if not unused:
        return found, []
    shown = ", ".join(f"'{shortened(file, 60)}'" for file in unused[:_MOST_NAMES])
    shown += f" and {len(unused) - _MOST_NAMES} more" if len(unused) > _MOST_NAMES else ""
    lines = f"{len(unused)} lines name files that are" if len(unused) > 1 else "one line names a file that is"
    return found, [f"In '{table.name}', {lines} not in the study: {shown}."]


def read_patients(path: Path) -> dict[str, str]:
    """Patient of each file of a table, in its order.

    Raises:
        BadInput: it cannot be read, lacks a column or a value, or gives a file two patients.
    """
    what = f"The table of patients '{shortened(path)}'"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device might never end
            raise BadInput(f"{what} is not a regular file", "Give a CSV file.")
        if status.st_size > LARGEST_TABLE_BYTES:
            raise BadInput(f"{what} is larger than {LARGEST_TABLE_BYTES // 1024**2} MiB", "Is it the right file?")
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{what} cannot be read ({error.strerror or error})", "Check the path.") from error
    text = _decoded(raw, what)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text)))
    except csv.Error as error:
        raise BadInput(f"{what} is no CSV ({shortened(error)})", _SAVE_AS) from error
    columns = _columns(lines[0]) if lines else []
    if not {"file", "patient"} <= set(columns):
        raise BadInput(f"'{path.name}' lacks the columns file and patient", "Its first line must be: file,patient")
    at = columns.index("file"), columns.index("patient")
    found: dict[str, str] = {}
    known: dict[str, str] = {}
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):  # spreadsheets save empty lines
            continue
        file, patient = (line[i].strip() if i < len(line) else "" for i in at)
        if not file or not patient:
            raise BadInput(f"'{path.name}', line {number}: the file or the patient is missing", "Fill it in.")
        for name in {file, stem_of(Path(file))}:
            if known.setdefault(name, patient) != patient:
                raise BadInput(
                    f"'{path.name}', line {number}: '{shortened(file, 60)}' belongs to "
                    f"'{shortened(known[name], 60)}' and to '{shortened(patient, 60)}'",
                    "Leave one of them.",
                )
        found[file] = patient
    if not found:
        raise BadInput(f"'{path.name}' has no line below its header", "Add a line for each file.")
    return found


def _decoded(raw: bytes, what: str) -> str:
    is_utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{what} is not UTF-8 text", _SAVE_AS) from error
    if "\0" in text:
        raise BadInput(f"{what} holds the character NUL, as text that is not UTF-8 does", _SAVE_AS)
    return text


def _separator(text: str) -> str:
    """The first one with which the header has both columns."""
    header = io.StringIO(text, newline="").readline()
    for separator in _SEPARATORS:
        if {"file", "patient"} <= set(_columns(next(csv.reader([header], delimiter=separator), []))):
            return separator
    return ","


def _columns(line: Sequence[str]) -> list[str]:
    return [cell.strip().casefold() for cell in line]
