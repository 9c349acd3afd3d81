"""Values between product code and PySide6: enumerators that are numbers, lists that arrive as tuples."""

from __future__ import annotations

import enum

import shiboken6


class QtEnum(int):
    """An enumerator or a combination of flags: a number, as in PythonQt, that remembers PySide6's own value."""

    def __new__(cls, member: enum.Enum) -> QtEnum:
        value = super().__new__(cls, member.value)
        value._member = member
        return value

    def _combine(self, other, operation):
        if isinstance(other, QtEnum) and isinstance(self._member, enum.Flag):
            return QtEnum(getattr(self._member, operation)(other._member))
        return getattr(int, operation)(self, int(other))

    def __or__(self, other):
        return self._combine(other, "__or__")

    def __and__(self, other):
        return self._combine(other, "__and__")

    def __xor__(self, other):
        return self._combine(other, "__xor__")

    def __invert__(self):
        return QtEnum(~self._member) if isinstance(self._member, enum.Flag) else ~int(self)

    def __repr__(self) -> str:
        return f"{self._member}"


class QtEnumeration:
    """An enumeration, `qt.QProcess.ProcessState`: its members are attributes, and it makes members of numbers."""

    def __init__(self, kind: type[enum.Enum]) -> None:
        self._kind = kind

    def __getattr__(self, name: str) -> QtEnum:
        try:
            return QtEnum(self._kind[name])
        except KeyError:
            raise AttributeError(f"{self._kind.__qualname__} has no {name}") from None

    def __call__(self, value: int = 0) -> QtEnum:
        return QtEnum(self._kind(int(value)))


def to_python(value):
    """What product code sees of a value from PySide6."""
    from .qt_proxy import proxy_of

    if isinstance(value, enum.Enum):
        return QtEnum(value)
    if isinstance(value, shiboken6.Object):
        return proxy_of(value)
    if isinstance(value, (list, tuple)):
        return tuple(to_python(item) for item in value)
    if isinstance(value, dict):
        return {to_python(key): to_python(item) for key, item in value.items()}
    return value


def to_qt(value):
    """What PySide6 is given for a value from product code.

    Raises:
        TypeError: a Python function, which PythonQt takes in connect() and singleShot() only.
    """
    from .qt_proxy import Proxy, ProxyType

    if isinstance(value, QtEnum):
        return value._member
    if isinstance(value, Proxy):
        return value._obj
    if isinstance(value, ProxyType):
        return value._qt_class
    if isinstance(value, (list, tuple)):
        return type(value)(to_qt(item) for item in value)
    if isinstance(value, dict):
        return {to_qt(key): to_qt(item) for key, item in value.items()}
    if callable(value) and not isinstance(value, type) and not hasattr(value, "GetClassName"):
        raise TypeError(f"PythonQt takes no Python function here: {value}")
    return value
