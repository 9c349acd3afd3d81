"""The picture of a model card where volumes are of different sizes: a column for each mask, the real image above the
synthetic ones, in an axial and in a coronal slice. Everything is drawn in one scale in mm, whatever the voxels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from SynthDiffusionLib.contact_sheet import window
from SynthDiffusionLib.evaluation.arms import MOVED
from SynthDiffusionLib.evaluation.picture import OUTLINE, chosen_cases, fitted, size_text
from SynthDiffusionLib.evaluation.rows import Item, Row
from SynthDiffusionLib.volumes import Volume, reorient
from SynthDiffusionLib.volumes.atomic import atomic_file

SOFT_TISSUE_WINDOW = (-200.0, 300.0)
PIXELS_PER_MM = 0.42  # of large volumes
LEAST_PIXELS = 96  # of the longest side of all: small ones are drawn larger
GAP = 4
HEADER = 34
SIDE = 110  # width of the column that names the rows
MOST_CASES = 10
JPEG_QUALITY = 50
BACKGROUND = (24, 24, 24)


def write_sizes_picture(
    path: Path,
    real: Sequence[Item],
    arms: Mapping[str, Row],
    target: int,
    limits: tuple[float, float] = SOFT_TISSUE_WINDOW,
    count: int = MOST_CASES,
) -> list[str]:
    """Writes a JPEG: a column for each mask, rows real and one per arm, in two planes through the middle of the mask.

    The patient's left is on the right of the picture; anterior is up in axial slices, superior in coronal ones. Volumes
    are smaller or larger in the picture as they are in mm.

    Args:
        real: the evaluated cases.
        arms: rows by arm; the first volume of each case is shown, whichever it is.
        target: label value whose outline is drawn.
        limits: lower and upper end of the window, in the unit of the images.
        count: most masks that are shown; fewer than all are chosen by the mask's volume alone.

    Returns:
        the cases shown.
    """
    from PIL import Image, ImageDraw

    cases = chosen_cases(real, target, count)
    by_case = {item.case: item for item in real}
    sources = [("real", {i.case: i for i in reversed(real)})]
    sources += [(row.label, {i.case: i for i in reversed(row.items)}) for arm, row in arms.items() if arm != MOVED]
    rows, scale = [], max(PIXELS_PER_MM, LEAST_PIXELS / max((_spacing(i) * i.hu.shape).max() for i in real))
    for plane in ("axial", "coronal"):
        for title, items in sources:
            cells = [_slice(items.get(case), by_case[case], target, limits, plane, scale) for case in cases]
            rows.append((f"{title}\n{plane}", cells))
    columns = range(len(cases))
    widths = [max(cells[c].shape[1] for _, cells in rows if cells[c] is not None) for c in columns]
    heights = [max(cell.shape[0] for cell in cells if cell is not None) for _, cells in rows]
    size = (SIDE + sum(w + GAP for w in widths) + GAP, HEADER + sum(h + GAP for h in heights) + GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    lefts = [SIDE + GAP + sum(w + GAP for w in widths[:c]) for c in columns]
    for case, x, width in zip(cases, lefts, widths):
        name = f"{fitted(draw, case, width)}\n{size_text(by_case[case], target)}"
        draw.text((x, 4), name, fill=(200, 200, 200))
    y = HEADER
    for (title, cells), height in zip(rows, heights):
        draw.text((GAP, y + 4), _wrapped(title), fill=(230, 230, 230))
        for cell, x, width in zip(cells, lefts, widths):
            if cell is None:
                draw.text((x + 4, y + height // 2), "none", fill=(150, 150, 150))
            else:
                corner = (x + (width - cell.shape[1]) // 2, y + (height - cell.shape[0]) // 2)
                sheet.paste(Image.fromarray(cell), corner)
        y += height + GAP
    buffer = io.BytesIO()
    # A package has 8 MB: noise takes ten times as much in a PNG.
    sheet.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    with atomic_file(Path(path)) as stream:
        stream.write(buffer.getvalue())
    return cases


def _spacing(item: Item) -> np.ndarray:
    return np.linalg.norm(item.affine[:3, :3], axis=0)


def _wrapped(title: str) -> str:
    import textwrap

    return "\n".join(part for line in title.split("\n") for part in textwrap.wrap(line, 17))


def _slice(
    item: Item | None, reference: Item, target: int, limits: tuple[float, float], plane: str, scale: float
) -> np.ndarray | None:
    """The slice of the plane that holds most of the reference's mask, at `scale` pixels a mm; (H, W, 3) uint8."""
    from PIL import Image

    if item is None:
        return None
    image = reorient(Volume(item.hu, item.affine), "LPS")
    mask = reorient(Volume((reference.classes == target).astype(np.uint8), reference.affine, "label"), "LPS").array > 0
    axis = {"axial": 2, "coronal": 1}[plane]
    level = int(np.argmax(mask.sum(tuple(a for a in range(3) if a != axis))))
    flat, drawn = (np.take(array, level, axis).T for array in (image.array, mask))
    across = np.delete(image.spacing, axis)
    if plane == "coronal":  # superior up
        flat, drawn = flat[::-1], drawn[::-1]
    size = tuple(max(1, round(n * s * scale)) for n, s in zip(flat.shape[::-1], across))
    gray = np.asarray(Image.fromarray(window(flat, limits)).resize(size, Image.Resampling.BILINEAR))
    inside = np.asarray(Image.fromarray(drawn.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)) > 127
    picture = np.repeat(gray[..., None], 3, -1)
    picture[inside & ~_eroded(inside)] = OUTLINE
    return picture


def _eroded(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return ndimage.binary_erosion(mask)
