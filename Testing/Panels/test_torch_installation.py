"""PyTorch comes through the PyTorch extension, which is a fake here; what pip makes of our constraints is real."""

from __future__ import annotations

import os
import sys
import types
from subprocess import CalledProcessError

import pytest
from installation_fakes import Setup, forgetJobs
from packaging.requirements import Requirement


@pytest.fixture
def setup(tmp_path, monkeypatch):
    made = Setup(tmp_path, monkeypatch)
    yield made
    forgetJobs()


class FakeTorchExtension(types.ModuleType):
    """The module PyTorchUtils of the PyTorch extension."""

    def __init__(self, whenInstalling):
        super().__init__("PyTorchUtils")
        self.calls = []

        class PyTorchUtilsLogic:
            def installTorch(logic, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None):  # noqa: N805
                self.calls.append((askConfirmation, torchVersionRequirement, os.environ.get("PIP_CONSTRAINT")))
                return whenInstalling()

        self.PyTorchUtilsLogic = PyTorchUtilsLogic


@pytest.fixture
def torchless(setup):
    setup.engine.set(torch="", problem="PyTorch is not installed")
    setup.versions.pop("torch")
    return setup


def test_torch_comes_through_its_extension_only_and_keeps_the_rest(torchless, monkeypatch, tmp_path):
    seen = []

    def install():
        assert torchless.installation.state == "installing"
        from pip._internal.network.session import PipSession
        from pip._internal.req.req_file import parse_requirements

        (address,) = os.environ["PIP_CONSTRAINT"].split()  # as pip splits it
        seen.extend(r.requirement for r in parse_requirements(address, session=PipSession(), constraint=True))
        print("Collecting torch")
        print("Successfully installed torch-2.13.0")
        torchless.versions.update(torch="2.13.0", torchvision="0.28")
        return object()

    torchless.versions["torchvision"] = "0.20"
    extension = FakeTorchExtension(install)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    torchless.installation.installTorch()
    ((asked, requirement, _constraint),) = extension.calls
    assert asked and Requirement("torch" + requirement).specifier.contains("2.13.0") and "torch" not in requirement
    assert sorted(seen) == ["numpy==2.4.6", "pip==26.1.1", "requests==2.34.2"]
    assert "PIP_CONSTRAINT" not in os.environ
    assert "Successfully installed torch-2.13.0" in torchless.installation.log
    assert torchless.installation.alert == "" and torchless.engine.refreshed == 1
    assert torchless.installation.message == "PyTorch is installed." and torchless.packaging.calls == []


def test_declined_torch(torchless, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", FakeTorchExtension(lambda: None))
    torchless.installation.installTorch()
    assert torchless.installation.message == "PyTorch was not installed." and torchless.installation.state == "idle"


def test_failed_torch_says_why_and_restores_the_environment(torchless, monkeypatch):
    def fail():
        torchless.versions["numpy"] = "1.26.4"
        print("ERROR: No matching distribution found for torch>=2.8")
        raise CalledProcessError(1, "light_the_torch")

    monkeypatch.setenv("PIP_CONSTRAINT", "mine.txt")
    monkeypatch.setitem(sys.modules, "PyTorchUtils", FakeTorchExtension(fail))
    torchless.installation.installTorch()
    assert "No matching distribution found for torch" in torchless.installation.message
    assert "numpy 2.4.6 → 1.26.4" in torchless.installation.alert
    assert os.environ["PIP_CONSTRAINT"] == "mine.txt" and torchless.installation.state == "idle"


class FakeExtensions:
    def __init__(self, installed=False, works=True):
        self.installed, self.works, self.asked = installed, works, []

    def isExtensionInstalled(self, name):
        return self.installed

    def installExtensionFromServer(self, name, restart, update):
        self.asked.append((name, restart))
        return self.works


@pytest.mark.parametrize(
    ("manager", "asked", "said"),
    [
        (FakeExtensions(), [("PyTorch", False)], "restart Slicer, and click"),
        (FakeExtensions(works=False), [("PyTorch", False)], "Extensions Manager"),
        (FakeExtensions(installed=True), [], "not loaded"),
        (None, [], "this Slicer has no extensions"),
    ],
)
def test_missing_torch_extension_is_offered(torchless, manager, asked, said):
    torchless.app.extensionsManagerModel = lambda: manager
    torchless.installation.installTorch()
    assert said in torchless.said() and torchless.installation.state == "idle"
    assert manager is None or manager.asked == asked


def test_torch_that_is_there_is_not_installed_again(setup, monkeypatch):
    extension = FakeTorchExtension(lambda: None)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    setup.installation.installTorch()
    assert extension.calls == [] and setup.installation.torchProblem() == "PyTorch is there."
