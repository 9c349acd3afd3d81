"""The Slicer module: it loads, sets up its panel and says which engine it has, or how to get one."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "SynthDiffusion").rglob("*.py"))


@pytest.fixture
def widget(module, application):
    from PySide6 import QtWidgets

    parent = QtWidgets.QWidget()
    QtWidgets.QVBoxLayout(parent)
    loaded = module.SynthDiffusionWidget(parent)
    loaded.setup()
    return loaded


def test_module_describes_itself(module):
    parent = SimpleNamespace(path=module.__file__)
    module.SynthDiffusion(parent)
    assert parent.title == "SynthDiffusion"
    assert parent.categories == ["Image Synthesis"]
    assert parent.contributors == ["SynthDiffusion contributors"]
    assert "not for diagnosis" in parent.helpText
    assert parent.acknowledgementText


def test_panel_shows_version_and_folder_of_the_engine(widget):
    import SynthDiffusionLib

    panel = widget.enginePanel
    assert panel.versionLabel.text() == SynthDiffusionLib.__version__
    assert panel.folderLabel.text() == str(ROOT / "SynthDiffusionLib")
    assert "not for diagnosis" in panel.noticeLabel.text()
    assert widget.layout.indexOf(panel.widget) == 0
    assert not panel.widget.grab().isNull()


def test_panel_tells_how_to_mend_a_missing_engine(module, monkeypatch, application):
    monkeypatch.setattr(module.SynthDiffusionLogic, "_repositoryFolder", staticmethod(lambda: ""))
    monkeypatch.setitem(sys.modules, "SynthDiffusionLib", None)  # import raises ImportError
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    status = module.SynthDiffusionLogic().engineStatus()
    assert (status.version, status.folder) == ("", "")
    from SynthDiffusionPanels.EngineStatusPanel import EngineStatusPanel

    panel = EngineStatusPanel(status)
    assert panel.versionLabel.text() == "not found"
    assert "Install the SynthDiffusion extension again" in panel.folderLabel.text()


def test_engine_is_found_in_the_folder_above_when_slicer_knows_only_the_modules_folder():
    """As in a clone whose SynthDiffusion/ was added to Slicer's module paths; nothing is installed."""
    code = (
        "import sys, types;"
        "names = ('slicer', 'slicer.i18n', 'slicer.ScriptedLoadableModule');"
        "sys.modules.update({n: types.ModuleType(n) for n in names});"
        "i18n, base = sys.modules[names[1]], sys.modules[names[2]];"
        "i18n.tr = str; i18n.translate = max;"
        "bases = ('Module', 'ModuleWidget', 'ModuleLogic', 'ModuleTest');"
        "[setattr(base, 'ScriptedLoadable' + b, type(b, (), {})) for b in bases];"
        "sys.path.insert(0, sys.argv[1]); import SynthDiffusion as m; logic = m.SynthDiffusionLogic();"
        "print(logic.engineStatus().folder); print(logic.resourcePath('LabelSchemes'));"
        "print(logic.resourcePath('Icons/SynthDiffusion.png'));"
        "print(sorted({n.split('.')[0] for n in sys.modules} & {'torch', 'monai', 'numpy', 'qt', 'vtk'}))"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(ROOT / "SynthDiffusion")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == [
        str(ROOT / "SynthDiffusionLib"),
        str(ROOT / "Resources" / "LabelSchemes"),
        str(ROOT / "SynthDiffusion" / "Resources" / "Icons/SynthDiffusion.png"),
        "[]",
    ]


def test_missing_resource_is_named(module):
    with pytest.raises(FileNotFoundError, match="no-such-thing.json"):
        module.SynthDiffusionLogic().resourcePath("no-such-thing.json")


def test_self_test_of_the_module_passes_on_slicer_core(module):
    case = module.SynthDiffusionTest()
    assert len(case.moduleTestNames) == 3
    case.runTest()


def test_only_the_module_file_lies_at_the_top():
    assert [path.name for path in (ROOT / "SynthDiffusion").glob("*.py")] == ["SynthDiffusion.py"]


def _names(path):
    """Dotted names `qt.X`, `ctk.X`, `slicer.X` that a file uses, each with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        of_name = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if of_name and node.value.id in ("qt", "ctk", "slicer"):
            yield node.value.id, node.attr, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "SynthDiffusion").as_posix())
def test_every_slicer_and_qt_name_exists(path, shared_facts):
    slicer = pytest.importorskip("slicer")
    core = pytest.importorskip("PySide6.QtCore")
    widgets = pytest.importorskip("PySide6.QtWidgets")
    in_scene = "SynthDiffusionScene" in path.parts
    for package, name, where in _names(path):
        if package == "qt":
            assert not in_scene, f"{where}: scene logic never uses qt"
            assert hasattr(core, name) or hasattr(widgets, name), f"{where}: qt.{name}"
        elif package == "ctk":
            assert not in_scene, f"{where}: scene logic never uses ctk"
            assert name in shared_facts, f"{where}: ctk.{name}"
        elif name in ("mrmlScene", "util", "app"):
            assert not in_scene or name == "util", f"{where}: scene logic never uses slicer.{name}"
        else:
            assert hasattr(slicer, name) or name in shared_facts, f"{where}: slicer.{name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "SynthDiffusion").as_posix())
def test_every_function_of_slicer_util_exists(path):
    util = pytest.importorskip("slicer.util")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "slicer.util":
            assert hasattr(util, node.attr), f"{path.name}:{node.lineno}: slicer.util.{node.attr}"


@pytest.fixture(scope="session")
def shared_facts():
    """Classes of Slicer's and CTK's Qt libraries, where the list is at hand beside the repository."""
    path = ROOT.parent / "shared" / "facts" / "slicer_qt_api.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
