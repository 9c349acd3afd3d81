"""What is exported beside the slices: the segmentation, and of an inpainted volume the region.

Both are held against the record: what it says that the model has made must be just that, voxel by voxel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput, shortened
from SynthDiffusionLib.export.dicom_geometry import shown_segmentation
from SynthDiffusionLib.export.dicom_segments import REGION, coded
from SynthDiffusionLib.export.on_grid import read_on_grid
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.jobs.records import beside
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume
from SynthDiffusionLib.volumes.digests import mask_sha256


@dataclass(frozen=True)
class Drawn:
    """A segmentation that is exported with the image: its layers in the order of the slices, and its segments.

    Args:
        layers: see `dicom_geometry.shown_segmentation`.
        segments: with category and type.
        made_by_model: the model has made it; else it is a drawing.
    """

    layers: tuple[np.ndarray, ...]
    segments: tuple[Segment, ...]
    made_by_model: bool


def segmentation_file(volume: Path, given: Path | None, record: Mapping[str, Any]) -> Path | None:
    """File of the segmentation that is exported with the volume: what was given, or what a joint model has made."""
    made = beside(volume, ".seg.nrrd")
    joint = record["settings"]["mode"] == "joint"
    return given or (made if joint and made.is_file() else None)


def drawn_segmentation(
    path: Path, file: Path, volume: Volume, record: Mapping[str, Any], notes: list[str]
) -> Drawn | None:
    """The segmentation, without segments that the model was not given; None with a note if nothing is left.

    Args:
        path: of the segmentation.
        file: of the volume.
        volume: it.
        record: of the volume.
        notes: gets what the user should know.

    Raises:
        BadInput: it cannot be read, or lies on another grid than the volume.
    """
    segmentation, on_grid = read_on_grid(path, volume, record)
    if not on_grid and record["settings"].get("crop"):
        notes.append(f"'{path.name}' was cut to the grid of the volume")
    if not any(layer.any() for layer in segmentation.layers):
        notes.append(f"'{path.name}' is empty, so that there is no segmentation to write")
        return None
    if missing := _not_given(path, segmentation, record):
        names = ", ".join(f"'{shortened(s.name)}'" for s in missing)
        notes.append(f"{names} of '{path.name}' was not given to the model, and is left out")
        segmentation = _without(segmentation, missing)
        if not segmentation.segments:
            return None
    made = record["settings"]["mode"] == "joint" and _is_the_models(path, segmentation, file, volume, record)
    return Drawn(shown_segmentation(segmentation), coded(segmentation, record), made)


def drawn_region(
    given: Path | None, file: Path, volume: Volume, record: Mapping[str, Any], notes: list[str]
) -> Drawn | None:
    """The region of an inpainted volume; None with a note if its file is not there, and of a volume without one.

    Args:
        given: its file; None: the one beside the volume.
        file: of the volume.
        volume: it.
        record: of the volume.
        notes: gets what the user should know.

    Raises:
        BadInput: a region for a volume that has none, or one that cannot be the volume's.
    """
    if not record["contains_real_patient_pixels"]:
        if given is not None:
            raise BadInput("--region was given, but the volume is synthetic as a whole", "Leave --region out.")
        return None
    path = given or beside(file, "_region.seg.nrrd")
    if given is None and not path.is_file():
        notes.append("there is no region file, so that nothing tells which part of the volume is synthetic")
        return None
    mend = "Give the _region.seg.nrrd that generate has written beside the volume."
    segmentation, _ = read_on_grid(path, volume, None)
    filled = [s for s in segmentation.segments if segmentation.mask(s).any()]
    if not filled:
        raise BadInput(f"'{path.name}' is empty, and cannot be the region of an inpainted volume", mend)
    if len(filled) > 1:
        raise BadInput(f"'{path.name}' has {len(filled)} segments, and a region is one", mend)
    mask = segmentation.mask(filled[0])
    known = record.get("masks", {}).get("region_sha256")
    if known is None:
        notes.append(f"whether '{path.name}' is the volume's region cannot be checked: its record does not say")
    elif known != mask_sha256(mask, volume.affine):
        raise BadInput(f"'{path.name}' is not the region that was written with the volume", mend)
    region = Segmentation((mask.astype(np.uint8),), volume.affine, (REGION,))
    return Drawn(shown_segmentation(region), (REGION,), True)


def _not_given(path: Path, segmentation: Segmentation, record: Mapping[str, Any]) -> list[Segment]:
    """Segments that the model was not given, by the record: of its own file by their values, of another one (Slicer
    writes a new one) by name and value, since a value alone may mean something else there."""
    entries = [e for e in record.get("mapping", {}).get("segments", ()) if e.get("class") is None]
    if record.get("inputs", {}).get("segmentation_sha256") == sha256_of(path):
        places = {(e.get("layer", 0), e.get("value")) for e in entries}
        return [s for s in segmentation.segments if (s.layer, s.value) in places]
    names = {(e.get("name"), e.get("value")) for e in entries}
    return [s for s in segmentation.segments if (s.name, s.value) in names and s.name != str(s.value)]


def _without(segmentation: Segmentation, missing: list[Segment]) -> Segmentation:
    layers = [np.array(layer) for layer in segmentation.layers]
    for segment in missing:
        layers[segment.layer][layers[segment.layer] == segment.value] = 0
    kept = tuple(s for s in segmentation.segments if s not in missing)
    return replace(segmentation, layers=tuple(layers), segments=kept)


def _is_the_models(
    path: Path, segmentation: Segmentation, file: Path, volume: Volume, record: Mapping[str, Any]
) -> bool:
    """Whether a joint model has made this very segmentation: its voxels are those of the record, or for records that do
    not say, those of the file beside the volume."""
    known = record.get("masks", {}).get("segmentation_sha256")
    if known is None:
        made = beside(file, ".seg.nrrd")
        if not made.is_file():
            return False
        if made.resolve() == path.resolve():
            return True
        other, _ = read_on_grid(made, volume, record)
        known = mask_sha256(np.logical_or.reduce([layer > 0 for layer in other.layers]), volume.affine)
    filled = [s for s in segmentation.segments if segmentation.mask(s).any()]
    return len(filled) == 1 and known == mask_sha256(segmentation.mask(filled[0]), volume.affine)
