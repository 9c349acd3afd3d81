"""From a request to an input that is ready for sampling: what a run and its preflight do alike, without torch."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

from SynthDiffusionLib.backends.controls import Controls
from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.jobs.events import OnEvent, ignore
from SynthDiffusionLib.jobs.inputs import Inputs, read_inputs
from SynthDiffusionLib.jobs.outputs import check_names, output_paths
from SynthDiffusionLib.jobs.request import GenerateRequest, check_choice
from SynthDiffusionLib.jobs.synthesis import (
    Prepared,
    Resolved,
    prepare_inpaint,
    prepare_joint,
    prepare_unconditional,
    prepare_whole,
)
from SynthDiffusionLib.models.spec import ModelSpec

PREPARE = {"whole": prepare_whole, "inpaint": prepare_inpaint, "unconditional": prepare_unconditional}


def resolve_settings(request: GenerateRequest, spec: ModelSpec) -> Resolved:
    """Defaults of the model where the request says nothing, and a check against what the model can do.

    Raises:
        BadInput: an unknown sampler, or more steps than the model has.
        ModelError: a mode or a sampler that the model does not bear.
        MissingExtra: a scene is wanted, and what writes it is not installed.
    """
    if request.mode not in spec.modes:
        hint = f"It can do: {', '.join(spec.modes)}."
        if spec.modes == ("joint",):
            hint = "It makes the drawing itself: leave the segmentation out and give --mode joint."
        raise ModelError(f"The model '{spec.id}' has no mode '{request.mode}'", hint)
    sampler = spec.sampling.default_sampler if request.sampler is None else request.sampler
    from SynthDiffusionLib.sampling.samplers import check_sampler

    check_sampler(sampler, spec.diffusion.beta_schedule)
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
    if guidance != 1.0 and not spec.controls.guidance:
        raise BadInput(
            f"The model '{spec.id}' was trained with its condition only, so guidance has nothing to lead it away from",
            "Leave --guidance out, or give it 1.",
        )
    if guidance != 1.0 and request.mode == "unconditional" and not spec.controls.modalities:
        raise BadInput("Guidance leads towards a drawing, and there is none", "Leave --guidance out.")
    if request.scene:
        from SynthDiffusionLib.jobs.scene_export import require_scene_writer

        require_scene_writer()
    replacement = request.inpaint_method == "replacement"
    return Resolved(sampler, steps, seed, guidance, margin, replacement, None, _controls(request, spec))


def _controls(request: GenerateRequest, spec: ModelSpec) -> Controls:
    """What is set beside the drawing, if the model takes it.

    Raises:
        BadInput: it takes no such setting, or not this value.
    """
    takes = spec.controls
    if request.condition_scale is not None and not takes.condition_scale:
        raise BadInput(f"The model '{spec.id}' takes no --condition-scale", "Leave it out; --guidance may do.")
    if request.region is not None:
        if not takes.regions:
            raise BadInput(f"The model '{spec.id}' takes no --region", "Leave it out.")
        for name in request.region:
            check_choice(name, takes.regions, "region")
        if takes.regions.index(request.region[0]) > takes.regions.index(request.region[1]):
            raise BadInput(
                f"The region at the top ({request.region[0]}) lies below that at the bottom ({request.region[1]})",
                f"From the top they are: {', '.join(takes.regions)}.",
            )
    if request.modality is not None:
        if not takes.modalities:
            raise BadInput(f"The model '{spec.id}' takes no --modality", "Leave it out.")
        check_choice(request.modality, tuple(takes.modalities), "modality")
    scale = 1.0 if request.condition_scale is None else request.condition_scale
    modality = request.modality or next(iter(takes.modalities), None)
    return Controls(scale, request.region, modality)


def prepare(
    request: GenerateRequest, spec: ModelSpec, resolved: Resolved, out: Path, on_event: OnEvent = ignore
) -> tuple[Inputs, Prepared]:
    """Reads and checks what a request names, and brings it to the model's grid.

    Args:
        resolved: see `resolve_settings`.
        out: folder of the outputs, whose names are looked at.
        on_event: gets a warning for each note, as soon as it is known.

    Returns:
        the inputs and what is sampled from; their notes are those of the run.

    Raises:
        BadInput: the input cannot be used, or a name of an output is taken.
    """
    inputs = read_inputs(request, spec)
    mapped = inputs.mapping.report.lines()
    for note in inputs.notes:
        # Who shows the mapping in another way, as Slicer's panel does, need not say these again.
        topic = {"topic": "mapping"} if note in mapped else {}
        on_event({"event": "warning", "message": note, **topic})
    for index in range(request.samples):
        check_names(sample_paths(request, spec, resolved, inputs.case, out, index), request.format)
    if request.mode == "joint":
        prepared = prepare_joint(request, spec, resolved.seed)
    else:
        prepared = PREPARE[request.mode](request, spec, inputs)
    prepared = replace(
        prepared,
        notes=[
            *prepared.notes,
            *_region_notes(request, spec, prepared),
            *_window_notes(spec, prepared),
            *_sampler_notes(resolved),
        ],
    )
    for note in prepared.notes:
        on_event({"event": "warning", "message": note})
    return inputs, prepared


def sample_paths(
    request: GenerateRequest, spec: ModelSpec, resolved: Resolved, case: str, out: Path, index: int
) -> dict[str, Path]:
    """The files of sample number `index`, from 0; see `output_paths`."""
    return output_paths(
        out,
        case,
        spec.id,
        resolved.seed + index,
        inpainted=request.mode == "inpaint",
        volume_format=request.format,
        scene=request.scene,
        segmentation=request.mode == "joint",
    )


def network_evaluations(request: GenerateRequest, resolved: Resolved, prepared: Prepared) -> int:
    """Evaluations of the network over all samples; guidance takes two a step."""
    return prepared.evaluations * resolved.steps * request.samples * (1 if resolved.guidance == 1.0 else 2)


def _region_notes(request: GenerateRequest, spec: ModelSpec, prepared: Prepared) -> list[str]:
    """Which body regions the model is told, for one that is told any; the backend chooses by the same function."""
    if not spec.controls.regions:
        return []
    from SynthDiffusionLib.labels.class_maps import values_of
    from SynthDiffusionLib.labels.regions import choose_regions

    return [choose_regions(values_of(prepared.condition.class_map), request.region)[1]]


def _window_notes(spec: ModelSpec, prepared: Prepared) -> list[str]:
    """That a volume is shallower than the windows that a model was trained on; the backend pads it."""
    depth = prepared.grid[2]
    if spec.windows is None or depth >= spec.windows.depth:
        return []
    return [
        f"The model works on {spec.windows.depth} slices or more, and here are {depth}: the last one is repeated up to "
        "that, and the result is cut back"
    ]


def _sampler_notes(resolved: Resolved) -> list[str]:
    from SynthDiffusionLib.sampling.samplers import LEAST_STEPS

    least = LEAST_STEPS.get(resolved.sampler, 1)
    if resolved.steps >= least:
        return []
    return [
        f"In {resolved.steps} steps '{resolved.sampler}' makes volumes that are too smooth and too much alike; "
        f"give it {least} steps or more, or choose dpmpp-2m"
    ]
