"""A scene file (.mrb) of volumes and segmentations in one study: built, saved, opened again and compared."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import slicer
import slicer.util

from SynthDiffusionScene.errors import SceneError
from SynthDiffusionScene.hierarchy import ensureStudy, itemOfNode, placeInSameStudy, studyOfNode, subjectHierarchy
from SynthDiffusionScene.names import nameOfFile
from SynthDiffusionScene.segmentations import (
    checkSegmentation,
    importSegmentation,
    isLabelmap,
    segmentBounds,
    segmentsOf,
)
from SynthDiffusionScene.volumes import (
    REAL_PIXELS,
    addSyntheticVolume,
    checkVolume,
    ijkToRas,
    loadVolume,
    provenanceOf,
    setDisplay,
)

_POSITION_TOLERANCE_MM = 1e-3
_REPLACE_ATTEMPTS = 10


def saveScene(description: Mapping) -> Path:
    """Builds the scene of a checked description (see `SynthDiffusionScene.write`) and saves it.

    The finished file is opened again before it gets its name, and every node compared with what was put in.

    Args:
        description: `output`, `volumes`, `segmentations`, and optionally `case`; paths absolute, provenance as objects.

    Returns:
        Path of the scene file.

    Raises:
        SceneError: an input cannot be used, or the scene cannot be written as it should be.
    """
    output = Path(description["output"])
    with tempfile.TemporaryDirectory(prefix="synthdiffusion-", ignore_cleanup_errors=True) as folder:
        # A short name in the system's folder for temporary files: Slicer puts the files of a bundle some levels below
        # it, and the output's own path may be near the system's limit already.
        bundle = Path(folder) / "scene.mrb"
        scene = buildScene(description)
        expected = inventory(scene)
        writeBundle(scene, bundle)
        scene.Clear(True)
        differences = compareInventories(expected, inventory(readBundle(bundle, Path(folder) / "check")))
        if differences:
            raise SceneError(f"The saved scene differs from what was put in: {differences[0]}", kind="internal")
        moveIntoPlace(bundle, output)
    return output


def buildScene(description: Mapping) -> slicer.vtkMRMLScene:
    """A new scene with the volumes and segmentations of a description, all in one study.

    Raises:
        SceneError: a file is missing, cannot be read, or is empty.
    """
    scene = slicer.vtkMRMLScene()
    case = description.get("case")
    nodes = [importSegmentation(scene, entry["path"], entry.get("name")) for entry in description["segmentations"]]
    source = nodes[0] if nodes else None
    # A real volume that says nothing about itself is shown as its synthetic companion.
    display = next((entry["provenance"] for entry in description["volumes"] if entry.get("provenance")), {})
    for entry in description["volumes"]:
        provenance = dict(entry.get("provenance") or {})
        if entry["role"] == "real":
            node = loadVolume(scene, entry["path"], entry.get("name") or nameOfFile(entry["path"]))
            node.SetAttribute(REAL_PIXELS, "YES")
            setDisplay(node, entry if {"display", "modality"} & entry.keys() else display)
        else:
            if entry["role"] == "inpainted":
                provenance["contains_real_patient_pixels"] = True
            if case:
                provenance.setdefault("case", case)
            node = addSyntheticVolume(scene, entry["path"], provenance, source, entry.get("name"))
        # Without its own storage the volume's file in the bundle is named after the node, which says "synthetic".
        scene.RemoveNode(node.GetStorageNode())
        nodes.append(node)
    if not nodes:
        raise SceneError("The scene has neither volumes nor segmentations", "Name at least one in scene.json.")
    ensureStudy(scene, nodes[0], case or _caseOf(nodes))
    for node in nodes[1:]:
        placeInSameStudy(scene, node, nodes[0], case or "")
    return scene


def checkNodes(scene) -> None:
    """Refuses a volume or segmentation without data, which a scene file cannot hold, if it would be saved.

    Raises:
        SceneError: see `checkVolume` and `checkSegmentation`.
    """
    for node in savedNodes(scene, "vtkMRMLScalarVolumeNode"):
        # A tensor volume's image is of tensors, without scalars.
        if not node.IsA("vtkMRMLTensorVolumeNode"):
            checkVolume(node)
    for node in savedNodes(scene, "vtkMRMLSegmentationNode"):
        checkSegmentation(node)


def writeBundle(scene, path: Path) -> None:
    """Saves a scene whose nodes all have data. Overwrites `path`.

    Raises:
        SceneError: a node is empty, or saving failed.
    """
    checkNodes(scene)
    messages = slicer.vtkMRMLMessageCollection()
    # An absolute path: a relative one is refused by SaveSceneToSlicerDataBundleDirectory.
    if not scene.WriteToMRB(str(path.resolve()), None, messages) or not path.is_file():
        first = messages.GetNthMessageText(0) if messages.GetNumberOfMessages() else "no reason was given"
        raise SceneError(
            f"The scene could not be saved: {first}", "Check the free space of the temporary folder.", kind="internal"
        )


def readBundle(path: Path, folder: Path, like=None) -> slicer.vtkMRMLScene:
    """Opens a scene file in a new scene.

    Args:
        path: the .mrb file.
        folder: where it is unpacked; made if missing, and left there.
        like: a scene that knows node classes which a new one does not, as Slicer's does; default none.

    Raises:
        SceneError: it cannot be opened.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scene = slicer.vtkMRMLScene()
    if like is not None:
        like.CopyRegisteredNodesToScene(scene)
    # Not ReadFromMRB, which needs the application's cache folder.
    sceneFile = slicer.vtkMRMLScene.UnpackSlicerDataBundle(str(path.resolve()), str(folder.resolve()))
    if not sceneFile:
        raise SceneError(f"'{path}' is not a scene bundle", kind="internal")
    scene.SetURL(sceneFile)
    messages = slicer.vtkMRMLMessageCollection()
    if not scene.Connect(messages):
        why = f" ({messages.GetNthMessageText(0)})" if messages.GetNumberOfMessages() else ""
        raise SceneError(f"The scene in '{path}' could not be opened{why}", kind="internal")
    return scene


def inventory(scene) -> dict[str, dict]:
    """What must survive saving, for each volume and segment: voxels, geometry, attributes, names, codes, study.

    Nodes that are not saved with the scene are left out.
    """
    found = {}
    for index, node in enumerate(savedNodes(scene, "vtkMRMLScalarVolumeNode")):
        found[f"volume {index + 1} '{node.GetName()}'"] = {
            "voxels": _digest(slicer.util.arrayFromVolume(node)),
            "geometry": ijkToRas(node),
            # An attribute without text is not written.
            "attributes": {name: text for name in node.GetAttributeNames() if (text := node.GetAttribute(name))},
            "display": _windowAndLevel(node.GetDisplayNode()),
            "study": _studyName(scene, node),
        }
    for index, node in enumerate(savedNodes(scene, "vtkMRMLSegmentationNode")):
        title = f"segmentation {index + 1} '{node.GetName()}'"
        found[title] = {
            "segments": [(segment.GetName(), segment.GetTerminology() or "") for segment in segmentsOf(node)],
            "study": _studyName(scene, node),
        }
        # Label maps that were made from surfaces are not saved with them.
        for number, segment in enumerate(segmentsOf(node)) if isLabelmap(node) else ():
            mask, affine = segmentBounds(segment)
            name = f"segment {number + 1} '{segment.GetName()}' of {title}"
            found[name] = {"voxels": _digest(mask), "geometry": affine}
    return found


def compareInventories(expected: Mapping[str, dict], found: Mapping[str, dict]) -> list[str]:
    """One line for each difference; empty if there is none."""
    differences = [f"{name} is missing" for name in expected if name not in found]
    differences += [f"{name} was not expected" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        for what, value in expected[name].items():
            other = found[name][what]
            if what == "geometry":
                same = np.allclose(value, other, rtol=0, atol=_POSITION_TOLERANCE_MM)
            elif what == "attributes":
                same = value.items() <= other.items()  # readers of some formats add their own
            else:
                same = value == other
            if not same:
                differences.append(f"{what} of {name}")
    return differences


def savedNodes(scene, className: str) -> list:
    """The nodes of a class and of those derived from it that are saved with the scene, in its order."""
    nodes = [scene.GetNthNodeByClass(index, className) for index in range(scene.GetNumberOfNodesByClass(className))]
    return [node for node in nodes if node.GetSaveWithScene()]


def _windowAndLevel(display) -> tuple[float, float] | None:
    """None where there is nothing to keep: no display node, one of labels, or window and level chosen by Slicer."""
    if display is None or not display.IsA("vtkMRMLScalarVolumeDisplayNode") or display.GetAutoWindowLevel():
        return None
    return display.GetWindow(), display.GetLevel()


def _caseOf(nodes: list) -> str:
    for node in nodes:
        provenance = provenanceOf(node) or {}
        if provenance.get("case"):
            return str(provenance["case"])
    return nodes[0].GetName()


def _studyName(scene, node) -> str:
    study = studyOfNode(scene, node)
    hierarchy = subjectHierarchy(scene)
    if study is None:
        return f"none, beside {hierarchy.GetItemName(hierarchy.GetItemParent(itemOfNode(scene, node)))}"
    return f"{hierarchy.GetItemName(hierarchy.GetItemParent(study))} / {hierarchy.GetItemName(study)}"


def _digest(array: np.ndarray) -> str:
    voxels = np.ascontiguousarray(array)
    return f"{voxels.dtype} {voxels.shape} {hashlib.sha256(voxels.tobytes()).hexdigest()}"


def moveIntoPlace(source: Path, target: Path) -> None:
    """Copies beside the target, then renames, so that the final name never holds half a file.

    Raises:
        SceneError: the folder is missing, not writable or full.
    """
    part = target.with_name(f".{uuid.uuid4().hex[:12]}.part")
    try:
        shutil.copyfile(source, part)
        for attempt in range(_REPLACE_ATTEMPTS):
            try:
                os.replace(part, target)
                return
            except PermissionError:
                # On Windows a virus scanner or a viewer may hold the old file for a moment.
                if attempt == _REPLACE_ATTEMPTS - 1:
                    raise
                time.sleep(0.1 * (attempt + 1))
    except OSError as error:
        raise SceneError(
            f"'{target}' could not be written ({error.strerror or error})",
            "Check that its folder exists, is writable and has space.",
            kind="internal",
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
