"""What the user has set. It lives in the scene (`parameterNodeWrapper`), so that a saved scene reopens with it.

What belongs to the computer and not to the scene (which Python runs the engine) is in Slicer's settings, see `Engine`.
"""

import re
from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

from SynthDiffusionJobs.Tumour import validAsked

UNCONDITIONAL = "unconditional"  # without a drawing
JOINT = "joint"  # makes the segmentation, too
MODES = ("whole", "inpaint", UNCONDITIONAL, JOINT)
UNDRAWN = (UNCONDITIONAL, JOINT)  # need no segmentation
USUAL_CASES = {UNCONDITIONAL: "image", JOINT: "joint"}  # also of files, so they are the same in all languages
NEAREST = "nearest"  # size: the one next to the drawing's that the model makes
QUALITIES = ("fast", "balanced", "best")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DICOM_LABELS = ("none", "overlay", "burned-in")  # as in SynthDiffusionLib.export.dicom_label
MOST_SAMPLES = 20
MOST_STEPS = 100_000  # of training, in Resources/Schemas/model.schema.json
MOST_GUIDANCE, LARGEST_MARGIN_MM = 20.0, 20.0  # as in SynthDiffusionLib.jobs.request
LARGEST_SEED = 2**31 - 1 - MOST_SAMPLES
MOST_CONDITION_SCALE, LARGEST_VOXEL_MM = 2.0, 20.0
_SIZE = re.compile(r"[1-9]\d{0,3}(x[1-9]\d{0,3}){2}")


@parameterNodeWrapper
class Parameters:
    """The module's parameters.

    segmentation, realVolume: the drawing, and the volume that it is drawn into when mode is "inpaint".
    caseName: begins the names of the results; "" takes the segmentation's name.
    classes: what the user has chosen for a segment: segment ID to the class of the model, "" to leave it out. A segment
        that is not in it goes where its code or its name says.
    quality: what the slider says; `customSampling` puts sampler and steps in its place.
    sampler, steps: "" and 0 for the model's.
    guidance, marginMm: 0 for the model's.
    memoryLimitGiB: 0 for what is free, 24 GiB at most.
    size: "nearest" has a drawing resampled to the next size that the model makes; "512x512x256" is the number of voxels
        of an image without a drawing; "" takes the drawing's, or the model's.
    acrossMm, sliceMm: size of the voxels of an image without a drawing; 0 for the model's.
    conditionScale: how strongly the drawing is followed; 1 is as trained.
    regionTop, regionBottom: parts of the body at the two ends of the image; "" leaves it to the model.
    modality: kind of image, one of the model's; "" for its first.
    tumour: what is asked of the tumour when mode is "joint", by the names of `Tumour.NAMES`; the others are drawn.
    seed: of the first sample, when `fixedSeed`.
    dicomLabel: how "SYNTHETIC" is written on the slices of a DICOM export.
    dicomSegmentation: a DICOM export holds the segmentation, too.
    """

    segmentation: vtkMRMLSegmentationNode
    realVolume: vtkMRMLScalarVolumeNode
    caseName: str = ""
    classes: dict[str, str]
    modelId: str = ""
    mode: Annotated[str, Choice(["whole", "inpaint", "unconditional", "joint"])] = "whole"
    quality: Annotated[str, Choice(["fast", "balanced", "best"])] = "balanced"
    samples: Annotated[int, WithinRange(1, MOST_SAMPLES)] = 1
    fixedSeed: bool = False
    seed: Annotated[int, WithinRange(0, LARGEST_SEED)] = 1
    crop: bool = False
    customSampling: bool = False
    sampler: str = ""
    steps: Annotated[int, WithinRange(0, MOST_STEPS)] = 0
    guidance: Annotated[float, WithinRange(0.0, MOST_GUIDANCE)] = 0.0
    marginMm: Annotated[float, WithinRange(0.0, LARGEST_MARGIN_MM)] = 0.0
    precision: Annotated[str, Choice(["auto", "fp32", "bf16", "fp16"])] = "auto"
    device: str = "auto"
    memoryLimitGiB: Annotated[float, WithinRange(0.0, 1024.0)] = 0.0
    size: str = ""
    acrossMm: Annotated[float, WithinRange(0.0, LARGEST_VOXEL_MM)] = 0.0
    sliceMm: Annotated[float, WithinRange(0.0, LARGEST_VOXEL_MM)] = 0.0
    conditionScale: Annotated[float, WithinRange(0.0, MOST_CONDITION_SCALE)] = 1.0
    regionTop: str = ""
    regionBottom: str = ""
    modality: str = ""
    tumour: dict[str, float]
    previews: bool = True
    dicomLabel: Annotated[str, Choice(["none", "overlay", "burned-in"])] = "none"
    dicomSegmentation: bool = True
    compareReal: vtkMRMLScalarVolumeNode
    compareSynthetic: vtkMRMLScalarVolumeNode


_CHOICES = {"mode": MODES, "quality": QUALITIES, "precision": PRECISIONS, "dicomLabel": DICOM_LABELS}
_DEFAULTS = {"mode": "whole", "quality": "balanced", "precision": "auto", "dicomLabel": "none"}
_RANGES = {
    "samples": (1, MOST_SAMPLES),
    "seed": (0, LARGEST_SEED),
    "steps": (0, MOST_STEPS),
    "guidance": (0.0, MOST_GUIDANCE),
    "marginMm": (0.0, LARGEST_MARGIN_MM),
    "memoryLimitGiB": (0.0, 1024.0),
    "acrossMm": (0.0, LARGEST_VOXEL_MM),
    "sliceMm": (0.0, LARGEST_VOXEL_MM),
    "conditionScale": (0.0, MOST_CONDITION_SCALE),
}


def sizeText(size) -> str:
    """Numbers of voxels as `Parameters.size` has them: "512x512x256"."""
    return "x".join(str(n) for n in size)


def sizeOf(text: str) -> list[int] | None:
    """Numbers of voxels of a `Parameters.size`; None if there are none in it."""
    return [int(n) for n in text.split("x")] if _SIZE.fullmatch(text) else None


def makeValid(parameters: Parameters) -> None:
    """Puts right what a scene of another version may hold: the wrapper checks what is written, not what is read."""
    for name, choices in _CHOICES.items():
        if getattr(parameters, name) not in choices:
            setattr(parameters, name, _DEFAULTS[name])
    for name, (least, most) in _RANGES.items():
        value = getattr(parameters, name)
        if not least <= value <= most:
            setattr(parameters, name, least if not value > most else most)
    if parameters.size not in ("", NEAREST) and sizeOf(parameters.size) is None:
        parameters.size = ""
    asked = dict(parameters.tumour)
    if validAsked(asked) != asked:
        parameters.tumour = validAsked(asked)
    if bool(parameters.regionTop) != bool(parameters.regionBottom):  # one end alone says nothing
        parameters.regionTop = parameters.regionBottom = ""
