"""Mask adherence: does a segmenter that was trained on real images find the drawn target in the synthetic one?

Dice of the package's segmenter with the input mask, on synthetic volumes and on the real images of the same masks, and
the ratio of the two means. A ratio well above 1 is as bad a sign as one well below: a bright ball in empty lung is
easier to find than a nodule. Volumes are measured whole, whatever their size. The no-skill rows say what ratios mean
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.evaluation import noskill
from SynthDiffusionLib.evaluation.arms import INPAINTING, JOINT, MOVED
from SynthDiffusionLib.evaluation.cases import SURROUNDINGS, EvaluationData
from SynthDiffusionLib.evaluation.rows import Item, Row, real_items
from SynthDiffusionLib.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    bootstrap_mean,
    bootstrap_ratio,
    interval,
    mean_by_patient,
    patient_weights,
)
from SynthDiffusionLib.intensity import normalise

if TYPE_CHECKING:
    import torch

    from SynthDiffusionLib.models import ModelPackage, ModelSpec

RATIO_LIMITS = (0.9, 1.1)
LEAST_REAL_DICE = 0.6
FOUND_FRACTION = 0.1
WINDOW = 40
SHIFTED_SIDE = 40
SHIFT_SEED = 2026

DEFINITIONS = {
    "dice": "2 |A and B| / (|A| + |B|) of the segmenter's mask and the input mask, per volume",
    "ratio": "mean Dice of the row divided by the mean Dice of the real images of the same patients",
    "interval": "percentile bootstrap over patients",
    "found": "share of volumes in which the segmenter covers at least {found_fraction:.0%} of the input mask",
    "false_ml": "median volume that the segmenter marks beyond 5 mm of the input mask, in ml",
    "moved": "{target} alone, each mask shifted at random, since the {target} lies at much the same place in all "
    "training images; the ball for moved masks stays there, so that its Dice is what position alone is worth then",
    "nearer": "share of bootstrap resamples in which the arm's ratio is nearer to 1 than the no-skill row's",
}
# Where the volumes of a data set are of different sizes.
SIZES_DEFINITIONS = {
    "ellipsoid": "the {target} lies at about the same distance from the ends of all volumes of this data set, so that "
    "the size of a volume gives away where the {target} ends; the ellipsoid knows nothing else",
    "painted": "the real image of the training patient whose {target} is nearest in volume, laid with its {target} on "
    "the drawn one, which is painted in at the training mean of that class and blurred",
    "shifted": "real images cut to {crop} voxels at random places that hold the middle of the {target}",
}
# Where volumes are of one size, black padding of different extent round them.
PADDING_DEFINITIONS = {
    "bright_ellipsoid": "the images were cut at about the same distance round their {target} and padded with black: "
    "where the padding begins gives away where the {target} ends. The box holds what is brighter than {black:.0%} of "
    "the range; the ellipsoid ends as far from its sides as the training images' {target} does, and knows nothing else",
}
# Where no class encloses the target.
SURROUNDINGS_DEFINITIONS = {
    "surroundings": "what the target lies in is no class of its own: flat surroundings are the mean intensity of the "
    "training images outside all classes",
    "mean_training": "training images laid with their drawn structures on the drawn ones and averaged, all that is "
    "drawn painted in at the mean intensity of its class and blurred",
    "nearest_training": "the unchanged image of the training case whose {target}, laid middle on middle, has the "
    "highest Dice with the drawn one",
}
JOINT_DEFINITIONS = {
    "joint": "the model was asked for the characteristics of each real {target} and made image and mask together; its "
    "image is measured with its own mask, real images with theirs, so that nothing here says whether it made what it "
    "was asked for (evaluate control does). An empty mask has a Dice of 0",
    "for the samples' masks": "no-skill rows, made for the masks that the model made",
}
# Ends the names of no-skill rows that are made for the masks of samples.
JOINT_SUFFIX = "_joint"

Segment = Callable[[np.ndarray], np.ndarray]


def package_segmenter(package: ModelPackage, target: str | None = None) -> Segment:
    """The segmenter that ships with a model, see `windowed_segmenter`.

    Args:
        target: class that is to be found; the first of those that it finds when None.

    Raises:
        BadInput: the package has none, or it does not find that class.
        ModelError: its weights do not fit.
    """
    from SynthDiffusionLib.errors import BadInput, ModelError

    spec = package.spec
    if spec.segmenter is None:
        raise BadInput(
            f"The model '{spec.id}' has no segmenter to measure adherence with", "Use a package that has one."
        )
    from SynthDiffusionLib.networks.segmenter import build_segmenter

    found = spec.segmenter.details.get("targets") or [spec.target_class]
    if target is not None and target not in found:
        raise BadInput(
            f"The segmenter of the model '{spec.id}' finds {', '.join(map(str, found))}, not '{target}'",
            "Measure one of the classes that it finds.",
        )
    try:
        network = build_segmenter(**{"out_channels": len(found)} | spec.segmenter.network.parameters)
        network.load_state_dict({k: v.float() for k, v in package.load_tensors("segmenter").items()})
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"The segmenter of the model '{spec.id}' does not fit its description", "Install the package again."
        ) from error
    network.eval()
    # One that was trained on a window of the intensities (soft tissue) is given them in the same.
    limits = tuple(spec.segmenter.details.get("intensity_range", spec.intensity.range))
    channel = 0 if target is None else found.index(target)
    return windowed_segmenter(network, limits, window_of(spec), **({"channel": channel} if channel else {}))


def package_segmenters(package: ModelPackage, targets: Sequence[str]) -> dict[str, Segment]:
    """The package's segmenter for each of several classes, see `package_segmenter`."""
    details = package.spec.segmenter.details if package.spec.segmenter else {}
    if len(targets) == 1 and "targets" not in details:
        return {targets[0]: package_segmenter(package)}
    return {name: package_segmenter(package, name) for name in targets}


def window_of(spec: ModelSpec) -> int:
    """Side in voxels of the windows that the package's segmenter works in: what it was trained on."""
    return int(spec.segmenter.details.get("patch", WINDOW)) if spec.segmenter else WINDOW


def windowed_segmenter(
    network: torch.nn.Module, intensity_range: tuple[float, float], window: int = WINDOW, channel: int = 0
) -> Segment:
    """A network as a function from HU (I, J, K) to a mask, applied in overlapping windows whose logits are averaged.
    Where a volume is smaller than a window, its last voxels are repeated.

    The network normalises over its whole input, so that it sees other statistics on a larger field than it was trained
    on. Windows were chosen on the validation images, where they do better than one pass over the cube.

    Args:
        network: `build_segmenter`'s.
        intensity_range: values that its -1 and 1 stand for.
        window: side in voxels.
        channel: output that is wanted.
    """
    import torch
    from monai.inferers import sliding_window_inference

    divisor = 2 ** (len(network.channels) - 1)
    window = -(-window // divisor) * divisor

    def segment(hu: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(normalise(hu, intensity_range))[None, None]
        with torch.inference_mode():
            logits = sliding_window_inference(
                image, (window,) * 3, sw_batch_size=1, predictor=network, overlap=0.5, padding_mode="replicate"
            )
        return logits[0, channel].numpy() > 0

    return segment


def measure_targets(
    data: EvaluationData,
    arms: Mapping[str, Row],
    segments: Mapping[str, Segment],
    margin_mm: float | None,
    on_event: Callable[[dict], None] = lambda event: None,
    window: int = WINDOW,
) -> dict[str, Any]:
    """`measure_adherence` for each of several targets.

    Args:
        segments: by target, the target class first. What an arm does not give the model is not asked of it: of the
            others than the target class, the arms of that class alone have no rows.

    Returns:
        the result for the target class; where there are others, with its name under "target", and theirs in the list
        "others", each with its own no-skill rows.
    """
    results = []
    for name, segment in segments.items():
        own = replace(data, target=name)
        shown = arms
        if name != data.target:
            given = {k: row for k, row in arms.items() if k not in (data.target, MOVED)}
            shown = {
                k: row if k == JOINT else replace(row, items=_with_target(own, row.items)) for k, row in given.items()
            }
        measured = measure_adherence(own, shown, segment, margin_mm, on_event, window)
        results.append({**measured, "target": name})
    first, *others = results
    if not others:
        return {k: v for k, v in first.items() if k != "target"}
    return first | {"others": others}


def measure_adherence(
    data: EvaluationData,
    arms: Mapping[str, Row],
    segment: Segment,
    margin_mm: float | None,
    on_event: Callable[[dict], None] = lambda event: None,
    window: int = WINDOW,
) -> dict[str, Any]:
    """Measures all rows.

    Args:
        data: the real cases.
        arms: the model's rows.
        segment: HU to mask.
        margin_mm: rim of inpainting, for the no-skill rows of it; None leaves them out.
        window: that `segment` works in, for the results.

    Returns:
        JSON: rows, verdicts, scores per volume, definitions.
    """
    real = Row("real", "real images", "real", _with_target(data, real_items(data.evaluated, data.intensity_range)))
    shifted = shifted_row(real) if data.crop is None else shifted_crops(real, data.target_value, data.crop)
    rows = [real, shifted]
    statistics = noskill.training_statistics(
        data.training, [0, *data.values.values()], data.target_value, data.intensity_range
    )
    if set(arms) != {JOINT}:
        rows += no_skill_rows(data, real, margin_mm if INPAINTING in arms else None)
    elif noskill.BOX in blind_names(data, statistics):
        # Whether a segmenter sees more in real images than where they end decides what its Dice is worth.
        rows.append(Row(noskill.BOX, noskill.LABELS[noskill.BOX], "no-skill", real.items))
    if JOINT in arms:
        rows += joint_rows(no_skill_rows(data, arms[JOINT], None))
    if MOVED in arms:
        blind = [row for row in rows if row.name in noskill.BLIND]  # not those of the arm "joint"
        rows += [Row(f"{r.name}_moved", f"{r.label}, for moved masks", r.kind, arms[MOVED].items) for r in blind]
    rows += list(arms.values())
    per_volume: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        on_event({"event": "progress", "stage": f"adherence: {row.label}", "step": number, "total": len(rows)})
        for item in row.items:
            mask = item.classes == data.target_value
            blind = row.name.removesuffix("_moved").removesuffix(JOINT_SUFFIX)
            if blind in noskill.PREDICTIONS:
                found = noskill.predicted(blind, item, statistics)
            else:
                found = segment(item.hu)
            per_volume.append(
                {"row": row.name, "case": item.case, "patient": item.patient, "seed": item.seed}
                | _scores(found, mask, item.affine)
            )
    by_patient = {row.name: _by_patient(per_volume, row.name, "dice") for row in rows}
    results = [_summary(row, per_volume, by_patient, data.target_value) for row in rows]
    return {
        "kind": "adherence",
        "rows": results,
        "verdicts": {name: _verdict(name, by_patient, results) for name in arms},
        "real_dice_sufficient": next(r["dice_mean"] for r in results if r["row"] == "real") >= LEAST_REAL_DICE,
        "settings": {
            "ratio_limits": list(RATIO_LIMITS),
            "least_real_dice": LEAST_REAL_DICE,
            "found_fraction": FOUND_FRACTION,
            "window": window,
            "shifted_side": SHIFTED_SIDE if data.crop is None else list(data.crop),
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
            "ball_radius_mm": statistics.radius_mm,
            "ball_offset_voxels": [float(v) for v in statistics.offset],
            "margin_mm": margin_mm,
        }
        | ({} if data.crop is None else {"ellipsoid_border_mm": [float(v) for v in statistics.border_mm]})
        | (
            {"bright_border_voxels": statistics.bright_border.tolist(), "padding": statistics.padding}
            if noskill.BOX in blind_names(data, statistics)
            else {}
        ),
        "definitions": _definitions(data, arms, statistics),
        "per_volume": per_volume,
    }


def _definitions(
    data: EvaluationData, arms: Mapping[str, Row], statistics: noskill.TrainingStatistics
) -> dict[str, str]:
    texts = DEFINITIONS if data.crop is None else DEFINITIONS | SIZES_DEFINITIONS
    texts = texts | (PADDING_DEFINITIONS if noskill.BOX in blind_names(data, statistics) else {})
    texts = texts | (SURROUNDINGS_DEFINITIONS if data.ground == SURROUNDINGS else {})
    if JOINT in arms:
        texts = {k: v for k, v in texts.items() if k != "moved" or MOVED in arms} | JOINT_DEFINITIONS
    crop = "x".join(map(str, data.crop or ()))
    words = {"found_fraction": FOUND_FRACTION, "target": data.target, "crop": crop, "black": noskill.BLACK}
    return {k: v.format(**words) for k, v in texts.items()}


def _with_target(data: EvaluationData, items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Those whose class map has the target: one of several may be missing in a case."""
    return tuple(item for item in items if (item.classes == data.target_value).any())


def blind_names(data: EvaluationData, statistics: noskill.TrainingStatistics) -> tuple[str, ...]:
    """The predictions without a segmenter that say something on a data set: the ball; where volumes differ in size, the
    ellipsoid from that; where they do not, but have black padding, the one from that."""
    if data.crop:
        return noskill.BLIND
    return (noskill.BLIND[0], *([noskill.BOX] if statistics.padding >= noskill.LEAST_PADDING else []))


def joint_rows(rows: Sequence[Row]) -> list[Row]:
    """No-skill rows that were made for the masks of samples, named so that they are told from those for real masks."""
    label = "{}, for the samples' masks".format
    return [replace(row, name=f"{row.name}{JOINT_SUFFIX}", label=label(row.label)) for row in rows]


def no_skill_rows(data: EvaluationData, real: Row, margin_mm: float | None) -> list[Row]:
    """The stand-ins of `noskill`, and, given the rim of inpainting, those that are images pasted into the real ones.

    The items of the rows `noskill.PREDICTIONS` are those of `real`: `noskill.predicted` says what they find.
    """
    statistics = noskill.training_statistics(
        data.training, [0, *data.values.values()], data.target_value, data.intensity_range
    )
    images = no_skill_images(data, real, statistics)
    blind = blind_names(data, statistics)
    rows = [*(Row(name, noskill.LABELS[name], "no-skill", real.items) for name in blind), *images]
    if margin_mm is not None:
        rows += [noskill.pasted(row, real.items, data.target_value, margin_mm) for row in images]
    return rows


def no_skill_images(data: EvaluationData, real: Row, statistics: noskill.TrainingStatistics) -> list[Row]:
    """The stand-ins that are images: three; a fourth where volumes are of different sizes; and two more where no class
    encloses the target."""
    target, limits = data.target_value, data.intensity_range
    rows = [
        noskill.unrelated_real(real.items, data.others, limits),
        noskill.class_means_noise(real.items, statistics, limits),
        noskill.blob_flat(real.items, statistics, data.ground_value, target, limits, data.ground),
    ]
    if data.ground == SURROUNDINGS:
        rows.append(noskill.mean_training(real.items, data.training, statistics, limits))
        rows.append(noskill.nearest_training(real.items, data.training, target, limits))
    if data.crop:
        rows.append(noskill.painted_training(real.items, data.training, statistics, target, limits))
    return rows


def shifted_row(real: Row) -> Row:
    """Real images cropped to `SHIFTED_SIDE` voxels at random places: does the segmenter find targets off centre?"""
    items = []
    for number, item in enumerate(real.items):
        rng = np.random.default_rng([SHIFT_SEED, number])
        size = [min(SHIFTED_SIDE, n) for n in item.hu.shape]
        start = [int(rng.integers(0, n - s + 1)) for n, s in zip(item.hu.shape, size)]
        inside = tuple(slice(a, a + s) for a, s in zip(start, size))
        items.append(replace(item, hu=item.hu[inside], classes=item.classes[inside]))
    return Row("real_shifted", "real images, shifted crops", "real", tuple(items))


def shifted_crops(real: Row, target: int, size: Sequence[int]) -> Row:
    """As `shifted_row`, for volumes of different sizes: boxes of one size, at random places that hold the middle of the
    target. In a volume that is much larger than the box, most other places would hold no target."""
    items = []
    for number, item in enumerate(real.items):
        rng = np.random.default_rng([SHIFT_SEED, number])
        voxels = np.argwhere(item.classes == target)
        middle = (voxels.min(0) + voxels.max(0)) // 2
        start = [
            int(rng.integers(max(0, m - s + 1), min(m, n - s) + 1)) for m, n, s in zip(middle, item.hu.shape, size)
        ]
        inside = tuple(slice(a, a + s) for a, s in zip(start, size))
        items.append(replace(item, hu=item.hu[inside], classes=item.classes[inside]))
    return Row("real_shifted", "real images, shifted crops", "real", tuple(items))


def _scores(found: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> dict[str, float]:
    from scipy import ndimage

    from SynthDiffusionLib.training.train_segmenter import dice

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    # A model that makes its own mask may leave it empty: that must not count as agreement with a segmenter that finds
    # nothing.
    far = np.ones(mask.shape, bool)
    if mask.any():
        far = ndimage.distance_transform_edt(~mask, sampling=spacing) > 5.0
    covered = (found & mask).sum() / max(1, mask.sum())
    return {
        "dice": dice(found, mask) if mask.any() else 0.0,
        "found": float(covered >= FOUND_FRACTION),
        "false_ml": float((found & far).sum() * np.prod(spacing) / 1000.0),
    }


def _by_patient(per_volume: Sequence[dict[str, Any]], row: str, key: str) -> dict[str, float]:
    chosen = [v for v in per_volume if v["row"] == row]
    values, patients = mean_by_patient([v[key] for v in chosen], [v["patient"] for v in chosen])
    return {p: float(v) for p, v in zip(patients, values)}


def _paired(a: Mapping[str, float], *others: Mapping[str, float]) -> list[np.ndarray]:
    """Values of the patients that all have, in one order."""
    patients = sorted(set(a).intersection(*others))
    return [np.array([x[p] for p in patients]) for x in (a, *others)]


def _summary(
    row: Row, per_volume: list[dict[str, Any]], by_patient: Mapping[str, Mapping[str, float]], target: int
) -> dict[str, Any]:
    chosen = [v for v in per_volume if v["row"] == row.name]
    values = np.array(list(by_patient[row.name].values()))
    mean = bootstrap_mean(values)
    ratio = bootstrap_ratio(*_paired(by_patient[row.name], by_patient["real"]))
    return {
        "row": row.name,
        "label": row.label,
        "kind": row.kind,
        "volumes": len(chosen),
        "patients": len(values),
        "dice_mean": mean.value,
        "dice_interval": [mean.low, mean.high],
        "dice_median": float(np.median(values)),
        "ratio": ratio.to_json()["value"],
        "ratio_interval": [ratio.to_json()["low"], ratio.to_json()["high"]],
        **({"empty": sum(not (i.classes == target).any() for i in row.items)} if row.name == JOINT else {}),
        "found": float(np.mean([v["found"] for v in chosen])),
        "false_ml": float(np.median([v["false_ml"] for v in chosen])),
    }


def _verdict(
    arm: str, by_patient: Mapping[str, Mapping[str, float]], results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Is the ratio within its limits, its interval too, and is it nearer to 1 than those of the no-skill rows?"""
    own = next(r for r in results if r["row"] == arm)
    low, high = RATIO_LIMITS
    nearer = {}
    for other in results:
        if other["row"].endswith(JOINT_SUFFIX) != (arm == JOINT):
            continue
        blind = other["row"].removesuffix("_moved") in noskill.BLIND
        if blind and other["row"].endswith("_moved") != (arm == MOVED):
            continue
        pasted = other["row"].endswith("_pasted")
        if other["kind"] != "no-skill" or pasted != (arm == INPAINTING and not blind):
            continue
        a, b, real = _paired(by_patient[arm], by_patient[other["row"]], by_patient["real"])
        w = patient_weights(len(real))
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = np.abs((w @ b) / (w @ real) - 1.0) - np.abs((w @ a) / (w @ real) - 1.0)
        difference = interval(float((a - b).mean()), (w @ (a - b)) / len(a))
        nearer[other["row"]] = {
            "nearer_to_real": float(np.mean(gain > 0)),
            "dice_difference": difference.value,
            "dice_difference_interval": [difference.low, difference.high],
        }
    ratio, bounds = own["ratio"], own["ratio_interval"]
    known = ratio is not None and None not in bounds
    return {
        "ratio_within_limits": bool(known and low <= ratio <= high),
        "interval_within_limits": bool(known and low <= bounds[0] and bounds[1] <= high),
        "against_no_skill": nearer,
    }
