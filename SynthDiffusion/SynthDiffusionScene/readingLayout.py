"""Layouts of a blinded reading: three planes of one volume, one plane, or two volumes side by side."""

from __future__ import annotations

from dataclasses import dataclass

import slicer

from SynthDiffusionScene.errors import SceneError

THREE_PLANES, AXIAL, SIDE_BY_SIDE = "three_planes", "axial", "side_by_side"

# Slicer's own layouts lie below 100; modules take any larger number that is free.
_FIRST_LAYOUT_ID = 20671
# All alike: a colour must not be taken for a hint.
_COLOR = "#8C8C8C"


@dataclass(frozen=True)
class View:
    """A slice view of a layout.

    Args:
        tag: singleton tag of its nodes, and its layout name.
        label: what the reader and the record call it.
        orientation: "Axial", "Sagittal" or "Coronal".
        volume: which volume it shows: 0, or 1 for the right one.
    """

    tag: str
    label: str
    orientation: str
    volume: int = 0


_AXIAL = View("SynthDiffusionRead1", "Axial", "Axial")
VIEWS: dict[str, tuple[View, ...]] = {
    THREE_PLANES: (
        _AXIAL,
        View("SynthDiffusionRead2", "Sagittal", "Sagittal"),
        View("SynthDiffusionRead3", "Coronal", "Coronal"),
    ),
    AXIAL: (_AXIAL,),
    SIDE_BY_SIDE: (
        View("SynthDiffusionReadLeft", "Left", "Axial", 0),
        View("SynthDiffusionReadRight", "Right", "Axial", 1),
    ),
}


class ReadingLayout:
    """Makes the views of a reading, and takes them away again. None of its nodes is saved with a scene.

    Args:
        scene: the MRML scene.
        layoutNode: a vtkMRMLLayoutNode that a vtkMRMLLayoutLogic observes.

    Attributes:
        views: the views that are shown.
        slices, composites: their nodes, by tag.
    """

    def __init__(self, scene, layoutNode) -> None:
        self.scene, self.layoutNode = scene, layoutNode
        self.views: tuple[View, ...] = ()
        self.slices: dict[str, slicer.vtkMRMLSliceNode] = {}
        self.composites: dict[str, slicer.vtkMRMLSliceCompositeNode] = {}
        self._ids: dict[str, int] = {}
        self._before = None

    def enter(self, name: str) -> None:
        """Shows a layout: "three_planes", "axial" or "side_by_side". The first call remembers the user's.

        Raises:
            SceneError: the layout node is not in use by a layout logic (internal).
        """
        node = self.layoutNode
        if self._before is None:
            arrangement = node.GetViewArrangement()
            maximized = [node.GetMaximizedViewNode(n) for n in range(node.GetNumberOfMaximizedViewNodes())]
            description = node.GetLayoutDescription(arrangement) if node.IsLayoutDescription(arrangement) else ""
            self._before = (arrangement, description, maximized)
        node.RemoveAllMaximizedViewNodes()
        if name not in self._ids:
            layoutId = _FIRST_LAYOUT_ID
            while node.IsLayoutDescription(layoutId):
                layoutId += 1
            node.AddLayoutDescription(layoutId, layoutXml(name))
            self._ids[name] = layoutId
        node.SetViewArrangement(self._ids[name])
        self.views = VIEWS[name]
        for view in self.views:
            self.slices[view.tag] = self._slice(view)
            self.composites[view.tag] = self._composite(view)

    def leave(self) -> None:
        """Brings the user's layout back and removes all view nodes. A second call does nothing."""
        if self._before is None:
            return
        node = self.layoutNode
        (arrangement, description, maximized), self._before = self._before, None
        node.RemoveAllMaximizedViewNodes()
        if description and node.GetLayoutDescription(arrangement) != description:
            node.SetLayoutDescription(arrangement, description)
        node.SetViewArrangement(arrangement)
        for viewNode in maximized:
            if viewNode is not None and viewNode.GetScene() is self.scene:
                node.AddMaximizedViewNode(viewNode)
        for layoutId in self._ids.values():
            node.SetLayoutDescription(layoutId, "")
        models = [part for tag in self.slices for part in self._sliceModelNodes(tag)]
        # Slice nodes before composite nodes: a slice logic that has its slice node makes a missing composite node anew.
        for made in [*self.slices.values(), *self.composites.values(), *models]:
            if made is not None and self.scene.IsNodePresent(made):
                self.scene.RemoveNode(made)
        self.views, self.slices, self.composites, self._ids = (), {}, {}, {}

    def _slice(self, view: View):
        node = self.scene.GetSingletonNode(view.tag, "vtkMRMLSliceNode")
        if node is None:
            raise SceneError(
                "The layout of the reading could not be made", "Close other dialogs and try again.", kind="internal"
            )
        node.SetSaveWithScene(False)
        node.SetOrientation(view.orientation)
        return node

    def _composite(self, view: View):
        """In Slicer the slice view has made it by now; without a view it is made here."""
        node = self.scene.GetSingletonNode(view.tag, "vtkMRMLSliceCompositeNode")
        if node is None:
            node = self.scene.CreateNodeByClass("vtkMRMLSliceCompositeNode")
            node.UnRegister(None)
            node.SetLayoutName(view.tag)
            node = self.scene.AddNode(node)
        node.SetSaveWithScene(False)
        node.SetDoPropagateVolumeSelection(False)
        node.SetLinkedControl(False)
        node.SetHotLinkedControl(False)
        return node

    def _sliceModelNodes(self, tag: str) -> list:
        """Model, display and transform node of a slice view; Slicer leaves them behind when the view is gone."""
        found = []
        for index in range(self.scene.GetNumberOfNodesByClass("vtkMRMLModelNode")):
            model = self.scene.GetNthNodeByClass(index, "vtkMRMLModelNode")
            if slicer.vtkMRMLSliceLogic.IsSliceModelNode(model) and model.GetName().startswith(f"{tag} "):
                found += [model, model.GetDisplayNode(), model.GetParentTransformNode()]
        return found


def layoutXml(name: str) -> str:
    """Slicer's description of a layout."""
    items = [_item(view, group) for group, view in enumerate(VIEWS[name], start=_FIRST_LAYOUT_ID)]
    if name == THREE_PLANES:
        first, *others = items
        right = f'<item splitSize="350"><layout type="vertical">{"".join(others)}</layout></item>'
        first = first.replace("<item>", '<item splitSize="650">', 1)
        return f'<layout type="horizontal" split="true">{first}{right}</layout>'
    return f'<layout type="horizontal">{"".join(items)}</layout>'


def _item(view: View, group: int) -> str:
    return (
        f'<item><view class="vtkMRMLSliceNode" singletontag="{view.tag}">'
        f'<property name="orientation" action="default">{view.orientation}</property>'
        f'<property name="viewlabel" action="default">{view.label}</property>'
        f'<property name="viewcolor" action="default">{_COLOR}</property>'
        f'<property name="viewgroup" action="default">{group}</property></view></item>'
    )
