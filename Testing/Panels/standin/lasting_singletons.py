"""None, True and False, kept alive against PySide6 6.12 on Python 3.11.

That release is built for interpreters in which these objects are immortal (Python 3.12 and later): it returns them
without counting the reference. Before 3.12 each call of a Qt function without a result takes a reference to None away,
each disconnect() one to True, until the interpreter ends with "none_dealloc: deallocating None". PySide6 6.11 and
earlier count them.
"""

from __future__ import annotations

import ctypes
import sys

_MORE = 1 << 40  # references; more than any test run can lose


def keep() -> None:
    """Gives them more references than can be lost; does nothing where they are immortal."""
    if sys.version_info >= (3, 12):
        return
    for value in (None, True, False, NotImplemented):
        count = ctypes.c_ssize_t.from_address(id(value))  # the first field of an object of CPython
        if count.value < _MORE // 2:
            count.value += _MORE
