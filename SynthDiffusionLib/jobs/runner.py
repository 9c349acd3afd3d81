"""`run(request)`: the one way from a request to files, for the command line, Slicer, batches and tests."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.backends import Backend, load_backend
from SynthDiffusionLib.contact_sheet import write_contact_sheet
from SynthDiffusionLib.errors import BadInput, ModelError, RunFailed
from SynthDiffusionLib.jobs import provenance
from SynthDiffusionLib.jobs.events import OnEvent, Progress, ignore
from SynthDiffusionLib.jobs.inputs import Inputs, read_inputs
from SynthDiffusionLib.jobs.request import CHOICES, GenerateRequest, check_choice
from SynthDiffusionLib.jobs.synthesis import Resolved, Result, inpaint, prepare_inpaint, prepare_whole, whole
from SynthDiffusionLib.models import ModelPackage, load_package
from SynthDiffusionLib.models.spec import ModelSpec
from SynthDiffusionLib.output_folders import output_folder
from SynthDiffusionLib.volumes import Segment, Segmentation, write_segmentation, write_volume
from SynthDiffusionLib.volumes.atomic import files_together


@dataclass(frozen=True)
class RunResult:
    """What a job made.

    Args:
        outputs: one entry a sample: paths under "volume", "provenance", "contact_sheet" and, where they apply,
            "region" and "scene"; "seed".
        mapping: what became of every segment.
        notes: sentences that the user should read (resampled, left out, merged).
        seconds: wall time of the job.
    """

    outputs: list[dict[str, Any]]
    mapping: dict[str, Any]
    notes: list[str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        outputs = [{k: str(v) if isinstance(v, Path) else v for k, v in o.items()} for o in self.outputs]
        return {"outputs": outputs, "mapping": self.mapping, "notes": self.notes, "seconds": round(self.seconds, 2)}


def run(
    request: GenerateRequest,
    on_event: OnEvent = ignore,
    should_cancel: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Carries out a request.

    Everything that can be refused is refused before the first network evaluation, and every file appears under its
    final name only when it is complete.

    Args:
        request: what to make.
        on_event: receives progress, warnings and the final "done".
        should_cancel: asked after every denoising step.

    Raises:
        SynthDiffusionError: see `SynthDiffusionLib.errors`.
    """
    began = time.monotonic()
    on_event({"event": "progress", "stage": "read", "step": 0, "total": 1})
    package = load_package(request.model)
    resolved = _resolve(request, package)
    if request.scene:
        from SynthDiffusionLib.jobs.scene_export import require_scene_writer

        require_scene_writer()
    with output_folder(request.out) as out:
        outputs, inputs, notes = _carry_out(request, package, resolved, out, on_event, should_cancel)
    finished = RunResult(outputs, inputs.mapping.report.as_dict(), notes, time.monotonic() - began)
    on_event({"event": "done", **finished.to_json()})
    return finished


def _carry_out(
    request: GenerateRequest,
    package: ModelPackage,
    resolved: Resolved,
    out: Path,
    on_event: OnEvent,
    should_cancel: Callable[[], bool],
) -> tuple[list[dict[str, Any]], Inputs, list[str]]:
    """Reads, synthesises, writes: what `run` does once the request itself is in order."""
    inputs = read_inputs(request, package.spec)
    for note in inputs.notes:
        on_event({"event": "warning", "message": note})

    _check_names(request, resolved, package.spec, inputs.case, out)
    prepared = (prepare_inpaint if request.mode == "inpaint" else prepare_whole)(request, package.spec, inputs)
    prepared = replace(prepared, notes=[*prepared.notes, *_sampler_notes(resolved)])
    for note in prepared.notes:
        on_event({"event": "warning", "message": note})
    on_event({"event": "progress", "stage": "model", "step": 0, "total": 1})
    backend = load_backend(package)
    resolved = _plan(resolved, request, backend, prepared.grid, package)
    progress = Progress(on_event, resolved.steps * request.samples * prepared.evaluations, should_cancel)

    outputs = []
    for index in range(request.samples):
        sample = replace(resolved, seed=resolved.seed + index)
        synthesise = inpaint if request.mode == "inpaint" else whole
        result = synthesise(backend, package.spec, prepared, sample, progress.step)
        outputs.append(_write(result, request, sample, package, inputs, prepared.notes, out, on_event))
    return outputs, inputs, [*inputs.notes, *prepared.notes]


def _resolve(request: GenerateRequest, package: ModelPackage) -> Resolved:
    """Defaults of the model where the request says nothing, and a check against what the model can do."""
    spec = package.spec
    if request.mode not in spec.modes:
        raise ModelError(f"The model '{spec.id}' has no mode '{request.mode}'", f"It can do: {', '.join(spec.modes)}.")
    sampler = spec.sampling.default_sampler if request.sampler is None else request.sampler
    from SynthDiffusionLib.sampling.samplers import BETA_SCHEDULES, SAMPLERS

    check_choice(sampler, SAMPLERS, "sampler")
    if spec.diffusion.beta_schedule not in BETA_SCHEDULES:
        raise ModelError(
            f"The sampler '{sampler}' does not fit the schedule '{spec.diffusion.beta_schedule}' of '{spec.id}'",
            f"This version samples from: {', '.join(BETA_SCHEDULES)}. Choose another model.",
        )
    if sampler not in spec.sampling.samplers:
        raise ModelError(
            f"The sampler '{sampler}' does not fit the schedule of the model '{spec.id}'",
            f"Choose one of: {', '.join(spec.sampling.samplers)}.",
        )
    steps = request.steps or spec.sampling.default_steps
    if steps > spec.diffusion.train_steps:
        raise BadInput(
            f"{steps} steps were asked for, but the model was trained with {spec.diffusion.train_steps}",
            f"Give --steps a number from 1 to {spec.diffusion.train_steps}.",
        )
    seed = secrets.randbelow(2**31 - 1 - request.samples) if request.seed is None else request.seed
    margin = request.margin_mm
    if margin is None:
        margin = spec.inpaint.margin_mm if spec.inpaint else 0.0
    guidance = spec.default_guidance(request.mode) if request.guidance is None else request.guidance
    return Resolved(sampler, steps, seed, guidance, margin, request.inpaint_method == "replacement", None)


def _sampler_notes(resolved: Resolved) -> list[str]:
    from SynthDiffusionLib.sampling.samplers import LEAST_STEPS

    least = LEAST_STEPS.get(resolved.sampler, 1)
    if resolved.steps >= least:
        return []
    return [
        f"In {resolved.steps} steps '{resolved.sampler}' makes volumes that are too smooth and too much alike; "
        f"give it {least} steps or more, or choose dpmpp-2m"
    ]


def _plan(
    resolved: Resolved, request: GenerateRequest, backend: Backend, shape: tuple[int, int, int], package: ModelPackage
) -> Resolved:
    from SynthDiffusionLib.memory.plan import resolve_plan

    plan = resolve_plan(
        device=request.device,
        precision=request.precision,
        vram_limit=request.vram_limit,
        grid=backend.working_grid(shape),
        bytes_per_voxel=float(package.spec.performance.get("bytes_per_voxel_fp32", 2000.0)),
        weight_bytes=backend.weight_bytes,
        smallest_side=max(backend.working_grid((1, 1, 1))),
    )
    return replace(resolved, plan=plan)


def _write(
    result: Result,
    request: GenerateRequest,
    resolved: Resolved,
    package: ModelPackage,
    inputs: Inputs,
    notes: list[str],
    out: Path,
    on_event: OnEvent,
) -> dict[str, Any]:
    spec = package.spec
    inpainted = request.mode == "inpaint"
    again = inpainted and provenance.is_synthetic(inputs.image.metadata)
    inpainted_notice = provenance.NOTICE_INPAINTED_AGAIN if again else provenance.NOTICE_INPAINTED
    notice = inpainted_notice if inpainted else provenance.NOTICE
    kind = "PARTLY SYNTHETIC (inpainted)" if inpainted else "SYNTHETIC"
    record = {
        "format": provenance.FORMAT,
        "synthetic": True,
        "contains_real_patient_pixels": inpainted,
        "notice": notice,
        "software": provenance.software(),
        "case": inputs.case,
        "model": {
            "id": spec.id,
            "version": spec.version,
            "license": spec.license.spdx,
            "files": {f.path: f.sha256 for f in spec.files if f.role not in ("card", "figure")},
        },
        "inputs": inputs.checksums,
        "mapping": inputs.mapping.report.as_dict(),
        "given_classes": list(inputs.mapping.given),
        "settings": {
            "mode": request.mode,
            "sampler": resolved.sampler,
            "steps": resolved.steps,
            "seed": resolved.seed,
            "guidance": resolved.guidance,
        }
        | ({"inpaint_method": request.inpaint_method, "margin_mm": resolved.margin_mm} if inpainted else {})
        | ({"crop": True} if request.crop else {}),
        "plan": resolved.plan.to_json(),
        "notes": [*inputs.notes, *notes],
        "display": {"window": 1400, "level": -500} if spec.modality == "CT" else {},
    }
    volume = replace(
        result.volume,
        metadata={
            "description": f"{kind} {spec.id} {spec.version} seed {resolved.seed}, research only",
            "SynthDiffusion.Synthetic": "YES",
            "SynthDiffusion.Model": f"{spec.id} {spec.version}",
            "SynthDiffusion.Seed": str(resolved.seed),
            "SynthDiffusion.Notice": notice,
        },
    )
    paths = _paths(request, spec, inputs.case, resolved.seed, out)
    scene = paths.pop("scene", None)
    with files_together(paths) as staged:
        write_volume(volume, staged["volume"])
        if result.changed is not None:
            segment = Segment("synthetic region", 1, color=(0.2, 0.8, 0.9))
            layer = result.changed.astype(np.uint8)
            write_segmentation(Segmentation((layer,), volume.affine, (segment,)), staged["region"])
        record["output_sha256"] = provenance.sha256_of(staged["volume"])
        provenance.write_json(staged["provenance"], record)
        write_contact_sheet(
            staged["contact_sheet"],
            volume,
            result.class_map,
            spec.label_scheme,
            spec.target_class,
            before=inputs.image if inpainted else None,
            changed=result.changed,
            notice=f"{kind}. {notice}",
        )
    if scene is not None:
        on_event({"event": "progress", "stage": "scene", "step": 0, "total": 1})
        paths["scene"] = _write_scene(scene, record, paths, inputs, request)
    return {"seed": resolved.seed, **paths}


def _paths(request: GenerateRequest, spec: ModelSpec, case: str, seed: int, out: Path) -> dict[str, Path]:
    """The files of one sample, by what they hold."""
    stem = f"{case}_{spec.id}_seed{seed}" + ("_inpainted" if request.mode == "inpaint" else "")
    names = {"volume": f"{stem}.{request.format}", "provenance": f"{stem}.json", "contact_sheet": f"{stem}.png"}
    if request.mode == "inpaint":
        names["region"] = f"{stem}_region.seg.nrrd"
    if request.scene:
        names["scene"] = f"{stem}.mrb"
    return {what: out / name for what, name in names.items()}


def _check_names(request: GenerateRequest, resolved: Resolved, spec: ModelSpec, case: str, out: Path) -> None:
    """Refuses names that are taken by folders, before the work; files of these names are replaced."""
    for index in range(request.samples):
        paths = _paths(request, spec, case, resolved.seed + index, out)
        for path in paths.values():
            if path.is_dir():
                raise BadInput(f"'{path}' is to be written, but is a folder", "Remove it, or choose another --out.")
        for other in set(CHOICES["format"]) - {request.format}:
            volume = paths["volume"].with_name(paths["volume"].name.removesuffix(request.format) + other)
            if volume.exists():
                raise BadInput(
                    f"'{volume}' lies there, and the new volume's provenance would take the place of its own",
                    "Choose another --out, or remove it.",
                )


def _write_scene(
    target: Path, record: dict[str, Any], paths: dict[str, Path], inputs: Inputs, request: GenerateRequest
) -> Path:
    """The scene holds the synthetic volume, the segmentation, and when inpainting the real volume.

    The folder of the child process is kept when it fails, since its log is there; the images in it are not.
    """
    from SynthDiffusionLib.jobs.scene_export import write_scene

    job = Path(tempfile.mkdtemp(prefix="synthdiffusion-scene-"))
    write_segmentation(inputs.segmentation, job / "segmentation.seg.nrrd")
    role = "inpainted" if request.mode == "inpaint" else "synthetic"
    seed, model = record["settings"]["seed"], record["model"]["id"]
    volumes = [
        {
            "path": str(paths["volume"].resolve()),
            "name": f"{inputs.case} {role} ({model}, seed {seed})",
            "provenance": record,
            "role": role,
        }
    ]
    if inputs.image is not None:
        write_volume(replace(inputs.image, metadata={}), job / "real.nrrd")
        volumes.append({"path": str(job / "real.nrrd"), "name": f"{inputs.case} real", "role": "real"})
    drawing = {"path": str(job / "segmentation.seg.nrrd"), "name": inputs.case}
    scene = {"output": str(target.resolve()), "volumes": volumes, "segmentations": [drawing]}
    try:
        write_scene(job, scene)
    except RunFailed:
        for copy in job.glob("*.nrrd"):
            copy.unlink(missing_ok=True)
        raise
    except BaseException:
        shutil.rmtree(job, ignore_errors=True)
        raise
    shutil.rmtree(job, ignore_errors=True)
    return target
