"""Which widgets `connectGui` binds to which types, and how."""

from __future__ import annotations

import enum
import pathlib
import types
import typing

from .parameter_types import Choice, Maximum, Minimum, WithinRange, split_annotations


class Decimals:
    def __init__(self, value: int) -> None:
        self.value = value


class SingleStep:
    def __init__(self, value: float) -> None:
        self.value = value


class Connector:
    """Reads and writes one widget, by a property or two functions.

    Args:
        signal: attribute of the widget; None when it tells of no change.
    """

    def __init__(self, widget, signal: str | None, read, write) -> None:
        self._widget, self._signal, self.read, self.write, self._callback = widget, signal, read, write, None

    def onChanged(self, callback) -> None:
        if self._signal is not None and self._callback is not None:
            getattr(self._widget, self._signal).disconnect(self._callback)
        self._callback = (lambda: callback()) if callback is not None else None
        if self._signal is not None and self._callback is not None:
            getattr(self._widget, self._signal).connect(self._callback)


def connector(widget, datatype) -> Connector:
    """The connector of a widget and a possibly annotated type.

    Raises:
        RuntimeError: Slicer 5.12 binds no such pair, or the annotations do not suffice.
    """
    kind, annotations = split_annotations(datatype)
    name = type(widget).__name__

    def property_connector(signal, attribute, convert=lambda value: value):
        return Connector(
            widget, signal, lambda: convert(getattr(widget, attribute)), lambda v: setattr(widget, attribute, v)
        )

    if kind is bool and name in ("QCheckBox", "ctkCheckBox"):
        return property_connector("stateChanged", "checked")
    if kind is bool and name == "QPushButton":
        widget.checkable = True
        return property_connector("toggled", "checked")
    if kind is int and name in ("QSlider", "QSpinBox"):
        _limit(widget, name, annotations, must_be_bounded=name == "QSlider", lowest=-(2**31), highest=2**31 - 1)
        return property_connector("valueChanged", "value")
    if kind in (int, float) and name in ("QDoubleSpinBox", "ctkSliderWidget", "ctkDoubleSpinBox"):
        decimals = _first(annotations, Decimals)
        if kind is int or decimals is not None:
            widget.decimals = 0 if kind is int else decimals.value
        bounded = name == "ctkSliderWidget"
        _limit(widget, name, annotations, must_be_bounded=bounded, lowest=float("-inf"), highest=float("inf"))
        return property_connector("valueChanged", "value", kind)
    if name in ("QComboBox", "ctkComboBox") and kind in (int, float, str, bool):
        return _choice_connector(widget, _first(annotations, Choice))
    if name in ("QComboBox", "ctkComboBox") and isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _list_connector(widget, list(kind), [getattr(kind, "label", lambda e: e.name)(e) for e in kind])
    if kind is str and name == "QLineEdit":
        return Connector(widget, "textChanged", lambda: widget.text, lambda v: _write_text(widget, v))
    if kind is str and name == "QLabel":
        return property_connector(None, "text")
    if kind is str and name == "QTextEdit":
        return Connector(widget, "textChanged", lambda: widget.toPlainText(), lambda v: widget.setPlainText(v))
    if kind in (pathlib.Path, pathlib.PurePath) and name == "ctkPathLineEdit":
        read, write = lambda: kind(widget.currentPath), lambda v: setattr(widget, "currentPath", str(v))
        return Connector(widget, "currentPathChanged", read, write)
    node_types = _node_types(kind)
    if node_types and name == "qMRMLNodeComboBox":
        widget.nodeTypes = node_types
        return Connector(widget, "currentNodeChanged", lambda: widget.currentNode(), lambda v: widget.setCurrentNode(v))
    raise RuntimeError(f"Unable to create GUI connector from datatype '{datatype}' to widget type '{name}'.")


def _write_text(widget, text: str) -> None:
    if text != widget.text:  # writing would move the cursor to the end
        widget.text = text


def _first(annotations, kind):
    return next((annotation for annotation in annotations if isinstance(annotation, kind)), None)


def _limit(widget, name, annotations, must_be_bounded: bool, lowest, highest) -> None:
    step = _first(annotations, SingleStep)
    if step is not None:
        widget.singleStep = step.value
    within, minimum, maximum = (_first(annotations, kind) for kind in (WithinRange, Minimum, Maximum))
    if must_be_bounded and within is None and (minimum is None or maximum is None):
        raise RuntimeError(f"Cannot have a connection to {name} where the type is unbounded.")
    widget.minimum = within.minimum if within else minimum.minimum if minimum else lowest
    widget.maximum = within.maximum if within else maximum.maximum if maximum else highest


def _choice_connector(widget, choice) -> Connector:
    if choice is None:
        raise RuntimeError("A combo box requires the Choice annotation to be used.")
    return _list_connector(widget, choice.choices, [str(c) for c in choice.choices])


def _list_connector(widget, values, labels) -> Connector:
    widget.clear()
    for label in labels:
        widget.addItem(label)

    def write(value) -> None:
        if value not in values:
            raise ValueError(f"Unable to find value {value} in choices {values}")
        widget.currentIndex = list(values).index(value)

    return Connector(widget, "currentIndexChanged", lambda: values[widget.currentIndex], write)


def _node_types(kind) -> tuple[str, ...]:
    """Class names of a node type or of a union of node types and None; empty for other types."""
    import slicer

    union = typing.get_origin(kind) is typing.Union or isinstance(kind, types.UnionType)
    members = typing.get_args(kind) if union else (kind,)
    nodes = [m for m in (split_annotations(m)[0] for m in members) if m is not type(None)]
    if not all(isinstance(n, type) and issubclass(n, slicer.vtkMRMLNode) for n in nodes):
        return ()
    return tuple(n().GetClassName() for n in nodes)
