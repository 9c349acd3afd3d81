"""Results of runs without a network: files as a worker leaves them, and an engine whose worker does what it is told."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

UNKNOWN = {"event": "error", "kind": "internal", "message": "nobody knows", "hint": ""}
WORKER = Path(__file__).with_name("fake_worker.py")


def provenance(seed: int = 7, mode: str = "whole", **changes) -> dict:
    """A record with all that the module reads, for the shipped model."""
    inpainted = mode == "inpaint"
    return {
        "format": "synthdiffusion-provenance-1",
        "synthetic": True,
        "notice": "Synthetic image. Research only, not for diagnosis.",
        "case": "drawing",
        "model": {"id": "lung-nodule-ct", "version": changes.pop("version", "1.0.0")},
        "mode": mode,
        "seed": seed,
        "settings": {
            "mode": mode,
            "sampler": "dpmpp-2m",
            "steps": 33,
            "seed": seed,
            "guidance": 2.5,
            "inpaint_method": "conditioned",
            "margin_mm": 6.0 if inpainted else None,
            "crop": not inpainted,
        },
        "plan": {"device": "cpu", "precision": "fp32"},
        "mapping": {
            "segments": [
                {"name": "lung", "value": 1, "class": "lung", "how": "name", "voxels": 8000},
                {"name": "tumour", "value": 2, "class": "nodule", "how": "explicit", "voxels": 64},
                {"name": "stomach", "value": 3, "class": None, "how": None, "voxels": 125},
            ]
        },
        "given_classes": ["lung", "nodule"],
        "contains_real_patient_pixels": inpainted,
        "adherence": {
            "class": "nodule",
            "dice": 0.71,
            "structures": 1,
            "found": 1,
            "real_dice": 0.68,
            "ball_dice": 0.42,
            "cartoon_dice": 0.73,
        },
    } | changes


def write_volume(path: Path, value: int = -500, size: int = 40) -> Path:
    """A volume on the grid of `panel_harness.add_segmentation`."""
    import slicer
    import slicer.util

    node = slicer.vtkMRMLScalarVolumeNode()
    slicer.util.updateVolumeFromArray(node, np.full((size, size, size), value, np.int16))
    storage = slicer.vtkMRMLNRRDStorageNode()
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    return path


def outputs(folder: Path, *records: dict) -> list[dict]:
    """The outputs of a `done` event, with their files."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, record in enumerate(records):
        path = folder / f"record{number}.json"
        path.write_text(json.dumps(record), encoding="utf-8")
        volume = write_volume(folder / f"volume{number}.nrrd", -500 + 10 * number)
        found.append({"volume": str(volume), "provenance": str(path)})
    return found


def add_results(harness, folder: Path, segmentation, *records: dict, real=None, seconds: float = 12.4) -> list:
    """Volumes of a run in the scene."""
    from SynthDiffusionScene.runs import addRun

    made = outputs(folder, *records)
    return addRun(harness.scene, made, segmentation, seconds=seconds, realVolumeNode=real)


def obey(engine) -> None:
    """Makes an engine start the fake worker for runs, and answer all questions with `UNKNOWN`.

    Args:
        engine: of a session; its `steps` are what the next runs do.
    """
    engine.steps = [{"event": "done", "outputs": []}]

    def command(*arguments: str) -> list[str]:
        if "worker" not in arguments[0]:
            return [sys.executable, "-c", f"print({json.dumps(UNKNOWN)!r})"]
        folder = Path(arguments[1])
        plan = folder / "plan"
        plan.mkdir(exist_ok=True)
        (plan / "request.json").write_text(json.dumps(engine.steps), encoding="utf-8")
        return [sys.executable, str(WORKER), str(plan), *arguments[2:]]

    engine.command = command
    engine.environment = lambda: dict(os.environ)
