"""The layout of a comparison: three slice views side by side, below them a plot and a table."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import slicer
import slicer.util
import vtk

from SynthDiffusionScene.errors import SceneError

# Places of the slice views. The view nodes are singletons with these tags: the user's own views are never touched.
REAL, SYNTHETIC, THIRD = "real", "synthetic", "third"
TAGS = {REAL: "SynthDiffusionReal", SYNTHETIC: "SynthDiffusionSynthetic", THIRD: "SynthDiffusionThird"}
PLOT_TAG, TABLE_TAG = "SynthDiffusionPlot", "SynthDiffusionTable"
LABELS = {REAL: "Real", SYNTHETIC: "Synthetic", THIRD: "Difference"}
ORIENTATIONS = ("Axial", "Sagittal", "Coronal")

# Slicer's own layouts lie below 100; modules take any larger number that is free.
_FIRST_LAYOUT_ID = 20571
# Views of one group follow each other; the user's are in group 0.
_VIEW_GROUP = 20571
_COLORS = {REAL: "#6E8FB2", SYNTHETIC: "#C98A3D", THIRD: "#8C8C8C"}


class ComparisonLayout:
    """Makes the views of a comparison, and takes them away again.

    Args:
        scene: the MRML scene.
        layoutNode: a vtkMRMLLayoutNode that a vtkMRMLLayoutLogic observes; in Slicer
            `slicer.app.layoutManager().layoutLogic().GetLayoutNode()`.
    """

    def __init__(self, scene, layoutNode) -> None:
        self.scene = scene
        self.layoutNode = layoutNode
        self.slices: dict[str, slicer.vtkMRMLSliceNode] = {}
        self.composites: dict[str, slicer.vtkMRMLSliceCompositeNode] = {}
        self.plotView = None
        self.tableView = None
        self._layoutId = None
        self._before = None

    def enter(self, orientation: str) -> None:
        """Shows the layout and makes its view nodes, none of which is saved with a scene.

        Raises:
            SceneError: the layout node is not in use by a layout logic (internal).
        """
        node = self.layoutNode
        arrangement = node.GetViewArrangement()
        maximized = [node.GetMaximizedViewNode(n) for n in range(node.GetNumberOfMaximizedViewNodes())]
        description = node.GetLayoutDescription(arrangement) if node.IsLayoutDescription(arrangement) else ""
        self._before = (arrangement, description, maximized)
        self._layoutId = _FIRST_LAYOUT_ID
        while node.IsLayoutDescription(self._layoutId):
            self._layoutId += 1
        node.RemoveAllMaximizedViewNodes()
        node.AddLayoutDescription(self._layoutId, layoutXml(orientation))
        node.SetViewArrangement(self._layoutId)
        for place, tag in TAGS.items():
            self.slices[place] = self._view(tag, "vtkMRMLSliceNode")
            self.composites[place] = self._composite(tag)
        self.plotView = self._view(PLOT_TAG, "vtkMRMLPlotViewNode")
        self.plotView.SetDoPropagatePlotChartSelection(False)
        self.tableView = self._view(TABLE_TAG, "vtkMRMLTableViewNode")
        self.tableView.SetDoPropagateTableSelection(False)

    @property
    def isShown(self) -> bool:
        """Whether the layout is on the screen, as a whole or one of its views maximized."""
        return any(tag in (self.layoutNode.GetCurrentLayoutDescription() or "") for tag in TAGS.values())

    def leave(self) -> None:
        """Brings back the user's layout (unless the user has chosen another one since) and removes all view nodes."""
        if self._before is None:
            return
        node = self.layoutNode
        arrangement, description, maximized = self._before
        self._before = None
        if self.isShown or node.GetViewArrangement() == self._layoutId:
            node.RemoveAllMaximizedViewNodes()
            if description and node.GetLayoutDescription(arrangement) != description:
                node.SetLayoutDescription(arrangement, description)
            node.SetViewArrangement(arrangement)
            for viewNode in maximized:
                if viewNode is not None and viewNode.GetScene() is self.scene:
                    node.AddMaximizedViewNode(viewNode)
        node.SetLayoutDescription(self._layoutId, "")
        sliceModels = [part for place in self.slices for part in self._sliceModelNodes(TAGS[place])]
        # Slice nodes before composite nodes: a slice logic that has its slice node makes a missing composite node anew.
        views = [*self.slices.values(), self.plotView, self.tableView]
        for made in [*views, *self.composites.values(), *sliceModels]:
            if made is not None and self.scene.IsNodePresent(made):
                self.scene.RemoveNode(made)
        self.slices, self.composites, self.plotView, self.tableView = {}, {}, None, None

    @contextmanager
    def arrangementHidden(self):
        """Context in which the layout node names the user's layout, without any change on the screen."""
        wasModifying = self.layoutNode.StartModify()
        current = self.layoutNode.GetViewArrangement()
        self.layoutNode.SetViewArrangement(self._before[0])
        try:
            yield
        finally:
            self.layoutNode.SetViewArrangement(current)
            self.layoutNode.EndModify(wasModifying)

    def setOrientation(self, orientation: str) -> None:
        """Turns all three slice views: "Axial", "Sagittal" or "Coronal"."""
        for sliceNode in self.slices.values():
            sliceNode.SetOrientation(orientation)

    def fit(self, volumeNode) -> None:
        """Shows a volume as large as the views allow, alike in all three."""
        for sliceNode in self.slices.values():
            width, height = sliceNode.GetDimensions()[:2]
            bounds = [0.0] * 6
            volumeNode.GetSliceBounds(bounds, _inverse(sliceNode.GetSliceToRAS()))
            sizeX, sizeY = bounds[1] - bounds[0], bounds[3] - bounds[2]
            pixel = max(sizeX / width, sizeY / height)
            sliceNode.SetFieldOfView(pixel * width, pixel * height, sliceNode.GetFieldOfView()[2])
            sliceNode.SetXYZOrigin(0, 0, 0)
            centre = [(bounds[n] + bounds[n + 1]) / 2 for n in (0, 2, 4)]
            toRas = slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS())
            self._moveTo(sliceNode, (toRas @ [*centre, 1])[:3])

    def jumpTo(self, ras: np.ndarray) -> None:
        """Moves all three slice planes through a point (RAS mm) and leaves them where they are within the plane."""
        for sliceNode in self.slices.values():
            sliceNode.JumpSliceByOffsetting(*[float(n) for n in ras])

    def linkViews(self) -> None:
        """What the user does in one view (slice, pan, zoom) happens in the other two at once."""
        for composite in self.composites.values():
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)

    def _view(self, tag: str, className: str):
        node = self.scene.GetSingletonNode(tag, className)
        if node is None:
            raise SceneError(
                "The comparison layout could not be made", "Close other dialogs and try again.", kind="internal"
            )
        node.SetSaveWithScene(False)
        return node

    def _composite(self, tag: str):
        """In Slicer the slice view has made it by now; without a view it is made here."""
        node = self.scene.GetSingletonNode(tag, "vtkMRMLSliceCompositeNode")
        if node is None:
            node = self.scene.CreateNodeByClass("vtkMRMLSliceCompositeNode")
            node.UnRegister(None)
            node.SetLayoutName(tag)
            node = self.scene.AddNode(node)
        node.SetSaveWithScene(False)
        node.SetDoPropagateVolumeSelection(False)
        node.SetClipToBackgroundVolume(False)
        return node

    def _sliceModelNodes(self, tag: str) -> list:
        """Model, display and transform node of a slice view; Slicer leaves them behind when the view is gone."""
        found = []
        for index in range(self.scene.GetNumberOfNodesByClass("vtkMRMLModelNode")):
            model = self.scene.GetNthNodeByClass(index, "vtkMRMLModelNode")
            if slicer.vtkMRMLSliceLogic.IsSliceModelNode(model) and model.GetName().startswith(f"{tag} "):
                found += [model, model.GetDisplayNode(), model.GetParentTransformNode()]
        return found

    @staticmethod
    def _moveTo(sliceNode, ras: np.ndarray) -> None:
        toRas = sliceNode.GetSliceToRAS()
        for row in range(3):
            toRas.SetElement(row, 3, float(ras[row]))
        sliceNode.UpdateMatrices()


def layoutXml(orientation: str) -> str:
    """Slicer's description of the layout; `orientation` is that of the three slice views."""
    slices = "".join(
        f'<item><view class="vtkMRMLSliceNode" singletontag="{tag}">'
        f'<property name="orientation" action="default">{orientation}</property>'
        f'<property name="viewlabel" action="default">{LABELS[place]}</property>'
        f'<property name="viewcolor" action="default">{_COLORS[place]}</property>'
        f'<property name="viewgroup" action="default">{_VIEW_GROUP}</property></view></item>'
        for place, tag in TAGS.items()
    )
    plot = f'<view class="vtkMRMLPlotViewNode" singletontag="{PLOT_TAG}"></view>'
    table = f'<view class="vtkMRMLTableViewNode" singletontag="{TABLE_TAG}"></view>'
    return (
        '<layout type="vertical" split="true">'
        f'<item splitSize="650"><layout type="horizontal">{slices}</layout></item>'
        '<item splitSize="350"><layout type="horizontal" split="true">'
        f'<item splitSize="500">{plot}</item><item splitSize="500">{table}</item></layout></item></layout>'
    )


def userComposites(scene) -> list:
    """The vtkMRMLSliceCompositeNodes of the user's views. In the comparison's only what it compares may be shown."""
    name = "vtkMRMLSliceCompositeNode"
    found = [scene.GetNthNodeByClass(index, name) for index in range(scene.GetNumberOfNodesByClass(name))]
    return [composite for composite in found if composite.GetLayoutName() not in TAGS.values()]


def recoverLayout(layoutNode) -> bool:
    """Shows Slicer's first layout if the current one is unknown, as in a scene that was saved while comparing.

    Without it the views would stay empty. Call it when a scene has been opened.

    Returns:
        Whether the layout was changed.
    """
    if layoutNode.IsLayoutDescription(layoutNode.GetViewArrangement()):
        return False
    layoutNode.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutInitialView)
    return True


def _inverse(matrix: vtk.vtkMatrix4x4) -> vtk.vtkMatrix4x4:
    inverse = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(matrix, inverse)
    return inverse
