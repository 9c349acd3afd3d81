"""Reading what a request names, and bringing segmentation and image into one frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.jobs.outputs import safe_stem
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.jobs.request import GenerateRequest
from SynthDiffusionLib.jobs.sources import source_of_image
from SynthDiffusionLib.labels.mapping import MappedSegmentation, MappingReport, map_to_model
from SynthDiffusionLib.labels.outline import add_outline
from SynthDiffusionLib.models.spec import ModelSpec
from SynthDiffusionLib.schemas import closest
from SynthDiffusionLib.volumes import (
    Segmentation,
    Volume,
    grids_overlap,
    read_segmentation,
    read_volume,
    resample_segmentation,
    resample_to,
    same_grid,
)

# Of a voxel of the drawing's file, while it is read, and while a fine one is brought to the model's voxels.
READ_BYTES, RESAMPLED_BYTES = 5, 10
SUFFIXES = (".seg.nrrd", ".nii.gz", ".nrrd", ".nii", ".mha", ".mhd", ".dcm")


@dataclass(frozen=True)
class Inputs:
    """What a job works on.

    Args:
        case: stem of the output names.
        segmentation: as read, on the image's grid when there is an image; None for a volume without a drawing.
        mapping: its classes.
        image: the real volume to inpaint into, or None.
        notes: what was done to bring them together, in sentences.
        checksums: SHA-256 of the input files.
        drawn_voxels: of the segmentation's file.
        source: where the image is from, see `sources.source_of_image`; None without one.
    """

    case: str
    segmentation: Segmentation | None
    mapping: MappedSegmentation
    image: Volume | None
    notes: list[str]
    checksums: dict[str, str]
    drawn_voxels: int = 0
    source: dict[str, Any] | None = None


def memory_of(inputs: Inputs, cropped: bool) -> tuple[int, int]:
    """What inputs take in host memory, in bytes.

    Args:
        inputs: of a job.
        cropped: only a part of the drawing goes to the model.

    Returns:
        what is held of them throughout; and beside that, while they are read and while a synthetic region is put into
        the real volume and written. As measured (Testing/Benchmarks/process_memory.py).
    """
    if inputs.segmentation is None:
        return 0, 0
    voxels, drawn = inputs.mapping.class_map.size, max(inputs.drawn_voxels, inputs.mapping.class_map.size)
    held = sum(layer.nbytes for layer in inputs.segmentation.layers) + inputs.mapping.class_map.nbytes
    if inputs.image is None:
        return held, (READ_BYTES if cropped else RESAMPLED_BYTES) * drawn
    copies = 3 * inputs.image.array.nbytes  # the result, the same for the file, and what is read or compressed
    return held + inputs.image.array.nbytes, max(copies + 2 * voxels, READ_BYTES * drawn)


def case_name(request: GenerateRequest) -> str:
    """The given name or the segmentation's file name, without what file systems refuse."""
    if request.case is None and request.segmentation is None:
        return request.mode  # "unconditional" or "joint"
    name = request.case if request.case is not None else Path(request.segmentation).name
    if request.case is None:
        suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
        name = name[: len(name) - len(suffix)]
    return safe_stem(name)


def read_inputs(request: GenerateRequest, spec: ModelSpec) -> Inputs:
    """Reads and checks the files of a request.

    Raises:
        BadInput: unreadable files, nothing that the model knows, or frames that do not overlap.
    """
    if request.segmentation is None:
        nothing = MappedSegmentation(np.zeros((1, 1, 1), np.uint8), np.eye(4), spec.label_scheme, ())
        return Inputs(case_name(request), None, nothing, None, [], {})
    notes: list[str] = []
    segmentation = read_segmentation(request.segmentation)
    drawn_voxels = math.prod(segmentation.shape)
    checksums = {"segmentation_sha256": sha256_of(request.segmentation)}
    image = source = None
    # What a label means is read from the file as it is: near the image, fewer labels may be left of it.
    mapping = map_to_model(segmentation, spec.label_scheme, request.labels, spec.target_class)
    if request.image is not None:
        image = read_volume(request.image, unit=spec.intensity.unit)
        checksums["image_sha256"] = sha256_of(request.image)
        source = source_of_image(Path(request.image), image)
        if source["image_synthetic"]:
            notes.append("--image is partly or wholly synthetic itself: not all outside the new region is real")
        if edits := source.get("edited"):
            notes.append(
                (
                    "--image was edited after it was made"
                    if edits == "yes"
                    else "Whether --image was edited after it was made was not checked"
                )
                + ": nothing shows whose its voxels are"
            )
        elif not source["known"]:
            notes.append(
                "Whose image --image was made from is not known, since its record is not beside it: an export cannot "
                "tell that the volume belongs to that patient"
            )
        segmentation = _into_frame(segmentation, image, notes)
        classes = Volume(mapping.class_map, mapping.affine, "label")
        moved = resample_to(classes, image.shape, image.affine, fill=0)
        mapping = replace(mapping, class_map=moved.array, affine=image.affine)
    if request.classes is not None:
        mapping = _keep_classes(mapping, request.classes)
    notes += mapping.report.lines()
    mapping, added = add_outline(mapping, image)
    notes += added
    return Inputs(case_name(request), segmentation, mapping, image, notes, checksums, drawn_voxels, source)


def _into_frame(segmentation: Segmentation, image: Volume, notes: list[str]) -> Segmentation:
    """The segmentation on the image's grid."""
    if same_grid(segmentation.shape, segmentation.affine, image.shape, image.affine):
        return segmentation
    boxes = (segmentation.shape, segmentation.affine), (image.shape, image.affine)
    # Counted both ways: a small image can slip between the lattice points of a large segmentation.
    if grids_overlap(*boxes[0], *boxes[1]) == 0 and grids_overlap(*boxes[1], *boxes[0]) == 0:
        raise BadInput(
            "The segmentation and --image lie in different places: their boxes do not overlap",
            "Draw the segmentation on this image, or give the image that it was drawn on.",
        )
    moved = resample_segmentation(segmentation, image.shape, image.affine)
    if not any(layer.any() for layer in moved.layers):
        raise BadInput("Nothing of the segmentation lies within --image", "Draw the segmentation on this image.")
    notes.append("The segmentation was resampled to the grid of --image")
    return moved


def _keep_classes(mapping: MappedSegmentation, classes: tuple[str, ...]) -> MappedSegmentation:
    """Only some classes count as drawn; voxels of the others fall back to the innermost of them that encloses theirs.

    So a class that is taken away leaves no hole in the shape of it in another (`labels.condition.encode_classes`).

    Raises:
        BadInput: a class that the model does not have, or that is not drawn.
    """
    known = [c.name for c in mapping.scheme.classes]
    for name in classes:
        if name not in known:
            near = closest(name, known)
            hint = f"Did you mean '{near}'? " if near else ""
            raise BadInput(f"'{name}' is no class of this model", f"{hint}Its classes: {', '.join(known)}.")
    given = tuple(n for n in mapping.given if n in classes)
    if not given:
        raise BadInput(f"None of the classes {', '.join(classes)} is drawn", f"Drawn are: {', '.join(mapping.given)}.")
    fallback = np.zeros(256, np.uint8)
    for label in mapping.scheme.classes:
        around = [c.value for c in mapping.scheme.classes if c.name in label.within and c.name in given]
        fallback[label.value] = label.value if label.name in given else (around or [0])[-1]
    entries = tuple(
        e if e.target is None or e.target in given else replace(e, target=None, how=None, unused=e.target)
        for e in mapping.report.entries
    )
    overlaps = tuple(o for o in mapping.report.overlaps if o.over in given and o.under in given)
    report = MappingReport(entries, overlaps)
    return replace(mapping, class_map=fallback[mapping.class_map], given=given, report=report)
