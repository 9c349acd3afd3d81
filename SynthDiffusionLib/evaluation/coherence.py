"""`synthdiffusion evaluate coherence`: do the slices of a volume follow each other as those of real ones do?

A model that works slice by slice may make slices that differ in brightness or detail from their neighbours, which is
seen as stripes in planes across them. Measures, all without a spectrum:

* steps: mean difference of neighbouring voxels, |x[k + 1] - x[k]|, along the stacking axis, and in the plane of the
  slices.
* ratio: the first over the second. Above that of real images slices may jump, or be blurred in their plane; below it
  they may be smeared into each other, or be noisy: only both steps, each beside that of real images, tell which.
* flicker: how much the mean brightness of the body jumps from slice to slice, away from where the body ends. Blur in
  the plane leaves it as it is, and noise almost.
* correlation: median over the volume of the correlation of a slice with the next one.

They hold for any model. Five cartoons of real volumes say what the measures see: slices each shifted in mean (flicker),
the same beneath noise, noise alone, blur in the plane of the slices, and smoothing along the stacking axis. Where two
sets of samples are compared, such as with a refiner and without, a sixth says what no skill at all does to the other
set: smoothing it across slices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.cases import EvaluationData
from SynthDiffusionLib.evaluation.rows import Item, Row, as_evaluated, real_items
from SynthDiffusionLib.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    bootstrap_mean,
    bootstrap_ratio,
    mean_by_patient,
)

STACKING_AXIS = 2  # K of the project's (I, J, K)
SEED = 2026
FLICKER = 0.05  # standard deviation of the shifts, as a share of the range from the 1st to the 99th percentile
SMOOTHING = 1.0  # voxels
COMPARED_SMOOTHING = 0.5  # voxels, of compared samples
BLUR = 1.5  # voxels, in the plane
NOISE = 0.05  # standard deviation of white noise, as a share of the same range
SMOOTHED = "_smoothed"  # ends the name of a row of compared samples that are smoothed across slices
MEASURES = ("ratio", "ratio_mm", "step_across", "step_in_plane", "flicker", "flicker_of_noise", "correlation")
STEPS = ("ratio", "step_across", "step_in_plane", "flicker")  # what stands beside that of real images, as a factor
BODY_FLOOR = 0.05  # of the model's range: what is darker is no body
BODY_BLUR = 2.0  # voxels in the plane, so that noise does not decide what is body
# What is left out at the border of the body, where brightness ends and does not jump: in the plane what the blur may
# have added, across it as far as `SMOOTHING` reaches. Without this, a slice that is partly padding counts as a jump.
BODY_MARGIN, BODY_MARGIN_ACROSS = 4, 3  # voxels
LEAST_BODY = 0.25  # of the body of the slice that has most of it
LEAST_VOXELS = 64  # of a slice's body
# Verdict of flicker: the interval above FLICKER_LIMIT times that of real images (the row of noise of 5 % says what that
# alone gives: 1.03 and 1.07 on the project's two sets), and the value above NOISE_LIMIT times what white noise of the
# volume's own roughness would give.
FLICKER_LIMIT, NOISE_LIMIT = 1.25, 2.0
FLAT_SD = 1e-6

DEFINITIONS = {
    "ratio": "mean |difference| of neighbouring voxels along the third axis, on which slices are stacked, over that "
    "along the other two, mean of both",
    "step across, in plane": "those two means themselves, in units of intensity",
    "flicker": "second differences along the third axis, averaged over what is inside the body in all three slices; "
    "their standard deviation along the axis, divided by the square root of 6. It is the standard deviation of "
    "independent shifts of the slices. Body: above {floor:.0%} of the intensity range, after a blur of {body_blur:g} "
    "voxels in the plane; inside: {margin} voxels from its border and the image's in the plane, and {across} slices "
    "from it across, so that where a body or an image ends is no jump. Slices with less than {least:.0%} of the most, "
    "or fewer than {voxels} voxels, are left out",
    "per mm": "the same with each difference divided by the distance of the voxels",
    "correlation": "median over a volume of the correlation of a slice with the next one; slices without any contrast "
    "have none",
    "to real": "mean of the row divided by the mean of the real images of the same patients (ratio, steps, flicker), "
    "or minus it (correlation)",
    "shifted in mean": "real images, each slice shifted by a random amount with a standard deviation of {flicker:.0%} "
    "of the volume's range (1st to 99th percentile)",
    "with noise": "the same shifts, and white noise with a standard deviation of {noise:.0%} of that range",
    "noise": "real images and that noise alone",
    "blurred": "real images, smoothed in the plane of the slices with a Gaussian of {blur:g} voxels",
    "smoothed": "real images, smoothed along the third axis with a Gaussian of {smoothing:g} voxel",
    "compared, smoothed": "no-skill, where two sets of samples are compared: the other ones, smoothed along the third "
    "axis with a Gaussian of {compared_smoothing:g} voxel. What changes no more than this does not show skill",
    "interval": "percentile bootstrap over patients",
}


def slice_coherence(hu: np.ndarray, spacing: Sequence[float], floor: float = -np.inf) -> dict[str, float]:
    """The measures of one volume.

    Args:
        hu: (I, J, K), slices along K.
        spacing: (3,) mm.
        floor: what is darker is no body.

    Returns:
        "ratio" per voxel, "ratio_mm" per mm, "correlation": nan where a volume is flat; "step_across" and
        "step_in_plane"; "flicker" and "flicker_of_noise": nan where there are fewer than five slices with body.
    """
    hu = np.asarray(hu, np.float64)
    steps = [float(np.abs(np.diff(hu, axis=axis)).mean()) if hu.shape[axis] > 1 else np.nan for axis in range(3)]
    in_plane = [axis for axis in range(3) if axis != STACKING_AXIS]
    flat = np.mean([steps[a] for a in in_plane])
    flat_mm = np.mean([steps[a] / spacing[a] for a in in_plane])
    slices = np.moveaxis(hu, STACKING_AXIS, 0).reshape(hu.shape[STACKING_AXIS], -1)
    centred = slices - slices.mean(1, keepdims=True)
    sizes = np.sqrt((centred**2).mean(1))
    both = sizes[1:] * sizes[:-1]
    known = (sizes[1:] > FLAT_SD) & (sizes[:-1] > FLAT_SD)
    products = (centred[1:] * centred[:-1]).mean(1)
    return {
        "ratio": steps[STACKING_AXIS] / flat if flat > 0 else np.nan,
        "ratio_mm": steps[STACKING_AXIS] / spacing[STACKING_AXIS] / flat_mm if flat_mm > 0 else np.nan,
        "step_across": steps[STACKING_AXIS],
        "step_in_plane": float(flat),
        **brightness_jumps(hu, floor),
        "correlation": float(np.median(products[known] / both[known])) if known.any() else np.nan,
    }


def brightness_jumps(hu: np.ndarray, floor: float = -np.inf) -> dict[str, float]:
    """How much the mean brightness of the body jumps from slice to slice.

    Second differences leave out brightness that changes evenly; they are taken voxel by voxel, where all three slices
    are inside the body, so that a body that grows or ends is no jump. The mean over a slice does not see blur in its
    plane.

    Args:
        hu: (I, J, K) float.
        floor: what is darker is no body.

    Returns:
        "flicker": standard deviation along K of the means, over sqrt(6): that of shifts of the slices, where these are
        independent; "flicker_of_noise": what it would be if the second differences were noise that differs from voxel
        to voxel. nan with fewer than three means.
    """
    volume = np.moveaxis(hu, STACKING_AXIS, 2)
    bends = volume[..., 2:] - 2.0 * volume[..., 1:-1] + volume[..., :-2]
    body = inside_body(volume, floor)
    body = body[..., 2:] & body[..., 1:-1] & body[..., :-2]
    counts = body.sum((0, 1))
    chosen = [k for k, n in enumerate(counts) if n >= LEAST_VOXELS and n >= LEAST_BODY * counts.max()]
    if len(chosen) < 3:
        return {"flicker": np.nan, "flicker_of_noise": np.nan}
    found = [bends[..., k][body[..., k]] for k in chosen]
    noise = np.mean([values.var(ddof=1) / len(values) for values in found])
    means = np.array([values.mean() for values in found])
    return {"flicker": float(means.std() / np.sqrt(6.0)), "flicker_of_noise": float(np.sqrt(noise / 6.0))}


def inside_body(volume: np.ndarray, floor: float) -> np.ndarray:
    """What is body, without its border. The sides of the image count as border in the plane, since the blur hides
    padding that is a few voxels wide there; the first and the last slice do not.

    Args:
        volume: (I, J, K) float, slices along K.
        floor: what is darker, after a blur of `BODY_BLUR` in the plane, is no body.

    Returns:
        (I, J, K) bool.
    """
    from scipy import ndimage

    body = ndimage.gaussian_filter(volume, (BODY_BLUR, BODY_BLUR, 0.0)) > floor
    across = np.ones((1, 1, 2 * BODY_MARGIN_ACROSS + 1), bool)
    body = ndimage.binary_erosion(body, across, border_value=1)
    y, x = np.ogrid[-BODY_MARGIN : BODY_MARGIN + 1, -BODY_MARGIN : BODY_MARGIN + 1]
    return ndimage.binary_erosion(body, (x * x + y * y <= BODY_MARGIN**2)[..., None], border_value=0)


def cartoons(real: Row, intensity_range: tuple[float, float]) -> list[Row]:
    """Real volumes with slices that flicker, the same with noise, with that noise alone, real volumes blurred in the
    plane of the slices, and real volumes smoothed along the stacking axis."""
    from scipy import ndimage

    flickering, both, noisy, flat = [], [], [], []
    in_plane = [0.0 if axis == STACKING_AXIS else BLUR for axis in range(3)]
    for number, item in enumerate(real.items):
        rng = np.random.default_rng([SEED, number])
        low, high = np.percentile(item.hu, (1, 99))
        shape = [1, 1, 1]
        shape[STACKING_AXIS] = item.hu.shape[STACKING_AXIS]
        shifts = FLICKER * (high - low) * rng.standard_normal(shape)
        flickering.append(replace(item, hu=as_evaluated(item.hu + shifts, intensity_range)))
        noise = NOISE * (high - low) * rng.standard_normal(item.hu.shape)
        both.append(replace(item, hu=as_evaluated(item.hu + shifts + noise, intensity_range)))
        noisy.append(replace(item, hu=as_evaluated(item.hu + noise, intensity_range)))
        blurred = ndimage.gaussian_filter(item.hu.astype(np.float64), in_plane, mode="nearest")
        flat.append(replace(item, hu=as_evaluated(blurred, intensity_range)))
    smooth = smoothed_across(real, SMOOTHING, intensity_range)
    return [
        Row("flicker", "real images, slices shifted in mean", "no-skill", tuple(flickering)),
        Row("flicker_noise", "real images, slices shifted in mean, with noise", "no-skill", tuple(both)),
        Row("noise", "real images, with noise", "no-skill", tuple(noisy)),
        Row("blurred", "real images, blurred in plane", "no-skill", tuple(flat)),
        Row("smoothed", "real images, smoothed across slices", "no-skill", smooth),
    ]


def smoothed_across(row: Row, sigma: float, intensity_range: tuple[float, float]) -> tuple[Item, ...]:
    """The volumes of a row, smoothed along the stacking axis.

    Args:
        sigma: of the Gaussian, voxels.
    """
    from scipy import ndimage

    return tuple(
        replace(item, hu=as_evaluated(
            ndimage.gaussian_filter1d(item.hu.astype(np.float64), sigma, axis=STACKING_AXIS, mode="nearest"),
            intensity_range,
        ))
        for item in row.items
    )  # fmt: skip


def other_model(model: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """How a model that made samples differs from this one, in words: "without refiner", or its name and version.

    Args:
        model, other: "id", "version" and the checksums of the "files", as in `samples.json`.
    """
    missing = sorted(set(model["files"]) - set(other["files"]))
    same = all(model["files"].get(name) == checksum for name, checksum in other["files"].items())
    if model["id"] == other["id"] and same and missing:
        return "without " + " and ".join(name.partition(".")[0] for name in missing)
    return f"{other['id']} {other['version']}"


def measure_coherence(
    data: EvaluationData,
    arms: Mapping[str, Row],
    compared: Mapping[str, Row] | None = None,
    compared_model: str = "",
    on_event: Callable[[dict], None] = lambda event: None,
) -> dict[str, Any]:
    """Measures all rows.

    Args:
        arms: the samples.
        compared: samples of the same masks that were made in another way, as with a refiner and without.
        compared_model: what made those, for the label of their rows; see `other_model`.

    Returns:
        JSON: rows, each with its values and how they compare with real ones; rows of `compared` have, under "against",
        how the samples of the same arm differ from them; the no-skill rows that are `compared` smoothed across slices
        have, under "to_compared", how these differ from them.
    """
    real = Row("real", "real images", "real", real_items(data.evaluated, data.intensity_range))
    other = f", compared: {compared_model}" if compared_model else ", compared"
    others = [replace(row, name=f"{n}_compared", label=row.label + other) for n, row in (compared or {}).items()]
    smooth = [
        Row(f"{row.name}{SMOOTHED}", f"{row.label}, smoothed across slices", "no-skill",
            smoothed_across(row, COMPARED_SMOOTHING, data.intensity_range))
        for row in others
    ]  # fmt: skip
    rows = [real, *cartoons(real, data.intensity_range), *arms.values(), *others, *smooth]
    low, high = data.intensity_range
    floor = low + BODY_FLOOR * (high - low)
    per_volume: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        on_event({"event": "progress", "stage": f"coherence: {row.label}", "step": number, "total": len(rows)})
        per_volume += [{"row": row.name, **_of(item, floor)} for item in row.items]
    values = {row.name: _by_patient(per_volume, row.name) for row in rows}
    results = []
    for row in rows:
        result: dict[str, Any] = {"row": row.name, "label": row.label, "kind": row.kind, "volumes": len(row.items)}
        result |= {m: bootstrap_mean(np.array(list(values[row.name][m].values()))).to_json() for m in MEASURES}
        result["to_real"] = _to(values[row.name], values["real"])
        if row.name.endswith("_compared") and row.name.removesuffix("_compared") in arms:
            result["against"] = _to(values[row.name.removesuffix("_compared")], values[row.name])
        if row.name.endswith(SMOOTHED):
            result["to_compared"] = _to(values[row.name], values[row.name.removesuffix(SMOOTHED)])
        results.append(result)
    words = {"flicker": FLICKER, "smoothing": SMOOTHING, "blur": BLUR, "noise": NOISE}
    words |= {"floor": BODY_FLOOR, "body_blur": BODY_BLUR, "margin": BODY_MARGIN, "across": BODY_MARGIN_ACROSS}
    words |= {"least": LEAST_BODY, "voxels": LEAST_VOXELS, "compared_smoothing": COMPARED_SMOOTHING}
    left_out = () if others else ("compared, smoothed",)
    return {
        "kind": "coherence",
        "rows": results,
        "settings": {
            "axis": "IJK"[STACKING_AXIS],
            "flicker": FLICKER,
            "smoothing_voxels": SMOOTHING,
            "blur_voxels": BLUR,
            "noise": NOISE,
            "body_floor": floor,
            "body_margin_voxels": [BODY_MARGIN, BODY_MARGIN_ACROSS],
            **({"compared_smoothing_voxels": COMPARED_SMOOTHING} if others else {}),
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
        },
        "definitions": {k: v.format(**words) for k, v in DEFINITIONS.items() if k not in left_out},
        "per_volume": per_volume,
    }


def _of(item: Item, floor: float) -> dict[str, Any]:
    found = slice_coherence(item.hu, np.linalg.norm(item.affine[:3, :3], axis=0), floor)
    known = {k: float(v) if np.isfinite(v) else None for k, v in found.items()}
    return {"case": item.case, "patient": item.patient, "seed": item.seed, **known}


def _by_patient(per_volume: Sequence[Mapping[str, Any]], row: str) -> dict[str, dict[str, float]]:
    """Measure to patient to the mean over the patient's volumes; volumes without a value are left out."""
    found = {}
    for measure in MEASURES:
        chosen = [v for v in per_volume if v["row"] == row and v[measure] is not None]
        means, patients = mean_by_patient([v[measure] for v in chosen], [v["patient"] for v in chosen])
        found[measure] = {p: float(m) for p, m in zip(patients, means)}
    return found


def _to(
    values: Mapping[str, Mapping[str, float]], base: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float | None]]:
    """Ratios of the means (differences of them for the correlation) over the patients that both have."""
    found = {}
    for measure in MEASURES:
        patients = sorted(set(values[measure]) & set(base[measure]))
        a, b = (np.array([v[measure][p] for p in patients]) for v in (values, base))
        if not patients:
            found[measure] = {"value": None, "low": None, "high": None}
        elif measure == "correlation":
            found[measure] = bootstrap_mean(a - b).to_json()
        else:
            found[measure] = bootstrap_ratio(a, b).to_json()
    return found


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column titles and cells."""
    from SynthDiffusionLib.evaluation.report import NOTHING, with_interval

    titles = ["row", "volumes", "ratio", "ratio per mm", "correlation"]
    titles += ["to real: ratio", "step across", "step in plane", "flicker", "correlation, minus real"]
    cells = []
    for r in result["rows"]:
        line = [r["label"], str(r["volumes"]), with_interval(r["ratio"]), with_interval(r["ratio_mm"])]
        line.append(with_interval(r["correlation"], 3))
        if r["row"] == "real":
            line += [NOTHING] * 5
        else:
            line += [with_interval(r["to_real"][m]) for m in STEPS]
            line.append(with_interval(r["to_real"]["correlation"], 3))
        cells.append(line)
    return titles, cells


def _side(found: Mapping[str, float | None]) -> int:
    """1 where an interval lies above 1, -1 where it lies below, else 0."""
    if found["low"] is None or found["high"] is None:
        return 0
    return int(found["low"] > 1.0) - int(found["high"] < 1.0)


def words_of(row: Mapping[str, Any]) -> str:
    """What the ratio, both steps and the flicker of a row allow to say, and no more."""
    ratio, across, plane = (_side(row["to_real"][m]) for m in ("ratio", "step_across", "step_in_plane"))
    flicker = row["to_real"]["flicker"]
    flickers = flicker["low"] is not None and flicker["low"] > FLICKER_LIMIT
    flickers = flickers and row["flicker"]["value"] > NOISE_LIMIT * row["flicker_of_noise"]["value"]
    # White noise brings the ratio towards 1: from below, too, where that of real images is smaller.
    beyond_noise = plane <= 0 or _side(row["ratio"]) > 0
    if ratio > 0 and across > 0 and beyond_noise:
        words = "slices jump more than in real images"
    elif across > 0 and plane > 0:
        words = "steps are larger in all directions, as with noise, in which jumps of slices may hide"
    elif plane < 0 and across < 0:
        words = "smoother in all directions than real images"
        if ratio:
            words += ", most in the plane of the slices" if ratio > 0 else ", most across the slices"
    elif plane < 0:
        words = "blurred in the plane of the slices; the step across them is not clearly another than in real images"
    elif plane > 0:
        words = "noisier or more detailed in the plane of the slices than real images, not clearly so across them"
    elif across < 0:
        words = "slices are smoother across than in real images"
    elif across > 0 or ratio:
        words = "neither jumping nor smooth slices can be told from these steps"
    else:
        words = "steps like those of real images, as far as the intervals tell"
    return words + ("; the brightness of slices jumps (flicker)" if flickers else "")


def _factors(found: Mapping[str, Any]) -> str:
    from SynthDiffusionLib.evaluation.report import with_interval

    names = {"ratio": "ratio", "step_across": "step across", "step_in_plane": "step in plane", "flicker": "flicker"}
    return ", ".join(f"{name} {with_interval(found[m])}" for m, name in names.items())


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """What the intervals say, in words."""
    from SynthDiffusionLib.evaluation.report import with_interval

    lines = []
    for r in result["rows"]:
        if "to_compared" in r and r["to_compared"]["ratio"]["low"] is not None:
            lines.append(
                f"  no skill: times the compared ones, these have when they are smoothed across slices: "
                f"{_factors(r['to_compared'])}; their correlation differs by "
                f"{with_interval(r['to_compared']['correlation'], 3)}"
            )
        if r["kind"] != "ours" or r["to_real"]["ratio"]["low"] is None:
            continue
        lines.append(f"{r['label']}: {words_of(r)} (times real images: {_factors(r['to_real'])}).")
        if "against" in r:
            lines.append(
                f"  times these, the samples have: {_factors(r['against'])}; their correlation differs by "
                f"{with_interval(r['against']['correlation'], 3)}"
            )
    return lines
