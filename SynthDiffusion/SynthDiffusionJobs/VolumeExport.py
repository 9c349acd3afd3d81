"""Writes synthetic volumes of the scene as marked files, one after the other, in processes of the engine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from slicer.i18n import tr as _

from SynthDiffusionJobs.Engine import Engine
from SynthDiffusionJobs.EngineProcess import ProcessResult
from SynthDiffusionJobs.JobFolders import JobFolders, unwritableText

_COMMAND_PREFIX = re.compile(r"^synthdiffusion[a-z ]*: error: ")


class VolumeExport:
    """One export of several volumes.

    The engine writes the files, not Slicer: it marks them as synthetic in their headers, and writes a record that fits.

    Args:
        engine, folders: see there.
        onProgress: called with (volumes written, volumes in all).
        onFinished: called with (paths written, what is wrong, "" if nothing).

    Attributes:
        written: paths of the files so far, without those that belong to them.
    """

    def __init__(
        self,
        engine: Engine,
        folders: JobFolders,
        onProgress: Callable[[int, int], None],
        onFinished: Callable[[list[str], str], None],
    ) -> None:
        self._engine, self._folders = engine, folders
        self._onProgress, self._onFinished = onProgress, onFinished
        self._waiting: list = []
        self.written: list[str] = []
        self._total = 0
        self._folder: Path | None = None
        self._process = None

    def start(self, nodes: Sequence, target: Path, suffix: str, withSegmentations: bool) -> None:
        """Begins.

        Args:
            nodes: synthetic volume nodes.
            target: an existing folder.
            suffix: "nii.gz" or "nrrd".
            withSegmentations: also write the segmentations that they were made from, each once.

        Raises:
            SceneError: a segmentation cannot be written.
        """
        from SynthDiffusionScene.runs import SEGMENTATION_ROLE
        from SynthDiffusionScene.segmentations import exportSegmentation

        self._waiting, self._total = list(nodes), len(nodes)
        self._target, self._suffix = Path(target), suffix
        self._withSegmentations = withSegmentations
        self._folderNames: set[str] = set()
        if withSegmentations:
            cases = {}
            for node in nodes:
                segmentation = node.GetNodeReference(SEGMENTATION_ROLE)
                if segmentation is not None:
                    cases.setdefault(segmentation, _caseOf(node) or segmentation.GetName())
            taken: set[str] = set()
            for segmentation, case in cases.items():
                # Called like the volumes: the name of the node may be a patient's.
                path = self._target / f"{_unique(fileName(case), taken)}.seg.nrrd"
                exportSegmentation(segmentation, path)
                self.written.append(str(path))
        self._next()

    def cancel(self) -> None:
        """Stops; what is written stays. `onFinished` is not called."""
        self._waiting = []
        process, self._process = self._process, None
        if process is not None:
            process.kill()
        self._folders.remove(self._folder)

    def _next(self) -> None:
        from SynthDiffusionScene.errors import SceneError
        from SynthDiffusionScene.runs import REGION_ROLE
        from SynthDiffusionScene.segmentations import exportSegmentation
        from SynthDiffusionScene.volumeFiles import writeVolume
        from SynthDiffusionScene.volumes import provenanceOf

        self._onProgress(self._total - len(self._waiting), self._total)
        if not self._waiting:
            self._onFinished(self.written, "")
            return
        node = self._waiting.pop(0)
        region = node.GetNodeReference(REGION_ROLE)
        try:
            self._folder = self._folders.new("export")
            writeVolume(node, self._folder / "volume.nrrd", self._companionOf(node, region))
            provenance = self._folder / "provenance.json"
            provenance.write_text(json.dumps(provenanceOf(node), ensure_ascii=False), encoding="utf-8")
            if region is not None:
                exportSegmentation(region, self._folder / "region.seg.nrrd")
        except SceneError as error:
            self._fail(f"{error.message}. {error.hint}".strip())
            return
        except OSError as error:
            self._fail(unwritableText(error))
            return
        arguments = ["SynthDiffusionLib", "export", "volume", str(self._folder / "volume.nrrd")]
        arguments += ["--provenance", str(provenance), "--out", str(self._targetOf(node))]
        arguments += ["--format", self._suffix, "--json"]
        if region is not None:  # what is synthetic in an inpainted volume
            arguments += ["--region", str(self._folder / "region.seg.nrrd")]
        self._process = self._engine.ask(arguments, self._onAnswer)

    def _companionOf(self, node, region):
        """What the volume's file has to fit to: all are then written in their own coordinates, without the transform
        above them. None for a volume on its own, which is written where the user sees it.
        """
        from SynthDiffusionScene.runs import SEGMENTATION_ROLE

        segmentation = node.GetNodeReference(SEGMENTATION_ROLE) if self._withSegmentations else None
        if segmentation is not None and segmentation.GetTransformNodeID() != node.GetTransformNodeID():
            segmentation = None
        return region or segmentation

    def _targetOf(self, node) -> Path:
        """The folder for the files of a volume. They are called by case, model and seed; a volume that would replace
        one that has just been written, with other settings but the same seed, gets a folder of its own.
        """
        from SynthDiffusionScene.volumes import MODEL, REAL_PIXELS, SEED

        name = "_".join([_caseOf(node), *(node.GetAttribute(key) or "" for key in (MODEL, SEED, REAL_PIXELS))])
        own = _unique(fileName(name), self._folderNames)
        return self._target if own == fileName(name) else self._target / own

    def _onAnswer(self, result: ProcessResult, message: str) -> None:
        if result.cancelled:
            return
        self._folders.remove(self._folder)
        if not result.done:
            self._fail(_COMMAND_PREFIX.sub("", message) or _("The export ended without an answer."))
            return
        self.written.append(result.event["volume"])
        self._next()

    def _fail(self, reason: str) -> None:
        self._folders.remove(self._folder)
        self._waiting = []
        self._onFinished(self.written, reason)


def _caseOf(node) -> str:
    from SynthDiffusionScene.volumes import provenanceOf

    return str((provenanceOf(node) or {}).get("case") or "")


def _unique(name: str, taken: set[str]) -> str:
    """The name, with a number if it is taken, also by one in capitals; it is taken afterwards."""
    number, unique = 1, name
    while unique.lower() in taken:
        number += 1
        unique = f"{name} ({number})"
    taken.add(unique.lower())
    return unique


def fileName(text: str) -> str:
    """A text as a file name that every system takes."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", text).strip(" .")[:80] or "segmentation"
