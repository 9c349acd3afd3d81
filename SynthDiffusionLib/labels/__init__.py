"""Label schemes, the mapping of a user's segments to them, and the condition that a denoiser gets."""

from SynthDiffusionLib.labels.condition import Condition, encode_classes
from SynthDiffusionLib.labels.label_map import read_label_map
from SynthDiffusionLib.labels.mapping import (
    MappedSegmentation,
    MappingEntry,
    MappingReport,
    Overlap,
    map_to_model,
    match_segments,
)
from SynthDiffusionLib.labels.scheme import LabelClass, LabelScheme

__all__ = [
    "Condition",
    "LabelClass",
    "LabelScheme",
    "MappedSegmentation",
    "MappingEntry",
    "MappingReport",
    "Overlap",
    "encode_classes",
    "map_to_model",
    "match_segments",
    "read_label_map",
]
