"""Which image an inpainted volume goes back to, also over several steps.

Inpainted into a volume that was itself generated, a volume belongs to that one's source: the record beside the image
says which it is, so that all of them have one subject in DICOM and one group in training sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs.provenance import is_synthetic, sha256_of
from SynthDiffusionLib.jobs.records import beside, edits_of, record_of
from SynthDiffusionLib.volumes import Volume
from SynthDiffusionLib.volumes.digests import voxels_sha256
from SynthDiffusionLib.volumes.marks import EDITED


def source_of_image(path: Path, image: Volume) -> dict[str, Any]:
    """What the record of an inpainted volume says of the image that it was inpainted into.

    Args:
        path: file or folder of the image.
        image: read from it.

    Returns:
        "key": a checksum that volumes of one source have in common, see `source_key`; "files": SHA-256 of what the
        image was made from, of its own file last; "voxels_sha256": of the image; "image_synthetic": whether it is
        partly or wholly synthetic; "known": False if it is and has no record beside it, or was edited, so that its own
        source is not known; "edited", only where it applies: see `records.edits_of`.
    """
    voxels = voxels_sha256(image)
    record, edits = _record_of_image(Path(path).expanduser()), ""
    found = {"key": voxels, "files": [], "voxels_sha256": voxels, "image_synthetic": False, "known": True}
    if record is not None:
        earlier = [*record.get("source", {}).get("files", ()), *record.get("inputs", {}).values()]
        earlier += [s for s in (record.get("generated_sha256"),) if s]
        found |= {"key": source_key(record), "files": earlier, "image_synthetic": True}
        edits = edits_of(record)
        found["known"] = record.get("source", {}).get("known", True) and not edits
    elif is_synthetic(image.metadata):
        found |= {"image_synthetic": True, "known": False}
        edits = "yes" if image.metadata.get(EDITED) == "YES" else ""
    if edits:
        found["edited"] = edits
    found["files"] = list(dict.fromkeys([*found["files"], sha256_of(path)]))
    return found


def source_key(record: Mapping[str, Any]) -> str:
    """A checksum that all volumes of one source have in common.

    Of an inpainted volume that of the voxels of the image, or of what the image itself was made from (records of older
    versions: of the image's file); else that of the drawing's file, else that of the volume as it was generated.
    """
    inputs = record.get("inputs", {})
    return (
        record.get("source", {}).get("key")
        or inputs.get("image_sha256")
        or inputs.get("segmentation_sha256")
        or record.get("generated_sha256")
        or record["output_sha256"]
    )


def _record_of_image(path: Path) -> dict[str, Any] | None:
    """The record beside the image, if there is one that is the image's own; other files may end in .json too."""
    if path.is_dir() or not beside(path, ".json").is_file():
        return None
    try:
        return record_of(path, None)
    except BadInput:
        return None
