"""Whether the voxels of a volume that was saved again, from a scene say, are still those of its record.

A record of another volume could pass a patient's image off as synthetic. So voxels that are not the record's are taken
only where the user says that they were edited; the record, and all that is written with it, then says so too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.volumes import Volume
from SynthDiffusionLib.volumes.digests import voxel_edges_mm, voxels_sha256

SAME_EDGES = 1e-3
"""By how much of its size a voxel's edge may differ: formats and programs round it."""


def compared(
    record: dict[str, Any], read: Volume, volume: Path, provenance: Path, edited: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The record of a volume as it is now, and what the user should know.

    The place is not compared: a transform in the scene may have moved or turned the volume. One that has scaled it has
    changed the size of its voxels, and so what it shows: records of older versions do not hold that
    size.

    Args:
        record: as it was given.
        read: the volume.
        volume, provenance: the files of both.
        edited: other voxels than those of the record, or of another size, are taken too, and such as cannot be
            compared.

    Returns:
        The record with the checksum of the voxels as they are. Where they are not those that the model has made, it has
        "modified_after_generation", and what was measured of them is left out. Where its own checksum is missing
        (records of older versions), it has "voxels_unchecked".

    Raises:
        BadInput: other voxels, or such as cannot be compared, and they are not said to be edited.
    """
    own, found = record.get("output_voxels_sha256"), voxels_sha256(read)
    edges = record.get("output_voxel_edges_mm")
    record = record | {
        "output_voxels_sha256": found,
        **({"output_voxel_edges_mm": voxel_edges_mm(read)} if edges is not None else {}),
        "generated_sha256": record.get("generated_sha256", record.get("output_sha256")),
    }
    if own is None and (volume.is_dir() or record.get("output_sha256") != sha256_of(volume)):
        if not edited:
            raise BadInput(
                f"'{provenance.name}' holds no checksum of the voxels (an older version has written it), and "
                f"'{volume.name}' is not the file that it was written with: whether it is its volume cannot be checked",
                "Give that file. If you know that it is, add --edited: its record then says that it was not checked.",
            )
        note = (
            f"whether the voxels of '{volume.name}' are those that the model made could not be checked, and the new "
            "record says so"
        )
        return record | {"voxels_unchecked": True}, (note,)
    resized = False
    for turned in _turned(read):
        if own is None or own == (found if turned is read else voxels_sha256(turned)):
            if edges is None or np.allclose(voxel_edges_mm(turned), edges, rtol=SAME_EDGES, atol=0):
                return record, ()
            resized = True
    if not edited and resized:
        raise BadInput(
            f"The voxels of '{volume.name}' have another size than those of its record '{provenance.name}': it was "
            "scaled after it was made",
            "Save it without the transform or spacing that scales it. If you have scaled it yourself, add --edited: "
            "file and record then say that it was edited.",
        )
    if not edited:
        raise BadInput(
            f"The voxels of '{volume.name}' are not those of its record '{provenance.name}': it is another image, or "
            "was edited after it was made",
            "Give the record that was written with it. If you have edited it yourself, add --edited: file and record "
            "then say so.",
        )
    record = {name: value for name, value in record.items() if not name.startswith("adherence")}
    note = (
        f"the voxels of '{volume.name}' are not of the size that the model made: file and record say that they were "
        "edited"
        if resized
        else f"the voxels of '{volume.name}' are not those that the model made: file and record say that they were "
        "edited. Nothing shows whose they are"
    )
    return record | {"modified_after_generation": True}, (note,)


def _turned(volume: Volume) -> Iterator[Volume]:
    """The volume, and how else it can lie along the axes of the patient: a transform may have turned it."""
    yield volume
    array = np.asarray(volume.array)
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            turn = np.zeros((3, 3))
            turn[range(3), order] = signs
            if np.linalg.det(turn) > 0:
                affine = np.eye(4)
                affine[:3, :3] = turn @ volume.affine[:3, :3]
                yield Volume(array, affine, volume.unit)
