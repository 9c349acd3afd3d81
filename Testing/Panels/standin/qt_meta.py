"""What PySide6's meta objects say about a class.

Read once for each class: PySide6 invalidates its QMetaObject when an object of the class is deleted.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from PySide6 import QtCore


@dataclass(frozen=True)
class Meta:
    """Properties (name: whether it can be written), signatures of signals by name, names of slots."""

    properties: dict[str, bool]
    signals: dict[str, list[str]]
    slots: frozenset[str]


@functools.cache
def meta_of(qt_class: type) -> Meta:
    """The meta data of a class of PySide6 or of the stand-in, with what it inherits; empty for classes without any."""
    meta = getattr(qt_class, "staticMetaObject", None)
    if meta is None:
        return Meta({}, {}, frozenset())
    properties = [meta.property(index) for index in range(meta.propertyCount())]
    signals: dict[str, list[str]] = {}
    slots = set()
    for method in [meta.method(index) for index in range(meta.methodCount())]:
        name = method.name().data().decode()
        if method.methodType() == QtCore.QMetaMethod.MethodType.Signal:
            signals.setdefault(name, []).append(method.methodSignature().data().decode())
        else:
            slots.add(name)
    return Meta({p.name(): p.isWritable() for p in properties}, signals, frozenset(slots))
