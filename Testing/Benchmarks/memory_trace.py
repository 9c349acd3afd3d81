"""Predicted and measured peaks of memory, stage by stage, on the CPU; and what is predicted for a GPU.

    python Testing/Benchmarks/memory_trace.py measure [--only medlord-x4:96x96x64:fp32,...] [--out FILE.json]
    python Testing/Benchmarks/memory_trace.py predict

`measure` runs every stage in a process of its own, with random weights, and reads its peak resident memory over that of
the process before the networks were made (Linux); the last column is of the whole process. The very functions that are
traced are then run with real tensors. The C library is told to give freed memory back at once: what it would keep
otherwise is no tensor. `predict` needs no GPU and measures nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from SynthDiffusionLib.memory.strategies import Option

GIB, MIB = 2**30, 2**20
# Model, grid, precision, and how: nothing, "stream" or "stream-recompute".
CASES = (
    "medlord-x4:96x96x64:fp32",
    "medlord-x4:96x96x64:bf16",
    "medlord-x4:128x128x64:fp32:stream",
    "medlord-x8:128x128x64:fp32",
    "limb-tumour-ct:96x96x64:fp32",
    "limb-tumour-ct:96x96x64:bf16",
    "lung-nodule-ct:64x64x64:fp32",
    "lung-nodule-ct:64x64x64:bf16",
    "limb-tumour-mr:96x96x40:fp32",
    "limb-tumour-mr:96x96x40:bf16",
    "hippocampus-mr:48x64x64:fp32",
    "hippocampus-mr:48x64x64:bf16",
    "patch-ddpm:64x64x64:fp32",
    "maisi-rflow:64x64x64:fp32",
    "maisi-rflow:96x96x64:fp32",
    "maisi-rflow:96x96x64:bf16",
    "maisi-rflow:128x128x64:fp32:stream",
    "med-lsdm:64x64x32:fp32",
    "med-lsdm:64x64x32:bf16",
    "slice-ldm:128x128x32:fp32",
    "slice-ldm:128x128x32:bf16",
)


def measured(case: str, stage: str, timeout: float = 1800.0) -> dict:
    """Peak of a stage in a fresh process, bytes over its start, and what was predicted."""
    command = [sys.executable, str(Path(__file__).resolve()), "child", case, stage]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, check=False)
    if done.returncode:
        raise RuntimeError(f"{case} {stage}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def stages_of(case: str) -> list[str]:
    """The stages of a case, without those that its way of computing leaves as they are."""
    _, runs, how = _runs(case)
    names = list(runs)
    return ["decode"] if how.streaming is not None else names


def child(case: str, stage: str) -> dict:
    """What `measured` gives; ends as the process does."""
    import torch

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Engine"))
    from real_tensors import RealTensors

    from SynthDiffusionLib.memory.heap import keep_heap_small

    keep_heap_small()  # as jobs do
    torch.set_num_threads(1)
    precision = case.split(":")[2]
    _, runs, _ = _runs(case)
    _warm_up(precision)
    tensors = RealTensors(precision)
    base = _status("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    with torch.inference_mode():
        runs[stage](tensors)
    peak = _status("VmHWM") - base

    from SynthDiffusionLib.memory.allowance import peak_with_allowance, workspace_of
    from SynthDiffusionLib.memory.trace import trace

    found = trace(_runs(case)[1][stage], device="cpu", precision=precision, workspace=workspace_of("cpu"))
    return {
        "case": case,
        "stage": stage,
        "measured_bytes": peak,
        "predicted_bytes": peak_with_allowance(found.device_bytes, "cpu"),
        "live_bytes": found.live_bytes,
        "weight_bytes": tensors.weight_bytes,
        "base_bytes": base,
    }


def _runs(case: str):
    """The model's description, its stages, and how they are computed."""
    from SynthDiffusionLib.memory.stage_runs import How, stage_runs
    from SynthDiffusionLib.models.package import load_package
    from SynthDiffusionLib.models.presets import is_preset, load_preset
    from SynthDiffusionLib.networks.streaming import streaming_for

    model, size, precision, *way = case.split(":")
    spec = load_preset(model) if is_preset(model) else load_package(model, verify=False).spec
    grid = tuple(int(n) for n in size.split("x"))
    streaming = streaming_for(way[0], "cpu") if way else None
    how = How(
        all_resident=False,
        streaming=streaming,
        step_by_step=True,
        precision=precision,
    )
    return spec, stage_runs(spec, grid, how), how


def _warm_up(precision: str) -> None:
    """Libraries that are loaded at a first call, and kernels that are compiled then, are not the stage's."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        x = torch.ones(1, 16, 8, 8, 8)
        nn.Conv3d(16, 16, 3, padding=1)(x)
        nn.ConvTranspose3d(16, 16, 4, 2, 1)(x)
        nn.GroupNorm(4, 16)(x)
        nn.Linear(16, 16)(x.transpose(1, -1).contiguous())
        for mode in ("nearest", "trilinear"):
            F.interpolate(x, scale_factor=2.0, mode=mode)
        q = torch.ones(1, 2, 64, 8)
        F.scaled_dot_product_attention(q, q, q)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in /proc/self/status")


def measure(only: str, out: Path | None) -> int:
    """Prints the table of predicted and measured peaks."""
    rows = []
    print("| case | stage | measured MiB | predicted MiB | ratio | of the process |\n|---|---|---|---|---|---|")
    for case in only.split(",") if only else CASES:
        for stage in stages_of(case):
            row = measured(case, stage)
            rows.append(row)
            peak, said, base = row["measured_bytes"], row["predicted_bytes"], row["base_bytes"]
            ratios = f"{said / peak:.2f} | {(base + said) / (base + peak):.2f}"
            print(f"| {case} | {stage} | {peak / MIB:.0f} | {said / MIB:.0f} | {ratios} |", flush=True)
            if out is not None:
                out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(
        f"\n{platform.machine()}, {platform.system()}; of the process: with what it held before the networks were made"
    )
    return 0


def predict() -> int:
    """Prints what every strategy is predicted to take on a GPU, and what is chosen under limits."""
    from SynthDiffusionLib.memory.devices import budget_for
    from SynthDiffusionLib.memory.figures import Figures
    from SynthDiffusionLib.memory.predict import Request, plan_choice, stage_options
    from SynthDiffusionLib.memory.working_grids import padded, size_problem
    from SynthDiffusionLib.models.presets import load_preset, preset_ids

    sizes = ((256, 256, 256), (512, 512, 128), (512, 512, 256), (512, 512, 512))
    own = {"med-lsdm": ((256, 256, 32), (256, 256, 256)), "slice-ldm": ((192, 192, 96),)}
    limits = (8, 12, 16, 24)
    print("| preset | size | stage | GiB by strategy | " + " | ".join(f"{n} GiB" for n in limits) + " |")
    print("|---|---|---|---|" + "---|" * len(limits))
    for preset in preset_ids():
        spec = load_preset(preset)
        conditional = set(spec.modes) != {"unconditional"}
        figures = Figures(spec, "cuda", conditional)
        for size in own.get(preset, sizes):
            if size_problem(spec, size):
                continue
            grid, request = padded(spec, size), Request(spec, conditional=conditional)
            choices = [
                plan_choice(
                    request, grid, budget_for("cuda", n * GIB, None).allowed, None, figures, look_for_smaller=False
                )
                for n in limits
            ]
            for stage in stage_options(request, grid, figures):
                ways = ", ".join(
                    f"{named(o)} {o.device_bytes / GIB:.1f}" + (" (2^31)" if o.refused else "") for o in stage.options
                )
                taken = [named(c.stages[stage.name]) if c.fits else "no" for c in choices]
                print(
                    f"| {preset} | {'x'.join(map(str, size))} | {stage.name} | {ways} | {' | '.join(taken)} |",
                    flush=True,
                )
    return 0


def named(option: Option) -> str:
    """The way, with what is computed at once."""
    at_once = option.pieces is not None and option.pieces[1] > 1
    return option.way + (f" ({option.pieces[1]} {option.pieces[0]})" if at_once else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "predict", "child"))
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", metavar="CASE,...")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.what == "child":
        print(json.dumps(child(*args.rest)))
        return 0
    return measure(args.only, args.out) if args.what == "measure" else predict()


if __name__ == "__main__":
    sys.exit(main())
