"""Loads .ui files as Slicer's QUiLoader does, and refuses what Slicer would not have or would drop without a word.

Refused: classes that neither Qt nor the stand-in has; properties that a class does not have, unless they are marked as
dynamic (stdset="0") and named Slicer...; connections whose signal or slot the class does not declare.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import api_table, qt_stubs
from .qt_proxy import member_kind, proxy_class, proxy_of
from .qt_signals import connect

_LAYOUT_MARGINS = {"leftMargin", "topMargin", "rightMargin", "bottomMargin", "margin"}
_LAYOUT_SPACING = {"horizontalSpacing", "verticalSpacing", "spacing"}


def widget_class(name: str) -> type | None:
    """PySide6's or the stand-in's class of that name; None if there is none."""
    from .widget_classes import CLASSES

    return CLASSES.get(name) or (getattr(QtWidgets, name, None) if qt_stubs.lineage(name) else None)


class _Loader(QtUiTools.QUiLoader):
    """Makes the stand-in's classes by name."""

    def createWidget(self, name: str, parent=None, object_name: str = ""):
        from .widget_classes import CLASSES

        if name not in CLASSES:
            return super().createWidget(name, parent, object_name)
        widget = CLASSES[name](parent)
        widget.setObjectName(object_name)
        self.made.append(widget)  # Python keeps what it made until the loader is gone
        return widget


def load_ui(device, parent=None):
    """The proxy of the widget in a file.

    Raises:
        AttributeError: a class, property, signal or slot that Slicer 5.12 does not have.
    """
    root = ET.fromstring(bytes(device.readAll().data()))
    own_properties = _take_properties(root)
    connections = _take_connections(root)
    buffer = QtCore.QBuffer()
    buffer.setData(ET.tostring(root))
    buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
    loader = _Loader()
    loader.made = []
    widget = loader.load(buffer, parent)
    if widget is None:
        raise AttributeError(f"the .ui file cannot be loaded: {loader.errorString()}")
    proxy = proxy_of(widget)
    for name, values in own_properties.items():
        target = _named(widget, name)
        for key, value in values.items():
            setattr(target, key, value)
    for sender, signal, receiver, slot in connections:
        connect(_named(widget, sender), signal, _named(widget, receiver), slot)
    return proxy


def _named(widget, name: str):
    found = widget if widget.objectName() == name else widget.findChild(QtCore.QObject, name)
    if found is None:
        raise AttributeError(f"the .ui file names '{name}', which it does not have")
    return proxy_of(found)


def _take_properties(root: ET.Element) -> dict[str, dict]:
    """Checks all properties; takes those out that the stand-in's classes define themselves, by widget name."""
    taken: dict[str, dict] = {}
    for element in [*root.iter("widget"), *root.iter("layout"), *root.iter("action"), *root.iter("spacer")]:
        kind = element.get("class") or {"action": "QAction", "spacer": "QSpacerItem"}[element.tag]
        if kind == "QSpacerItem" or kind == "Line":
            continue
        cls = _class(kind)
        for prop in element.findall("property"):
            name = prop.get("name")
            if element.tag == "layout" and name in _LAYOUT_MARGINS | _LAYOUT_SPACING:
                continue
            if prop.get("stdset") == "0" and name.startswith("Slicer"):
                continue
            if (kind, name) == ("QLabel", "buddy"):  # not a property of Qt: the form builder calls setBuddy
                if root.find(f".//widget[@name='{prop.findtext('cstring')}']") is None:
                    raise AttributeError(f"no widget '{prop.findtext('cstring')}' to be the buddy of a label")
                continue
            if member_kind(cls, name) != "property":
                raise AttributeError(f"{kind} has no property '{name}'")
            if any(_in_table(ancestor, name) for ancestor in cls.__mro__):
                taken.setdefault(element.get("name"), {})[name] = _value(prop[0], cls._qt_class)
                element.remove(prop)
    return taken


def _class(name: str):
    found = widget_class(name)
    if found is None:
        from PySide6 import QtGui

        found = getattr(QtGui, name, None) if qt_stubs.lineage(name) else None
    if found is None:
        raise AttributeError(f"{name}: a class in a .ui file that Slicer 5.12 or the stand-in does not have")
    return proxy_class(found)


def _in_table(cls, name: str) -> bool:
    entry = api_table.table().get(cls.__name__)
    return entry is not None and name in entry["properties"]


def _value(element: ET.Element, qt_class: type):
    text = element.text or ""
    if element.tag == "bool":
        return text == "true"
    if element.tag == "number":
        return int(text)
    if element.tag in ("double", "float"):
        return float(text)
    if element.tag == "stringlist":
        return tuple(item.text or "" for item in element.findall("string"))
    if element.tag in ("string", "cstring"):
        return text
    if element.tag in ("enum", "set"):
        members = [getattr(qt_class, part.rpartition("::")[2]) for part in text.split("|")]
        value = members[0]
        for member in members[1:]:
            value |= member
        return value
    raise AttributeError(f"a value of kind <{element.tag}> is not read by the stand-in")


def _take_connections(root: ET.Element) -> list[tuple[str, str, str, str]]:
    """(sender, signal, receiver, slot) of every connection; they are made, and checked, by the stand-in."""
    found = []
    for element in root.findall("connections"):
        for item in element.findall("connection"):
            found.append(tuple(item.findtext(tag, "") for tag in ("sender", "signal", "receiver", "slot")))
        root.remove(element)
    return found
