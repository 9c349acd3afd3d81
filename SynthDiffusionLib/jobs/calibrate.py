"""`python -m SynthDiffusionLib.jobs.calibrate --model ID`: how fast this machine is, before there is any run to go by.

A few evaluations of the model's network on a small grid; the time goes into the store of `timings`. Every event is one
JSON object a line on standard output: `progress`, then `done` or `error`.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from SynthDiffusionLib.jobs.events import OnEvent, ignore, json_lines
from SynthDiffusionLib.jobs.interrupts import end_with_stdin, ended_like_interrupted
from SynthDiffusionLib.jobs.request import CHOICES, check_choice, check_device
from SynthDiffusionLib.jobs.worker import report

SIDE = 48
EVALUATIONS = 3  # the first is not counted: libraries choose their algorithms in it


def calibrate(
    model: str, device: str = "auto", precision: str = "auto", on_event: OnEvent = ignore, began: float | None = None
) -> dict[str, Any]:
    """Times a model on this machine and stores the record.

    Args:
        model: id or folder of a model package.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "fp32", "bf16" or "fp16".
        on_event: receives progress.
        began: when the wait began (`time.monotonic`), if that was before this call.

    Returns:
        the `done` event's content: "seconds_per_evaluation", and of the "timing" of a run's `done` event what applies.

    Raises:
        BadInput, ModelError, OutOfMemory: as a run.
    """
    began = time.monotonic() if began is None else began
    check_choice(precision, CHOICES["precision"], "precision")
    check_device(device)
    on_event({"event": "progress", "stage": "model", "step": 0, "total": 1})
    import numpy as np

    from SynthDiffusionLib.backends import load_backend
    from SynthDiffusionLib.jobs import timings
    from SynthDiffusionLib.labels.condition import Condition
    from SynthDiffusionLib.memory.plan import resolve_plan
    from SynthDiffusionLib.models import load_package

    package = load_package(model)
    spec = package.spec
    backend = load_backend(package)
    condition = Condition(np.zeros((SIDE,) * 3, np.uint8), np.eye(4), spec.label_scheme, ())
    plan = resolve_plan(
        spec, backend.working_grid(condition.shape), device=device, precision=precision, vram_limit=None
    )
    ends: list[float] = []

    def on_step(step: int, total: int) -> None:
        ends.append(time.monotonic())
        on_event({"event": "progress", "stage": "denoise", "step": step, "total": total})

    settings = {"sampler": spec.sampling.default_sampler, "steps": EVALUATIONS, "seed": 0, "on_step": on_step}
    if spec.characteristics is not None:
        typical = [quantiles[len(quantiles) // 2] for quantiles in spec.characteristics.quantiles]
        backend.sample_joint(np.array(typical, np.float32), plan, **settings)
    else:
        backend.sample(condition, plan, **settings)
    counted = len(ends) - 1
    denoise_s = ends[-1] - ends[0]
    one = denoise_s / counted
    timing = timings.Timing(
        spec.id,
        spec.version,
        timings.device_name(plan.device),
        plan.precision,
        plan.threads,
        plan.grid,
        evaluations=counted,
        denoise_s=round(denoise_s, 6),
        setup_s=round(max(0.0, ends[0] - began - one), 3),
        source="calibration",
    )
    timings.record(timing)
    return {"seconds_per_evaluation": one, **timing.summary(plan.device)}


def main(arguments: list[str] | None = None) -> int:
    """Calibrates and returns the exit code."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m SynthDiffusionLib.jobs.calibrate", description=__doc__)
    parser.add_argument("--model", required=True, metavar="ID", help="ID or folder of a model")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", metavar="NAME", help="auto (default), fp32, bf16 or fp16")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when standard input, a pipe, is closed")
    options = parser.parse_args(arguments)
    on_event = json_lines(sys.stdout)
    try:
        if options.end_with_stdin:
            end_with_stdin()
        with ended_like_interrupted():
            result = calibrate(options.model, options.device, options.precision, on_event, began)
    except (Exception, KeyboardInterrupt) as error:
        return report(error, on_event)
    on_event({"event": "done", **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
