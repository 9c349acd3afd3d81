"""`run(request)`: the one way from a request to files, for the command line, Slicer, batches and tests."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from SynthDiffusionLib.backends import Backend, load_backend
from SynthDiffusionLib.errors import OutOfMemory
from SynthDiffusionLib.jobs import timings
from SynthDiffusionLib.jobs.adherence import adherence_of, coarse_note, load_segmenter
from SynthDiffusionLib.jobs.events import OnEvent, Progress, ignore
from SynthDiffusionLib.jobs.inputs import Inputs, memory_of
from SynthDiffusionLib.jobs.outputs import header_marks
from SynthDiffusionLib.jobs.preparation import network_evaluations, prepare, resolve_settings, sample_paths
from SynthDiffusionLib.jobs.previews import Previews
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.jobs.synthesis import (
    Prepared,
    Resolved,
    Result,
    inpaint,
    joint,
    joint_findings,
    model_views,
    whole,
)
from SynthDiffusionLib.jobs.writing import make_record, write_sample
from SynthDiffusionLib.memory.at_once import pieces_of
from SynthDiffusionLib.memory.plan import Plan, plan_notes, told_largest
from SynthDiffusionLib.models import ModelPackage, ModelSpec, load_package
from SynthDiffusionLib.output_folders import output_folder


@dataclass(frozen=True)
class RunResult:
    """What a job made.

    Args:
        outputs: one entry a sample: paths under "volume", "provenance", "contact_sheet" and, where they apply,
            "region", "segmentation" and "scene"; "seed"; "adherence" (and "adherence_note") if it was asked for.
        mapping: what became of every segment.
        notes: sentences that the user should read (resampled, left out, merged).
        seconds: wall time of the job.
        timing: what the next run's duration is estimated from, see `timings`.
    """

    outputs: list[dict[str, Any]]
    mapping: dict[str, Any]
    notes: list[str]
    seconds: float
    timing: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        outputs = [{k: str(v) if isinstance(v, Path) else v for k, v in o.items()} for o in self.outputs]
        return {
            "outputs": outputs,
            "mapping": self.mapping,
            "notes": self.notes,
            "seconds": round(self.seconds, 2),
            "timing": self.timing,
        }


@dataclass(frozen=True)
class LoadedModel:
    """A model that is held in memory for many requests; see `load_model`.

    Args:
        model: ID or folder, as the requests name it.
        package: checked.
        backend: with its weights.
        segmenter: see `jobs.adherence.load_segmenter`; None where no request asks for adherence.
    """

    model: str
    package: ModelPackage
    backend: Backend
    segmenter: Any


def load_model(model: str, adherence: bool = False, on_event: OnEvent = ignore) -> LoadedModel:
    """Checks a package and loads its weights, for requests that follow each other in one process.

    Args:
        model: ID or folder of a package.
        adherence: load its segmenter too.
        on_event: gets a warning if it has none.

    Raises:
        ModelError: unknown, damaged, or not of this version.
    """
    return _load(model, load_package(model), adherence, on_event)


def _load(model: str, package: ModelPackage, adherence: bool, on_event: OnEvent) -> LoadedModel:
    backend = load_backend(package)
    return LoadedModel(model, package, backend, load_segmenter(package, on_event) if adherence else None)


def run(
    request: GenerateRequest,
    on_event: OnEvent = ignore,
    should_cancel: Callable[[], bool] = lambda: False,
    previews: Previews | None = None,
    began: float | None = None,
    loaded: LoadedModel | None = None,
) -> RunResult:
    """Carries out a request.

    Everything that can be refused is refused before the first network evaluation, and every file appears under its
    final name only when it is complete.

    Args:
        request: what to make.
        on_event: receives progress, warnings and the final "done".
        should_cancel: asked after every denoising step, and while a volume is decoded slab by slab.
        previews: shows what is being made; that changes no voxel.
        began: when the wait began (`time.monotonic`), if that was before this call.
        loaded: the request's model, if it is in memory already; the volume is the same.

    Raises:
        ValueError: another model is loaded.
        SynthDiffusionError: see `SynthDiffusionLib.errors`.
    """
    if loaded is not None and loaded.model != request.model:
        raise ValueError(f"'{loaded.model}' is loaded, but the request is for '{request.model}'")
    began = time.monotonic() if began is None else began
    on_event({"event": "progress", "stage": "read", "step": 0, "total": 1})
    package = load_package(request.model) if loaded is None else loaded.package
    resolved = resolve_settings(request, package.spec)
    with output_folder(request.out) as out:
        done = _carry_out(request, package, resolved, out, on_event, should_cancel, previews, began, loaded)
    seconds = time.monotonic() - began
    timing = _timing(package, done, request.samples, seconds)
    timings.record(timing)
    finished = RunResult(done.outputs, done.mapping, done.notes, seconds, timing.summary(done.plan.device))
    on_event({"event": "done", **finished.to_json()})
    return finished


@dataclass(frozen=True)
class _Done:
    """What `_carry_out` hands back; the times as in `timings.Timing`."""

    outputs: list[dict[str, Any]]
    mapping: dict[str, Any]
    notes: list[str]
    plan: Plan
    evaluations: int
    setup_s: float
    denoise_s: float


def _carry_out(
    request: GenerateRequest,
    package: ModelPackage,
    resolved: Resolved,
    out: Path,
    on_event: OnEvent,
    should_cancel: Callable[[], bool],
    previews: Previews | None,
    began: float,
    loaded: LoadedModel | None,
) -> _Done:
    """Reads, synthesises, writes: what `run` does once the request itself is in order."""
    from SynthDiffusionLib.sampling.samplers import RECTIFIED_FLOW, build_scheduler

    spec = package.spec
    inputs, prepared = prepare(request, spec, resolved, out, on_event)
    on_event({"event": "progress", "stage": "model", "step": 0, "total": 1})
    if loaded is None:
        loaded = _load(request.model, package, request.adherence, on_event)
    backend, segment = loaded.backend, loaded.segmenter
    resolved = _plan(resolved, request, backend, inputs, prepared, spec)
    planned = [*_precision_note(request, resolved.plan), *plan_notes(resolved.plan)]
    for note in planned:
        on_event({"event": "warning", "message": note})
    if spec.diffusion.beta_schedule != RECTIFIED_FLOW:
        build_scheduler(resolved.sampler, spec.diffusion, resolved.steps)  # loads diffusers before a step is timed
    costs = [math.prod(backend.working_grid(shape)) for shape in prepared.shapes]
    progress = Progress(on_event, resolved.steps, costs, request.samples, should_cancel)
    synthesise = {"inpaint": inpaint, "joint": joint}.get(request.mode, whole)

    prepared = replace(prepared, notes=[*prepared.notes, *planned])
    retreats = _Retreats(on_event, spec)
    resolved = replace(resolved, plan=replace(resolved.plan, tell=retreats))
    outputs, notes, denoise_began = [], [*inputs.notes, *prepared.notes], time.monotonic()
    for index in range(request.samples):
        tumour = prepared.tumours[index] if prepared.tumours else None
        sample = replace(resolved, seed=resolved.seed + index, tumour=tumour)
        record = make_record(request, sample, spec, inputs, prepared.notes)
        if previews is not None:
            previews.begin(index + 1, request.samples, resolved.steps * len(costs), header_marks(record))
        with progress.sample():
            try:
                result = synthesise(backend, spec, prepared, sample, progress.step, previews, progress.part)
            except OutOfMemory as error:
                raise told_largest(error, spec, sample.plan, prepared.has_drawing) from error
        if retreats.plan is not None:  # the samples that follow begin with what has worked
            resolved = replace(resolved, plan=retreats.plan)
            record["plan"] = resolved.plan.to_json()
            record["notes"] = [*record["notes"], *retreats.take()]
        measured: dict[str, Any] = {}
        if result.segmented:
            notes += _look_at_mask(result, spec, record, sample.seed, on_event)
            measured["tumour"] = {"used": record["settings"]["tumour"]["used"], "measured": record["measured"]}
        if request.adherence:
            progress.stage("adherence")
            views = partial(model_views, spec, prepared, result)
            measured |= adherence_of(
                views, spec, segment, on_event, inpainted=request.mode == "inpaint", segmented=result.segmented
            )
            if index == 0 and measured["adherence"] is not None and prepared.condition is not None:
                coarse = coarse_note(result.volume.affine, prepared.condition.affine)
                notes += coarse
                for note in coarse:
                    on_event({"event": "warning", "message": note})
        paths = sample_paths(request, spec, resolved, inputs.case, out, index)
        paths = write_sample(
            result, record | {k: v for k, v in measured.items() if k != "tumour"}, paths, inputs, spec, progress.stage
        )
        outputs.append({"seed": sample.seed, **measured, **paths})
    return _Done(
        outputs,
        inputs.mapping.report.as_dict(),
        notes,
        resolved.plan,
        evaluations=network_evaluations(request, resolved, prepared),
        setup_s=denoise_began - began + progress.warm_up_s,
        denoise_s=progress.denoise_s - progress.warm_up_s,
    )


def _look_at_mask(result: Result, spec: ModelSpec, record: dict[str, Any], seed: int, on_event: OnEvent) -> list[str]:
    """Writes into the provenance what the mask of a joint sample is like; gives notes for the user."""
    record["measured"], found = joint_findings(spec, result, record["settings"]["tumour"]["used"])
    notes = [f"Seed {seed}: {note}" for note in found]
    record["notes"] = [*record["notes"], *notes]
    for note in notes:
        on_event({"event": "warning", "message": note})
    return notes


def _timing(package: ModelPackage, done: _Done, samples: int, seconds: float) -> timings.Timing:
    return timings.Timing(
        package.spec.id,
        package.spec.version,
        timings.device_name(done.plan.device),
        done.plan.precision,
        done.plan.threads,
        done.plan.grid,
        evaluations=done.evaluations,
        denoise_s=round(done.denoise_s, 3),
        setup_s=round(done.setup_s, 3),
        other_s=round(max(0.0, seconds - done.setup_s - done.denoise_s), 3),
        samples=samples,
    )


class _Retreats:
    """What became of the plan when the device ran out of memory, told as it happens.

    Args:
        on_event: receives a warning each time.
        spec: of the model.
    """

    def __init__(self, on_event: OnEvent, spec: ModelSpec) -> None:
        self._on_event, self._spec, self._notes = on_event, spec, []
        self.plan: Plan | None = None

    def __call__(self, stage: str, plan: Plan) -> None:
        self.plan = plan
        way = f"'{plan.execution.of(stage)}'"
        if (pieces := pieces_of(self._spec, stage)) is not None:
            way += f", {getattr(plan.execution, pieces)} of the {pieces} at once"
        note = f"The device ran out of memory in the stage '{stage}', which is now computed as {way}"
        self._notes.append(note)
        self._on_event({"event": "warning", "message": note})

    def take(self) -> list[str]:
        """The notes since the last call."""
        notes, self._notes = self._notes, []
        return notes


def _precision_note(request: GenerateRequest, plan: Plan) -> list[str]:
    if request.precision in ("auto", plan.precision) or plan.warnings:
        return []
    return [f"{plan.device} does not compute in {request.precision}: {plan.precision} takes its place"]


def _plan(
    resolved: Resolved,
    request: GenerateRequest,
    backend: Backend,
    inputs: Inputs,
    prepared: Prepared,
    spec: ModelSpec,
) -> Resolved:
    from SynthDiffusionLib.memory.plan import resolve_plan

    held_bytes, files_bytes = memory_of(inputs, request.crop)
    plan = resolve_plan(
        spec,
        backend.working_grid(prepared.grid),
        device=request.device,
        precision=request.precision,
        vram_limit=request.vram_limit,
        conditional=prepared.has_drawing,
        strategies=request.strategies,
        held_bytes=held_bytes,
        files_bytes=files_bytes,
    )
    return replace(resolved, plan=plan)
