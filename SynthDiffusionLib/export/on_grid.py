"""Segmentations on the grid of their volume. Nothing is resampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets.case_file import placed_on
from SynthDiffusionLib.volumes import (
    Segmentation,
    Volume,
    axis_codes,
    read_segmentation,
    reorient_segmentation,
    same_grid,
)
from SynthDiffusionLib.volumes.grid import grid_difference


def read_on_grid(path: Path, volume: Volume, record: Mapping[str, Any] | None) -> tuple[Segmentation, bool]:
    """A label map or segmentation on the grid of its volume, and whether it lay on that grid in its file.

    A .seg.nrrd of a part of the grid is put where it belongs, and with a volume that `generate --crop` has made, what
    lies outside of it is cut off.

    Args:
        path: the file; it may be empty.
        volume: the image.
        record: of the image; None of a real one.

    Raises:
        BadInput: it cannot be read, or lies on another grid.
    """
    segmentation = read_segmentation(path, empty=True)
    if same_grid(segmentation.shape, segmentation.affine, volume.shape, volume.affine):
        return replace(segmentation, affine=volume.affine), True
    cut = record is not None and bool(record["settings"].get("crop"))
    if cut or path.name.lower().endswith(".seg.nrrd"):
        turned = reorient_segmentation(segmentation, axis_codes(volume.affine))
        layers = [placed_on(volume, layer, turned.affine, cut) for layer in turned.layers]
        if all(layer is not None for layer in layers):
            return replace(turned, layers=tuple(layers), affine=volume.affine), False
    differs = grid_difference(segmentation.shape, segmentation.affine, volume.shape, volume.affine)
    raise BadInput(
        f"{path.name}: it is on another grid than its image ({differs})",
        "Save it on the grid of its image; Slicer's Segmentations module does so (Export to files, with the image as "
        "the reference).",
    )
