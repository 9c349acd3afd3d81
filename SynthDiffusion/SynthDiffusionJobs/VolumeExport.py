"""Writes synthetic volumes of the scene as marked files, one after the other, in processes of the engine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from slicer.i18n import tr as _

from SynthDiffusionJobs.Engine import Engine
from SynthDiffusionJobs.EngineProcess import ProcessResult
from SynthDiffusionJobs.JobFolders import JobFolders


class VolumeExport:
    """One export of several volumes.

    The engine writes the files, not Slicer: it marks them as synthetic in their headers, and writes a record that fits.

    Args:
        engine, folders: see there.
        onProgress: called with (volumes written, volumes in all).
        onFinished: called with (paths written, what is wrong, "" if nothing).
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
        self._written: list[str] = []
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
        if withSegmentations:
            segmentations = {node.GetNodeReference(SEGMENTATION_ROLE) for node in nodes} - {None}
            for segmentation in sorted(segmentations, key=lambda node: node.GetName()):
                path = self._target / f"{fileName(segmentation.GetName())}.seg.nrrd"
                exportSegmentation(segmentation, path)
                self._written.append(str(path))
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
        from SynthDiffusionScene.volumeFiles import writeVolume
        from SynthDiffusionScene.volumes import provenanceOf

        self._onProgress(self._total - len(self._waiting), self._total)
        if not self._waiting:
            self._onFinished(self._written, "")
            return
        node = self._waiting.pop(0)
        self._folder = self._folders.new("export")
        try:
            writeVolume(node, self._folder / "volume.nrrd")
            provenance = self._folder / "provenance.json"
            provenance.write_text(json.dumps(provenanceOf(node), ensure_ascii=False), encoding="utf-8")
        except SceneError as error:
            self._fail(f"{error.message}. {error.hint}")
            return
        except OSError as error:
            self._fail(_("The temporary files could not be written ({reason}).").format(reason=error.strerror or error))
            return
        arguments = ["SynthDiffusionLib", "export", "volume", str(self._folder / "volume.nrrd")]
        arguments += ["--provenance", str(provenance), "--out", str(self._target), "--format", self._suffix, "--json"]
        self._process = self._engine.ask(arguments, self._onAnswer)

    def _onAnswer(self, result: ProcessResult, message: str) -> None:
        if result.cancelled:
            return
        self._folders.remove(self._folder)
        if not result.done:
            self._fail(message.removeprefix("error: "))
            return
        self._written.append(result.event["volume"])
        self._next()

    def _fail(self, reason: str) -> None:
        self._folders.remove(self._folder)
        self._waiting = []
        self._onFinished(self._written, reason)


def fileName(text: str) -> str:
    """A text as a file name that every system takes."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", text).strip(" .")[:80] or "segmentation"
