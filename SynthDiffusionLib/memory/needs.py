"""What the networks of a package need, from its files alone: nothing here loads torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage, ModelSpec

SMALLEST_SIDE = 40  # smaller grids are padded to this, the smallest field that the training draws
BYTES_PER_VOXEL = 2000.0  # in fp32, where a package has not measured its own
# What a latent model takes beside its networks' tensors, as seen with limb-tumour-ct on the CPU
# (Testing/Engine/test_jobs_memory.py): copies of the drawing's masks and of the volume for every voxel, and workspaces.
MASK_BYTES, VOLUME_BYTES, WORKSPACE_BYTES = 9, 40, 230 * 1024**2


@dataclass(frozen=True)
class Needs:
    """What a model's networks take.

    Args:
        weight_bytes: of their weights in fp32.
        bytes_per_voxel: peak working memory in fp32 per voxel of the grid.
        divisor: the sides of its grid are multiples of this, or of these.
        smallest_side: of its grid, one number or one for each axis.
    """

    weight_bytes: int
    bytes_per_voxel: float
    divisor: int | tuple[int, int, int]
    smallest_side: int | tuple[int, int, int] = SMALLEST_SIDE

    def working_grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The grid that the network works on for a condition of `shape`, padded."""
        return working_grid(shape, self.smallest_side, self.divisor)


def working_grid(
    shape: tuple[int, int, int], smallest_side: int | tuple[int, int, int], divisor: int | tuple[int, int, int]
) -> tuple[int, int, int]:
    """A shape padded to a smallest side, and to multiples of `divisor`, each one number or one for each axis."""
    smallest, divisors = ((n,) * 3 if isinstance(n, int) else n for n in (smallest_side, divisor))
    return tuple(-(-max(n, low) // d) * d for n, low, d in zip(shape, smallest, divisors))


def latent_divisor(spec: ModelSpec) -> tuple[int, int, int]:
    """What the sides of a latent model's grid are multiples of: the autoencoder's downsampling times what the U-Net
    halves its latents by, which for Med-LSDM is nothing along the third axis."""
    levels = len(spec.network.parameters.get("channels") or spec.network.parameters["num_channels"])
    halved = 2 ** (levels - 1)
    through_plane = 1 if spec.network.name == "FactorisedUNet" else halved
    return tuple(factor * n for factor, n in zip(spec.latent.factors, (halved, halved, through_plane)))


def smallest_sides(spec: ModelSpec) -> int | tuple[int, int, int]:
    """What the sides of a latent model's grid are at least: its smallest size, and one window along the third axis.

    MedLoRD and MAISI shrink all axes alike, and have one number.
    """
    if spec.backend in ("medlord", "maisi"):
        return max(spec.grid.min_size)
    depth = spec.windows.depth if spec.windows else 1
    return (*spec.grid.min_size[:2], max(depth, spec.grid.min_size[2]))


def _latent_bytes_per_voxel(spec: ModelSpec) -> float:
    """Of the stage that takes most, from the table of simulated tensors: what certainly does not fit is refused, and
    the device takes more than these tensors (`table.MARGIN`)."""
    from SynthDiffusionLib.memory.table import stages

    # The table is nearly linear in the voxels, but for windows: a volume of one takes as much of the denoiser as a
    # deeper one.
    largest = [spec.grid.max_size]
    if spec.windows is not None:
        largest.append((*spec.grid.max_size[:2], min(spec.windows.depth, spec.grid.max_size[2])))
    grids = [working_grid(size, 1, latent_divisor(spec)) for size in largest]
    most = max(
        stage.working_bytes / math.prod(grid) for grid in grids for stage in stages(spec, grid, "fp32", margin=1.0)
    )
    classes = len(spec.label_scheme.condition_classes)
    masks = {"medlord": classes, "med_lsdm": classes + 1, "slice_ldm": 1}.get(spec.backend, 8)
    return most + MASK_BYTES * masks + VOLUME_BYTES


def needs_of(package: ModelPackage) -> Needs:
    """What the networks of a package need; its segmenter is small, and runs on the CPU.

    Raises:
        ModelError: its weights are missing.
    """
    from SynthDiffusionLib.models.package import tensor_shapes

    spec = package.spec
    roles = [role for role in ("denoiser", "autoencoder", "controlnet", "refiner") if package.has(role)] or ["denoiser"]
    elements = sum(math.prod(shape) for role in roles for shape in tensor_shapes(package.file(role)).values())
    measured = spec.performance.get("bytes_per_voxel_fp32")
    if spec.latent is not None:
        per_voxel = _latent_bytes_per_voxel(spec) if measured is None else measured
        weights = 4 * elements + WORKSPACE_BYTES
        return Needs(weights, float(per_voxel), latent_divisor(spec), smallest_sides(spec))
    measured = BYTES_PER_VOXEL if measured is None else measured
    channels = spec.network.parameters.get("channels")
    divisor = 2 ** (len(channels) - 1) if channels else spec.grid.divisor  # each level halves the resolution
    return Needs(4 * elements, float(measured), divisor)
