"""A real and a synthetic volume side by side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import slicer
import slicer.util
import vtk

from SynthDiffusionScene.comparisonLayout import LABELS, ORIENTATIONS, REAL, SYNTHETIC, THIRD, ComparisonLayout
from SynthDiffusionScene.comparisonTables import ComparisonTables
from SynthDiffusionScene.difference import (
    addDifferenceVolume,
    differenceArray,
    differenceNote,
    differenceTitle,
    setDifferenceLimit,
    suggestedLimit,
    unitOf,
)
from SynthDiffusionScene.digests import drawingChanged, voxelsChanged
from SynthDiffusionScene.displayState import OthersHidden, Outlines, WindowLevels
from SynthDiffusionScene.errors import SceneError
from SynthDiffusionScene.histogram import HistogramPair, histogramPair
from SynthDiffusionScene.runs import SEGMENTATION_ROLE
from SynthDiffusionScene.segmentations import segmentBounds
from SynthDiffusionScene.statistics import (
    Adherence,
    SegmentRow,
    adherenceOf,
    commonVoxels,
    compareSegments,
    segmentVoxels,
)
from SynthDiffusionScene.volumes import checkVolume

DIFFERENCE, FLICKER, FADE = "difference", "flicker", "fade"
MODES = (DIFFERENCE, FLICKER, FADE)

NOTE_DRAWING_CHANGED = "The drawing was changed after this volume was made."
NOTE_OTHER_DRAWING = "The segmentation is not the drawing that this volume was made from."


class Comparison:
    """Three linked slice views (real, synthetic, and a third one), a plot of histograms and a table of the segments.

    The views are its own, so the user's are not touched. `stop` takes away every node and observer that was added and
    restores the layout, window and level of both volumes, and the display of the segmentation. It stops by itself when
    the scene is closed, or a volume or the segmentation is removed.

        comparison = Comparison(slicer.mrmlScene, slicer.app.layoutManager().layoutLogic().GetLayoutNode())
        comparison.start(realNode, syntheticNode, segmentationNode)
        comparison.setMode("flicker")
        comparison.flick()  # at each tick of a timer of the caller
        comparison.stop()

    Args:
        scene: the MRML scene.
        layoutNode: see `ComparisonLayout`.
        onStopped: called with a sentence that says why, after it has stopped by itself.
    """

    def __init__(self, scene, layoutNode, onStopped: Callable[[str], None] | None = None) -> None:
        self.scene = scene
        self.layout = ComparisonLayout(scene, layoutNode)
        self.onStopped = onStopped
        self.isActive = False
        self._clear()

    def _clear(self) -> None:
        self.real = self.synthetic = self.segmentation = None
        self.mode, self.fade, self.shown, self.orientation = DIFFERENCE, 0.5, SYNTHETIC, ORIENTATIONS[0]
        self.segmentId: str | None = None
        self.rows: list[SegmentRow] = []
        self.adherence: Adherence | None = None
        self.whole: HistogramPair | None = None
        self.within: HistogramPair | None = None
        self.limit = 1.0
        self._differenceNodes, self._observers = [], []
        self._levels = self._tables = None
        self._differenceNote = self._drawingNote = ""
        self._segmentationStates = []

    # Beginning and end

    def start(self, realNode, syntheticNode, segmentationNode=None, orientation: str = "Axial", segmentId=None) -> None:
        """Shows the comparison. One that runs already is stopped first.

        Args:
            realNode: a scalar volume.
            syntheticNode: a scalar volume; its grid is that of the difference, and the views are fitted to it.
            segmentationNode: outlines, table and histograms; None for none.
            orientation: "Axial", "Sagittal" or "Coronal".
            segmentId: see `setSegment`; default the smallest segment, which as a rule is the lesion.

        Raises:
            SceneError: they cannot be compared. Nothing has changed then.
        """
        self.stop()
        _check(realNode, syntheticNode, segmentationNode)
        difference = differenceArray(syntheticNode, realNode)
        if not np.isfinite(difference).any():
            raise SceneError(
                f"The volumes '{realNode.GetName()}' and '{syntheticNode.GetName()}' do not overlap",
                "Choose the volume that the segmentation was drawn on.",
            )
        self.real, self.synthetic, self.segmentation = realNode, syntheticNode, segmentationNode
        self.orientation = orientation
        self.isActive = True
        try:
            self._build(difference, segmentId)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Restores what the user had, and removes all that was added. Does nothing if no comparison runs."""
        if not self.isActive:
            return
        self.isActive = False
        for watched, tag in self._observers:
            watched.RemoveObserver(tag)
        self.layout.leave()
        if self._tables is not None:
            self._tables.remove()
        for node in self._differenceNodes:
            if self.scene.IsNodePresent(node):
                self.scene.RemoveNode(node)
        for state in self._segmentationStates:
            state.restore()
        if self._levels is not None:
            self._levels.restore()
        self._clear()

    @contextmanager
    def paused(self):
        """Context in which the scene can be saved as the user had it: layout, windows, segmentation. See `stop`.

        The views on the screen stay.
        """
        if not self.isActive:
            yield
            return
        self._levels.pause()
        for state in self._segmentationStates:
            state.pause()
        try:
            with self.layout.arrangementHidden() if self.layout.isShown else nullcontext():
                yield
        finally:
            for state in self._segmentationStates:
                state.show()
            self._levels.resume()

    # What is shown

    @property
    def unit(self) -> str:
        """Unit of the voxels: "HU" or ""."""
        return unitOf(self.synthetic)

    @property
    def titles(self) -> dict[str, str]:
        """Caption of each view, by its place ("real", "synthetic", "third")."""
        third = {
            DIFFERENCE: differenceTitle(self.unit),
            FLICKER: f"Flicker: {LABELS[self.shown].lower()}",
            FADE: "Fade from real to synthetic",
        }[self.mode]
        return {REAL: "Real", SYNTHETIC: "Synthetic", THIRD: third}

    @property
    def note(self) -> str:
        """What has to stand beside the difference and the table: what they mean for these nodes, a few sentences."""
        return " ".join(note for note in (self._differenceNote, self._drawingNote) if note)

    def setOrientation(self, orientation: str) -> None:
        """Turns the three views: "Axial", "Sagittal" or "Coronal"."""
        self.orientation = orientation
        self.layout.setOrientation(orientation)
        self.fit()

    def fit(self) -> None:
        """Shows the whole synthetic volume, at the slice with the chosen segment."""
        self.layout.fit(self.synthetic)
        self._jumpToSegment()

    def setMode(self, mode: str) -> None:
        """What the third view shows.

        Args:
            mode: "difference", "flicker" (see `flick`) or "fade" (see `setFade`).
        """
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is not one of {MODES}")
        self.mode = mode
        self._showThird()

    def flick(self) -> str:
        """In mode "flicker": shows the other volume. The caller has the timer.

        Returns:
            What is shown now: "real" or "synthetic".
        """
        if self.mode == FLICKER:
            self.shown = REAL if self.shown == SYNTHETIC else SYNTHETIC
            self._showThird()
        return self.shown

    def setFade(self, fade: float) -> None:
        """In mode "fade": 0 for the real volume, 1 for the synthetic one, a mixture between."""
        self.fade = min(1.0, max(0.0, float(fade)))
        self._showThird()

    def setDifferenceLimit(self, limit: float) -> None:
        """The colours of the difference run from -limit to +limit, in the volumes' unit."""
        self.limit = float(limit)
        setDifferenceLimit(self._differenceNodes[0], self.limit)

    def setSegment(self, segmentId: str | None) -> None:
        """Chooses the segment that the views go to and whose histogram is drawn; None for the whole volume only."""
        self.segmentId = segmentId
        self.updateHistograms()
        self._jumpToSegment()

    def updateHistograms(self) -> None:
        """Counts anew, over the window that is shown now, in the part that both volumes show."""
        window, level = self._levels.window, self._levels.level
        ends = (level - window / 2, level + window / 2)
        pairs = ((self.real, self.synthetic), (self.synthetic, self.real))
        self.whole = histogramPair(*(commonVoxels(node, other) for node, other in pairs), *ends)
        self.within, segment = None, self._segment()
        if segment is not None:
            self.within = histogramPair(*(segmentVoxels(segment, node, other) for node, other in pairs), *ends)
        self._tables.showHistograms(self.whole, self.within, segment.GetName() if segment else "", self.unit)

    def refresh(self) -> None:
        """Measures the segments anew, after the segmentation was edited."""
        self.rows, self._drawingNote, self.adherence = [], "", adherenceOf(self.synthetic)
        if self.segmentation is not None:
            self.rows = compareSegments(self.segmentation, self.real, self.synthetic)
            if drawingChanged(self.synthetic, self.segmentation):
                isSource = self.synthetic.GetNodeReference(SEGMENTATION_ROLE) is self.segmentation
                self._drawingNote = NOTE_DRAWING_CHANGED if isSource else NOTE_OTHER_DRAWING
                ofDrawing = "the earlier drawing" if isSource else "another drawing"
                self.adherence = replace(self.adherence, ofDrawing=ofDrawing)
        if voxelsChanged(self.synthetic):
            self.adherence = replace(self.adherence, ofDrawing="the volume as it was made")
        self._tables.showRows(self.rows, self.adherence, self.unit)
        self.updateHistograms()

    # Parts

    def _build(self, difference: np.ndarray, segmentId: str | None) -> None:
        self._levels = WindowLevels([self.real, self.synthetic])
        self._segmentationStates = [OthersHidden(self.scene, self.segmentation)]
        if self.segmentation is not None:
            self._segmentationStates.append(Outlines(self.segmentation))
        self.layout.enter(self.orientation)
        self.layout.setOrientation(self.orientation)
        self._levels.start()
        for state in self._segmentationStates:
            state.show()
        self.limit = suggestedLimit(difference)
        self._differenceNodes = addDifferenceVolume(self.scene, self.synthetic, difference, self.limit)
        self._tables = ComparisonTables(self.scene, self.layout.plotView, self.layout.tableView)
        self._differenceNote = differenceNote(self.synthetic, self.real)
        self.segmentId = segmentId or _smallestSegment(self.segmentation)
        self.refresh()
        for place, node in ((REAL, self.real), (SYNTHETIC, self.synthetic)):
            self._showIn(place, node)
        self._showThird()
        self.layout.linkViews()
        self.fit()
        for event, method in (
            (slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._onNodeAboutToBeRemoved),
            (slicer.vtkMRMLScene.StartCloseEvent, self._onSceneClosing),
        ):
            self._observers.append((self.scene, self.scene.AddObserver(event, method)))

    def _showIn(self, place: str, background, foreground=None, opacity: float = 0.0) -> None:
        composite = self.layout.composites[place]
        wasModifying = composite.StartModify()
        composite.SetBackgroundVolumeID(background.GetID())
        composite.SetForegroundVolumeID(foreground.GetID() if foreground is not None else None)
        composite.SetForegroundOpacity(opacity)
        composite.SetLabelVolumeID(None)
        composite.EndModify(wasModifying)

    def _showThird(self) -> None:
        if self.mode == DIFFERENCE:
            self._showIn(THIRD, self._differenceNodes[0])
        elif self.mode == FLICKER:
            self._showIn(THIRD, self.real if self.shown == REAL else self.synthetic)
        else:
            self._showIn(THIRD, self.real, self.synthetic, self.fade)
        label = {DIFFERENCE: LABELS[THIRD], FLICKER: LABELS[self.shown], FADE: "Fade"}[self.mode]
        self.layout.slices[THIRD].SetLayoutLabel(label)

    def _segment(self):
        if self.segmentation is None or not self.segmentId:
            return None
        return self.segmentation.GetSegmentation().GetSegment(self.segmentId)

    def _jumpToSegment(self) -> None:
        """To the voxel of the segment that is next to its middle: the middle of a curved one may lie outside of it."""
        segment = self._segment()
        mask, place = segmentBounds(segment) if segment is not None else (np.zeros(0), None)
        if not mask.any():
            return
        voxels = np.argwhere(mask)[:, ::-1]
        nearest = voxels[np.argmin(np.sum((voxels - voxels.mean(0)) ** 2, axis=1))]
        local = (place @ [*nearest, 1])[:3]
        transform = vtk.vtkGeneralTransform()
        parent = self.segmentation.GetParentTransformNode()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(parent, None, transform)
        self.layout.jumpTo(np.array(transform.TransformPoint(local)))

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAboutToBeRemoved(self, scene, event, node) -> None:
        if any(node is used for used in (self.real, self.synthetic, self.segmentation)):
            self._stopBecause(f"'{node.GetName()}' was removed.")

    def _onSceneClosing(self, scene, event) -> None:
        self._stopBecause("The scene was closed.")

    def _stopBecause(self, reason: str) -> None:
        self.stop()
        if self.onStopped is not None:
            self.onStopped(reason)


def _check(realNode, syntheticNode, segmentationNode) -> None:
    """Refuses what cannot be compared.

    Raises:
        SceneError: it names the node and the mend.
    """
    if realNode is None or syntheticNode is None:
        raise SceneError("Two volumes are needed", "Choose a real and a synthetic volume.")
    if realNode is syntheticNode:
        raise SceneError(f"'{realNode.GetName()}' is chosen twice", "Choose a real and a synthetic volume.")
    for node in (realNode, syntheticNode):
        checkVolume(node)
        components = node.GetImageData().GetNumberOfScalarComponents()
        if components != 1:
            raise SceneError(
                f"'{node.GetName()}' has {components} values in each voxel",
                "Choose one with a single value.",
            )
    for node in (realNode, segmentationNode):
        if node is not None and node.GetParentTransformNode() is not syntheticNode.GetParentTransformNode():
            raise SceneError(
                f"'{node.GetName()}' is under {_transformName(node)}, '{syntheticNode.GetName()}' under "
                f"{_transformName(syntheticNode)}",
                "Put all three under the same transform, or harden it (Transforms module).",
            )


def _transformName(node) -> str:
    transform = node.GetParentTransformNode()
    return f"the transform '{transform.GetName()}'" if transform is not None else "no transform"


def _smallestSegment(segmentationNode) -> str | None:
    """ID of the smallest segment that holds anything."""
    if segmentationNode is None:
        return None
    segmentation = segmentationNode.GetSegmentation()
    sizes = {}
    for segmentId in segmentation.GetSegmentIDs():
        mask, place = segmentBounds(segmentation.GetSegment(segmentId))
        if mask.any():
            sizes[segmentId] = mask.sum() * abs(np.linalg.det(place[:3, :3]))
    return min(sizes, key=sizes.get) if sizes else None
