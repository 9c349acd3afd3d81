"""Widgets of views, and the layout manager: real layout logic, view nodes and slice logics; nothing is drawn."""

from __future__ import annotations

from PySide6 import QtCore, QtWidgets

from .mrml_widgets import qMRMLWidget
from .scene_observer import Observers


class _View(QtWidgets.QWidget):
    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._annotation, self._interactor, self.renders = None, None, 0

    def interactor(self):
        """Takes the events that a test invokes on it; there is no window that would send any."""
        import vtk

        self._interactor = self._interactor or vtk.vtkGenericRenderWindowInteractor()
        return self._interactor

    def cornerAnnotation(self):
        import vtk

        self._annotation = self._annotation or vtk.vtkCornerAnnotation()
        return self._annotation

    def scheduleRender(self) -> None:
        self.renders += 1

    forceRender = scheduleRender


class qMRMLSliceView(_View):
    standin_name = "qMRMLSliceView"
    node = None

    def mrmlSliceNode(self):
        return self.node


class qMRMLThreeDView(_View):
    standin_name = "qMRMLThreeDView"
    node = None

    def mrmlViewNode(self):
        return self.node

    def resetFocalPoint(self) -> None:
        self.renders += 1


class qMRMLTableView(QtWidgets.QTableView):
    standin_name = "qMRMLTableView"


class qMRMLPlotView(QtWidgets.QWidget):
    standin_name = "qMRMLPlotView"

    def fitToContent(self) -> None:
        """Nothing is drawn."""


class _ViewWidget(qMRMLWidget):
    """A widget of the layout: its node and its view."""

    view_class = QtWidgets.QWidget

    def __init__(self, node, parent=None) -> None:
        super().__init__(parent)
        self._node, self._view = node, self.view_class(self)
        self._view.node = node
        self._scene = node.GetScene()

    def mrmlAbstractViewNode(self):
        return self._node

    def viewWidget(self):
        return self._view


class qMRMLSliceControllerWidget(qMRMLWidget):
    """The bar above a slice view. In Slicer its selectors name the volumes that are shown."""

    standin_name = "qMRMLSliceControllerWidget"


class qMRMLSliceWidget(_ViewWidget):
    standin_name = "qMRMLSliceWidget"
    view_class = qMRMLSliceView

    def __init__(self, node, logic) -> None:
        super().__init__(node)
        self._logic, self._controller = logic, qMRMLSliceControllerWidget(self)

    def sliceController(self):
        return self._controller

    sliceViewName = property(lambda self: self._node.GetLayoutName())
    sliceOrientation = property(
        lambda self: self._node.GetOrientation(), lambda self, value: self._node.SetOrientation(value)
    )

    def sliceLogic(self):
        return self._logic

    logic = sliceLogic

    def mrmlSliceNode(self):
        return self._node

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def sliceView(self):
        return self._view

    def fitSliceToBackground(self) -> None:
        self._logic.FitSliceToBackground()


class qMRMLThreeDWidget(_ViewWidget):
    standin_name = "qMRMLThreeDWidget"
    view_class = qMRMLThreeDView

    def mrmlViewNode(self):
        return self._node

    def threeDView(self):
        return self._view


class qMRMLTableWidget(_ViewWidget):
    standin_name = "qMRMLTableWidget"
    view_class = qMRMLTableView

    def mrmlTableViewNode(self):
        return self._node

    def tableView(self):
        return self._view


class qMRMLPlotWidget(_ViewWidget):
    standin_name = "qMRMLPlotWidget"
    view_class = qMRMLPlotView

    def mrmlPlotViewNode(self):
        return self._node

    def plotView(self):
        return self._view


class qSlicerLayoutManager(QtCore.QObject):
    """Makes a widget for each view node, and a real slice logic for each slice node, of a scene."""

    standin_name = "qSlicerLayoutManager"
    layoutChanged = QtCore.Signal(int)

    def __init__(self, scene, application_logic) -> None:
        super().__init__()
        import slicer
        import vtk

        self._scene, self._application_logic = scene, application_logic
        self._widgets: dict[str, QtWidgets.QWidget] = {}
        self._slice_logics = vtk.vtkCollection()
        application_logic.SetSliceLogics(self._slice_logics)
        self.enabled, self._following = True, False
        self._observers = Observers(self)
        for event in ("NodeAddedEvent", "NodeRemovedEvent", "EndImportEvent", "EndCloseEvent"):
            self._observers.add(scene, getattr(scene, event), "_follow")
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(scene)
        self._observers.add(self._logic.GetLayoutNode(), "ModifiedEvent", "_layout_modified")
        self._layout = None
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self._follow()

    layout = property(lambda self: self._logic.GetLayoutNode().GetViewArrangement(), lambda self, v: self.setLayout(v))
    threeDViewCount = property(lambda self: len(self._of(qMRMLThreeDWidget)))
    tableViewCount = property(lambda self: len(self._of(qMRMLTableWidget)))
    plotViewCount = property(lambda self: len(self._of(qMRMLPlotWidget)))

    def setLayout(self, layout: int) -> None:
        self._logic.GetLayoutNode().SetViewArrangement(layout)

    def layoutLogic(self):
        return self._logic

    def mrmlScene(self):
        return self._scene

    def mrmlSliceLogics(self):
        return self._slice_logics

    def sliceViewNames(self) -> list[str]:
        return [widget.sliceViewName for widget in self._of(qMRMLSliceWidget)]

    def sliceWidget(self, name: str):
        return next((w for w in self._of(qMRMLSliceWidget) if w.sliceViewName == name), None)

    def threeDWidget(self, index: int):
        return self._nth(qMRMLThreeDWidget, index)

    def tableWidget(self, index: int):
        return self._nth(qMRMLTableWidget, index)

    def plotWidget(self, index: int):
        return self._nth(qMRMLPlotWidget, index)

    def viewWidget(self, node):
        return self._widgets.get(node.GetID())

    def activeMRMLThreeDViewNode(self):
        widget = self._nth(qMRMLThreeDWidget, 0)
        return widget.mrmlViewNode() if widget is not None else None

    def resetSliceViews(self) -> None:
        for widget in self._of(qMRMLSliceWidget):
            widget.fitSliceToBackground()

    def resetThreeDViews(self) -> None:
        for widget in self._of(qMRMLThreeDWidget):
            widget.threeDView().resetFocalPoint()

    def close(self) -> None:
        """Takes the observers off; for the end of a test."""
        self._observers.remove()

    def _of(self, kind: type) -> list:
        return [widget for widget in self._widgets.values() if isinstance(widget, kind)]

    def _nth(self, kind: type, index: int):
        found = self._of(kind)
        return found[index] if 0 <= index < len(found) else None

    def _layout_modified(self) -> None:
        if self.layout != self._layout:
            self._layout = self.layout
            self.layoutChanged.emit(self._layout)

    def _follow(self) -> None:
        if self._following:
            return  # a slice logic adds nodes of its own to the scene, but no view nodes
        self._following = True
        try:
            self._make_widgets()
        finally:
            self._following = False

    def _make_widgets(self) -> None:
        kinds = {"vtkMRMLSliceNode": self._slice_widget, "vtkMRMLViewNode": qMRMLThreeDWidget}
        kinds |= {"vtkMRMLTableViewNode": qMRMLTableWidget, "vtkMRMLPlotViewNode": qMRMLPlotWidget}
        present = {}
        for name, make in kinds.items():
            for index in range(self._scene.GetNumberOfNodesByClass(name)):
                node = self._scene.GetNthNodeByClass(index, name)
                present[node.GetID()] = (node, make)
        for node_id in [known for known in self._widgets if known not in present]:
            widget = self._widgets.pop(node_id)
            if isinstance(widget, qMRMLSliceWidget):
                self._slice_logics.RemoveItem(widget.sliceLogic())
        for node_id, (node, make) in present.items():
            if node_id not in self._widgets:
                self._widgets[node_id] = make(node)

    def _slice_widget(self, node):
        import slicer

        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self._application_logic)
        logic.SetMRMLScene(self._scene)
        logic.SetSliceNode(node)
        self._slice_logics.AddItem(logic)
        return qMRMLSliceWidget(node, logic)


CLASSES = {
    name: value
    for name, value in globals().items()
    if name.startswith(("qMRML", "qSlicer")) and isinstance(value, type)
}
CLASSES.pop("qMRMLWidget")
