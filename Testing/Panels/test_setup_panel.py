"""The set-up panel: what it shows of the engine, and what its buttons do. The engine's answers are the tests'."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shlex
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOTS = os.environ.get("SYNTHDIFFUSION_SCREENSHOTS")
GPU = ("cuda:0", "NVIDIA RTX 4090", 24 * 1024**3, int(21.3 * 1024**3), "bf16")
CPU = ("cpu", "AMD EPYC 7B13, 8 processors", 64 * 1024**3, None, "fp32")
MISSING = (
    {"name": "monai", "requirement": "monai>=1.6,<1.7", "installed": None},
    {"name": "jsonschema", "requirement": "jsonschema>=4.20,<5", "installed": "4.1"},
)


class Bench:
    """A set-up panel on a session whose engine answers what it is told to."""

    def __init__(self, standin):
        import slicer

        from SynthDiffusionJobs import Engine, EngineProcess, Packages
        from SynthDiffusionJobs.Session import Session
        from SynthDiffusionPanels.SetupPanel import SetupPanel

        bench = self

        class AnsweringEngine(Engine.Engine):
            def refresh(self, quietly=False):
                bench.refreshed += 1

            def ask(self, arguments, onAnswer, onEvent=lambda event: None):
                bench.asked.append((arguments, onAnswer, onEvent))
                return types.SimpleNamespace(kill=lambda: bench.answer(cancelled=True))

        self.standin, self.engineModule, self.processModule = standin, Engine, EngineProcess
        self.refreshed, self.asked = 0, []
        self.versions = {"numpy": "2.4.6", "torch": "2.13.0"}
        self.realVersions, Packages.installedVersions = Packages.installedVersions, lambda: dict(self.versions)
        self.session = Session(slicer.mrmlScene, ROOT, self.resourcePath)
        self.session.engine = AnsweringEngine(ROOT, self.session.folders)
        self.panel = SetupPanel(self.session)
        self.ui = self.panel.ui
        self.panel.widget.show()

    @staticmethod
    def resourcePath(name):
        places = (ROOT / "SynthDiffusion" / "Resources" / name, ROOT / "Resources" / name)
        return str(next(path for path in places if path.exists()))

    def set(self, state="ready", torch="2.13.0", problem="", missing=(), devices=(GPU, CPU), hint=""):
        """Gives the engine a status, and models when it is ready."""
        Engine = self.engineModule
        self.session.engine.status = Engine.EngineStatus(
            state=state,
            python="3.12.10",
            version="0.1.0",
            torch=torch,
            missing=missing,
            devices=tuple(Engine.Device(*device) for device in devices),
            problem=problem,
            hint=hint,
        )
        if state == "ready":
            description = {"name": "Lung nodule CT", "version": "1.0"}
            self.session.engine.models = (Engine.ModelInfo("lung", "shipped", "/models/lung", "", description),)
        self.panel.refresh()

    def answer(self, cancelled=False, exitCode=0, **event):
        """Answers the last question to the engine."""
        _arguments, onAnswer, _onEvent = self.asked[-1]
        onAnswer(self.processModule.ProcessResult(exitCode, event, cancelled), "the last line of the log")

    def holdPip(self):
        """pip's dry run ends at once with a plan of one package, and the installation when the test says so."""
        installation = sys.modules["SynthDiffusionJobs.Installation"]
        finished = self.processModule.ProcessResult

        class Planned:
            def __init__(self, command, environment, folder, onEvent, onFinished):
                report = {"install": [{"metadata": {"name": "nibabel", "version": "5.4.2"}}]}
                Path(command[command.index("--report") + 1]).write_text(json.dumps(report), encoding="utf-8")
                self.start = lambda: None
                self.end = lambda: onFinished(finished(0))
                self.kill = lambda: onFinished(finished(None, cancelled=True))
                installation.planned = self

        installation.EngineProcess = Planned
        self.standin.installations.hold = True
        return installation


@pytest.fixture
def bench(standin):
    made = Bench(standin)
    yield made
    made.panel.close()
    made.session.shutdown()


def test_making_and_entering_asks_nothing(bench):
    bench.panel.enter()
    bench.panel.refresh()
    bench.panel.exit()
    assert bench.refreshed == 0 and bench.asked == [] and bench.standin.installations.calls == []
    assert bench.ui.engineLabel.text == "not checked yet" and bench.ui.folderEdit.text == str(ROOT)
    buttons = (bench.ui.torchButton, bench.ui.packagesButton, bench.ui.calibrateButton)
    assert not any(button.enabled for button in buttons) and bench.ui.checkButton.enabled
    bench.ui.checkButton.click()
    assert bench.refreshed == 1


def test_ready_shows_versions_and_memory(bench):
    bench.set()
    ui = bench.ui
    assert ui.engineLabel.text == "version 0.1.0, run by Slicer's own Python 3.12.10"
    assert ui.torchLabel.text == "version 2.13.0" and ui.packagesLabel.text == "all there"
    gpu, cpu = ui.devicesLabel.text.split("\n")
    assert gpu == "NVIDIA RTX 4090: 21.3 of 24.0 GB free"
    assert cpu == "AMD EPYC 7B13, 8 processors: free memory not known"
    assert not ui.torchButton.enabled and not ui.packagesButton.enabled and ui.calibrateButton.enabled
    assert not ui.messageLabel.visible and not ui.alertLabel.visible and not ui.progressBar.visible


def test_without_gpu_the_cpu_is_named_slower(bench):
    bench.set(devices=(CPU,))
    assert "No GPU that PyTorch can use was found" in bench.ui.devicesLabel.text
    bench.set(state="missing", torch="", problem="PyTorch is not installed", devices=(CPU,))
    assert "No GPU" not in bench.ui.devicesLabel.text


def test_packages_wait_for_torch_and_say_so(bench):
    bench.set(state="missing", torch="", problem="PyTorch is not installed", missing=MISSING, devices=(CPU,))
    ui = bench.ui
    assert ui.torchLabel.text == "PyTorch is not installed" and ui.torchButton.enabled
    assert ui.packagesLabel.text == (
        "2 missing: monai, jsonschema (4.1 is there, jsonschema>=4.20,<5 is needed). Install PyTorch first."
    )
    assert not ui.packagesButton.enabled
    bench.set(state="missing", missing=MISSING)
    assert ui.packagesButton.enabled and not ui.torchButton.enabled and "first" not in ui.packagesLabel.text


def test_failed_engine_shows_cause_and_mend(bench):
    bench.set(state="failed", problem="python: No such file", hint="Choose Slicer's own Python under Advanced.")
    assert bench.ui.messageLabel.visible
    assert bench.ui.messageLabel.text == "python: No such file. Choose Slicer's own Python under Advanced."
    assert bench.ui.torchLabel.text == "not known"


def test_installation_is_confirmed_by_name_and_size_and_then_cannot_be_cancelled(bench):
    bench.set(state="missing", missing=MISSING)
    installation, ui = bench.holdPip(), bench.ui
    ui.packagesButton.click()
    assert ui.progressBar.visible and ui.cancelButton.enabled and not ui.packagesButton.enabled
    assert "Nothing is changed yet" in ui.messageLabel.text and ui.logSection.collapsed
    bench.standin.dialogs.answer("OK")
    installation.planned.end()
    (dialog,) = bench.standin.dialogs.shown
    size = json.loads((ROOT / "Resources/Requirements/sizes.json").read_text(encoding="utf-8"))["packages"]["nibabel"]
    assert f"nibabel 5.4.2 ({size['bytes'] / 1e6:.1f} MB)" in dialog.text
    (call,) = bench.standin.installations.calls
    assert call["blocking"] is False and call["requester"] == "SynthDiffusion"
    assert not ui.cancelButton.enabled and not ui.checkButton.enabled and not ui.pythonEdit.enabled
    assert "cannot be stopped safely" in ui.messageLabel.text and not ui.logSection.collapsed
    bench.standin.installations.act = lambda requirements: ["Successfully installed nibabel-5.4.2"]
    bench.standin.installations.finish()
    assert "The packages are installed" in ui.messageLabel.text and not ui.progressBar.visible
    assert "Successfully installed nibabel-5.4.2" in ui.logText.plainText and bench.refreshed == 1
    ui.copyLogButton.click()
    import slicer

    assert slicer.app.clipboard().text() == ui.logText.plainText
    ui.checkButton.click()
    bench.panel.refresh()
    assert not ui.messageLabel.visible and "Successfully" in ui.logText.plainText


def test_declined_and_cancelled_install_nothing(bench):
    bench.set(state="missing", missing=MISSING)
    installation, ui = bench.holdPip(), bench.ui
    ui.packagesButton.click()
    bench.standin.dialogs.answer("Cancel")
    installation.planned.end()
    assert ui.messageLabel.text == "Nothing was installed." and ui.packagesButton.enabled
    ui.packagesButton.click()
    ui.cancelButton.click()
    assert ui.messageLabel.text == "Canceled. Nothing was changed." and ui.packagesButton.enabled
    assert bench.standin.installations.calls == []


def test_failure_and_changed_packages_are_seen(bench):
    bench.set(state="missing", missing=MISSING)
    installation, ui = bench.holdPip(), bench.ui
    ui.packagesButton.click()
    bench.standin.dialogs.answer("OK")
    installation.planned.end()
    bench.versions["numpy"] = "2.5.0"
    bench.standin.installations.exit_code = 1
    bench.standin.installations.act = lambda requirements: ["ERROR: HTTP error 503 while getting nibabel"]
    bench.standin.installations.finish()
    assert "HTTP error 503" in ui.messageLabel.text and "HTTP error 503" in ui.logText.plainText
    assert ui.alertLabel.visible and ui.alertLabel.font.bold()
    assert "numpy 2.4.6 → 2.5.0" in ui.alertLabel.text
    bench.panel.refresh()
    _question, warning = bench.standin.dialogs.shown
    assert warning.text == ui.alertLabel.text


def test_missing_torch_extension_is_offered_by_slicer(bench):
    bench.set(state="missing", torch="", problem="PyTorch is not installed", missing=MISSING)
    bench.ui.torchButton.click()
    assert bench.standin.extensions.asked == ["PyTorch"]
    assert "restart Slicer" in bench.ui.messageLabel.text and bench.ui.torchButton.enabled


def test_speed_is_measured_on_the_device_of_choice_and_remembered(bench):
    bench.set()
    ui = bench.ui
    assert ui.speedLabel.text == "'Lung nodule CT' is not measured yet on NVIDIA RTX 4090"
    ui.calibrateButton.click()
    arguments, _onAnswer, onEvent = bench.asked[-1]
    assert arguments[0] == "SynthDiffusionLib.jobs.calibrate" and "--end-with-stdin" in arguments
    assert (
        arguments[arguments.index("--model") + 1] == "lung" and arguments[arguments.index("--device") + 1] == "cuda:0"
    )
    assert not ui.calibrateButton.enabled and not ui.packagesButton.enabled and ui.cancelButton.enabled
    onEvent({"event": "progress", "stage": "denoise", "step": 2, "total": 3})
    assert (ui.progressBar.value, ui.progressBar.maximum) == (2, 3) and "Measuring" in ui.messageLabel.text
    bench.answer(event="done", seconds_per_evaluation=0.4213)
    assert ui.messageLabel.text == "One evaluation takes 0.421 s." and bench.refreshed == 1
    assert "one evaluation of 'Lung nodule CT' takes 0.421 s on NVIDIA RTX 4090" in ui.speedLabel.text
    bench.set(devices=(CPU,))
    assert "not measured yet" in ui.speedLabel.text


def test_measurement_that_fails_or_is_cancelled(bench):
    bench.set()
    ui = bench.ui
    ui.calibrateButton.click()
    ui.cancelButton.click()
    assert "Canceled" in ui.messageLabel.text and ui.calibrateButton.enabled
    ui.calibrateButton.click()
    bench.answer(exitCode=1, event="error", message="not enough memory", hint="Close other programs.")
    assert ui.messageLabel.text == "not enough memory. Close other programs."
    ui.calibrateButton.click()
    bench.answer(exitCode=1)
    assert ui.messageLabel.text == "the last line of the log" and "not measured yet" in ui.speedLabel.text


def test_other_python_is_checked_and_never_installed_into(bench):
    engine, ui = bench.session.engine, bench.ui
    bench.set()
    ui.pythonEdit.text = "/no/such/python"
    ui.pythonEdit.editingFinished()
    assert "There is no program '/no/such/python'" in ui.messageLabel.text and engine.otherPython == ""
    ui.pythonEdit.text = sys.executable
    ui.pythonEdit.editingFinished()
    assert engine.otherPython == sys.executable and bench.refreshed == 1 and not ui.messageLabel.visible
    ui.pythonEdit.editingFinished()
    assert bench.refreshed == 1
    bench.set(state="missing", torch="", problem="PyTorch is not installed", missing=MISSING)
    assert not ui.torchButton.enabled and not ui.packagesButton.enabled
    assert "Nothing is installed into it from here" in ui.pythonLabel.text and "monai" in ui.pythonLabel.text
    ui.copyCommandButton.click()
    import slicer

    command = shlex.split(slicer.app.clipboard().text()) if os.name != "nt" else []
    if command:
        torch = (ROOT / "Resources/Requirements/torch.txt").read_text(encoding="utf-8").splitlines()[-1]
        requirements = [entry["requirement"] for entry in MISSING] + [torch]
        assert command == [sys.executable, "-m", "pip", "install", *requirements]
    bench.set()
    assert ui.pythonLabel.text == "Python 3.12.10: all packages are there." and not ui.copyCommandButton.visible
    assert "another Python" in ui.engineLabel.text
    ui.ownPythonButton.click()
    assert engine.otherPython == "" and ui.pythonEdit.text == ""


def test_other_python_by_browsing(bench):
    bench.set()
    bench.standin.dialogs.answer("", sys.executable)
    bench.ui.browseButton.click()
    assert bench.session.engine.otherPython == ""
    bench.ui.browseButton.click()
    assert bench.session.engine.otherPython == sys.executable == bench.ui.pythonEdit.text


def test_refresh_writes_nothing_and_keeps_what_is_typed(bench):
    bench.set()
    ui = bench.ui
    ui.advancedSection.collapsed = False
    ui.pythonEdit.setFocus()
    bench.standin.process_events()
    ui.pythonEdit.text = "/half/a/pa"
    bench.panel.refresh()
    assert ui.pythonEdit.text == "/half/a/pa" or not ui.pythonEdit.hasFocus()
    assert bench.refreshed == 0 and bench.asked == []


def test_real_pip_is_asked_without_changing_anything(bench):
    # All is installed here, so pip needs no network, and finds under the constraints of every package nothing to do.
    sys.modules["SynthDiffusionJobs.Packages"].installedVersions = bench.realVersions
    bench.set(state="missing", missing=MISSING)
    bench.ui.packagesButton.click()
    bench.standin.wait(lambda: not bench.panel.installation.busy, 60, "pip")
    assert bench.ui.messageLabel.text == "All packages are there." and bench.refreshed == 1
    assert "Requirement already satisfied: monai" in bench.ui.logText.plainText
    assert bench.standin.installations.calls == [] and bench.standin.dialogs.shown == []


def test_cancel_ends_the_real_pip(bench):
    bench.set(state="missing", missing=MISSING)
    bench.ui.packagesButton.click()
    assert bench.standin.counts()["processes"] == 1
    bench.ui.cancelButton.click()
    bench.standin.wait(lambda: bench.standin.counts()["processes"] == 0, 2, "pip's end")
    assert bench.ui.messageLabel.text == "Canceled. Nothing was changed."


def test_real_engine(standin):
    import slicer

    from SynthDiffusionJobs.Session import Session
    from SynthDiffusionPanels.SetupPanel import SetupPanel

    session = Session(slicer.mrmlScene, ROOT, Bench.resourcePath)
    panel = SetupPanel(session)
    session.engine.changed.connect(panel.refresh)
    panel.ui.checkButton.click()
    assert panel.ui.torchLabel.text == "being checked..." and panel.ui.checkButton.enabled
    standin.wait(lambda: session.engine.status.state != "checking", 60, "the probe")
    assert importlib.metadata.version("torch").split("+")[0] in panel.ui.torchLabel.text
    assert panel.ui.packagesLabel.text == "all there" and "GB free" in panel.ui.devicesLabel.text
    there = {name for name in ("pydicom", "highdicom") if importlib.util.find_spec(name)}
    assert {entry["name"] for entry in session.engine.status.missingDicom} == {"pydicom", "highdicom"} - there
    standin.wait(lambda: bool(session.engine.models), 60, "the models")
    assert panel.ui.calibrateButton.enabled
    panel.close()
    session.shutdown()
    assert standin.counts()["processes"] == standin.counts()["timers"] == 0


def test_close_ends_what_runs_and_hears_nothing_more(bench):
    bench.set()
    bench.ui.calibrateButton.click()
    bench.panel.close()
    assert bench.refreshed == 0 and bench.panel.installation.changed.receiverCount == 0


def test_every_control_is_explained_and_reachable(bench):
    import qt

    names = [name for name in dir(bench.ui) if not name.startswith("_")]
    controls = [getattr(bench.ui, name) for name in names if name.endswith(("Button", "Edit", "Text"))]
    assert len(controls) == 13
    for control in controls:
        assert control.toolTip, control.objectName
        assert control.focusPolicy & qt.Qt.TabFocus, control.objectName
        assert getattr(control, "text", "") or control.accessibleName or control.objectName == "pythonEdit"


@pytest.mark.parametrize(
    ("width", "scale", "dark"), [(400, 1, False), (600, 1, False), (900, 1, True), (400, 2, False)]
)
def test_panel_fits(bench, tmp_path, width, scale, dark):
    from standin.screenshots import screenshot

    bench.session.engine.folder = Path(
        "/Slicer-5.12.4-linux-amd64/slicer.org/Extensions-34000/SynthDiffusion/lib/Slicer"
    )
    bench.set(state="missing", torch="", problem="PyTorch is not installed", missing=MISSING, devices=(CPU,))
    bench.session.engine.setOtherPython(sys.executable)
    bench.panel.installation.message = "No package server could be reached."
    bench.panel.installation.hint = "Nothing was changed. Connect the computer to the internet and try again."
    bench.panel.installation.alert = "Packages that were there before have been changed: numpy 2.4.6 → 2.5.0."
    bench.ui.advancedSection.collapsed = bench.ui.logSection.collapsed = False
    bench.ui.logText.appendPlainText("Collecting nibabel\nSuccessfully installed nibabel-5.4.2")
    bench.panel.refresh()
    folder = Path(SHOTS) if SHOTS else tmp_path
    least = screenshot(bench.panel.widget, folder / f"setup_{width}_{scale}.png", width, fontScale=scale, dark=dark)
    assert least.width() <= width
