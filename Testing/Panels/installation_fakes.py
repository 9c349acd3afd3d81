"""What `SynthDiffusionJobs.Installation` works with, as fakes: Slicer, its packaging module, pip, the engine."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from subprocess import CalledProcessError

ROOT = Path(__file__).resolve().parents[2]
SLICER = {"numpy": "2.4.6", "requests": "2.34.2", "torch": "2.13.0+cpu", "pip": "26.1.1"}
WANTED = [("monai", "1.6.1"), ("nibabel", "5.4.2"), ("Some_New.Thing", "0.1")]


class FakeSlicerPackaging(types.ModuleType):
    """`slicer.packaging` of Slicer 5.12, as far as it is used: what it was called with, and how it ends."""

    def __init__(self):
        super().__init__("slicer.packaging")
        self.calls = []
        self.inProgress = False
        self.testing = False  # installs before it returns, calls nothing back, raises where it fails
        self.returnCode = 0
        self.refusal = None
        self.whenInstalling = lambda: None

    def isPipInstallInProgress(self):
        return self.inProgress

    def pip_install(
        self, requirements, constraints=None, blocking=True, requester=None, logCallback=None, completedCallback=None
    ):
        self.calls.append({"requirements": requirements, "constraints": Path(constraints).read_text(encoding="utf-8")})
        assert not blocking and requester
        if self.refusal:
            raise self.refusal
        if self.testing:
            self.whenInstalling()
            if self.returnCode:
                raise CalledProcessError(self.returnCode, "pip")
            return
        self.inProgress = True
        self.logCallback, self.completedCallback = logCallback, completedCallback

    def finish(self, returnCode=0, lines=()):
        self.whenInstalling()
        for line in lines:
            self.logCallback(line)
        self.inProgress = False
        self.completedCallback(returnCode)


class FakeProcess:
    """In place of `EngineProcess`: remembers the command, and ends as a test says."""

    started = []

    def __init__(self, command, environment, folder, onEvent, onFinished):
        self.command, self.folder, self.onFinished = command, Path(folder), onFinished

    def start(self):
        self.started.append(self)

    def kill(self):
        self.end(None, cancelled=True)

    def end(self, exitCode, output="", errors="", install=None, cancelled=False):
        (self.folder / "output.jsonl").write_text(output, encoding="utf-8")
        (self.folder / "log.txt").write_text(errors, encoding="utf-8")
        if install is not None:
            report = {"version": "1", "install": [{"metadata": {"name": n, "version": v}} for n, v in install]}
            Path(self.option("--report")).write_text(json.dumps(report), encoding="utf-8")
        module = sys.modules["SynthDiffusionJobs.EngineProcess"]
        self.onFinished(module.ProcessResult(exitCode, cancelled=cancelled))

    def option(self, name):
        return self.command[self.command.index(name) + 1]


class FakeEngine:
    """What `Installation` asks of `SynthDiffusionJobs.Engine.Engine`."""

    otherPython = ""

    def __init__(self, statusClass):
        self.statusClass = statusClass
        self.refreshed = 0
        self.set()

    def set(self, torch="2.13.0+cpu", problem="", missing=("monai", "nibabel"), state="missing"):
        entries = tuple({"name": name, "requirement": name, "installed": None} for name in missing)
        self.status = self.statusClass(state=state, torch=torch, problem=problem, missing=entries)

    def refresh(self):
        self.refreshed += 1


class Folders:
    def __init__(self, parent):
        self.parent, self.made = parent, 0

    def new(self, purpose):
        self.made += 1
        folder = self.parent / f"{purpose} {self.made}"
        folder.mkdir()
        return folder

    def remove(self, folder):
        pass  # the tests read the files


class Setup:
    """An `Installation` among fakes."""

    def __init__(self, tmp_path, monkeypatch):
        self.packaging = FakeSlicerPackaging()
        self.app = types.SimpleNamespace()
        self.slicer = types.ModuleType("slicer")
        self.slicer.__path__ = []
        self.slicer.app, self.slicer.packaging = self.app, self.packaging
        i18n = types.ModuleType("slicer.i18n")
        i18n.tr = lambda text: text
        for module in (self.slicer, i18n, self.packaging, types.ModuleType("qt")):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        forgetJobs()
        monkeypatch.syspath_prepend(str(ROOT / "SynthDiffusion"))
        self.module = importlib.import_module("SynthDiffusionJobs.Installation")
        self.packages = importlib.import_module("SynthDiffusionJobs.Packages")
        self.versions = dict(SLICER)
        monkeypatch.setattr(FakeProcess, "started", [])
        monkeypatch.setattr(self.module, "EngineProcess", FakeProcess)
        self.realInstalledVersions = self.packages.installedVersions
        monkeypatch.setattr(self.packages, "installedVersions", lambda: dict(self.versions))
        self.engine = FakeEngine(importlib.import_module("SynthDiffusionJobs.Engine").EngineStatus)
        self.installation = self.module.Installation(
            self.engine, Folders(tmp_path), lambda name: str(ROOT / "Resources" / name)
        )
        self.shown, self.answer = [], True

    def confirm(self, plan):
        self.shown.append(self.packages.describePlan(plan))
        return self.answer

    def begin(self):
        self.installation.installPackages(self.confirm)
        return FakeProcess.started[-1]

    def said(self):
        return f"{self.installation.message} {self.installation.hint}"


def forgetJobs() -> None:
    """Drops the modules that were imported on top of the fakes."""
    for name in [n for n in sys.modules if n.split(".")[0] == "SynthDiffusionJobs"]:
        del sys.modules[name]
