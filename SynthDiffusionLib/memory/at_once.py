"""How many slices or windows a stage computes at once. Nothing here loads torch.

They do not depend on each other: however many there are at once, the volumes agree within rounding. More at once keep a
GPU busy; a CPU is so already (Docs/performance.md), and takes no more than usual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from SynthDiffusionLib.memory.execution import DEFAULT_EXECUTION, SLICES, WINDOWS

if TYPE_CHECKING:
    from SynthDiffusionLib.models.spec import ModelSpec

Shape = tuple[int, int, int]

MOST = 32  # beyond that a GPU is not expected to gain (not measured)
_PIECES = {"slice_ldm": ("decode", SLICES), "med_lsdm": ("denoise", WINDOWS)}


def pieces_of(spec: ModelSpec, stage: str) -> str | None:
    """The field of `Execution` that says how many pieces of a stage are computed at once; None where it has none."""
    found = _PIECES.get(spec.backend)
    if found is None or found[0] != stage:
        return None
    if spec.backend == "med_lsdm" and (spec.windows is None or spec.windows.join != "steps"):
        return None
    return found[1]


def usual(field: str) -> int:
    """What `Execution` has where nobody says otherwise."""
    return getattr(DEFAULT_EXECUTION, field)


def numbers(spec: ModelSpec, stage: str, grid: Shape, device: str) -> tuple[int, ...]:
    """How many pieces may be computed at once: powers of two, the most first; () where the stage has no pieces.

    Args:
        spec: of a package or a preset.
        stage: of those in `memory.execution`.
        grid: (I, J, K), padded.
        device: "cpu", "cuda" or "cuda:N"; a CPU takes no more than usual.
    """
    field = pieces_of(spec, stage)
    if field is None:
        return ()
    most = 1
    while most < min(_count(spec, grid[2]), MOST):
        most *= 2
    if device == "cpu":
        most = min(most, usual(field))
    return tuple(2**n for n in reversed(range(most.bit_length())))


def _count(spec: ModelSpec, depth: int) -> int:
    """All pieces of a volume."""
    if spec.backend == "slice_ldm":
        return depth
    return 1 - (spec.windows.depth - depth) // spec.windows.stride  # the last one ends with the volume
