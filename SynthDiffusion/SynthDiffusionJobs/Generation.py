"""From the parameters to a job, and from a finished job to nodes in the scene."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from slicer.i18n import tr as _

from SynthDiffusionJobs.Engine import GIB, Engine, ModelInfo
from SynthDiffusionJobs.JobFolders import JobFolders
from SynthDiffusionJobs.Mapping import MappedSegment, fits, labelMap, mapSegments
from SynthDiffusionJobs.Parameters import JOINT, LARGEST_SEED, NEAREST, UNDRAWN, USUAL_CASES, sizeOf
from SynthDiffusionJobs.RunQueue import Run, RunQueue
from SynthDiffusionJobs.Tumour import requestOf

IMAGE_FILE = "real.nrrd"

_ESTIMATE_DELAY_MS = 700
_MOST_DELAY_MS = 20_000


class Generation:
    """Prepares jobs, hands them to the queue, and loads what they have made.

    Args:
        scene: the MRML scene.
        engine: what runs them.
        folders: where their files are.
    """

    def __init__(self, scene, engine: Engine, folders: JobFolders) -> None:
        self.scene, self.engine, self.folders = scene, engine, folders
        self.queue = RunQueue(engine, self.loadResults)
        self._inputs = _Inputs(folders)
        self._described: tuple = (None, [])

    def mapping(self, parameters, model: ModelInfo | None = None) -> list[MappedSegment]:
        """The mapping table of the chosen segmentation for the chosen model, or for another one; empty without them."""
        model = model or self.engine.model(parameters.modelId)
        if parameters.segmentation is None or model is None or not model.description:
            return []
        return mapSegments(self._descriptions(parameters.segmentation), model.description, dict(parameters.classes))

    def _descriptions(self, segmentation) -> list:
        """The segments, looked at anew only when they have changed: their voxels have to be counted."""
        from SynthDiffusionScene.drawing import segmentDescriptions
        from SynthDiffusionScene.modified import modifiedTime

        key = segmentation.GetID(), modifiedTime(segmentation)
        if key != self._described[0]:
            self._described = key, segmentDescriptions(segmentation)
        return self._described[1]

    def problem(self, parameters) -> str:
        """Why nothing can be generated now, in a sentence for the user; "" if it can."""
        model = self.engine.model(parameters.modelId)
        if self.engine.status.state in ("unknown", "checking"):
            return _("The set-up is being checked.")
        if not self.engine.status.ready:
            return _("The set-up is not complete.")
        drawn = parameters.mode not in UNDRAWN
        if drawn and parameters.segmentation is None:
            return _("Choose, load or draw a segmentation.")
        if model is None:
            return _("Choose a model.")
        if not model.usable:
            return _("The model '{name}' cannot be used: {reason}").format(name=model.name, reason=model.problem)
        if parameters.mode not in model.description["modes"]:
            return _("The model '{name}' cannot do this. Choose another mode or model.").format(name=model.name)
        rows = self.mapping(parameters) if drawn else []
        if drawn and not any(row.drawn for row in rows):
            return _("The segmentation is empty: draw into one of its segments.")
        if drawn and fits(rows) == 0:
            return _("No segment goes to a class of this model: choose classes in the table.")
        if parameters.mode == "inpaint" and parameters.realVolume is None:
            return _("Choose the real volume to draw into.")
        if self.engine.device(parameters.device) is None:
            text = _("The device '{id}' is not there: choose another one under Advanced.")
            return text.format(id=parameters.device)
        return ""

    def request(self, parameters, folder: Path, names: Mapping[str, str], image: Path | None, seed: int):
        """The `GenerateRequest` of the parameters.

        Args:
            folder: of the job.
            names: segment ID to its name in the job's segmentation.
            image: file of the real volume, None when mode is "whole".
            seed: of the first sample.
        """
        from SynthDiffusionLib.jobs.request import GenerateRequest
        from SynthDiffusionScene.segmentations import JOB_SEGMENTATION

        model = self.engine.model(parameters.modelId)
        sampler, steps = self.sampling(parameters, model)
        inpaint, drawn = parameters.mode == "inpaint", parameters.mode not in UNDRAWN
        return GenerateRequest(
            segmentation=folder / JOB_SEGMENTATION if drawn else None,
            model=model.folder if model.origin == "user" else model.id,
            out=folder / "results",
            mode=parameters.mode,
            image=image,
            labels=labelMap(self.mapping(parameters), names) if drawn else None,
            crop=parameters.crop and parameters.mode == "whole",
            sampler=sampler,
            steps=steps,
            seed=seed,
            samples=parameters.samples,
            guidance=(parameters.guidance or None) if bearsGuidance(model.description) else None,
            device=parameters.device,
            precision=parameters.precision,
            vram_limit=int(parameters.memoryLimitGiB * GIB) or None,
            format="nrrd",
            margin_mm=(parameters.marginMm or None) if inpaint else None,
            case=self.caseName(parameters),
            adherence=(drawn or parameters.mode == JOINT)
            and any(file["role"] == "segmenter" for file in model.description["files"]),
            tumour=(requestOf(dict(parameters.tumour)) or None) if parameters.mode == JOINT else None,
            **self._gridAndControls(parameters, model),
        )

    @staticmethod
    def _gridAndControls(parameters, model: ModelInfo) -> dict:
        """The fields of a request that only some models take, as far as this one does."""
        controls = model.description.get("controls") or {}
        fields: dict = {}
        if parameters.mode in UNDRAWN:
            size, spacing = sizeOf(parameters.size), model.description["grid"]["spacing_mm"]
            fields["size"] = tuple(size) if size else None
            if parameters.acrossMm or parameters.sliceMm:
                across, slices = parameters.acrossMm, parameters.sliceMm or spacing[2]
                fields["spacing_mm"] = (across or spacing[0], across or spacing[1], slices)
        elif parameters.mode == "whole" and parameters.size == NEAREST and bearsSizes(model.description):
            fields["size"] = NEAREST
        if controls.get("condition_scale") and parameters.mode not in UNDRAWN:
            fields["condition_scale"] = parameters.conditionScale
        region = (parameters.regionTop, parameters.regionBottom)
        if all(part in controls.get("regions", ()) for part in region):
            fields["region"] = region
        if parameters.modality in controls.get("modalities", ()):
            fields["modality"] = parameters.modality
        return fields

    @staticmethod
    def sampling(parameters, model: ModelInfo) -> tuple[str, int]:
        """Sampler and steps: what the quality means for this model, or what the user has set under Advanced."""
        from SynthDiffusionLib.sampling.quality import quality_settings

        trainSteps = model.description["diffusion"]["train_steps"]
        sampler, steps = quality_settings(parameters.quality, model.description["sampling"], trainSteps)
        if parameters.customSampling:
            sampler, steps = parameters.sampler or sampler, parameters.steps or steps
        return sampler, steps

    def caseName(self, parameters) -> str:
        """What the names of the results begin with. A segmentation that came from DICOM may have the patient's name in
        the name of its node, so results of such a one are called "case", unless the user gives another name.
        """
        from SynthDiffusionScene.hierarchy import comesFromDicom

        if parameters.caseName.strip():
            return parameters.caseName.strip()
        if parameters.mode in UNDRAWN:
            return USUAL_CASES[parameters.mode]
        return "case" if comesFromDicom(self.scene, parameters.segmentation) else parameters.segmentation.GetName()

    def prepareQuestion(self, parameters) -> Path:
        """A folder with `request.json` for `jobs.preflight`. It is used again while the inputs are the same.

        Raises:
            SceneError: the segmentation or the real volume cannot be used.
        """
        folder, names, image = self._inputs.folderFor(parameters)
        self.request(parameters, folder, names, image, seed=parameters.seed).save(folder)
        return folder

    def start(self, parameters) -> Run:
        """Writes a job with the present parameters and puts it into the queue. Later changes do not touch it.

        Raises:
            SceneError, SynthDiffusionError, OSError: as `prepareQuestion`, an impossible request, or a full disk.
                Nothing is left of the job then.
        """
        source, names, image = self._inputs.folderFor(parameters)
        seed = parameters.seed if parameters.fixedSeed else random.SystemRandom().randrange(LARGEST_SEED)
        folder = self.folders.new("run")
        try:
            for path in source.glob("*.nrrd"):
                _linkOrCopy(path, folder / path.name)
            image = folder / image.name if image else None
            request = self.request(parameters, folder, names, image, seed)
            request.save(folder)
        except Exception:
            self.folders.remove(folder)
            raise
        model = self.engine.model(parameters.modelId)
        last = seed + parameters.samples - 1
        seeds = _("seed {first}").format(first=seed)
        if last != seed:
            seeds = _("seeds {first} to {last}").format(first=seed, last=last)
        segmentation = parameters.segmentation if request.mode not in UNDRAWN else None
        realVolume = parameters.realVolume if request.mode == "inpaint" else None
        context = {
            "segmentation": segmentation.GetID() if segmentation else None,
            "realVolume": realVolume.GetID() if realVolume else None,
            "modelId": model.id,
            "seed": seed,
            "samples": parameters.samples,
            "digests": self._inputs.digests(),
        }
        return self.queue.add(Run(f"{model.id}, {seeds}", folder, context, previews=parameters.previews))

    def loadResults(self, run: Run) -> None:
        """Loads what a run has made, into the study of its segmentation.

        Raises:
            SceneError: a file cannot be loaded; nothing is left in the scene then.
        """
        from SynthDiffusionScene.digests import VOXEL_DIGEST, volumeDigest
        from SynthDiffusionScene.runs import addRun

        segmentation, realVolume = self.sourcesOf(run)
        nodes = addRun(self.scene, run.outputs, segmentation, seconds=run.seconds, realVolumeNode=realVolume)
        for node in nodes:
            for name, digest in run.context["digests"].items():
                node.SetAttribute(name, digest)
            node.SetAttribute(VOXEL_DIGEST, volumeDigest(node))
        run.context["nodes"] = [node.GetID() for node in nodes]
        # The volumes are in the scene now; nothing but the request and the log is needed any more.
        for name in ("results", "previews"):
            shutil.rmtree(run.folder / name, ignore_errors=True)
        for path in run.folder.glob("*.nrrd"):
            try:
                path.unlink()
            except OSError:  # held open by a virus scanner, say; it goes with the folder
                continue

    def sourcesOf(self, run: Run) -> tuple:
        """The segmentation and the real volume that a run was started from; None for what is not in the scene."""
        ids = run.context["segmentation"], run.context["realVolume"]
        return tuple(self.scene.GetNodeByID(nodeId) if nodeId else None for nodeId in ids)

    def shutdown(self) -> None:
        """Ends all runs and forgets all copies of inputs."""
        self.queue.shutdown()
        self._inputs.forget()

    def discardScene(self) -> None:
        """The scene is closing: ends all runs without results and forgets the copies of its nodes."""
        self.queue.discardAll()
        self._inputs.forget()


def bearsSizes(description: Mapping) -> bool:
    """Whether a model makes a drawing on its own grid, within limits, rather than with voxels of one size."""
    return bool(description["grid"].get("spacing_range_mm"))


def bearsGuidance(description: Mapping) -> bool:
    """Whether a model can be led by guidance, which takes one that was trained without its condition too."""
    return (description.get("controls") or {}).get("guidance", True)


class _Inputs:
    """The chosen nodes as files, written anew only when the nodes have changed."""

    def __init__(self, folders: JobFolders) -> None:
        self._folders = folders
        self._key: tuple = ()
        self._imageKey: tuple = ()
        self._folder: Path | None = None
        self._names: dict[str, str] = {}
        self._digests: dict[str, str] = {}

    def folderFor(self, parameters) -> tuple[Path, dict[str, str], Path | None]:
        """The folder with the files, the names of the segments in them by ID, and the real volume's file if any."""
        from SynthDiffusionScene.digests import DRAWING_DIGEST, REAL_VOLUME_DIGEST, segmentationDigest, volumeDigest
        from SynthDiffusionScene.modified import modifiedTime
        from SynthDiffusionScene.segmentations import writeJobInput
        from SynthDiffusionScene.volumeFiles import writeVolume

        segmentation = parameters.segmentation if parameters.mode not in UNDRAWN else None
        volume = parameters.realVolume if parameters.mode == "inpaint" else None
        imageKey: tuple = ()
        if volume is not None:
            transform = volume.GetTransformNodeID()
            # Under two transforms the volume is looked at anew each time: it is refused if they differ.
            place = transform if transform == segmentation.GetTransformNodeID() else object()
            imageKey = (volume.GetID(), modifiedTime(volume), place)
        key = (segmentation and (segmentation.GetID(), modifiedTime(segmentation)), imageKey)
        if key != self._key or self._folder is None or not self._folder.is_dir():
            before, imageBefore = self._folder, self._imageKey
            folder, digests = self._folders.new("inputs"), {}
            try:
                if imageKey and imageKey == imageBefore and (before / IMAGE_FILE).is_file():
                    # The user draws, and the volume, which may be large, stays as it is.
                    _linkOrCopy(before / IMAGE_FILE, folder / IMAGE_FILE)
                    digests[REAL_VOLUME_DIGEST] = self._digests[REAL_VOLUME_DIGEST]
                elif volume is not None:
                    writeVolume(volume, folder / IMAGE_FILE, segmentation)
                    digests[REAL_VOLUME_DIGEST] = volumeDigest(volume)
                names = {}
                if segmentation is not None:
                    names = writeJobInput(segmentation, folder)
                    digests[DRAWING_DIGEST] = segmentationDigest(segmentation)
            except Exception:
                self._folders.remove(folder)
                raise
            finally:
                self.forget()
            self._key, self._imageKey, self._folder, self._names = key, imageKey, folder, names
            self._digests = digests
        return self._folder, self._names, self._folder / IMAGE_FILE if volume is not None else None

    def digests(self) -> dict[str, str]:
        """What to remember of the nodes that were written last, as attributes of a volume made from them."""
        return dict(self._digests)

    def forget(self) -> None:
        self._folders.remove(self._folder)
        self._key, self._imageKey, self._folder, self._names, self._digests = (), (), None, {}, {}


def _linkOrCopy(source: Path, target: Path) -> None:
    """A hard link where the file system has them: a real volume may have hundreds of megabytes."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


class Estimate:
    """Asks, a moment after the last change, what a run with the present parameters would take.

    Args:
        generation: prepares the question.
        onAnswer: called with the answer of `jobs.preflight` ({"event": "done", ...} or {"event": "error", "kind",
            "message", "hint"}), or with {} when it begins to be worked on; nothing follows while `Generation.problem`
            says why there can be no answer.
    """

    def __init__(self, generation: Generation, onAnswer: Callable[[dict], None]) -> None:
        import qt

        self._generation, self._onAnswer = generation, onAnswer
        self._process = None
        self._parameters = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_ESTIMATE_DELAY_MS)
        self._timer.connect("timeout()", self._ask)

    def askSoon(self, parameters) -> None:
        """Asks when nothing has changed for a moment; an earlier question is dropped."""
        self.drop()
        self._parameters = parameters
        self._timer.start()

    def drop(self) -> None:
        """Forgets a question that is under way."""
        self._timer.stop()
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Drops it and stops for good."""
        self.drop()
        self._timer.disconnect("timeout()", self._ask)
        self._timer.deleteLater()

    def _ask(self) -> None:
        from SynthDiffusionLib.errors import SynthDiffusionError
        from SynthDiffusionScene.errors import SceneError

        engine, parameters = self._generation.engine, self._parameters
        device = engine.device(parameters.device)
        self._onAnswer({})
        if self._generation.problem(parameters) or device is None:
            return
        began = time.monotonic()
        try:
            folder = self._generation.prepareQuestion(parameters)
        except (SceneError, SynthDiffusionError) as error:
            self._onAnswer({"event": "error", "kind": error.kind, "message": error.message, "hint": error.hint})
            return
        except OSError as error:
            self._onAnswer({"event": "error", "kind": "internal", "message": str(error), "hint": _("Free some space.")})
            return
        # While a large segmentation is being drawn, writing it must not take more than a part of the time.
        spent = 10_000 * (time.monotonic() - began)
        self._timer.setInterval(int(min(_MOST_DELAY_MS, max(_ESTIMATE_DELAY_MS, spent))))
        arguments = ["SynthDiffusionLib.jobs.preflight", str(folder), "--device", device.id]
        arguments += ["--device-name", device.name]
        precision = device.precision if parameters.precision == "auto" else parameters.precision
        if precision:
            arguments += ["--precision", precision]
        if device.freeBytes is not None:
            arguments += ["--free-bytes", str(device.freeBytes)]
        self._process = engine.ask(arguments, self._onAnswered)

    def _onAnswered(self, result, message: str) -> None:
        if result.cancelled:
            return
        self._process = None
        answer = result.event
        if not _isAnswer(answer):
            answer = {"event": "error", "kind": "internal", "message": message, "hint": ""}
        self._onAnswer(answer)


def _isAnswer(event: dict) -> bool:
    """Whether an event is one of `jobs.preflight`, with all that is shown of it."""
    if event.get("event") == "error":
        return all(isinstance(event.get(name), str) for name in ("kind", "message", "hint"))
    numbers = (event.get("seconds") or 0, event.get("predicted_bytes"), event.get("free_bytes") or 0)
    return all(isinstance(n, (int, float)) for n in numbers) and {"seconds_from", "strategy"} <= event.keys()
