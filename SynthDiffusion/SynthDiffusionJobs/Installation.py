"""Installs what the engine needs into Slicer's Python, on the user's word, and never changes what is there.

PyTorch comes through the PyTorch extension; the other packages through `slicer.packaging`, after pip has said in a dry
run what it would do. Both are held to the versions of all that is installed, and afterwards the versions are compared:
Slicer and other extensions stop working when theirs are replaced.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import CalledProcessError

from slicer.i18n import tr as _

from SynthDiffusionJobs import Packages, PyTorchExtension
from SynthDiffusionJobs.Engine import Engine
from SynthDiffusionJobs.EngineProcess import OUTPUT_FILE, EngineProcess, ProcessResult
from SynthDiffusionJobs.JobFolders import JobFolders, unwritableText
from SynthDiffusionJobs.Packages import PlannedPackage
from SynthDiffusionJobs.Signal import Signal

IDLE = "idle"
PLANNING = "planning"  # the dry run; can be cancelled
CONFIRMING = "confirming"
INSTALLING = "installing"  # pip cannot be stopped safely

# No question that nobody can answer, and no package that would have to be compiled here.
PIP_OPTIONS = ("--no-input", "--disable-pip-version-check", "--only-binary=:all:")


class Installation:
    """What is under way, and how the last action ended. Nothing happens before an install method is called.

    Args:
        engine: tells what is missing, and is asked again afterwards.
        folders: where pip's files go.
        resourcePath: gives the path of a file under Resources.

    Attributes:
        changed: Signal(), `state`, `message`, `hint` or `alert` is another one.
        logged: Signal(line), there is a new line in the log.
        state: IDLE, PLANNING, CONFIRMING or INSTALLING.
        activity: what is being done, "" when idle.
        message, hint: how the last action ended, and what to do next.
        alert: packages that were changed in spite of all; stays until Slicer is closed.
        log: lines of all actions.
    """

    def __init__(self, engine: Engine, folders: JobFolders, resourcePath: Callable[[str], str]) -> None:
        self._engine, self._folders, self._resourcePath = engine, folders, resourcePath
        self.changed, self.logged = Signal(), Signal()
        self.state = IDLE
        self.activity = self.message = self.hint = self.alert = ""
        self.log: list[str] = []
        self._process: EngineProcess | None = None
        self._confirm: Callable[[Sequence[PlannedPackage]], bool] = lambda plan: False
        self._before: Mapping[str, str] = {}
        self._folder: Path | None = None
        self._pipLines: list[str] = []
        self._closed = False

    @property
    def busy(self) -> bool:
        return self.state != IDLE

    def torchProblem(self) -> str:
        """Why PyTorch cannot or need not be installed now, in a sentence; "" if it can."""
        return self._generalProblem() or (_("PyTorch is there.") if self._torchUsable() else "")

    def packagesProblem(self) -> str:
        """Why the other packages cannot or need not be installed now, in a sentence; "" if they can."""
        if problem := self._generalProblem():
            return problem
        if not self._engine.status.missing:
            return _("All packages are there.")
        # One of them needs PyTorch, and pip would fetch a build of its own choice.
        return "" if self._torchUsable() else _("Install PyTorch first.")

    def installPackages(self, confirm: Callable[[Sequence[PlannedPackage]], bool]) -> None:
        """Finds out what is to be installed, has it confirmed, and installs it. Returns at once.

        Args:
            confirm: shows the plan to the user; nothing is changed unless it returns True.
        """
        if self.busy or self.packagesProblem() or not self._folderMade():
            return
        packaging = _slicerPackaging()
        if packaging is None:
            self._end(_("Packages can be installed in Slicer 5.12 or newer."), _("Install a newer Slicer."))
            return
        if packaging.isPipInstallInProgress():
            self._end(_("Another extension is installing packages."), _("Try again when it is ready."))
            return
        self._begin(PLANNING, _("Finding out which packages are needed. Nothing is changed yet."))
        self._confirm = confirm
        constraints = self._writeConstraints("constraints.txt", self._protectedVersions())
        command = [sys.executable, "-P", "-m", "pip", "install", *PIP_OPTIONS, "--dry-run"]
        command += ["--report", str(self._folder / "report.json"), "-c", str(constraints), *self._requirements()]
        environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
        self._process = EngineProcess(command, environment, self._folder, lambda event: None, self._onPlanned)
        self._process.start()

    def installTorch(self) -> None:
        """Installs PyTorch through its extension, which asks first; offers to install the extension if it is not there.

        Returns when it is done; Slicer's events are processed meanwhile.
        """
        if self.busy or self.torchProblem() or not self._folderMade():
            return
        self._begin(INSTALLING, _("Installing PyTorch. This takes some minutes, and cannot be stopped safely."))
        problem = PyTorchExtension.loadProblem()
        if problem == "missing":
            self._end(*PyTorchExtension.offerExtension())
            return
        if problem:
            self._end(problem, _("Update the extension 'PyTorch' in the Extensions Manager, then restart Slicer."))
            return
        protected = {n: v for n, v in self._protectedVersions().items() if not PyTorchExtension.isPyTorchPart(n)}
        self._before = protected
        constraints = self._writeConstraints("constraints.txt", protected)
        (line,) = Packages.readRequirements(self._resourcePath("Requirements/torch.txt"))
        failure = ("", "")
        try:
            installed = PyTorchExtension.installTorch(line.removeprefix("torch"), constraints, self._onPipLine)
        except Exception as error:  # another extension's code: anything may come
            logging.exception("The PyTorch extension has failed")
            installed = False
            self._onPipLine(f"{type(error).__name__}: {error}")
            failure = Packages.pipProblem(self._pipLog())
        if installed:
            self._finish(_("PyTorch is installed."), "")
        else:
            self._finish(*failure if failure[0] else (_("PyTorch was not installed."), ""))

    def cancel(self) -> None:
        """Ends the dry run. What is being installed goes on."""
        if self._process is not None:
            self._process.kill()

    def dismiss(self) -> None:
        """Forgets how the last action ended. `alert` and `log` stay."""
        self.message = self.hint = ""

    def shutdown(self) -> None:
        """Ends the dry run and forgets all receivers. An installation under way goes on without being told about."""
        self._closed = True
        self.changed.disconnectAll()
        self.logged.disconnectAll()
        self.cancel()

    # Steps

    def _onPlanned(self, result: ProcessResult) -> None:
        self._process = None
        output, errors = _read(self._folder / OUTPUT_FILE), _read(self._folder / "log.txt")
        for line in f"{output}\n{errors}".splitlines():
            self._onPipLine(line)
        nothing = _("Nothing was changed.")
        if result.cancelled:
            self._end(_("Canceled."), nothing)
            return
        if result.exitCode != 0:
            message, mend = Packages.pipProblem(self._pipLog())
            self._end(result.problem or message, f"{nothing} {mend}")
            return
        try:
            plan = Packages.readReport(self._folder / "report.json", self._sizes())
        except ValueError as error:
            self._end(str(error), nothing)
            return
        if changes := Packages.changesTo(self._before, plan):
            self._end(
                _("pip would change packages that Slicer has: {names}.").format(names=", ".join(changes)),
                f"{nothing} " + _("Choose another Python under Advanced."),
            )
            return
        if not plan:
            self._finish(_("All packages are there."), "")
            return
        summary, packages = Packages.describePlan(plan)
        for line in (summary, *packages):
            self._addToLog(line)
        self._setState(CONFIRMING, _("Waiting for your answer. Nothing is changed yet."))
        confirmed = self._confirm(plan)
        if self._closed:
            return
        if not confirmed:
            self._end(_("Nothing was installed."), "")
            return
        self._install(plan)

    def _install(self, plan: Sequence[PlannedPackage]) -> None:
        packaging = _slicerPackaging()
        if packaging.isPipInstallInProgress() or Packages.installedVersions() != self._before:
            self._end(_("Meanwhile another extension has installed packages."), _("Try again."))
            return
        # What was confirmed, and no other version that has come out since.
        pins = {Packages.canonicalName(package.name): package.version for package in plan}
        self._pipLines = []
        constraints = self._writeConstraints("confirmed.txt", self._protectedVersions() | pins)
        self._setState(
            INSTALLING,
            _("Installing {n} packages. This cannot be stopped safely: leave Slicer open.").format(n=len(plan)),
        )
        logging.info("SynthDiffusion installs %s", ", ".join(f"{p.name} {p.version}" for p in plan))
        try:
            packaging.pip_install(
                [*PIP_OPTIONS, *self._requirements()],
                constraints=str(constraints),
                blocking=False,
                requester="SynthDiffusion",
                logCallback=self._onPipLine,
                completedCallback=self._onInstalled,
            )
        except CalledProcessError as error:  # in testing mode Slicer installs before it returns
            self._onInstalled(error.returncode)
        except (RuntimeError, OSError) as error:
            self._onPipLine(f"ERROR: {error}")
            self._onInstalled(1)
        else:
            if not packaging.isPipInstallInProgress():  # testing mode, likewise; no callback comes
                self._onInstalled(0)

    def _onInstalled(self, returnCode: int) -> None:
        if self.state != INSTALLING:
            return  # told already
        if returnCode == 0:
            self._finish(_("The packages are installed."), "")
            return
        message, mend = Packages.pipProblem(self._pipLog())
        logging.error("SynthDiffusion: pip has failed with exit code %d. %s", returnCode, message)
        self._finish(message, _("Some of the packages may be installed now.") + f" {mend}")

    def _finish(self, message: str, hint: str) -> None:
        """The end of an action that may have changed packages: compares the versions, and asks the engine again."""
        if changes := Packages.changedVersions(self._before, Packages.installedVersions()):
            alert = _(
                "Packages that were there before have been changed: {names}. Slicer or other extensions may fail. To"
                " mend it, enter in Slicer's Python console, then restart Slicer:\n{command}"
            ).format(names=", ".join(changes), command=self._restoringCommand(changes))
            logging.error("SynthDiffusion: %s", alert)
            self._addToLog(alert)
            self.alert = f"{self.alert}\n{alert}".strip()
        self._end(message, hint)
        if not self._closed:
            self._engine.refresh()

    # Parts

    def _generalProblem(self) -> str:
        status = self._engine.status
        if status.state in ("unknown", "checking"):
            return _("Not checked yet.")
        if self._engine.otherPython:
            return _("Nothing is installed into another Python from here, see Advanced.")
        return _("The engine does not answer.") if status.state == "failed" else ""

    def _torchUsable(self) -> bool:
        # The probe's problem, in an engine that answers, is always one with PyTorch.
        return bool(self._engine.status.torch) and not self._engine.status.problem

    def _requirements(self) -> list[str]:
        return Packages.readRequirements(self._resourcePath("Requirements/engine.txt"))

    def _sizes(self) -> dict:
        try:
            text = Path(self._resourcePath("Requirements/sizes.json")).read_text(encoding="utf-8")
        except OSError:
            return {}
        return json.loads(text)["packages"]

    def _protectedVersions(self) -> dict[str, str]:
        """What must not change: all that is installed, with the PyTorch that the engine has found."""
        torch = {"torch": self._engine.status.torch} if self._engine.status.torch else {}
        return torch | dict(self._before)

    def _writeConstraints(self, name: str, versions: Mapping[str, str]) -> Path:
        path = self._folder / name
        path.write_text("\n".join(Packages.constraintLines(versions)) + "\n", encoding="utf-8")
        return path

    def _restoringCommand(self, changes: Sequence[str]) -> str:
        pins = " ".join("{}=={}".format(*change.split(" ")[:2]) for change in changes)
        return f'slicer.util.pip_install("{pins}")'

    def _folderMade(self) -> bool:
        """Makes the folder for pip's files, or says why it cannot be made."""
        try:
            self._folder = self._folders.new("install")
        except OSError as error:
            self._end(unwritableText(error), "")
            return False
        return True

    def _begin(self, state: str, activity: str) -> None:
        self.message = self.hint = ""
        self._before = Packages.installedVersions()
        self._pipLines = []
        self._addToLog(activity)
        self._setState(state, activity)

    def _end(self, message: str, hint: str) -> None:
        self._folders.remove(self._folder)
        self._folder = None
        self.message, self.hint = message, hint
        self._addToLog(f"{message} {hint}".strip())
        self._setState(IDLE, "")

    def _setState(self, state: str, activity: str) -> None:
        self.state, self.activity = state, activity
        self.changed.emit()

    def _addToLog(self, line: str) -> None:
        self.log.append(line)
        self.logged.emit(line)

    def _onPipLine(self, line: str) -> None:
        self._pipLines.append(line)
        self._addToLog(line)

    def _pipLog(self) -> str:
        """What pip has printed in this step."""
        return "\n".join(self._pipLines)


def _slicerPackaging():
    """The module slicer.packaging; None in a Slicer that does not have it."""
    try:
        import slicer.packaging
    except ImportError:
        return None
    return slicer.packaging


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
