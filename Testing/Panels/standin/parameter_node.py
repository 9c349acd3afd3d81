"""`slicer.parameterNodeWrapper`, as far as it is used: typed access to a real vtkMRMLScriptedModuleNode.

Behaves as Slicer 5.12's Base/Python/slicer/parameterNodeWrapper: same texts in the node, same errors, same binding of
widgets by their property SlicerParameterName.
"""

from __future__ import annotations

import functools
import types
import typing
import weakref

from . import parameter_types
from .faults import guarded
from .parameter_connectors import Decimals, SingleStep, connector
from .parameter_types import Default, kind_of

SlicerParameterNamePropertyName = "SlicerParameterName"
_RESERVED = [
    "allParameters",
    "default",
    "isCached",
    "dataType",
    "getValue",
    "setValue",
    "connectGui",
    "connectParametersToGui",
    "disconnectGui",
    "StartModify",
    "EndModify",
    "AddObserver",
    "RemoveObserver",
    "Modified",
]

connected: weakref.WeakSet = weakref.WeakSet()  # wrappers with a GUI, for the book-keeping of observers


class _Parameter:
    def __init__(self, name: str, annotated, default) -> None:
        self.name, self.annotated, self.default = name, annotated, default
        self.kind = kind_of(annotated)[0]


class _Wrapper:
    """What the decorator adds to a class."""

    def __init__(self, parameterNode, prefix: str | None = None) -> None:
        self.parameterNode, self._prefix = parameterNode, prefix or ""
        self._guis: dict[int, tuple[dict, int]] = {}
        self._next_tag, self._updating = 0, False
        for parameter in self.allParameters.values():
            if not parameter.kind.is_in(parameterNode, self._prefix + parameter.name):
                self.setValue(parameter.name, parameter.default.value)

    def _checked(self, name: str) -> _Parameter:
        if name not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}")
        return self.allParameters[name]

    def getValue(self, name: str):
        parameter = self._checked(name)
        if not parameter.kind.is_in(self.parameterNode, self._prefix + name):
            self.setValue(name, parameter.default.value)
        return parameter.kind.read(self.parameterNode, self._prefix + name)

    def setValue(self, name: str, value) -> None:
        import slicer

        kind = self._checked(name).kind
        kind.validate(value)
        with slicer.util.NodeModify(self.parameterNode):
            kind.write(self.parameterNode, self._prefix + name, value)

    def default(self, name: str) -> Default:
        return self._checked(name).default

    def isCached(self, name: str) -> bool:
        return bool(self._checked(name))

    def connectGui(self, gui) -> int:
        import qt

        widgets = gui.findChildren(qt.QWidget) if isinstance(gui, qt.QWidget) else vars(gui).values()
        names = {widget.property(SlicerParameterNamePropertyName): widget for widget in widgets}
        return self.connectParametersToGui({name: widget for name, widget in names.items() if name})

    def connectParametersToGui(self, mapping: dict) -> int:
        import vtk

        connectors = {n: connector(widget, self._checked(n).annotated) for n, widget in mapping.items()}
        for name, bound in connectors.items():
            bound.write(self.getValue(name))
            bound.onChanged(functools.partial(self._read_gui, name, bound))
        tag = self._next_tag
        self._next_tag += 1
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, guarded(lambda _caller, _event: self._update_gui()))
        self._guis[tag] = connectors, observer
        connected.add(self)
        return tag

    def disconnectGui(self, tag: int) -> None:
        if tag in self._guis:
            connectors, observer = self._guis.pop(tag)
            for bound in connectors.values():
                bound.onChanged(None)
            self.RemoveObserver(observer)

    def _read_gui(self, name: str, bound) -> None:
        if not self._updating:
            self.setValue(name, bound.read())

    def _update_gui(self) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            for connectors, _observer in list(self._guis.values()):
                for name, bound in connectors.items():
                    bound.write(self.getValue(name))
        finally:
            self._updating = False

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, was_modifying):
        return self.parameterNode.EndModify(was_modifying)

    def AddObserver(self, event, callback, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def connected_guis() -> int:
    """How many GUIs are connected to parameter nodes; each holds an observer."""
    return sum(len(wrapper._guis) for wrapper in connected)


def parameterNodeWrapper(cls=None):
    """Class decorator: annotated names become parameters of a node."""
    return _wrap if cls is None else _wrap(cls)


def _wrap(cls):
    parameters = {}
    for name, annotated in typing.get_type_hints(cls, include_extras=True).items():
        if name in _RESERVED:
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        kind, rest = kind_of(annotated)
        annotations = [a for a in rest if isinstance(a, Default)]
        if hasattr(cls, name):
            default = Default(getattr(cls, name))
        else:
            default = annotations[0] if annotations else Default(generator=kind.default)
        parameters[name] = _Parameter(name, annotated, default)
        setattr(cls, name, _property(name))
    cls.allParameters = parameters
    cls._is_parameter_node_wrapper = True
    cls.dataType = staticmethod(lambda name: parameters[name].annotated)
    for name, function in vars(_Wrapper).items():
        if name == "__init__" or not name.startswith("__"):
            setattr(cls, name, function)
    return cls


def _property(name: str) -> property:
    return property(lambda self: self.getValue(name), lambda self, value: self.setValue(name, value))


def parameter_node_module() -> types.ModuleType:
    """A new module object `slicer.parameterNodeWrapper`."""
    module = types.ModuleType("slicer.parameterNodeWrapper")
    names = ["Validator", "NotNone", "IsInstance", "WithinRange", "Minimum", "Maximum", "Choice", "Exclude", "Default"]
    for name in names:
        setattr(module, name, getattr(parameter_types, name))
    module.Decimals, module.SingleStep = Decimals, SingleStep
    module.parameterNodeWrapper = parameterNodeWrapper
    module.SlicerParameterNamePropertyName = SlicerParameterNamePropertyName
    module.isParameterNodeWrapper = lambda value: getattr(value, "_is_parameter_node_wrapper", False)
    return module
