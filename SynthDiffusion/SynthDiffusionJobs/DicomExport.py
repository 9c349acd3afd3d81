"""A synthetic volume of the scene as DICOM, in two processes of the engine.

The first, `export volume`, marks the voxels that Slicer has written and gives them a record that fits. The second,
`export dicom`, takes nothing but such a pair. Both have their files in a temporary folder; only the second writes where
the user wants it, and all of it at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from SynthDiffusionJobs.Engine import Engine
from SynthDiffusionJobs.EngineProcess import EngineProcess, ProcessResult
from SynthDiffusionJobs.JobFolders import JobFolders, unwritableText
from SynthDiffusionJobs.Signal import Signal
from SynthDiffusionJobs.VolumeExport import drawingNote, editedNote, writeInputs

# argparse and the engine begin their last line with the name of the command.
_COMMAND_PREFIX = re.compile(r"^synthdiffusion[a-z ]*: error: ")


@dataclass(frozen=True)
class DicomOutcome:
    """How an export ended.

    Args:
        done: the files are there.
        cancelled: by the user.
        folder: that was made, with `slices` slices.
        segmentation: it holds a DICOM SEG of the segmentation.
        region: it holds a DICOM SEG of what is synthetic in an inpainted volume.
        realPixels: it holds a real patient's image.
        notes: what the user has to know, sentences.
        message, hint: why it is not done.
    """

    done: bool = False
    cancelled: bool = False
    folder: str = ""
    slices: int = 0
    segmentation: bool = False
    region: bool = False
    realPixels: bool = False
    notes: tuple[str, ...] = ()
    message: str = ""
    hint: str = ""


class DicomExport:
    """Exports one volume at a time.

    Args:
        engine, folders: see there.

    Attributes:
        changed: Signal(), it has got on.
        step, total: slices written, and in all; a total of 0 says that none is written yet.
    """

    def __init__(self, engine: Engine, folders: JobFolders) -> None:
        self._engine, self._folders = engine, folders
        self.changed = Signal()
        self.step = self.total = 0
        self._process: EngineProcess | None = None
        self._folder: Path | None = None
        self._onEnded: Callable[[DicomOutcome], None] | None = None
        self._writes = False  # the process is the one that writes where the user wants it

    @property
    def busy(self) -> bool:
        return self._onEnded is not None

    def run(
        self, node, target: str, label: str, withSegmentation: bool, onEnded: Callable[[DicomOutcome], None]
    ) -> None:
        """Begins.

        Args:
            node: a synthetic volume node.
            target: the folder in which a new one is made.
            label: one of `Parameters.DICOM_LABELS`.
            withSegmentation: export the segmentation that it was made from, or with, too.
            onEnded: called with the outcome, unless `close` was called before.
        """
        from SynthDiffusionScene.errors import SceneError
        from SynthDiffusionScene.volumes import REAL_PIXELS

        self.step = self.total = 0
        self._writes, self._onEnded = False, onEnded
        self._target, self._label = target, label
        self._notes: list[str] = []
        self._realPixels = node.GetAttribute(REAL_PIXELS) == "YES"
        try:
            self._folder = self._folders.new("dicom")
            arguments = self._writeFiles(node, withSegmentation)
        except SceneError as error:
            self._end(DicomOutcome(message=error.message, hint=error.hint))
            return
        except OSError as error:
            self._end(DicomOutcome(message=unwritableText(error)))
            return
        arguments += ["--out", str(self._folder / "marked"), "--format", "nrrd", "--json"]
        self._ask(arguments, lambda result, message: self._onMarked(node, result, message))

    def cancel(self) -> None:
        """Ends it. What it has begun never gets its final name."""
        if self._process is None:
            return
        if self._writes:
            self._process.cancel()  # in time to take away what it has begun; ended hard if it does not
        else:
            self._process.kill()

    def close(self) -> None:
        """Ends it now, without a word."""
        if self.busy:
            self._onEnded = _nobody
        self.changed.disconnectAll()
        if self._process is not None:
            self._process.kill()

    def _writeFiles(self, node, withSegmentation: bool) -> list[str]:
        """Writes what the engine needs. Returns the command of the first process."""
        from SynthDiffusionScene.runs import REGION_ROLE, SEGMENTATION_ROLE
        from SynthDiffusionScene.segmentations import exportOnGrid

        segmentation = node.GetNodeReference(SEGMENTATION_ROLE) if withSegmentation else None
        if segmentation is not None and segmentation.GetTransformNodeID() != node.GetTransformNodeID():
            text = _("'{segmentation}' lies under another transform than the image, and was left out.")
            self._notes.append(text.format(segmentation=segmentation.GetName()))
            segmentation = None
        companion = node.GetNodeReference(REGION_ROLE) or segmentation
        arguments, self._editNote = writeInputs(node, self._folder, companion)
        self._segmentation = None
        if segmentation is not None:
            self._segmentation = self._folder / "drawing.seg.nrrd"
            if not exportOnGrid(segmentation, node, self._segmentation):
                text = _("'{segmentation}' has other voxels than the image: the nearest ones were taken.")
                self._notes.append(text.format(segmentation=segmentation.GetName()))
            self._notes.append(drawingNote(node, segmentation))
        return arguments

    def _ask(self, arguments: list[str], onAnswer: Callable[[ProcessResult, str], None]) -> None:
        self._process = None
        process = self._engine.ask(arguments, onAnswer, self._onEvent)
        if process is not None and process.isRunning:
            self._process = process

    def _onMarked(self, node, result: ProcessResult, message: str) -> None:
        if not result.done:
            self._endWithout(result, message)
            return
        self._editNote = editedNote(node, result.event, self._editNote)
        self._notes.append(self._editNote)
        arguments = ["SynthDiffusionLib", "export", "dicom", result.event["volume"], "--out", self._target]
        arguments += ["--label", self._label, "--events"]
        if self._segmentation is not None:
            arguments += ["--segmentation", str(self._segmentation)]
        self._writes = True
        self._ask(arguments, self._onWritten)

    def _onEvent(self, event: dict) -> None:
        if event.get("event") == "progress":
            self.step, self.total = int(event.get("step") or 0), int(event.get("total") or 0)
            self.changed.emit()

    def _onWritten(self, result: ProcessResult, message: str) -> None:
        if not result.done:
            self._endWithout(result, message)
            return
        event = result.event
        outcome = DicomOutcome(
            done=True,
            folder=str(event.get("folder") or ""),
            slices=int(event.get("slices") or 0),
            segmentation=bool(event.get("segmentation")),
            region=bool(event.get("region")),
            realPixels=self._realPixels,
            # Not "other_drawing": the file that was written here is never the one of the record. See `drawingNote`.
            notes=(*filter(None, self._notes), *(_sentence(str(note)) for note in event.get("notes") or ())),
        )
        self._end(outcome)

    def _endWithout(self, result: ProcessResult, message: str) -> None:
        if result.cancelled:
            self._end(DicomOutcome(cancelled=True))
            return
        text = _COMMAND_PREFIX.sub("", message) or _("The export ended without an answer.")
        self._end(DicomOutcome(message=text))

    def _end(self, outcome: DicomOutcome) -> None:
        self._process = None
        self._folders.remove(self._folder)
        self._folder = None
        onEnded, self._onEnded = self._onEnded, None
        onEnded(outcome)


def _sentence(note: str) -> str:
    """A note of the engine, which begins small and ends without a stop, as one of the panel's sentences."""
    return f"{note[:1].upper()}{note[1:].rstrip('.')}."


def _nobody(outcome: DicomOutcome) -> None:
    """Who has asked is not there any more."""
