"""NIfTI files (.nii, .nii.gz) through nibabel.

Standard: "The NIfTI-1 data format", nifti1.h (https://nifti.nimh.nih.gov/nifti-1/documentation).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes.atomic import atomic_file, gzip_stream
from SynthDiffusionLib.volumes.checks import check_3d, check_size, rescaled, spatial_shape, storable
from SynthDiffusionLib.volumes.grid import (
    LPS_TO_RAS,
    check_affine,
    check_spacing,
    corner_indices,
    is_orthogonal,
    spacing_of,
    voxel_positions,
)
from SynthDiffusionLib.volumes.stream import decoding, is_gzip, open_unpacked, read_voxels
from SynthDiffusionLib.volumes.volume import Volume

if TYPE_CHECKING:
    from nibabel import Nifti1Header

_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # codes of xyzt_units: 1 metre, 2 mm, 3 micron
_DESCRIP_BYTES = 79  # of the 80 of the field, one is for the final zero


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Voxels in their stored type (scaled if the header says so), affine in RAS mm, and the header's text.

    The sform is used if its code is set, else the qform. With neither, the standard does not say where the axes point;
    they are taken for L, P and S from the origin, as ITK, and so Slicer, does.

    Raises:
        BadInput: not a NIfTI file, damaged, not a scalar 3D image, or without a usable geometry.
    """
    from nibabel.spatialimages import HeaderDataError

    with decoding(path, "NIfTI", HeaderDataError):
        header = read_nifti_header(path)
        shape = header.get_data_shape()
        dtype = header.get_data_dtype()
        slope, inter = header.get_slope_inter()
        offset = int(header["vox_offset"])
    if dtype.fields is not None or dtype.kind not in "iuf":
        what = "a color image" if dtype.fields is not None else f"of the voxel type {dtype}"
        raise BadInput(f"{path.name}: it is {what}, not a scalar image", "Choose a grey value image or a label map.")
    check_size(shape or (0,), dtype.itemsize, path.name, path.stat().st_size, is_gzip(path))
    sizes = spatial_shape(shape, path.name)
    check_3d(sizes, path.name)
    affine = _affine(header, path)
    with decoding(path, "NIfTI"), open_unpacked(path) as stream:
        stream.read(offset)
        raw = read_voxels(stream, dtype, sizes, path.name)
    array = raw if slope is None else rescaled(raw, float(slope), float(inter or 0))
    text = bytes(header["descrip"].item()).split(b"\0")[0].decode("utf-8", "replace").strip()
    return array, affine, {"description": text} if text else {}


def write_nifti(volume: Volume, path: Path) -> None:
    """Write .nii or .nii.gz with qform and sform both set (scanner), in mm.

    With shear, or where the qform's float32 quaternion would be off by over a micron, only the sform is set.
    """
    import nibabel as nib

    image = nib.Nifti1Image(storable(volume.array), volume.affine)
    header = image.header
    header.set_xyzt_units("mm")
    description = volume.metadata.get("description", "").encode("utf-8")[:_DESCRIP_BYTES]
    header["descrip"] = description.decode("utf-8", "ignore").encode("utf-8")
    image.set_sform(volume.affine, _SCANNER)
    image.set_qform(volume.affine, _SCANNER, strip_shears=True)
    if not _qform_agrees(header, volume):
        image.set_qform(None, 0)
        header["pixdim"][1:4] = spacing_of(volume.affine)
    with atomic_file(path) as file:
        if path.name.lower().endswith(".gz"):
            with gzip_stream(file) as stream:
                image.to_stream(stream)
        else:
            image.to_stream(file)


def read_nifti_header(path: Path) -> Nifti1Header:
    """The header as stored, of version 1 or 2 (its class is derived from the other's). nibabel's own loading mends bad
    values silently, which hides what is to be refused.

    Raises:
        BadInput: not a NIfTI file, or half of a pair.
    """
    import nibabel as nib

    with open_unpacked(path) as file:
        start = file.read(540)
    if start[4:8] == b"n+2\0" and len(start) == 540:
        return nib.Nifti2Header(start, check=False)
    if start[344:348] == b"n+1\0":
        return nib.Nifti1Header(start[:348], check=False)
    if start[344:348] == b"ni1\0":
        raise BadInput(f"{path.name}: it is half of a NIfTI pair (.hdr, .img)", "Convert it to .nii.gz.")
    raise BadInput(f"{path.name}: it is not a NIfTI image", "Choose an image, or correct the file's suffix.")


def _affine(header, path: Path) -> np.ndarray:
    spacing = check_spacing(header["pixdim"][1:4], path.name)
    with decoding(path, "NIfTI"):
        if int(header["sform_code"]) > 0:
            affine = header.get_sform()
        elif int(header["qform_code"]) > 0:
            affine = header.get_qform()
        else:
            affine = LPS_TO_RAS @ np.diag([*spacing, 1.0])
    affine = np.array(affine, float)
    affine[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    return check_affine(affine, path.name)


def _qform_agrees(header, volume: Volume) -> bool:
    if not is_orthogonal(volume.affine):
        return False
    corners = corner_indices(volume.shape)
    apart = voxel_positions(header.get_qform(), corners) - voxel_positions(volume.affine, corners)
    return bool(np.abs(apart).max() < 1e-3)
