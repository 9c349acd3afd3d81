"""What a measure of sets returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from SynthDiffusionLib.evaluation.sets.image_set import ImageSet
    from SynthDiffusionLib.reports.sections import Section


@dataclass(frozen=True)
class Measured:
    """What a measure of sets returns.

    Args:
        sections: of the report.
        settings: what the figures depend on, beyond the frame.
        definitions: name of a figure to how it is computed.
        sets: those that were read, for the report.
    """

    sections: Sequence[Section]
    settings: dict[str, Any]
    definitions: dict[str, str]
    sets: Sequence[ImageSet]
