"""Slicer's window during a blinded reading: all that could name a file, a node or another module is out of the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import qt
import slicer
import slicer.util

# Slicer's names of widgets in its main window.
_PANEL_DOCK = "PanelDockWidget"
_DATA_PROBE = "DataProbeCollapsibleWidget"


class ReadingWindow:
    """Hides menus, toolbars, consoles, data probe, status bar and corner annotations, and brings them back.

    The data probe and the corner annotations print the names of volumes; toolbars and menus lead to modules that do,
    and to the mouse mode that changes windows; file names dropped on the window would be loaded. What Slicer lacks
    (applications can be built without a main window, or without the data probe) is passed over.

    Nothing is written to Slicer's settings: after a crash it starts as the user knows it.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    @property
    def isHidden(self) -> bool:
        """Whether the window is blinded."""
        return bool(self._undo)

    def hide(self) -> None:
        """Blinds the window. Does nothing the second time."""
        if self._undo:
            return
        self._undo.append(lambda: None)
        try:
            window = slicer.util.mainWindow()
            if window is not None:
                self._hideWidgets(window)
                self._disableActions(window.menuBar().actions())
                self._untitle(window)
                self._undrop(window)
            self._hideAnnotations()
        except BaseException:
            self.restore()
            raise

    def hideControllers(self, tags: Iterable[str]) -> None:
        """Hides the bars above slice views; their selectors name the volumes.

        Args:
            tags: layout names of the reading's own views, which go with it: nothing is to be restored.
        """
        for tag in tags:
            widget = slicer.app.layoutManager().sliceWidget(tag)
            if widget is not None:
                widget.sliceController().hide()

    def restore(self) -> None:
        """Brings all back as it was, also after an error half-way. A second call does nothing.

        Raises:
            Exception: the first that came up; what remains is restored all the same.
        """
        undo, self._undo = self._undo, []
        failure = None
        for step in reversed(undo):
            try:
                step()
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _hideWidgets(self, window) -> None:
        docks = [dock for dock in window.findChildren(qt.QDockWidget) if dock.objectName != _PANEL_DOCK]
        probes = slicer.util.findChildren(window, name=_DATA_PROBE)
        bars = [*window.findChildren(qt.QToolBar), window.menuBar(), window.statusBar()]
        for widget in [*bars, *docks, *probes]:
            self._hideWidget(widget)

    def _hideWidget(self, widget) -> None:
        if widget is not None and not widget.isHidden():
            widget.hide()
            self._undo.append(widget.show)

    def _disableActions(self, actions) -> None:
        """Menus of macOS are not in the window, and keys of hidden menus may go on working."""
        for action in actions:
            if action.enabled:
                action.setEnabled(False)
                self._undo.append(lambda action=action: action.setEnabled(True))

    def _untitle(self, window) -> None:
        """Takes the title off the module's panel: it names the module, and by it the panel could be torn off."""
        for dock in window.findChildren(qt.QDockWidget, _PANEL_DOCK):
            before = dock.titleBarWidget()
            blank = qt.QWidget(dock)
            dock.setTitleBarWidget(blank)

            def undo(dock=dock, before=before, blank=blank) -> None:
                dock.setTitleBarWidget(before)
                blank.deleteLater()

            self._undo.append(undo)

    def _undrop(self, window) -> None:
        if window.acceptDrops:
            window.setAcceptDrops(False)
            self._undo.append(lambda: window.setAcceptDrops(True))

    def _hideAnnotations(self) -> None:
        probe = getattr(slicer.modules, "DataProbeInstance", None)
        annotations = getattr(getattr(probe, "infoWidget", None), "sliceAnnotations", None)
        if annotations is None:
            return
        before = annotations.sliceViewAnnotationsEnabled

        def undo() -> None:
            annotations.sliceViewAnnotationsEnabled = before
            annotations.updateSliceViewFromGUI()

        annotations.sliceViewAnnotationsEnabled = False
        annotations.updateSliceViewFromGUI()
        self._undo.append(undo)
