"""Slicer's widgets that hold a scene, and the segment editor without its effects."""

from __future__ import annotations

from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Qt

from .scene_observer import Observers

EFFECTS = ("Threshold", "Paint", "Draw", "Erase", "Level tracing", "Grow from seeds", "Margin", "Islands", "Scissors")


class qMRMLWidget(QtWidgets.QWidget):
    standin_name = "qMRMLWidget"
    standin_signals = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class qSlicerWidget(QtWidgets.QWidget):
    standin_name = "qSlicerWidget"
    standin_signals = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._scene = None

    mrmlScene, setMRMLScene = qMRMLWidget.mrmlScene, qMRMLWidget.setMRMLScene


class qMRMLSegmentsTableView(qMRMLWidget):
    """The segments of a segmentation node in a table: visible, colour, name."""

    standin_name = "qMRMLSegmentsTableView"
    standin_signals = {
        "selectionChanged(QItemSelection,QItemSelection)": "segmentsSelected",
        "segmentAboutToBeModified(QString)": "segmentAboutToBeModified",
        **qMRMLWidget.standin_signals,
    }
    segmentsSelected = QtCore.Signal(object, object)
    segmentAboutToBeModified = QtCore.Signal(str)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._node, self._observers = None, Observers(self)
        self._table = QtWidgets.QTableWidget(0, 2, self)
        self._table.setHorizontalHeaderLabels(["Name", "Color"])
        self._table.horizontalHeader().setStretchLastSection(True)
        self._table.setSelectionBehavior(QtWidgets.QTableWidget.SelectionBehavior.SelectRows)
        self._table.selectionModel().selectionChanged.connect(lambda new, old: self.segmentsSelected.emit(new, old))
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)
        for name in ("colorColumnVisible", "headerVisible", "visibilityColumnVisible", "opacityColumnVisible"):
            setattr(self, name, True)
        for name in ("readOnly", "filterBarVisible", "statusColumnVisible", "layerColumnVisible"):
            setattr(self, name, False)

    segmentCount = property(lambda self: self._table.rowCount())
    selectionMode = property(lambda self: self._table.selectionMode(), lambda self, v: self._table.setSelectionMode(v))

    def setSegmentationNode(self, node) -> None:
        self._observers.remove()
        self._node = node
        if node is not None:
            for event in ("SegmentAdded", "SegmentRemoved", "SegmentModified"):
                self._observers.add(node.GetSegmentation(), getattr(node.GetSegmentation(), event), "_fill")
        self._fill()

    def segmentationNode(self):
        return self._node

    def displayedSegmentIDs(self) -> list[str]:
        return list(self._node.GetSegmentation().GetSegmentIDs()) if self._node is not None else []

    def segmentIDForRow(self, row: int) -> str:
        return self.displayedSegmentIDs()[row]

    def rowForSegmentID(self, segment_id: str) -> int:
        return self.displayedSegmentIDs().index(segment_id)

    def selectedSegmentIDs(self) -> list[str]:
        rows = sorted({index.row() for index in self._table.selectedIndexes()})
        return [self.segmentIDForRow(row) for row in rows]

    def setSelectedSegmentIDs(self, ids) -> None:
        self._table.clearSelection()
        for row, segment_id in enumerate(self.displayedSegmentIDs()):
            for column in range(2 if segment_id in ids else 0):
                self._table.item(row, column).setSelected(True)

    def clearSelection(self) -> None:
        self._table.clearSelection()

    def _fill(self) -> None:
        ids = self.displayedSegmentIDs()
        self._table.setRowCount(len(ids))
        for row, segment_id in enumerate(ids):
            segment = self._node.GetSegmentation().GetSegment(segment_id)
            color = QtWidgets.QTableWidgetItem()
            color.setBackground(_color(segment.GetColor()))
            self._table.setItem(row, 0, QtWidgets.QTableWidgetItem(segment.GetName()))
            self._table.setItem(row, 1, color)


class qSlicerSegmentEditorAbstractEffect(QtCore.QObject):
    """A tool of the segment editor, which does nothing but have a name."""

    standin_name = "qSlicerSegmentEditorAbstractEffect"

    def __init__(self, name: str, parent) -> None:
        super().__init__(parent)
        self.name = self.title = name


class qMRMLSegmentEditorWidget(qMRMLWidget):
    """Holds the nodes and the chosen effect, and shows the source volume in the slice views as Slicer's does.

    Attributes (for tests):
        shortcuts: keyboard shortcuts installed minus uninstalled; observed: view observations set up or not.
    """

    standin_name = "qMRMLSegmentEditorWidget"
    standin_signals = {
        "segmentationNodeChanged(vtkMRMLSegmentationNode*)": "segmentationNodeChanged",
        "sourceVolumeNodeChanged(vtkMRMLVolumeNode*)": "sourceVolumeNodeChanged",
        "currentSegmentIDChanged(QString)": "currentSegmentIDChanged",
        **qMRMLWidget.standin_signals,
    }
    segmentationNodeChanged = QtCore.Signal(object)
    sourceVolumeNodeChanged = QtCore.Signal(object)
    currentSegmentIDChanged = QtCore.Signal(str)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._editor_node, self._effect, self._order, self._source = None, None, EFFECTS, None
        self._effects = {name: qSlicerSegmentEditorAbstractEffect(name, self) for name in EFFECTS}
        self.shortcuts, self.observed = 0, False
        for name in ("addRemoveSegmentButtonsVisible", "maskingSectionVisible", "show3DButtonVisible", "undoEnabled"):
            setattr(self, name, True)
        for name in ("segmentationNodeSelector", "sourceVolumeNodeSelector", "specifyGeometryButton"):
            setattr(self, name + "Visible", True)
        self.switchToSegmentationsButtonVisible, self.readOnly, self.unorderedEffectsVisible = True, False, True
        self.autoShowSourceVolumeNode, self.jumpToSelectedSegmentEnabled = True, False
        self.maximumNumberOfUndoStates, self.effectColumnCount = 10, 2
        self.defaultTerminologyEntrySettingsKey = self.defaultTerminologyEntry = ""
        self.effectButtonStyle = Qt.ToolButtonStyle.ToolButtonTextUnderIcon
        self._segments = qMRMLSegmentsTableView(self)
        note = QtWidgets.QLabel("Segment editor (effects are not in the stand-in)", self)
        note.setAlignment(Qt.AlignmentFlag.AlignCenter)
        note.setWordWrap(True)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._segments)
        layout.addWidget(note)

    def setMRMLScene(self, scene) -> None:
        super().setMRMLScene(scene)
        layout_manager = QtWidgets.QApplication.instance().layoutManager()
        layout_manager.layoutChanged.connect(self.onLayoutChanged, Qt.ConnectionType.UniqueConnection)

    def mrmlSegmentEditorNode(self):
        return self._editor_node

    def setMRMLSegmentEditorNode(self, node) -> None:
        self._editor_node = node
        self._segments.setSegmentationNode(self.segmentationNode())
        self._follow_source()
        self._follow_effect()

    def segmentationNode(self):
        return self._editor_node.GetSegmentationNode() if self._editor_node is not None else None

    def segmentationNodeID(self) -> str:
        node = self.segmentationNode()
        return node.GetID() if node is not None else ""

    def setSegmentationNode(self, node) -> None:
        self._needs_editor_node().SetAndObserveSegmentationNode(node)
        self._segments.setSegmentationNode(node)
        self.segmentationNodeChanged.emit(node)
        self._follow_source()
        ids = self._segments.displayedSegmentIDs()
        self.setCurrentSegmentID(ids[0] if ids else "")

    def setSegmentationNodeID(self, node_id: str) -> None:
        self.setSegmentationNode(self._scene.GetNodeByID(node_id) if node_id else None)

    def sourceVolumeNode(self):
        return self._editor_node.GetSourceVolumeNode() if self._editor_node is not None else None

    def sourceVolumeNodeID(self) -> str:
        node = self.sourceVolumeNode()
        return node.GetID() if node is not None else ""

    def setSourceVolumeNode(self, node) -> None:
        self._needs_editor_node().SetAndObserveSourceVolumeNode(node)
        self._follow_source()

    def setSourceVolumeNodeID(self, node_id: str) -> None:
        self.setSourceVolumeNode(self._scene.GetNodeByID(node_id) if node_id else None)

    def currentSegmentID(self) -> str:
        return (self._editor_node.GetSelectedSegmentID() or "") if self._editor_node is not None else ""

    def setCurrentSegmentID(self, segment_id: str) -> None:
        changed = self.currentSegmentID() != segment_id
        self._needs_editor_node().SetSelectedSegmentID(segment_id)
        if changed:
            self.currentSegmentIDChanged.emit(segment_id)

    def availableEffectNames(self) -> list[str]:
        return list(EFFECTS)

    def effectNameOrder(self) -> list[str]:
        return list(self._order)

    def setEffectNameOrder(self, order) -> None:
        self._order = tuple(order)

    def setActiveEffectByName(self, name: str) -> None:
        self.setActiveEffect(self._effects.get(name))

    def activeEffect(self) -> qSlicerSegmentEditorAbstractEffect | None:
        return self._effect

    def setActiveEffect(self, effect) -> None:
        if self._editor_node is not None:
            self._editor_node.SetActiveEffectName(effect.name if effect is not None else "")
            self._follow_effect()

    def onLayoutChanged(self, _layout: int) -> None:
        if self.observed and self.autoShowSourceVolumeNode:
            self._show_source()

    def installKeyboardShortcuts(self, _parent=None) -> None:
        self.shortcuts += 1

    def uninstallKeyboardShortcuts(self) -> None:
        self.shortcuts -= 1

    def setupViewObservations(self) -> None:
        self.observed = True

    def removeViewObservations(self) -> None:
        self.observed = False

    def updateWidgetFromMRML(self) -> None:
        self._segments.setSegmentationNode(self.segmentationNode())

    def _follow_effect(self) -> None:
        """Takes the tool that the editor node names; the mouse events of the views are its own while it is active."""
        effect = self._effects.get(self._editor_node.GetActiveEffectName()) if self._editor_node is not None else None
        if effect is not self._effect:
            self._effect = effect
            if effect is not None:
                self.setupViewObservations()
            else:
                self.removeViewObservations()

    def _follow_source(self) -> None:
        """Takes the source volume of the editor node; without a segmentation Slicer's editor does not look at it."""
        node = self.sourceVolumeNode()
        if self.segmentationNode() is None or node is self._source:
            return
        self._source = node
        if node is not None and self.autoShowSourceVolumeNode:
            self._show_source()
        self.sourceVolumeNodeChanged.emit(node)

    def _show_source(self) -> None:
        """The source volume in the background of every slice view that does not show it, whoever's the view is."""
        node = self.sourceVolumeNode()
        logics = QtWidgets.QApplication.instance().layoutManager().mrmlSliceLogics()
        for index in range(logics.GetNumberOfItems() if node is not None else 0):
            composite = logics.GetItemAsObject(index).GetSliceCompositeNode()
            if node.GetID() not in (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()):
                composite.SetBackgroundVolumeID(node.GetID())
                composite.SetForegroundVolumeID(None)
                composite.SetLabelVolumeID(None)

    def _setter(name: str):  # noqa: N805 - makes the slots that set a property
        return lambda self, value: setattr(self, name, value)

    setSegmentationNodeSelectorVisible = _setter("segmentationNodeSelectorVisible")
    setSourceVolumeNodeSelectorVisible = _setter("sourceVolumeNodeSelectorVisible")
    setSwitchToSegmentationsButtonVisible = _setter("switchToSegmentationsButtonVisible")
    setSpecifyGeometryButtonVisible = _setter("specifyGeometryButtonVisible")
    setShow3DButtonVisible, setReadOnly = _setter("show3DButtonVisible"), _setter("readOnly")
    setMaskingSectionVisible = _setter("maskingSectionVisible")
    setAddRemoveSegmentButtonsVisible = _setter("addRemoveSegmentButtonsVisible")
    setAutoShowSourceVolumeNode = _setter("autoShowSourceVolumeNode")
    setJumpToSelectedSegmentEnabled = _setter("jumpToSelectedSegmentEnabled")
    setMaximumNumberOfUndoStates, setUndoEnabled = _setter("maximumNumberOfUndoStates"), _setter("undoEnabled")
    setEffectColumnCount, setEffectButtonStyle = _setter("effectColumnCount"), _setter("effectButtonStyle")

    def _needs_editor_node(self):
        if self._editor_node is None:
            raise RuntimeError("qMRMLSegmentEditorWidget: call setMRMLSegmentEditorNode first")
        return self._editor_node


def _color(rgb):
    from PySide6.QtGui import QColor

    return QColor.fromRgbF(*rgb)


CLASSES = {name: value for name, value in globals().items() if name.startswith("q") and isinstance(value, type)}
