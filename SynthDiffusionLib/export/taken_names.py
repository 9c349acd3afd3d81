"""What `export volume` may replace: files of the same content, and on request an earlier export of the same volume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs.records import own_edits_of, read_record
from SynthDiffusionLib.volumes import Segmentation, Volume, read_segmentation, read_volume, same_grid
from SynthDiffusionLib.volumes.digests import mask_sha256, voxels_sha256


def require_free(
    paths: Mapping[str, Path], record: Mapping[str, Any], volume: Volume, region: Segmentation | None, replace: bool
) -> None:
    """Refuses names under which something else lies: the volume as the model has made it, above all.

    Args:
        paths: that are to be written, by what they hold.
        record: the new one.
        volume: the new one.
        region: the new one, or None.
        replace: an earlier export of the same volume may be replaced, unless only one of the two was edited.

    Raises:
        BadInput: a file of other content lies there.
    """
    lying = [path for path in paths.values() if path.exists()]
    if not lying or _is_same(paths, record, volume, region) or (replace and _is_earlier(paths, record)):
        return
    raise BadInput(
        f"'{lying[0]}' lies there, and is not what is to be written: it would be lost", "Choose another --out."
    )


def _is_same(paths: Mapping[str, Path], record: Mapping[str, Any], volume: Volume, region: Segmentation | None) -> bool:
    """Whether what lies there has the same voxels at the same places, and a record that says the same of them."""
    try:
        there = read_volume(paths["volume"])
        same = own_edits_of(read_record(paths["provenance"])) == own_edits_of(record)
        same = same and same_grid(there.shape, there.affine, volume.shape, volume.affine)
        same = same and voxels_sha256(there) == voxels_sha256(volume)
        if same and region is not None and paths["region"].exists():
            same = _of_region(read_segmentation(paths["region"])) == _of_region(region)
    except BadInput:  # missing, damaged, or no record
        return False
    return same


def _is_earlier(paths: Mapping[str, Path], record: Mapping[str, Any]) -> bool:
    try:
        there = read_record(paths["provenance"])
    except BadInput:
        return False
    return _generated(there) == _generated(record) and own_edits_of(there) == own_edits_of(record)


def _generated(record: Mapping[str, Any]) -> str | None:
    """SHA-256 of the file that `generate` has written."""
    return record.get("generated_sha256") or record.get("output_sha256")


def _of_region(region: Segmentation) -> list[str]:
    return [mask_sha256(region.mask(segment), region.affine) for segment in region.segments]
