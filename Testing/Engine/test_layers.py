"""The layer rules of Docs/ARCHITECTURE.md: who may import whom, and what a bare import may cost."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Layer: its folder, and the top-level modules that nothing in it may import, not even inside a function.
LAYERS = {
    "SynthDiffusionLib": (
        ROOT / "SynthDiffusionLib",
        {"slicer", "qt", "ctk", "vtk", "vtkmodules", "PythonQt", "SynthDiffusionScene", "SynthDiffusionPanels"},
    ),
    "SynthDiffusionScene": (
        ROOT / "SynthDiffusion" / "SynthDiffusionScene",
        {"qt", "ctk", "PythonQt", "SynthDiffusionPanels"},
    ),
}

HEAVY = ("torch", "monai", "diffusers", "SimpleITK", "pydicom", "highdicom", "lightning_fabric", "vtk", "slicer")


def imported_modules(source: str) -> set[str]:
    """Top-level names of all modules that a source imports, at file scope or deeper, by statement or by import call."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                names.add(node.args[0].value)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    "source",
    [
        "import vtk",
        "def f():\n    from vtk.util import numpy_support",
        "import importlib\nmodule = importlib.import_module('vtk.util')",
        "try:\n    import numpy, vtk as v\nexcept ImportError:\n    v = None",
    ],
)
def test_the_check_sees_every_way_to_import(source):
    assert "vtk" in imported_modules(source)


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_imports_nothing_forbidden(layer):
    folder, forbidden = LAYERS[layer]
    files = sorted(folder.rglob("*.py"))
    assert files, f"no Python file in {folder}"
    offences = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in sorted(imported_modules(path.read_text(encoding="utf-8")) & forbidden)
    ]
    assert not offences, "\n".join(offences)


def run_python(code: str) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter from the clone's root; `heavy()` is at hand there."""
    prelude = f"import json, sys\nheavy = lambda: json.dumps([m for m in {HEAVY!r} if m in sys.modules])\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_subprocess_check_sees_a_heavy_import():
    result = run_python("sys.modules['monai'] = json\nprint(heavy())")
    assert json.loads(result.stdout) == ["monai"]


def test_importing_the_engine_loads_nothing_heavy():
    result = run_python("import SynthDiffusionLib\nprint(SynthDiffusionLib.__version__)\nprint(heavy())")
    assert result.returncode == 0, result.stderr
    version, heavy = result.stdout.splitlines()
    assert version.count(".") == 2
    assert json.loads(heavy) == []


def test_exporting_needs_no_torch():
    result = run_python("import SynthDiffusionLib.export.dicom, SynthDiffusionLib.export.training_set\nprint(heavy())")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []
    offences = {
        path.name: found
        for path in sorted((ROOT / "SynthDiffusionLib" / "export").glob("*.py"))
        if (found := imported_modules(path.read_text(encoding="utf-8")) & {"torch", "monai", "diffusers"})
    }
    assert not offences


@pytest.mark.skipif(
    not (ROOT / "SynthDiffusionLib" / "__main__.py").is_file(), reason="SynthDiffusionLib has no __main__.py yet"
)
@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    result = run_python(
        "import runpy\n"
        f"sys.argv = ['synthdiffusion', *{arguments!r}]\n"
        "code = None\n"
        "try:\n"
        "    runpy.run_module('SynthDiffusionLib', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    code = stop.code\n"
        "print()\n"
        "print(json.dumps(code))\n"
        "print(heavy())\n"
    )
    assert result.returncode == 0, result.stderr
    *text, code, heavy = result.stdout.splitlines()
    assert json.loads(code) in (0, None)
    assert "".join(text).strip(), "nothing was printed"
    assert json.loads(heavy) == []
