"""Segments with the codes that DICOM asks for: their own, else those of the model's label scheme, else plain tissue.

PS3.3 C.8.20.4 (Segment Description); PS3.16 CID 7150 (categories) and CID 7151 (types).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from SynthDiffusionLib.errors import ModelError, SynthDiffusionError
from SynthDiffusionLib.labels.scheme import LabelScheme, load_scheme
from SynthDiffusionLib.volumes import Code, Segment, Segmentation

TISSUE = Code("SCT", "85756007", "Tissue")
REGION = Segment(
    "synthetic region",
    1,
    category=Code("SCT", "309825002", "Spatial and Relational Concept"),
    type=Code("DCM", "111030", "Image Region"),
    color=(0.2, 0.8, 0.9),
)
"""What was synthesised in an inpainted volume."""


def coded(segmentation: Segmentation, record: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The segments, each with a category and a type.

    A segment without a type gets those of the class of the model that it was mapped to when the volume was generated
    (as the record says), and its name too if it is called by its label value. What no class is known of is "Tissue",
    as in Slicer.

    Args:
        segmentation: from a file; a plain label map has no codes.
        record: provenance of the volume.
    """
    classes = {
        (entry.get("name"), entry.get("value")): entry.get("class")
        for entry in record.get("mapping", {}).get("segments", ())
    }
    scheme = None
    found = []
    for segment in segmentation.segments:
        target = classes.get((segment.name, segment.value))
        if segment.type is None and target is not None:
            scheme = scheme or _scheme(record["model"]["id"])
            segment = _as_class(segment, target, scheme)
        kind = segment.type or TISSUE
        found.append(replace(segment, type=kind, category=segment.category or TISSUE))
    return tuple(found)


def _as_class(segment: Segment, target: str, scheme: LabelScheme) -> Segment:
    name = target if segment.name == str(segment.value) else segment.name
    label = next((c for c in scheme.classes if c.name == target and c.codes), None)
    if label is None:
        return replace(segment, name=name)
    return replace(
        segment,
        name=name,
        type=label.codes[0],
        category=label.category,
        region=segment.region or label.region,
        color=segment.color or label.color,
    )


def _scheme(model: str) -> LabelScheme:
    """The label scheme of a model, from its package or from those that are shipped; empty if neither is there."""
    from SynthDiffusionLib.models import load_package

    try:
        return load_package(model, verify=False).spec.label_scheme
    except ModelError:
        try:
            return load_scheme(model)
        except SynthDiffusionError:
            return LabelScheme(())
