"""Pictures for the tutorial: slice views of the scene, drawn off screen as Slicer draws them. For module_tour.py."""

from __future__ import annotations

import io
import itertools
import sys
from pathlib import Path

import numpy as np
import slicer
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing" / "Scene"))

from slice_pictures import SliceView  # noqa: E402

CAPTION = "Drawn off screen by Slicer's slice logic; not a screenshot of 3D Slicer."
MOST_BYTES = 150_000
_BAR, _GAP = 26, 4
_CAPTION_COLOR = (255, 233, 168)  # of the stand-in's screenshots


class TourViews:
    """The slice views of the scene by layout name, made when they are drawn first.

    Args:
        scene: the MRML scene.
        size: width and height of each view in pixels.
    """

    def __init__(self, scene, size: tuple[int, int] = (300, 300)) -> None:
        self._scene, self._size = scene, size
        self._views: dict[str, tuple[object, SliceView]] = {}

    def draw(self, layoutName: str) -> np.ndarray:
        """Colours, shape (height, width, 3), first row on top."""
        return self._view(layoutName).draw()

    def fit(self, layoutName: str) -> None:
        """Shows all of the background, as the button of a slice view does."""
        self._view(layoutName).logic.FitSliceToBackground()

    def close(self) -> None:
        """Lets go of the scene; before it is closed, and at the end."""
        for _node, view in self._views.values():
            view.close()
        self._views = {}

    def _view(self, layoutName: str) -> SliceView:
        node = next(
            node
            for index in range(self._scene.GetNumberOfNodesByClass("vtkMRMLSliceNode"))
            if (node := self._scene.GetNthNodeByClass(index, "vtkMRMLSliceNode")).GetLayoutName() == layoutName
        )
        known = self._views.get(layoutName)
        if known is None or known[0] is not node:
            # The field of view stays what the scene says: making the view resizes it.
            view = SliceView(self._scene, node, self._size, slicer.app.applicationLogic())
            self._views[layoutName] = (node, view)
        return self._views[layoutName][1]


def slices(scene, title: str, center_ras, caption: str = CAPTION, names=("Red", "Green", "Yellow")) -> Image.Image:
    """Slice views of the usual layout, through a point, fitted to their volume; without one, as the module left them.

    Args:
        scene: the MRML scene.
        title, caption: above and below the picture.
        center_ras: in mm.
        names: which views; by default axial, coronal and sagittal.
    """
    views, pictures = TourViews(scene), []
    for name in names:
        views.fit(name)
        widget = slicer.app.layoutManager().sliceWidget(name)
        widget.mrmlSliceNode().JumpSliceByOffsetting(*center_ras)
        pictures.append(Image.fromarray(views.draw(name)))
    views.close()
    return _row(pictures, title, caption)


def without_gap(picture: Image.Image, most: int = 12) -> Image.Image:
    """A panel's picture without the empty rows above its caption, but for `most` of them.

    A panel alone in its window is spread over a height that is guessed from its width; in Slicer it scrolls.
    """
    pixels = np.asarray(picture)
    is_caption = (pixels[:, 0] == _CAPTION_COLOR).all(-1)
    top = len(pixels) - int(np.argmin(is_caption[::-1]))  # first row of the caption, which is at the bottom
    plain = (pixels[:top] == pixels[top - 1, 0]).all((1, 2))
    used = top - int(np.argmin(plain[::-1]))
    kept = min(top, used + most)
    return Image.fromarray(np.concatenate([pixels[:kept], pixels[top:]]))


def beside(*pictures: Image.Image) -> Image.Image:
    """Pictures beside each other, the tops in line."""
    width = sum(p.width for p in pictures) + _GAP * (len(pictures) - 1)
    whole, left = Image.new("RGB", (width, max(p.height for p in pictures)), "white"), 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width + _GAP
    return whole


def below(*pictures: Image.Image) -> Image.Image:
    """Pictures below each other."""
    whole = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def save(picture: Image.Image, path: Path) -> None:
    """Writes a PNG of at most `MOST_BYTES`, with as few colours as that takes.

    Raises:
        ValueError: it is larger even so.
    """
    fewer = (picture.quantize(colors, dither=Image.Dither.NONE) for colors in (256, 96))
    for candidate in itertools.chain([picture], fewer):
        data = io.BytesIO()
        candidate.save(data, "PNG", optimize=True)
        if data.tell() < MOST_BYTES:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.getvalue())
            return
    raise ValueError(f"{path.name} takes {data.tell()} bytes: make it smaller")


def _row(pictures: list[Image.Image], title: str, caption: str) -> Image.Image:
    width = sum(p.width for p in pictures) + _GAP * (len(pictures) - 1)
    height = pictures[0].height
    row = Image.new("RGB", (width, height + 2 * _BAR), (40, 40, 40))
    draw = ImageDraw.Draw(row)
    draw.text((6, 5), title, "white", ImageFont.load_default(13))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, _BAR))
        left += picture.width + _GAP
    draw.rectangle([0, height + _BAR, width, height + 2 * _BAR], fill=_CAPTION_COLOR)
    draw.text((6, height + _BAR + 5), caption, "black", ImageFont.load_default(12))
    return row
