"""Writes synthetic volumes of the scene as marked files, one after the other, in processes of the engine."""

from __future__ import annotations

import filecmp
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from slicer.i18n import tr as _

from SynthDiffusionJobs.Engine import Engine
from SynthDiffusionJobs.EngineProcess import ProcessResult
from SynthDiffusionJobs.JobFolders import JobFolders, unwritableText

FORMATS = ("nii.gz", "nrrd")
_COMMAND_PREFIX = re.compile(r"^synthdiffusion[a-z ]*: error: ")


class VolumeExport:
    """One export of several volumes.

    The engine writes the files, not Slicer: it marks them as synthetic in their headers, and writes a record that fits.
    A volume that is exported again replaces its own files; those of another one are left alone.

    Args:
        engine, folders: see there.
        onProgress: called with (volumes written, volumes in all).
        onFinished: called with (paths written, what is wrong or has to be known, "" if nothing).

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
        self._notes: list[str] = []
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
        self._waiting, self._total = list(nodes), len(nodes)
        self._target, self._suffix = Path(target), suffix
        self._withSegmentations = withSegmentations
        self._taken: set[Path] = set()
        try:
            if withSegmentations:
                self._writeSegmentations(nodes)
        except OSError as error:
            self._fail(unwritableText(error))
            return
        self._next()

    def _writeSegmentations(self, nodes: Sequence) -> None:
        from SynthDiffusionScene.bundle import moveIntoPlace
        from SynthDiffusionScene.nrrd import addEntries
        from SynthDiffusionScene.runs import MADE_ROLE, SEGMENTATION_ROLE
        from SynthDiffusionScene.segmentations import JOB_SEGMENTATION, writeJobInput
        from SynthDiffusionScene.volumes import MODEL, SEED, SYNTHETIC

        cases: dict = {}
        for node in nodes:
            segmentation = node.GetNodeReference(SEGMENTATION_ROLE)
            if segmentation is not None:
                if note := drawingNote(node, segmentation):
                    self._notes.append(note)
                name = _caseOf(node) or segmentation.GetName()
                if node.GetNodeReference(MADE_ROLE) is segmentation:  # every volume has its own, called like it
                    name = _stemOf(node)
                cases.setdefault(segmentation, name)
        for segmentation, case in cases.items():
            folder = self._folders.new("export")
            try:
                # As a job has it: the command line of a volume tells segments apart by their names.
                writeJobInput(segmentation, folder)
                if segmentation.GetAttribute(SYNTHETIC) == "YES":
                    marks = {name: segmentation.GetAttribute(name) or "" for name in (SYNTHETIC, MODEL, SEED)}
                    addEntries(folder / JOB_SEGMENTATION, marks)
                path = self._placeOf(folder / JOB_SEGMENTATION, fileName(case))
                if not path.exists():
                    moveIntoPlace(folder / JOB_SEGMENTATION, path)
            finally:
                self._folders.remove(folder)
            self.written.append(str(path))

    def _placeOf(self, copy: Path, name: str) -> Path:
        """Where a segmentation is written, or lies already. It is called like the volumes: the name of its node may be
        a patient's.
        """
        paths = (self._target / f"{numbered}.seg.nrrd" for numbered in _numbered(name))
        return next(path for path in paths if _isFreeOrSame(path, copy) and self._take(path))

    def _take(self, path: Path) -> bool:
        """Keeps a path for one thing of this export; False if another one has it. Some systems ignore capitals."""
        path = Path(str(path).lower())
        free = path not in self._taken
        self._taken.add(path)
        return free

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

        self._onProgress(self._total - len(self._waiting), self._total)
        if not self._waiting:
            self._onFinished(self.written, "\n".join(self._notes))
            return
        node = self._waiting.pop(0)
        region = node.GetNodeReference(REGION_ROLE)
        try:
            self._folder = self._folders.new("export")
            arguments, note = writeInputs(node, self._folder, self._companionOf(node, region))
            target = self._targetOf(node)
        except SceneError as error:
            self._fail(f"{error.message}. {error.hint}".strip())
            return
        except OSError as error:
            self._fail(unwritableText(error))
            return
        arguments += ["--out", str(target), "--format", self._suffix, "--replace", "--json"]  # see `_isFreeFor`
        self._process = self._engine.ask(arguments, lambda result, message: self._onAnswer(result, message, node, note))

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
        """The folder for the files of a volume. The engine calls them by case, model and seed, so a volume that was
        renamed, or that would replace another one (with other settings but the same seed), gets a folder of its own.
        """
        stem = _stemOf(node)
        folders = (self._target / name for name in _numbered(fileName(node.GetName())))

        def isFree(place: Path) -> bool:
            return _isFreeFor(node, place / stem, self._suffix) and self._take(place / stem)

        if not _isRenamed(node) and isFree(self._target):
            return self._target
        return next(place for place in folders if isFree(place))

    def _onAnswer(self, result: ProcessResult, message: str, node, note: str) -> None:
        if result.cancelled:
            return
        self._folders.remove(self._folder)
        if not result.done:
            self._fail(_COMMAND_PREFIX.sub("", message) or _("The export ended without an answer."))
            return
        self.written.append(result.event["volume"])
        if note := editedNote(node, result.event, note):
            self._notes.append(note)
        self._next()

    def _fail(self, reason: str) -> None:
        self._folders.remove(self._folder)
        self._waiting = []
        self._onFinished(self.written, "\n".join([*self._notes, reason]))


def writeInputs(node, folder: Path, companion) -> tuple[list[str], str]:
    """Writes what the engine makes a marked file of: the voxels, the record, and what is synthetic in an inpainted one.

    Args:
        node: a synthetic volume.
        folder: an empty folder.
        companion: a segmentation whose coordinates the file has to share; None: it lies where the user sees it.

    Returns:
        A command for `Engine.ask`, to which `--out`, `--format` and `--json` have to be added, and what the user has to
        know ("" if nothing).

    Raises:
        SceneError: the volume or its region cannot be written.
        OSError: the folder cannot be written to.
    """
    from SynthDiffusionScene.digests import voxelsChanged
    from SynthDiffusionScene.runs import REGION_ROLE
    from SynthDiffusionScene.segmentations import exportSegmentation
    from SynthDiffusionScene.volumeFiles import writeVolume
    from SynthDiffusionScene.volumes import provenanceOf

    writeVolume(node, folder / "volume.nrrd", companion)
    record, note = provenanceOf(node), ""
    if voxelsChanged(node):  # what was measured is not of these voxels
        record = {name: value for name, value in record.items() if not name.startswith("adherence")}
        record["modified_after_generation"] = True
        note = _("'{name}' was changed after it was made: its record says so, and holds no adherence.")
        note = note.format(name=node.GetName())
    provenance = folder / "provenance.json"
    provenance.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    arguments = ["SynthDiffusionLib", "export", "volume", str(folder / "volume.nrrd"), "--provenance", str(provenance)]
    # The engine compares the voxels with the record, and marks them if they are others: see `editedNote`.
    arguments += ["--edited"]
    region = node.GetNodeReference(REGION_ROLE)
    if region is not None:
        exportSegmentation(region, folder / "region.seg.nrrd")
        arguments += ["--region", str(folder / "region.seg.nrrd")]
    return arguments, note


def editedNote(node, event: dict, note: str) -> str:
    """What is to be said of a volume whose voxels the engine has compared with their record.

    Args:
        node: the volume.
        event: the engine's answer.
        note: what `writeInputs` has said. It knows volumes of older versions and of saved scenes less well.
    """
    if note or not event.get("edited"):
        return note
    text = _("The voxels of '{name}' are not those that the model made: the files say that they were edited.")
    return text.format(name=node.GetName())


def drawingNote(node, segmentation) -> str:
    """What is to be said of a segmentation that is exported with a volume; "" if it was made from it as it is now."""
    from SynthDiffusionScene.digests import drawingChanged

    if not drawingChanged(node, segmentation):
        return ""
    text = _(
        "The drawing was changed after '{name}' was made: the exported segmentation is not the one that it was made"
        " from."
    )
    return text.format(name=node.GetName())


def _caseOf(node) -> str:
    from SynthDiffusionScene.volumes import provenanceOf

    return str((provenanceOf(node) or {}).get("case") or "")


def _stemOf(node) -> str:
    """What the engine calls the files of a volume, without what tells them apart."""
    from SynthDiffusionScene.volumes import MODEL, REAL_PIXELS, SEED

    stem = f"{fileName(_caseOf(node))}_{node.GetAttribute(MODEL)}_seed{node.GetAttribute(SEED)}"
    return f"{stem}_inpainted" if node.GetAttribute(REAL_PIXELS) == "YES" else stem


def _isRenamed(node) -> bool:
    """Whether a volume has another name than the one that it got when it was made."""
    from SynthDiffusionScene.names import syntheticName
    from SynthDiffusionScene.volumes import provenanceOf

    name = syntheticName(_caseOf(node), provenanceOf(node) or {})
    return not re.fullmatch(re.escape(name) + r"( \(\d+\))?", node.GetName())


def _isFreeFor(node, path: Path, suffix: str) -> bool:
    """Whether files of this name, to which the suffix is missing, may be written: none is there, or the volume's own,
    of the same format and in the same state.

    Raises:
        OSError: the folder cannot be looked into.
    """
    from SynthDiffusionScene.digests import voxelsChanged
    from SynthDiffusionScene.volumes import provenanceOf

    record = path.with_name(f"{path.name}.json")
    if not any(path.with_name(f"{path.name}.{suffix}").exists() for suffix in ("json", *FORMATS)):
        return True
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    if path.with_name(f"{path.name}.{next(s for s in FORMATS if s != suffix)}").exists():
        return False  # the record that lies there is of that file
    own = _generatedSum(provenanceOf(node))
    edited = bool(isinstance(found, dict) and found.get("modified_after_generation"))
    return own is not None and own == _generatedSum(found) and edited == voxelsChanged(node)


def _generatedSum(record) -> str | None:
    """Checksum of the file that `generate` has written, from a record of it or of what was exported from it."""
    record = record if isinstance(record, dict) else {}
    return record.get("generated_sha256") or record.get("output_sha256")


def _isFreeOrSame(path: Path, copy: Path) -> bool:
    return not path.exists() or (path.is_file() and filecmp.cmp(copy, path, shallow=False))


def _numbered(name: str) -> Iterator[str]:
    """NAME, "NAME (2)", "NAME (3)" and so on."""
    yield name
    for number in count(2):
        yield f"{name} ({number})"


def targetName(node, suffix: str) -> str:
    """Where a volume is written in the folder of an export, as long as nothing of that name is there."""
    name = f"{_stemOf(node)}.{suffix}"
    return f"{fileName(node.GetName())}/{name}" if _isRenamed(node) else name


def fileName(text: str) -> str:
    """A text as a file name that every system takes."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", text).strip(" .")[:80] or "segmentation"
