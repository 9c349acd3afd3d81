"""The arms of an evaluation: what a model is given, and what of the volume is then synthetic.

* the target class ("nodule", "tumour"): every voxel is synthetic; the model is given the target's mask alone.
* anatomy: every voxel is synthetic; the model is given the target and the coarse anatomy.
* inpainting, of models that can: the real volume, in which the target and a rim round it are unknown; the target is
  drawn back at its place.
* joint, of models that make the mask themselves: every voxel of the image and of its mask is synthetic; the model is
  given the nine characteristics of the real target's mask. The mask of a sample is its own.
* moved: the target's mask alone, moved off centre. All targets of a data set lie at much the same place of their
  volumes, which were cut round them, so that a model could put one there without looking at the mask; here it cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from SynthDiffusionLib.evaluation.cases import SURROUNDINGS, EvaluationData
from SynthDiffusionLib.training.dataset import Case

if TYPE_CHECKING:
    from SynthDiffusionLib.models import ModelSpec

ANATOMY, INPAINTING, MOVED, JOINT = "anatomy", "inpainting", "moved", "joint"
BORDER_VOXELS = 3
MOVE_SEED = 2026


def arms_of(spec: ModelSpec, target: str | None = None) -> tuple[str, ...]:
    """The arms that a model can be measured on, in the order of the tables.

    Args:
        spec: of the model.
        target: the target class, where the model names none.
    """
    joint = (JOINT,) if "joint" in spec.modes else ()
    if joint and "whole" not in spec.modes:
        return joint
    inpainting = (INPAINTING,) if "inpaint" in spec.modes else ()
    # With one class there is no anatomy to give: it would be the first arm again.
    anatomy = (ANATOMY,) if len(spec.label_scheme.condition_classes) > 1 else ()
    return (spec.target_class or target or "target", *anatomy, *inpainting, MOVED, *joint)


def arm_label(arm: str, target: str, targets: Sequence[str] = (), ground: str | None = None) -> str:
    """An arm as it is printed: "tumour alone".

    Args:
        arm: name.
        target: the target class.
        targets: all that adherence is measured for.
        ground: class that they lie in; where there is none, "anatomy" is nothing but the targets.
    """
    anatomy = f"{target} and coarse anatomy"
    if ground == SURROUNDINGS:
        anatomy = "both labels" if len(targets) == 2 else "all labels"
    labels = {
        target: f"{target} alone",
        ANATOMY: anatomy,
        MOVED: f"{target} alone, moved off centre",
        JOINT: f"image and {target} made together",
    }
    return labels.get(arm, arm)


def move_of(case: Case, data: EvaluationData) -> np.ndarray:
    """How far the arm "moved" shifts a mask, (3,) voxels: drawn at random, by the case's place in the split, from all
    shifts that leave the mask `BORDER_VOXELS` from the border (or nearer, if it lies nearer already)."""
    voxels = np.argwhere(case.classes.array == data.target_value)
    low, high = voxels.min(0), voxels.max(0)
    number = [c.name for c in data.evaluated].index(case.name)
    rng = np.random.default_rng([MOVE_SEED, number])
    shift = []
    for first, last, n in zip(low, high, case.classes.shape):
        down, up = max(0, int(first) - BORDER_VOXELS), max(0, n - 1 - BORDER_VOXELS - int(last))
        shift.append(int(rng.integers(-down, up + 1)))
    return np.array(shift)


def moved_mask(case: Case, data: EvaluationData) -> np.ndarray:
    """The class map of the arm "moved": the target alone, shifted by `move_of`."""
    voxels = np.argwhere(case.classes.array == data.target_value) + move_of(case, data)
    classes = np.zeros_like(case.classes.array)
    classes[tuple(voxels.T)] = data.target_value
    return classes
