"""Many runs one after the other, and what grows meanwhile."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from whole_way import Slicer, children

_OWN = ("SynthDiffusionJobs", "SynthDiffusionPanels", "SynthDiffusionScene")


def record(slicer: Slicer, folder: Path) -> None:
    """Writes what the engine's processes answer now, for `worker_brake` to say again. Nothing may be under way."""
    engine = slicer.session.engine
    job = folder / "job"
    shutil.copytree(slicer.session.generation.prepareQuestion(slicer.parameters), job)
    request = json.loads((job / "request.json").read_text(encoding="utf-8"))
    request["out"] = str(job / "results")
    request["segmentation"] = str(job / Path(request["segmentation"]).name)
    request["image"] = str(job / Path(request["image"]).name)
    (job / "request.json").write_text(json.dumps(request), encoding="utf-8")
    device = engine.status.devices[0]
    questions = [
        ["SynthDiffusionLib.jobs.probe"],
        ["SynthDiffusionLib", "models", "list", "--json"],
        ["SynthDiffusionLib.jobs.preflight", str(job), "--device", device.id, "--device-name", device.name]
        + ["--free-bytes", str(device.freeBytes)],
        ["SynthDiffusionLib.jobs.worker", str(job), "--previews", "4"],
    ]
    for question in questions:
        command, environment = engine.command(*question), engine.environment()
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=job)
        text = answer.stdout.replace(json.dumps(str(job))[1:-1], "{JOB}")
        (folder / f"{question[0]}.jsonl").write_text(text, encoding="utf-8")


class Ledger:
    """Makes runs, deletes their results by the panel's buttons, and keeps account.

    Args:
        slicer: with a drawing that can be generated into.

    Attributes:
        rows: numbers by name, by the number of the run after which they were taken.
        memory: bytes of this process after each run.
    """

    def __init__(self, slicer: Slicer) -> None:
        self._slicer = slicer
        self.rows: dict[int, dict[str, int]] = {}
        self.memory: list[int] = []

    def run(self, account: bool) -> None:
        """One run, from Generate to the deletion of its results and its row.

        Args:
            account: wait until nothing is under way any more, and take the numbers.
        """
        slicer = self._slicer
        run = slicer.generate()
        slicer.wait_run(run)
        assert len(slicer.volumes(run)) == 1
        results = slicer.panel.resultsPanel
        for node in slicer.volumes(run):
            results.select(node)
            slicer.standin.dialogs.answer("OK")
            results.ui.deleteButton.click()
        slicer.ui.runsTable.selectRow(0)
        slicer.ui.removeRunButton.click()
        if account:
            slicer.wait_idle()
            self.rows[len(self.memory) + 1] = self._account()
        self.memory.append(psutil.Process().memory_info().rss)

    def _account(self) -> dict[str, int]:
        slicer = self._slicer
        numbers = slicer.standin.counts()  # collects garbage, too
        numbers["items"] = slicer.scene.GetSubjectHierarchyNode().GetNumberOfItems()
        numbers["files"] = len(list(Path(slicer.standin.app.temporaryPath).rglob("*")))
        numbers["children"] = len(children())
        numbers["receivers"] = _receivers(slicer)
        numbers["widgets"] = len(slicer.standin.app.allWidgets())
        return numbers | {f"object {name}": count for name, count in own_objects().items()}

    def growth(self, first: int, last: int) -> dict[str, int]:
        """What there is more of, or less, after run `last` than after run `first`."""
        old, new = self.rows[first], self.rows[last]
        differences = {name: new.get(name, 0) - old.get(name, 0) for name in old.keys() | new.keys()}
        return {name: difference for name, difference in differences.items() if difference}

    def bytes_a_run(self, last: int) -> float:
        """Slope of the memory over the last runs, by Theil and Sen: one jump does not move it."""
        memory = np.array(self.memory[-last:], float)
        first, second = np.triu_indices(last, 1)
        return float(np.median((memory[second] - memory[first]) / (second - first)))


def own_objects() -> Counter:
    """How many objects of the module's own classes live. Every test imports the module anew: those of others are not
    counted, which pytest may keep alive.
    """
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in _OWN]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    classes = {cls for cls in found if cls.__module__.split(".")[0] in _OWN}
    return Counter(type(item).__name__ for item in gc.get_objects() if type(item) in classes)


def _receivers(slicer: Slicer) -> int:
    session = slicer.session
    signals = (session.parametersChanged, session.drawingChanged, session.engine.changed)
    signals += (session.queue.changed, session.queue.progressed, session.queue.previewed)
    return sum(signal.receiverCount for signal in signals)
