"""Objects of PySide6 with PythonQt's manners: properties are attributes, and what Slicer 5.12 lacks is refused.

A proxy class stands for each Qt class (`qt.QLabel`), a proxy for each object; the same proxy for the same object as
long as somebody holds it. Classes that the stand-in makes itself (`standin_name`) are held against the table of
Slicer's headers, and below them, like all others, against the stubs of Qt 5.15.
"""

from __future__ import annotations

import enum
import functools
import weakref

import shiboken6
from PySide6 import QtCore

from . import api_table, qt_stubs
from .qt_meta import meta_of
from .qt_signals import Signal, connect, disconnect
from .qt_values import QtEnum, QtEnumeration, to_python, to_qt

_proxies: weakref.WeakValueDictionary[int, Proxy] = weakref.WeakValueDictionary()
_classes: dict[type, ProxyType] = {}
_construction_hooks: dict[str, list] = {}  # proxy class name: functions called with each new PySide6 object


class ProxyType(type):
    """The type of all proxy classes. `cls._qt_class` is PySide6's class."""

    def __new__(mcs, name, bases, namespace):
        if "_qt_class" not in namespace:
            raise TypeError(f"{name}: the stand-in does not let Python derive from Qt classes")
        return super().__new__(mcs, name, bases, namespace)

    def __call__(cls, *args, **kwargs):
        if kwargs:
            raise TypeError(f"{cls.__name__}: PythonQt's constructors take no keywords ({', '.join(kwargs)})")
        obj = cls._qt_class(*to_qt(args))
        for base in cls.__mro__:
            for hook in _construction_hooks.get(base.__name__, ()):
                hook(obj)
        return proxy_of(obj)

    def __getattr__(cls, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        kind = member_kind(cls, name)
        if (cls.__name__, name) in overrides:
            return overrides[cls.__name__, name]
        value = _pyside_attribute(cls, name)
        if isinstance(value, enum.Enum):
            return QtEnum(value)
        if isinstance(value, type) and issubclass(value, enum.Enum):
            return QtEnumeration(value)
        if kind == "enumerator":
            return value
        if kind in ("method", "property") and callable(value):
            return lambda *args: to_python(value(*to_qt(args)))
        raise AttributeError(f"{cls.__name__}.{name} is a {kind}, of its objects only")


class Proxy(metaclass=ProxyType):
    """An object of PySide6 as PythonQt would show it. Attributes that begin with an underscore are Python's own."""

    _qt_class = shiboken6.Object

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        cls = type(self)
        name, kind = _resolve(cls, name)
        override = next((overrides[c.__name__, name] for c in cls.__mro__ if (c.__name__, name) in overrides), None)
        if kind == "property":
            return to_python(_read(self._obj, name))
        if override is not None:
            return functools.partial(override, self)
        if kind == "signal":
            return Signal(self, name)
        value = _pyside_attribute(cls, name, self._obj)
        if isinstance(value, enum.Enum):
            return QtEnum(value)
        if isinstance(value, type):
            return QtEnumeration(value)
        if kind == "enumerator":
            return value
        return _Method(self, name, value)

    def __setattr__(self, name: str, value) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
            return
        name, kind = _resolve(type(self), name)
        if kind != "property":
            raise AttributeError(f"{type(self).__name__}.{name} is a {kind} and cannot be written")
        _write(self._obj, name, value)

    def connect(self, signal: str, *receiver) -> bool:
        """connect('signal(args)', function) or connect('signal(args)', object, 'slot(args)')."""
        return connect(self, signal, *receiver)

    def disconnect(self, signal: str, *receiver) -> bool:
        """disconnect('signal(args)', function) or disconnect('signal(args)', object, 'slot(args)')."""
        return disconnect(self, signal, *receiver)

    def __eq__(self, other) -> bool:
        if not isinstance(other, Proxy):
            return False
        return self is other or self._obj is other._obj or bool(self._obj == other._obj)

    def __hash__(self) -> int:
        return hash(shiboken6.getCppPointer(self._obj)[0])

    def __bool__(self) -> bool:
        return shiboken6.isValid(self._obj)

    def __repr__(self) -> str:
        return f"{type(self).__name__} (stand-in of {self._obj!r})"


class _Method:
    """A bound method of Qt. Calls convert arguments and result."""

    def __init__(self, proxy: Proxy, name: str, function) -> None:
        self._proxy, self.__name__, self._function = proxy, name, function

    def __call__(self, *args, **kwargs):
        if kwargs:
            raise TypeError(f"{self.__name__}: PythonQt's methods take no keywords ({', '.join(kwargs)})")
        return to_python(self._function(*to_qt(args)))

    def __eq__(self, other) -> bool:
        return isinstance(other, _Method) and (self._proxy, self.__name__) == (other._proxy, other.__name__)

    def __hash__(self) -> int:
        return hash((self._proxy, self.__name__))


# What behaves in another way than PySide6's, by proxy class and name: called with the proxy first, or, when reached
# through the class, as a static method.
overrides: dict[tuple[str, str], object] = {}


def on_construction(class_name: str, hook) -> None:
    """Has `hook(object)` called for each object of the class that product code makes."""
    _construction_hooks.setdefault(class_name, []).append(hook)


def proxy_of(obj):
    """The proxy of a PySide6 object; None for None."""
    if obj is None:
        return None
    pointer = shiboken6.getCppPointer(obj)[0]
    known = _proxies.get(pointer)
    if known is not None and known._obj is obj:
        return known
    proxy = object.__new__(proxy_class(type(obj)))
    proxy._obj = obj
    _proxies[pointer] = proxy
    return proxy


def proxy_class(qt_class: type) -> ProxyType:
    """The proxy class of a class of PySide6 or of the stand-in.

    Raises:
        AttributeError: Qt 5.15 or Slicer 5.12 does not have the class.
    """
    if qt_class is shiboken6.Object or qt_class is object:
        return Proxy
    if qt_class in _classes:
        return _classes[qt_class]
    name = vars(qt_class).get("standin_name")
    if name is None and not qt_class.__module__.startswith("PySide6"):
        return proxy_class(qt_class.__bases__[0])  # a private helper: shown as what it is derived from
    bases = tuple(proxy_class(base) for base in qt_class.__bases__ if issubclass(base, shiboken6.Object))
    if name is not None:
        api_table.chain(name)
    meta_of(qt_class)
    cls = ProxyType(name or qt_class.__name__, bases or (Proxy,), {"_qt_class": qt_class})
    _classes[qt_class] = cls
    return cls


@functools.cache
def member_kind(cls: ProxyType, name: str) -> str:
    """What `name` is on a proxy class: property, signal, method, enumerator or enumeration.

    Raises:
        AttributeError: Slicer 5.12 with Qt 5.15 does not have it.
    """
    for ancestor in cls.__mro__:
        if "standin_name" in vars(vars(ancestor).get("_qt_class", object)):
            kind = api_table.kind_of(ancestor.__name__, name)
        elif ancestor in (Proxy, object):
            continue
        else:
            in_both = name in meta_of(ancestor._qt_class).properties and qt_stubs.has_property(ancestor.__name__, name)
            kind = "property" if in_both else qt_stubs.kind_of(ancestor.__name__, name)
        if kind is not None:
            return kind
    raise AttributeError(f"{cls.__name__} has no '{name}' in Slicer 5.12 (Qt 5.15)")


def _resolve(cls: ProxyType, name: str) -> tuple[str, str]:
    """Name and kind; `name` itself means objectName, unless the class has a property of that name."""
    try:
        return name, member_kind(cls, name)
    except AttributeError:
        if name == "name" and issubclass(cls._qt_class, QtCore.QObject):
            return "objectName", "property"
        raise


def _pyside_attribute(cls: ProxyType, name: str, obj=None):
    # Qt 6 dropped the underscore that Python 2 needed.
    for candidate in (name, name.removesuffix("_")):
        value = getattr(cls._qt_class if obj is None else obj, candidate, None)
        if value is not None:
            return value
    if any("standin_name" in vars(c) for c in cls._qt_class.__mro__) and api_table.kind_of(cls.__name__, name):
        raise NotImplementedError(f"{cls.__name__}.{name} exists in Slicer, but the stand-in does not make it yet")
    raise AttributeError(f"{cls.__name__}.{name} is not in Qt 6, with which Slicer can be built too")


def _read(obj, name: str):
    if isinstance(getattr(type(obj), name, None), property) or name in getattr(obj, "__dict__", ()):
        return getattr(obj, name)
    capital = name[0].upper() + name[1:]
    for getter in (name, "is" + capital, "has" + capital):
        function = getattr(obj, getter, None)
        if callable(function):
            return function()
    if name not in meta_of(type(obj)).properties:
        raise NotImplementedError(
            f"{type(obj).__name__}.{name} exists in Slicer, but the stand-in does not make it yet"
        )
    return obj.property(name)


def _write(obj, name: str, value) -> None:
    descriptor = getattr(type(obj), name, None)
    if isinstance(descriptor, property):
        if descriptor.fset is None:
            raise AttributeError(f"{type(obj).__name__}.{name} cannot be written")
        setattr(obj, name, to_qt(value))
        return
    if name in getattr(obj, "__dict__", ()):
        setattr(obj, name, to_qt(value))
        return
    setter = getattr(obj, f"set{name[0].upper()}{name[1:]}", None)
    properties = meta_of(type(obj)).properties
    if name not in properties:
        raise NotImplementedError(
            f"{type(obj).__name__}.{name} exists in Slicer, but the stand-in does not make it yet"
        )
    if not properties[name]:
        raise AttributeError(f"{type(obj).__name__}.{name} cannot be written")
    if setter is None:
        obj.setProperty(name, to_qt(value))
        return
    try:
        setter(to_qt(value))
    except TypeError:
        # Writing a property converts numbers and enumerators, calling a setter does not.
        current = _read(obj, name)
        if isinstance(value, (int, float)) and isinstance(current, (int, float, enum.Enum)):
            setter(type(current)(value))
        else:
            raise
