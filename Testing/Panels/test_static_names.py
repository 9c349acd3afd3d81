"""Slicer's names in the module's source: each exists in Slicer 5.12, and nothing heavy is imported with a file."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "SynthDiffusion").rglob("*.py"))
EACH_FILE = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(ROOT / "SynthDiffusion").as_posix()
)

# Modules that Slicer has anyway, and those of the engine that need no more than them. The rest runs in child processes.
IN_SLICER = {"ctk", "numpy", "packaging", "qt", "scipy", "slicer", "vtk", "vtkmodules"}
OWN = {"SynthDiffusion", "SynthDiffusionJobs", "SynthDiffusionPanels", "SynthDiffusionScene"}
LIGHT_ENGINE = (
    "SynthDiffusionLib.errors",
    "SynthDiffusionLib.jobs.command_line",
    "SynthDiffusionLib.jobs.request",
    "SynthDiffusionLib.labels",
    "SynthDiffusionLib.resources",
    "SynthDiffusionLib.sampling.quality",
)


def dotted_names(tree: ast.AST):
    """("qt", "QLabel", "Box") and line of every chain of attributes on qt, ctk or slicer; of imports from them, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("qt", "ctk", "slicer"):
            for alias in node.names:
                yield (*node.module.split("."), alias.name), node.lineno
        elif isinstance(node, ast.Attribute):
            parts = ast.unparse(node).split(".")
            if parts[0] in ("qt", "ctk", "slicer") and all(part.isidentifier() for part in parts):
                yield tuple(parts), node.lineno


@pytest.fixture(scope="module")
def names(application):
    """Objects that stand for the modules qt, ctk and slicer: the wheel's, and what the application adds."""
    import slicer
    import slicer.util
    from standin import module_base, parameter_node
    from standin.packaging_module import Installations, packaging_module
    from standin.qt_module import qt_module
    from standin.widget_classes import ctk_module, slicer_class

    added = SimpleNamespace(
        app=slicer_class("qSlicerApplication"),
        i18n=module_base.i18n_module(),
        mrmlScene=slicer.vtkMRMLScene(),
        modules=SimpleNamespace(),
        packaging=packaging_module(Installations()),
        parameterNodeWrapper=parameter_node.parameter_node_module(),
        ScriptedLoadableModule=module_base.base_module(),
        util=slicer.util,
    )

    class Slicer:
        def __getattr__(self, name):
            if name.startswith("q"):
                return slicer_class(name)
            return getattr(added if hasattr(added, name) else slicer, name)

    return {"qt": qt_module(), "ctk": ctk_module(), "slicer": Slicer()}


@EACH_FILE
def test_every_qt_ctk_and_slicer_name_exists(path, names):
    from standin.qt_proxy import member_kind

    in_scene = "SynthDiffusionScene" in path.parts
    for parts, line in dotted_names(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.name}:{line}: {'.'.join(parts)}"
        package, name = parts[0], parts[1]
        if in_scene:
            plain = name.startswith("vtk") or name in ("util", "i18n")
            assert package == "slicer" and plain, f"{where}: scene logic uses slicer.vtk... and slicer.util only"
        try:
            found = getattr(names[package], name)
            if name == "app" and len(parts) > 2:
                member_kind(found, parts[2])
            elif len(parts) > 2 and name not in ("mrmlScene", "modules"):
                getattr(found, parts[2])  # of a class or a module; after that come instances
        except AttributeError as error:
            raise AssertionError(f"{where}: {error}") from error


def scope_of_file(tree: ast.Module):
    """All statements that run when the file is imported."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            waiting += ast.iter_child_nodes(node)


@EACH_FILE
def test_nothing_heavy_is_imported_with_the_file(path):
    for node in scope_of_file(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            modules = [node.module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            top = module.split(".")[0]
            light = top in IN_SLICER | OWN | sys.stdlib_module_names or module in LIGHT_ENGINE
            assert light, f"{path.name}:{node.lineno}: {module} is imported with the file"


def test_only_the_module_file_lies_at_the_top():
    assert [path.name for path in (ROOT / "SynthDiffusion").glob("*.py")] == ["SynthDiffusion.py"]
