"""Reading and writing volumes and segmentations, whatever their format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.volumes.checks import as_labels, check_finite, label_values
from SynthDiffusionLib.volumes.header_texts import header_texts
from SynthDiffusionLib.volumes.marks import EDITED, MARK, own_edit, own_mark
from SynthDiffusionLib.volumes.volume import Segment, Segmentation, Volume

_READABLE = ".nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, or a folder with one DICOM series"


def read_volume(path: str | Path, unit: str | None = None) -> Volume:
    """Read a scalar 3D image.

    Args:
        path: NIfTI, NRRD or MetaImage file, or a folder with one DICOM series.
        unit: "HU", "arbitrary" or "label"; None: "HU" for a DICOM CT series, else "arbitrary".

    Returns:
        volume; a header that marks it as made here, in whichever field, adds `marks.MARK` to its metadata, and
        `marks.EDITED` if it says so.

    Raises:
        BadInput: the file is missing, damaged, of another format, or no scalar 3D image with a usable geometry.
        MissingExtra: DICOM without the extra `dicom`.
    """
    path = existing(path)
    if path.is_dir():
        from SynthDiffusionLib.volumes.dicom_series import read_dicom_series

        volume = read_dicom_series(path)
    else:
        array, affine, metadata = _image_reader(path)(path)
        volume = Volume(array, affine, "arbitrary", metadata)
    if unit == "label":
        volume = volume.with_array(as_labels(volume.array, path.name))
    check_finite(volume.array, path.name)
    metadata = volume.metadata
    texts = header_texts(path)
    if own_mark(texts) is not None:
        metadata = {**metadata, MARK: "YES"} | ({EDITED: "YES"} if own_edit(texts) else {})
    return Volume(volume.array, volume.affine, unit or volume.unit, metadata)


def read_segmentation(path: str | Path, *, empty: bool = False) -> Segmentation:
    """Read a segmentation.

    Args:
        path: label map (NIfTI, NRRD, MetaImage), Slicer's .seg.nrrd, or a DICOM SEG file.
        empty: accept one in which nothing is segmented, such as a model may have made.

    Returns:
        segmentation; a plain label map has the segments "1", "2", ... for the values that occur in it.

    Raises:
        BadInput: as `read_volume`; also fractional, negative or non-finite labels, and nothing segmented.
        MissingExtra: DICOM without the extra `dicom`.
    """
    path = existing(path)
    if is_dicom(path):
        from SynthDiffusionLib.volumes.dicom_seg import read_dicom_seg

        segmentation = read_dicom_seg(path)
    elif path.name.lower().endswith((".nrrd", ".nhdr")):
        from SynthDiffusionLib.volumes.seg_nrrd import read_nrrd_segmentation

        segmentation = read_nrrd_segmentation(path)
    else:
        array, affine, _ = _image_reader(path)(path)
        segmentation = from_label_map(as_labels(array, path.name), affine, path.name)
    if not empty and not any(np.any(layer) for layer in segmentation.layers):
        raise BadInput(f"{path.name}: the segmentation is empty", "Draw or choose at least one structure.")
    return segmentation


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a volume; the suffix chooses the format: .nii, .nii.gz, .nrrd, .mha or .mhd.

    The file appears under its name when it is complete. The same volume gives the same bytes. Of the metadata, NRRD
    takes all, NIfTI (`descrip`, 79 bytes) and MetaImage (`Comment`) take "description".

    Raises:
        BadInput: another suffix, or a folder that is missing or not writable.
        RunFailed: the disk is full.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        from SynthDiffusionLib.volumes.nifti import write_nifti as write
    elif name.endswith(".nrrd"):
        from SynthDiffusionLib.volumes.nrrd_file import write_nrrd as write
    elif name.endswith((".mha", ".mhd")):
        from SynthDiffusionLib.volumes.metaimage import write_metaimage as write
    else:
        raise BadInput(
            f"{path.name}: volumes cannot be written in this format", "Use .nii.gz, .nii, .nrrd, .mha or .mhd."
        )
    write(volume, path)


def write_segmentation(segmentation: Segmentation, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a segmentation as .seg.nrrd, or as a label map (all other suffixes of `write_volume`) if it has one layer.

    Args:
        segmentation: label values must fit what the segments say.
        path: final name.
        metadata: text for the header, as `Volume.metadata`.

    Raises:
        BadInput: several layers in a format that holds one; else as `write_volume`.
        RunFailed: the disk is full.
    """
    path = Path(path)
    if path.name.lower().endswith(".seg.nrrd"):
        from SynthDiffusionLib.volumes.seg_nrrd import write_seg_nrrd

        write_seg_nrrd(segmentation, path, metadata)
        return
    if len(segmentation.layers) != 1:
        raise BadInput(f"{path.name}: overlapping segments do not fit into a label map", "Write a .seg.nrrd file.")
    write_volume(Volume(segmentation.layers[0], segmentation.affine, "label", metadata or {}), path)


def from_label_map(array: np.ndarray, affine: np.ndarray, name: str = "label map") -> Segmentation:
    """A segmentation of one layer whose segments are named after their values.

    Args:
        array: unsigned integers, shape (I, J, K).
        affine: (4, 4) voxel indices to RAS+ millimetres.
        name: for messages.

    Raises:
        BadInput: so many values that it must be an image.
    """
    return Segmentation((array,), affine, tuple(Segment(str(v), v) for v in label_values(array, name)))


def existing(path: str | Path) -> Path:
    """The path if something is there.

    Raises:
        BadInput: nothing is.
    """
    path = Path(path).expanduser()
    try:
        found = path.exists()
    except (OSError, ValueError):  # name too long for the system, or an embedded zero byte
        found = False
    if not found:
        raise BadInput(f"{path} does not exist", "Check the path.")
    return path


def is_dicom(path: Path) -> bool:
    """Whether the file begins as PS3.10 files do: 128 bytes, then "DICM"."""
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _image_reader(path: Path) -> Callable[[Path], tuple[np.ndarray, np.ndarray, dict[str, str]]]:
    name = path.name.lower()
    if path.is_dir():
        raise BadInput(f"{path} is a folder", "Choose a segmentation file.")
    if path.stat().st_size == 0:
        raise BadInput(f"{path.name}: the file is empty", "Copy or download it again.")
    if name.endswith((".nii", ".nii.gz", ".hdr")):
        from SynthDiffusionLib.volumes.nifti import read_nifti as read
    elif name.endswith((".nrrd", ".nhdr")):
        from SynthDiffusionLib.volumes.nrrd_file import read_nrrd as read
    elif name.endswith((".mha", ".mhd")):
        from SynthDiffusionLib.volumes.metaimage import read_metaimage as read
    elif is_dicom(path):
        raise BadInput(f"{path.name}: it is one file of a DICOM series", "Give the folder that holds the series.")
    else:
        raise BadInput(f"{path.name}: it is not an image in a format that can be read", f"Use {_READABLE}.")
    return read
