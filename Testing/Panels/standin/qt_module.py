"""The flat module `qt`: all of QtCore, QtGui, QtWidgets, QtNetwork and QtUiTools that Qt 5.15 and Qt 6 have."""

from __future__ import annotations

import importlib
import types

from . import qt_overrides, qt_stubs
from .qt_proxy import proxy_class


def qt_module() -> types.ModuleType:
    """A new module object; names are looked up on first use."""
    qt_overrides.install()
    module = types.ModuleType("qt")
    module.__getattr__ = qt_name
    return module


def qt_name(name: str):
    """The class `qt.name`.

    Raises:
        AttributeError: Qt 5.15 does not have it, or Qt 6 has dropped it.
    """
    if not qt_stubs.lineage(name):
        raise AttributeError(f"qt.{name} is not in Qt 5.15, or gone from Qt 6")
    for part in qt_stubs.MODULES:
        found = getattr(importlib.import_module(f"PySide6.{part}"), name, None)
        if found is not None:
            return proxy_class(found)
    raise AttributeError(f"qt.{name} is not in Qt 6, with which Slicer can be built too")
