"""The Tab key, really pressed in a window that has the focus."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from panel_harness import MODEL_ID, ROOT, Harness, add_segmentation, shipped_model

FILES = sorted((ROOT / "SynthDiffusion" / "Resources" / "UI").glob("*.ui"))
TABLES = [
    (path.name, widget.get("name"))
    for path in FILES
    for widget in ET.parse(path).iter("widget")
    if widget.get("class") == "QTableWidget"
]


def focused():
    """The PySide6 widget that has the focus."""
    from PySide6 import QtWidgets

    return QtWidgets.QApplication.focusWidget()


def show(standin, widget, first) -> None:
    """Opens a widget in a window of its own, with the focus in `first`."""
    widget._obj.show()
    widget._obj.activateWindow()
    standin.process_events(0.05)
    first._obj.setFocus()
    assert focused() is first._obj


def press_tab(back: bool = False):
    """Presses Tab, or Shift and Tab. Returns the widget that then has the focus."""
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    QTest.keyClick(focused(), Qt.Key.Key_Backtab if back else Qt.Key.Key_Tab)
    return focused()


def test_there_are_tables_to_test():
    assert len(TABLES) == 5


@pytest.mark.parametrize(("file", "name"), TABLES)
def test_tab_leaves_a_table(standin, file, name):
    import qt
    import slicer.util
    from panel_harness import resource_path

    widget = slicer.util.loadUI(resource_path(f"UI/{file}"))
    table = slicer.util.findChild(widget, name)
    table.setColumnCount(3)
    table.setRowCount(3)
    for row in range(3):
        for column in range(3):
            table.setItem(row, column, qt.QTableWidgetItem("text"))
    for back in (False, True):
        show(standin, widget, table)
        table.setCurrentCell(1, 1)
        after = press_tab(back)
        assert after is not table._obj and not table._obj.isAncestorOf(after), back
    widget.close()


def test_tab_goes_from_the_mapping_table_through_its_choices(standin):
    from SynthDiffusionPanels.SegmentationPanel import SegmentationPanel

    harness = Harness(standin.scene, SegmentationPanel, [shipped_model()])
    harness.parameters.modelId = MODEL_ID
    harness.parameters.segmentation = add_segmentation(harness.scene, {"lung": 9, "stomach": 4, "rib": 3})
    harness.parameters.classes = {"Segment_2": "bone"}  # something to reset
    table = harness.ui.mappingTable
    show(standin, harness.panel.widget, table)
    choices = [table.cellWidget(row, 2)._obj for row in range(3)]
    assert [press_tab() for _choice in choices] == choices
    assert press_tab() is harness.ui.resetButton._obj
    harness.close()
