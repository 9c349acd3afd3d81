"""The settings of a volume that was made, put back into the parameters."""

from __future__ import annotations

from collections.abc import Mapping

from slicer.i18n import tr as _

from SynthDiffusionJobs.Engine import Engine, ModelInfo
from SynthDiffusionJobs.Parameters import (
    JOINT,
    LARGEST_SEED,
    MOST_CONDITION_SCALE,
    NEAREST,
    UNDRAWN,
    USUAL_CASES,
    sizeOf,
    sizeText,
)
from SynthDiffusionJobs.Tumour import askedOf

_NEEDED = ("model", "mode", "sampler", "steps", "seed", "guidance")


def applySettings(parameters, volumeNode, engine: Engine) -> list[str]:
    """Sets the parameters so that the next run makes the same volume again.

    Args:
        parameters: are changed.
        volumeNode: the synthetic volume.
        engine: says which models and devices there are.

    Returns:
        What could not be put back, a sentence each.

    Raises:
        SceneError: the volume does not say how it was made. Nothing is changed then.
    """
    import slicer.util

    from SynthDiffusionScene.errors import SceneError
    from SynthDiffusionScene.runs import settingsOf

    settings = settingsOf(volumeNode)
    absent = [name for name in _NEEDED if settings.get(name) in (None, "")]
    if absent:
        message = _("The record of '{name}' is incomplete: it lacks {entries}").format(
            name=volumeNode.GetName(), entries=", ".join(absent)
        )
        raise SceneError(message, _("Choose another volume."))
    missing = obstacles(volumeNode, engine)
    with slicer.util.NodeModify(parameters.parameterNode):  # one change, not twenty
        for apply, arguments in (
            (_applySources, (volumeNode, settings, engine)),
            (_applyModel, (volumeNode, settings, engine)),
            (_applyNumbers, (settings,)),
            (_applyGridAndControls, (settings,)),
            (_applyTumour, (settings,)),
            (_applyDevice, (settings, engine)),
        ):
            try:
                missing += apply(parameters, *arguments)
            except (ValueError, TypeError) as error:  # a record of another version, or from elsewhere
                missing.append(_("Not all settings can be put back: {reason}").format(reason=error))
    return missing


def obstacles(volumeNode, engine: Engine) -> list[str]:
    """Why a volume cannot be made again, a sentence each: what it was made from, or with, is not there.

    Raises:
        SceneError: as `applySettings`.
    """
    from SynthDiffusionScene.runs import REAL_VOLUME_ROLE, SEGMENTATION_ROLE, settingsOf

    settings, found = settingsOf(volumeNode), []
    if settings.get("mode") not in UNDRAWN and volumeNode.GetNodeReference(SEGMENTATION_ROLE) is None:
        found.append(_("The segmentation that it was made from is not in the scene any more."))
    if settings.get("mode") == "inpaint" and volumeNode.GetNodeReference(REAL_VOLUME_ROLE) is None:
        found.append(_("The real volume that it was drawn into is not in the scene any more."))
    model = engine.model(settings.get("model"))
    if model is None or not model.usable:
        found.append(_("The model '{id}' is not installed.").format(id=settings.get("model")))
    return found


def _applySources(parameters, volumeNode, settings: Mapping, engine: Engine) -> list[str]:
    """Segmentation with its classes and the name of the case, mode and real volume. Returns what is missing."""
    from SynthDiffusionScene.digests import drawingChanged, realVolumeChanged
    from SynthDiffusionScene.hierarchy import comesFromDicom
    from SynthDiffusionScene.runs import REAL_VOLUME_ROLE, SEGMENTATION_ROLE

    missing = []
    parameters.mode = settings["mode"]
    case = settings.get("case", "")
    # That of the mode "joint" was made with the volume, and is nothing to begin with.
    segmentation = volumeNode.GetNodeReference(SEGMENTATION_ROLE) if settings["mode"] not in UNDRAWN else None
    if segmentation is not None:
        parameters.segmentation = segmentation
        parameters.classes, gone = _classesById(segmentation, settings, engine.model(settings["model"]))
        if gone:
            text = _("Segments that are not there any more, or have another name: {names}.")
            missing.append(text.format(names=", ".join(gone)))
        if drawingChanged(volumeNode, segmentation):
            missing.append(_("The drawing was changed since: the next volume follows it as it is now."))
        usual = "case" if comesFromDicom(segmentation.GetScene(), segmentation) else segmentation.GetName()
        case = "" if case == usual else case  # so that the next segmentation is not called after this one
    elif case == USUAL_CASES.get(settings["mode"]):
        case = ""
    parameters.caseName = case
    if settings["mode"] == "inpaint":
        realVolume = volumeNode.GetNodeReference(REAL_VOLUME_ROLE)
        if realVolume is not None:
            parameters.realVolume = realVolume
            if realVolumeChanged(volumeNode, realVolume):
                missing.append(_("The real volume was changed since: the next one is drawn into it as it is now."))
        if settings.get("inpaint_method", "conditioned") != "conditioned":
            text = _("It was inpainted by the method '{name}', which only the command line has.")
            missing.append(text.format(name=settings["inpaint_method"]))
    return missing


def _applyModel(parameters, volumeNode, settings: Mapping, engine: Engine) -> list[str]:
    """Model, quality, sampler and steps. Returns what is missing."""
    from SynthDiffusionLib.sampling.quality import quality_of
    from SynthDiffusionScene.volumes import provenanceOf

    parameters.sampler, parameters.steps = settings["sampler"], settings["steps"]
    model = engine.model(settings["model"])
    if model is None or not model.usable:
        return []
    parameters.modelId = model.id
    description = model.description
    trainSteps = description["diffusion"]["train_steps"]
    quality = quality_of(settings["sampler"], settings["steps"], description["sampling"], trainSteps)
    parameters.customSampling = quality is None
    if quality is not None:
        parameters.quality = quality
    record, present = provenanceOf(volumeNode)["model"], description["version"]
    made = record.get("version") if isinstance(record, dict) else None
    if made in (None, present):
        return []
    text = _("It was made with version {made} of the model; version {present} is installed.")
    return [text.format(made=made, present=present)]


def _applyNumbers(parameters, settings: Mapping) -> list[str]:
    """Guidance, margin, crop and seed. Returns what the panel cannot express."""
    missing = []
    zero = _("It was made with 0 for '{name}', which only the command line can ask for.")
    guidance, margin = settings["guidance"], settings.get("margin_mm")
    if guidance == 0:
        missing.append(zero.format(name=_("guidance")))
    if margin == 0:
        missing.append(zero.format(name=_("margin")))
    parameters.guidance, parameters.marginMm = guidance, margin or 0.0
    parameters.crop = bool(settings.get("crop", False))
    parameters.samples = 1
    parameters.fixedSeed = settings["seed"] <= LARGEST_SEED
    if parameters.fixedSeed:
        parameters.seed = settings["seed"]
    else:
        missing.append(_("Its seed {seed} is too large for this panel.").format(seed=settings["seed"]))
    return missing


def _applyGridAndControls(parameters, settings: Mapping) -> list[str]:
    """Size, voxel size, and what only some models take. Returns what the panel cannot express."""
    missing = []
    only = _("It was made with {name} {value}, which only the command line can ask for.")
    size, spacing, region = settings.get("size"), settings.get("spacing_mm"), settings.get("region")
    scale = settings.get("condition_scale")
    drawn = settings["mode"] not in UNDRAWN
    parameters.size = NEAREST if size == NEAREST else ""
    if size not in (None, NEAREST):
        text = sizeText(size)
        if drawn or sizeOf(text) is None:
            missing.append(only.format(name=_("the size"), value=text))
        else:
            parameters.size = text
    parameters.acrossMm = parameters.sliceMm = 0.0
    if spacing is not None:
        if drawn or spacing[0] != spacing[1]:
            missing.append(only.format(name=_("voxels of (mm)"), value=sizeText(spacing)))
        else:
            parameters.acrossMm, parameters.sliceMm = float(spacing[0]), float(spacing[2])
    parameters.conditionScale = 1.0
    if scale is not None and scale > MOST_CONDITION_SCALE:
        missing.append(only.format(name=_("the drawing followed with"), value=f"{scale:g}"))
    elif scale is not None:
        parameters.conditionScale = float(scale)
    parameters.regionTop, parameters.regionBottom = region or ("", "")
    parameters.modality = settings.get("modality") or ""
    return missing


def _applyTumour(parameters, settings: Mapping) -> list[str]:
    """What was asked of the tumour. What was drawn is drawn again with the seed."""
    if settings["mode"] == JOINT:
        parameters.tumour = askedOf(settings.get("tumour") or {})
    return []


def _applyDevice(parameters, settings: Mapping, engine: Engine) -> list[str]:
    """Device and precision. Returns what is missing."""
    wanted = settings.get("device", "auto")
    device = engine.device(wanted)
    if device is None:
        parameters.device = parameters.precision = "auto"
        text = _("It was computed on '{device}', which is not there now: the voxels may differ slightly.")
        return [text.format(device=wanted)]
    parameters.device = "auto" if wanted == "auto" else device.id
    parameters.precision = settings.get("precision", "auto")
    return []


def _classesById(segmentationNode, settings: Mapping, model: ModelInfo | None) -> tuple[dict[str, str], list[str]]:
    """Segment ID to class, for the segments that still have the name that they had; and the names that are gone.

    What the model gives a segment anyway is left out: nobody has chosen it.
    """
    from SynthDiffusionJobs.Mapping import mapSegments
    from SynthDiffusionScene.drawing import segmentDescriptions
    from SynthDiffusionScene.segmentations import uniqueNames

    labels, used = settings.get("labels", {}), settings.get("classes")
    classes = {name: label if used is None or label in used else None for name, label in labels.items()}
    names = uniqueNames(segmentationNode)
    gone = [name for name in classes if name not in names.values()]
    found = {segmentId: classes[name] or "" for segmentId, name in names.items() if name in classes}
    if model is not None and model.usable:
        for row in mapSegments(segmentDescriptions(segmentationNode), model.description, {}):
            if found.get(row.id) == row.target:
                del found[row.id]
    return found, gone
