"""Membership inference: does the distance to the nearest synthetic volume tell training cases from unseen ones?

A generator that has learnt its training cases by heart makes volumes that are nearer to those than to other patients
(the attack of Hayes et al. 2019, arXiv:1705.07663, and Chen et al. 2020, arXiv:1909.03935, in its plainest form).

The embedding of this test is trained on synthetic and validation volumes only. The one that looks for copies is trained
on the training cases, which it drives apart from each other: in it they are further from everything than unseen
cases are, whatever the generator did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.sets.thresholds import smallest_auc
from SynthDiffusionLib.evaluation.statistics import bootstrap_auc

ALPHA = 0.05


@dataclass(frozen=True)
class Candidates:
    """Which synthetic volumes each real case is compared with.

    Args:
        training: (T, S) bool.
        fresh: (F, S) bool.
    """

    training: np.ndarray
    fresh: np.ndarray


def candidates(
    training: Sequence[str], fresh: Sequence[str], masks: Sequence[str], leave_out: bool, seed: int
) -> Candidates:
    """Synthetic volumes for each real case.

    Args:
        training: patient of each training case; fresh: of each fresh one.
        masks: patient of each synthetic volume's mask.
        leave_out: leave those of the case's own mask out, which are near it for the mask's sake. So that nobody has
            more volumes to be near to than others, a case goes without those of a drawn patient of the other side too.
        seed: of that drawing.
    """
    both = [np.ones((len(names), len(masks)), bool) for names in (training, fresh)]
    if leave_out:
        rng = np.random.default_rng([seed, 2000])
        for own, other, allowed in ((training, fresh, both[0]), (fresh, training, both[1])):
            others = list(dict.fromkeys(other))
            partner = {p: others[int(rng.integers(len(others)))] for p in dict.fromkeys(own)}
            for row, patient in enumerate(own):
                allowed[row] = [m not in (patient, partner[patient]) for m in masks]
    return Candidates(*both)


def membership(
    to_training: np.ndarray,
    to_fresh: np.ndarray,
    allowed: Candidates,
    training_patients: Sequence[str],
    fresh_patients: Sequence[str],
    tests: int = 1,
) -> dict[str, Any] | None:
    """AUC of telling training cases by being near a synthetic volume.

    Args:
        to_training: (T, S) distances of training cases to synthetic volumes.
        to_fresh: (F, S) those of fresh real cases.
        allowed: which of them count.
        tests: that are corrected together: the smallest AUC is that which the strictest of them finds.

    Returns:
        AUC (0.5: not told apart) with an interval over patients, p of the exact or asymptotic test of Mann and Whitney
        (one case of each patient), and the smallest AUC that these numbers of patients would show; None where a case
        has nothing left to be compared with.
    """
    from scipy.stats import mannwhitneyu

    if not (allowed.training.any(1).all() and allowed.fresh.any(1).all()):
        return None
    near = np.where(allowed.training, to_training, np.inf).min(1)
    far = np.where(allowed.fresh, to_fresh, np.inf).min(1)
    estimate = bootstrap_auc(-far, fresh_patients, -near, training_patients)
    first_near, first_far = (_first(d, p) for d, p in ((near, training_patients), (far, fresh_patients)))
    return {
        **estimate.to_json(),
        "auc": estimate.value,
        "p": float(mannwhitneyu(-first_near, -first_far, alternative="two-sided").pvalue),
        "training_patients": len(first_near),
        "fresh_patients": len(first_far),
        "smallest_found": smallest_auc(len(first_near), len(first_far), ALPHA / tests),
        "median_training": float(np.median(near)),
        "median_fresh": float(np.median(far)),
    }


def _first(values: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    first: dict[str, float] = {}
    for value, patient in zip(values, patients):
        first.setdefault(patient, float(value))
    return np.array(list(first.values()))
