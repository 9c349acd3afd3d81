"""The picture of a model card: the same test masks, real and synthetic side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from SynthDiffusionLib.contact_sheet import LUNG_WINDOW, window
from SynthDiffusionLib.evaluation.arms import JOINT, MOVED
from SynthDiffusionLib.evaluation.cases import EvaluationData
from SynthDiffusionLib.evaluation.rows import Item, Row
from SynthDiffusionLib.volumes import Volume, reorient
from SynthDiffusionLib.volumes.atomic import atomic_file

if TYPE_CHECKING:
    from PIL import ImageDraw

SCALE = 4  # of small volumes
WIDEST = 256  # pixels of a slice, beyond which it is enlarged less
GAP = 6
HEADER = 22
SIDE = 96  # width of the column that names the case
OUTLINE = (255, 190, 40)
SHOWN, MOST_SHOWN = 6, 10  # masks in the picture; up to so many are all shown


def chosen_cases(items: Sequence[Item], target: int, count: int = 6) -> list[str]:
    """Cases at even steps of the target's volume, smallest and largest included: chosen by the mask alone."""
    order = sorted(items, key=lambda item: (int((item.classes == target).sum()), item.case))
    picks = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [order[i].case for i in picks]


def fitted(draw: ImageDraw.ImageDraw, text: str, width: float) -> str:
    """The text, or as much of its end as fits into `width` pixels, after "..."."""
    if draw.textlength(text) <= width:
        return text
    while len(text) > 1 and draw.textlength(f"...{text}") > width:
        text = text[1:]
    return f"...{text}"


def size_text(item: Item, target: int) -> str:
    """The target's volume: "12 ml", "1.2 ml"."""
    ml = (item.classes == target).sum() * abs(np.linalg.det(item.affine[:3, :3])) / 1000.0
    return f"{ml:.{0 if ml >= 10 else 1}f} ml"


def window_of(data: EvaluationData, real: Sequence[Item], ct: tuple[float, float]) -> tuple[float, float]:
    """Values that are black and white: a CT window, or for MR the 1st and the 99th percentile of the real images'
    voxels above the lower end of the range (which is also what volumes are padded with)."""
    if data.unit == "HU":
        return ct
    values = np.concatenate([item.hu[item.hu > data.intensity_range[0]] for item in real])
    low, high = np.percentile(values, (1, 99)) if len(values) else data.intensity_range
    return float(low), float(max(high, low + 1.0))


def write_picture(
    path: Path,
    real: Sequence[Item],
    arms: Mapping[str, Row],
    target: int,
    limits: tuple[float, float] = LUNG_WINDOW,
    count: int | None = None,
) -> list[str]:
    """Writes a PNG: a row per mask; columns mask outline on real, real, and one per arm, in one window.

    The axial slice through the middle of the mask; the patient's left is on the right of the picture.

    Args:
        real: the evaluated cases.
        arms: rows by arm; the first volume of each case is shown, whichever it is.
        target: label value whose outline is drawn.
        limits: lower and upper end of the window, in the unit of the images.
        count: masks that are shown; default: all of up to `MOST_SHOWN`, else `SHOWN`.

    Returns:
        the cases shown. A sample with a mask of its own (arm "joint") is shown with that, in the middle of that.
    """
    from PIL import Image, ImageDraw

    everything = len({item.case for item in real})
    cases = chosen_cases(real, target, count or (everything if everything <= MOST_SHOWN else SHOWN))
    by_case = {item.case: item for item in real}
    columns = [("real", {i.case: i for i in reversed(real)})]
    columns += [(arms[a].label, {i.case: i for i in reversed(arms[a].items)}) for a in arms if a != MOVED]
    own = [False] + [a == JOINT for a in arms if a != MOVED]
    cells = [
        [_slice(items.get(case), items.get(case) if o else by_case[case], target, limits)
         for o, (_, items) in zip(own, columns)]
        for case in cases
    ]  # fmt: skip
    width = max(cell.shape[1] for row in cells for cell in row if cell is not None)
    heights = [max(cell.shape[0] for cell in row if cell is not None) for row in cells]
    sheet = Image.new(
        "RGB", (SIDE + len(columns) * (width + GAP) + GAP, HEADER + sum(h + GAP for h in heights) + GAP), (24, 24, 24)
    )
    draw = ImageDraw.Draw(sheet)
    for c, (title, _) in enumerate(columns):
        draw.text((SIDE + GAP + c * (width + GAP), 5), title, fill=(230, 230, 230))
    y = HEADER
    for case, row, height in zip(cases, cells, heights):
        name = f"{fitted(draw, case, SIDE - GAP)}\n{size_text(by_case[case], target)}"
        draw.text((GAP, y + 4), name, fill=(200, 200, 200))
        for c, cell in enumerate(row):
            x = SIDE + GAP + c * (width + GAP)
            if cell is None:
                draw.text((x + 8, y + height // 2), "none: too large", fill=(150, 150, 150))
            else:
                sheet.paste(Image.fromarray(cell), (x, y))
        y += height + GAP
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    with atomic_file(Path(path)) as stream:
        stream.write(buffer.getvalue())
    return cases


def _slice(item: Item | None, reference: Item, target: int, limits: tuple[float, float]) -> np.ndarray | None:
    """The axial slice through the middle of the reference's mask, enlarged, with its outline; (H, W, 3) uint8."""
    if item is None:
        return None
    image = reorient(Volume(item.hu, item.affine), "LPS").array
    mask = reorient(Volume((reference.classes == target).astype(np.uint8), reference.affine, "label"), "LPS").array > 0
    level = int(np.rint(np.argwhere(mask).mean(0)[2])) if mask.any() else mask.shape[2] // 2
    scale = min(SCALE, max(1, WIDEST // max(image.shape[:2])))
    gray = np.kron(window(image[:, :, level].T, limits), np.ones((scale, scale), np.uint8))
    inside = np.kron(mask[:, :, level].T, np.ones((scale, scale), bool))
    edge = inside & ~_eroded(inside)
    picture = np.repeat(gray[..., None], 3, -1)
    picture[edge] = OUTLINE
    return picture


def _eroded(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return ndimage.binary_erosion(mask)
