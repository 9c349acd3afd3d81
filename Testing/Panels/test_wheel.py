"""Scrolling the panel changes no choice that happens to lie under the mouse."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from panel_harness import ROOT, resource_path

COMBOS = [
    (path.name, widget.get("name"))
    for path in sorted((ROOT / "SynthDiffusion" / "Resources" / "UI").glob("*.ui"))
    for widget in ET.parse(path).iter("widget")
    if widget.get("class").endswith("ComboBox") and not widget.get("class").startswith("qMRML")
]


def turn_wheel(widget) -> bool:
    """Turns the mouse wheel over a widget. Returns whether the widget has used that."""
    from PySide6.QtCore import QPoint, QPointF, Qt
    from PySide6.QtGui import QWheelEvent
    from PySide6.QtWidgets import QApplication

    middle = QPointF(widget._obj.rect().center())
    event = QWheelEvent(
        middle,
        widget._obj.mapToGlobal(middle),
        QPoint(),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget._obj, event)
    return event.isAccepted()


def test_a_plain_combo_box_would_be_changed(standin):
    import qt

    box = qt.QComboBox()
    box.addItem("one")
    box.addItem("two")
    assert turn_wheel(box) and box.currentIndex == 1


@pytest.mark.parametrize(("file", "name"), COMBOS)
def test_the_wheel_goes_to_the_panel(standin, file, name):
    import slicer.util

    panel = slicer.util.loadUI(resource_path(f"UI/{file}"))
    box = slicer.util.findChild(panel, name)
    box.clear()
    box.addItem("one")
    box.addItem("two")
    assert not turn_wheel(box) and box.currentIndex == 0
