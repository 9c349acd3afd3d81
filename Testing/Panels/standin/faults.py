"""Exceptions that would otherwise end in a message on the console: in slots, timers and VTK observers.

In Slicer such an exception is printed and the program goes on. Here it is kept, and the fixture fails the test that
has not looked at it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

uncaught: list[BaseException] = []


def record(kind, error, traceback=None) -> None:
    """Keeps an exception; fits sys.excepthook, which PyErr_Print of VTK and PySide6 calls."""
    uncaught.append(error)
    logging.getLogger("standin").error("Uncaught exception in a callback", exc_info=(kind, error, traceback))


def guarded(function: Callable) -> Callable:
    """The function, with its exceptions recorded instead of raised into C++."""

    @functools.wraps(function, updated=())
    def call(*args):
        try:
            return function(*args)
        except Exception as error:
            record(type(error), error, error.__traceback__)
            return None

    return call
