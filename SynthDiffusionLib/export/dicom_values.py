"""Voxel values as DICOM stores them: 16-bit integers with a slope and an intercept.

PS3.3 C.11.1 (Rescale Slope and Intercept: value = stored * slope + intercept), C.7.6.3 (Image Pixel), PS3.5 6.2 (a
decimal string, DS, has at most 16 characters).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_STEPS = (1.0, 0.5, 0.25, 0.125, 0.0625)
_LEVELS = 2**16 - 1


@dataclass(frozen=True)
class StoredValues:
    """How the values of a volume are stored.

    Args:
        signed: int16, else uint16.
        slope: of the stored integers, in the volume's unit; exactly as its decimal string says.
        intercept: value of a stored zero; exactly as its decimal string says.
        largest_error: greatest difference between a value of the volume and what is read back; 0 if all are exact.
    """

    signed: bool
    slope: float
    intercept: float
    largest_error: float = 0.0

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("<i2" if self.signed else "<u2")

    @property
    def plain(self) -> bool:
        """Whether the stored integers are the values themselves."""
        return self.slope == 1 and self.intercept == 0

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Values of the volume that this was chosen for to stored integers."""
        if self.plain and values.dtype.kind in "iu":
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)  # the decimal strings may have been rounded inwards
        levels = np.rint((values.astype(np.float64) - self.intercept) / self.slope)
        return np.clip(levels, limits.min, limits.max).astype(self.dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Stored integers to values, float64."""
        return stored.astype(np.float64) * self.slope + self.intercept


def decimal_string(value: float) -> str:
    """A number as a DS of at most 16 characters, as exact as they allow."""
    from pydicom.valuerep import format_number_as_ds

    value = float(value) + 0.0  # no minus zero
    text = repr(value)
    if text.endswith(".0"):
        text = text[:-2]
    return text if len(text) <= 16 else format_number_as_ds(value)


def stored_values(array: np.ndarray, unsigned: bool) -> StoredValues:
    """Chooses how a volume is stored: exactly where 16 bits can hold it, else rounded as finely as they can.

    Whole numbers, halves, quarters, eighths and sixteenths are exact if their range has at most 65,536 steps. Whole
    numbers within -32,768 to 32,767, such as CT in HU, are stored as they are. Everything else is rounded to 65,536
    levels from the smallest to the largest value.

    Args:
        array: voxels, shape (I, J, K), finite.
        unsigned: store as uint16 without an intercept where no value is negative (MR).
    """
    low, high = array.min(), array.max()
    for step in _STEPS:
        exact = _exact(array, float(low), float(high), step, unsigned)
        if exact is not None:
            return exact
    return _rounded(array, float(low), float(high))


def _exact(array: np.ndarray, low: float, high: float, step: float, unsigned: bool) -> StoredValues | None:
    if (high - low) / step > _LEVELS:
        return None
    for plane in np.moveaxis(array, 2, 0) if array.dtype.kind == "f" else ():
        levels = plane.astype(np.float64) / step
        if not np.array_equal(levels, np.rint(levels)):
            return None
    if unsigned and low >= 0 and high / step <= _LEVELS:
        return StoredValues(False, step, 0.0)
    if low / step >= -(2**15) and high / step < 2**15:
        return StoredValues(True, step, 0.0)
    return StoredValues(False, step, low) if float(decimal_string(low)) == low else None


def _rounded(array: np.ndarray, low: float, high: float) -> StoredValues:
    slope = float(decimal_string((high - low) / _LEVELS)) or 1.0
    stored = StoredValues(False, slope, float(decimal_string(low)))
    planes = np.moveaxis(array, 2, 0)
    error = max(float(np.abs(stored.decode(stored.encode(plane)) - plane).max()) for plane in planes)
    return StoredValues(False, slope, stored.intercept, error)
