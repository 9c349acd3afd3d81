"""qMRMLNodeComboBox: the nodes of a real scene to choose from."""

from __future__ import annotations

from PySide6 import QtCore, QtWidgets

from .dialogs import dialogs
from .mrml_node_filter import qMRMLSortFilterProxyModel
from .scene_observer import Observers

_ACTIONS = {"add": "Create new", "rename": "Rename current", "edit": "Edit current", "remove": "Delete current"}


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Follows the scene. Disabled until it has one.

    Without `noneEnabled` a node is chosen as soon as there is one, as in Slicer.
    """

    standin_name = "qMRMLNodeComboBox"
    standin_signals = {
        "currentNodeChanged(vtkMRMLNode*)": "nodeChanged",
        "currentNodeChanged(bool)": "nodeValidChanged",
        "currentNodeIDChanged(QString)": "currentNodeIDChanged",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAdded",
        "nodeAddedByUserAction(vtkMRMLNode*)": "nodeAddedByUserAction",
        "nodeAboutToBeRemoved(vtkMRMLNode*)": "nodeAboutToBeRemoved",
        "currentNodeRenamed(QString)": "currentNodeRenamed",
        "nodeAboutToBeEdited(vtkMRMLNode*)": "nodeAboutToBeEdited",
    }
    nodeChanged = QtCore.Signal(object)
    nodeValidChanged = QtCore.Signal(bool)
    currentNodeIDChanged = QtCore.Signal(str)
    nodeActivated = QtCore.Signal(object)
    nodeAdded = QtCore.Signal(object)
    nodeAddedByUserAction = QtCore.Signal(object)
    nodeAboutToBeRemoved = QtCore.Signal(object)
    currentNodeRenamed = QtCore.Signal(str)
    nodeAboutToBeEdited = QtCore.Signal(object)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self._combo.activated.connect(self._activate)
        self.setFocusProxy(self._combo)
        self._scene, self._current, self._nodes = None, None, []
        self._scene_observers, self._node_observers = Observers(self), Observers(self)
        self._filter = qMRMLSortFilterProxyModel(self, self._follow)
        self._none, self._none_display, self._base_name, self._labels = False, "None", "", {}
        self._actions = {"add": True, "rename": False, "edit": False, "remove": False}
        self.selectNodeUponCreation, self.interactionNodeSingletonTag = True, ""
        self.setEnabled(False)

    def _setting(name: str):  # noqa: N805 - makes properties of this class
        def set_value(self, value) -> None:
            setattr(self, name, value)
            self._follow()

        return property(lambda self: getattr(self, name), set_value)

    def _filtered(name: str):  # noqa: N805
        return property(
            lambda self: getattr(self._filter, name), lambda self, value: setattr(self._filter, name, value)
        )

    def _action(name: str):  # noqa: N805
        def set_value(self, value: bool) -> None:
            self._actions[name] = value
            self._follow()

        return property(lambda self: self._actions[name], set_value)

    nodeTypes, showHidden = _filtered("nodeTypes"), _filtered("showHidden")
    showChildNodeTypes, hideChildNodeTypes = _filtered("showChildNodeTypes"), _filtered("hideChildNodeTypes")
    noneEnabled, noneDisplay, baseName = _setting("_none"), _setting("_none_display"), _setting("_base_name")
    addEnabled, renameEnabled, editEnabled, removeEnabled = map(_action, ("add", "rename", "edit", "remove"))
    currentNodeID = property(lambda self: self.currentNodeId(), lambda self, value: self.setCurrentNodeID(value))
    sizeAdjustPolicy = property(
        lambda self: self._combo.sizeAdjustPolicy(), lambda self, value: self._combo.setSizeAdjustPolicy(value)
    )

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene) -> None:
        self._scene_observers.remove()
        self._scene = scene
        if scene is not None:
            for event in (
                "NodeAddedEvent",
                "NodeRemovedEvent",
                "EndBatchProcessEvent",
                "EndCloseEvent",
                "EndImportEvent",
            ):
                self._scene_observers.add(scene, getattr(scene, event), "_follow")
        self.setEnabled(scene is not None)
        self._follow()

    def currentNode(self):
        return self._current

    def currentNodeId(self) -> str:
        return self._current.GetID() if self._current is not None else ""

    def setCurrentNode(self, node) -> None:
        if isinstance(node, str):
            self.setCurrentNodeID(node)
        else:
            self._choose(node if node in self._nodes else None)

    def setCurrentNodeID(self, node_id: str) -> None:
        self._choose(next((node for node in self._nodes if node.GetID() == node_id), None))

    def setCurrentNodeIndex(self, index: int) -> None:
        self._choose(self.nodeFromIndex(index))

    def nodeCount(self) -> int:
        return len(self._nodes)

    def nodeFromIndex(self, index: int):
        return self._nodes[index] if 0 <= index < len(self._nodes) else None

    def sortFilterProxyModel(self):
        return self._filter

    def addAttribute(self, node_type: str, name: str, value=None) -> None:
        self._filter.addAttribute(node_type, name, value)

    def removeAttribute(self, node_type: str, name: str) -> None:
        self._filter.removeAttribute(node_type, name)

    def setNodeTypeLabel(self, label: str, node_type: str) -> None:
        self._labels[node_type] = label
        self._follow()

    def nodeTypeLabel(self, node_type: str) -> str:
        return self._labels.get(node_type, "")

    def addNode(self, node_type: str | None = None):
        if self._scene is None or not self.nodeTypes or node_type not in (None, *self.nodeTypes):
            return None
        kind = node_type or self.nodeTypes[0]
        node = self._scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        node.SetName(self._scene.GenerateUniqueName(self._base_name or node.GetNodeTagName()))
        for name, value in self._filter.attributes_of_new(kind).items():
            node.SetAttribute(name, value)
        self._scene.AddNode(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUserAction.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        if self._current is not None:
            self._scene.RemoveNode(self._current)

    def renameCurrentNode(self) -> None:
        name = dialogs.ask("qMRMLNodeComboBox rename", self._current.GetName())
        if name:
            self._current.SetName(name)

    def editCurrentNode(self) -> None:
        self.nodeAboutToBeEdited.emit(self._current)

    def _follow(self) -> None:
        """Reads the scene anew; keeps the current node if it is still there."""
        scene = self._scene
        if scene is not None and scene.IsClosing():
            return  # the end of closing comes
        before, row = self._nodes, self._nodes.index(self._current) if self._current in self._nodes else 0
        every = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())] if scene is not None else []
        self._nodes = [node for node in every if self._filter.accepts(node)]
        self._node_observers.remove()
        for node in self._nodes:
            self._node_observers.add(node, "ModifiedEvent", "_node_modified")
        for node in [n for n in before if n not in self._nodes]:
            self.nodeAboutToBeRemoved.emit(node)
        current = self._current
        if current not in self._nodes:
            rest = self._nodes[min(row, len(self._nodes) - 1)] if self._nodes else None
            current = None if self._none else rest
        self._choose(current)
        for node in [n for n in self._nodes if n not in before]:
            self.nodeAdded.emit(node)

    def _node_modified(self) -> None:
        current = self._nodes.index(self._current) if self._current in self._nodes else -1
        texts = [self._combo.itemText(i + self._none) for i in range(len(self._nodes))]
        if texts != [node.GetName() for node in self._nodes]:
            self._fill()
            if current >= 0 and texts[current] != self._current.GetName():
                self.currentNodeRenamed.emit(self._current.GetName())

    def _choose(self, node) -> None:
        changed = node is not self._current
        self._current = node
        self._fill()
        if changed:
            self.nodeChanged.emit(node)
            self.nodeValidChanged.emit(node is not None)
            self.currentNodeIDChanged.emit(self.currentNodeId())

    def _fill(self) -> None:
        with QtCore.QSignalBlocker(self._combo):
            self._combo.clear()
            if self._none:
                self._combo.addItem(self._none_display)
            self._combo.addItems([node.GetName() for node in self._nodes])
            wanted = [name for name, enabled in self._actions.items() if enabled and self.nodeTypes]
            kind = self.nodeTypes[0] if wanted else ""
            label = self._labels.get(kind) or kind.removeprefix("vtkMRML")
            if wanted:
                self._combo.insertSeparator(self._combo.count())
            for name in wanted:
                self._combo.addItem(f"{_ACTIONS[name]} {label}", name)
            row = self._nodes.index(self._current) + self._none if self._current in self._nodes else -1
            self._combo.setCurrentIndex(0 if row < 0 and self._none else row)

    def _activate(self, index: int) -> None:
        action = self._combo.itemData(index)
        if action:
            self._fill()
            (self.addNode if action == "add" else getattr(self, f"{action}CurrentNode"))()
            return
        node = self.nodeFromIndex(index - self._none)
        self._choose(node)
        self.nodeActivated.emit(node)
