"""The module as a user gets it: from the archive of `make package`, unpacked, in the stand-in, with real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

# Run by a Python of its own, in which no part of the repository is imported yet.
CODE = """
import json, os, sys
from pathlib import Path
module, folder = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, sys.argv[3])
from standin.application import application
from standin.environment import Environment
app = application()
packages = ("SynthDiffusion", "SynthDiffusionPanels", "SynthDiffusionJobs", "SynthDiffusionScene")
with Environment(folder, [str(module)], packages) as standin:
    import slicer
    loaded = standin.load_module(module / "SynthDiffusion.py")
    standin.complete_startup()
    panel = loaded.make_widget().panel
    loaded.enter()
    session = panel.session
    standin.wait(lambda: session.engine.models, seconds=120, what="the models")
    panel.segmentationPanel._sampleMenu.actions()[0].trigger()
    standin.process_events(0.2)
    import SynthDiffusionLib
    result = {
        "engine": SynthDiffusionLib.__file__,
        "models": [[model.id, model.folder, model.problem] for model in session.engine.models],
        "problem": session.generation.problem(session.parameters),
        "samples": sum(map(len, slicer.modules.sampleDataSources.values())),
        "sections": len(panel.panels),
    }
    loaded.unload()
    result["left"] = {name: standin.counts()[name] for name in ("observers", "timers", "processes")}
    result["faults"] = [repr(fault) for fault in standin.faults]
print(json.dumps(result), flush=True)
os._exit(0)  # Qt and VTK need not be taken down in order
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The folder that Slicer would have on its module path."""
    folder = tmp_path_factory.mktemp("archive")
    script = ROOT / "Testing" / "Packaging" / "build_package.py"
    subprocess.run([sys.executable, script, "--os", "linux", "--out", folder], check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    (modules,) = (folder / "unpacked").glob("*/lib/Slicer-*/qt-scripted-modules")
    return modules


def test_the_unpacked_module_works_up_to_the_generate_button(application, unpacked, tmp_path):
    command = [sys.executable, "-P", "-c", CODE, str(unpacked), str(tmp_path), str(HERE)]
    child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr
    result = json.loads(child.stdout.splitlines()[-1])
    assert Path(result["engine"]).is_relative_to(unpacked)
    folder = unpacked / "Resources" / "Models"
    models = ("hippocampus-mr", "limb-tumour-ct", "limb-tumour-mr", "lung-nodule-ct")
    assert result["models"] == [[name, str(folder / name), ""] for name in models]
    assert result["problem"] == ""
    assert (result["samples"], result["sections"]) == (4, 8)
    assert result["left"] == {"observers": 0, "timers": 0, "processes": 0}
    assert result["faults"] == []
