"""`python -m SynthDiffusionLib.jobs.preflight JOB_DIR ...`: what a job will do and take, before it is run.

Reads the `request.json` of a job folder and its inputs, and prepares them by the same functions as the run, but loads
no weights, and torch only for a model whose memory has not been traced yet (`memory.figures`); what is known of the
device (see `probe`) is given as arguments. Prints one JSON object on
one line: the event "done", or the "error" that the run itself would end with. Writes nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SynthDiffusionLib.backends import BACKENDS, load_backend
from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs import timings
from SynthDiffusionLib.jobs.events import json_lines
from SynthDiffusionLib.jobs.inputs import memory_of
from SynthDiffusionLib.jobs.preparation import network_evaluations, prepare, resolve_settings
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.jobs.worker import read_request, report
from SynthDiffusionLib.memory.devices import budget_for, choose_device, choose_precision
from SynthDiffusionLib.memory.plan import lowest_precision, plan_notes, planned
from SynthDiffusionLib.memory.working_grids import padded
from SynthDiffusionLib.models import load_package
from SynthDiffusionLib.output_folders import check_writable


@dataclass(frozen=True)
class Device:
    """Where a job is to run, as `probe` reports it.

    Args:
        id: "cpu" or "cuda:N".
        name: of the hardware.
        free_bytes: of its memory.
        precision: what "auto" stands for on it.
    """

    id: str
    name: str
    free_bytes: int
    precision: str

    @property
    def gpus(self) -> int:
        """How many GPUs the machine has at least."""
        return int(self.id.partition(":")[2] or 0) + 1 if self.id.startswith("cuda") else 0


def preflight(request: GenerateRequest, device: Device) -> dict[str, Any]:
    """What the run of a request will do and take.

    Returns:
        the event "done": "fits" (true), "grid" that the network works on, "evaluations" of the network over all
        samples, "sampler", "steps", "guidance", "device", "precision", "predicted_bytes", "predicted_host_bytes" (0
        on a CPU), "limit_bytes" (None: none is set), "free_bytes", "strategy" and "execution" as in `memory.plan.Plan`,
        "seconds" (None: not known yet), "seconds_from", "runs" that they are taken from, "notes" and "mapping" as in
        the result of the run, and "mapping_notes", those of the notes that are on the mapping.

    Raises:
        SynthDiffusionError: what the run would raise.
    """
    package = load_package(request.model)
    spec = package.spec
    resolved = resolve_settings(request, spec)
    check_writable(request.out)
    inputs, prepared = prepare(request, spec, resolved, Path(request.out).expanduser())
    if spec.backend not in BACKENDS:
        load_backend(package)  # says so
    grid = padded(spec, prepared.grid)
    device_id = choose_device(request.device, device.gpus)
    precision = choose_precision(request.precision, device_id, device.precision)
    host = None if device_id == "cpu" else _free_host_bytes()
    budget = budget_for(device_id, request.vram_limit, device.free_bytes, host_bytes=host)
    lower = lowest_precision(device_id, device.precision)
    plan = planned(
        spec, grid, budget, precision, lower, prepared.has_drawing, request.strategies, *memory_of(inputs, request.crop)
    )
    planned_notes = plan_notes(plan)
    evaluations = network_evaluations(request, resolved, prepared)
    voxels = grid[0] * grid[1] * grid[2]
    estimate = timings.estimate(
        spec.id, spec.version, device.name, plan.precision, voxels, evaluations, samples=request.samples
    )
    return {
        "event": "done",
        "fits": True,
        "grid": list(grid),
        "evaluations": evaluations,
        "sampler": resolved.sampler,
        "steps": resolved.steps,
        "guidance": resolved.guidance,
        "device": device_id,
        "precision": plan.precision,
        "predicted_bytes": plan.predicted_bytes,
        "predicted_host_bytes": plan.predicted_host_bytes,
        "limit_bytes": plan.limit_bytes,
        "free_bytes": device.free_bytes,
        "strategy": plan.strategy,
        "execution": plan.execution.to_json(),
        "seconds": round(estimate.seconds, 1) if estimate else None,
        "seconds_from": estimate.source if estimate else None,
        "runs": estimate.runs if estimate else 0,
        "notes": [*inputs.notes, *prepared.notes, *planned_notes],
        "mapping_notes": inputs.mapping.report.lines(),
        "mapping": inputs.mapping.report.as_dict(),
    }


def _free_host_bytes() -> int:
    import psutil

    return psutil.virtual_memory().available


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the preflight of a job's folder and returns the exit code that the run would have."""
    parser = argparse.ArgumentParser(prog="python -m SynthDiffusionLib.jobs.preflight", description=__doc__)
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--device", required=True, metavar="ID", help='where it is to run: "cpu" or "cuda:N"')
    parser.add_argument("--device-name", required=True, metavar="NAME", help="name of that hardware, as probe gives it")
    parser.add_argument("--free-bytes", required=True, type=int, metavar="N", help="free memory of the device")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "bf16", "fp16"),
        help='what "auto" is on the device, as probe gives it (default fp32, which takes most)',
    )
    args = parser.parse_args(arguments)
    on_event = json_lines(sys.stdout)
    try:
        if not re.fullmatch(r"cpu|cuda:\d+", args.device):
            raise BadInput(f"Unknown device '{args.device}'", "Give cpu or cuda:N.")
        device = Device(args.device, args.device_name, args.free_bytes, args.precision)
        on_event(preflight(read_request(args.job_dir), device))
    except (Exception, KeyboardInterrupt) as error:
        return report(error, on_event)
    return 0


if __name__ == "__main__":
    sys.exit(main())
