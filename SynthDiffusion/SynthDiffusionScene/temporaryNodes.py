"""Nodes that last as long as a view of them: hidden from the user's lists, never saved."""

from __future__ import annotations


def addTemporary(scene, className: str, name: str):
    """Adds a node that no selector offers and no saved scene holds.

    Args:
        scene: the MRML scene.
        className: for example "vtkMRMLTableNode".
        name: what the views show of it.
    """
    node = scene.CreateNodeByClass(className)
    node.UnRegister(None)  # CreateNodeByClass hands over a reference
    node.SetName(name)
    # Before it is added: Slicer gives nodes that are not hidden an item in the subject hierarchy.
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    return scene.AddNode(node)
