"""What making one volume of a size is predicted to take: a look-up before a run, with or without weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.memory.fit import DEFAULT_LIMIT, GIB, LOWER_PRECISION, PROCESS_BYTES
from SynthDiffusionLib.memory.needs import BYTES_PER_VOXEL, Needs, latent_divisor, smallest_sides, working_grid
from SynthDiffusionLib.memory.table import (
    ASSUMED,
    MEASURED,
    Shape,
    Stage,
    allowed_sizes,
    one_stage_at_a_time,
    reported_decodes,
    size_problem,
    stages,
)

if TYPE_CHECKING:
    from SynthDiffusionLib.models.spec import ModelSpec

WHOLE = "whole: the volume at once, all networks on the device"
STAGED = "stages one after the other: only the networks of one stage on the device at a time"
TOO_LARGE = "none: it does not fit"


@dataclass(frozen=True)
class Outlook:
    """A prediction.

    Args:
        size: (I, J, K) that was asked for.
        grid: that the networks work on, padded.
        latent: channels and sides of what the diffusion works on; None in voxel space.
        stages: in the order of computing.
        limit_bytes: that must not be passed; None: nothing is known of the device.
        strategy: how it fits.
        largest: the largest size that fits, of those that the model makes; None where none does.
        notes: sentences for people.
    """

    size: Shape
    grid: Shape
    latent: tuple[int, int, int, int] | None
    stages: tuple[Stage, ...]
    limit_bytes: int | None
    strategy: str
    largest: Shape | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def fits(self) -> bool:
        return self.strategy != TOO_LARGE


def look_ahead(
    spec: ModelSpec,
    size: Shape,
    *,
    parameters: Mapping[str, int],
    device: str = "cuda",
    precision: str = "bf16",
    limit_bytes: int | None = DEFAULT_LIMIT,
    conditional: bool = True,
    needs: Needs | None = None,
) -> Outlook:
    """Predicts what a volume takes.

    Args:
        spec: a package's or a preset's.
        size: (I, J, K) of the volume.
        parameters: trainable numbers by role.
        device: "cpu" or "cuda".
        precision: "fp32", "bf16" or "fp16".
        limit_bytes: that must not be passed.
        conditional: with a drawing.
        needs: of a package in voxel space; what its design suggests when None.

    Raises:
        BadInput: the model does not make volumes of this size.
    """
    if problem := size_problem(spec, size):
        raise BadInput(f"'{spec.id}' does not make {_by(size)} voxels: {problem}", "Give one of those as --size.")

    def predict(of: Shape) -> tuple[Shape, tuple[Stage, ...]]:
        grid = padded(spec, of, needs)
        if spec.latent is None:
            found = (_voxel_stage(spec, grid, precision, device, parameters, needs),)
        else:
            found = stages(
                spec,
                grid,
                precision,
                device=device,
                conditional=conditional,
                parameters=parameters,
            )
        return grid, found

    def fits(found: tuple[Stage, ...]) -> bool:
        return limit_bytes is None or max(stage.peak_bytes for stage in found) <= limit_bytes

    grid, found = predict(size)
    fitting = [other for other in allowed_sizes(spec) if not size_problem(spec, other) and fits(predict(other)[1])]
    latent = spec.latent and spec.latent.shape(grid)
    return Outlook(
        size=size,
        grid=grid,
        latent=latent,
        stages=found,
        limit_bytes=limit_bytes,
        strategy=TOO_LARGE if not fits(found) else STAGED if one_stage_at_a_time(spec, device) else WHOLE,
        largest=max(fitting, key=lambda s: s[0] * s[1] * s[2], default=None),
        notes=tuple(_notes(spec, grid)),
    )


def padded(spec: ModelSpec, size: Shape, needs: Needs | None = None) -> Shape:
    """The grid that the networks of a model work on for a volume of a size."""
    if needs is not None:
        return needs.working_grid(size)
    if spec.latent is not None:
        smallest = 1 if spec.backend == "maisi" else smallest_sides(spec)
        return working_grid(size, smallest, latent_divisor(spec))
    return Needs(0, 0.0, spec.grid.divisor).working_grid(size)


def _voxel_stage(
    spec: ModelSpec, grid: Shape, precision: str, device: str, parameters: Mapping[str, int], needs: Needs | None
) -> Stage:
    """The one stage of a model in voxel space, by the arithmetic of `memory.fit`."""
    if needs is None:
        needs = Needs(4 * parameters.get("denoiser", 0), BYTES_PER_VOXEL, spec.grid.divisor)
    per_voxel = needs.bytes_per_voxel * (1.0 if precision == "fp32" else LOWER_PRECISION)
    fixed = needs.weight_bytes + (PROCESS_BYTES if device == "cpu" else 0)
    source = MEASURED if "bytes_per_voxel_fp32" in spec.performance else ASSUMED
    return Stage("denoise", int(per_voxel * grid[0] * grid[1] * grid[2]), needs.weight_bytes, fixed, source)


def _notes(spec: ModelSpec, grid: Shape) -> Iterator[str]:
    tiled = [row for row in reported_decodes(spec, grid) if row[1] is not None]
    if tiled:
        peak, tile, tiles = min(tiled)
        yield (
            f"NVIDIA's own program decodes this size in {tiles} overlapping tiles of {_by(tile)} voxels of the latent, "
            f"with a peak of {peak / GIB:.1f} GiB; SynthDiffusion decodes whole, without seams."
        )


def _by(values: Shape) -> str:
    return " x ".join(map(str, values))
