"""DICOM Segmentation objects, through highdicom.

Standard: PS3.3 A.51 (Segmentation IOD) and C.8.20.2 (Segment Description).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from SynthDiffusionLib.errors import BadInput, MissingExtra
from SynthDiffusionLib.volumes.checks import check_3d, check_size
from SynthDiffusionLib.volumes.dicom_series import dicom_faults, from_highdicom, quiet_dicom
from SynthDiffusionLib.volumes.grid import check_affine
from SynthDiffusionLib.volumes.stream import decoding
from SynthDiffusionLib.volumes.terminology import current_code
from SynthDiffusionLib.volumes.volume import Code, Segment, Segmentation

_SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage (PS3.6); pydicom 3.0 has no name for the second."""


def read_dicom_seg(path: Path) -> Segmentation:
    """A DICOM SEG file: segments with their coded category, type, region and color.

    Segments lie in one layer, with their segment numbers as values, unless they overlap.

    Raises:
        BadInput: another kind of DICOM file, probabilities, or frames that form no volume.
        MissingExtra: highdicom is not installed.
    """
    try:
        import highdicom
        from pydicom import dcmread
    except ImportError as error:
        raise MissingExtra("Reading DICOM SEG", "dicom") from error
    with quiet_dicom():
        with decoding(path, "DICOM SEG", *dicom_faults()):
            header = dcmread(path, stop_before_pixels=True)
            if header.SOPClassUID not in _SOP_CLASSES:
                raise BadInput(
                    f"{path.name}: it is a DICOM {header.get('Modality', 'file')}, not a segmentation",
                    "Choose a DICOM SEG file.",
                )
            if header.get("SegmentationType") == "FRACTIONAL":
                raise BadInput(f"{path.name}: it holds probabilities", "Export a binary segmentation.")
            sizes = (int(header.Columns), int(header.Rows), int(header.NumberOfFrames))
        check_size(sizes, 1, path.name)
        with decoding(path, "DICOM SEG", *dicom_faults()):
            stored = highdicom.seg.segread(path)
            numbers = sorted(int(n) for n in stored.segment_numbers if int(n) > 0)
            described = {n: stored.get_segment_description(n) for n in numbers}
            layers: list[np.ndarray] = []
            segments: list[Segment] = []
            affine = None
            dtype = np.uint8 if numbers[-1] < 256 else np.uint16
            for number in numbers:
                volume = stored.get_volume(segment_numbers=[number], combine_segments=False, rescale_fractional=False)
                array, affine = from_highdicom(volume.array[..., 0], volume.affine)
                mask = array > 0
                layer = _free_layer(layers, mask, dtype)
                layers[layer][mask] = number
                segments.append(_segment(described[number], number, layer))
    check_3d(layers[0].shape, path.name)
    return Segmentation(tuple(layers), check_affine(affine, path.name), tuple(segments))


def _free_layer(layers: list[np.ndarray], mask: np.ndarray, dtype: type) -> int:
    """The first layer in which nothing lies at the mask; a new one if there is none."""
    for index, layer in enumerate(layers):
        if not layer[mask].any():
            return index
    layers.append(np.zeros(mask.shape, dtype=dtype, order="F"))
    return len(layers) - 1


def _segment(description, number: int, layer: int) -> Segment:
    regions = description.get("AnatomicRegionSequence") or []
    type_item = description.SegmentedPropertyTypeCodeSequence[0]
    return Segment(
        name=str(description.SegmentLabel).strip() or str(number),
        value=number,
        layer=layer,
        category=_code(description.SegmentedPropertyCategoryCodeSequence[0]),
        type=_code(type_item),
        region=_code(regions[0]) if regions else None,
        color=_color(description.get("RecommendedDisplayCIELabValue")),
        type_modifier=_first_code(type_item.get("SegmentedPropertyTypeModifierCodeSequence")),
        region_modifier=_first_code(regions[0].get("AnatomicRegionModifierSequence")) if regions else None,
    )


def _first_code(items) -> Code | None:
    return _code(items[0]) if items else None


def _code(item) -> Code:
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue") or ""
    return current_code(Code(str(item.get("CodingSchemeDesignator", "")), str(value), str(item.get("CodeMeaning", ""))))


def _color(lab) -> tuple[float, float, float] | None:
    if lab is None:
        return None
    from highdicom.color import CIELabColor

    return tuple(part / 255 for part in CIELabColor.from_dicom_value(lab).to_rgb())
