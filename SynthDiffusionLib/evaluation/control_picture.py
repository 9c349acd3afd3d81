"""The picture of `evaluate control`: measured against requested, a panel for each characteristic."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.volumes.atomic import atomic_file

PLOT = 200  # pixels of a plot
LEFT, TOP, BELOW, RIGHT = 62, 26, 34, 14
COLUMNS = 4
DOT = 2
INK, AXIS, IDEAL, FIT, POINT = (30, 30, 30), (120, 120, 120), (170, 170, 170), (200, 60, 40), (40, 90, 170)


def write_panels(path: Path, panels: Sequence[Any]) -> None:
    """Draws panels as a PNG.

    Args:
        path: of the picture.
        panels: each with "title", "points" (N, 2) of requested and measured values, and "slope" and "intercept" of the
            line through them, None where there is none. The grey line is where measured is as requested.
    """
    from PIL import Image, ImageDraw

    width, height = LEFT + PLOT + RIGHT, TOP + PLOT + BELOW
    lines = -(-len(panels) // COLUMNS)
    sheet = Image.new("RGB", (min(len(panels), COLUMNS) * width, lines * height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number, panel in enumerate(panels):
        _panel(draw, (number % COLUMNS) * width + LEFT, (number // COLUMNS) * height + TOP, panel)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    with atomic_file(Path(path)) as stream:
        stream.write(buffer.getvalue())


def _panel(draw: Any, left: int, top: int, panel: Any) -> None:
    low, high = limits_of(panel.points)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (x - low) / (high - low) * PLOT, top + PLOT - (y - low) / (high - low) * PLOT

    draw.text((left, top - 20), panel.title, fill=INK)
    draw.line([place(low, low), place(high, high)], fill=IDEAL)
    if panel.slope is not None:
        ends = _inside(panel.slope, panel.intercept, low, high)
        if ends is not None:
            draw.line([place(x, panel.slope * x + panel.intercept) for x in ends], fill=FIT, width=2)
    for x, y in panel.points:
        u, v = place(x, y)
        draw.ellipse([u - DOT, v - DOT, u + DOT, v + DOT], fill=POINT)
    draw.rectangle([left, top, left + PLOT, top + PLOT], outline=AXIS)
    for value in (low, high):
        text, (u, v) = f"{value:.3g}", place(value, value)
        draw.text((u if value == low else u - 6 * len(text), top + PLOT + 4), text, fill=INK)
        draw.text((left - 6 * len(text) - 4, v - (12 if value == low else 0)), text, fill=INK)
    draw.text((left + PLOT // 2 - 30, top + PLOT + 16), "requested", fill=AXIS)
    draw.text((left - 56, top + PLOT // 2), "measured", fill=AXIS)


def limits_of(points: np.ndarray) -> tuple[float, float]:
    """One range for both axes, with a margin of 5 %."""
    low, high = float(points.min()), float(points.max())
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _inside(slope: float, intercept: float, low: float, high: float) -> tuple[float, float] | None:
    """The part of a line that lies in the plot, as two values of x."""
    ends = sorted([low, high])
    if abs(slope) > 1e-12:
        cut = sorted(((low - intercept) / slope, (high - intercept) / slope))
        ends = [max(ends[0], cut[0]), min(ends[1], cut[1])]
    elif not low <= intercept <= high:
        return None
    return (ends[0], ends[1]) if ends[0] < ends[1] else None
