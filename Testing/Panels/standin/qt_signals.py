"""Signals as PythonQt has them: by signature or as attributes, with as many arguments as the function takes.

The signature must be one of PySide6's (that is Qt 6's) and the name one of Qt 5.15's or of Slicer's headers.
Connections hold their function, and with it the object of a bound method, until they are disconnected or the sender is
deleted.
"""

from __future__ import annotations

import types
import weakref

import shiboken6
from PySide6 import QtCore

from .faults import guarded
from .qt_meta import meta_of
from .qt_values import to_python, to_qt

# By address of the sender: the sender, and (signature, function or (receiver, slot), the slot that PySide6 calls).
_connections: dict[int, tuple[weakref.ref, list[tuple[str, object, object]]]] = {}


class Signal:
    """`obj.clicked`: connect, disconnect, and a call that emits it."""

    def __init__(self, proxy, name: str) -> None:
        self._proxy, self._name = proxy, name

    def connect(self, *receiver) -> bool:
        return connect(self._proxy, _signatures(self._proxy, self._name)[0], *receiver)

    def disconnect(self, *receiver) -> bool:
        return disconnect(self._proxy, _signatures(self._proxy, self._name)[0], *receiver)

    def __call__(self, *args) -> None:
        getattr(self._proxy._obj, self._name).emit(*to_qt(args))


def connect(proxy, signal: str, *receiver) -> bool:
    """Connects a signal with a function, or with a slot of another object (`receiver, 'slot(args)'`).

    Raises:
        AttributeError: the sender has no such signal, or the receiver no such slot.
    """
    signature = _checked(proxy, signal)
    count = _argument_count(signature)
    target, function = _target(*receiver)
    accepted = _accepted(function)
    count = count if accepted is None else min(count, accepted)
    call = guarded(function)

    def slot(*args) -> None:
        call(*to_python(args[:count]))

    sender = proxy._obj
    pointer = shiboken6.getCppPointer(sender)[0]
    if pointer not in _connections:
        _connections[pointer] = weakref.ref(sender), []
        sender.destroyed.connect(lambda *_: _connections.pop(pointer, None))
    _pyside_signal(sender, signature, slot)
    _connections[pointer][1].append((signature, target, slot))
    return True


def disconnect(proxy, signal: str, *receiver) -> bool:
    """Undoes connect() with the same arguments; without a receiver, all connections of the signal. False if none."""
    signature = _checked(proxy, signal)
    target = _target(*receiver)[0] if receiver else None
    connections = _connections.get(shiboken6.getCppPointer(proxy._obj)[0], (None, []))[1]
    found = [entry for entry in connections if entry[0] == signature and (target is None or entry[1] == target)]
    for entry in found if target is None else found[:1]:
        connections.remove(entry)
        _pyside_signal(proxy._obj, signature, entry[2], off=True)
    return bool(found)


def disconnect_everything() -> None:
    """Undoes all connections of senders that live on, such as the application's; for the end of a test."""
    for sender, connections in list(_connections.values()):
        alive = sender()
        while connections:
            signature, _target, slot = connections.pop()
            if alive is not None and shiboken6.isValid(alive):
                _pyside_signal(alive, signature, slot, off=True)


def _pyside_signal(sender, signature: str, slot, off: bool = False) -> None:
    attribute = getattr(type(sender), "standin_signals", {}).get(signature)
    if attribute is not None:
        signal = getattr(sender, attribute)
        signal.disconnect(slot) if off else signal.connect(slot)
    elif off:
        QtCore.QObject.disconnect(sender, QtCore.SIGNAL(signature), slot)
    elif not QtCore.QObject.connect(sender, QtCore.SIGNAL(signature), slot):
        raise RuntimeError(f"PySide6 did not connect {signature}")


def _checked(proxy, signal: str) -> str:
    """The signature in the form of the meta object."""
    from .qt_proxy import member_kind

    signature = QtCore.QMetaObject.normalizedSignature(signal).data().decode()
    name, bracket, _rest = signature.partition("(")
    if not bracket:
        raise AttributeError(f"{type(proxy).__name__}: '{signal}' has no brackets")
    known = _signatures(proxy, name) if member_kind(type(proxy), name) == "signal" else []
    if signature not in known:
        raise AttributeError(f"{type(proxy).__name__} has no signal {signature}; there is {', '.join(known) or 'none'}")
    return signature


def _signatures(proxy, name: str) -> list[str]:
    """All signatures of a signal, the one with all arguments first."""
    own = [s for s in getattr(type(proxy._obj), "standin_signals", {}) if s.partition("(")[0] == name]
    if own:
        return own
    return sorted(meta_of(type(proxy._obj)).signals.get(name, []), key=_argument_count, reverse=True)


def _argument_count(signature: str) -> int:
    inside = signature.partition("(")[2].removesuffix(")")
    depth, count = 0, int(bool(inside))
    for character in inside:
        depth += (character == "<") - (character == ">")
        count += character == "," and depth == 0
    return count


def _target(function, slot: str | None = None):
    """What a connection is known by, and the function to call.

    Raises:
        AttributeError: the receiver has no such slot.
    """
    if slot is None:
        if not callable(function):
            raise TypeError(f"not a function: {function}")
        return function, function
    from .qt_proxy import member_kind

    signature = QtCore.QMetaObject.normalizedSignature(slot).data().decode()
    name = signature.partition("(")[0]
    if member_kind(type(function), name) != "method" and not _is_setter(function, name):
        raise AttributeError(f"{type(function).__name__} has no slot {slot}")
    count = _argument_count(signature)
    return (function, signature), lambda *args: getattr(function, name)(*args[:count])


def _is_setter(proxy, name: str) -> bool:
    return callable(getattr(proxy._obj, name, None)) and name in meta_of(type(proxy._obj)).slots


def _accepted(function) -> int | None:
    """How many positional arguments a Python function takes; None for any number, and for other callables."""
    bound = isinstance(function, types.MethodType)
    code = getattr(function.__func__ if bound else function, "__code__", None)
    if code is None or not isinstance(function, (types.FunctionType, types.MethodType)) or code.co_flags & 0x04:
        return None
    return code.co_argcount - bound
