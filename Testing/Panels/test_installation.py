"""What `SynthDiffusionJobs.Installation` installs, refuses, and says. pip and Slicer are fakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from installation_fakes import ROOT, SLICER, WANTED, FakeProcess, Setup, forgetJobs
from packaging.requirements import Requirement


@pytest.fixture
def setup(tmp_path, monkeypatch):
    made = Setup(tmp_path, monkeypatch)
    yield made
    forgetJobs()


@pytest.fixture
def offered(setup):
    """After the dry run and the user's yes."""
    setup.begin().end(0, install=WANTED)
    return setup


def test_making_one_runs_nothing(setup):
    assert FakeProcess.started == [] and setup.packaging.calls == [] and setup.engine.refreshed == 0
    assert setup.installation.state == "idle"


def test_dry_run_comes_first_and_changes_nothing(setup):
    process = setup.begin()
    assert process.command[0] == sys.executable and "--dry-run" in process.command
    assert setup.installation.state == "planning" and setup.packaging.calls == []
    wanted = {Requirement(word).name for word in process.command if ">=" in word}
    assert {"monai", "nibabel", "diffusers"} <= wanted and "torch" not in wanted
    constraints = Path(process.option("-c")).read_text(encoding="utf-8").split()
    assert sorted(constraints) == sorted(f"{name}=={version}" for name, version in SLICER.items())


def test_plan_is_shown_with_sizes_and_installed_as_confirmed(offered):
    ((summary, packages),) = offered.shown
    measured = json.loads((ROOT / "Resources/Requirements/sizes.json").read_text(encoding="utf-8"))["packages"]
    size = (measured["monai"]["bytes"] + measured["nibabel"]["bytes"]) / 1e6
    assert f"about {size:.1f} MB" in summary and "1 of which the size is not known" in summary
    assert f"monai 1.6.1 ({measured['monai']['bytes'] / 1e6:.1f} MB)" in packages
    assert "Some_New.Thing 0.1 (size not known)" in packages
    (call,) = offered.packaging.calls
    lines = call["constraints"].split()
    assert {"numpy==2.4.6", "torch==2.13.0+cpu", "monai==1.6.1", "some-new-thing==0.1"} <= set(lines)
    assert offered.installation.state == "installing"
    offered.packaging.finish(0, ["Collecting monai", "Successfully installed monai-1.6.1"])
    assert offered.installation.state == "idle" and offered.engine.refreshed == 1
    assert "Successfully installed monai-1.6.1" in offered.installation.log
    assert offered.installation.alert == "" and "installed" in offered.installation.message


def test_declined_confirmation_installs_nothing(setup):
    setup.answer = False
    setup.begin().end(0, install=WANTED)
    assert len(setup.shown) == 1 and setup.packaging.calls == []
    assert setup.installation.state == "idle" and setup.said().startswith("Nothing was installed")


def test_change_of_an_installed_package_is_refused_by_name(setup):
    setup.begin().end(0, install=[*WANTED, ("NumPy", "2.5.0")])
    assert setup.shown == [] and setup.packaging.calls == []
    assert "NumPy 2.4.6 → 2.5.0" in setup.installation.message and "monai" not in setup.installation.message
    assert "Nothing was changed" in setup.installation.hint and "another Python" in setup.installation.hint


CONFLICT = """Collecting monai
INFO: pip is looking at multiple versions

The conflict is caused by:
    The user requested numpy<3 and >=2.0
    The user requested (constraint) numpy==1.26.4

To fix this you could try to:
1. loosen the range of package versions you've specified
"""
CONFLICT_ERRORS = """ERROR: Cannot install numpy<3 and >=2.0 because these versions have conflicting dependencies.
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/
"""
OFFLINE = """WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<Connection>: Failed to
establish a new connection: [Errno -2] Name or service not known')': /simple/monai/
ERROR: Could not find a version that satisfies the requirement monai<1.7,>=1.6 (from versions: none)
ERROR: No matching distribution found for monai<1.7,>=1.6
"""


@pytest.mark.parametrize(
    ("output", "errors", "message", "hint"),
    [
        (CONFLICT, CONFLICT_ERRORS, "(constraint) numpy==1.26.4", "another Python under Advanced"),
        ("", OFFLINE, "No package server could be reached", "proxy"),
        (
            "",
            "ERROR: No matching distribution found for monai>=1.6",
            "No matching distribution found",
            "another Python",
        ),
        (
            "",
            "ERROR: Could not install packages: [Errno 28] No space left on device",
            "disk is full",
            "Free some space",
        ),
        ("", "ERROR: Could not install packages: [Errno 13] Permission denied: '/opt'", "cannot be written", "own"),
        ("", "", "without saying why", "again"),
    ],
)
def test_failed_dry_run_says_why_and_what_to_do(setup, output, errors, message, hint):
    setup.begin().end(1, output, errors)
    assert setup.shown == [] and setup.packaging.calls == []
    assert message in setup.installation.message and hint in setup.installation.hint
    assert "Nothing was changed" in setup.installation.hint
    assert set(f"{output}{errors}".splitlines()) <= set(setup.installation.log)


def test_report_that_cannot_be_read_installs_nothing(setup):
    setup.begin().end(0)
    assert setup.packaging.calls == [] and "report" in setup.installation.message


def test_nothing_to_install_asks_the_engine_again(setup):
    setup.begin().end(0, install=[])
    assert setup.shown == [] and setup.packaging.calls == [] and setup.engine.refreshed == 1


def test_cancelled_dry_run(setup):
    setup.begin()
    setup.installation.cancel()
    assert setup.installation.state == "idle" and "Nothing was changed" in setup.said() and setup.shown == []


def test_installing_is_not_stopped_by_cancel(offered):
    offered.installation.cancel()
    assert offered.installation.state == "installing"
    offered.installation.installPackages(offered.confirm)
    assert len(FakeProcess.started) == 1


def test_failed_installation_shows_reason_and_keeps_the_log(offered):
    offered.packaging.finish(1, ["Collecting monai", "ERROR: HTTP error 503 while getting monai"])
    assert "HTTP error 503" in offered.installation.message and "Some of the packages" in offered.installation.hint
    assert "ERROR: HTTP error 503 while getting monai" in offered.installation.log
    assert offered.engine.refreshed == 1 and offered.installation.state == "idle"


@pytest.mark.parametrize("returnCode", [0, 1])
def test_versions_that_changed_in_spite_of_all_are_reported(offered, returnCode):
    offered.packaging.whenInstalling = lambda: offered.versions.update(numpy="2.5.0", monai="1.6.1")
    offered.versions.pop("requests")
    offered.packaging.finish(returnCode)
    alert = offered.installation.alert
    assert "numpy 2.4.6 → 2.5.0" in alert and "requests 2.34.2 → removed" in alert and "monai" not in alert
    assert 'slicer.util.pip_install("numpy==2.4.6 requests==2.34.2")' in alert
    offered.installation.dismiss()
    assert offered.installation.alert == alert and offered.installation.message == ""


@pytest.mark.parametrize("returnCode", [0, 2])
def test_testing_mode_installs_before_it_returns(setup, returnCode):
    setup.packaging.testing, setup.packaging.returnCode = True, returnCode
    setup.packaging.whenInstalling = lambda: setup.versions.update(numpy="2.5.0")
    setup.begin().end(0, install=WANTED)
    assert setup.installation.state == "idle" and setup.engine.refreshed == 1
    assert ("installed." in setup.installation.message) == (returnCode == 0)
    assert "numpy" in setup.installation.alert


@pytest.mark.parametrize("error", [RuntimeError("PythonSlicer executable not found"), OSError("no more processes")])
def test_pip_that_does_not_start_is_reported(setup, error):
    setup.packaging.refusal = error
    setup.begin().end(0, install=WANTED)
    assert setup.installation.state == "idle" and str(error) in setup.installation.message


def test_other_installations_are_not_disturbed(setup):
    setup.packaging.inProgress = True
    setup.installation.installPackages(setup.confirm)
    assert FakeProcess.started == [] and "Another extension" in setup.installation.message
    setup.packaging.inProgress = False
    process = setup.begin()
    setup.versions["scikit-image"] = "0.25"  # while the dry run was under way
    process.end(0, install=WANTED)
    assert setup.packaging.calls == [] and "Meanwhile another extension" in setup.installation.message


def test_slicer_without_packaging_says_which_is_needed(setup, monkeypatch):
    monkeypatch.delitem(sys.modules, "slicer.packaging")
    setup.installation.installPackages(setup.confirm)
    assert FakeProcess.started == [] and "Slicer 5.12" in setup.installation.message


@pytest.mark.parametrize(
    ("status", "other", "problem"),
    [
        ({}, "", ""),
        ({"torch": "", "problem": "PyTorch is not installed"}, "", "Install PyTorch first"),
        (
            {"torch": "2.1", "problem": "PyTorch 2.1 is installed, but torch>=2.8 is needed"},
            "",
            "Install PyTorch first",
        ),
        ({"missing": ()}, "", "All packages are there"),
        ({"state": "checking"}, "", "Not checked"),
        ({"state": "failed"}, "", "does not answer"),
        ({}, "/elsewhere/python", "another Python"),
    ],
)
def test_why_packages_cannot_be_installed(setup, status, other, problem):
    setup.engine.set(**status)
    setup.engine.otherPython = other
    assert (problem in setup.installation.packagesProblem()) if problem else not setup.installation.packagesProblem()
    setup.installation.installPackages(setup.confirm)
    assert len(FakeProcess.started) == (not problem)


def test_after_shutdown_nothing_is_asked_or_told(offered):
    told = []
    offered.installation.changed.connect(lambda: told.append("changed"))
    offered.installation.shutdown()
    offered.packaging.finish(0, ["Successfully installed"])
    assert told == [] and offered.engine.refreshed == 0


def test_shutdown_ends_the_dry_run(setup):
    process = setup.begin()
    ended = []
    process.kill = lambda: ended.append(process)
    setup.installation.shutdown()
    assert ended == [process]


@pytest.mark.parametrize("action", ["installPackages", "installTorch"])
def test_a_temporary_folder_that_cannot_be_written_is_said(setup, monkeypatch, action):
    def refuse(purpose):
        raise OSError(28, "No space left on device")

    installation = setup.installation
    monkeypatch.setattr(installation._folders, "new", refuse)
    monkeypatch.setattr(installation, "torchProblem", lambda: "")
    monkeypatch.setattr(installation, "packagesProblem", lambda: "")
    getattr(installation, action)(*([lambda plan: True] if action == "installPackages" else []))
    assert installation.state == "idle"
    assert "No space left on device" in installation.message
