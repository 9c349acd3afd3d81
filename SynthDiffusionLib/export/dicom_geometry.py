"""Where the slices of a DICOM series lie: PS3.3 C.7.6.2 (Image Plane).

A slice is shown as it is stored, so that axes are permuted and flipped (nothing is interpolated) until rows and columns
run as radiologists are used to: to the patient's left and back, or left and down, or back and down. The slice axis of
the volume stays the slice axis, and slices ascend along the normal, the cross product of row and column direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes import Segmentation, Volume, axis_codes, reorient, reorient_segmentation, spacing_of
from SynthDiffusionLib.volumes.grid import LPS_TO_RAS, shear_mm

_SHOWN = {"S": "LPS", "I": "LPS", "R": "PIR", "L": "PIR", "A": "LIP", "P": "LIP"}


@dataclass(frozen=True)
class Planes:
    """Slices of a volume whose axes are row, column and slice, in LPS millimetres.

    Args:
        affine: (4, 4), voxel indices (column, row, slice) to LPS mm.
    """

    affine: np.ndarray

    @property
    def orientation(self) -> list[float]:
        """Direction of a row, then of a column: six cosines, of 13 decimals, as a decimal string has room for."""
        directions = self.affine[:3, :2] / self.spacing[:2]
        return [round(float(v), 13) for v in directions.T.ravel()]

    @property
    def spacing(self) -> np.ndarray:
        """(3,) mm between columns, rows and slices."""
        return spacing_of(self.affine)

    def position(self, index: int) -> list[float]:
        """Centre of the first voxel of a slice."""
        return [float(v) for v in self.affine[:3, 3] + index * self.affine[:3, 2]]

    def location(self, index: int) -> float:
        """Place of a slice along the normal, in mm."""
        row, column = np.array(self.orientation).reshape(2, 3)
        return float(np.cross(row, column) @ self.position(index))


MOST_SHEAR_MM = 1e-3
"""How far a voxel may lie from where programs show it that take the axes for being at right angles."""


def require_writable(shape: tuple[int, int, int], affine: np.ndarray, name: str) -> None:
    """Refuses a sheared grid (a tilted gantry): ITK, and with it most programs, would show its slices moved.

    Raises:
        BadInput: the axes are not at right angles, and a corner would be misplaced by more than `MOST_SHEAR_MM`.
    """
    if (moved := shear_mm(shape, affine)) > MOST_SHEAR_MM:
        raise BadInput(
            f"{name}: its axes are not at right angles (a tilted gantry?), and most programs misplace such a series, "
            f"here by up to {moved:.2g} mm",
            "Resample the volume to a grid with right angles first.",
        )


def shown_volume(volume: Volume) -> tuple[Volume, Planes]:
    """The same voxels in the order in which they are stored, axes (column, row, slice), and where they lie.

    The axes that are asked for have the right hand, and so has what comes nearest to them of axes at right angles.
    """
    shown = reorient(volume, _codes(volume.affine))
    return shown, Planes(LPS_TO_RAS @ shown.affine)


def shown_segmentation(segmentation: Segmentation) -> tuple[np.ndarray, ...]:
    """The layers of a segmentation in the order of `shown_volume` of a volume on the same grid."""
    return reorient_segmentation(segmentation, _codes(segmentation.affine)).layers


def _codes(affine: np.ndarray) -> str:
    return _SHOWN[axis_codes(affine)[2]]
