"""Runs in the scene: their volumes, loaded, listed, renamed and deleted. All is kept in the nodes themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import slicer

from SynthDiffusionScene.errors import SceneError
from SynthDiffusionScene.hierarchy import subjectHierarchy
from SynthDiffusionScene.names import holdsRealPixels, modelId, nameOfFile, seedOf, syntheticName, uniqueNodeName
from SynthDiffusionScene.preview import PREVIEW
from SynthDiffusionScene.runFolders import (
    RUN,
    folderName,
    foldersOf,
    intoFolder,
    removeIfEmpty,
    removeNode,
)
from SynthDiffusionScene.segmentations import importSegmentation
from SynthDiffusionScene.statistics import adherenceFrom
from SynthDiffusionScene.volumes import MODEL, REAL_PIXELS, SEED, SYNTHETIC, addSyntheticVolume, provenanceOf

SECONDS = "SynthDiffusion.Seconds"
ADHERENCE = "SynthDiffusion.Adherence"

# Roles of the node references of a generated volume.
SEGMENTATION_ROLE = "SynthDiffusion.Segmentation"
REAL_VOLUME_ROLE = "SynthDiffusion.RealVolume"
REGION_ROLE = "SynthDiffusion.Region"
MADE_ROLE = "SynthDiffusion.MadeSegmentation"  # of a segmentation that was made together with the volume

_MOST_SEEDS = 4
_SETTINGS = (
    "mode",
    "sampler",
    "steps",
    "seed",
    "guidance",
    "inpaint_method",
    "margin_mm",
    "crop",
    "size",
    "spacing_mm",
    "condition_scale",
    "region",
    "modality",
)
# Characteristics that a request gives together.
_TRIPLES = {field: tuple(f"{field}_{axis}_mm" for axis in "ras") for field in ("center", "box")}


@dataclass(frozen=True)
class RunRow:
    """One generated volume, for the table of runs.

    Args:
        node: the volume.
        run: ID of its run, "" for one that was loaded from a file of the command line.
        title: name of the folder that it lies in, "" if it lies in none.
        name: of the volume.
        model: ID of the model.
        seed: of the noise, "" if unknown.
        mode: "whole", "inpaint", "unconditional" or "joint", "" if unknown.
        seconds: wall time of the whole run, None if unknown.
        adherence: Dice of the drawn target class, such as "0.88" or, where not all of it is found, "0.41, 1 of 2
            found"; "" where it was not measured.
        adherenceNote: why it was not measured, "" if it was or nobody asked.
    """

    node: object
    run: str
    title: str
    name: str
    model: str
    seed: str
    mode: str
    seconds: float | None
    adherence: str
    adherenceNote: str


def addRun(
    scene,
    outputs: Sequence[Mapping],
    segmentationNode,
    title: str | None = None,
    seconds: float | None = None,
    realVolumeNode=None,
) -> list:
    """Loads what a run made: each volume, with the region that was changed when inpainting, or with the segmentation
    that was made together with it, in a folder of their own.

    The folder lies in the segmentation's study. The volumes remember the segmentation and the real volume that they
    were made from. A segmentation that was made together with its volume is hidden at first, see `resultViews`. The
    files are no longer needed afterwards: the nodes are saved with the scene.

    Args:
        scene: the MRML scene.
        outputs: those of the engine's `done` event, one a sample: paths under "volume", "provenance" (JSON) and, when
            inpainting, "region"; "segmentation" in the mode "joint".
        segmentationNode: what the run was started from; None if there was none or it is gone.
        title: name of the folder; default "Run 3: lung-nodule-ct, seeds 5 to 7".
        seconds: wall time of the run.
        realVolumeNode: the volume that was inpainted into.

    Returns:
        The volume nodes, in the order of `outputs`.

    Raises:
        SceneError: a file is missing, damaged or not what it should be. Nothing of the run is left in the scene then.
    """
    if not outputs:
        raise SceneError("The run has made no volume", "Look into its log.", kind="internal")
    if segmentationNode is not None and segmentationNode.GetScene() is not scene:
        segmentationNode = None
    run = _nextRun(scene)
    volumes, belongings = [], []
    try:
        for output in outputs:
            volume = _addVolume(scene, output, segmentationNode)
            volumes.append(volume)
            volume.SetAttribute(RUN, run)
            if seconds is not None:
                volume.SetAttribute(SECONDS, f"{seconds:.1f}")
            for role, node in ((SEGMENTATION_ROLE, segmentationNode), (REAL_VOLUME_ROLE, realVolumeNode)):
                if node is not None and node.GetScene() is scene:
                    volume.SetNodeReferenceID(role, node.GetID())
            if output.get("region"):
                belongings.append(_addRegion(scene, output["region"], volume))
            # An empty one cannot be saved with the scene; the record of the volume says that it is.
            if output.get("segmentation") and provenanceOf(volume).get("measured"):
                belongings.append(_addMade(scene, output["segmentation"], volume))
    except Exception:
        for node in [*volumes, *belongings]:
            removeNode(scene, node)
        raise
    # The place in the hierarchy comes last, when nothing can fail any more.
    source = segmentationNode if segmentationNode is not None else volumes[0]
    case = str(provenanceOf(volumes[0]).get("case") or source.GetName())
    intoFolder(scene, [*volumes, *belongings], source, case, title or _title(run, volumes), run)
    return volumes


def runsOf(scene) -> list[RunRow]:
    """Every generated volume of a scene, runs in their order; those without a run come first."""
    rows = [_row(scene, node) for node in generatedVolumes(scene)]
    return sorted(rows, key=lambda row: (_number(row.run), row.run))  # keeps the order of the scene within a run


def renameRun(scene, run: str, title: str) -> None:
    """Renames the folder of a run.

    Raises:
        SceneError: the title is empty, or the run has no folder (any more).
    """
    folders = foldersOf(scene, run)
    if not title.strip():
        raise SceneError("The name of a run cannot be empty", "Give it a name.")
    if not folders:
        raise SceneError(f"Run {run} has no folder", "Rename its volumes.")
    for folder in folders:
        subjectHierarchy(scene).SetItemName(folder, title.strip())


def renameVolume(volumeNode, name: str) -> None:
    """Renames a generated volume and what belongs to it. The name goes on saying that it is synthetic or inpainted.

    Raises:
        SceneError: the name is empty, or it is no generated volume.
    """
    _checkGenerated(volumeNode)
    name = name.strip()
    if not name:
        raise SceneError("The name of a volume cannot be empty", "Give it a name.")
    mark = "inpainted" if volumeNode.GetAttribute(REAL_PIXELS) == "YES" else "synthetic"
    provenance = provenanceOf(volumeNode) or {}
    case = provenance.get("case")
    # At the end, and not the word alone: "not synthetic" and "no (synthetic), real" have that, too.
    given = re.escape(syntheticName(str(case), provenance)) if case else "(?!)"
    if not re.fullmatch(rf"(.*\({mark}\)|{given})( \(\d+\))?", name, re.IGNORECASE):
        name += f" ({mark})"
    volumeNode.SetName(name)
    for role, nameOf in _BELONGINGS.items():
        node = volumeNode.GetNodeReference(role)
        if node is not None:
            node.SetName(nameOf(volumeNode))


def deleteVolume(scene, volumeNode) -> None:
    """Deletes a generated volume with all that came with it: its region or the segmentation that was made with it,
    display nodes, and the folder of its run when nothing is left in it.

    Raises:
        SceneError: it is no generated volume. Nothing else is ever deleted.
    """
    _checkGenerated(volumeNode)
    run = volumeNode.GetAttribute(RUN)
    belongings = {role: volumeNode.GetNodeReference(role) for role in _BELONGINGS}
    removeNode(scene, volumeNode)
    for role, node in belongings.items():
        # A copy that the user has made of the volume refers to the same node.
        if node is not None and all(other.GetNodeReference(role) is not node for other in generatedVolumes(scene)):
            removeNode(scene, node)
    for folder in foldersOf(scene, run) if run else ():
        removeIfEmpty(scene, folder)


def settingsOf(volumeNode) -> dict:
    """The settings that a generated volume was made with, as fields of the engine's request.

    Of a request there are not in it: the files, the number of samples, the format, the memory limit and the way of
    computing, which is chosen anew; the volume does not depend on it.

    Raises:
        SceneError: the volume has no provenance.
    """
    provenance = provenanceOf(volumeNode)
    if provenance is None:
        raise SceneError(f"'{volumeNode.GetName()}' does not say how it was made", "Choose a generated volume.")
    settings, plan = provenance.get("settings") or {}, provenance.get("plan") or {}
    found = {"model": modelId(provenance), "adherence": "adherence" in provenance}
    found |= {name: settings[name] for name in _SETTINGS if name in settings}
    if asked := (settings.get("tumour") or {}).get("asked"):
        found["tumour"] = {name: value for name, value in asked.items() if name not in sum(_TRIPLES.values(), ())}
        for field, names in _TRIPLES.items():
            if names[0] in asked:
                found["tumour"][field] = tuple(asked[name] for name in names)
    if plan.get("precision"):
        found["precision"] = plan["precision"]
    if plan.get("device"):
        found["device"] = plan["device"].split(":")[0]  # GPUs may be numbered differently the next time
    segments = [entry for entry in (provenance.get("mapping") or {}).get("segments") or () if entry.get("voxels")]
    # A class that was recognised but not used ("unused") is given again, and left out again by `classes`.
    classes = {entry["name"]: entry.get("unused") or entry.get("class") for entry in segments}
    unmatched = {entry["name"] for entry in segments if entry.get("how") is None}
    labels = {name: label for name, label in classes.items() if label is not None or name not in unmatched}
    if labels:
        found["labels"] = labels
    if any(entry.get("unused") for entry in segments):
        found["classes"] = list(provenance.get("given_classes") or ())
    if provenance.get("case"):
        found["case"] = provenance["case"]
    return found


def _readProvenance(path: str | Path | None) -> dict:
    try:
        content = json.loads(Path(path or "").read_text(encoding="utf-8"))
    except OSError as error:
        raise SceneError(f"The provenance '{path}' cannot be read ({error.strerror})", "Generate it again.") from error
    except ValueError as error:
        raise SceneError(f"The provenance '{path}' is not valid JSON", "Generate it again.") from error
    if not isinstance(content, dict):
        raise SceneError(f"The provenance '{path}' is not a JSON object", "Generate it again.")
    return content


def _addVolume(scene, output: Mapping, segmentationNode) -> slicer.vtkMRMLScalarVolumeNode:
    path, provenance = output.get("volume") or "", _readProvenance(output.get("provenance"))
    adherence = adherenceFrom({"adherence": output.get("adherence")} | provenance).brief
    case = provenance.get("case") or (segmentationNode.GetName() if segmentationNode is not None else nameOfFile(path))
    name = uniqueNodeName(scene, syntheticName(str(case), provenance))
    node = addSyntheticVolume(scene, path, provenance, name=name)
    if segmentationNode is not None:
        node.SetAndObserveTransformNodeID(segmentationNode.GetTransformNodeID())
    if adherence:
        node.SetAttribute(ADHERENCE, adherence)
    _forgetFile(scene, node)
    return node


def _addRegion(scene, path: str | Path, volumeNode) -> slicer.vtkMRMLSegmentationNode:
    """The region that was changed, as an outline over the volume."""
    node = importSegmentation(scene, path, _regionName(volumeNode))
    _forgetFile(scene, node)
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    display.SetVisibility3D(False)
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    volumeNode.SetNodeReferenceID(REGION_ROLE, node.GetID())
    return node


def _addMade(scene, path: str | Path, volumeNode) -> slicer.vtkMRMLSegmentationNode:
    """The segmentation that was made together with a volume, as an outline over it; as synthetic as the volume."""
    node = importSegmentation(scene, path, _madeName(volumeNode))
    _forgetFile(scene, node)
    for attribute in (SYNTHETIC, MODEL, SEED, RUN):
        node.SetAttribute(attribute, volumeNode.GetAttribute(attribute))
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    display.SetVisibility3D(False)
    display.SetVisibility(False)
    for role in (MADE_ROLE, SEGMENTATION_ROLE):  # the second has it in the tables of a comparison, too
        volumeNode.SetNodeReferenceID(role, node.GetID())
    return node


def _regionName(volumeNode) -> str:
    return f"{volumeNode.GetName()} region"


def _madeName(volumeNode) -> str:
    return f"{volumeNode.GetName()} segmentation"


# What comes and goes with a volume, and how it is called.
_BELONGINGS = {REGION_ROLE: _regionName, MADE_ROLE: _madeName}


def _forgetFile(scene, node) -> None:
    """Removes the storage node: the file is a job's and goes away, so the node has to be saved with the scene."""
    scene.RemoveNode(node.GetStorageNode())


def _title(run: str, volumes: list) -> str:
    provenance = provenanceOf(volumes[0]) or {}
    return f"Run {run}: {modelId(provenance) or 'unknown model'}, {_seeds([seedOf(provenanceOf(v)) for v in volumes])}"


def _seeds(seeds: list[str]) -> str:
    """ "seed 5", "seeds 5 to 7", "seeds 2, 9" or "12 seeds"."""
    if len(seeds) == 1:
        return f"seed {seeds[0] or 'unknown'}"
    if all(seed.isdecimal() for seed in seeds):
        numbers = [int(seed) for seed in seeds]
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return f"seeds {numbers[0]} to {numbers[-1]}"
        if len(seeds) <= _MOST_SEEDS:
            return f"seeds {', '.join(seeds)}"
    return f"{len(seeds)} seeds"


def _nextRun(scene) -> str:
    """One more than the highest run of the scene."""
    return str(1 + max((_number(node.GetAttribute(RUN) or "") for node in generatedVolumes(scene)), default=0))


def _number(run: str) -> int:
    return int(run) if run.isdecimal() else 0


def generatedVolumes(scene) -> list:
    """The volume nodes of a scene that were generated, previews apart."""
    name = "vtkMRMLScalarVolumeNode"
    nodes = [scene.GetNthNodeByClass(index, name) for index in range(scene.GetNumberOfNodesByClass(name))]
    return [node for node in nodes if _isGenerated(node)]


def _isGenerated(node) -> bool:
    return node is not None and node.GetAttribute(SYNTHETIC) == "YES" and node.GetAttribute(PREVIEW) != "YES"


def _checkGenerated(node) -> None:
    if not _isGenerated(node):
        name = node.GetName() if node is not None else "(none)"
        raise SceneError(f"'{name}' is not a volume that SynthDiffusion has generated", "Choose one from the table.")


def _row(scene, node) -> RunRow:
    provenance = provenanceOf(node) or {}
    settings = provenance.get("settings") or {}
    mode = provenance.get("mode", settings.get("mode")) or ("inpaint" if holdsRealPixels(provenance) else "")
    seconds = node.GetAttribute(SECONDS)
    return RunRow(
        node=node,
        run=node.GetAttribute(RUN) or "",
        title=folderName(scene, node),
        name=node.GetName(),
        model=modelId(provenance),
        seed=seedOf(provenance),
        mode=str(mode),
        seconds=float(seconds) if seconds else None,
        adherence=node.GetAttribute(ADHERENCE) or "",
        adherenceNote=str(provenance.get("adherence_note") or ""),
    )
