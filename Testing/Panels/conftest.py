"""A stand-in for Slicer's Python: PySide6 as `qt`, slicer-core as `slicer`, and the base classes of a module.

Test equipment; nothing in the product imports it. The base classes do what Slicer 5.12's
Base/Python/slicer/ScriptedLoadableModule.py does, as far as the module uses it.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import types
import unittest
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


class _Module:
    def __init__(self, parent) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__


class _Widget:
    def __init__(self, parent=None) -> None:
        self.parent = parent
        self.layout = parent.layout()

    def setup(self) -> None:
        pass


class _Logic:
    def __init__(self, parent=None) -> None:
        pass


class _Test(unittest.TestCase):
    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.moduleTestNames = [name for name in dir(self) if "test" in name and callable(getattr(self, name))]

    def runTest(self) -> None:
        for name in self.moduleTestNames:
            self.setUp()
            logging.info("Running %s", name)
            getattr(self, name)()
            self.tearDown()


@pytest.fixture(scope="session")
def application():
    widgets = pytest.importorskip("PySide6.QtWidgets")
    return widgets.QApplication.instance() or widgets.QApplication([])


@pytest.fixture
def slicer_python(application, monkeypatch):
    """Puts `qt`, `slicer.i18n` and `slicer.ScriptedLoadableModule` in place, and the module's folder on sys.path."""
    slicer = pytest.importorskip("slicer")
    from PySide6 import QtCore, QtWidgets

    qt = types.ModuleType("qt")
    # PySide6 makes its classes on first use, so they are asked for one by one. Slicer's qt is flat.
    qt.__getattr__ = lambda name: getattr(QtWidgets if hasattr(QtWidgets, name) else QtCore, name)
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr = lambda text: text
    i18n.translate = lambda context, text: text
    base = types.ModuleType("slicer.ScriptedLoadableModule")
    base.ScriptedLoadableModule = _Module
    base.ScriptedLoadableModuleWidget = _Widget
    base.ScriptedLoadableModuleLogic = _Logic
    base.ScriptedLoadableModuleTest = _Test
    for name, module in (("qt", qt), ("slicer.i18n", i18n), ("slicer.ScriptedLoadableModule", base)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(slicer, "mrmlScene", slicer.vtkMRMLScene(), raising=False)
    monkeypatch.setattr(sys, "path", [str(ROOT / "SynthDiffusion"), *sys.path])
    return slicer


@pytest.fixture
def module(slicer_python, monkeypatch):
    """The module file, loaded as Slicer does; its panels are loaded anew, too."""
    for name in [name for name in sys.modules if name.split(".")[0] == "SynthDiffusionPanels"]:
        monkeypatch.delitem(sys.modules, name)
    spec = importlib.util.spec_from_file_location("SynthDiffusion", ROOT / "SynthDiffusion" / "SynthDiffusion.py")
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "SynthDiffusion", loaded)
    spec.loader.exec_module(loaded)
    yield loaded
    for name in [name for name in sys.modules if name.split(".")[0] == "SynthDiffusionPanels"]:
        del sys.modules[name]
