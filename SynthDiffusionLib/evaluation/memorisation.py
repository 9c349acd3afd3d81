"""Memorisation: is a synthetic volume nearer to a training case than unseen real ones are?

Distance of two volumes: 1 minus the largest normalised cross-correlation over shifts and mirror images, at half the
resolution. The core of one volume (a cube round its middle) is laid on every place of the other, so that all shifts are
compared over equally many voxels. The correlation does not change with brightness and contrast. Volumes are band-passed
before: with the coarse contrast of lung and chest wall in it, cubes of different patients correlate at 0.95, and copies
with noise are lost among them (the control below finds 12 of 20; band-passed, all). Where the volumes of a data set are
of different sizes, all of them, those that are searched too, are cut to one size round the target before.

* Reference: the distance of held-out real volumes to their nearest training case. A model that copies makes volumes
  that are nearer; of one that does not, few are as near as the reference's nearest 5 %.
* Since smooth volumes correlate more with everything, it is also counted how often the nearest of all real volumes,
  training and held-out, is a training case. Without copying that happens as often as their share of those volumes,
  whatever the smoothness (in the spirit of Meehan et al. 2020, arXiv:2004.05675).
* Positive controls: training cases, mirrored, shifted and with added noise, which must be found; and training cases
  that are warped, of which hardly any is below the limit. As a set they still show, if faintly, by the second count.

Both tests are exact. A binomial test would not be: the limit is itself drawn, with the 40 reference volumes, so that
for 20 volumes a nominal 2.5 % would be 8.3 %; and a few real volumes are the nearest ones of many, so that volumes do
not fall on training cases independently of each other. A model that copies one case only is seen by the first test
alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.arms import INPAINTING, JOINT, MOVED
from SynthDiffusionLib.evaluation.cases import SURROUNDINGS, EvaluationData
from SynthDiffusionLib.evaluation.joint import measure_masks
from SynthDiffusionLib.evaluation.rows import Item, Row, as_evaluated, common_crop, real_items
from SynthDiffusionLib.evaluation.statistics import CONFIDENCE
from SynthDiffusionLib.training.dataset import Case

SMOOTHING_VOXELS = 1.25
BACKGROUND_VOXELS = 3.0
STEP = 2
CORES_VOXELS = {"whole": 34, "region": 20}
QUANTILE = 0.05
FLAT_SD = 0.02  # of the scaled range; flatter places have no pattern to compare
CONTROL_NOISE_HU = 40.0
# In muscle, intensities are clipped to these, since the shafts of bones, and the skin against air, are so alike in all
# patients that they correlate at 0.94 where the rest differs; and the controls get less noise, since tissues differ by
# less. Chosen on the training patients of `limb-tumour-ct`: of 10 copies of 15 of them, the limit found 4 without.
MUSCLE_HU = (-150.0, 100.0)
MUSCLE_NOISE_HU = 20.0
CONTROL_SHIFT = (3, -4, 5)
# Of cut-outs of a small organ, which are no larger than the core: there is no room to shift it, and copies that were
# shifted were not found (0 of 40 of hippocampus-mr). They are searched in full resolution with a smaller core, and the
# controls are shifted less. Chosen on training and validation cases: 15 of 15 copies are found, region and all.
SMALL_STEP = 1
SMALL_CORES_VOXELS = {"whole": 16, "region": 12}
SMALL_CONTROL_SHIFT = (2, -3, 2)
CONTROL_SEED = 2026
WARP_VOXELS = 2.5  # standard deviation of the displacement along each axis
WARP_SMOOTHING_VOXELS = 5.0
PERMUTATIONS = 9999
PERMUTATION_SEED = 2026
SUSPICION = (1.0 - CONFIDENCE) / 2.0

DEFINITIONS = {
    "distance": "1 minus the largest normalised cross-correlation of the volume's core with a training case, over all "
    "shifts that keep the core inside and the eight mirror images, of band-passed volumes at half resolution",
    "below_quantile": "volumes at most as far from their nearest training case as the reference's volume at its lower "
    "quantile",
    "nearest_is_training": "volumes whose nearest real volume, of the training and the validation cases, is a training "
    "case",
    "expected": "without copying",
    "p": "probability of at least so many without copying. Below the limit: exact, from the ranks of held-out and "
    "synthetic volumes (one of each patient) among each other. Nearest: share of {permutations} random splits of the "
    "same training and validation patients that give as many. Copying is suspected when either is below {level:.1%}, "
    "so of rows without copying at most {twice:.0%} are",
    "blind": "the distance knows shifts and mirror images, not deformations. The control row of copies warped by "
    "{warp:g} voxels says how many of them are below the limit, and whether a model that makes nothing else is "
    "suspected. No sign of copying does not rule out deformed copies, least of all single ones",
    "region": "the core is a {box} round the {target}, so that copies of nothing but the {target} are seen",
}
# Where the volumes of a data set are of different sizes.
MUSCLE_DEFINITION = (
    "before, intensities are clipped to {low:g} to {high:g} HU, since bones and skin are much alike in all patients"
)
CROP_DEFINITION = (
    "all volumes, those that are searched too, are cut to boxes of {crop} voxels round the middle of the {target}, "
    "since they are of different sizes; shifts are those that keep the core inside such a box"
)


@dataclass(frozen=True)
class Gallery:
    """Volumes prepared for search: Fourier transforms, and the standard deviations of all places for a core."""

    names: list[str]
    spectra: np.ndarray
    deviations: np.ndarray
    core: int
    shape: tuple[int, int, int]


def is_small(data: EvaluationData) -> bool:
    """Whether the volumes are cut-outs of a small organ, see `SMALL_STEP`."""
    shape = data.crop or data.training[0].image.shape
    return data.ground == SURROUNDINGS and min(shape) < CORES_VOXELS["whole"]


def reduce(hu: np.ndarray, intensity_range: tuple[float, float], step: int = STEP) -> np.ndarray:
    """Every `step`th voxel, scaled to [-1, 1] and band-passed (difference of two Gaussians); float64."""
    from scipy import ndimage

    from SynthDiffusionLib.intensity import normalise

    values = normalise(hu, intensity_range).astype(np.float64)
    fine, coarse = (ndimage.gaussian_filter(values, s, mode="nearest") for s in (SMOOTHING_VOXELS, BACKGROUND_VOXELS))
    return (fine - coarse)[::step, ::step, ::step]


def build_gallery(volumes: Mapping[str, np.ndarray], core: int) -> Gallery:
    """Prepares reduced volumes of one shape for cores of `core`³ reduced voxels."""
    from scipy.fft import rfftn

    arrays = np.stack(list(volumes.values())).astype(np.float32)
    shape = arrays.shape[1:]
    count = core**3
    sums = _box_sums(arrays.astype(np.float64), core)
    squares = _box_sums(arrays.astype(np.float64) ** 2, core)
    deviations = np.sqrt(np.maximum(squares / count - (sums / count) ** 2, 0.0)).astype(np.float32)
    return Gallery(list(volumes), rfftn(arrays, axes=(1, 2, 3)), deviations, core, shape)


def _box_sums(arrays: np.ndarray, core: int) -> np.ndarray:
    """Sums over all cubes of `core`³ voxels that fit; (N, I - core + 1, ...)."""
    for axis in (1, 2, 3):
        padded = np.insert(np.cumsum(arrays, axis=axis), 0, 0.0, axis=axis)
        n = padded.shape[axis]
        arrays = np.take(padded, range(core, n), axis) - np.take(padded, range(n - core), axis)
    return arrays


def distances(volume: np.ndarray, center: Sequence[int], gallery: Gallery) -> np.ndarray:
    """Distances of the core of one reduced volume to all volumes of the gallery, (N,).

    Args:
        center: middle of the core in reduced voxels; moved inwards where the core would leave the volume.
    """
    from scipy.fft import irfftn, rfftn

    core, valid = gallery.core, tuple(slice(0, n - gallery.core + 1) for n in gallery.shape)
    start = [int(np.clip(c - core // 2, 0, n - core)) for c, n in zip(center, volume.shape)]
    piece = volume[tuple(slice(a, a + core) for a in start)]
    piece = piece - piece.mean()
    deviation = max(piece.std(), FLAT_SD)
    best = np.full(len(gallery.names), -1.0)
    for flips in product((False, True), repeat=3):
        turned = np.flip(piece, [axis for axis, flip in enumerate(flips) if flip])
        padded = np.zeros(gallery.shape, np.float32)
        padded[:core, :core, :core] = turned
        # Correlation theorem; the piece has mean 0, so the means of the places drop out.
        product_sum = irfftn(gallery.spectra * np.conj(rfftn(padded)), s=gallery.shape, axes=(1, 2, 3))
        places = product_sum[(slice(None), *valid)] / (core**3 * deviation * np.maximum(gallery.deviations, FLAT_SD))
        best = np.maximum(best, places.reshape(len(places), -1).max(1))
    return 1.0 - best


def measure_memorisation(
    data: EvaluationData, arms: Mapping[str, Row], on_event: Callable[[dict], None] = lambda event: None
) -> dict[str, Any]:
    """Measures every arm against the training cases, with reference and control.

    The inpainting arm is measured on the region only: the rest of it is the test patient.
    """

    def real(cases: Sequence[Case]) -> tuple[Item, ...]:
        items = Row("real", "", "real", real_items(cases, data.intensity_range))
        return common_crop(items, data.target_value, data.crop).items

    training = real(data.training)
    others = real(data.others)
    held_out = (*others, *real(data.evaluated))
    reference = Row("reference", "held-out real images", "real", held_out)
    control = Row("copies", "copies of training cases (control)", "real", control_items(training, data))
    warped = Row("copies_warped", "warped copies (control)", "real", warped_items(training, data))
    evaluated = {n: common_crop(row, data.target_value, data.crop) for n, row in arms.items() if n != MOVED}
    results, per_volume, settings = [], [], {}
    shape, step = training[0].hu.shape, SMALL_STEP if is_small(data) else STEP
    for size, side in (SMALL_CORES_VOXELS if is_small(data) else CORES_VOXELS).items():
        view = size if data.crop is None or size == "region" else "crop"
        core = min(side, *shape) // step
        train_gallery, other_gallery = (
            build_gallery({i.case: reduce(i.hu, _clipped_to(data), step) for i in items}, core)
            for items in (training, others)
        )
        settings[f"core_mm_{view}"] = _millimetres(core * step, data)
        rows = [reference, control, warped, *(r for n, r in evaluated.items() if view == "region" or n != INPAINTING)]
        found: dict[str, list[dict[str, Any]]] = {}
        for number, row in enumerate(rows):
            on_event(
                {"event": "progress", "stage": f"memorisation, {view}: {row.label}", "step": number, "total": len(rows)}
            )
            own = {c.name for c in data.others}
            found[row.name] = [
                _measure(item, view, data, train_gallery, other_gallery, row.name, skip=item.case in own)
                for item in row.items
            ]
        searched = [(c.patient, True) for c in data.training] + [(c.patient, False) for c in data.others]
        results += [_summary(row, view, found[row.name], found["reference"], searched) for row in rows]
        settings[f"limit_{view}"] = _limit(found["reference"])[0]
        per_volume += [v for row in rows for v in found[row.name]]
    return {
        "kind": "memorisation",
        "rows": results,
        "verdicts": {
            r["row"] + "_" + r["view"]: {"copying_suspected": r["suspected"]} for r in results if r["kind"] == "ours"
        },
        "settings": settings
        | ({} if data.crop is None else {"crop": list(data.crop)})
        | ({} if data.ground != "muscle" else {"clipped_to": list(_clipped_to(data))})
        | {
            "quantile": QUANTILE,
            "reference_volumes": len(held_out),
            "training_volumes": len(training),
            "band_sigmas_voxels": [SMOOTHING_VOXELS, BACKGROUND_VOXELS],
            "control_noise_hu": _control_noise(data),
            "control_shift_voxels": list(_control_shift(data)),
            **({"step_voxels": step} if is_small(data) else {}),
            "control_warp_voxels": WARP_VOXELS,
            "control_warp_smoothing_voxels": WARP_SMOOTHING_VOXELS,
            "permutations": PERMUTATIONS,
            "confidence": CONFIDENCE,
        },
        "definitions": _definitions(data),
        "per_volume": per_volume,
    } | ({"masks": measure_masks(data, arms[JOINT], rank_test, SUSPICION)} if JOINT in arms else {})


def _definitions(data: EvaluationData) -> dict[str, str]:
    texts = DEFINITIONS if data.crop is None else DEFINITIONS | {"crop": CROP_DEFINITION}
    texts = texts if data.ground != "muscle" else texts | {"clipped": MUSCLE_DEFINITION}
    if is_small(data):
        texts = texts | {"distance": texts["distance"].replace("half resolution", "full resolution")}
    words = {
        "permutations": PERMUTATIONS,
        "level": SUSPICION,
        "twice": 2.0 * SUSPICION,
        "warp": WARP_VOXELS,
        "target": data.target,
        "low": _clipped_to(data)[0],
        "high": _clipped_to(data)[1],
        "box": "cube" if _one_spacing(data) else "box",
        "crop": "x".join(map(str, data.crop or ())),
    }
    return {k: v.format(**words) for k, v in texts.items()}


def _clipped_to(data: EvaluationData) -> tuple[float, float]:
    """The intensities that volumes are compared in."""
    low, high = data.intensity_range
    return (low, high) if data.ground != "muscle" else (max(low, MUSCLE_HU[0]), min(high, MUSCLE_HU[1]))


def _control_noise(data: EvaluationData) -> float:
    return CONTROL_NOISE_HU if data.ground != "muscle" else MUSCLE_NOISE_HU


def _control_shift(data: EvaluationData) -> tuple[int, int, int]:
    return SMALL_CONTROL_SHIFT if is_small(data) else CONTROL_SHIFT


def _one_spacing(data: EvaluationData) -> bool:
    spacing = data.training[0].image.spacing
    return bool(np.allclose(spacing, spacing[0], rtol=1e-3))


def _millimetres(voxels: int, data: EvaluationData) -> float | list[float]:
    """A number of voxels in mm, one for each axis where voxels are no cubes."""
    spacing = data.training[0].image.spacing
    return float(voxels * spacing[0]) if _one_spacing(data) else [round(float(voxels * s), 2) for s in spacing]


def control_items(training: Sequence[Item], data: EvaluationData) -> tuple[Item, ...]:
    """Copies as a model might make them: mirrored, shifted, with noise; as many as there are evaluated cases."""
    items = []
    for number, item in enumerate(training[: len(data.evaluated)]):
        rng = np.random.default_rng([CONTROL_SEED, number])
        axis = int(rng.integers(3))
        hu, classes = (np.roll(np.flip(a, axis), _control_shift(data), (0, 1, 2)) for a in (item.hu, item.classes))
        hu = as_evaluated(hu + _control_noise(data) * rng.standard_normal(hu.shape), data.intensity_range)
        items.append(Item(item.case, item.patient, hu, classes, item.affine))
    return tuple(items)


def warped_items(training: Sequence[Item], data: EvaluationData) -> tuple[Item, ...]:
    """Copies bent by a smooth random displacement, and otherwise untouched; as many as there are evaluated cases."""
    from scipy import ndimage

    items = []
    for number, item in enumerate(training[: len(data.evaluated)]):
        rng = np.random.default_rng([CONTROL_SEED, number, 1])
        rough = [ndimage.gaussian_filter(rng.standard_normal(item.hu.shape), WARP_SMOOTHING_VOXELS) for _ in range(3)]
        places = np.indices(item.hu.shape) + np.stack([WARP_VOXELS * r / r.std() for r in rough])
        hu = ndimage.map_coordinates(item.hu, places, order=1, mode="nearest")
        classes = ndimage.map_coordinates(item.classes, places, order=0, mode="nearest")
        if not (classes == data.target_value).any():
            classes = item.classes
        items.append(replace(item, hu=as_evaluated(hu, data.intensity_range), classes=classes))
    return tuple(items)


def _measure(
    item: Item, view: str, data: EvaluationData, training: Gallery, others: Gallery, row: str, skip: bool
) -> dict[str, Any]:
    step = SMALL_STEP if is_small(data) else STEP
    volume = reduce(item.hu, _clipped_to(data), step)
    center = [n // 2 for n in volume.shape]
    if view == "region":
        voxels = np.argwhere(item.classes == data.target_value)
        if len(voxels):  # an empty mask, of a model that makes its own, has the middle of its volume
            center = [int(v) for v in np.rint(voxels.mean(0) / step)]
    to_training = distances(volume, center, training)
    nearest = int(np.argmin(to_training))
    found = {
        "row": row,
        "view": view,
        "case": item.case,
        "patient": item.patient,
        "seed": item.seed,
        "distance": float(to_training[nearest]),
        "nearest": training.names[nearest],
        "nearest_is_training": None,
        "nearest_of_all": None,
    }
    if not skip:  # a validation case is its own nearest one
        to_others = distances(volume, center, others)
        found["nearest_is_training"] = bool(to_training[nearest] < to_others.min())
        found["nearest_of_all"] = (
            nearest if found["nearest_is_training"] else len(to_training) + int(to_others.argmin())
        )
    return found


def _limit(reference: Sequence[Mapping[str, Any]]) -> tuple[float, int, int]:
    """The reference's distance at its lower quantile, the rank of that distance, and how many it is the rank of.

    One volume of each patient, so that they are independent of each other.
    """
    values = sorted(_first_of_patients(reference))
    rank = max(1, int(np.ceil(QUANTILE * len(values))))
    return values[rank - 1], rank, len(values)


def _first_of_patients(found: Sequence[Mapping[str, Any]]) -> list[float]:
    first: dict[str, float] = {}
    for v in found:
        first.setdefault(v["patient"], v["distance"])
    return list(first.values())


def rank_test(below: int, volumes: int, rank: int, reference: int) -> float:
    """Probability that at least `below` of `volumes` values lie under the one of rank `rank` (1: the smallest) of
    `reference` other values, when all are drawn from one distribution, whatever it is.

    That number is negative hypergeometric: all orders of the two sets are equally likely (the precedence test, Nelson
    1963, Technometrics 5:491).
    """
    from scipy.stats import nhypergeom

    return float(nhypergeom.sf(below - 1, volumes + reference, volumes, rank))


def split_test(
    hits: Mapping[str, int], training: Sequence[str], others: Sequence[str], permutations: int = PERMUTATIONS
) -> float:
    """Probability that at least so many hits fall on training patients, when chance decided which patients those are.

    Args:
        hits: patient to the number of volumes that are nearest to one of the patient's.
        training: patients; others: those that were held out.

    Returns:
        p of a permutation test, counting the split that was drawn (Phipson and Smyth 2010, arXiv:1603.05766): of no
        more than the nominal size, however unevenly the hits are spread and whatever makes volumes resemble each other.
    """
    patients = [*dict.fromkeys(training), *dict.fromkeys(others)]
    counts = np.array([hits.get(p, 0) for p in patients])
    size = len(dict.fromkeys(training))
    rng = np.random.default_rng([PERMUTATION_SEED, len(patients)])
    drawn = rng.permuted(np.tile(counts, (permutations, 1)), axis=1)[:, :size].sum(1)
    return float((1 + (drawn >= counts[:size].sum()).sum()) / (1 + permutations))


def _summary(
    row: Row,
    view: str,
    found: list[dict[str, Any]],
    reference: list[dict[str, Any]],
    searched: Sequence[tuple[str, bool]],
) -> dict[str, Any]:
    """One row of the table; `searched` has the patient of every volume that is searched, and whether it is training."""
    values = np.array([v["distance"] for v in found])
    limit, rank, count = _limit(reference)
    below = int((values <= limit).sum())
    compared = [v["nearest_is_training"] for v in found if v["nearest_is_training"] is not None]
    training, others = ([p for p, t in searched if t is kind] for kind in (True, False))
    share = len(set(training)) / len({p for p, _ in searched})
    independent = np.array(_first_of_patients(found))
    # The reference is what the limit is taken from: no test of it against itself.
    p_below = None
    if row.name != "reference":
        p_below = rank_test(int((independent <= limit).sum()), len(independent), rank, count)
    p_nearest = None
    if compared:
        hits = Counter(searched[v["nearest_of_all"]][0] for v in found if v["nearest_of_all"] is not None)
        p_nearest = split_test(hits, training, others)
    return {
        "row": row.name,
        "label": row.label,
        "kind": row.kind,
        "view": view,
        "volumes": len(values),
        "patients": len(set(row.patients)),
        "smallest": float(values.min()),
        "lower_quantile": float(np.quantile(values, QUANTILE)),
        "median": float(np.median(values)),
        "median_ratio": float(np.median(values) / np.median([v["distance"] for v in reference])),
        "below_quantile": below,
        "expected_below_quantile": rank / (count if row.name == "reference" else count + 1) * len(values),
        "p_below": p_below,
        "nearest_is_training": int(sum(compared)),
        "nearest_compared": len(compared),
        "expected_nearest_is_training": share * len(compared),
        "p_nearest": p_nearest,
        "suspected": any(p is not None and p < SUSPICION for p in (p_below, p_nearest)),
    }
