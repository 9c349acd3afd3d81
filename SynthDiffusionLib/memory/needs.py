"""What the denoiser of a package needs, from its files alone: nothing here loads torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelPackage

SMALLEST_SIDE = 40  # smaller grids are padded to this, the smallest field that the training draws
BYTES_PER_VOXEL = 2000.0  # in fp32, where a package has not measured its own


@dataclass(frozen=True)
class Needs:
    """What a denoiser takes.

    Args:
        weight_bytes: of its weights in fp32.
        bytes_per_voxel: peak working memory in fp32 per voxel of its grid.
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


def needs_of(package: ModelPackage) -> Needs:
    """What the denoiser of a package needs.

    Raises:
        ModelError: its weights are missing.
    """
    from SynthDiffusionLib.models.package import tensor_shapes

    elements = sum(math.prod(shape) for shape in tensor_shapes(package.file("denoiser")).values())
    channels = package.spec.network.parameters.get("channels")
    divisor = 2 ** (len(channels) - 1) if channels else package.spec.grid.divisor  # each level halves the resolution
    measured = package.spec.performance.get("bytes_per_voxel_fp32", BYTES_PER_VOXEL)
    return Needs(4 * elements, float(measured), divisor)
