"""Seconds and peak memory of one sample on the CPU, measured from outside in a fresh process.

The process is the worker that Slicer starts, so that the figures hold what a user waits for: start of Python, imports,
loading of the weights, sampling, writing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import BadInput, RunFailed
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.output_folders import check_writable
from SynthDiffusionLib.volumes import Volume, write_volume

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage, ModelSpec

POLL_SECONDS = 0.02
BALL_RADIUS_MM = 6.0
PATCH_SIZE = (51, 51, 51)
DEFAULT_SIDE = 128
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LARGEST_SIZE = 512

DEFINITIONS = {
    "seconds_process": "wall time from the start of the process to its end",
    "seconds_job": "wall time of the job within it: reading, loading the model, sampling, writing",
    "peak_bytes": "largest resident memory of the process and its children, looked at every {poll:g} s",
}


def measure_performance(
    package: ModelPackage,
    *,
    threads: int = 2,
    steps: int = 20,
    size: tuple[int, int, int] | None = None,
    repeats: int = 3,
    precision: str = "auto",
    out: Path | None = None,
    on_event: Callable[[dict], None] = lambda event: None,
) -> dict[str, Any]:
    """Makes one sample of a drawn target, or of an image with its mask, `repeats` times, on the CPU.

    Args:
        threads: CPU threads the process may use.
        steps: denoising steps.
        size: grid of the mask, at the model's spacing; `size_of` the model when None.
        repeats: fresh processes.
        precision: see `GenerateRequest`.
        out: folder that the caller will write the results to, looked at before the minutes of measuring.

    Raises:
        BadInput: numbers out of range, or an `out` that cannot be written to.
        RunFailed: the process failed; with its message.
    """
    size = size_of(package.spec) if size is None else size
    if not 1 <= threads <= 1024 or not 1 <= repeats <= 100:
        raise BadInput(f"{threads} threads and {repeats} repeats were asked for", "Give numbers from 1 on.")
    if len(size) != 3 or not all(8 <= n <= LARGEST_SIZE for n in size):
        raise BadInput(f"A grid of {'x'.join(map(str, size))} was asked for", f"Give sides from 8 to {LARGEST_SIZE}.")
    if out is not None:
        check_writable(out)
    rows = []
    for run in range(1, repeats + 1):
        on_event({"event": "progress", "stage": "performance", "step": run - 1, "total": repeats})
        with tempfile.TemporaryDirectory(prefix="synthdiffusion-performance-") as folder:
            rows.append({"row": run, **_one_run(package, Path(folder), threads, steps, size, precision)})
    return {
        "kind": "performance",
        "rows": rows,
        "median_seconds_process": float(np.median([r["seconds_process"] for r in rows])),
        "median_seconds_job": float(np.median([r["seconds_job"] for r in rows])),
        "largest_peak_bytes": max(r["peak_bytes"] for r in rows),
        "settings": {
            "threads": threads,
            "steps": steps,
            "size": list(size),
            "repeats": repeats,
            "precision": rows[0]["precision"],
        },
        "machine": {"logical_cpus": os.cpu_count(), "system": sys.platform, "python": sys.version.split()[0]},
        "definitions": {k: v.format(poll=POLL_SECONDS) for k, v in DEFINITIONS.items()},
    }


def size_of(spec: ModelSpec) -> tuple[int, int, int]:
    """The grid that a model is measured on: for models that work patch by patch that of the data set that the project's
    were trained on; else the model's default size, or, where it has none, `DEFAULT_SIDE` as far as its grids allow."""
    if spec.backend == "patch_ddpm":
        return PATCH_SIZE
    if spec.grid.default_size:
        return spec.grid.default_size
    return tuple(min(max(DEFAULT_SIDE, low), high) for low, high in zip(spec.grid.min_size, spec.grid.max_size))


def performance_measures(result: dict[str, Any]) -> dict[str, Any]:
    """The `measured.performance` object of a `model.json`."""
    settings = result["settings"]
    return {
        "device": "CPU",
        "threads": settings["threads"],
        "steps": settings["steps"],
        "grid": settings["size"],
        "precision": settings["precision"],
        "seconds": result["median_seconds_process"],
        "job_seconds": result["median_seconds_job"],
        "peak_bytes": result["largest_peak_bytes"],
        "command": result.get("command", ""),
    }


def _one_run(
    package: ModelPackage, folder: Path, threads: int, steps: int, size: tuple[int, int, int], precision: str
) -> dict[str, Any]:
    spec = package.spec
    target = spec.label_scheme[spec.target_class] if spec.target_class else spec.label_scheme.condition_classes[0]
    if "joint" in spec.modes and "whole" not in spec.modes:
        asked: dict[str, Any] = {"segmentation": None, "mode": "joint", "size": tuple(size)}
    else:
        asked = {"segmentation": folder / "drawing.nii.gz", "labels": {str(target.value): target.name}}
        _draw_ball(asked["segmentation"], size, spec.grid.spacing_mm, target.value)
    GenerateRequest(
        **asked,
        model=str(package.folder.resolve()),
        out=folder / "out",
        steps=steps,
        seed=1,
        device="cpu",
        precision=precision,
    ).save(folder)
    environment = {**os.environ, **{name: str(threads) for name in THREAD_VARIABLES}}
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    log = folder / "worker.log"
    with log.open("w", encoding="utf-8") as stream:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "SynthDiffusionLib.jobs.worker", str(folder)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        watch = PeakMemory(process.pid)
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            peak = watch.stop()
        seconds = time.monotonic() - began
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    done = next((e for e in events if e.get("event") == "done"), None)
    if code != 0 or done is None:
        error = next((e for e in events if e.get("event") == "error"), {})
        raise RunFailed(
            f"The measured process ended with code {code}: {error.get('message', 'no message')}",
            error.get("hint", "Try synthdiffusion generate with the same model."),
        )
    record = json.loads(Path(done["outputs"][0]["provenance"]).read_text(encoding="utf-8"))
    return {
        "seconds_process": seconds,
        "seconds_job": float(done["seconds"]),
        "peak_bytes": int(peak),
        "threads": threads,
        "steps": steps,
        "grid": list(size),
        "precision": record["plan"]["precision"],
        "guidance": record["settings"]["guidance"],
    }


def _draw_ball(path: Path, size: tuple[int, int, int], spacing: tuple[float, ...], value: int) -> None:
    """A ball in the middle of an empty label map."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), axis=-1)
    middle = (np.array(size) - 1) / 2
    inside = (((grid - middle) * np.asarray(spacing)) ** 2).sum(-1) <= BALL_RADIUS_MM**2
    write_volume(Volume(inside.astype(np.uint8) * value, np.diag([*spacing, 1.0]), "label"), path)


class PeakMemory:
    """Watches the resident memory of a process and its children until `stop`.

    Works on every system that psutil knows; where the system keeps the peak itself (Windows), that is used too.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Ends the watch and returns the peak in bytes."""
        self._stop.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        import psutil

        while not self._stop.is_set():
            try:
                main = psutil.Process(self._pid)
                total = 0
                for process in [main, *main.children(recursive=True)]:
                    info = process.memory_info()
                    total += max(info.rss, getattr(info, "peak_wset", 0))
                self._peak = max(self._peak, total)
            except psutil.Error:  # it, or one of its children, has just ended
                pass
            self._stop.wait(POLL_SECONDS)
