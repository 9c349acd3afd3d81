"""Fidelity: do synthetic images look, in numbers, like real ones of the same masks?

Three looks, each beside the same for the no-skill rows and for real images against other real ones:

1. per class: histogram (bins of 20 HU) and mean intensity;
2. features: distance between the distributions of about forty simple quantities (`features`);
3. classifiers that tell real from synthetic: a linear discriminant on the features (`discriminant`) and two small
   networks (`real_or_synthetic`).

The arms of the target alone and of the anatomy are compared as whole volumes, or, where the volumes of the data set are
of different sizes, on crops of one size round the target (`EvaluationData.crop`): neither a feature nor a classifier
shall tell volumes by their size. Inpainted volumes are the real patient but for the region, so that arm, and no-skill
stand-ins pasted into the same regions, are compared on cubes of 32 voxels round the target, and per class on the
synthesised voxels only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation import noskill
from SynthDiffusionLib.evaluation.adherence import JOINT_SUFFIX, joint_rows, no_skill_images
from SynthDiffusionLib.evaluation.arms import ANATOMY, INPAINTING, JOINT, MOVED
from SynthDiffusionLib.evaluation.cases import EvaluationData
from SynthDiffusionLib.evaluation.discriminant import REPEATS, SHRINKAGE, discriminate_by_features
from SynthDiffusionLib.evaluation.features import Standard, feature_table, standard_of, standardise
from SynthDiffusionLib.evaluation.real_or_synthetic import (
    CHOSEN,
    CHOSEN_ELSEWHERE,
    CHOSEN_ON,
    FOLDS,
    RECIPES,
    Recipe,
    discriminate,
    recipe_to_json,
)
from SynthDiffusionLib.evaluation.rows import (
    REGION_SIDE,
    Item,
    Row,
    common_crop,
    crop_row,
    real_items,
    synthesised_share,
)
from SynthDiffusionLib.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Estimate,
    bootstrap,
    bootstrap_frechet,
    bootstrap_mean,
    bootstrap_mmd2,
    l1_of_histograms,
    marginal_frechet,
    median_distance,
    mmd2,
    wasserstein_of_histograms,
)

BIN_HU = 20.0
SPLIT_HALVES = 200
SPLIT_SEED = 2026
LARGEST_DIFFERENCES = 5
FLOOR = "real_reference"
REAL_STAND_INS = ("unrelated", "nearest_training")  # in the names of no-skill rows whose images are real

DEFINITIONS = {
    "mean": "mean over patients of the class's mean intensity; the difference is synthetic minus real of the same mask",
    "l1": "sum of the absolute differences of the normalised histograms, 0 to 2",
    "wasserstein": "Wasserstein-1 distance of the histograms, in the unit of the intensities",
    "mmd2": "unbiased squared maximum mean discrepancy with a Gaussian kernel on features standardised by the real "
    "training images; bandwidth: their median distance; 0 in expectation for equal distributions, so it may be "
    "negative",
    "frechet": "Fréchet distance of normal distributions with diagonal covariance, per feature; biased upwards, so "
    "read it beside the real-to-real row",
    "auc": "area under the ROC curve of a classifier that tells real from synthetic, cross-validated in folds of "
    "patients: 0.5, it cannot; 1, it always can. A value near 0.5 says that these classifiers see nothing, not that "
    "there is nothing to see",
    "auc_features": "a linear discriminant on the features, its covariance shrunk; one score per volume",
    "auc_large": "a 3D network on crops of {large} voxels; one score per volume, the mean over its crops",
    "auc_small": "a 3D network on crops of {small} voxels; each crop is scored on its own, so that nothing is averaged",
    "auc_rows": "each row's volumes against the real images of the same masks; the row 'other real images' is what the "
    "classifier makes of two sets of real images, and 'unrelated real image' the same images under masks that are not "
    "theirs",
    "auc_chosen": "{chosen}",
    "split_halves": "the distances between two disjoint random sets of real training patients of the same size as the "
    "evaluated set",
    "interval": "percentile bootstrap over patients; for the AUC it does not hold the chance in the training of the "
    "classifier, and intervals of l1, wasserstein and frechet, which cannot be negative, lie too high when the "
    "true distance is near 0",
    "real_reference": "validation images with their own class maps against the evaluated real images; for whole cubes "
    "the networks' AUC is that of the row 'unrelated real image', which has the same images",
}

# Where the volumes of a data set are of different sizes.
SIZES_DEFINITIONS = {
    "crop": "everything here is measured on boxes of {crop} voxels round the middle of the {target}, the smallest size "
    "of the data set along each axis, since its volumes are of different sizes",
    "painted": "the real image of the training patient whose {target} is nearest in volume, with the drawn {target} "
    "painted in: real but for the {target}, and for the lower end of the range where that image ends",
    "real_reference": "validation images with their own class maps against the evaluated real images",
}
JOINT_DEFINITION = (
    "the model made a mask with each image: its classes are those of its own masks, beside the real ones of the real "
    "masks of the same patients; no-skill rows are made for its masks"
)


@dataclass(frozen=True)
class _View:
    """How a group of rows is compared: whole volumes, crops of them, or the region round the target."""

    name: str
    real: Row
    rows: list[Row]
    standard: Standard
    training_features: np.ndarray
    real_features: np.ndarray
    bandwidth: float


def measure_fidelity(
    data: EvaluationData,
    arms: Mapping[str, Row],
    margin_mm: float | None,
    *,
    auc_steps: int | None = None,
    auc_repeats: int = 1,
    on_event: Callable[[dict], None] = lambda event: None,
) -> dict[str, Any]:
    """Measures all rows.

    Args:
        margin_mm: rim of inpainting; needed for the arm "inpainting".
        auc_steps: training steps per fold instead of the recipes'; 0 leaves the networks out.
        auc_repeats: trainings of each network whose scores are averaged.

    Raises:
        BadInput: no arm that is compared.
    """
    recipes = {
        name: recipe if auc_steps is None else replace(recipe, steps=auc_steps) for name, recipe in RECIPES.items()
    }
    if auc_steps == 0:
        recipes = {}
    views = list(_views(data, arms, margin_mm))
    if not views:
        raise BadInput(
            "The samples have no arm that realism is measured on",
            f"Make the arm {data.target}, anatomy, inpainting or joint.",
        )
    total = sum(len(view.rows) for view in views)
    results, settings, done = [], {}, 0
    for view in views:
        settings[f"split_halves_{view.name}"] = split_halves(
            view.training_features, len(view.real.items), view.bandwidth
        )
        settings[f"bandwidth_{view.name}"] = view.bandwidth
        for row in view.rows:
            on_event({"event": "progress", "stage": f"fidelity: {row.label}", "step": done, "total": total})
            results.append(_measure(view, row, data, arms, margin_mm, recipes, auc_repeats))
            done += 1
        _share_auc(results, view.name)
    return {
        "kind": "fidelity",
        "rows": results,
        "verdicts": {name: _verdict(name, results) for name in arms if name != MOVED},
        "settings": settings
        | ({} if data.crop is None else {"crop": list(data.crop)})
        | {
            "bin_width": BIN_HU,
            "features": len(views[0].standard.names),
            "region_side": REGION_SIDE,
            "margin_mm": margin_mm,
            "folds": FOLDS,
            "auc_repeats": auc_repeats,
            "discriminant": {"repeats": REPEATS, "shrinkage": SHRINKAGE},
            "recipes": {name: recipe_to_json(recipe) for name, recipe in recipes.items()},
            "splits": SPLIT_HALVES,
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
        },
        "definitions": _definitions(data, arms),
    }


def _definitions(data: EvaluationData, arms: Mapping[str, Row]) -> dict[str, str]:
    texts = DEFINITIONS if data.crop is None else DEFINITIONS | SIZES_DEFINITIONS
    texts = texts | ({JOINT: JOINT_DEFINITION} if JOINT in arms else {})
    words = {name: recipe.crop for name, recipe in RECIPES.items()} | {
        "chosen": CHOSEN if data.target == CHOSEN_ON else CHOSEN_ELSEWHERE,
        "crop": "x".join(map(str, data.crop or ())),
        "target": data.target,
    }
    return {k: v.format(**words) for k, v in texts.items()}


def _views(data: EvaluationData, arms: Mapping[str, Row], margin_mm: float | None):
    real = Row("real", "real images", "real", real_items(data.evaluated, data.intensity_range))
    statistics = noskill.training_statistics(
        data.training, [0, *data.values.values()], data.target_value, data.intensity_range
    )
    reference = Row(
        FLOOR, "other real images", "real", real_items(data.others, data.intensity_range)[: len(real.items)]
    )
    training = real_items(data.training, data.intensity_range)
    images = no_skill_images(data, real, statistics) if set(arms) != {JOINT} else []
    target = data.target_value
    whole = [arms[name] for name in (data.target, ANATOMY, JOINT) if name in arms]
    made = joint_rows(no_skill_images(data, arms[JOINT], statistics)) if JOINT in arms else []
    if whole:
        rows = [common_crop(row, target, data.crop) for row in (real, reference, *images, *made, *whole)]
        cropped = common_crop(Row("training", "", "real", training), target, data.crop)
        yield _view("whole" if data.crop is None else "crop", data, rows[0], rows[1:], cropped.items)
    if INPAINTING in arms:
        # Cases whose region is too large to inpaint have no sample, and leave the comparison in every row.
        names = {item.case for item in arms[INPAINTING].items}
        real = replace(real, items=tuple(i for i in real.items if i.case in names))
        images = [replace(row, items=tuple(i for i in row.items if i.case in names)) for row in images]
        rows = [
            replace(reference, items=reference.items[: len(real.items)]),
            *(noskill.pasted(row, real.items, target, margin_mm) for row in images),
            arms[INPAINTING],
        ]
        cropped = Row("training", "", "real", training)
        yield _view(
            "region",
            data,
            crop_row(real, target),
            [crop_row(row, target) for row in rows],
            crop_row(cropped, target).items,
        )


def _view(name: str, data: EvaluationData, real: Row, rows: list[Row], training: Sequence[Item]) -> _View:
    names, values = _features(training, data)
    standard = standard_of(names, values)
    scaled = standardise(values, standard)
    real_features = standardise(_features(real.items, data)[1], standard)
    return _View(name, real, rows, standard, scaled, real_features, median_distance(scaled))


def _features(items: Sequence[Item], data: EvaluationData) -> tuple[tuple[str, ...], np.ndarray]:
    return feature_table(items, data.target_value, data.intensity_range, data.target, data.tissues)


def split_halves(values: np.ndarray, size: int, bandwidth: float) -> dict[str, list[float] | int]:
    """Distances between disjoint random sets of `size` rows of (N, D) features: their 2.5 %, 50 % and 97.5 %
    quantiles."""
    size = min(size, len(values) // 2)
    rng = np.random.default_rng([SPLIT_SEED, size])
    found = []
    for _ in range(SPLIT_HALVES):
        order = rng.permutation(len(values))
        a, b = values[order[:size]], values[order[size : 2 * size]]
        found.append((mmd2(a, b, bandwidth), marginal_frechet(a, b)))
    tail = (1.0 - CONFIDENCE) / 2.0
    quantiles = np.quantile(np.array(found), [tail, 0.5, 1.0 - tail], axis=0)
    return {"size": size, "mmd2": quantiles[:, 0].tolist(), "frechet": quantiles[:, 1].tolist()}


def _measure(
    view: _View,
    row: Row,
    data: EvaluationData,
    arms: Mapping[str, Row],
    margin_mm: float | None,
    recipes: Mapping[str, Recipe],
    auc_repeats: int,
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "row": row.name,
        "label": row.label,
        "kind": row.kind,
        "view": view.name,
        "volumes": len(row.items),
        "patients": len(set(row.patients)),
        "classes": _classes(view, row, data, margin_mm),
    }
    values = standardise(_features(row.items, data)[1], view.standard)
    ours, real = _aligned_features(row, values, view)
    result["mmd2"] = bootstrap_mmd2(ours, real, view.bandwidth).to_json()
    result["frechet"] = bootstrap_frechet(ours, real).to_json()
    shift = ours.mean(0) - real.mean(0)
    result["feature_differences"] = {n: float(d) for n, d in zip(view.standard.names, shift)}
    largest = np.argsort(-np.abs(shift))[:LARGEST_DIFFERENCES]
    result["largest_differences"] = [view.standard.names[i] for i in largest]
    items = row.items
    if row.name.startswith("unrelated_real"):
        # Where there are fewer other images than masks, one stands for several masks: such a repeat would be in the
        # training and the test of one classifier.
        items = items[: len(data.others)]
    if row.name == FLOOR:  # each real image gets another one into its fold, as in all other rows
        items = tuple(replace(item, patient=p) for item, p in zip(items, view.real.patients))
    patients = [item.patient for item in items]
    found = discriminate_by_features(view.real_features, view.real.patients, values[: len(items)], patients)
    result["auc"] = {"features": found.auc.to_json()}
    if row.name != FLOOR or view.name != "whole":  # whole, its images are those of the row of unrelated real images
        for name, recipe in recipes.items():
            found = discriminate(view.real.items, items, recipe, data.intensity_range, repeats=auc_repeats)
            result["auc"][name] = found.auc.to_json()
    return result


def _aligned_features(row: Row, values: np.ndarray, view: _View) -> tuple[np.ndarray, np.ndarray]:
    """Features with one row per patient, row i of both of the same patient (of any two for the real reference).

    Several volumes of a patient are not averaged, which would take their spread away: the first is used.
    """
    real_patients = view.real.patients
    if row.name == FLOOR:
        n = min(len(values), len(real_patients))
        return values[:n], view.real_features[:n]
    first = {p: i for i, p in reversed(list(enumerate(row.patients)))}
    first_real = {p: i for i, p in reversed(list(enumerate(real_patients)))}
    patients = [p for p in first_real if p in first]
    return values[[first[p] for p in patients]], view.real_features[[first_real[p] for p in patients]]


def _classes(view: _View, row: Row, data: EvaluationData, margin_mm: float | None) -> dict[str, Any]:
    """Histogram and mean of every class that the row is answerable for."""
    names = {"all": None, data.target: data.target_value}
    if view.name == "region":
        names = {data.target: data.target_value, "rim": None}
    elif row.name != data.target:  # given the target alone, a model is free where it puts the other classes
        names |= {n: v for n, v in data.values.items() if n != data.target}

    def masks(item: Item) -> dict[str, np.ndarray]:
        found = {n: item.classes == v for n, v in names.items() if v is not None}
        if "all" in names:
            found["all"] = np.ones(item.hu.shape, bool)
        if "rim" in names:
            share = synthesised_share(item.classes == data.target_value, item.affine, margin_mm)
            found["rim"] = (share > 0) & (item.classes != data.target_value)
        return found

    edges = np.arange(data.intensity_range[0], data.intensity_range[1] + BIN_HU, BIN_HU)  # 20 units of MR as well
    ours = _histograms(row.items, masks, edges, names)
    real = _histograms(view.real.items, masks, edges, names)
    return {name: _compare_class(ours[name], real[name], paired=row.name != FLOOR) for name in names}


def _histograms(
    items: Sequence[Item], masks: Callable[[Item], dict[str, np.ndarray]], edges: np.ndarray, names: Mapping[str, Any]
) -> dict[str, dict[str, tuple[np.ndarray, float]]]:
    """Class to patient to (histogram, mean); patients without the class are left out, several volumes are averaged."""
    found: dict[str, dict[str, list[tuple[np.ndarray, float]]]] = {n: {} for n in names}
    for item in items:
        for name, mask in masks(item).items():
            if mask.any():
                values = item.hu[mask]
                # The last value of the range belongs to the last bin.
                counts = np.histogram(np.minimum(values, edges[-1] - 1e-3), edges)[0].astype(np.float64)
                found[name].setdefault(item.patient, []).append((counts, float(values.mean())))
    return {
        name: {p: (np.mean([h for h, _ in v], axis=0), float(np.mean([m for _, m in v]))) for p, v in patients.items()}
        for name, patients in found.items()
    }


def _compare_class(
    ours: Mapping[str, tuple[np.ndarray, float]], real: Mapping[str, tuple[np.ndarray, float]], paired: bool
) -> dict[str, Any] | None:
    if paired:
        patients = sorted(set(ours) & set(real))
        pairs = [(ours[p], real[p]) for p in patients]
    else:
        pairs = list(zip(ours.values(), real.values()))
    if not pairs:
        return None
    h_ours, h_real = (np.stack([pair[i][0] for pair in pairs]) for i in (0, 1))
    m_ours, m_real = (np.array([pair[i][1] for pair in pairs]) for i in (0, 1))
    difference = bootstrap_mean(m_ours - m_real)
    distance: Estimate = bootstrap(lambda w: wasserstein_of_histograms(w @ h_ours, w @ h_real, BIN_HU), len(pairs))
    return {
        "patients": len(pairs),
        "mean": float(m_ours.mean()),
        "mean_real": float(m_real.mean()),
        "difference": difference.to_json(),
        "l1": l1_of_histograms(h_ours.sum(0), h_real.sum(0)),
        "wasserstein": distance.to_json(),
    }


def _share_auc(results: list[dict[str, Any]], view: str) -> None:
    """Whole, the real reference and the unrelated real images are the same images: the networks, which see no class
    map, are trained once for both."""
    by_name = {r["row"]: r for r in results if r["view"] == view}
    if view == "whole":
        # The arm "joint" alone has that row under another name.
        same = by_name.get("unrelated_real") or by_name["unrelated_real_joint"]
        by_name[FLOOR]["auc"] = same["auc"] | by_name[FLOOR]["auc"]


def _verdict(arm: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Does the arm beat the no-skill images? Unrelated real images, and those of the nearest training masks, are real:
    nothing can beat them, so they are not among them."""
    own = next(r for r in results if r["row"] == arm)
    rivals = [
        r
        for r in results
        if r["kind"] == "no-skill"
        and r["view"] == own["view"]
        and (own["view"] == "region" or not any(real in r["row"] for real in REAL_STAND_INS))
        and r["row"].endswith(JOINT_SUFFIX) == (arm == JOINT)
    ]
    verdict: dict[str, Any] = {"mmd2_below_all": all(_below(own["mmd2"], r["mmd2"]) for r in rivals)}
    for recipe in own["auc"]:
        verdict[f"auc_{recipe}_below_all"] = all(_below(own["auc"][recipe], r["auc"][recipe]) for r in rivals)
    return verdict


def _below(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> bool:
    """The interval of `a` ends below the interval of `b`."""
    return a["high"] is not None and b["low"] is not None and a["high"] < b["low"]
