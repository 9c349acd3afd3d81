"""A synthetic volume as DICOM: a CT or MR series, with its segmentation and, if it is inpainted, the region as SEG.

What stands in the headers is in Docs/DICOM.md. All files get their names together, as one new folder.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import BadInput, MissingExtra
from SynthDiffusionLib.export import dicom_label
from SynthDiffusionLib.export.dicom_geometry import Planes, require_writable, shown_volume
from SynthDiffusionLib.export.dicom_marks import Marks, identity_of, modality_of, subject_of
from SynthDiffusionLib.export.dicom_masks import Drawn, drawn_region, drawn_segmentation, segmentation_file
from SynthDiffusionLib.jobs.outputs import limits_of, safe_stem
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.jobs.records import check_header, record_of
from SynthDiffusionLib.jobs.request import check_choice
from SynthDiffusionLib.output_folders import move_into, staging_folder
from SynthDiffusionLib.volumes import Volume, read_volume
from SynthDiffusionLib.volumes.atomic import writing_error

if TYPE_CHECKING:
    from SynthDiffusionLib.export.dicom_values import StoredValues


_SERIES_NUMBERS = {"segmentation": 2, "region": 3}
"""The image's is 1. They do not depend on what else is exported."""


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
    check_header(record, volume.metadata, request.volume.name)
    shown, planes = shown_volume(volume)
    require_writable(shown.shape, planes.affine, request.volume.name)
    notes = _notes_on_the_source(record, request.subject)
    path = segmentation_file(request.volume, request.segmentation, record)
    drawn = {}
    if path is not None and (segmentation := drawn_segmentation(path, request.volume, volume, record, notes)):
        drawn["segmentation"] = segmentation
    if region := drawn_region(request.region, request.volume, volume, record, notes):
        drawn["region"] = region
    modality = modality_of(record)
    window = limits_of(record.get("display", {})) or _window_of(shown.array)
    identity = identity_of(record, subject, request.date, request.label, modality)
    marks = Marks(record, modality, subject, request.date, identity)
    with staging_folder(request.out) as staging:
        folder = staging.parent / _name(marks)
        if folder.exists():
            raise BadInput(
                f"'{folder}', whose name says no more than subject, model and seed, is there already",
                "Remove it, or choose another --out or --subject.",
            )
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


def _notes_on_the_source(record: Mapping[str, Any], subject: str | None) -> list[str]:
    """Where the subject may not be that of other volumes of the same patient."""
    if not record["contains_real_patient_pixels"] or subject is not None:
        return []
    source = record.get("source")
    if source is None:
        return [
            "the record does not say which voxels the volume was inpainted into, so that the subject follows from the "
            "image's file: volumes of the same image saved again, or inpainted in several steps, have another"
        ]
    if source.get("edited"):
        return [
            "it was inpainted into an image that was edited, or not checked, after it was made: nothing shows whose "
            "voxels it holds, and whether its subject is theirs"
        ]
    if not source["known"]:
        return [
            "it was inpainted into an image that was synthetic already and had no record beside it, so that its "
            "subject is not that of other volumes of the same patient"
        ]
    return []


def _window_of(array: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(array, (1, 99))
    return float(low), float(high)


def _other_drawing(path: Path | None, record: Mapping[str, Any]) -> str | None:
    known = record.get("inputs", {}).get("segmentation_sha256")
    return path.name if path is not None and known is not None and sha256_of(path) != known else None


def _write(
    folder: Path,
    shown: Volume,
    planes: Planes,
    marks: Marks,
    window: tuple[float, float],
    label: str,
    drawn: Mapping[str, Drawn],
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
        name: dicom_seg(d.layers, d.segments, header, marks, planes, name, _SERIES_NUMBERS[name], d.made_by_model)
        for name, d in drawn.items()
    }
    if label == "overlay":
        dicom_label.add_overlay(header, mask[0], marks.label)
    (folder / "image").mkdir(parents=True)
    write_series(folder / "image", header, array, marks, planes, stored, on_slice or (lambda done, total: None))
    for name, seg in segs.items():
        seg.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    return stored
