"""Segmentations as DICOM SEG, through highdicom: PS3.3 A.51 (Segmentation IOD) and C.8.20.2 (Segmentation Image)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from SynthDiffusionLib.export.dicom_geometry import Planes
from SynthDiffusionLib.export.dicom_image import place_slice
from SynthDiffusionLib.export.dicom_marks import (
    MANUFACTURER,
    Marks,
    add_marks,
    equipment,
    series_description,
    shortened_to,
    versions,
)
from SynthDiffusionLib.volumes import Code, Segment

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom import Dataset

ALL_FRAMES_BYTES = 64 * 2**20
"""Frames of slices that a segment does not touch are written too, so that readers find the grid of the image, as long
as all frames take at most this much."""

_NO_DATE, _NO_TIME = "19000101", "000000"
"""Content Date and Time of a segmentation must have a value (PS3.3 C.7.6.16)."""


def dicom_seg(
    layers: Sequence[np.ndarray],
    segments: Sequence[Segment],
    header: Dataset,
    marks: Marks,
    planes: Planes,
    name: str,
    number: int,
    made_by_model: bool,
) -> Segmentation:
    """A segmentation of the image, ready to be saved.

    Args:
        layers: label maps, each (columns, rows, slices) as the image's.
        segments: what their values mean, with category and type.
        header: of the image's slices, see `dicom_image.series_header`.
        marks: of the export.
        planes: where the slices lie.
        name: "segmentation" or "region"; goes into its UIDs and its description.
        number: of its series.
        made_by_model: the model has made it; else it is a drawing.
    """
    import highdicom

    shape = layers[0].shape
    pixels = _pixels(layers, segments)
    frames = len(segments) * np.prod(shape, dtype=float) / 8
    content = hashlib.sha256(repr((number, made_by_model, segments)).encode() + pixels.tobytes()).hexdigest()
    uids = [marks.uid(name, content, part) for part in ("series", "instance", "dimensions")]
    stored = highdicom.seg.Segmentation(
        source_images=_source_images(header, marks, planes, shape[2]),
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=[
            _description(s, n, marks, f"{name}/{n}/{_content(pixels, n, s)}", made_by_model)
            for n, s in enumerate(segments, 1)
        ],
        series_instance_uid=uids[0],
        series_number=number,
        sop_instance_uid=uids[1],
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=marks.model[0],
        software_versions=versions(marks),
        device_serial_number=marks.weights_sha256 or "unknown",
        content_label=name.upper(),
        content_description=shortened_to(f"{marks.label} {marks.modality}: {name}", 64),
        omit_empty_frames=frames > ALL_FRAMES_BYTES,
        series_description=series_description(marks, f" {name}"),
        contributing_equipment=[equipment(marks)],
    )
    _make_reproducible(stored, marks, uids[2])
    add_marks(stored, marks)
    if marks.wholly_made:
        stored.BurnedInAnnotation = "NO"
    return stored


def _pixels(layers: Sequence[np.ndarray], segments: Sequence[Segment]) -> np.ndarray:
    """Segment numbers, (slices, rows, columns); where segments may overlap, a mask each, with a last axis for them."""
    if len(layers) == 1:
        numbers = np.zeros(int(layers[0].max()) + 1, np.uint16 if len(segments) > 255 else np.uint8)
        for number, segment in enumerate(segments, 1):
            if segment.value < len(numbers):
                numbers[segment.value] = number
        return np.ascontiguousarray(numbers[layers[0].T])
    return np.stack([layers[s.layer].T == s.value for s in segments], axis=-1).astype(np.uint8)


def _source_images(header: Dataset, marks: Marks, planes: Planes, count: int) -> list[Dataset]:
    from pydicom import Dataset

    images = []
    for index in range(count):
        item = Dataset()
        item.update(header)
        place_slice(item, marks, planes, index)
        images.append(item)
    return images


def _content(pixels: np.ndarray, number: int, segment: Segment) -> str:
    """SHA-256 of a segment's name, codes and voxels, so that no two things that are drawn have one tracking UID."""
    mask = pixels[..., number - 1] > 0 if pixels.ndim == 4 else pixels == number
    meaning = repr(replace(segment, value=0, layer=0, color=None))
    return hashlib.sha256(meaning.encode() + np.packbits(mask).tobytes()).hexdigest()


def _description(segment: Segment, number: int, marks: Marks, tracked: str, made_by_model: bool) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    model, version = marks.model
    algorithm = AlgorithmIdentificationSequence(
        name=model, family=codes.cid7162.ArtificialIntelligence, version=version, source=MANUFACTURER
    )
    described = SegmentDescription(
        segment_number=number,
        segment_label=shortened_to(segment.name, 64),
        segmented_property_category=_code(segment.category),
        segmented_property_type=_code(segment.type),
        algorithm_type="AUTOMATIC" if made_by_model else "MANUAL",
        algorithm_identification=algorithm if made_by_model else None,
        tracking_uid=marks.uid("segment", tracked),
        tracking_id=hashlib.sha256(f"{marks.identity}/{tracked}".encode()).hexdigest()[:32],
        anatomic_regions=[_code(segment.region)] if segment.region else None,
        display_color=CIELabColor.from_rgb(*(round(255 * c) for c in segment.color)) if segment.color else None,
    )
    if segment.type_modifier:
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_code(segment.type_modifier)]
    if segment.region and segment.region_modifier:
        described.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_code(segment.region_modifier)]
    return described


def _code(code: Code) -> Dataset:
    from highdicom.sr import CodedConcept

    meaning = shortened_to(code.meaning, 64) or code.value
    return CodedConcept(shortened_to(code.value, 64), shortened_to(code.scheme, 16), meaning)


def _make_reproducible(stored: Segmentation, marks: Marks, dimensions: str) -> None:
    """Puts dates and a UID that follow from the export in the place of those that highdicom takes from the clock and
    from chance."""
    del stored.InstanceCreationDate, stored.InstanceCreationTime
    stored.ContentDate, stored.ContentTime = _NO_DATE, _NO_TIME
    for item in (*stored.DimensionOrganizationSequence, *stored.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    stored.PositionReferenceIndicator = ""
