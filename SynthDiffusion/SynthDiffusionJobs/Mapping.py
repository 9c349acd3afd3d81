"""Which segment goes to which class of a model: what the names and codes say, and what the user has chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MappedSegment:
    """One row of the mapping table.

    Args:
        id, name, color: of the segment; color is RGB in 0..1.
        voxels: how many are drawn; None where nobody has counted, as for surfaces.
        target: name of the class; "" if the segment is left out.
        how: "chosen" by the user, else as `SynthDiffusionLib.labels.MappingEntry.how`; "" if nothing matched.
        note: what the user should know, if anything.
    """

    id: str
    name: str
    color: tuple[float, float, float]
    voxels: int | None
    target: str
    how: str
    note: str = ""

    @property
    def drawn(self) -> bool:
        return self.voxels is None or self.voxels > 0


def mapSegments(descriptions: Sequence, modelDescription: Mapping, chosen: Mapping[str, str]) -> list[MappedSegment]:
    """The mapping as a run would make it.

    Args:
        descriptions: `SynthDiffusionScene.drawing.SegmentDescription`s of the segmentation.
        modelDescription: the model's model.json.
        chosen: segment ID to class, "" to leave it out, as in `Parameters.classes`. A class that the model does not
            have is ignored: the choice was made for another model.
    """
    from SynthDiffusionLib.labels import LabelScheme, match_segments
    from SynthDiffusionLib.volumes import Segment
    from SynthDiffusionLib.volumes.terminology import with_terminology

    scheme = LabelScheme.from_json(modelDescription["label_scheme"])
    classes = {label.name for label in scheme.classes}
    segments = []
    for number, segment in enumerate(descriptions, start=1):
        # Segments of a plain label map have numbers for names, which may be the values of the model's classes.
        value = int(segment.name) if segment.name.isdecimal() and len(segment.name) < 6 else number
        voxels = 1 if segment.voxels is None else segment.voxels
        drawn = with_terminology(Segment(segment.name, value, color=segment.color), segment.terminology)
        segments.append((drawn, voxels))
    matched = match_segments(segments, scheme, modelDescription.get("target_class"))
    rows = []
    for segment, entry in zip(descriptions, matched):
        target, how, note = entry.target or "", entry.how or "", entry.note
        choice = chosen.get(segment.id)
        if choice is not None and (choice == "" or choice in classes):
            target, how, note = choice, "chosen", ""
        rows.append(MappedSegment(segment.id, segment.name, segment.color, segment.voxels, target, how, note))
    return rows


def fits(rows: Sequence[MappedSegment]) -> int:
    """How many classes of the model are drawn: 0 if the model cannot use the segmentation."""
    return len({row.target for row in rows if row.target and row.drawn})


def labelMap(rows: Sequence[MappedSegment], names: Mapping[str, str]) -> dict[str, str | None]:
    """The table as the `labels` of a request.

    Args:
        rows: the table.
        names: segment ID to its name in the job's copy of the segmentation.
    """
    return {names[row.id]: row.target or None for row in rows if row.id in names}
