"""What a model package says about itself, in words for a radiologist."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from slicer.i18n import tr as _

from SynthDiffusionJobs.Parameters import JOINT, UNCONDITIONAL, UNDRAWN
from SynthDiffusionPanels.sentences import durationText, memoryText


def qualityNames() -> dict[str, str]:
    """The stops of the quality slider, as they are called."""
    return {"fast": _("Fast"), "balanced": _("Balanced"), "best": _("Best")}


def makesText(description: Mapping) -> str:
    """What the model makes: "CT of the chest, up to 64 x 64 x 64 mm, voxels of 1 mm"."""
    grid, names = description["grid"], {"modality": description["modality"], "part": description["body_part"]}
    spacing = grid["spacing_mm"]
    if grid.get("spacing_range_mm") or grid.get("rules"):  # how large in mm depends on the voxels, see `limitsText`
        text = _("{modality} of the {part}, up to {size} voxels.").format(size=_by(grid["max_size"]), **names)
    else:
        size = [n * mm for n, mm in zip(grid["max_size"], spacing)]
        voxels = f"{spacing[0]:g}" if len(set(spacing)) == 1 else _by(spacing)
        text = _("{modality} of the {part}, up to {size} mm, voxels of {voxels} mm.").format(
            size=_by(size), voxels=voxels, **names
        )
    inpaint = description.get("inpaint")
    if "inpaint" in description["modes"] and inpaint:
        region = _("In a real volume: structures up to {size} mm, a little less in coarse images.")
        text += " " + region.format(size=f"{inpaint['max_region_mm']:g}")
    if UNCONDITIONAL in description["modes"]:
        if needsDrawing(description):
            text += " " + _("Also without a drawing.")
        else:
            text += " " + _("It works without a drawing and cannot use one.")
    if JOINT in description["modes"]:
        made = _("Makes the segmentation of the {target} with the image, in the size, shape and place asked for.")
        text += " " + made.format(target=targetName(description))
    return text


def needsDrawing(description: Mapping) -> bool:
    """Whether the model can use a drawing at all."""
    return any(mode not in UNDRAWN for mode in description["modes"])


def targetName(description: Mapping) -> str:
    """What a model makes together with its segmentation, by the name that its label scheme has for it."""
    return str((description.get("characteristics") or {}).get("target") or description.get("target_class") or "")


def limitsText(description: Mapping) -> str:
    """Which sizes and voxels the model makes; "" where `makesText` says all of it."""
    grid = description["grid"]
    rules, bounds = grid.get("rules") or {}, grid.get("spacing_range_mm")
    sentences = []
    across, slices = rules.get("in_plane"), rules.get("through_plane")
    if across and slices:
        text = _("{across} voxels across (both directions the same), {slices} slices.")
        sentences.append(text.format(across=_or(across), slices=_or(slices)))
    if rules.get("sizes"):
        sentences.append(_("{sizes} voxels.").format(sizes=_either([_by(size) for size in rules["sizes"]])))
    if bounds:
        if bounds[0] == bounds[1] == bounds[2]:
            sentences.append(_("Voxels of {range} mm.").format(range=_range(bounds[0])))
        elif bounds[0] == bounds[1]:
            text = _("Voxels of {across} mm across, slices of {slices} mm.")
            sentences.append(text.format(across=_range(bounds[0]), slices=_range(bounds[2])))
        else:
            sentences.append(_("Voxels of {ranges} mm.").format(ranges=" x ".join(_range(b) for b in bounds)))
    least, body = rules.get("least_field_of_view_mm"), rules.get("least_field_of_view_body_mm")
    if least and body and body != least:
        text = _("At least {least} mm across; {body} mm are recommended where it shows more than the head.")
        sentences.append(text.format(least=f"{least:g}", body=f"{body:g}"))
    elif least:
        sentences.append(_("At least {least} mm across.").format(least=f"{least:g}"))
    return " ".join(sentences)


def sizeChoices(description: Mapping) -> list[tuple[int, int, int]]:
    """Sizes of an image without a drawing that can be chosen: those of the rules, or the model's own, half of it, and
    the largest.
    """
    grid = description["grid"]
    rules = grid.get("rules") or {}
    if rules.get("in_plane") and rules.get("through_plane"):
        return [(n, n, slices) for n in rules["in_plane"] for slices in rules["through_plane"]]
    if rules.get("sizes"):
        return [tuple(size) for size in rules["sizes"]]
    sizes = {tuple(grid["max_size"])}
    if own := grid.get("default_size"):
        sizes.add(tuple(own))
        half = tuple(math.ceil(n / 2 / grid["divisor"]) * grid["divisor"] for n in own)
        if all(low <= n <= high for low, n, high in zip(grid["min_size"], half, grid["max_size"])):
            sizes.add(half)
    return sorted(sizes, key=lambda size: (size[0] * size[1] * size[2], size))


def classNames(description: Mapping) -> list[str]:
    """Names of the classes that can be drawn."""
    return [entry["name"] for entry in description["label_scheme"]]


def regionName(region: str) -> str:
    """A part of the body in the user's language."""
    names = {"head": _("head"), "chest": _("chest"), "abdomen": _("abdomen"), "pelvis": _("pelvis")}
    return names.get(region, region)


def samplerName(sampler: str) -> str:
    """A sampler as the list under Advanced calls it. The others are known by their own names, as in the records."""
    names = {
        "euler": _("euler: plain steps"),
        "heun": _("heun: corrected steps, twice the time"),
        "maisi-rflow": _("maisi-rflow: as published"),
    }
    return names.get(sampler, sampler)


def licenceName(licence: Mapping) -> str:
    """What a licence is called."""
    name = str(licence.get("name") or licence.get("spdx") or "NOASSERTION")
    return _("not known") if name == "NOASSERTION" else name.removeprefix("LicenseRef-")


def isNonCommercial(licence: Mapping) -> bool:
    """Whether a licence rules out commercial use, as far as its name and its own words say so."""
    name = f"{licence.get('name') or ''} {licence.get('spdx') or ''}"
    if re.search(r"non-?\s?commercial|\bNC\b", name, re.IGNORECASE):
        return True
    use = str(licence.get("permitted_use") or "")
    # "Commercial and non-commercial use" rules out neither.
    words = r"(?<!commercial and )(?<!commercial or )non-?\s?commercial|\b(no|not for) commercial"
    return bool(re.search(words, use, re.IGNORECASE))


def licenceText(description: Mapping) -> str:
    """Licence and permitted use."""
    licence = description["license"]
    text = f"{licenceName(licence)}. {licence['permitted_use']}"
    return f"{_('Not for commercial use.')} {text}" if isNonCommercial(licence) else text


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
    """How closely the model's images follow what was drawn, or asked for, as measured; one line."""
    quality = _measured(description, "quality")
    arms = quality.get("adherence") or {}
    target = str(description.get("target_class") or "")
    names = {
        target: _("{structure} alone").format(structure=target),
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
    if "joint" in ratios:
        return _togetherText(quality, ratios)
    if not found:
        return _("Not measured.")
    text = _("How closely the drawing is followed, where 1 is as on real images: {figures}.")
    text = text.format(figures=", ".join(found))
    for other, measured in (quality.get("adherence_targets") or {}).items():
        ratio = (measured.get("anatomy") or {}).get("ratio")
        if ratio is not None:
            text += " " + _("{structure}, with its surroundings: {ratio}.").format(
                structure=other, ratio=f"{ratio:.2f}"
            )
    if "ball" in ratios:
        ball = _("A ball in the middle, drawn without looking at the image, gets {ratio}.")
        text += " " + ball.format(ratio=ratios["ball"])
    if "blob_flat_lung" in ratios:  # the figures above say nothing of realism
        blob = _("A flat picture with a blurred blob gets {ratio}: this does not measure how realistic an image is.")
        text += " " + blob.format(ratio=ratios["blob_flat_lung"])
    return text


def _togetherText(quality: Mapping, ratios: Mapping[str, str]) -> str:
    """Of models that make image and segmentation together: whether they fit, and are what was asked for."""
    text = _("How well image and segmentation fit, where 1 is as on real images: {ratio}.").format(
        ratio=ratios["joint"]
    )
    if "mean_training_joint" in ratios:
        average = _("The average of the training images, with the tumour painted in, gets {ratio}.")
        text += " " + average.format(ratio=ratios["mean_training_joint"])
    control = quality.get("control") or {}
    titles = {
        "volume_mm3": _("volume"),
        "sphericity": _("roundness"),
        "center_r_mm": _("right"),
        "center_a_mm": _("front"),
        "center_s_mm": _("up"),
    }
    slopes = [
        _("{slope} ({what})").format(slope=f"{control[name]['slope']:.2f}", what=title)
        for name, title in titles.items()
        if isinstance(control.get(name), Mapping) and control[name].get("slope") is not None
    ]
    if slopes:
        text += " " + _("How well it makes what is asked for, 1 as asked, 0 not at all: {slopes}.").format(
            slopes=", ".join(slopes)
        )
        text += " " + _("Of {count} tumours, {empty} were not made.").format(
            count=control["requests"], empty=control["empty"]
        )
    return text


def qualityMeanings(description: Mapping | None) -> dict[str, str]:
    """What each stop of the quality slider means for a model; without one, what it means in general."""
    from SynthDiffusionLib.sampling.quality import quality_settings

    texts = {
        "fast": _("rough first look"),
        "balanced": _("as measured in the model card") if _isMeasured(description) else _("as the model proposes"),
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
        more = _("most steps, {n} times as long, not measured")
        if not _isMeasured(description):
            more = _("most steps, {n} times as long")
        texts["best"] = more.format(n=f"{best / balanced:.2g}")
    else:
        texts["best"] = _("the same as Balanced with this model")
    return texts


def _isMeasured(description: Mapping | None) -> bool:
    """Whether the model card has figures; nobody has made any for what others have released."""
    return description is None or any((description.get("measured") or {}).values())


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


def _range(bounds) -> str:
    return _("{low} to {high}").format(low=f"{bounds[0]:g}", high=f"{bounds[1]:g}")


def _or(values) -> str:
    """ "256, 384 or 512"."""
    return _either([f"{value:g}" for value in values])


def _either(texts: list[str]) -> str:
    if len(texts) < 2:
        return "".join(texts)
    return _("{first} or {last}").format(first=", ".join(texts[:-1]), last=texts[-1])
