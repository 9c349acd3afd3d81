"""The engine as Slicer sees it: which Python runs it, whether that has all it needs, its devices and its models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from SynthDiffusionJobs.EngineProcess import LOG_FILE, EngineProcess, ProcessResult
from SynthDiffusionJobs.JobFolders import JobFolders, unwritableText
from SynthDiffusionJobs.Signal import Signal

GIB = 1024**3
_LONGEST_LOG = 200_000  # bytes that are kept of it
_PYTHON_SETTING = "SynthDiffusion/WorkerPython"
# Parts of a model.json that its JSON schema demands and the panels read.
_SHOWN = {"name", "version", "modes", "label_scheme", "sampling", "diffusion", "grid", "files", "training", "license"}


@dataclass(frozen=True)
class Device:
    """Something that computes: "cpu" or "cuda:N". `precision` is what "auto" means; None where something is unknown."""

    id: str
    name: str
    totalBytes: int | None
    freeBytes: int | None
    precision: str | None


@dataclass(frozen=True)
class EngineStatus:
    """What the probe of the worker's Python has found.

    Args:
        state: "unknown" before the first probe, "checking", "ready", "missing" (packages), or "failed" (no answer).
        python: version of that Python.
        version: of the engine.
        torch: version of PyTorch, "" if it is not there.
        missing: requirements that are not met: {"name": "monai", "requirement": "monai>=1.6,<1.7", "installed": None}.
        missingDicom: the same of the packages that only DICOM needs; the engine is ready without them.
        devices: first the one that "auto" takes.
        problem, hint: what is wrong, and the mend, when the state is "failed"; with PyTorch, when it is "missing".
    """

    state: str = "unknown"
    python: str = ""
    version: str = ""
    torch: str = ""
    missing: tuple[dict, ...] = ()
    missingDicom: tuple[dict, ...] = ()
    devices: tuple[Device, ...] = ()
    problem: str = ""
    hint: str = ""

    @property
    def ready(self) -> bool:
        return self.state == "ready"


@dataclass(frozen=True)
class ModelInfo:
    """A model package, as `synthdiffusion models list --json` describes it.

    Args:
        id: of the package.
        origin: "shipped" or "user".
        folder: where it lies.
        problem: why it cannot be used, "" if it can.
        description: its model.json; {} if that cannot be read.
        bestFor: what its method is the one to take for, a sentence; "" if that is not known.
    """

    id: str
    origin: str
    folder: str
    problem: str = ""
    description: dict = field(default_factory=dict)
    bestFor: str = ""

    @property
    def usable(self) -> bool:
        return not self.problem and bool(self.description)

    @property
    def name(self) -> str:
        return self.description.get("name", self.id)


@dataclass(frozen=True)
class AvailableModel:
    """A released model that can be downloaded, as `synthdiffusion models list --json` describes it.

    Args:
        id: under which it is installed.
        name, description: for the user.
        licence: {"name", "spdx", "url", "permitted_use"}, texts.
        gated: whether one has to ask for access at the place that it is downloaded from.
        bytes: size of the download, None if unknown.
        installed: it is among the models.
        modality, modes: as in a model.json.
    """

    id: str
    name: str
    description: str
    licence: dict
    gated: bool = False
    bytes: int | None = None
    installed: bool = False
    modality: str = ""
    modes: tuple[str, ...] = ()


class Engine:
    """Asks the worker's Python about itself, in child processes, and keeps the answers.

    Args:
        folder: the folder that holds SynthDiffusionLib.
        folders: where the processes work.

    Attributes:
        changed: Signal(), status or models are new.
        status: `EngineStatus`.
        models: tuple of `ModelInfo`.
        available: tuple of `AvailableModel`, those that are installed, too.
        presets: IDs of designs that an imported model can be made like, without weights of their own.
    """

    def __init__(self, folder: str | Path, folders: JobFolders) -> None:
        self.folder, self.folders = Path(folder), folders
        self.changed = Signal()
        self.status = EngineStatus()
        self.models: tuple[ModelInfo, ...] = ()
        self.available: tuple[AvailableModel, ...] = ()
        self.presets: tuple[str, ...] = ()
        self._running: list[EngineProcess] = []
        self._probe: EngineProcess | None = None
        self._modelsQuestion: EngineProcess | None = None

    # Which Python

    @property
    def otherPython(self) -> str:
        """The Python that the user has chosen to run the engine; "" for Slicer's own."""
        return slicer.app.userSettings().value(_PYTHON_SETTING, "") or ""

    def setOtherPython(self, path: str) -> None:
        """Chooses another Python, or Slicer's own (""), and asks it anew."""
        slicer.app.userSettings().setValue(_PYTHON_SETTING, path)
        self.refresh()

    def command(self, *arguments: str) -> list[str]:
        """A command that runs a module of the engine: `command("SynthDiffusionLib.jobs.probe")`."""
        # -P: what lies in the working folder is no module. sys.executable is PythonSlicer in Slicer.
        return [self.otherPython or sys.executable, "-P", "-m", *arguments]

    def environment(self) -> dict[str, str]:
        """The environment of a process of the engine."""
        if self.otherPython:
            # Slicer's variables would lead another Python to Slicer's libraries.
            import slicer.util

            environment = dict(slicer.util.startupEnvironment())
            for name in ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE"):
                environment.pop(name, None)
            path = [str(self.folder)]
        else:
            environment = dict(os.environ)
            path = [str(self.folder), *filter(None, [environment.get("PYTHONPATH", "")])]
        return environment | {"PYTHONPATH": os.pathsep.join(path), "PYTHONIOENCODING": "utf-8"}

    # Questions

    def refresh(self, quietly: bool = False) -> None:
        """Asks anew for status and models; `changed` tells when the answers are there.

        Args:
            quietly: keep the present status until then, as after a run, when only the free memory may differ.
        """
        for question in (self._probe, self._modelsQuestion):  # an answer that comes late may be another Python's
            if question is not None:
                question.kill()
        if not quietly:
            self.status = EngineStatus(state="checking")
        self._probe = self.ask(["SynthDiffusionLib.jobs.probe"], self._onProbed)
        if not quietly:
            self.changed.emit()

    def refreshModels(self) -> None:
        """Asks for the models only, after one was installed or removed."""
        if self._modelsQuestion is not None:
            self._modelsQuestion.kill()
        self._modelsQuestion = self.ask(["SynthDiffusionLib", "models", "list", "--json"], self._onModels)

    def ask(
        self,
        arguments: Sequence[str],
        onAnswer: Callable[[ProcessResult, str], None],
        onEvent: Callable[[dict], None] = lambda event: None,
    ) -> EngineProcess | None:
        """Runs a module of the engine and hands on its last JSON line.

        Args:
            arguments: module and arguments. Commands that print a result without an "event" are answered, too.
            onAnswer: called with the result and the last line of the log, which says what is wrong if it failed.
            onEvent: called with the events before the last.

        Returns:
            The process; None if it could not be started, in which case the answer has been given already.
        """
        try:
            folder = self.folders.new("query")
        except OSError as error:
            problem = unwritableText(error)
            onAnswer(ProcessResult(problem=problem), problem)
            return None
        last: dict = {}

        def remember(event: dict) -> None:
            last.clear()
            last.update(event)
            onEvent(event)

        def finished(result: ProcessResult) -> None:
            self._running.remove(process)
            if result.exitCode == 0 and not result.event and last:
                result.event = {"event": "done", **last}
            result.log = _logOf(process.folder)
            message = result.problem or _lastLine(result.log)
            self.folders.remove(folder)
            onAnswer(result, message)

        process = EngineProcess(self.command(*arguments), self.environment(), folder, remember, finished)
        self._running.append(process)
        process.start()
        return process if process.isRunning else None

    def shutdown(self) -> None:
        """Ends all questions."""
        self.changed.disconnectAll()
        for process in list(self._running):
            process.kill()

    def device(self, wanted: str) -> Device | None:
        """The device that a request with `wanted` ("auto", "cpu", "cuda", "cuda:N") gets; None if it is not there."""
        devices = self.status.devices
        if wanted == "auto":
            return devices[0] if devices else None
        wanted = "cuda:0" if wanted == "cuda" else wanted
        return next((device for device in devices if device.id == wanted), None)

    def model(self, modelId: str) -> ModelInfo | None:
        return next((model for model in self.models if model.id == modelId), None)

    # Answers

    def _setStatus(self, status: EngineStatus) -> None:
        self.status = status
        self.changed.emit()

    def _onProbed(self, result: ProcessResult, message: str) -> None:
        self._probe = None
        if result.cancelled:
            return
        answer = result.event
        try:
            status = _statusOf(answer) if result.done else None
        except (KeyError, TypeError, ValueError):  # some other program may print JSON as well
            status = None
        if status is None:
            self._setStatus(self._failedStatus(answer, message))
            return
        self._setStatus(status)
        if status.ready:
            self.refreshModels()

    def _failedStatus(self, answer: dict, message: str) -> EngineStatus:
        """Of a Python that has not answered, or not as the engine does."""
        program = self.command()[0]
        problem = answer.get("message") or message or _("The process ended without an answer.")
        hint = _("Choose Slicer's own Python under Advanced, or one of version 3.11 or 3.12.")
        if not self.otherPython:
            hint = _("Install the SynthDiffusion extension again.")
        if full := self.folders.fullText(problem):  # the answer goes through a file
            hint = full
        return EngineStatus(state="failed", problem=f"{program}: {problem}", hint=str(answer.get("hint") or hint))

    def _onModels(self, result: ProcessResult, message: str) -> None:
        self._modelsQuestion = None
        if result.cancelled:
            return
        try:
            models = _modelsOf(result.event) if result.done else None
            available = tuple(_availableOf(entry) for entry in result.event.get("available") or ())
            presets = tuple(str(preset) for preset in result.event.get("presets") or ())
        except (KeyError, TypeError, AttributeError):
            models = None
        if models is None:
            self._setStatus(self._failedStatus(result.event, message))
            return
        self.models, self.available, self.presets = models, available, presets
        self.changed.emit()


def _statusOf(answer: dict) -> EngineStatus:
    """What the probe says. Raises what Python raises if it is not an answer of the probe."""
    devices = [_deviceOf(entry) for entry in answer["devices"]]
    devices.sort(key=lambda device: device.id == "cpu")  # "auto" takes a GPU where there is one
    missing, missingDicom = (
        tuple({key: entry[key] for key in ("name", "requirement", "installed")} for entry in answer[name])
        for name in ("missing", "missing_dicom")
    )
    return EngineStatus(
        state="missing" if answer["missing"] or answer["torch_problem"] else "ready",
        python=answer["python"],
        version=answer["version"],
        torch=answer["torch"] or "",
        missing=missing,
        missingDicom=missingDicom,
        devices=tuple(devices),
        problem=str(answer["torch_problem"] or ""),
    )


def _deviceOf(entry: dict) -> Device:
    total, free = _number(entry["total_bytes"]), _number(entry["free_bytes"])
    return Device(str(entry["id"]), str(entry["name"]), total, free, entry["precision"])


def _number(value: object) -> int | None:
    return None if value is None else int(value)


def _modelsOf(answer: dict) -> tuple[ModelInfo, ...]:
    """The models of an answer. One whose description lacks what the panels show cannot be used."""
    models = []
    for m in answer["models"]:
        description, problem = m["model"] or {}, str(m["problem"] or "")
        if description and not description.keys() >= _SHOWN:
            description, problem = {}, problem or _("its description is incomplete")
        best = str(m.get("best_for") or "")
        models.append(ModelInfo(str(m["id"]), str(m["origin"]), str(m["folder"]), problem, description, best))
    return tuple(models)


def _availableOf(entry: dict) -> AvailableModel:
    licence = {key: str(entry["license"].get(key) or "") for key in ("name", "spdx", "url", "permitted_use")}
    return AvailableModel(
        id=str(entry["id"]),
        name=str(entry.get("name") or entry["id"]),
        description=str(entry.get("description") or ""),
        licence=licence,
        gated=bool(entry.get("gated")),
        bytes=_number(entry.get("bytes")),
        installed=bool(entry.get("installed")),
        modality=str(entry.get("modality") or ""),
        modes=tuple(str(mode) for mode in entry.get("modes") or ()),
    )


def _logOf(folder: Path) -> str:
    """What a process has said on its standard error, the end of it; "" if nothing."""
    try:
        with open(folder / LOG_FILE, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LONGEST_LOG))
            return file.read().decode("utf-8", errors="replace").strip()
    except OSError:
        return ""


def _lastLine(log: str) -> str:
    """The last line that is not blank; "" if there is none."""
    return next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")
