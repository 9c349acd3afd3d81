"""A picture of what networks learned from or were tested on: a column a kind, a row a case, the target outlined."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.utility.pairs import Pair

ROWS = 4
SIDE = 156  # pixels of a cell
GAP = 6
HEADER = 34
OUTLINE = (51, 204, 230)
LETTERS = 24  # of a title's line


def picture(columns: Mapping[str, Sequence[Pair]], title: str) -> dict[str, Any]:
    """A plot of the kind "picture".

    Args:
        columns: title to examples; the first `ROWS` are shown, in the slice of the third axis in which the target is
            largest.
        title: of the picture.
    """
    from PIL import Image, ImageDraw

    rows = min(ROWS, max(len(pairs) for pairs in columns.values()))
    sheet = Image.new("RGB", (GAP + len(columns) * (SIDE + GAP), HEADER + rows * (SIDE + GAP)), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for c, (name, pairs) in enumerate(columns.items()):
        x = GAP + c * (SIDE + GAP)
        draw.text((x, 4), _in_lines(name), fill=(230, 230, 230))
        for r, pair in enumerate(pairs[:rows]):
            sheet.paste(Image.fromarray(_cell(pair)), (x, HEADER + r * (SIDE + GAP)))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return {"id": "examples", "kind": "picture", "title": title, "png": base64.b64encode(buffer.getvalue()).decode()}


def _in_lines(text: str) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= LETTERS:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:2])


def _cell(pair: Pair) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: the slice, enlarged a whole number of times or cut, with the target's outline."""
    from scipy import ndimage

    level = int(pair.target.astype(bool).sum((0, 1)).argmax()) if pair.target.any() else pair.target.shape[2] // 2
    image, mask = pair.image[:, :, level].T, pair.target[:, :, level].T > 0
    scale = max(1, SIDE // max(image.shape))
    gray = np.kron(np.clip((image + 1.0) * 127.5, 0, 255).astype(np.uint8), np.ones((scale, scale), np.uint8))
    inside = np.kron(mask, np.ones((scale, scale), bool))
    gray, inside = gray[:SIDE, :SIDE], inside[:SIDE, :SIDE]
    shown = np.repeat(gray[..., None], 3, -1)
    shown[inside & ~ndimage.binary_erosion(inside)] = OUTLINE
    cell = np.zeros((SIDE, SIDE, 3), np.uint8)
    top, left = (SIDE - shown.shape[0]) // 2, (SIDE - shown.shape[1]) // 2
    cell[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    return cell
