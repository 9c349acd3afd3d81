"""The settings of a volume that was made, put back into the parameters."""

from __future__ import annotations

from slicer.i18n import tr as _

from SynthDiffusionJobs.Engine import Engine


def applySettings(parameters, volumeNode, engine: Engine) -> list[str]:
    """Sets the parameters so that the next run makes the same volume again.

    Args:
        parameters: are changed.
        volumeNode: the synthetic volume.
        engine: says which models and devices there are.

    Returns:
        What could not be put back, a sentence each.

    Raises:
        SceneError: the volume does not say how it was made.
    """
    from SynthDiffusionScene.runs import REAL_VOLUME_ROLE, SEGMENTATION_ROLE, settingsOf

    settings = settingsOf(volumeNode)
    missing = []
    segmentation = volumeNode.GetNodeReference(SEGMENTATION_ROLE)
    if segmentation is None:
        missing.append(_("The segmentation that it was made from is not in the scene any more."))
    else:
        parameters.segmentation = segmentation
        parameters.classes = _classesById(segmentation, settings.get("labels", {}))
    if settings["mode"] == "inpaint":
        realVolume = volumeNode.GetNodeReference(REAL_VOLUME_ROLE)
        if realVolume is None:
            missing.append(_("The real volume that it was drawn into is not in the scene any more."))
        else:
            parameters.realVolume = realVolume
    parameters.mode = settings["mode"]
    missing += _applyModel(parameters, volumeNode, settings, engine)
    parameters.guidance = settings["guidance"]
    parameters.marginMm = settings.get("margin_mm", 0.0)
    parameters.crop = settings.get("crop", False)
    parameters.caseName = settings.get("case", "")
    parameters.samples = 1
    parameters.fixedSeed, parameters.seed = True, settings["seed"]
    parameters.precision, parameters.device = settings.get("precision", "auto"), settings.get("device", "auto")
    if engine.device(parameters.device) is None:
        text = _("It was computed on '{device}', which is not there now: the voxels may differ slightly.")
        missing.append(text.format(device=parameters.device))
        parameters.device = parameters.precision = "auto"
    return missing


def _applyModel(parameters, volumeNode, settings: dict, engine: Engine) -> list[str]:
    """Model, quality, sampler and steps. Returns what is missing."""
    from SynthDiffusionLib.sampling.quality import quality_of
    from SynthDiffusionScene.volumes import provenanceOf

    parameters.sampler, parameters.steps = settings["sampler"], settings["steps"]
    model = engine.model(settings["model"])
    if model is None or not model.usable:
        return [_("The model '{id}' is not installed.").format(id=settings["model"])]
    parameters.modelId = model.id
    description = model.description
    trainSteps = description["diffusion"]["train_steps"]
    quality = quality_of(settings["sampler"], settings["steps"], description["sampling"], trainSteps)
    parameters.customSampling = quality is None
    if quality is not None:
        parameters.quality = quality
    made, present = provenanceOf(volumeNode)["model"].get("version"), description["version"]
    if made == present:
        return []
    text = _("It was made with version {made} of the model; version {present} is installed.")
    return [text.format(made=made, present=present)]


def _classesById(segmentationNode, classes: dict[str, str | None]) -> dict[str, str]:
    """Segment ID to class, for the segments that still have the name that they had."""
    from SynthDiffusionScene.segmentations import uniqueNames

    names = uniqueNames(segmentationNode)
    return {segmentId: classes[name] or "" for segmentId, name in names.items() if name in classes}
