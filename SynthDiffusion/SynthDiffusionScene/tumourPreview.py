"""A box in the slice views: about where the tumour that is asked for will be."""

from __future__ import annotations

from collections.abc import Sequence

import slicer
import slicer.util

from SynthDiffusionScene.comparisonLayout import userComposites
from SynthDiffusionScene.runFolders import removeNode

_NAME = "SynthDiffusion tumor preview"
_COLOR = (1.0, 0.75, 0.1)


class TumourPreview:
    """An outline over whatever the slice views of the user show. No view is moved, and none gets another image.

    The node cannot be picked or dragged, is in no list of the user and is never saved with the scene. It lies in the
    frame of a volume that is made without a drawing: RAS, with the middle of the volume at the origin.

    Example:
        preview = TumourPreview(scene)
        preview.show((0, 10, -5), (40, 30, 50))  # again whenever something has changed
        preview.remove()

    Args:
        scene: the MRML scene.
    """

    def __init__(self, scene) -> None:
        self._scene = scene
        self._node = None

    @property
    def node(self) -> slicer.vtkMRMLMarkupsROINode | None:
        """The node while there is one in the scene."""
        return self._node if self._node is not None and self._node.GetScene() is self._scene else None

    def show(self, middle: Sequence[float], sides: Sequence[float]) -> None:
        """Shows the box, or moves it.

        Args:
            middle, sides: in mm, towards the patient's right, front and head.
        """
        if self._scene.IsClosing():
            return
        if self.node is None:
            self._node = self._addNode()
        with slicer.util.NodeModify(self._node):
            self._node.SetCenter(*middle)
            self._node.SetSize(*sides)
        self._keepToViews()

    def remove(self) -> None:
        """Takes the box out of the views and the scene. Does nothing if there is none."""
        if self.node is not None:
            removeNode(self._scene, self._node)
        self._node = None

    def _addNode(self) -> slicer.vtkMRMLMarkupsROINode:
        # Both are made whole before they are added: Slicer gives a markup without a display node one of its own, and
        # one that is not hidden an item in the subject hierarchy.
        display, node = slicer.vtkMRMLMarkupsROIDisplayNode(), slicer.vtkMRMLMarkupsROINode()
        for new in (display, node):
            new.SetName(_NAME)
            new.SetHideFromEditors(True)
            new.SetSaveWithScene(False)
        for color in (display.SetColor, display.SetSelectedColor, display.SetActiveColor):
            color(*_COLOR)
        display.SetFillVisibility(False)
        display.SetHandlesInteractive(False)
        display.SetPointLabelsVisibility(False)
        display.SetPropertiesLabelVisibility(False)
        display.SetVisibility3D(False)
        node.SetSelectable(False)
        node.SetLocked(True)
        node.SetROIType(slicer.vtkMRMLMarkupsROINode.ROITypeBox)
        self._scene.AddNode(display)
        node.SetAndObserveDisplayNodeID(display.GetID())
        self._scene.AddNode(node)
        return node

    def _keepToViews(self) -> None:
        """Only the user's own views show it, and not those of a comparison."""
        display = self._node.GetDisplayNode()
        names = [composite.GetLayoutName() for composite in userComposites(self._scene)]
        views = [self._scene.GetSingletonNode(name, "vtkMRMLSliceNode") for name in names]
        wanted = [view.GetID() for view in views if view is not None]
        if list(display.GetViewNodeIDs()) != wanted:
            display.RemoveAllViewNodeIDs()
            for view in wanted:
                display.AddViewNodeID(view)
