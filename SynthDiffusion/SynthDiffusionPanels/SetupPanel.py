"""Shows what the computer has and what is missing, and installs it on a click."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import date

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from SynthDiffusionJobs import Packages
from SynthDiffusionJobs.Engine import Device, ModelInfo
from SynthDiffusionJobs.EngineProcess import EngineProcess, ProcessResult
from SynthDiffusionJobs.Installation import INSTALLING, PLANNING, Installation
from SynthDiffusionJobs.Packages import PlannedPackage
from SynthDiffusionJobs.Session import Session
from SynthDiffusionPanels.sentences import GIB, failureText

_SPEED_SETTING = "SynthDiffusion/MeasuredSpeed"


class SetupPanel:
    """State of the engine, its packages and devices; installation; speed; and, under Advanced, another Python.

    Args:
        session: whose engine is shown.

    Attributes:
        installation: what the install buttons start.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.installation = Installation(session.engine, session.folders, session.resourcePath)
        self.widget = slicer.util.loadUI(session.resourcePath("UI/SetupPanel.ui"))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        self._calibration: EngineProcess | None = None
        self._calibrated = ("", "")  # model and device that are being measured
        self._message = ""  # how the last measurement, or the choice of a Python, ended
        self._alertShown = ""
        self._closed = False
        ui.checkButton.connect("clicked()", self._onCheck)
        ui.torchButton.connect("clicked()", self._onInstallTorch)
        ui.packagesButton.connect("clicked()", self._onInstallPackages)
        ui.calibrateButton.connect("clicked()", self._onCalibrate)
        ui.cancelButton.connect("clicked()", self._onCancel)
        ui.copyLogButton.connect("clicked()", self._onCopyLog)
        ui.copyCommandButton.connect("clicked()", self._onCopyCommand)
        ui.pythonEdit.connect("editingFinished()", self._onPythonEdited)
        ui.browseButton.connect("clicked()", self._onBrowse)
        ui.ownPythonButton.connect("clicked()", self._onOwnPython)
        self.installation.changed.connect(self._onInstallationChanged)
        self.installation.logged.connect(ui.logText.appendPlainText)
        self.refresh()

    def enter(self) -> None:
        """The free memory is shown as of the last check; nothing is asked here."""

    def exit(self) -> None:
        """An installation or a measurement under way goes on."""

    def close(self) -> None:
        self._closed = True
        self.installation.shutdown()
        if self._calibration is not None:
            self._calibration.kill()

    def refresh(self) -> None:
        self._refreshStatus()
        self._refreshButtons()
        self._refreshMessages()
        self._refreshPython()

    # What is shown

    def _refreshStatus(self) -> None:
        ui, engine = self.ui, self._session.engine
        status = engine.status
        ui.folderEdit.text = str(engine.folder)
        ui.folderEdit.setCursorPosition(0)
        waiting = {"unknown": _("not checked yet"), "checking": _("being checked...")}.get(status.state)
        if waiting or status.state == "failed":
            ui.engineLabel.text = waiting or _("does not answer")
            for label in (ui.torchLabel, ui.packagesLabel, ui.devicesLabel, ui.speedLabel):
                label.text = waiting or _("not known")
            return
        python = _("another Python") if engine.otherPython else _("Slicer's own Python")
        ui.engineLabel.text = _("version {version}, run by {python} {number}").format(
            version=status.version, python=python, number=status.python
        )
        ui.torchLabel.text = status.problem or _("version {version}").format(version=status.torch)
        ui.packagesLabel.text = self._packagesText()
        ui.devicesLabel.text = self._devicesText()
        ui.speedLabel.text = self._speedText()

    def _packagesText(self) -> str:
        missing = self._session.engine.status.missing
        if not missing:
            return _("all there")
        text = _("{n} missing: {names}").format(n=len(missing), names=", ".join(map(_missingName, missing)))
        problem = self.installation.packagesProblem()
        return f"{text}. {problem}" if problem else text

    def _devicesText(self) -> str:
        status = self._session.engine.status
        lines = [_deviceText(device) for device in status.devices]
        if all(device.id == "cpu" for device in status.devices):
            if status.torch and not status.problem:
                lines.append(_("No GPU that PyTorch can use was found: the CPU is used, which is slower."))
            else:
                lines.append(_("GPUs are found when PyTorch is installed."))
        return "\n".join(lines)

    def _speedText(self) -> str:
        model, device = self._modelToMeasure(), self._deviceToMeasure()
        if model is None or device is None:
            return _("not measured yet")
        measured = _measuredSpeeds().get(_speedKey(model, device, self._precision()))
        if measured is None:
            return _("'{model}' is not measured yet on {device}").format(model=model.name, device=device.name)
        return _("measured on {date}: one evaluation of '{model}' takes {seconds:.3g} s on {device}").format(
            date=measured["date"], model=model.name, seconds=measured["seconds"], device=device.name
        )

    def _refreshButtons(self) -> None:
        ui, engine = self.ui, self._session.engine
        free = not self.installation.busy and self._calibration is None
        ui.checkButton.enabled = free  # also while a check is under way, which may hang
        ui.torchButton.enabled = free and not self.installation.torchProblem()
        ui.packagesButton.enabled = free and not self.installation.packagesProblem()
        ui.calibrateButton.enabled = (
            free and engine.status.ready and self._modelToMeasure() is not None and self._deviceToMeasure() is not None
        )
        ui.pythonEdit.enabled = ui.browseButton.enabled = free
        ui.ownPythonButton.enabled = free and bool(engine.otherPython)
        ui.cancelButton.enabled = self.installation.state == PLANNING or self._calibration is not None

    def _refreshMessages(self) -> None:
        ui, installation, status = self.ui, self.installation, self._session.engine.status
        working = installation.busy or self._calibration is not None
        texts = [installation.activity]
        if not working:
            texts = [failureText(installation.message, installation.hint), self._message]
            if status.state == "failed":
                texts.append(failureText(status.problem, status.hint))
        elif self._calibration is not None:
            texts = [self._message]
        _show(ui.messageLabel, "\n".join(filter(None, texts)))
        _show(ui.alertLabel, installation.alert)
        ui.progressBar.setVisible(working)
        ui.cancelButton.setVisible(working)
        if installation.busy:
            ui.progressBar.setRange(0, 0)
        ui.copyLogButton.enabled = bool(installation.log)

    def _refreshPython(self) -> None:
        ui, engine = self.ui, self._session.engine
        if not ui.pythonEdit.hasFocus():
            ui.pythonEdit.text = engine.otherPython
        text = command = ""
        status = engine.status
        if engine.otherPython and status.state in ("ready", "missing"):
            missing = [_missingName(entry) for entry in status.missing]
            if status.problem:
                missing.append(status.problem)
            text = _("Python {version}: all packages are there.").format(version=status.python)
            if missing:
                command = self._mendingCommand()
                text = _(
                    "Python {version} lacks: {names}. Nothing is installed into it from here: enter this in a terminal,"
                    " then click Check again."
                ).format(version=status.python, names=", ".join(missing))
        _show(ui.pythonLabel, text)
        if ui.commandText.plainText != command:
            ui.commandText.plainText = command
        ui.commandText.setVisible(bool(command))
        ui.copyCommandButton.setVisible(bool(command))

    def _mendingCommand(self) -> str:
        from SynthDiffusionLib.jobs.command_line import as_text

        status = self._session.engine.status
        requirements = [entry["requirement"] for entry in status.missing]
        if status.problem:
            requirements += Packages.readRequirements(self._session.resourcePath("Requirements/torch.txt"))
        return as_text([self._session.engine.otherPython, "-m", "pip", "install", *requirements])

    # Installation

    def _onCheck(self) -> None:
        self._forgetMessages()
        self._session.engine.refresh()

    def _onInstallTorch(self) -> None:
        self._message = ""
        self.installation.installTorch()

    def _onInstallPackages(self) -> None:
        self._message = ""
        self.installation.installPackages(self._confirm)

    @staticmethod
    def _confirm(plan: Sequence[PlannedPackage]) -> bool:
        summary, packages = Packages.describePlan(plan)
        text = _("These will be added to Slicer's Python. What is installed already is not changed.")
        return slicer.util.confirmOkCancelDisplay(
            f"{summary}\n\n{', '.join(packages)}\n\n{text}", windowTitle=_("Install packages")
        )

    def _forgetMessages(self) -> None:
        self._message = ""
        self.installation.dismiss()

    def _onInstallationChanged(self) -> None:
        if self.installation.state == INSTALLING:
            self.ui.logSection.collapsed = False  # the only sign of life for minutes
        self.refresh()
        if self.installation.alert != self._alertShown:
            # The section may be collapsed now, and this must be seen.
            self._alertShown = self.installation.alert
            slicer.util.warningDisplay(self._alertShown, windowTitle=_("Packages have been changed"))

    def _onCancel(self) -> None:
        self.installation.cancel()
        if self._calibration is not None:
            self._calibration.kill()

    def _onCopyLog(self) -> None:
        slicer.app.clipboard().setText("\n".join(self.installation.log))

    def _onCopyCommand(self) -> None:
        slicer.app.clipboard().setText(self.ui.commandText.plainText)

    # Speed

    def _modelToMeasure(self) -> ModelInfo | None:
        """The chosen model, or the first that can be used."""
        model = self._session.model
        if model is not None and model.usable:
            return model
        return next((model for model in self._session.engine.models if model.usable), None)

    def _deviceToMeasure(self) -> Device | None:
        parameters = self._session.parameters
        return self._session.engine.device(parameters.device if parameters is not None else "auto")

    def _precision(self) -> str:
        parameters = self._session.parameters
        return parameters.precision if parameters is not None else "auto"

    def _onCalibrate(self) -> None:
        model, device = self._modelToMeasure(), self._deviceToMeasure()
        if model is None or device is None or self._calibration is not None:
            return
        self._forgetMessages()
        self._calibrated = (_speedKey(model, device, self._precision()), model.name)
        self._message = _("Loading '{model}'.").format(model=model.name)
        self.ui.progressBar.setRange(0, 0)
        arguments = ["--model", model.folder if model.origin == "user" else model.id]
        arguments += ["--device", device.id, "--precision", self._precision(), "--end-with-stdin"]
        self._calibration = self._session.engine.ask(
            ["SynthDiffusionLib.jobs.calibrate", *arguments], self._onCalibrated, self._onCalibrationEvent
        )
        self.refresh()

    def _onCalibrationEvent(self, event: dict) -> None:
        if event.get("stage") == "denoise" and not self._closed:
            self.ui.progressBar.setRange(0, event["total"])
            self.ui.progressBar.value = event["step"]
            self._message = _("Measuring '{model}'.").format(model=self._calibrated[1])
            self._refreshMessages()

    def _onCalibrated(self, result: ProcessResult, message: str) -> None:
        self._calibration = None
        if self._closed:
            return
        if result.cancelled:
            self._message = _("Canceled. The speed was not measured.")
        elif result.done:
            seconds = result.event["seconds_per_evaluation"]
            _keepSpeed(self._calibrated[0], seconds)
            self._message = _("One evaluation takes {seconds:.3g} s.").format(seconds=seconds)
        else:
            event = result.event
            self._message = failureText(event.get("message") or message, event.get("hint") or "")
        # All panels, by way of the engine: what a run takes is better known now.
        self._session.engine.refresh(quietly=True)
        self.refresh()

    # Another Python

    def _onPythonEdited(self) -> None:
        self._choosePython(self.ui.pythonEdit.text.strip())

    def _onBrowse(self) -> None:
        path = qt.QFileDialog.getOpenFileName(
            self.widget, _("Choose the program file of a Python"), os.path.dirname(self._session.engine.otherPython)
        )
        if path:
            self._choosePython(path)

    def _onOwnPython(self) -> None:
        self._choosePython("")

    def _choosePython(self, path: str) -> None:
        if path == self._session.engine.otherPython:
            return
        if path and not os.path.isfile(path):
            self._message = _("There is no program '{path}'. Choose the file, such as python.exe.").format(path=path)
            self.refresh()
            return
        self._forgetMessages()
        self._session.engine.setOtherPython(path)
        self.refresh()


def _show(label, text: str) -> None:
    label.text = text
    label.toolTip = text  # where it is too narrow for a long path
    label.setVisible(bool(text))


def _missingName(entry: dict) -> str:
    if not entry["installed"]:
        return entry["name"]
    return _("{name} ({installed} is there, {requirement} is needed)").format(**entry)


def _deviceText(device: Device) -> str:
    """ "NVIDIA RTX 4090: 21.3 of 24.0 GB free"."""
    if device.freeBytes is None or device.totalBytes is None:
        return _("{name}: free memory not known").format(name=device.name)
    return _("{name}: {free:.1f} of {total:.1f} GB free").format(
        name=device.name, free=device.freeBytes / GIB, total=device.totalBytes / GIB
    )


def _speedKey(model: ModelInfo, device: Device, precision: str) -> str:
    precision = device.precision if precision == "auto" else precision
    return f"{model.id} {model.description.get('version', '')}, {device.name}, {precision}"


def _measuredSpeeds() -> dict[str, dict]:
    """What was measured on this computer. The engine keeps its own record, from which the estimates come."""
    try:
        speeds = json.loads(slicer.app.userSettings().value(_SPEED_SETTING, "") or "{}")
    except ValueError:
        return {}
    return speeds if isinstance(speeds, dict) else {}


def _keepSpeed(key: str, seconds: float) -> None:
    speeds = _measuredSpeeds() | {key: {"seconds": seconds, "date": date.today().isoformat()}}
    slicer.app.userSettings().setValue(_SPEED_SETTING, json.dumps(speeds))
