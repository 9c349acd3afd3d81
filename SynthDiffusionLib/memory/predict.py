"""What the stages of a volume take under every strategy, and which of them to take: traced peaks and an allowance.

Nothing here loads torch while the table of traced peaks (`memory.figures`) has what is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from SynthDiffusionLib.errors import TooLarge
from SynthDiffusionLib.memory.allowance import peak_with_allowance
from SynthDiffusionLib.memory.at_once import numbers, pieces_of
from SynthDiffusionLib.memory.devices import CONTEXT_BYTES, GIB, PROCESS_BYTES, PROCESS_BYTES_CUDA, Budget
from SynthDiffusionLib.memory.execution import (
    CHUNK,
    DEFAULT_EXECUTION,
    OFFLOAD,
    STREAM,
    STREAM_AGAIN,
    STREAM_HOST,
    TOGETHER,
    WHOLE,
    Execution,
)
from SynthDiffusionLib.memory.figures import LARGEST_CALL, Figures
from SynthDiffusionLib.memory.strategies import PRECISION, WORDS, Choice, Option, StageOptions, Step, choose
from SynthDiffusionLib.memory.working_grids import allowed_sizes, by, padded, size_problem

if TYPE_CHECKING:
    from SynthDiffusionLib.models.spec import ModelSpec

Shape = tuple[int, int, int]

# Of a drawing and its volume as NumPy arrays, for every voxel of the grid: a mask and its copies, the volume and what
# is made of it on its way to a file. On a CPU as measured (Testing/Benchmarks/process_memory.py), where the copies that
# the networks take are in the trace; beside a GPU they are in host memory too, which is reasoned.
MASK_BYTES, VOLUME_BYTES = {"cpu": 2, "cuda": 6}, {"cpu": 12, "cuda": 20}
FILES = "files"  # what is no stage of the networks: the inputs are read, the volume is put into its place and written


@dataclass(frozen=True)
class Request:
    """What is to be computed.

    Args:
        spec: of a package or a preset.
        device: "cpu", "cuda" or "cuda:N".
        precision: "fp32", "bf16" or "fp16".
        lower: what "fp32" may be lowered to, "bf16" or "fp16"; None: nothing.
        conditional: with a drawing.
        context_bytes: of the CUDA context, measured or assumed.
        asked: ways that were asked for, and settings.
        pinned: names of those stages that must be computed as `asked` says.
        held_bytes: of the inputs, in host memory all the while.
        files_bytes: beside these, while files are read and written; 0: no more than the stages take.
    """

    spec: ModelSpec
    device: str = "cuda"
    precision: str = "bf16"
    lower: str | None = None
    conditional: bool = True
    context_bytes: int = CONTEXT_BYTES
    asked: Execution = DEFAULT_EXECUTION
    pinned: tuple[str, ...] = ()
    held_bytes: int = 0
    files_bytes: int = 0


def plan_choice(
    request: Request,
    grid: Shape,
    limit: int | None,
    host_limit: int | None = None,
    figures: Figures | None = None,
    *,
    look_for_smaller: bool = True,
) -> Choice:
    """The strategy for a volume, and the largest size that fits where it does not.

    Args:
        request: what is to be computed.
        grid: (I, J, K) that the networks work on, padded.
        limit: bytes of the process on the device as its driver counts them; on a CPU, of the process. None: none.
        host_limit: bytes of the process in host memory beside a GPU; None: none.
        figures: where the peaks are from; the table and traces by default.
        look_for_smaller: the largest size that fits is looked for where this one does not.

    Raises:
        ImportError: a peak is not in the table, and torch is not installed.
        ModelError: a network cannot be built as described.
    """
    figures = figures or Figures(request.spec, request.device, request.conditional)
    choice = _choice(request, grid, limit, host_limit, figures)
    if choice.fits or not look_for_smaller:
        return choice

    sizes = [size for size in _sizes(request.spec, figures) if math.prod(size) < math.prod(grid)]
    return replace(choice, largest_size=_largest_of(sizes, request, limit, host_limit, figures))


def largest_fitting(request: Request, budget: Budget, figures: Figures) -> Shape | None:
    """The largest size that the model makes and that fits; None where none does.

    Args:
        request: what is to be computed.
        budget: of the device.
        figures: where the peaks are from.
    """
    return _largest_of(_sizes(request.spec, figures), request, budget.allowed, budget.host_bytes, figures)


def check_choice(choice: Choice, grid: Shape, budget: Budget, smallest: Shape) -> Choice:
    """The choice itself.

    Args:
        choice: of `plan_choice`.
        grid: that it is for.
        budget: of the device.
        smallest: grid that the model works on.

    Raises:
        TooLarge: it does not fit; the message says what is least needed, the hint which size would fit.
    """
    if choice.fits:
        return choice
    allowed, needed = budget.allowed, choice.least_limit
    desktop = f", and {at_least(budget.reserved)} are left to the desktop" if budget.reserved else ""
    what, mend = "memory", budget.mend
    if allowed is not None and needed <= allowed:  # then host memory is what is too little
        what, allowed, needed, desktop = "host memory", budget.host_bytes, choice.least_host, ""
        mend = "raise the limit of host memory" if budget.host_is_limit else "close other programs"
    largest = choice.largest_size
    raise TooLarge(
        f"A grid of {'x'.join(map(str, grid))} needs at least {at_least(needed)} of {what}, "
        f"but {_floor(allowed or 0)} GiB may be used{desktop}",
        f"The largest size that fits is {by(largest)} voxels: make the segmentation or region smaller, or {mend}."
        if largest
        else f"Not even the smallest grid, {by(smallest)} voxels, fits: {mend}.",
    )


def stage_options(request: Request, grid: Shape, figures: Figures) -> tuple[StageOptions, ...]:
    """Every way of computing every stage, in the order of retreat.

    Args:
        request: what is to be computed.
        grid: (I, J, K), padded.
        figures: where the peaks are from.
    """
    made = []
    for name in figures.stages:
        steps = _steps(request, grid, name, figures)
        made.append(StageOptions(name, _Options(request, grid, name, steps, figures), steps))
    if request.files_bytes:
        beside = request.held_bytes + request.files_bytes
        option = Option(WHOLE, PROCESS_BYTES + beside)
        if request.device != "cpu":
            option = Option(WHOLE, request.context_bytes, PROCESS_BYTES_CUDA + beside)
        made.append(StageOptions(FILES, (option,), (option.step,)))
    return tuple(made)


def _steps(request: Request, grid: Shape, stage: str, figures: Figures) -> tuple[Step, ...]:
    """The ways of a stage, each with fewer and fewer pieces at once where it has such."""
    made: list[Step] = []
    field = pieces_of(request.spec, stage)
    for way in ways_of(request, stage, figures):
        if field is None:
            made.append((way, None))
        elif field in request.pinned:
            made.append((way, (field, getattr(request.asked, field))))
        elif way in (WHOLE, OFFLOAD):
            made += [(way, (field, n)) for n in numbers(request.spec, stage, grid, request.device)]
        else:
            made.append((way, (field, 1)))
    return tuple(made)


def ways_of(request: Request, stage: str, figures: Figures) -> tuple[str, ...]:
    """The ways in which a backend computes a stage on a device, in the order of retreat.

    On a CPU all networks stay where they are, and slabs of single convolutions save nothing: measured, they take more.
    """
    if stage in request.pinned:
        return (request.asked.of(stage),)
    kinds = figures.kinds(stage)
    if request.device == "cpu":
        return (WHOLE, *(way for way in (STREAM, STREAM_AGAIN) if way in kinds))
    first = (OFFLOAD,) if one_stage_at_a_time(request.spec) else (WHOLE, OFFLOAD)
    return (*first, *(way for way in (STREAM, STREAM_AGAIN, STREAM_HOST, CHUNK) if way in kinds))


def one_stage_at_a_time(spec: ModelSpec) -> bool:
    """Whether a backend never has the networks of two stages on a GPU, as `backends.maisi` does."""
    return spec.backend == "maisi"


class _Options:
    """The options of a stage, each traced when it is asked for."""

    def __init__(self, request: Request, grid: Shape, stage: str, steps: Sequence[Step], figures: Figures) -> None:
        self._request, self._grid, self._stage, self._steps, self._figures = request, grid, stage, steps, figures

    def __iter__(self) -> Iterator[Option]:
        request, grid, on_cpu = self._request, self._grid, self._request.device == "cpu"
        arrays = _array_bytes(request.spec, grid, "cpu" if on_cpu else "cuda") + request.held_bytes
        for way, pieces in self._steps:
            kind = way if way in self._figures.kinds(self._stage) else OFFLOAD
            at_once = pieces[1] if pieces else None
            found = self._figures.figure(grid, self._stage, kind, request.precision, at_once)
            others = self._figures.other_weights(self._stage)
            live = found.device_bytes + (others if way == WHOLE or on_cpu else 0)
            if self._stage == "denoise" and request.asked.guidance == TOGETHER:  # two volumes at once
                live += found.device_bytes - (sum(self._figures.weights().values()) - others)
            device = peak_with_allowance(live, request.device)
            if on_cpu:
                yield Option(way, device + PROCESS_BYTES + arrays, pieces=pieces)
                continue
            host = PROCESS_BYTES_CUDA + arrays + found.host_bytes + sum(self._figures.weights().values())
            refused = "a convolution of 2^31 elements" if found.largest_call >= LARGEST_CALL else ""
            yield Option(way, device + request.context_bytes, host, refused, pieces)


def _choice(request: Request, grid: Shape, limit: int | None, host_limit: int | None, figures: Figures) -> Choice:
    exact = choose(stage_options(request, grid, figures), limit, request.precision, host_limit=host_limit)
    if exact.fits or request.precision != "fp32" or request.lower is None:
        return exact
    lower = replace(request, precision=request.lower)
    lossy = choose(stage_options(lower, grid, figures), limit, request.lower, host_limit=host_limit)
    if not lossy.fits:
        return exact if exact.least_limit <= lossy.least_limit else lossy
    reason = f"{PRECISION}: {WORDS[PRECISION]}, since in fp32 nothing fits: {'; '.join(exact.reasons)}"
    warning = f"Computed in {request.lower} in place of fp32 to fit into memory; that changes the image a little"
    return replace(lossy, strategy=PRECISION, reasons=(reason, *lossy.reasons), warnings=(warning,))


def _sizes(spec: ModelSpec, figures: Figures) -> list[Shape]:
    """Sizes that the model makes, the smallest first; of a preset those in the table, which need no tracing."""
    sizes = {size for size in allowed_sizes(spec) if not size_problem(spec, size)}
    if not spec.files:
        sizes = {size for size in figures.stored_sizes() if not size_problem(spec, size)} or sizes
    return sorted(sizes, key=lambda size: (math.prod(size), size))


def _largest_of(
    sizes: Sequence[Shape], request: Request, limit: int | None, host_limit: int | None, figures: Figures
) -> Shape | None:
    """The last of some sizes that fits, where all before it do: what a size takes grows with its voxels."""
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        if _choice(request, padded(request.spec, sizes[middle]), limit, host_limit, figures).fits:
            low = middle + 1
        else:
            high = middle
    return sizes[low - 1] if low else None


def _array_bytes(spec: ModelSpec, grid: Shape, device: str) -> int:
    """Of the drawing and the volume as NumPy arrays, in host memory."""
    masks = 8 if spec.backend == "maisi" else len(spec.label_scheme.condition_classes) + 1
    return (MASK_BYTES[device] * masks + VOLUME_BYTES[device]) * math.prod(grid)


def at_least(size: int) -> str:
    """ "1.23 GiB", rounded up: what is needed is never said to be less."""
    return f"{math.ceil(100 * size / GIB) / 100:.2f} GiB"


def _floor(size: int) -> str:
    return f"{math.floor(100 * size / GIB) / 100:.2f}"
