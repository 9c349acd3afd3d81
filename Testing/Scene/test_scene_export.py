"""The engine's side of scene writing: whatever happens to the child process becomes one clear error."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

from SynthDiffusionLib.errors import MissingExtra, RunFailed
from SynthDiffusionLib.jobs import scene_export

DESCRIPTION = {"output": "scene.mrb", "volumes": [], "segmentations": []}


@pytest.fixture
def child(monkeypatch):
    """Replaces the scene writer by a Python program: `child("print(1)")`."""
    monkeypatch.setattr(scene_export, "require_scene_writer", lambda: None)

    def replace(code: str) -> None:
        monkeypatch.setattr(scene_export, "_command", lambda folder: [sys.executable, "-c", code, str(folder)])

    return replace


def test_description_and_log_are_in_the_job_folder(child, tmp_path):
    child(
        "import sys, pathlib; folder = pathlib.Path(sys.argv[1]); print('a library says hello');"
        "(folder / 'scene.mrb').write_bytes(b''); print('warning', file=sys.stderr);"
        "import json; print(json.dumps({'event': 'done', 'output': str(folder / 'scene.mrb')}))"
    )
    assert scene_export.write_scene(tmp_path, DESCRIPTION) == tmp_path / "scene.mrb"
    written = json.loads((tmp_path / "scene.json").read_text(encoding="utf-8"))
    assert written == {"format": "synthdiffusion-scene-1"} | DESCRIPTION
    assert "warning" in (tmp_path / "scene.log").read_text(encoding="utf-8")


def test_refusal_of_the_child_is_passed_on(child, tmp_path):
    event = {"event": "error", "message": "All segments are empty", "hint": "Draw."}
    child(f"print({json.dumps(event)!r}); raise SystemExit(2)")
    with pytest.raises(RunFailed, match="All segments are empty") as caught:
        scene_export.write_scene(tmp_path, DESCRIPTION)
    assert caught.value.hint.startswith("Draw. ") and "scene.log" in caught.value.hint


def test_child_that_aborts(child, tmp_path):
    child("import os; os.abort()")
    with pytest.raises(RunFailed, match="ended unexpectedly") as caught:
        scene_export.write_scene(tmp_path, DESCRIPTION)
    assert "scene.log" in caught.value.hint
    if sys.platform != "win32":
        assert "SIGABRT" in caught.value.message


def test_abort_in_slicer_names_what_it_said(child, tmp_path):
    """The real thing: a segment without a name, which ends slicer-core 5.12.4 while writing."""
    pytest.importorskip("slicer")
    child(
        "import os, sys, slicer, vtk; node = slicer.vtkMRMLSegmentationNode(); segment = slicer.vtkSegment();"
        "image = slicer.vtkOrientedImageData(); image.SetDimensions(2, 2, 2);"
        "image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1); segment.AddRepresentation('Binary labelmap', image);"
        "node.GetSegmentation().AddSegment(segment, 'id'); storage = slicer.vtkMRMLSegmentationStorageNode();"
        "storage.SetFileName(os.path.join(sys.argv[1], 'a.seg.nrrd')); storage.WriteData(node)"
    )
    with pytest.raises(RunFailed, match="ended unexpectedly") as caught:
        scene_export.write_scene(tmp_path, DESCRIPTION)
    if sys.platform.startswith("linux"):
        assert "null" in caught.value.message


@pytest.mark.parametrize(
    "code", ["pass", 'print(\'{"event": "done", "output": "not there.mrb"}\')', "print('[1]'); print('{broken')"]
)
def test_child_that_ends_without_a_scene(child, tmp_path, code):
    child(code)
    with pytest.raises(RunFailed, match="without writing a scene"):
        scene_export.write_scene(tmp_path, DESCRIPTION)


def test_child_that_takes_too_long_is_ended(child, tmp_path):
    child("import time; time.sleep(60)")
    with pytest.raises(RunFailed, match=r"not written within 0\.5 seconds"):
        scene_export.write_scene(tmp_path, DESCRIPTION, timeout_s=0.5)


@pytest.mark.parametrize("other_package", [False, True])
def test_without_slicer_core_the_extra_is_named(monkeypatch, tmp_path, other_package):
    """Also when the package "slicer" that SHAP depends on is there."""
    find_spec = importlib.util.find_spec

    def without(name, package=None):
        if name == "slicer" and other_package:
            return SimpleNamespace(submodule_search_locations=[str(tmp_path)])
        return None if name.split(".")[0] in ("slicer", "slicer_core") else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(MissingExtra, match="--scene") as caught:
        scene_export.write_scene(tmp_path, DESCRIPTION)
    assert "[slicer]" in caught.value.hint
    assert caught.value.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_checking_for_slicer_core_does_not_import_it():
    pytest.importorskip("slicer")
    import subprocess

    code = (
        "import sys; from SynthDiffusionLib.jobs.scene_export import require_scene_writer; require_scene_writer();"
        "print([name for name in sys.modules if name.split('.')[0] in ('slicer', 'slicer_core', 'vtk', 'vtkmodules')])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert answer.stdout.strip() == "[]", answer.stderr
