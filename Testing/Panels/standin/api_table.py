"""Properties, signals, methods and enumerators that Python reaches on Slicer 5.12's and CTK's Qt classes.

`slicer_qt_api.json` holds the entries of the stand-in's classes and their bases; `write_api_table.py` copies them from
a list that was parsed from the headers.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

PATH = Path(__file__).with_name("slicer_qt_api.json")

# Reachable through PythonQt's decorators, so not in the headers' lists.
DECORATED = {
    "qSlicerAbstractCoreModule": ("widgetRepresentation", "createNewWidgetRepresentation"),
    "qSlicerAbstractModuleWidget": ("module",),
    "qSlicerCoreApplication": ("testingEnabled", "processEvents", "sendEvent"),
    "qSlicerWidget": ("mrmlScene",),
}


@functools.cache
def table() -> dict[str, dict]:
    return json.loads(PATH.read_text(encoding="utf-8"))


@functools.cache
def chain(name: str) -> tuple[tuple[str, ...], str]:
    """The class and its bases that are in the table, and the Qt class below them.

    Raises:
        AttributeError: the table does not have the class.
    """
    if name not in table():
        raise AttributeError(f"{name}: not among the Qt classes of Slicer 5.12 that the stand-in knows")
    names = []
    while name in table():
        names.append(name)
        name = table()[name]["base"]
    return tuple(names), name


@functools.cache
def kind_of(name: str, member: str) -> str | None:
    """What `member` is on a class of the table: property, signal, method, enumerator, enumeration; None if unknown."""
    for cls in chain(name)[0]:
        entry = table()[cls]
        if member in entry["properties"]:
            return "property"
        if member in entry["signals"]:
            return "signal"
        if member in entry["methods"] or member in DECORATED.get(cls, ()):
            return "method"
        if member in entry["enums"]:
            return "enumeration"
        if any(member in members for members in entry["enums"].values()):
            return "enumerator"
    return None
