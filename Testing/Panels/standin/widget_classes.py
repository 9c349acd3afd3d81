"""All widget classes that the stand-in makes, by name, and the modules that hold them."""

from __future__ import annotations

import types

from . import api_table, application, ctk_widgets, mrml_node_combo_box, mrml_node_filter, mrml_widgets, view_widgets
from .qt_proxy import proxy_class

CLASSES: dict[str, type] = {
    **ctk_widgets.CLASSES,
    **mrml_widgets.CLASSES,
    **view_widgets.CLASSES,
    **application.CLASSES,
    "qMRMLNodeComboBox": mrml_node_combo_box.qMRMLNodeComboBox,
    "qMRMLSortFilterProxyModel": mrml_node_filter.qMRMLSortFilterProxyModel,
}


def ctk_module() -> types.ModuleType:
    """A new module object `ctk`."""
    module = types.ModuleType("ctk")
    module.__getattr__ = slicer_class
    return module


def slicer_class(name: str):
    """The proxy class `ctk.name`, or `slicer.name` of a qMRML or qSlicer class.

    Raises:
        AttributeError: Slicer 5.12 does not have the class, or the stand-in does not make it.
    """
    if name not in CLASSES:
        if name.startswith("_"):
            raise AttributeError(name)
        known = "is in Slicer, but not made by the stand-in" if name in api_table.table() else "is not known"
        raise AttributeError(f"{name} {known}")
    return proxy_class(CLASSES[name])
