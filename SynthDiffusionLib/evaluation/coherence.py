"""`synthdiffusion evaluate coherence`: do the slices of a volume follow each other as those of real ones do?

A model that works slice by slice may make slices that differ in brightness or detail from their neighbours, which is
seen as stripes in planes across them. Two measures, both without a spectrum:

* ratio: mean difference of neighbouring voxels along the stacking axis, |x[k + 1] - x[k]|, over that along the two axes
  in the plane of the slices. Above that of real images: slices jump; below: they are smeared into each other.
* correlation: median over the volume of the correlation of a slice with the next one.

They hold for any model. Two cartoons say what the measures see: real volumes whose slices were each shifted in mean
(flicker), and real volumes that were smoothed along the stacking axis.
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
MEASURES = ("ratio", "ratio_mm", "correlation")
FLAT_SD = 1e-6

DEFINITIONS = {
    "ratio": "mean |difference| of neighbouring voxels along the third axis, on which slices are stacked, over that "
    "along the other two, mean of both",
    "per mm": "the same with each difference divided by the distance of the voxels",
    "correlation": "median over a volume of the correlation of a slice with the next one; slices without any contrast "
    "have none",
    "to real": "mean of the row divided by the mean of the real images of the same patients (ratio), or minus it "
    "(correlation)",
    "flicker": "real images, each slice shifted by a random amount with a standard deviation of {flicker:.0%} of the "
    "volume's range (1st to 99th percentile)",
    "smoothed": "real images, smoothed along the third axis with a Gaussian of {smoothing:g} voxel",
    "interval": "percentile bootstrap over patients",
}


def slice_coherence(hu: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """The measures of one volume.

    Args:
        hu: (I, J, K), slices along K.
        spacing: (3,) mm.

    Returns:
        "ratio" per voxel, "ratio_mm" per mm, "correlation"; nan where a volume is flat.
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
        "correlation": float(np.median(products[known] / both[known])) if known.any() else np.nan,
    }


def cartoons(real: Row, intensity_range: tuple[float, float]) -> list[Row]:
    """Real volumes with slices that flicker, and real volumes smoothed along the stacking axis."""
    from scipy import ndimage

    flickering, smooth = [], []
    for number, item in enumerate(real.items):
        rng = np.random.default_rng([SEED, number])
        low, high = np.percentile(item.hu, (1, 99))
        shape = [1, 1, 1]
        shape[STACKING_AXIS] = item.hu.shape[STACKING_AXIS]
        shifts = FLICKER * (high - low) * rng.standard_normal(shape)
        flickering.append(replace(item, hu=as_evaluated(item.hu + shifts, intensity_range)))
        blurred = ndimage.gaussian_filter1d(item.hu.astype(np.float64), SMOOTHING, axis=STACKING_AXIS, mode="nearest")
        smooth.append(replace(item, hu=as_evaluated(blurred, intensity_range)))
    return [
        Row("flicker", "real images, slices shifted in mean", "no-skill", tuple(flickering)),
        Row("smoothed", "real images, smoothed across slices", "no-skill", tuple(smooth)),
    ]


def measure_coherence(
    data: EvaluationData,
    arms: Mapping[str, Row],
    compared: Mapping[str, Row] | None = None,
    on_event: Callable[[dict], None] = lambda event: None,
) -> dict[str, Any]:
    """Measures all rows.

    Args:
        arms: the samples.
        compared: samples of the same masks that were made in another way, as with a refiner and without.

    Returns:
        JSON: rows, each with its values and how they compare with real ones; rows of `compared` have, under "against",
        how the samples of the same arm differ from them.
    """
    real = Row("real", "real images", "real", real_items(data.evaluated, data.intensity_range))
    others = [
        replace(row, name=f"{name}_compared", label=f"{row.label}, compared") for name, row in (compared or {}).items()
    ]
    rows = [real, *cartoons(real, data.intensity_range), *arms.values(), *others]
    per_volume: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        on_event({"event": "progress", "stage": f"coherence: {row.label}", "step": number, "total": len(rows)})
        per_volume += [{"row": row.name, **_of(item)} for item in row.items]
    values = {row.name: _by_patient(per_volume, row.name) for row in rows}
    results = []
    for row in rows:
        result: dict[str, Any] = {"row": row.name, "label": row.label, "kind": row.kind, "volumes": len(row.items)}
        result |= {m: bootstrap_mean(np.array(list(values[row.name][m].values()))).to_json() for m in MEASURES}
        result["to_real"] = _to(values[row.name], values["real"])
        if row.name.endswith("_compared") and row.name.removesuffix("_compared") in arms:
            result["against"] = _to(values[row.name.removesuffix("_compared")], values[row.name])
        results.append(result)
    words = {"flicker": FLICKER, "smoothing": SMOOTHING}
    return {
        "kind": "coherence",
        "rows": results,
        "settings": {
            "axis": "IJK"[STACKING_AXIS],
            "flicker": FLICKER,
            "smoothing_voxels": SMOOTHING,
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
        },
        "definitions": {k: v.format(**words) for k, v in DEFINITIONS.items()},
        "per_volume": per_volume,
    }


def _of(item: Item) -> dict[str, Any]:
    found = slice_coherence(item.hu, np.linalg.norm(item.affine[:3, :3], axis=0))
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

    titles = ["row", "volumes", "ratio", "ratio to real", "ratio per mm", "correlation", "minus real"]
    cells = []
    for r in result["rows"]:
        real = r["row"] == "real"
        cells.append(
            [r["label"], str(r["volumes"]), with_interval(r["ratio"])]
            + [NOTHING if real else with_interval(r["to_real"]["ratio"]), with_interval(r["ratio_mm"])]
            + [with_interval(r["correlation"], 3), NOTHING if real else with_interval(r["to_real"]["correlation"], 3)]
        )
    return titles, cells


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """What the intervals say, in words."""
    from SynthDiffusionLib.evaluation.report import with_interval

    lines = []
    for r in result["rows"]:
        if r["kind"] != "ours":
            continue
        found = r["to_real"]["ratio"]
        if found["low"] is None:
            continue
        word = "like real ones, as far as the interval tells"
        if found["low"] > 1.0:
            word = "slices jump more than in real images"
        elif found["high"] < 1.0:
            word = "slices are smoother across than in real images"
        lines.append(f"{r['label']}: {word} ({with_interval(found)} times the ratio of real images).")
        if "against" in r:
            lines.append(
                f"  the samples have {with_interval(r['against']['ratio'])} times the ratio of these, and a "
                f"correlation that differs by {with_interval(r['against']['correlation'], 3)}"
            )
    return lines
