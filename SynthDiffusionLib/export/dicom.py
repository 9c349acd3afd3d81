"""A synthetic volume as DICOM: a CT or MR series, with its segmentation and, if it is inpainted, the region as SEG.

What stands in the headers is in Docs/DICOM.md. All files get their names together, as one new folder.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import BadInput, MissingExtra
from SynthDiffusionLib.export import dicom_label
from SynthDiffusionLib.export.dicom_geometry import Planes, require_writable, shown_segmentation, shown_volume
from SynthDiffusionLib.export.dicom_marks import Marks, identity_of, modality_of, subject_of
from SynthDiffusionLib.export.dicom_segments import REGION, coded
from SynthDiffusionLib.export.records import beside, record_of
from SynthDiffusionLib.jobs.outputs import limits_of, safe_stem
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.jobs.request import check_choice
from SynthDiffusionLib.output_folders import move_into, staging_folder
from SynthDiffusionLib.volumes import Segment, Segmentation, Volume, read_segmentation, read_volume, same_grid
from SynthDiffusionLib.volumes.atomic import writing_error

if TYPE_CHECKING:
    from SynthDiffusionLib.export.dicom_values import StoredValues


@dataclass(frozen=True)
class DicomRequest:
    """What is exported, and how.

    Args:
        volume: file that `generate` has written.
        out: folder for the new folder; made if missing.
        provenance: its record; None: the .json file beside it.
        segmentation: the drawing that it was made from; None: the one that a joint model has made, if it lies beside.
        region: what is synthetic in an inpainted volume; None: the file that was written with it, if it lies beside.
        subject: name of the synthetic subject, see `dicom_marks.subject_of`.
        date: of creation in the headers, or None to leave it out.
        label: "none", "overlay" or "burned-in".
    """

    volume: Path
    out: Path
    provenance: Path | None = None
    segmentation: Path | None = None
    region: Path | None = None
    subject: str | None = None
    date: datetime.date | None = None
    label: str = "none"


@dataclass(frozen=True)
class DicomExport:
    """What was written.

    Args:
        folder: the new folder.
        image: folder of the slices.
        segmentation: SEG file, or None.
        region: SEG file of an inpainted volume's region, or None.
        subject: name of the synthetic subject.
        slices: how many there are.
        stored: how their values are stored.
        notes: what the user should know.
        other_drawing: file name of the segmentation, if it is not the very file that the record names; else None.
    """

    folder: Path
    image: Path
    segmentation: Path | None
    region: Path | None
    subject: str
    slices: int
    stored: StoredValues
    notes: tuple[str, ...]
    other_drawing: str | None = None


@dataclass(frozen=True)
class _Drawn:
    """A segmentation that is exported with the image: its layers in the order of the slices, and its segments."""

    layers: tuple[np.ndarray, ...]
    segments: tuple[Segment, ...]
    made_by_model: bool


def export_dicom(request: DicomRequest, on_slice: Callable[[int, int], None] | None = None) -> DicomExport:
    """Writes a volume as a DICOM series in a new folder, `OUT/SUBJECT_MODEL_seedN`.

    The same request gives the same bytes, UIDs included.

    Args:
        request: what and how.
        on_slice: is told how many of how many slices are written.

    Raises:
        BadInput: files that cannot be used or do not belong together, or a name that is taken.
        MissingExtra: pydicom or highdicom is not installed.
        RunFailed: the disk is full.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise MissingExtra("Writing DICOM", "dicom") from error
    check_choice(request.label, dicom_label.CHOICES, "label")
    record = record_of(request.volume, request.provenance)
    subject = subject_of(record, request.subject)
    volume = read_volume(request.volume)
    require_writable(volume.affine, request.volume.name)
    shown, planes = shown_volume(volume)
    notes: list[str] = []
    path = _segmentation_of(request, record)
    drawn = _drawn(path, request, record, volume, notes)
    modality = modality_of(record)
    window = limits_of(record.get("display", {})) or _window_of(shown.array)
    identity = identity_of(record, subject, request.date, request.label, modality)
    marks = Marks(record, modality, subject, request.date, identity)
    with staging_folder(request.out) as staging:
        folder = staging.parent / _name(marks)
        if folder.exists():
            raise BadInput(f"'{folder}' is there already", "Remove it, or choose another --out or --subject.")
        try:
            stored = _write(staging / "new", shown, planes, marks, window, request.label, drawn, on_slice)
            move_into(staging / "new", folder)
        except OSError as error:
            raise writing_error(error, folder) from error
    if stored.largest_error:
        notes.append(
            f"voxel values were rounded to steps of {stored.slope:.6g}, by at most {stored.largest_error:.3g}: "
            "16 bits do not hold them exactly"
        )
    files = {name: folder / f"{name}.dcm" if name in drawn else None for name in ("segmentation", "region")}
    return DicomExport(
        folder,
        folder / "image",
        files["segmentation"],
        files["region"],
        subject,
        shown.shape[2],
        stored,
        tuple(notes),
        _other_drawing(path, record),
    )


def _name(marks: Marks) -> str:
    name = f"{safe_stem(marks.subject)}_{marks.model[0]}_seed{marks.record['settings']['seed']}"
    return f"{name}_inpainted" if marks.partly_real else name


def _window_of(array: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(array, (1, 99))
    return float(low), float(high)


def _segmentation_of(request: DicomRequest, record: Mapping[str, Any]) -> Path | None:
    """File of the segmentation that is exported with the volume: what was given, or what a joint model has made."""
    made = beside(request.volume, ".seg.nrrd")
    joint = record["settings"]["mode"] == "joint"
    return request.segmentation or (made if joint and made.is_file() else None)


def _other_drawing(path: Path | None, record: Mapping[str, Any]) -> str | None:
    known = record.get("inputs", {}).get("segmentation_sha256")
    return path.name if path is not None and known is not None and sha256_of(path) != known else None


def _drawn(
    path: Path | None, request: DicomRequest, record: Mapping[str, Any], volume: Volume, notes: list[str]
) -> dict[str, _Drawn]:
    """What is exported beside the image, by the name of its file."""
    joint = record["settings"]["mode"] == "joint"
    found = {}
    if path is not None:
        segmentation = _on_grid(path, volume)
        if any(layer.any() for layer in segmentation.layers):
            found["segmentation"] = _Drawn(shown_segmentation(segmentation), coded(segmentation, record), joint)
        else:
            notes.append(f"'{path.name}' is empty, so that there is no segmentation to write")
    if not record["contains_real_patient_pixels"]:
        if request.region is not None:
            raise BadInput("--region was given, but the volume is synthetic as a whole", "Leave --region out.")
        return found
    region = request.region or beside(request.volume, "_region.seg.nrrd")
    if request.region is None and not region.is_file():
        notes.append("there is no region file, so that nothing tells which part of the volume is synthetic")
        return found
    (layer,) = _on_grid(region, volume).layers[:1]
    mask = Segmentation(((layer > 0).astype(np.uint8),), volume.affine, (REGION,))
    found["region"] = _Drawn(shown_segmentation(mask), (REGION,), True)
    return found


def _on_grid(path: Path, volume: Volume) -> Segmentation:
    segmentation = read_segmentation(path, empty=True)
    if not same_grid(segmentation.shape, segmentation.affine, volume.shape, volume.affine):
        sizes = [" x ".join(map(str, shape)) for shape in (segmentation.shape, volume.shape)]
        raise BadInput(
            f"'{path.name}' has another grid than the volume ({sizes[0]} voxels, the volume has {sizes[1]})",
            "Give the segmentation that the volume was made with, on the volume's grid; Slicer's Segmentations module "
            "resamples it (Export to files, with the volume as the reference).",
        )
    return replace(segmentation, affine=volume.affine)


def _write(
    folder: Path,
    shown: Volume,
    planes: Planes,
    marks: Marks,
    window: tuple[float, float],
    label: str,
    drawn: Mapping[str, _Drawn],
    on_slice: Callable[[int, int], None] | None,
) -> StoredValues:
    from SynthDiffusionLib.export.dicom_image import series_header, write_series
    from SynthDiffusionLib.export.dicom_seg import dicom_seg
    from SynthDiffusionLib.export.dicom_values import stored_values

    array = shown.array
    mask = dicom_label.label_mask(marks.label, *shown.shape[:2]) if label != "none" else None
    if label == "burned-in":
        array = dicom_label.burned_in(array, mask, window)
    stored = stored_values(array, unsigned=marks.modality == "MR")
    header = series_header(marks, shown.shape, planes, stored, window)
    if label == "burned-in":
        header.BurnedInAnnotation = "YES"
        header.DerivationDescription += f" The word {marks.label} is burned into the pixels of every slice."
    segs = {
        name: dicom_seg(d.layers, d.segments, header, marks, planes, name, number, d.made_by_model)
        for number, (name, d) in enumerate(drawn.items(), 2)
    }
    if label == "overlay":
        dicom_label.add_overlay(header, mask[0], marks.label)
    (folder / "image").mkdir(parents=True)
    write_series(folder / "image", header, array, marks, planes, stored, on_slice or (lambda done, total: None))
    for name, seg in segs.items():
        seg.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    return stored
