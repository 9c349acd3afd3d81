"""The Slicer module: it loads, sets up its panel, and says how to get an engine where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE_FILE = ROOT / "SynthDiffusion" / "SynthDiffusion.py"


def test_module_describes_itself(standin):
    proxy = standin.load_module(MODULE_FILE).proxy
    assert proxy.title == "SynthDiffusion"
    assert proxy.categories == ("Image Synthesis",)
    assert proxy.contributors == ("SynthDiffusion contributors",)
    assert "not for diagnosis" in proxy.helpText
    assert proxy.acknowledgementText
    assert not proxy.icon.isNull()


def test_panel_says_what_it_is_for(standin):
    loaded = standin.load_module(MODULE_FILE)
    widget = loaded.make_widget()
    loaded.enter()
    import qt

    texts = [label.text for label in loaded.parent.findChildren(qt.QLabel)]
    assert any("not for diagnosis" in text for text in texts)
    assert widget.layout.indexOf(widget.panel.widget) == 0


def test_missing_engine_is_told_with_the_mend(standin, monkeypatch):
    loaded = standin.load_module(MODULE_FILE)
    monkeypatch.setattr(loaded.python.SynthDiffusionLogic, "_repositoryFolder", staticmethod(lambda: ""))
    monkeypatch.setitem(sys.modules, "SynthDiffusionLib", None)  # import raises ImportError
    widget = loaded.make_widget()
    loaded.enter()
    assert widget.panel is None
    assert "Install the SynthDiffusion extension again" in widget.layout.itemAt(0).widget().text


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
        "print(logic.engineFolder()); print(logic.resourcePath('LabelSchemes'));"
        "print(logic.resourcePath('Icons/SynthDiffusion.png'));"
        "print(sorted({n.split('.')[0] for n in sys.modules} & {'torch', 'monai', 'numpy', 'qt', 'vtk'}))"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(ROOT / "SynthDiffusion")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == [
        str(ROOT),
        str(ROOT / "Resources" / "LabelSchemes"),
        str(ROOT / "SynthDiffusion" / "Resources" / "Icons/SynthDiffusion.png"),
        "[]",
    ]


def test_missing_resource_is_named(module):
    with pytest.raises(FileNotFoundError, match="no-such-thing.json"):
        module.SynthDiffusionLogic().resourcePath("no-such-thing.json")


def test_self_test_of_the_module_passes_on_slicer_core(module):
    case = module.SynthDiffusionTest()
    assert len(case.moduleTestNames) >= 4
    case.runTest()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("quality", "ultra", "balanced"),
        ("mode", "sideways", "whole"),
        ("precision", "fp8", "auto"),
        ("seed", "99999999999", 2**31 - 1 - 20),
        ("seed", "-5", 0),
        ("samples", "0", 1),
        ("steps", "-1", 0),
        ("guidance", "nan", 0.0),
        ("steps", "abc", 0),  # not even a number: Slicer's wrapper cannot be made, so all are reset
    ],
)
def test_settings_of_a_scene_of_another_version_are_put_right(standin, name, text, expected):
    loaded = standin.load_module(MODULE_FILE)
    widget = loaded.make_widget()
    node = widget.logic.getParameterNode()
    widget.logic.parameters()  # writes the defaults
    node.SetParameter(name, text)
    loaded.enter()
    assert getattr(widget.panel.session.parameters, name) == expected
    widget.panel.refresh()


def test_the_engine_beside_the_module_goes_before_another_one(standin, monkeypatch, tmp_path):
    (tmp_path / "SynthDiffusionLib").mkdir()
    (tmp_path / "SynthDiffusionLib" / "__init__.py").write_text("")
    loaded = standin.load_module(MODULE_FILE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(p for p in sys.path if p != str(ROOT))])
    loaded.python.SynthDiffusionLogic().engineFolder()
    assert sys.path.index(str(ROOT)) < sys.path.index(str(tmp_path))


@pytest.mark.parametrize("shown", [True, False])
def test_impossible_settings_that_are_written_or_imported_later_are_put_right(standin, shown):
    import slicer

    loaded = standin.load_module(MODULE_FILE)
    widget = loaded.make_widget()
    loaded.enter()
    if not shown:
        loaded.exit()
    node = widget.logic.getParameterNode()
    node.SetParameter("quality", "ultra")
    node.SetParameter("seed", "99999999999")
    node.SetParameter("steps", "abc")
    parameters = widget.panel.session.parameters
    assert (parameters.quality, parameters.steps) == ("balanced", 0)
    other = slicer.vtkMRMLScene()
    foreign = slicer.vtkMRMLScriptedModuleNode()
    foreign.SetSingletonTag(node.GetSingletonTag())
    foreign.SetModuleName("SynthDiffusion")
    foreign.SetAttribute("ModuleName", "SynthDiffusion")
    foreign.SetParameter("quality", "ultra")
    other.AddNode(foreign)
    other.SetSaveToXMLString(1)
    other.Commit()
    slicer.mrmlScene.SetLoadFromXMLString(1)
    slicer.mrmlScene.SetSceneXMLString(other.GetSceneXMLString())
    slicer.mrmlScene.Import()
    slicer.mrmlScene.SetLoadFromXMLString(0)
    loaded.enter()
    assert widget.panel.session.parameters.quality == "balanced"
