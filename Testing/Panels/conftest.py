"""Fixtures for the panels: the stand-in for Slicer's Python, see `standin`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE_FILE = ROOT / "SynthDiffusion" / "SynthDiffusion.py"
SLICER_PACKAGES = ("SynthDiffusion", "SynthDiffusionPanels", "SynthDiffusionJobs", "SynthDiffusionScene")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def application():
    """The stand-in's application object."""
    pytest.importorskip("PySide6.QtWidgets")
    pytest.importorskip("slicer")
    from standin.application import application

    return application()


@pytest.fixture
def standin(application, tmp_path_factory):
    """The `standin.environment.Environment` of this test: a new scene, and Slicer-side packages imported anew.

    The test fails if a slot, a timer or an observer raised an exception that it has not taken out of `faults`, or if it
    has prepared an answer to a dialog that was never opened.
    """
    from standin.environment import Environment

    folder = tmp_path_factory.mktemp("slicer")
    with Environment(folder, [str(ROOT / "SynthDiffusion")], SLICER_PACKAGES) as environment:
        yield environment
    faults, unused = list(environment.faults), environment.dialogs.unused()
    environment.faults.clear()
    if faults:
        raise AssertionError(f"exceptions in callbacks: {faults}") from faults[0]
    assert not unused, f"dialogs that were never opened: {unused}"


@pytest.fixture
def slicer_python(standin):
    """The module `slicer`, with `slicer.app`, `slicer.mrmlScene` and the rest; `qt` and `ctk` can be imported."""
    import slicer

    return slicer


@pytest.fixture
def module(standin):
    """The module file, loaded as Slicer does."""
    return standin.load_module(MODULE_FILE).python


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    """A model folder with a tiny model, see `whole_way.make_model_folder`."""
    from whole_way import make_model_folder

    return make_model_folder(tmp_path_factory.mktemp("models"))


@pytest.fixture
def tiny_model(tiny_model_folder, monkeypatch, tmp_path):
    """The user has installed the tiny model, and has never run one."""
    monkeypatch.setenv("SYNTHDIFFUSION_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SYNTHDIFFUSION_MODELS", str(tiny_model_folder))


@pytest.fixture
def quick_answers(tiny_model_folder, monkeypatch):
    """See `whole_way.quick_answers`; to be asked for before the module is opened."""
    from whole_way import quick_answers

    quick_answers(monkeypatch, tiny_model_folder)


@pytest.fixture
def opened(standin, tiny_model):
    """`whole_way.Slicer`: the module open, the engine ready, and the tiny model installed."""
    from whole_way import Slicer

    return Slicer(standin)


@pytest.fixture(scope="session")
def shared_facts():
    """All Qt classes of Slicer and CTK, where the list is at hand beside the repository; else empty."""
    path = ROOT.parent / "shared" / "facts" / "slicer_qt_api.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
