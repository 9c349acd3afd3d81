"""How CTK's collapsible widgets hide their contents and bring them back.

As CTK does it: what is shown or hidden while the widget is open is remembered for each child. A child that is shown
while the widget is collapsed appears when it opens; one that is hidden meanwhile appears all the same, since hiding a
hidden widget tells nobody.
"""

from __future__ import annotations

from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Qt

_REMEMBERED = "visibilityToParent"
_EVENTS = (QtCore.QEvent.Type.ShowToParent, QtCore.QEvent.Type.HideToParent)


class Collapsible:
    """Mixed into a checkable widget that is open when it is checked."""

    def make_collapsible(self) -> None:
        """Called at the end of the constructor."""
        self._forcing = False
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(self._show_contents)

    @property
    def collapsed(self) -> bool:
        return not self.isChecked()

    @collapsed.setter
    def collapsed(self, value: bool) -> None:
        self.setChecked(not value)

    def _show_contents(self, shown: bool) -> None:
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                self._set_visibility(child)
                child.setEnabled(True)  # QGroupBox disables what it holds when it is not checked
        self.setMaximumHeight(16777215 if shown else self.title_height())
        self.updateGeometry()

    def childEvent(self, event) -> None:
        super().childEvent(event)
        child = event.child()
        if event.type() == QtCore.QEvent.Type.ChildAdded and isinstance(child, QtWidgets.QWidget):
            explicit = child.testAttribute(Qt.WidgetAttribute.WA_WState_ExplicitShowHide)
            if explicit and child.isHidden():
                child.setProperty(_REMEMBERED, False)
            child.installEventFilter(self)
            self._set_visibility(child)

    def eventFilter(self, child, event) -> bool:
        if event.type() in _EVENTS and not self._forcing:
            child.setProperty(_REMEMBERED, event.type() == QtCore.QEvent.Type.ShowToParent)
            self._set_visibility(child)
        return False

    def _set_visibility(self, child) -> None:
        wanted = not self.collapsed and child.property(_REMEMBERED) is not False
        if wanted == (not child.isHidden()):
            return
        explicit = child.testAttribute(Qt.WidgetAttribute.WA_WState_ExplicitShowHide)
        self._forcing = True
        child.setVisible(wanted)
        self._forcing = False
        child.setAttribute(Qt.WidgetAttribute.WA_WState_ExplicitShowHide, explicit)
