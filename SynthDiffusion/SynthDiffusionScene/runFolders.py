"""The folders of runs in the subject hierarchy."""

from __future__ import annotations

import vtk

from SynthDiffusionScene.hierarchy import ensureStudy, itemOfNode, subjectHierarchy

RUN = "SynthDiffusion.Run"

# Marks what was made in the subject hierarchy for a run, so that it goes with the run's last volume.
_MADE = "SynthDiffusion.Made"


def intoFolder(scene, nodes: list, source, case: str, title: str, run: str) -> None:
    """Makes the folder of a run and puts nodes into it.

    Args:
        scene: the MRML scene.
        nodes: the run's nodes.
        source: the node whose study the folder lies in; the study is made where missing.
        case: name of a patient item that has to be made.
        title: name of the folder.
        run: ID of the run.
    """
    hierarchy = subjectHierarchy(scene)
    before = _allItems(hierarchy)
    study = ensureStudy(scene, source, case)
    folder = hierarchy.CreateFolderItem(study, title)
    hierarchy.SetItemAttribute(folder, RUN, run)
    for node in nodes:
        hierarchy.SetItemParent(itemOfNode(scene, node), folder)
    item = folder
    while item not in before and item != hierarchy.GetSceneItemID():
        hierarchy.SetItemAttribute(item, _MADE, "YES")
        item = hierarchy.GetItemParent(item)


def foldersOf(scene, run: str) -> list[int]:
    """Items of the folders of a run: one, as a rule."""
    hierarchy = subjectHierarchy(scene)
    return [item for item in _allItems(hierarchy) if hierarchy.GetItemAttribute(item, RUN) == run]


def folderName(scene, node) -> str:
    """Name of the run's folder that a node lies in, "" if it lies elsewhere."""
    hierarchy = subjectHierarchy(scene)
    parent = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
    return hierarchy.GetItemName(parent) if hierarchy.GetItemAttribute(parent, RUN) else ""


def removeNode(scene, node) -> None:
    """Removes a displayable node with its display and storage nodes and its item, if it is in the scene."""
    if node.GetScene() is not scene:
        return
    hierarchy = subjectHierarchy(scene)
    belongings = [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    belongings += [node.GetNthStorageNode(index) for index in range(node.GetNumberOfStorageNodes())]
    item = hierarchy.GetItemByDataNode(node)
    if item != hierarchy.GetInvalidItemID():
        # Slicer removes it with the node, the slicer-core wheel does not.
        hierarchy.RemoveItem(item, False, False)
    # The node goes first: a slice view that shows a volume without a display node makes it a new one.
    for other in (node, *belongings):
        if other is not None:
            scene.RemoveNode(other)


def removeIfEmpty(scene, item: int) -> None:
    """Removes an empty item that was made for a run, and what was made above it and is empty then."""
    hierarchy = subjectHierarchy(scene)
    while item != hierarchy.GetSceneItemID() and hierarchy.GetItemAttribute(item, _MADE) == "YES":
        if _children(hierarchy, item):
            return
        parent = hierarchy.GetItemParent(item)
        hierarchy.RemoveItem(item, False, False)
        item = parent


def _allItems(hierarchy) -> list[int]:
    return _children(hierarchy, hierarchy.GetSceneItemID(), recursive=True)


def _children(hierarchy, item: int, recursive: bool = False) -> list[int]:
    children = vtk.vtkIdList()
    hierarchy.GetItemChildren(item, children, recursive)
    return [children.GetId(index) for index in range(children.GetNumberOfIds())]
