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
        divisor: every side of its grid is a multiple of this.
        smallest_side: of its grid.
    """

    weight_bytes: int
    bytes_per_voxel: float
    divisor: int
    smallest_side: int = SMALLEST_SIDE

    def working_grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The grid that the network works on for a condition of `shape`, padded."""
        return working_grid(shape, self.smallest_side, self.divisor)


def working_grid(shape: tuple[int, int, int], smallest_side: int, divisor: int) -> tuple[int, int, int]:
    """A shape padded to a smallest side, and to multiples of `divisor`."""
    return tuple(-(-max(n, smallest_side) // divisor) * divisor for n in shape)


def latent_divisor(spec: ModelSpec) -> int:
    """What every side of a latent model's grid is a multiple of: the autoencoder's downsampling times what the U-Net
    halves its latents by."""
    levels = len(spec.network.parameters.get("channels") or spec.network.parameters["num_channels"])
    return spec.latent.downsampling * 2 ** (levels - 1)


def _latent_bytes_per_voxel(spec: ModelSpec) -> float:
    """Of the stage that takes most, from the table of simulated tensors: what certainly does not fit is refused, and
    the device takes more than these tensors (`table.MARGIN`)."""
    from SynthDiffusionLib.memory.table import stages

    grid = working_grid(spec.grid.max_size, 1, latent_divisor(spec))  # the table is nearly linear in the voxels
    most = max(stage.working_bytes for stage in stages(spec, grid, "fp32", margin=1.0))
    masks = len(spec.label_scheme.condition_classes) if spec.backend == "medlord" else 8
    return most / math.prod(grid) + MASK_BYTES * masks + VOLUME_BYTES


def needs_of(package: ModelPackage) -> Needs:
    """What the networks of a package need; its segmenter is small, and runs on the CPU.

    Raises:
        ModelError: its weights are missing.
    """
    from SynthDiffusionLib.models.package import tensor_shapes

    spec = package.spec
    roles = [role for role in ("denoiser", "autoencoder", "controlnet") if package.has(role)] or ["denoiser"]
    elements = sum(math.prod(shape) for role in roles for shape in tensor_shapes(package.file(role)).values())
    measured = spec.performance.get("bytes_per_voxel_fp32")
    if spec.latent is not None:
        per_voxel = _latent_bytes_per_voxel(spec) if measured is None else measured
        weights = 4 * elements + WORKSPACE_BYTES
        return Needs(weights, float(per_voxel), latent_divisor(spec), max(spec.grid.min_size))
    measured = BYTES_PER_VOXEL if measured is None else measured
    channels = spec.network.parameters.get("channels")
    divisor = 2 ** (len(channels) - 1) if channels else spec.grid.divisor  # each level halves the resolution
    return Needs(4 * elements, float(measured), divisor)
