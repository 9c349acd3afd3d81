"""The files of a training set: copied bit for bit where nothing must change, else written anew as .nii.gz.

What is written anew has the same voxel values at the same places; of its header only the geometry is kept, and the
mark of a synthetic volume.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from SynthDiffusionLib.export.on_grid import read_on_grid
from SynthDiffusionLib.export.set_cases import SourceCase
from SynthDiffusionLib.export.set_classes import painted
from SynthDiffusionLib.jobs.outputs import header_marks
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.volumes import Volume, read_volume, write_volume
from SynthDiffusionLib.volumes.grid import corner_indices, is_orthogonal, voxel_positions

SUFFIX = ".nii.gz"
_MM = 2  # of xyzt_units
_SAME_PLACE = 1e-4  # mm


def write_case(
    case: SourceCase, values: Mapping[tuple[int, int], int], image: Path, label: Path | None
) -> dict[str, object]:
    """Writes image and label map of a case.

    Args:
        case: which one.
        values: see `set_classes.ClassTable.of`.
        image, label: final names; their folders are there.

    Returns:
        "sha256" and "label_sha256" ("" without one) of the files, "source_sha256" of the image's source; "copied"
        and "label_copied": whether bit for bit; "sheared": whether the axes are not at right angles.

    Raises:
        BadInput: a file has changed since it was checked.
        OSError: it cannot be written.
    """
    volume = read_volume(case.image)
    copied = has_plain_form(case.image, volume)
    if copied:
        shutil.copyfile(case.image, image)
    else:
        metadata = header_marks(case.record) if case.record is not None else {}
        write_volume(Volume(volume.array, volume.affine, volume.unit, metadata), image)
    label_copied = False
    if case.label is not None and label is not None:
        segmentation, on_grid = read_on_grid(case.label, volume, case.record)
        unchanged = all(value == new for (_, value), new in values.items())
        label_copied = on_grid and unchanged and has_plain_form(case.label, volume, of_labels=True)
        if label_copied:
            shutil.copyfile(case.label, label)
        else:
            array = painted(segmentation, values, case)
            metadata = header_marks(case.record) if case.record is not None else {}
            write_volume(Volume(array, volume.affine, "label", metadata), label)
    return {
        "sha256": sha256_of(image),
        "source_sha256": sha256_of(case.image),
        "label_sha256": sha256_of(label) if case.label is not None and label is not None else "",
        "copied": copied,
        "label_copied": label_copied,
        "sheared": not is_orthogonal(volume.affine),
    }


def has_plain_form(path: Path, volume: Volume, of_labels: bool = False) -> bool:
    """Whether a file can be taken as it is: a .nii.gz of three axes that every reader places where `volume` lies.

    Readers differ where the header's two transforms do, where it has none, and where its unit is not mm.

    Args:
        path: the file.
        volume: it, or the image that it is a label map of, as read here.
        of_labels: whether its values must be whole numbers as they are stored.
    """
    import nibabel as nib

    if not path.name.lower().endswith(SUFFIX):
        return False
    image = nib.load(path)
    header = image.header
    if not isinstance(header, nib.Nifti1Header) or len(header.get_data_shape()) != 3:
        return False
    if int(header["xyzt_units"]) & 7 not in (0, _MM):
        return False
    scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
    if of_labels and (scaled or header.get_data_dtype().kind not in "iu"):
        return False
    transforms = [
        affine
        for affine, code in (header.get_sform(coded=True), header.get_qform(coded=True))
        if affine is not None and code > 0
    ]
    corners = corner_indices(volume.shape)
    places = voxel_positions(volume.affine, corners)
    same = [np.abs(voxel_positions(t, corners) - places).max() <= _SAME_PLACE for t in transforms]
    spacing = np.allclose(header["pixdim"][1:4], volume.spacing, rtol=1e-6)
    return bool(same) and all(same) and bool(spacing)
