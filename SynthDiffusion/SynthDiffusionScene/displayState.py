"""How the user sees volumes and a segmentation, remembered and restored."""

from __future__ import annotations


class WindowLevels:
    """Keeps window and level of some volumes equal until `restore`.

    Without `start` nothing is changed. The first volume's own setting is used, or, while that is automatic and another
    volume's is not, that one's.

    Args:
        volumeNodes: volumes, the one whose setting counts most first.
    """

    def __init__(self, volumeNodes) -> None:
        self._scene = volumeNodes[0].GetScene()
        self._made = [node for node in volumeNodes if node.GetDisplayNode() is None]
        for node in self._made:
            node.CreateDefaultDisplayNodes()
        self._displays = [node.GetDisplayNode() for node in volumeNodes]
        self._before = [(d.GetAutoWindowLevel(), d.GetWindow(), d.GetLevel()) for d in self._displays]
        self._observers = []
        self._busy = False

    def start(self) -> None:
        """Gives all volumes the same window and level, and keeps them so."""
        leading = next((state for state in self._before if not state[0]), self._before[0])
        self._set(leading[1], leading[2])
        self._observers = [(d, d.AddObserver("ModifiedEvent", self._onModified)) for d in self._displays]

    @property
    def window(self) -> float:
        """The common window."""
        return self._displays[0].GetWindow()

    @property
    def level(self) -> float:
        """The common level."""
        return self._displays[0].GetLevel()

    def pause(self) -> None:
        """Shows each volume as the user had it; `resume` ends it."""
        self._paused = (self.window, self.level)
        self._busy = True
        self._setBack()

    def resume(self) -> None:
        """Goes on with the common window and level of before `pause`."""
        self._busy = False
        self._set(*self._paused)

    def restore(self) -> None:
        """Gives every volume its own window, level and automatic flag back. A second call does nothing."""
        for display, tag in self._observers:
            display.RemoveObserver(tag)
        self._observers = []
        self._setBack()
        for node in self._made:
            display = node.GetDisplayNode()
            if display is not None and self._scene.IsNodePresent(display):
                self._scene.RemoveNode(display)
        self._displays, self._before, self._made = [], [], []

    def _setBack(self) -> None:
        for display, (automatic, window, level) in zip(self._displays, self._before):
            wasModifying = display.StartModify()
            display.SetAutoWindowLevel(False)
            display.SetWindowLevel(window, level)
            display.SetAutoWindowLevel(automatic)
            display.EndModify(wasModifying)

    def _onModified(self, caller, event) -> None:
        if not self._busy:
            self._set(caller.GetWindow(), caller.GetLevel())

    def _set(self, window: float, level: float) -> None:
        self._busy = True
        for display in self._displays:
            wasModifying = display.StartModify()
            display.SetAutoWindowLevel(False)
            display.SetWindowLevel(window, level)
            display.EndModify(wasModifying)
        self._busy = False


class Outlines:
    """Shows a segmentation as outlines in all slice views until `restore`. Segments that the user has hidden stay so.

    Args:
        segmentationNode: a vtkMRMLSegmentationNode.
    """

    # Of the display node: name of the property, and its value for clear outlines.
    _WANTED = {
        "Visibility": True,
        "Visibility2D": True,
        "Visibility2DFill": False,
        "Visibility2DOutline": True,
        "Opacity": 1.0,
        "Opacity2DOutline": 1.0,
    }

    def __init__(self, segmentationNode) -> None:
        self._scene = segmentationNode.GetScene()
        self._made = segmentationNode.GetDisplayNode() is None
        if self._made:
            segmentationNode.CreateDefaultDisplayNodes()
        self._segmentation = segmentationNode.GetSegmentation()
        display = self._display = segmentationNode.GetDisplayNode()
        self._before = {name: getattr(display, f"Get{name}")() for name in self._WANTED}
        self._views = [display.GetNthViewNodeID(n) for n in range(display.GetNumberOfViewNodeIDs())]
        self._segments = {
            segmentId: (display.GetSegmentVisibility2DOutline(segmentId), display.GetSegmentOpacity2DOutline(segmentId))
            for segmentId in self._segmentation.GetSegmentIDs()
        }

    def show(self) -> None:
        """Switches fills off and outlines on."""
        wasModifying = self._display.StartModify()
        self._display.RemoveAllViewNodeIDs()
        self._setProperties(self._WANTED)
        for segmentId in self._segments:
            self._setSegment(segmentId, True, 1.0)
        self._display.EndModify(wasModifying)

    def restore(self) -> None:
        """Shows the segmentation as it was. A second call does nothing."""
        display, self._display = self._display, None
        if display is None or not self._scene.IsNodePresent(display):
            return
        if self._made:
            self._scene.RemoveNode(display)
            return
        self._display = display
        self._showAsBefore()
        self._display = None

    def pause(self) -> None:
        """Shows the segmentation as the user had it; `show` ends it."""
        self._showAsBefore()

    def _showAsBefore(self) -> None:
        wasModifying = self._display.StartModify()
        for segmentId, (visible, opacity) in self._segments.items():
            self._setSegment(segmentId, visible, opacity)
        self._setProperties(self._before)
        self._display.RemoveAllViewNodeIDs()
        for viewId in self._views:
            self._display.AddViewNodeID(viewId)
        self._display.EndModify(wasModifying)

    def _setProperties(self, values: dict) -> None:
        for name, value in values.items():
            getattr(self._display, f"Set{name}")(value)

    def _setSegment(self, segmentId: str, visible: bool, opacity: float) -> None:
        if self._segmentation.GetSegment(segmentId) is None:  # removed meanwhile
            return
        self._display.SetSegmentVisibility2DOutline(segmentId, visible)
        self._display.SetSegmentOpacity2DOutline(segmentId, opacity)


class OthersHidden:
    """Hides all segmentations but one in slice views until `restore`: fills of others would cover what is compared.

    Args:
        scene: the MRML scene.
        segmentationNode: the one that stays; None to hide all.
    """

    def __init__(self, scene, segmentationNode) -> None:
        self._scene = scene
        self._displays = []
        for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
            node = scene.GetNthNodeByClass(index, "vtkMRMLSegmentationNode")
            if node is not segmentationNode:
                found = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
                self._displays += [display for display in found if display is not None and display.GetVisibility2D()]

    def show(self) -> None:
        """Hides the others. (The name is that of `Outlines`, with which it goes.)"""
        self._set(False)

    def pause(self) -> None:
        """Shows the others as the user had them; `show` ends it."""
        self._set(True)

    def restore(self) -> None:
        """Shows the others as they were. A second call does nothing."""
        self._set(True)
        self._displays = []

    def _set(self, visible: bool) -> None:
        for display in self._displays:
            if self._scene.IsNodePresent(display):
                display.SetVisibility2D(visible)
