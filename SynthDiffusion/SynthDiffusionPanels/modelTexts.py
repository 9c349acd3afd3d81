"""What a model package says about itself, in words for a radiologist."""

from __future__ import annotations

from collections.abc import Mapping

from slicer.i18n import tr as _

from SynthDiffusionPanels.sentences import durationText, memoryText


def qualityNames() -> dict[str, str]:
    """The stops of the quality slider, as they are called."""
    return {"fast": _("Fast"), "balanced": _("Balanced"), "best": _("Best")}


def makesText(description: Mapping) -> str:
    """What the model makes: "CT of the chest, up to 64 x 64 x 64 mm, voxels of 1 mm"."""
    grid = description["grid"]
    size = [n * mm for n, mm in zip(grid["max_size"], grid["spacing_mm"])]
    spacing = grid["spacing_mm"]
    voxels = f"{spacing[0]:g}" if len(set(spacing)) == 1 else _by(spacing)
    text = _("{modality} of the {part}, up to {size} mm, voxels of {voxels} mm.").format(
        modality=description["modality"], part=description["body_part"], size=_by(size), voxels=voxels
    )
    inpaint = description.get("inpaint")
    if "inpaint" in description["modes"] and inpaint:
        region = _("In a real volume: structures up to {size} mm, a little less in coarse images.")
        text += " " + region.format(size=f"{inpaint['max_region_mm']:g}")
    return text


def licenceText(description: Mapping) -> str:
    """Licence and permitted use."""
    licence = description["license"]
    name = _("not known") if licence["spdx"] == "NOASSERTION" else licence["spdx"]
    return f"{name}. {licence['permitted_use']}"


def trainingText(description: Mapping) -> str:
    """Data set and its licence, how many of its cases the model has learnt from, and on how many it was measured."""
    training = description["training"]
    licence = _("not known") if training["license"] == "NOASSERTION" else training["license"]
    text = _("{data} (license: {licence}).").format(data=training["dataset"].rstrip("."), licence=licence)
    cases = training.get("split_sizes", {}).get("train")
    if cases:
        text = _("{n} cases of {rest}").format(n=cases, rest=text)
    patients = _measured(description, "quality").get("test_patients")
    if patients:
        text += " " + _("Measured on {n} other patients.").format(n=patients)
    return text


def performanceText(description: Mapping) -> str:
    """Measured time and memory, with the device they were measured on."""
    measured = _measured(description, "performance")
    seconds, memory = measured.get("seconds"), measured.get("peak_bytes")
    if seconds is None and memory is None:
        return _("Not measured.")
    parts = [
        _("time not measured") if seconds is None else durationText(seconds),
        _("memory not measured") if memory is None else memoryText(memory),
    ]
    text = ", ".join(parts)
    if measured.get("grid"):
        text += _(" for {size} voxels").format(size=_by(measured["grid"]))
    if measured.get("steps"):
        text += _qualityOfSteps(measured["steps"], description)
    if measured.get("device"):
        threads = measured.get("threads")
        device = measured["device"]
        if threads and device.upper() == "CPU":
            device = _("{device}, {n} threads").format(device=device, n=threads)
        text += _(", on {device}").format(device=device)
    return text + "."


def qualityText(description: Mapping) -> str:
    """How closely the model's images follow what was drawn, as measured; one line."""
    arms = _measured(description, "quality").get("adherence") or {}
    names = {
        "nodule": _("structure alone"),
        "anatomy": _("with its surroundings"),
        "inpainting": _("in a real volume"),
        "moved": _("structure at an unusual place"),
    }
    ratios = {
        arm: f"{row['ratio']:.2f}"
        for arm, row in arms.items()
        if isinstance(row, Mapping) and row.get("ratio") is not None
    }
    if "ball_moved" in ratios:  # without it nobody can tell what the figure is worth
        names["moved"] += _("; a ball in the middle gets {ratio} there").format(ratio=ratios["ball_moved"])
    found = [_("{ratio} ({arm})").format(ratio=ratios[arm], arm=name) for arm, name in names.items() if arm in ratios]
    if not found:
        return _("Not measured.")
    text = _("How closely the drawing is followed, where 1 is as on real images: {figures}.")
    text = text.format(figures=", ".join(found))
    if "ball" in ratios:
        ball = _("A ball in the middle, drawn without looking at the image, gets {ratio}.")
        text += " " + ball.format(ratio=ratios["ball"])
    if "blob_flat_lung" in ratios:  # the figures above say nothing of realism
        blob = _("A flat picture with a blurred blob gets {ratio}: this does not measure how realistic an image is.")
        text += " " + blob.format(ratio=ratios["blob_flat_lung"])
    return text


def qualityMeanings(description: Mapping | None) -> dict[str, str]:
    """What each stop of the quality slider means for a model; without one, what it means in general."""
    from SynthDiffusionLib.sampling.quality import quality_settings

    texts = {
        "fast": _("rough first look"),
        "balanced": _("as measured in the model card"),
        "best": _("most steps, takes longer"),
    }
    if description is None:
        return texts
    sampling, most = description["sampling"], description["diffusion"]["train_steps"]
    fast, balanced, best = (quality_settings(name, sampling, most)[1] for name in ("fast", "balanced", "best"))
    if fast < balanced:
        texts["fast"] = _("rough first look, {n}% of the time").format(n=round(100 * fast / balanced))
    if best > balanced:
        # What the card measures is Balanced.
        texts["best"] = _("most steps, {n} times as long, not measured").format(n=f"{best / balanced:.2g}")
    else:
        texts["best"] = _("the same as Balanced with this model")
    return texts


def guidanceDefault(description: Mapping, mode: str) -> float:
    """The guidance that the model takes by itself, in "whole" or "inpaint" mode; 1 where it says none."""
    own = (description.get("inpaint") or {}).get("default_guidance") if mode == "inpaint" else None
    return description["sampling"].get("default_guidance", 1.0) if own is None else own


def _qualityOfSteps(steps: int, description: Mapping) -> str:
    if steps == description["sampling"]["default_steps"]:
        return _(" at {quality} quality").format(quality=qualityNames()["balanced"])
    return _(" in {n} steps").format(n=steps)


def _measured(description: Mapping, part: str) -> Mapping:
    return (description.get("measured") or {}).get(part) or {}


def _by(values) -> str:
    return " x ".join(f"{value:g}" for value in values)
