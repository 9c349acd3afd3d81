"""The label map of a case as it stands in its file: as one mask, or with its values as the classes."""

from __future__ import annotations

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.labels.matching import class_by_name
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.volumes import Segmentation


def every_label(segmentation: Segmentation, scheme: LabelScheme, name: str) -> np.ndarray:
    """Every non-zero label as one mask: uint8, (I, J, K), 1 inside."""
    return np.any([layer > 0 for layer in segmentation.layers], axis=0).astype(np.uint8)


def labels_of_file(segmentation: Segmentation, scheme: LabelScheme, name: str) -> np.ndarray:
    """The label values as classes: uint8, (I, J, K).

    Args:
        segmentation: as read from the file.
        scheme: its condition classes are the ones that may occur.
        name: file name for the messages.

    Raises:
        BadInput: values that are no class, segments in several layers (whose values begin anew in each), or a segment
            that by its name is another class than by its value.
    """
    known = ", ".join(f"{c.value} ({c.name})" for c in scheme.condition_classes)
    if len(segmentation.layers) != 1:
        raise BadInput(
            f"'{name}' has overlapping segments in {len(segmentation.layers)} layers, so that its label values are no "
            "classes",
            f"Export it as a label map with the values {known}.",
        )
    values = np.unique(segmentation.layers[0]).tolist()
    strange = sorted(set(values) - {0, *(c.value for c in scheme.condition_classes)})
    if strange:
        some = ", ".join(f"{v:g}" for v in strange[:5]) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
        raise BadInput(
            f"'{name}' has the label{'s' if len(strange) > 1 else ''} {some}, but the classes are {known}",
            "Change the labels, or use the scheme that they belong to.",
        )
    for segment in segmentation.segments:
        meant = class_by_name(segment.name, scheme)
        if meant is not None and meant.value != segment.value:
            raise BadInput(
                f"'{name}' has '{segment.name}' as {segment.value}, which is {meant.value} in this scheme",
                f"Export it as a label map with the values {known}.",
            )
    return segmentation.layers[0].astype(np.uint8)
