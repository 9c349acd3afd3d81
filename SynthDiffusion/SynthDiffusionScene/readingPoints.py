"""Marks that a reader puts into the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import slicer

_CLASS = "vtkMRMLMarkupsFiducialNode"
_COLOR = (1.0, 0.3, 0.3)
_GLYPH_SCALE, _TEXT_SCALE = 2.0, 3.0
POINT_NAME = "Mark"


class ReadingPoints:
    """Lets the reader click a point in a slice view, and draws the points that there are.

    Placing uses Slicer's own place mode; what it was set to before comes back when it ends. The nodes are hidden from
    the user's lists and never saved.

    Args:
        scene: the MRML scene.
    """

    def __init__(self, scene) -> None:
        self.scene = scene
        self._nodes: list = []
        self._placing = None
        self._observers: list = []
        self._before: tuple | None = None
        self._onPlaced: Callable[[list[float]], None] | None = None
        self._onEnded: Callable[[], None] | None = None

    @property
    def isPlacing(self) -> bool:
        """Whether the next click in a view is a point."""
        return self._placing is not None

    def place(self, onPlaced: Callable[[list[float]], None], onEnded: Callable[[], None]) -> None:
        """Has the next click in a slice view tell its place.

        Args:
            onPlaced: called with RAS in mm.
            onEnded: called when Slicer has left its place mode, after a click or because the reader has thought better
                of it (Esc, or the right button). Both are called in the middle of Slicer's handling of the click, in
                any order: they must not add or remove nodes, nor call `stop`.
        """
        self.stop()
        interaction, selection = self._singletons()
        if interaction is None or selection is None:
            return
        node = self._add()
        self._placing, self._onPlaced, self._onEnded = node, onPlaced, onEnded
        self._before = (
            interaction.GetCurrentInteractionMode(),
            interaction.GetPlaceModePersistence(),
            selection.GetActivePlaceNodeClassName(),
            selection.GetActivePlaceNodeID(),
        )
        selection.SetReferenceActivePlaceNodeClassName(_CLASS)
        selection.SetActivePlaceNodeID(node.GetID())
        interaction.SetPlaceModePersistence(0)
        interaction.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.Place)
        defined = slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent
        changed = slicer.vtkMRMLInteractionNode.InteractionModeChangedEvent
        self._observers = [
            (node, node.AddObserver(defined, self._onPointDefined)),
            (interaction, interaction.AddObserver(changed, self._onModeChanged)),
        ]

    def stop(self) -> None:
        """Ends placing. Does nothing if none is under way."""
        for watched, tag in self._observers:
            watched.RemoveObserver(tag)
        self._observers = []
        node, self._placing = self._placing, None
        self._onPlaced = self._onEnded = None
        before, self._before = self._before, None
        interaction, selection = self._singletons()
        if before is not None and interaction is not None:
            mode, persistence, className, nodeId = before
            place = slicer.vtkMRMLInteractionNode.Place
            interaction.SetCurrentInteractionMode(
                mode if mode != place else slicer.vtkMRMLInteractionNode.ViewTransform
            )
            interaction.SetPlaceModePersistence(persistence)
            selection.SetReferenceActivePlaceNodeClassName(className)
            selection.SetActivePlaceNodeID(nodeId)
        if node is not None:
            self._remove(node)

    def show(self, points: Sequence[tuple[int, Sequence[float], str]], viewIds: Mapping[int, Sequence[str]]) -> None:
        """Draws points in place of those before.

        Args:
            points: of each the volume, RAS in mm, and what stands beside it.
            viewIds: IDs of the slice nodes that show a volume.
        """
        self._removeShown()
        for volume in sorted({volume for volume, _ras, _text in points}):
            node = self._add()
            for viewId in viewIds[volume]:
                node.GetDisplayNode().AddViewNodeID(viewId)
            for number, ras, text in points:
                if number == volume:
                    index = node.AddControlPoint([float(x) for x in ras])
                    node.SetNthControlPointLabel(index, text)
            node.SetLocked(True)
            self._nodes.append(node)

    def setVisible(self, visible: bool) -> None:
        """Shows or hides all of them."""
        for node in self._nodes:
            node.GetDisplayNode().SetVisibility(visible)

    def clear(self) -> None:
        """Removes all points and ends placing."""
        self.stop()
        self._removeShown()

    end = clear

    def _removeShown(self) -> None:
        nodes, self._nodes = self._nodes, []
        for node in nodes:
            self._remove(node)

    def _add(self):
        node = self.scene.CreateNodeByClass(_CLASS)
        node.UnRegister(None)
        node.SetName(POINT_NAME)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        self.scene.AddNode(node)
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetHideFromEditors(True)
        display.SetSaveWithScene(False)
        display.SetSelectedColor(*_COLOR)
        display.SetGlyphScale(_GLYPH_SCALE)
        display.SetTextScale(_TEXT_SCALE)
        display.SetVisibility3D(False)
        return node

    def _remove(self, node) -> None:
        display = node.GetDisplayNode()
        for gone in (node, display):
            if gone is not None and self.scene.IsNodePresent(gone):
                self.scene.RemoveNode(gone)

    def _singletons(self) -> tuple:
        names = ("vtkMRMLInteractionNode", "vtkMRMLSelectionNode")
        return tuple(self.scene.GetFirstNodeByClass(name) for name in names)

    def _onPointDefined(self, caller, event) -> None:
        # While placing there is a preview of the point too, under the mouse.
        defined = slicer.vtkMRMLMarkupsNode.PositionDefined
        count = caller.GetNumberOfControlPoints()
        found = [n for n in range(count) if caller.GetNthControlPointPositionStatus(n) == defined]
        if found and self._onPlaced is not None:
            ras = [0.0, 0.0, 0.0]
            caller.GetNthControlPointPositionWorld(found[-1], ras)
            self._onPlaced([round(x, 3) for x in ras])

    def _onModeChanged(self, caller, event) -> None:
        if caller.GetCurrentInteractionMode() != slicer.vtkMRMLInteractionNode.Place and self._onEnded is not None:
            self._onEnded()
