"""How far two masks agree: Dice, surface Dice, HD95, by MONAI, with what MONAI leaves undefined decided here.

What counts how where a class is empty:

* drawn and found: all three figures.
* drawn, nothing found: Dice 0, surface Dice 0, HD95 infinite ("missed"). MONAI gives NaN or infinity depending on
  which of the two is empty. Summaries of HD95 are medians, in which a missed structure is farther off than any other.
* not drawn, something found: no figure; counted with its volume ("found without being drawn").
* neither: no figure; counted. (A Dice of 1 for it would reward masks without the class.)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.statistics import CONFIDENCE, RESAMPLES, SEED, Estimate

PERCENTILE = 95


def default_tolerance(spacing: Sequence[float]) -> float:
    """Of surface Dice, in mm: the diagonal of a voxel, since a boundary is drawn no more exactly than that."""
    return float(np.linalg.norm(spacing))


def check_tolerance(tolerance: float) -> float:
    """The tolerance.

    Raises:
        BadInput: it is none.
    """
    if not (math.isfinite(tolerance) and 0 <= tolerance <= 1000):
        raise BadInput(f"{tolerance:g} mm is no tolerance", "Give --tolerance a distance in mm, such as 2.")
    return float(tolerance)


def overlap(found: np.ndarray, drawn: np.ndarray, spacing: Sequence[float], tolerance_mm: float) -> dict[str, object]:
    """Figures of one class in one volume.

    Args:
        found: (I, J, K) bool, of the segmenter.
        drawn: (I, J, K) bool, of the input segmentation.
        spacing: of the voxels in mm.
        tolerance_mm: up to which boundaries agree.

    Returns:
        "state": "both", "missed", "not drawn" or "neither"; "dice", "surface_dice", "hd95_mm" (NaN where there is no
        figure, infinite where missed), "drawn_ml", "found_ml".
    """
    voxel_ml = float(np.prod(spacing)) / 1000.0
    sizes = {"drawn_ml": int(drawn.sum()) * voxel_ml, "found_ml": int(found.sum()) * voxel_ml}
    if not drawn.any():
        state = "not drawn" if found.any() else "neither"
        return {"state": state, "dice": math.nan, "surface_dice": math.nan, "hd95_mm": math.nan, **sizes}
    if not found.any():
        return {"state": "missed", "dice": 0.0, "surface_dice": 0.0, "hd95_mm": math.inf, **sizes}
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    a, b = (torch.from_numpy(np.ascontiguousarray(m))[None, None] for m in _cropped(found, drawn))
    own = [float(mm) for mm in spacing]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # MONAI's of empty masks: there are none here
        warnings.simplefilter("ignore", FutureWarning)  # of an argument that MONAI passes to itself
        dice = compute_dice(a.float(), b.float(), include_background=True)
        surface = compute_surface_dice(a, b, [float(tolerance_mm)], include_background=True, spacing=own)
        distance = compute_hausdorff_distance(a, b, include_background=True, percentile=PERCENTILE, spacing=own)
    values = {"dice": dice.item(), "surface_dice": surface.item(), "hd95_mm": distance.item()}
    return {"state": "both", **values, **sizes}


def _cropped(found: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both, cut to the box that holds all of either with a rim of a voxel; background where the volume ends."""
    either = np.pad(found | drawn, 1)
    box = []
    for axis in range(3):
        hit = np.flatnonzero(either.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(hit[0] - 1, hit[-1] + 2))
    return np.pad(found, 1)[tuple(box)], np.pad(drawn, 1)[tuple(box)]


def median_hd95(values: Sequence[float], patients: Sequence[str], fewest: int = 10) -> Estimate:
    """Median over patients of each one's median, with its percentile bootstrap interval over patients; infinite where
    at least half of it is missed.

    Args:
        values: HD95 of each volume, mm; NaN does not count.
        patients: of each volume.
        fewest: patients below which there is no interval.
    """
    by_patient: dict[str, list[float]] = {}
    for value, patient in zip(values, patients):
        if not math.isnan(value):
            by_patient.setdefault(patient, []).append(value)
    own = [_median(v) for v in by_patient.values()]
    if len(own) < fewest:
        return Estimate(_median(own), math.nan, math.nan)
    drawn = np.random.default_rng([SEED, len(own)]).integers(len(own), size=(RESAMPLES, len(own)))
    medians = sorted(_median(np.array(own)[row].tolist()) for row in drawn)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = (medians[round(q * (RESAMPLES - 1))] for q in (tail, 1.0 - tail))  # infinite ones cannot be averaged
    return Estimate(_median(own), low, high)


def _median(values: Sequence[float]) -> float:
    """As numpy's, but the mean of a finite and an infinite number is infinite without a warning."""
    if not values:
        return math.nan
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    low, high = ordered[middle - 1], ordered[middle]
    return math.inf if math.isinf(high) else (low + high) / 2


def counted_states(states: Sequence[str]) -> Mapping[str, int]:
    """How often each state of `overlap` occurs."""
    return {state: states.count(state) for state in ("both", "missed", "not drawn", "neither")}
