"""Middle slices of real, synthetic and no-skill volumes, one above the other."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from SynthDiffusionLib.evaluation.sets.fidelity import Fidelity

TILE, GAP, HEADING, NAME = 144, 6, 20, 18
COLUMNS = 6
SHORT = {"blurred": "blurred", "noisy": "noisy", "shuffled": "shuffled", "mean": "mean + noise", "flat": "flat + noise"}


def examples(found: Fidelity) -> str:
    """A PNG, base64: up to six real volumes, up to six synthetic ones, and what the no-skill sets are made of."""
    from PIL import Image, ImageDraw, ImageFont

    values = np.concatenate([c.image.ravel()[:: max(1, c.image.size // 20_000)] for c in found.real.cases])
    limits = tuple(float(v) for v in np.percentile(values, (0.5, 99.5)))
    rows: list[tuple[str, list[tuple[str, np.ndarray, tuple[float, ...]]]]] = []
    for title, images in (("real", found.real), ("synthetic", found.synthetic)):
        chosen = np.random.default_rng([found.settings["seed"], 19]).permutation(len(images.cases))[:COLUMNS]
        cases = [images.cases[i] for i in sorted(chosen)]
        rows.append((title, [(c.name, c.image, c.spacing) for c in cases]))
    spacing = found.real.cases[0].spacing
    rows.append(("no skill", [(SHORT[n], image, spacing) for n, image in found.examples.items()]))
    width = GAP + COLUMNS * (TILE + GAP)
    height = GAP + len(rows) * (HEADING + TILE + NAME + GAP)
    picture = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(picture)
    large, small = (ImageFont.load_default(size) for size in (14, 11))
    y = GAP
    for title, cells in rows:
        draw.text((GAP, y), title, fill=0, font=large)
        y += HEADING
        for column, (name, image, size) in enumerate(cells):
            x = GAP + column * (TILE + GAP)
            picture.paste(_tile(image, size, limits), (x, y))
            draw.text((x, y + TILE + 2), _short(name), fill=50, font=small)
        y += TILE + NAME + GAP
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _tile(image: np.ndarray, spacing: tuple[float, ...], limits: tuple[float, float]):
    """The middle axial slice as seen from the feet (patient's right on the left), true to scale, in a square."""
    from PIL import Image

    slice_ = image[:, :, image.shape[2] // 2].T  # rows run to the back, columns to the left: LPS
    low, high = limits
    grey = np.clip((slice_ - low) / max(high - low, 1e-6), 0.0, 1.0)
    tall, wide = slice_.shape[0] * spacing[1], slice_.shape[1] * spacing[0]
    scale = TILE / max(tall, wide)
    size = (max(1, round(wide * scale)), max(1, round(tall * scale)))
    tile = Image.fromarray((255 * grey).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    square = Image.new("L", (TILE, TILE), 0)
    square.paste(tile, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return square


def _short(name: str) -> str:
    name = "".join(c if 31 < ord(c) < 256 else "?" for c in name)
    return name if len(name) <= 20 else f"{name[:17]}..."
