"""Device, precision, memory and way of computing of a job, resolved once and recorded with the result."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import BadInput, OutOfMemory, TooLarge
from SynthDiffusionLib.memory.at_once import pieces_of
from SynthDiffusionLib.memory.devices import Budget, budget_for, choose_device, choose_precision
from SynthDiffusionLib.memory.execution import DEFAULT_EXECUTION, SLICES, STAGES, WHOLE, WINDOWS, Execution
from SynthDiffusionLib.memory.figures import USED, Figures
from SynthDiffusionLib.memory.predict import Request, check_choice, plan_choice
from SynthDiffusionLib.memory.strategies import Step, stepped
from SynthDiffusionLib.memory.working_grids import padded

if TYPE_CHECKING:
    from SynthDiffusionLib.memory.strategies import Choice
    from SynthDiffusionLib.models.spec import ModelSpec

Shape = tuple[int, int, int]


def _nothing_told(stage: str, plan: Plan) -> None:
    """The default: nobody listens."""


@dataclass(frozen=True)
class Plan:
    """How a job is computed; part of the provenance, so that a re-run can pin it.

    Args:
        device: "cpu" or "cuda:N".
        precision: "fp32", "bf16" or "fp16" (the last two by autocast, weights in fp32).
        strategy: the last resort among the ways of `execution`, or "precision"; "whole": everything is computed at
            once.
        limit_bytes: memory that must not be passed; None on the CPU unless the user set one.
        predicted_bytes: predicted peak of the process: of its resident memory on a CPU, on a GPU as the driver counts
            it.
        threads: CPU threads that torch uses.
        grid: (I, J, K) that the networks work on.
        execution: how each stage is computed.
        predicted_host_bytes: predicted peak of resident memory beside a GPU; 0 on a CPU.
        stage_bytes: predicted peak of every stage, as `predicted_bytes`.
        fallbacks: of each stage, the exact ways that are left if the device runs out of memory in spite of this plan,
            each with the number of pieces at once where it has such.
        reasons: why the stages are not computed at once.
        warnings: what changes the image.
        tell: is called with a stage and the new plan when the device has run out of memory in it.
    """

    device: str
    precision: str
    strategy: str
    limit_bytes: int | None
    predicted_bytes: int
    threads: int
    grid: Shape
    execution: Execution = DEFAULT_EXECUTION
    predicted_host_bytes: int = 0
    stage_bytes: tuple[tuple[str, int], ...] = ()
    fallbacks: tuple[tuple[str, tuple[Step, ...]], ...] = ()
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    tell: Callable[[str, Plan], None] = field(default=_nothing_told, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        content = asdict(replace(self, tell=_nothing_told)) | {
            "execution": self.execution.to_json(),
            "stage_bytes": dict(self.stage_bytes),
        }
        return {name: value for name, value in content.items() if name not in ("fallbacks", "warnings", "tell")}

    def after_running_out(self, stage: str) -> Plan | None:
        """The plan with a stage computed in the next exact way; None where none is left.

        Args:
            stage: in which the device ran out of memory.
        """
        left = dict(self.fallbacks).get(stage, ())
        if not left:
            return None
        way = left[0][0]
        of_way = [step for step in left if step[0] == way]  # it is tried once: with as few pieces at once as can be
        execution = stepped(self.execution, stage, of_way[-1])
        rest = left[len(of_way) :]
        fallbacks = tuple((name, rest if name == stage else steps) for name, steps in self.fallbacks)
        return replace(self, execution=execution, strategy=execution.summary, fallbacks=fallbacks)


def parse_bytes(text: str) -> int:
    """ "24GiB", "8 GB", "512MiB" or a plain number of bytes.

    Raises:
        BadInput: not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?i?B?)\s*", text, re.IGNORECASE)
    units = {"": 1, "b": 1}
    for power, letter in enumerate("kmgt", start=1):
        units |= {letter: 1024**power, f"{letter}ib": 1024**power, f"{letter}b": 1000**power, f"{letter}i": 1024**power}
    if not match or match.group(2).lower() not in units:
        raise BadInput(f"'{text}' is not a size of memory", "Write it like 24GiB or 8000MB.")
    if not match.group(2) and float(match.group(1)) < 1024:
        raise BadInput(
            f"A size of memory of {text.strip()} bytes is too little",
            f"Give a unit, such as {text.strip()}GiB or 24GiB.",
        )
    size = float(match.group(1)) * units[match.group(2).lower()]
    if not 1 <= size < 2**63:
        raise BadInput(f"'{text}' is no possible size of memory", "Write it like 24GiB or 8000MB.")
    return int(size)


def resolve_device(name: str) -> str:
    """ "auto" to the device that is there; anything else is checked.

    Raises:
        BadInput: an unknown or absent device; Apple's mps, which has not been tested.
    """
    import torch

    return choose_device(name, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def resolve_precision(name: str, device: str) -> str:
    """ "auto" is bf16 where the device computes with it (on a GPU without it fp16, on a CPU without it fp32); on such a
    GPU fp16 also takes the place of bf16 where that was asked for.

    On a CPU with the instructions for bf16 it takes less than half the time of fp32; without them, more.

    Raises:
        BadInput: fp16 on the CPU.
    """
    return choose_precision(name, device, _best_precision(device))


def resolve_plan(
    spec: ModelSpec,
    grid: Shape,
    *,
    device: str,
    precision: str,
    vram_limit: int | None,
    conditional: bool = True,
    strategies: Mapping[str, str | bool] | None = None,
    held_bytes: int = 0,
    files_bytes: int = 0,
) -> Plan:
    """Settles where and how a grid is computed: by the fastest exact way within the limit.

    On a GPU this begins PyTorch's context, measures it, and caps PyTorch's allocator at what is left of the limit.

    Args:
        spec: of the package.
        grid: (I, J, K) that the networks work on, padded.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "fp32", "bf16" or "fp16"; bf16 becomes fp16 on a GPU that does not compute in it.
        vram_limit: bytes of the whole process on the device; None: 24 GiB on a GPU, what is free on a CPU.
        conditional: with a drawing.
        strategies: ways that are asked for by stage, and settings, as `Execution.from_json` takes them; what is not
            named is chosen.
        held_bytes, files_bytes: as of `predict.Request`.

    Raises:
        BadInput: see `resolve_device` and `resolve_precision`.
        TooLarge: nothing fits; the message names what is least needed, the hint the largest size that fits.
    """
    import psutil
    import torch

    device = resolve_device(device)
    resolved = resolve_precision(precision, device)
    host = psutil.virtual_memory().available
    if device == "cpu":
        budget = budget_for(device, vram_limit, host)
    else:
        from SynthDiffusionLib.memory.gpu import measured_budget

        budget = measured_budget(device, vram_limit, host)
    lower = lowest_precision(device, _best_precision(device))
    plan = planned(spec, grid, budget, resolved, lower, conditional, strategies, held_bytes, files_bytes)
    if budget.allocator_cap is not None:
        from SynthDiffusionLib.memory.gpu import cap_allocator

        cap_allocator(device, budget.allocator_cap)
    return replace(plan, threads=torch.get_num_threads())


def planned(
    spec: ModelSpec,
    grid: Shape,
    budget: Budget,
    precision: str,
    lower: str | None,
    conditional: bool = True,
    strategies: Mapping[str, str | bool] | None = None,
    held_bytes: int = 0,
    files_bytes: int = 0,
) -> Plan:
    """What `resolve_plan` gives, where all that is known of the device is given; the preflight of a job has this alone.

    Args:
        spec: of the package.
        grid: (I, J, K), padded.
        budget: of the device.
        precision: "fp32", "bf16" or "fp16".
        lower: what fp32 may be lowered to where nothing fits in it; None: nothing.
        conditional: with a drawing.
        strategies: as of `resolve_plan`.
        held_bytes, files_bytes: as of `predict.Request`.

    Returns:
        the plan, with 0 threads.

    Raises:
        TooLarge: as `resolve_plan`.
    """
    asked = Execution.from_json(strategies)
    _check_asked(spec, tuple(strategies or ()), conditional)
    request = Request(
        spec,
        budget.device,
        precision,
        lower,
        conditional,
        budget.context_bytes,
        asked,
        tuple(strategies or ()),
        held_bytes,
        files_bytes,
    )
    choice = plan_choice(request, padded(spec, grid), budget.allowed, budget.host_bytes)
    return _plan_of(check_choice(choice, grid, budget, padded(spec, (1, 1, 1))), budget, grid, asked)


def lowest_precision(device: str, best: str) -> str:
    """What fp32 may be lowered to: on a CPU bf16, which any computes in.

    Args:
        device: "cpu" or "cuda:N".
        best: what "auto" stands for there.
    """
    return "bf16" if device == "cpu" or best == "bf16" else "fp16"


def plan_notes(plan: Plan) -> list[str]:
    """Sentences for people on a plan that does not compute everything at once: what changes the image, and why."""
    notes = list(plan.warnings)
    if plan.strategy != WHOLE and plan.reasons:
        notes.append(f"Computed in a way that takes less memory: {'; '.join(plan.reasons)}")
    return notes


def told_largest(error: OutOfMemory, spec: ModelSpec, plan: Plan, conditional: bool) -> OutOfMemory:
    """The error of a run that ran out of memory, with the largest size that fits what is free now.

    Args:
        error: as it was raised.
        spec: of the package.
        plan: of the run.
        conditional: with a drawing.
    """
    if plan.device == "cpu":
        return error
    import psutil

    from SynthDiffusionLib.memory.gpu import measured_budget, release

    release()
    budget = measured_budget(plan.device, plan.limit_bytes, psutil.virtual_memory().available)
    try:
        planned(spec, plan.grid, budget, plan.precision, None, conditional)
    except TooLarge as now:
        return OutOfMemory(f"{error.message}: other programs have taken of its memory. {now.message}", now.hint)
    return error


def _check_asked(spec: ModelSpec, names: tuple[str, ...], conditional: bool) -> None:
    """Refuses ways of stages, and numbers of pieces, that the model does not have.

    Raises:
        BadInput: names the first, and the stages that there are.
    """
    stages = Figures(spec, "cpu", conditional).stages
    pieces = {pieces_of(spec, stage) for stage in stages}
    for name in names:
        if (name in STAGES and name not in stages) or (name in (SLICES, WINDOWS) and name not in pieces):
            what = f"no stage '{name}'" if name in STAGES else f"no {name}"
            if name == "condition" and name in USED[spec.backend]:
                what += " without a drawing"
            raise BadInput(f"'{spec.id}' has {what}", f"Its stages are: {', '.join(stages)}.")


def _plan_of(choice: Choice, budget: Budget, grid: Shape, asked: Execution) -> Plan:
    limit = budget.limit_bytes
    if budget.on_gpu and budget.allowed is not None:
        limit = min(limit, budget.allowed) if limit is not None else budget.allowed
    return Plan(
        budget.device,
        choice.precision,
        choice.strategy,
        limit,
        choice.peak_bytes,
        0,
        grid,
        choice.execution(asked),
        choice.host_bytes,
        tuple((name, option.device_bytes) for name, option in choice.stages.items()),
        tuple((name, steps[1:]) for name, steps in choice.steps.items()),
        choice.reasons,
        choice.warnings,
    )


def _best_precision(device: str) -> str:
    """What "auto" stands for on a device."""
    if device == "cpu":
        return "bf16" if _cpu_computes_bf16() else "fp32"
    return "bf16" if _gpu_computes_bf16(device) else "fp16"


def _gpu_computes_bf16(device: str) -> bool:
    """Whether a GPU computes in bf16; one that only emulates it, several times slower, does not."""
    import torch

    with torch.cuda.device(device):  # PyTorch asks the current one
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_computes_bf16() -> bool:
    """Whether the CPU has instructions for bf16; an older torch cannot say."""
    import torch

    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
