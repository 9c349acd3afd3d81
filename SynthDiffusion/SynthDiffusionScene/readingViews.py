"""The images of a blinded reading: one case at a time, in views of its own, with the study's windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import slicer
import vtk

from SynthDiffusionScene.readingLayout import AXIAL, SIDE_BY_SIDE, THREE_PLANES, ReadingLayout, View
from SynthDiffusionScene.readingNodes import addOpaqueMask, addOpaqueVolume, middleOf, middleOfMask, removeWithDisplay
from SynthDiffusionScene.readingPoints import ReadingPoints

FORCED_CHOICE = "forced_choice"  # kind of a task, as in the study file
_SAME = 1e-6


@dataclass(frozen=True)
class Window:
    """A window preset: grey values from center - width / 2 to center + width / 2."""

    name: str
    center: float
    width: float

    @staticmethod
    def listed(viewing: Mapping) -> list[Window]:
        """The presets of a study file's `viewing`."""
        return [Window(str(w["name"]), float(w["center"]), float(w["width"])) for w in viewing.get("windows") or ()]


def layoutOf(viewing: Mapping, kind: str) -> str:
    """Which layout a task is read in: pairs always side by side, single volumes as the study says."""
    if kind == FORCED_CHOICE:
        return SIDE_BY_SIDE
    return AXIAL if viewing.get("layout") == AXIAL else THREE_PLANES


class ReadingViews:
    """Shows the cases of a reading one after the other, and gives the user's views back at the end.

    There are never more nodes in the scene than those of the case that is shown. It stops by itself when the scene is
    closed or a node of the case is removed.

        views = ReadingViews(slicer.mrmlScene, layoutNode, fitThrough(slicer.app.applicationLogic()))
        views.show("single", study.viewing, [path], [None])
        record(views.state())
        views.end()

    Args:
        scene: the MRML scene.
        layoutNode: see `ReadingLayout`.
        fitView: called with the vtkMRMLSliceCompositeNode of every view, see `preview.fitThrough`.
        onStopped: called with a sentence that says why, after it has stopped by itself.

    Attributes:
        points: marks in the images, see `ReadingPoints`.
        windowName: of the preset that was chosen last, "" for none.
        reverts: how often the window of the case was changed and put back, because it is locked.
    """

    def __init__(self, scene, layoutNode, fitView=None, onStopped: Callable[[str], None] | None = None) -> None:
        self.scene = scene
        self.layout = ReadingLayout(scene, layoutNode)
        self.points = ReadingPoints(scene)
        self._fitView, self._onStopped = fitView, onStopped
        self._volumes: list = []
        self._masks: list = []
        self._starts: list = []
        self._others: list = []
        self._observers: list = []
        self._active = False
        self._mouseBefore: tuple | None = None
        self._keeper: _WindowKeeper | None = None
        self.layoutName, self.windowName, self.imagesShown = "", "", False

    @property
    def isActive(self) -> bool:
        """Whether its views are shown instead of the user's."""
        return self._active

    @property
    def views(self) -> tuple[View, ...]:
        return self.layout.views

    @property
    def reverts(self) -> int:
        return self._keeper.reverts if self._keeper is not None else 0

    def show(
        self,
        kind: str,
        viewing: Mapping,
        volumes: Sequence[Path],
        masks: Sequence[Path | None] = (),
        showMasks: bool = False,
    ) -> None:
        """Shows a case in place of the one before.

        Args:
            kind: of the task: "single" or "forced_choice".
            viewing: of the study: `layout`, `windows`, `window_locked`, `start_slice`.
            volumes: one file, or the left and the right one.
            masks: their masks; None for one that has none.
            showMasks: whether they are drawn; otherwise they say at most where to start.

        Raises:
            SceneError: a file cannot be read. No images are shown then, and the layout stays.
        """
        self.clear()
        self._begin()
        name = layoutOf(viewing, kind)
        if name != self.layoutName or not self.layout.views:
            self.layout.enter(name)
            self.layoutName = name
        try:
            self._volumes = []
            for path in volumes:
                self._volumes.append(addOpaqueVolume(self.scene, path))
            starts = self._loadStarts(viewing, masks, showMasks)
        except BaseException:
            self.clear()
            raise
        presets = Window.listed(viewing)
        displays = [node.GetDisplayNode() for node in self._volumes]
        self._keeper = _WindowKeeper(displays, bool(viewing.get("window_locked")))
        known = next((preset for preset in presets if preset.name == self.windowName), None)
        self.setWindow(known or (presets[0] if presets else None))
        self._setMouse(bool(viewing.get("window_locked")))
        self._starts = starts
        self.showImages()
        self.fit()

    def fit(self) -> None:
        """Shows the volumes as large as the views allow, at the slices where the case begins."""
        for view in self.layout.views if self.imagesShown else ():
            composite, sliceNode = self.layout.composites[view.tag], self.layout.slices[view.tag]
            if self._fitView is not None:
                self._fitView(composite)
            sliceNode.JumpSliceByOffsetting(*[float(x) for x in self._starts[view.volume]])

    def setWindow(self, preset: Window | None) -> None:
        """Chooses a preset; None: from the darkest to the brightest voxel of the case."""
        if self._keeper is None:
            return
        self.windowName = preset.name if preset is not None else ""
        if preset is None:
            ranges = [node.GetImageData().GetScalarRange() for node in self._volumes]
            low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
            self._keeper.set(max(high - low, 1.0), (low + high) / 2)
        else:
            self._keeper.set(preset.width, preset.center)

    def showImages(self) -> None:
        """Shows the images of the case, after `hideImages` too."""
        for view in self.layout.views:
            shown = self._volumes[view.volume].GetID() if view.volume < len(self._volumes) else None
            composite = self.layout.composites[view.tag]
            wasModifying = composite.StartModify()
            composite.SetBackgroundVolumeID(shown)
            composite.SetForegroundVolumeID(None)
            composite.SetLabelVolumeID(None)
            composite.EndModify(wasModifying)
        self._showMasks(True)
        self.points.setVisible(True)
        self.imagesShown = bool(self._volumes)

    def hideImages(self) -> None:
        """Leaves the views black, as in a pause."""
        for composite in self.layout.composites.values():
            composite.SetBackgroundVolumeID(None)
        self._showMasks(False)
        self.points.setVisible(False)
        self.points.stop()
        self.imagesShown = False

    def state(self) -> dict:
        """How the case is looked at now: layout, window preset, and of each view plane, position, window and level.

        `offset_mm` is what Slicer's slider says (along the plane's normal), `center_ras_mm` the middle of the view.
        """
        views = []
        for view in self.layout.views:
            if view.volume >= len(self._volumes):
                continue
            sliceNode = self.layout.slices[view.tag]
            display = self._volumes[view.volume].GetDisplayNode()
            toRas = sliceNode.GetSliceToRAS()
            views.append(
                {
                    "view": view.label.lower(),
                    "orientation": sliceNode.GetOrientation(),
                    "offset_mm": round(sliceNode.GetSliceOffset(), 3),
                    "center_ras_mm": [round(toRas.GetElement(row, 3), 3) for row in range(3)],
                    "field_of_view_mm": [round(x, 2) for x in sliceNode.GetFieldOfView()[:2]],
                    "window": round(display.GetWindow(), 3),
                    "level": round(display.GetLevel(), 3),
                }
            )
        return {
            "layout": self.layoutName,
            "window_preset": self.windowName,
            "window_reverts": self.reverts,
            "images": self.imagesShown,
            "views": views,
        }

    def volumeOf(self, tag: str) -> int:
        """Which volume the view of that tag shows: 0, or 1 for the right one."""
        return next((view.volume for view in self.layout.views if view.tag == tag), 0)

    def orientationOf(self, tag: str) -> str:
        """ "Axial", "Sagittal", "Coronal", or what else the view of that tag shows; "" for no view."""
        return self.layout.slices[tag].GetOrientation() if any(v.tag == tag for v in self.layout.views) else ""

    def showPoints(self, points: Sequence[tuple[int, Sequence[float], str]]) -> None:
        """Draws the marks of a case.

        Args:
            points: of each the volume (0 or 1), RAS in mm, and what stands beside it.
        """
        ids = {v: [self.layout.slices[w.tag].GetID() for w in self.layout.views if w.volume == v] for v in (0, 1)}
        self.points.show(points, ids)

    def clear(self) -> None:
        """Takes the case out of the scene; the layout stays."""
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
        self.points.clear()
        gone, self._volumes, self._masks = [*self._masks, *self._volumes], [], []
        for composite in self.layout.composites.values():
            composite.SetBackgroundVolumeID(None)
        for node in gone:
            removeWithDisplay(self.scene, node)
        self.imagesShown = False

    def end(self) -> None:
        """Removes all that was added and gives the user's views back. A second call does nothing."""
        if not self._active:
            return
        self._active = False
        for watched, tag in self._observers:
            watched.RemoveObserver(tag)
        self._observers = []
        self.clear()
        self.points.end()
        interaction, self._mouseBefore = self._mouseBefore, None
        if interaction is not None:
            interaction[0].SetCurrentInteractionMode(interaction[1])
        self.layout.leave()
        self.layoutName = ""
        for display in self._others:
            if self.scene.IsNodePresent(display):
                display.SetVisibility2D(True)
        self._others = []

    def _begin(self) -> None:
        """What else is in the scene must not be drawn over the images."""
        if self._active:
            return
        self._active = True
        self._others = list(_drawnInSlices(self.scene))
        for display in self._others:
            display.SetVisibility2D(False)
        for event, method in (
            (slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._onRemoved),
            (slicer.vtkMRMLScene.StartCloseEvent, self._onSceneClosing),
            (slicer.vtkMRMLScene.StartImportEvent, self._onSceneImporting),
        ):
            self._observers.append((self.scene, self.scene.AddObserver(event, method)))

    def _loadStarts(self, viewing: Mapping, masks: Sequence[Path | None], showMasks: bool) -> list:
        """Where each volume is shown first, RAS in mm. Loads the masks that are needed."""
        fromMask = viewing.get("start_slice") == "mask"
        starts = []
        for index, node in enumerate(self._volumes):
            path = masks[index] if index < len(masks) else None
            start = None
            if path is not None and (showMasks or fromMask):
                mask = addOpaqueMask(self.scene, path)
                self._masks.append(mask)
                start = middleOfMask(mask) if fromMask else None
                views = [view for view in self.layout.views if view.volume == index]
                for view in views:  # the other volume's mask has no place in this one's view
                    mask.GetDisplayNode().AddViewNodeID(self.layout.slices[view.tag].GetID())
                if not showMasks:
                    self._masks.remove(mask)
                    removeWithDisplay(self.scene, mask)
            starts.append(middleOf(node) if start is None else start)
        return starts

    def _setMouse(self, locked: bool) -> None:
        """Where windows are free, dragging in an image changes them; Slicer's own button for that is hidden."""
        node = self.scene.GetFirstNodeByClass("vtkMRMLInteractionNode")
        if node is None:
            return
        if self._mouseBefore is None:
            self._mouseBefore = (node, node.GetCurrentInteractionMode())
        modes = slicer.vtkMRMLInteractionNode
        node.SetCurrentInteractionMode(modes.ViewTransform if locked else modes.AdjustWindowLevel)

    def _showMasks(self, visible: bool) -> None:
        for node in self._masks:
            node.GetDisplayNode().SetVisibility2D(visible)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onRemoved(self, scene, event, node) -> None:
        if any(node is own for own in [*self._volumes, *self._masks]):
            self._stopBecause("An image of the reading was removed.")

    def _onSceneClosing(self, scene, event) -> None:
        self._stopBecause("The scene was closed.")

    def _onSceneImporting(self, scene, event) -> None:
        self._stopBecause("A scene was opened.")

    def _stopBecause(self, reason: str) -> None:
        if self._active:
            self.end()
            if self._onStopped is not None:
                self._onStopped(reason)


class _WindowKeeper:
    """Keeps window and level of the volumes of a case alike, and, where they are locked, as they were set.

    Args:
        displays: display nodes of the volumes.
        locked: whether changes of others are put back.
    """

    def __init__(self, displays: Sequence, locked: bool) -> None:
        self._displays, self._locked = list(displays), locked
        self._wanted: tuple[float, float] | None = None
        self._busy = False
        self.reverts = 0
        self._observers = [(d, d.AddObserver("ModifiedEvent", self._onModified)) for d in self._displays]

    def set(self, window: float, level: float) -> None:
        """Sets all of them."""
        self._wanted = (window, level)
        self._busy = True
        for display in self._displays:
            wasModifying = display.StartModify()
            display.SetAutoWindowLevel(False)
            display.SetWindowLevel(window, level)
            display.EndModify(wasModifying)
        self._busy = False

    def stop(self) -> None:
        """Lets go of the display nodes."""
        for display, tag in self._observers:
            display.RemoveObserver(tag)
        self._observers = []

    def _onModified(self, caller, event) -> None:
        if self._busy or self._wanted is None:
            return
        found = (caller.GetWindow(), caller.GetLevel())
        same = all(abs(a - b) <= _SAME * max(1.0, abs(b)) for a, b in zip(found, self._wanted))
        if same and not caller.GetAutoWindowLevel():
            return
        if self._locked:
            self.reverts += 1
            self.set(*self._wanted)
        else:
            self.set(*found)


def _drawnInSlices(scene):
    """Display nodes of all that is not a volume and is drawn in slice views."""
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLDisplayNode")):
        display = scene.GetNthNodeByClass(index, "vtkMRMLDisplayNode")
        if not display.IsA("vtkMRMLVolumeDisplayNode") and display.GetVisibility2D():
            yield display
