"""Rows of `speed_table.py` on whole processes of `synthdiffusion generate`: cold start, and samples of one job."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from speed_parts import Setting, environment

ROOT = Path(__file__).resolve().parents[2]
# Shipped models, and the segmentation that they are given here; None: without one, of their default size.
SHIPPED: dict[str, str | None] = {
    "lung-nodule-ct": "solitary-nodule.seg.nrrd",
    "limb-tumour-ct": None,
    "hippocampus-mr": "hippocampus.seg.nrrd",
    "limb-tumour-mr": None,
}
LONGEST_S = 1800


def generated(model: str, setting: Setting, samples: int, threads: int) -> dict[str, Any]:
    """One fresh process with the model's default steps.

    Returns:
        seconds from the start of the process until denoising begins ("begins_s") and until the files are there
        ("files_s"), and the job's own account ("timing").

    Raises:
        RuntimeError: the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "SynthDiffusionLib", "generate", "--model", model, "--out", folder]
        command += ["--seed", "1", "--samples", str(samples), "--device", setting.device, "--json"]
        command += ["--precision", setting.precision]
        if SHIPPED[model] is not None:
            command.append(str(ROOT / "Resources" / "Segmentations" / SHIPPED[model]))
        began, lines = time.perf_counter(), []
        with (Path(folder) / "said.txt").open("w+", encoding="utf-8") as said:
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=said, text=True, cwd=ROOT, env=environment(threads)
            )
            for line in child.stdout:
                lines.append((time.perf_counter() - began, line))
            child.wait(LONGEST_S)
            said.seek(0)
            words = said.read().strip().splitlines()
        if child.returncode or not lines:
            raise RuntimeError(f"generate failed: {(words or ['no output'])[-1][:200]}")
    ended, result = lines[-1][0], json.loads(lines[-1][1])
    timing = result["timing"]
    # The job's clock starts with it, after the interpreter and the command line.
    return {
        "begins_s": ended - (result["seconds"] - timing["setup_s"]),
        "files_s": ended,
        "timing": timing,
    }


def cold_start(row: str, setting: Setting, threads: int) -> dict[str, Any]:
    """Group e: a fresh process of a shipped model, medians.

    Args:
        row: the model.
        setting: of which `repeats` processes are started, at most two.
        threads: of the process.
    """
    from speed_parts import spec_of

    spec = spec_of(row)
    runs = [generated(row, setting, 1, threads) for _ in range(min(2, setting.repeats))]
    return {
        "begins_s": statistics.median(run["begins_s"] for run in runs),
        "files_s": statistics.median(run["files_s"] for run in runs),
        "denoise_s": statistics.median(run["timing"]["denoise_s"] for run in runs),
        "evaluations": runs[0]["timing"]["evaluations"],
        "voxels": runs[0]["timing"]["voxels"],
        "runs": len(runs),
        "default_steps": spec.sampling.default_steps,
        "monai_steps": spec.raw["diffusion"]["train_steps"],
    }


def batch(row: str, setting: Setting, threads: int) -> dict[str, Any]:
    """Group f: one sample, and four of one job, each in a fresh process; medians.

    Args:
        row: a shipped model.
        setting: of which at most two `repeats` are made.
        threads: of the processes.
    """
    found: dict[int, list[dict[str, Any]]] = {1: [], 4: []}
    for _ in range(min(2, setting.repeats)):
        for samples, runs in found.items():
            runs.append(generated(row, setting, samples, threads))
    seconds = {samples: statistics.median(run["files_s"] for run in runs) for samples, runs in found.items()}
    return {"one_s": seconds[1], "four_s": seconds[4], "runs": len(found[1])}
