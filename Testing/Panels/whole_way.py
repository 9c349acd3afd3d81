"""The whole module with real worker processes: what the tests of the whole way share.

The model is a tiny one with random weights, installed in the user's model folder; its volumes look like noise and take
a few seconds, most of them for the import of torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
MODULE_FILE = ROOT / "SynthDiffusion" / "SynthDiffusion.py"
BRAKE = Path(__file__).with_name("worker_brake")
PACKAGES = ("SynthDiffusion", "SynthDiffusionPanels", "SynthDiffusionJobs", "SynthDiffusionScene")
MODEL_ID = "tiny-ct"
SIDE = 24  # voxels of 1 mm of the chest that is drawn on
STEPS = 8
ANSWERS = "answers"  # folder beside that of the models

# Where a worker can be stopped, in the order of a run; see `worker_brake`. "" where it is not stopped.
STAGES = {
    "while Python starts": "",
    "before the inputs are read": '"stage": "read"',
    "while torch is imported": "import torch",
    "while torch hangs": "import torch",
    "before the model is loaded": '"stage": "model"',
    "at the first step": '"stage": "denoise", "step": 1',
    "in the middle": '"stage": "denoise", "step": 4',
    "in a long computation": '"stage": "denoise", "step": 5',
    "before the adherence is measured": '"stage": "adherence"',
    "before the files are written": '"stage": "write"',
    "right before it is done": '"event": "done"',
}
_DEAF = ("while torch hangs", "in a long computation")  # where it does not hear that it is to end


def make_model_folder(folder: Path) -> Path:
    """A folder for SYNTHDIFFUSION_MODELS with the tiny model, in a child process so that this one loads no torch. What
    the engine says of it is written beside it, see `quick_answers`.
    """
    subprocess.run([sys.executable, __file__, str(folder)], check=True)
    return folder / "models"


def write_tiny_model(folder: Path) -> None:
    """Writes the tiny model, with a segmenter, into a model folder."""
    import torch
    from safetensors.torch import save_file

    sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "Engine")]
    from tiny_package import ROLES, make_working_package

    from SynthDiffusionLib.models import seal_package
    from SynthDiffusionLib.networks.segmenter import build_segmenter

    package = make_working_package(folder / MODEL_ID).folder
    raw = json.loads((package / "model.json").read_text(encoding="utf-8"))
    channels = [4, 8]
    torch.manual_seed(4)
    weights = {k: v.half().contiguous() for k, v in build_segmenter(channels).state_dict().items()}
    save_file(weights, package / "segmenter.safetensors")
    description = {k: v for k, v in raw.items() if k not in ("files", "format")}
    description["segmenter"] = {"network": {"class": "UNet", "channels": channels}, "measured": {}, "patch": 16}
    seal_package(package, description, ROLES)


def write_answers(models: Path, folder: Path) -> None:
    """Writes what the engine's processes answer of the tiny model: each a line in a file that is called like them."""
    from contextlib import redirect_stdout
    from io import StringIO

    from SynthDiffusionLib import cli
    from SynthDiffusionLib.jobs import GenerateRequest
    from SynthDiffusionLib.jobs.preflight import Device, preflight
    from SynthDiffusionLib.jobs.probe import probe
    from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, write_segmentation, write_volume

    folder.mkdir()
    os.environ["SYNTHDIFFUSION_MODELS"] = str(models)
    with redirect_stdout(StringIO()) as listed:
        assert cli.main(["models", "list", "--json"]) == 0
    shape, affine = (SIDE,) * 3, np.eye(4)
    image, drawing = folder / "image.nrrd", folder / "drawing.seg.nrrd"
    write_volume(Volume(np.full(shape, -700, np.int16), affine), image)
    layer = ball(shape, [n / 2 for n in shape], 4.0).astype(np.uint8)
    write_segmentation(Segmentation((layer,), affine, (Segment("nodule", 1),)), drawing)
    request = GenerateRequest(drawing, MODEL_ID, folder, mode="inpaint", image=image, steps=STEPS)
    answers = {
        "models": json.loads(listed.getvalue().splitlines()[-1]),
        "SynthDiffusionLib.jobs.probe": probe(),
        "SynthDiffusionLib.jobs.preflight": preflight(request, Device("cpu", "A CPU", 8 << 30, "fp32")),
    }
    for name, answer in answers.items():
        (folder / f"{name}.json").write_text(json.dumps(answer), encoding="utf-8")


@contextmanager
def slicer_session(folder: Path):
    """A session of Slicer: a stand-in environment of its own. Faults in callbacks are raised at its end."""
    from standin.environment import Environment

    with Environment(folder, [str(ROOT / "SynthDiffusion")], PACKAGES) as environment:
        yield environment
    faults = list(environment.faults)
    environment.faults.clear()
    assert not faults, f"exceptions in callbacks: {faults}"


class Slicer:
    """Slicer with the module open and the engine ready.

    Args:
        standin: the environment.

    Attributes:
        loaded: the module, see `standin.environment.LoadedModule`.
    """

    def __init__(self, standin) -> None:
        self.standin, self.scene = standin, standin.scene
        self.loaded = standin.load_module(MODULE_FILE)
        standin.complete_startup()
        self.loaded.make_widget()
        self.loaded.enter()
        self.wait_ready()

    @property
    def panel(self):
        return self.loaded.widget.panel

    @property
    def session(self):
        return self.panel.session

    @property
    def parameters(self):
        return self.session.parameters

    @property
    def queue(self):
        return self.session.queue

    @property
    def ui(self):
        """Widgets of the section Generate."""
        return self.panel.generatePanel.ui

    def wait(self, condition, seconds: float = 60.0, what: str = "") -> None:
        self.standin.wait(condition, seconds, what)

    def wait_ready(self) -> None:
        self.wait(lambda: self.session.engine.status.ready and self.session.engine.models, what="the engine")

    def wait_idle(self) -> None:
        """No run, no question to the engine and no estimate is under way or about to begin."""
        generate = self.panel.generatePanel

        def idle() -> bool:
            busy = self.queue.current is not None or self.session.engine._running or generate._estimate._timer.active
            return not busy

        self.wait(idle, what="the end of all questions")
        self.standin.process_events(0.3)
        self.wait(idle, what="the end of all questions")

    def add_chest(self) -> tuple:
        """A real volume and a drawing on it, a lung with a nodule, both chosen. Returns (volume, segmentation)."""
        volume = add_volume(self.scene, "chest CT")
        segmentation = add_drawing(self.scene, volume)
        self.parameters.segmentation, self.parameters.realVolume = segmentation, volume
        return volume, segmentation

    def set(self, **parameters) -> None:
        for name, value in parameters.items():
            setattr(self.parameters, name, value)

    def set_usual(self) -> None:
        """The tiny model, inpainting, a fixed seed and few steps."""
        self.set(modelId=MODEL_ID, mode="inpaint", fixedSeed=True, customSampling=True, sampler="ddim", steps=STEPS)

    def generate(self):
        """Clicks on Generate and returns the run."""
        assert self.ui.generateButton.enabled, self.ui.estimateLabel.text
        before = list(self.queue.runs)
        self.ui.generateButton.click()
        new = [run for run in self.queue.runs if run not in before]
        assert len(new) == 1, self.ui.errorLabel.text
        return new[0]

    def wait_run(self, run, state: str = "done") -> None:
        self.wait(lambda: run.ended, seconds=120, what=f"run {run.number}")
        assert run.state == state, (run.state, run.kind, run.message, run.hint)

    def wait_stopped(self, run) -> None:
        """The worker of a run has come to the point where the test stops it."""
        self.wait(lambda: (run.folder / "stopped").exists(), what="the point to stop at")

    def volumes(self, run) -> list:
        return [self.scene.GetNodeByID(node) for node in run.context["nodes"]]

    def views(self) -> list[tuple]:
        """What every slice view shows."""
        import slicer.util

        return [
            (n.GetID(), n.GetBackgroundVolumeID(), n.GetForegroundVolumeID(), n.GetForegroundOpacity())
            for n in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        ]

    def inventory(self) -> dict[str, object]:
        """What a run that makes nothing must leave as it was."""
        hierarchy = self.scene.GetSubjectHierarchyNode()
        names = sorted(self.scene.GetNthNode(n).GetID() for n in range(self.scene.GetNumberOfNodes()))
        return {"nodes": names, "items": hierarchy.GetNumberOfItems(), "views": self.views()}

    def files(self) -> list[str]:
        """What lies in the folder for temporary files but for the listed runs: names without their random part."""
        root, runs = Path(self.standin.app.temporaryPath), {run.folder for run in self.queue.runs}
        found = [path for path in (*root.iterdir(), *root.glob("SynthDiffusion-*/*")) if path not in runs]
        return sorted(path.name.split("-")[0] for path in found)


def array(node) -> np.ndarray:
    import slicer.util

    return slicer.util.arrayFromVolume(node).copy()


def add_volume(scene, name: str, side: int = SIDE):
    """A cube of smooth noise around -700 HU."""
    import slicer.util

    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    values = np.random.default_rng(3).normal(-700, 40, (side,) * 3)
    slicer.util.updateVolumeFromArray(node, values.astype(np.int16))
    node.SetOrigin(10.0, -20.0, 30.0)
    node.CreateDefaultDisplayNodes()
    return node


def add_drawing(scene, volume, name: str = "drawing"):
    """A segmentation of a volume of `add_volume`: a lung and a nodule in it."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    shape = array(volume).shape
    lung = np.zeros(shape, np.uint8)
    lung[2:-2, 2:-2, 2:-2] = 1
    for title, mask in (("lung", lung), ("nodule", ball(shape, [n / 2 for n in shape], 4.0))):
        add_segment(node, title, mask, volume)
    return node


def add_segment(segmentation, name: str, mask: np.ndarray, volume) -> None:
    """A new segment with a mask on the grid of a volume."""
    draw(segmentation, segmentation.GetSegmentation().AddEmptySegment("", name), mask, volume)


def draw(segmentation, segment_id: str, mask: np.ndarray, volume) -> None:
    """Puts a mask on the grid of a volume into a segment, as the segment editor's tools do."""
    import slicer.util

    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), segmentation, segment_id, volume)


def ball(shape, centre, radius: float) -> np.ndarray:
    """(k, j, i) mask of a ball, in voxels."""
    grid = np.indices(shape)
    return sum((g - c) ** 2 for g, c in zip(grid, centre)) <= radius**2


def slow_workers(monkeypatch, point: str, deaf: bool = False, largest: int = 0) -> None:
    """Has the workers that are started from now on stop at a point, see `worker_brake`; "" for none."""
    if str(BRAKE) not in os.environ.get("PYTHONPATH", ""):
        monkeypatch.setenv("PYTHONPATH", str(BRAKE))
    for name, value in (("STOP", point), ("DEAF", "1" if deaf else ""), ("LARGEST", str(largest))):
        monkeypatch.setenv(f"SYNTHDIFFUSION_TEST_{name}", value)


def quick_answers(monkeypatch, models: Path) -> None:
    """For tests that are about neither estimates nor the set-up: the engine's state, what a run takes and the models
    are still asked for in processes of their own, which say what the engine has said once. Importing torch and MONAI in
    each of them would be most of a test's time. Workers are real.

    Args:
        models: of `make_model_folder`. Of another folder, the models are really asked for.
    """
    if str(BRAKE) not in os.environ.get("PYTHONPATH", ""):
        monkeypatch.setenv("PYTHONPATH", str(BRAKE))
    monkeypatch.setenv("SYNTHDIFFUSION_TEST_ANSWERS", str(models.parent / ANSWERS))


def use_launcher(monkeypatch, folder: Path) -> None:
    """Runs workers as children of a launcher, as PythonSlicer is one; does nothing on Windows."""
    if os.name == "nt":
        return
    launcher = folder / "PythonLauncher"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n', encoding="utf-8")
    launcher.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(launcher))


def cancel_at(slicer: Slicer, monkeypatch, stage: str):
    """Starts a run, cancels it at a stage by the panel's button, and checks that its processes end in two seconds.

    Returns:
        the run.
    """
    slow_workers(monkeypatch, STAGES[stage], deaf=stage in _DEAF)
    run = slicer.generate()
    if STAGES[stage]:
        slicer.wait_stopped(run)
        slicer.standin.process_events(0.15)  # previews that have come meanwhile are shown
    assert processes_of(run), stage
    began = time.monotonic()
    slicer.ui.cancelButton.click()
    slicer.wait(lambda: run.ended and not processes_of(run), what=f"the end {stage}")
    seconds = time.monotonic() - began
    assert (run.state, seconds < 2.0) == ("cancelled", True), (stage, run.state, seconds)
    return run


def processes_of(run) -> list[psutil.Process]:
    """The living processes of a run, wherever they are: those whose command line names its folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if alive and any(str(run.folder) in part for part in process.info["cmdline"] or ()):
            found.append(process)
    return found


def worker_of(run) -> psutil.Process:
    """The process that computes: the last one below the launcher."""
    found = processes_of(run)
    parents = {process.ppid() for process in found}
    return next(process for process in found if process.pid not in parents)


def children() -> list[psutil.Process]:
    """All living processes below this one."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


if __name__ == "__main__":
    write_tiny_model(Path(sys.argv[1]) / "models")
    write_answers(Path(sys.argv[1]) / "models", Path(sys.argv[1]) / ANSWERS)
