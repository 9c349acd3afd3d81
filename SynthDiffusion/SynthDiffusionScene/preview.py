"""The coarse volume that the slice views show while a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import slicer
import slicer.util

from SynthDiffusionScene.comparisonLayout import userComposites
from SynthDiffusionScene.volumes import SYNTHETIC, ijkToRas, loadVolume, setDisplay

PREVIEW = "SynthDiffusion.Preview"
_NAME = "SynthDiffusion preview"


class Preview:
    """Shows previews in all slice views of the user, and leaves the views as they were.

    A view that shows a volume in its background gets the preview over it, in its foreground; a view without one gets it
    in its background. Where the user then chooses something else for that layer, the choice stays. The volume node is
    hidden from the user's lists and never saved with the scene.

    Example:
        preview = Preview(scene, segmentationNode)
        preview.show(path)    # again for every preview of the run
        preview.remove()      # when it ends, however it ends

    Args:
        scene: the MRML scene.
        segmentationNode: what the run was started from; the preview lies under the same transform.
        likeVolumeNode: the real volume when inpainting, whose window and level the preview takes over.
        fitView: called with the vtkMRMLSliceCompositeNode of every view that had no background, so that its field of
            view can be made to hold the preview; see `fitThrough`. Other fields of view are left alone.
    """

    def __init__(
        self, scene, segmentationNode=None, likeVolumeNode=None, fitView: Callable[[object], None] | None = None
    ) -> None:
        self._scene = scene
        self._segmentationNode = segmentationNode
        self._likeVolumeNode = likeVolumeNode
        self._fitView = fitView
        self._node = None
        self._shown: dict[str, _Layer] = {}

    @property
    def node(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The preview's volume node while there is one in the scene."""
        return self._node if self._node is not None and self._node.GetScene() is self._scene else None

    def show(self, path: str | Path) -> None:
        """Shows a preview in place of the one before, also in views that have come since.

        Raises:
            SceneError: the file cannot be read as a volume; what is shown stays.
        """
        loaded = loadVolume(slicer.vtkMRMLScene(), path, _NAME)  # in a scene of its own: not seen half made
        if self.node is None:
            self.remove()
            self._node = self._addNode()
        self._node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRas(loaded)))
        self._node.SetAndObserveImageData(loaded.GetImageData())
        self._setWindow()
        self._place()

    def remove(self) -> None:
        """Takes the preview out of the views and the scene. Does nothing if there is none."""
        self._restore()
        self._shown.clear()
        if self.node is not None:
            display = self._node.GetDisplayNode()
            self._scene.RemoveNode(self._node)  # first: see `runFolders.removeNode`
            if display is not None:
                self._scene.RemoveNode(display)
        self._node = None

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The views without the preview for the length of a `with` block, for example while the scene is saved."""
        restored = self._restore()
        try:
            yield
        finally:
            if self.node is not None:
                for layer in restored:
                    layer.put(self._node)

    def _addNode(self) -> slicer.vtkMRMLScalarVolumeNode:
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetName(_NAME)
        # All this before it is added: Slicer looks then whether to put it into the subject hierarchy.
        node.SetHideFromEditors(True)
        node.SetSelectable(False)
        node.SetSaveWithScene(False)
        node.SetAttribute(PREVIEW, "YES")
        node.SetAttribute(SYNTHETIC, "YES")
        self._scene.AddNode(node)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetSaveWithScene(False)
        if self._segmentationNode is not None:
            node.SetAndObserveTransformNodeID(self._segmentationNode.GetTransformNodeID())
        return node

    def _setWindow(self) -> None:
        setDisplay(self._node, {})
        like = self._likeVolumeNode.GetDisplayNode() if self._likeVolumeNode is not None else None
        if like is not None:
            self._node.GetDisplayNode().SetAutoWindowLevel(False)
            self._node.GetDisplayNode().SetWindowLevel(like.GetWindow(), like.GetLevel())

    def _place(self) -> None:
        """Puts the preview into every view that it has not been put into yet."""
        for composite in userComposites(self._scene):
            known = self._shown.get(composite.GetID())
            if known is not None and known.composite is composite:
                continue
            background = composite.GetBackgroundVolumeID()
            inBackground = not background or self._scene.GetNodeByID(background) is None
            layer = _Layer.of(composite, inBackground)
            layer.put(self._node)
            self._shown[composite.GetID()] = layer
            if inBackground and self._fitView is not None:
                self._fitView(composite)

    def _restore(self) -> list[_Layer]:
        """Gives the views back what they showed, but for those that the user has changed or closed since."""
        # A preview that somebody else has removed has left its layers empty.
        mine = {self._node.GetID()} if self.node is not None else {None, ""}
        layers = [
            layer
            for layer in self._shown.values()
            if layer.composite.GetScene() is self._scene and layer.current() in mine
        ]
        for layer in layers:
            layer.restore(self._scene)
        return layers


def fitThrough(applicationLogic) -> Callable[[object], None]:
    """A `fitView` for `Preview`.

    Args:
        applicationLogic: the vtkMRMLApplicationLogic that knows the slice views, `slicer.app.applicationLogic()`.
    """

    def fit(composite) -> None:
        logics = applicationLogic.GetSliceLogics()
        for index in range(logics.GetNumberOfItems() if logics is not None else 0):
            logic = logics.GetItemAsObject(index)
            if logic.GetSliceCompositeNode() is composite:
                logic.FitSliceToBackground()

    return fit


@dataclass(frozen=True)
class _Layer:
    """One layer of a slice view, and what it showed before."""

    composite: object
    inBackground: bool
    volumeId: str | None
    opacity: float
    clipped: bool

    @staticmethod
    def of(composite, inBackground: bool) -> _Layer:
        volumeId = composite.GetBackgroundVolumeID() if inBackground else composite.GetForegroundVolumeID()
        opacity, clipped = composite.GetForegroundOpacity(), composite.GetClipToBackgroundVolume()
        return _Layer(composite, inBackground, volumeId, opacity, bool(clipped))

    def current(self) -> str | None:
        return self.composite.GetBackgroundVolumeID() if self.inBackground else self.composite.GetForegroundVolumeID()

    def put(self, node) -> None:
        if self.inBackground:
            self.composite.SetBackgroundVolumeID(node.GetID())
            return
        self.composite.SetForegroundVolumeID(node.GetID())
        self.composite.SetForegroundOpacity(1.0)
        # The preview may reach beyond a background that has nothing to do with it.
        self.composite.SetClipToBackgroundVolume(False)

    def restore(self, scene) -> None:
        volumeId = self.volumeId if self.volumeId and scene.GetNodeByID(self.volumeId) is not None else None
        if self.inBackground:
            self.composite.SetBackgroundVolumeID(volumeId)
            return
        self.composite.SetForegroundVolumeID(volumeId)
        self.composite.SetForegroundOpacity(self.opacity)
        self.composite.SetClipToBackgroundVolume(self.clipped)
