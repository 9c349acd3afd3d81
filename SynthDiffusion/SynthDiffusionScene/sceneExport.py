"""The user's whole scene as a bundle (.mrb), checked by opening it."""

from __future__ import annotations

import re
import tempfile
from contextlib import nullcontext
from pathlib import Path

from SynthDiffusionScene.bundle import (
    checkNodes,
    compareInventories,
    inventory,
    moveIntoPlace,
    readBundle,
    savedNodes,
    writeBundle,
)
from SynthDiffusionScene.errors import SceneError

# Slicer's writer samples a segment anew that is not stored on the lattice of its segmentation's reference geometry, and
# so does File > Save Data.
_SEGMENT = re.compile("(voxels|geometry) of segment")
_ONE_GRID = (
    "The segment is stored on other voxels than its segmentation. In the Segment Editor, choose the source volume "
    "again and set the grid beside it (Specify geometry), which moves all segments onto that grid; or convert the "
    "segmentation to a label map and back (Segmentations module)."
)


def exportScene(scene, path: str | Path, preview=None) -> Path:
    """Saves everything that a scene holds into a new file, and opens that file before it gets its name.

    As with Slicer's own saving, nodes without a storage node get one. Whatever there is besides volumes and
    segmentations is saved too; of it, what is checked is that it is there and how large it is, and the settings of
    script modules.

    Args:
        scene: the MRML scene.
        path: file to write, ending in .mrb.
        preview: the `Preview` that is being shown, if any. It is never saved, and neither is that views show it.

    Returns:
        `path`.

    Raises:
        SceneError: a volume or a segmentation is empty (Slicer's writer may end the process then), or the file could
            not be written or does not hold what it should.
    """
    path = Path(path)
    if path.suffix.lower() != ".mrb":
        raise SceneError(f"The scene's file name '{path.name}' does not end in .mrb", "Give it that ending.")
    checkNodes(scene)
    # A short name in a temporary folder, for the reasons that `bundle.saveScene` gives.
    with tempfile.TemporaryDirectory(prefix="synthdiffusion-", ignore_cleanup_errors=True) as folder:
        bundle = Path(folder) / "scene.mrb"
        with preview.suspended() if preview is not None else nullcontext():
            expected = inventory(scene)
            others = _others(scene)
            writeBundle(scene, bundle)
        opened = readBundle(bundle, Path(folder) / "check", like=scene)
        differences = compareInventories(expected, inventory(opened))
        found = _others(opened)
        differences += [name for name, value in others.items() if found.get(name) != value]
        opened.Clear(True)
        if differences:
            moved = sorted(name for name in differences if _SEGMENT.match(name))
            raise SceneError(
                f"The saved scene differs from the one that is open: {(moved or differences)[0]}",
                _ONE_GRID if moved else "Save it with File > Save Data.",
                kind="internal",
            )
        moveIntoPlace(bundle, path)
    return path


def _others(scene) -> dict[str, dict]:
    """The nodes with data of their own other than volumes and segmentations, and the settings of script modules."""
    found: dict[str, dict] = {}
    counts: dict[str, int] = {}
    for node in savedNodes(scene, "vtkMRMLStorableNode") + savedNodes(scene, "vtkMRMLScriptedModuleNode"):
        if node.IsA("vtkMRMLVolumeNode") or node.IsA("vtkMRMLSegmentationNode"):
            continue
        name = f"{node.GetClassName()} '{node.GetName()}'"
        counts[name] = counts.get(name, 0) + 1
        settings = _settings(node) if node.IsA("vtkMRMLScriptedModuleNode") else {}
        found[f"{name} ({counts[name]})"] = settings | {"size": _size(node)}
    return found


def _size(node) -> int | tuple[int, int] | None:
    """How much there is of the data of the commonest kinds of nodes."""
    if node.IsA("vtkMRMLMarkupsNode"):
        return node.GetNumberOfControlPoints()
    if node.IsA("vtkMRMLModelNode"):
        return node.GetMesh().GetNumberOfPoints() if node.GetMesh() is not None else 0
    if node.IsA("vtkMRMLTableNode"):
        return node.GetNumberOfRows(), node.GetNumberOfColumns()
    return None


def _settings(node) -> dict:
    roles: list[str] = []
    node.GetNodeReferenceRoles(roles)
    references = {role: [other.GetName() for other in _referenced(node, role)] for role in roles}
    return {
        "parameters": {name: node.GetParameter(name) for name in node.GetParameterNames()},
        "references": {role: names for role, names in references.items() if names},
    }


def _referenced(node, role: str) -> list:
    """The nodes that are referenced and saved."""
    others = [node.GetNthNodeReference(role, index) for index in range(node.GetNumberOfNodeReferences(role))]
    return [other for other in others if other is not None and other.GetSaveWithScene()]
