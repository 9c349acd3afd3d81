"""The word SYNTHETIC on every slice: as an overlay, which viewers can switch off, or burned into the pixels.

PS3.3 C.9.2 (Overlay Plane): one bit a pixel, the first pixel in the least significant bit (PS3.5 8.1.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from SynthDiffusionLib.errors import BadInput

if TYPE_CHECKING:
    from pydicom import Dataset

CHOICES = ("none", "overlay", "burned-in")
_SMALLEST_PX, _LARGEST_PX = 8, 40


def label_mask(text: str, columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """A label at the upper left of a slice, an eighth of its height at most, and wide enough to be read.

    Returns:
        pixels of the letters, and of the box behind them with the letters in it; both bool, shape (columns, rows).

    Raises:
        BadInput: the slice is too small for readable letters.
    """
    from PIL import Image, ImageDraw, ImageFont

    for size in range(min(_LARGEST_PX, max(rows // 8, _SMALLEST_PX)), _SMALLEST_PX - 1, -1):
        font = ImageFont.load_default(size)
        left, top, right, bottom = (round(v) for v in font.getbbox(text))
        width, height = right - left + 4, bottom - top + 4
        if width <= columns and height <= rows:
            break
    else:
        raise BadInput(
            f"Slices of {columns} x {rows} pixels are too small for the label '{text}', which needs {width} x {height}",
            "Leave --label out; the headers say that the images are synthetic all the same.",
        )
    picture = Image.new("L", (columns, rows))
    ImageDraw.Draw(picture).text((2 - left, 2 - top), text, fill=255, font=font)
    letters = np.asarray(picture).T > 127
    box = np.zeros_like(letters)
    box[:width, :height] = True
    return letters, box


def burned_in(array: np.ndarray, mask: tuple[np.ndarray, np.ndarray], limits: tuple[float, float]) -> np.ndarray:
    """The voxels with a label in every slice, as bright letters on a dark box.

    Args:
        array: (columns, rows, slices).
        mask: see `label_mask`.
        limits: values that are shown as black and white.
    """
    letters, box = mask
    kind = np.iinfo(array.dtype) if array.dtype.kind in "iu" else np.finfo(array.dtype)
    black, white = np.clip(limits, kind.min, kind.max)
    changed = np.array(array)
    changed[box] = black
    changed[letters] = white
    return changed


def add_overlay(item: Dataset, letters: np.ndarray, text: str) -> None:
    """Adds the label to a slice as its first overlay plane, group 6000."""
    bits = np.packbits(letters.T.ravel(), bitorder="little").tobytes()
    rows, columns = letters.shape[::-1]
    for element, vr, value in (
        (0x0010, "US", rows),
        (0x0011, "US", columns),
        (0x0022, "LO", "Says that the image is synthetic"),
        (0x0040, "CS", "G"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x1500, "LO", text),
        (0x3000, "OW", bits + b"\0" * (len(bits) % 2)),
    ):
        item.add_new((0x6000, element), vr, value)
