"""The grids that the networks of a model work on, and the sizes that it makes. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from SynthDiffusionLib.models.spec import ModelSpec

Shape = tuple[int, int, int]

SMALLEST_SIDE = 40  # in voxel space, smaller grids are padded to this, the smallest field that the training draws


def working_grid(shape: Shape, smallest_side: int | Shape, divisor: int | Shape) -> Shape:
    """A shape padded to a smallest side, and to multiples of `divisor`, each one number or one for each axis."""
    smallest, divisors = ((n,) * 3 if isinstance(n, int) else n for n in (smallest_side, divisor))
    return tuple(-(-max(n, low) // d) * d for n, low, d in zip(shape, smallest, divisors))


def padded(spec: ModelSpec, size: Shape) -> Shape:
    """The grid that the networks of a model work on for a volume of a size, as its backend pads it.

    Args:
        spec: of a package or a preset.
        size: (I, J, K).
    """
    if spec.latent is not None:
        return working_grid(size, smallest_sides(spec), latent_divisor(spec))
    channels = spec.network.parameters.get("channels")
    # Each level halves the resolution.
    return working_grid(size, SMALLEST_SIDE, 2 ** (len(channels) - 1) if channels else spec.grid.divisor)


def latent_divisor(spec: ModelSpec) -> Shape:
    """What the sides of a latent model's grid are multiples of: the autoencoder's downsampling times what the U-Net
    halves its latents by, which for Med-LSDM is nothing along the third axis."""
    levels = len(spec.network.parameters.get("channels") or spec.network.parameters["num_channels"])
    halved = 2 ** (levels - 1)
    through_plane = 1 if spec.network.name == "FactorisedUNet" else halved
    return tuple(factor * n for factor, n in zip(spec.latent.factors, (halved, halved, through_plane)))


def smallest_sides(spec: ModelSpec) -> int | Shape:
    """What the sides of a latent model's grid are at least: its smallest size, and one window along the third axis.

    MedLoRD and MAISI shrink all axes alike, and have one number.
    """
    if spec.backend in ("medlord", "maisi"):
        return max(spec.grid.min_size)
    depth = spec.windows.depth if spec.windows else 1
    return (*spec.grid.min_size[:2], max(depth, spec.grid.min_size[2]))


def allowed_sizes(spec: ModelSpec) -> Iterator[Shape]:
    """Sizes to try for the largest that fits: all that the model's rules have, or its largest, shrunk step by step."""
    rules, largest = spec.grid.rules, spec.grid.max_size
    if rules and "sizes" in rules:
        yield from (tuple(size) for size in rules["sizes"])
        return
    if rules and "in_plane" in rules:
        yield from ((n, n, k) for n in rules["in_plane"] for k in rules["through_plane"])
        return
    step = spec.grid.divisor
    if spec.backend in ("med_lsdm", "slice_ldm"):  # the third axis need not be a multiple, and may have one size only
        for n in range(max(step, spec.grid.min_size[0]), largest[0] + 1, step):
            shrunk = (max(low, int(m * n / largest[0]) // step * step) for low, m in zip(spec.grid.min_size, largest))
            yield tuple(min(m, side) for m, side in zip(largest, shrunk))
        return
    for n in range(step, largest[0] + 1, step):
        yield tuple(max(step, int(m * n / largest[0]) // step * step) for m in largest)


def size_problem(spec: ModelSpec, size: Shape) -> str | None:
    """Why a model does not make volumes of a size, with the sizes that it makes, or None."""
    rules, largest = spec.grid.rules, spec.grid.max_size
    if any(n > m for n, m in zip(size, largest)):
        return f"at most {by(largest)} voxels are possible"
    if rules and size not in set(allowed_sizes(spec)):
        if "sizes" in rules:
            return "it makes " + ", ".join(map(by, rules["sizes"]))
        planes, depths = (" or ".join(map(str, rules[key])) for key in ("in_plane", "through_plane"))
        return f"the first two sides must be equal, {planes}, and the third {depths}"
    return None


def by(values: Shape) -> str:
    """ "512 x 512 x 256" """
    return " x ".join(map(str, values))
