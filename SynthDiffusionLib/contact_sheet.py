"""The picture that is written beside every volume: drawing, volume and overlay in three planes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from SynthDiffusionLib.labels.class_maps import mask_of
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.volumes import Volume, reorient, shifted_affine
from SynthDiffusionLib.volumes.atomic import atomic_file

LUNG_WINDOW = (-1200.0, 200.0)  # window 1400, level -500
PANEL = 224  # pixels of the longest side of a panel
GAP = 6
HEADER = 20
SURROUNDINGS_MM = 50.0  # on each side of the middle of an inpainted region
OUTLINE = (51, 204, 230)


def write_contact_sheet(
    path: Path,
    volume: Volume,
    class_map: np.ndarray,
    scheme: LabelScheme,
    target: str | None = None,
    *,
    before: Volume | None = None,
    changed: np.ndarray | None = None,
    limits: tuple[float, float] | None = LUNG_WINDOW,
    notice: str = "",
    drawn: str = "drawing",
) -> None:
    """Writes a PNG with one row a plane (axial, coronal, sagittal) and the columns drawing, volume, overlay.

    For an inpainted volume the columns are drawing, before, after, and after with the border of what may have changed,
    and the picture shows the surroundings of that region. The planes pass through the middle of the region, of the
    target class, or of all that is drawn. Directions follow the radiological
    convention: the patient's left is on the right of the picture, anterior is up in axial planes, superior in the
    others.

    Args:
        volume: CT in HU, or MR.
        class_map: (I, J, K) label values on the same grid.
        target: class to centre on, if drawn.
        before: the real volume that was inpainted into, on the same grid.
        changed: (I, J, K) bool, its voxels that may have changed.
        limits: values that are black and white; None: the darkest and nearly the brightest voxel.
        drawn: title of the column with the class map.
        notice: written into the file as its description.
    """
    from PIL import Image, ImageDraw, PngImagePlugin

    image = reorient(volume, "LPS")
    classes = reorient(Volume(class_map, volume.affine, "label"), "LPS").array
    center = _center(classes, scheme, target)
    titles = (drawn, "synthetic", "overlay")
    if before is not None:
        titles = (drawn, "before", "after: region synthetic", "region")
        earlier = reorient(before, "LPS").array
        region = reorient(Volume(changed.astype(np.uint8), volume.affine, "label"), "LPS").array > 0
        where = np.argwhere(region)
        center = where[np.linalg.norm(where - where.mean(0), axis=1).argmin()]

        near = _surroundings(center, image)
        image = Volume(image.array[near], shifted_affine(image.affine, [s.start for s in near]), image.unit)
        classes, earlier, region = classes[near], earlier[near], region[near]
        center = center - [s.start for s in near]

    greys = _limits_of(image.array) if limits is None else limits
    scale = PANEL / max(max(n * s for n, s in zip(image.shape, image.spacing)), 1e-6)
    cells = []
    for axis in (2, 1, 0):
        cut, aspect = plane(axis, center, image.spacing)
        gray, drawn = window(cut(image.array), greys), cut(classes)
        pictures = [paint(np.zeros_like(gray), drawn, scheme, opacity=1.0), np.repeat(gray[..., None], 3, -1)]
        if before is None:
            pictures.append(paint(gray, drawn, scheme, opacity=0.3))
        else:
            pictures.insert(1, np.repeat(window(cut(earlier), greys)[..., None], 3, -1))
            pictures.append(_outlined(gray, cut(region)))
        cells.append([_panel(picture, aspect, scale) for picture in pictures])
    widths = [max(row[c].width for row in cells) for c in range(len(titles))]
    heights = [max(cell.height for cell in row) for row in cells]
    sheet = Image.new("RGB", (sum(widths) + (len(titles) + 1) * GAP, sum(heights) + 4 * GAP + HEADER), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    x = GAP
    for c, title in enumerate(titles):
        draw.text((x + 2, 4), title, fill=(230, 230, 230))
        y = HEADER + GAP
        for r, row in enumerate(cells):
            sheet.paste(row[c], (x + (widths[c] - row[c].width) // 2, y))
            y += heights[r] + GAP
        x += widths[c] + GAP
    buffer = io.BytesIO()
    description = PngImagePlugin.PngInfo()
    if notice:
        description.add_text("Description", notice)
    sheet.save(buffer, format="PNG", pnginfo=description)
    with atomic_file(Path(path)) as stream:
        stream.write(buffer.getvalue())


def _outlined(gray: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The picture with the voxels just outside a region in its color."""
    from scipy import ndimage

    colored = np.repeat(gray[..., None], 3, -1)
    colored[ndimage.binary_dilation(region) & ~region] = OUTLINE
    return colored


def window(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Values to grey levels, uint8, for a window given by its lower and upper end."""
    low, high = limits
    return (np.clip((values.astype(np.float32) - low) / (high - low), 0.0, 1.0) * 255.0).astype(np.uint8)


def paint(gray: np.ndarray, classes: np.ndarray, scheme: LabelScheme, opacity: float) -> np.ndarray:
    """Classes in their colours over grey levels of the same shape, a picture or a volume.

    Returns:
        uint8, with a last axis of three for the color.
    """
    colored = np.repeat(gray[..., None], 3, -1).astype(np.float32)
    for label in scheme.classes:
        mask = classes == label.value
        colored[mask] = (1 - opacity) * colored[mask] + opacity * 255.0 * np.asarray(label.color)
    return colored.astype(np.uint8)


def plane(
    axis: int, center: np.ndarray, spacing: np.ndarray
) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[float, float]]:
    """How to cut an LPS volume across an axis, rows downwards, and the (row, column) spacing of the cut.

    Returns:
        a function from a volume (I, J, K, ...) to a picture, and the spacing.
    """
    index = int(center[axis])
    if axis == 2:
        return (lambda a: np.swapaxes(a[:, :, index], 0, 1)), (spacing[1], spacing[0])
    if axis == 1:
        return (lambda a: np.swapaxes(a[:, index], 0, 1)[::-1]), (spacing[2], spacing[0])
    return (lambda a: np.swapaxes(a[index], 0, 1)[::-1]), (spacing[2], spacing[1])


def _center(classes: np.ndarray, scheme: LabelScheme, target: str | None) -> np.ndarray:
    values = scheme.containing(target) if target else ()
    mask = mask_of(classes, values)
    if not mask.any():
        mask = classes > 0
    if not mask.any():
        return np.array(classes.shape) // 2
    # The mean index, axis by axis: a list of all voxels of a large class would take seconds and gigabytes.
    means = []
    for axis, size in enumerate(mask.shape):
        counts = np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis))
        means.append(counts @ np.arange(size) / counts.sum())
    return np.rint(means).astype(int)


def _limits_of(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (0.0, 99.5))
    return float(low), float(max(high, low + 1.0))


def _surroundings(center: np.ndarray, image: Volume) -> tuple[slice, ...]:
    reach = np.ceil(SURROUNDINGS_MM / np.asarray(image.spacing)).astype(int)
    return tuple(slice(max(0, c - r), min(n, c + r + 1)) for c, r, n in zip(center, reach, image.shape))


def _panel(picture: np.ndarray, spacing: tuple[float, float], scale: float):
    from PIL import Image

    height, width = (max(1, round(n * s * scale)) for n, s in zip(picture.shape[:2], spacing))
    return Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.NEAREST)
