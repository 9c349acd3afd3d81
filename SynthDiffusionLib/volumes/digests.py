"""Checksums of what an image or a mask shows, whatever file it lies in."""

from __future__ import annotations

import hashlib

import numpy as np

from SynthDiffusionLib.volumes.resample import reorient
from SynthDiffusionLib.volumes.volume import Volume

ORIENTATION = "LPS"  # in which voxels are counted, so that a turned copy has the same checksum


def voxels_sha256(volume: Volume) -> str:
    """SHA-256 of size and voxels as float32 in `ORIENTATION`: equal for an image that was saved again in another
    format, order of axes or number type. Place and spacing do not count."""
    array = reorient(volume, ORIENTATION).array
    digest = hashlib.sha256(f"{array.shape}".encode())
    for plane in array:
        digest.update((np.ascontiguousarray(plane, "<f4") + np.float32(0)).tobytes())  # -0 becomes 0
    return digest.hexdigest()


def voxel_edges_mm(volume: Volume) -> list[float]:
    """Edge lengths of a voxel in mm along the axes of `ORIENTATION`, those that `voxels_sha256` counts along."""
    return [float(edge) for edge in reorient(volume, ORIENTATION).spacing]


def mask_sha256(mask: np.ndarray, affine: np.ndarray) -> str:
    """SHA-256 of size and voxels of a mask in `ORIENTATION`.

    Args:
        mask: (I, J, K); what is not 0 is in it.
        affine: (4, 4) of its grid, RAS mm.
    """
    return voxels_sha256(Volume((np.asarray(mask) != 0).astype(np.uint8), affine, "label"))
