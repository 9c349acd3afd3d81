"""Can a straight line through the features tell real from synthetic? The classifier without a network.

A linear discriminant (Fisher 1936) on the quantities of `features`, with a covariance that is shrunk towards a
multiple of the identity (Ledoit and Wolf 2004), since there are fewer volumes than features. It sees what a person can
name, such as noise, edges and tissue values, and learns it from 20 volumes, which networks do not.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from SynthDiffusionLib.evaluation.real_or_synthetic import FOLDS, Discrimination, patient_folds
from SynthDiffusionLib.evaluation.statistics import auc, bootstrap_auc

REPEATS = 10
SHRINKAGE = 0.3
FURTHEST_SD = 5.0  # one odd value of a feature that hardly varies must not decide alone


def discriminate_by_features(
    real: np.ndarray,
    real_patients: Sequence[Hashable],
    synthetic: np.ndarray,
    synthetic_patients: Sequence[Hashable],
    *,
    seed: int = 2026,
    folds: int = FOLDS,
    repeats: int = REPEATS,
) -> Discrimination:
    """Cross-validated AUC of telling `synthetic` (the positives) from `real`.

    Args:
        real: (N, D) features.
        real_patients: the patient of each row.
        synthetic: (M, D) features.
        synthetic_patients: the patient of the mask of each row.
        folds: fewer if there are fewer patients.
        repeats: cross-validations with other folds, whose scores are averaged.
    """
    a, b, first_folds = _scores(real, real_patients, synthetic, synthetic_patients, seed, folds, repeats)
    estimate = bootstrap_auc(a, real_patients, b, synthetic_patients)
    return Discrimination(estimate, a[:, None], b[:, None], first_folds)


def auc_by_features(
    real: np.ndarray,
    real_patients: Sequence[Hashable],
    synthetic: np.ndarray,
    synthetic_patients: Sequence[Hashable],
    seed: int = 2026,
) -> float:
    """The AUC of `discriminate_by_features` without its interval, for those who need it many times."""
    a, b, _ = _scores(real, real_patients, synthetic, synthetic_patients, seed, FOLDS, REPEATS)
    return auc(a, b)


def _scores(
    real: np.ndarray,
    real_patients: Sequence[Hashable],
    synthetic: np.ndarray,
    synthetic_patients: Sequence[Hashable],
    seed: int,
    folds: int,
    repeats: int,
) -> tuple[np.ndarray, np.ndarray, dict[Hashable, int]]:
    """Scores of real and synthetic rows by classifiers that have not seen their patients, and the first folds."""
    patients = [*real_patients, *synthetic_patients]
    folds = min(folds, len(set(patients)))
    groups = (real, synthetic)
    scores = [np.zeros(len(values)) for values in groups]
    first_folds: dict[Hashable, int] = {}
    for repeat in range(repeats):
        fold_of = patient_folds(patients, folds, seed + repeat)
        first_folds = first_folds or fold_of
        in_fold = [np.array([fold_of[p] for p in members]) for members in (real_patients, synthetic_patients)]
        for fold in range(folds):
            score = linear_discriminant(*(values[f != fold] for values, f in zip(groups, in_fold)))
            for values, f, total in zip(groups, in_fold, scores):
                total[f == fold] += score(values[f == fold]) / repeats
    return scores[0], scores[1], first_folds


def linear_discriminant(
    negative: np.ndarray, positive: np.ndarray, shrinkage: float = SHRINKAGE
) -> Callable[[np.ndarray], np.ndarray]:
    """Fits the discriminant.

    Args:
        negative: (N, D) features; positive: (M, D).
        shrinkage: share of the identity in the covariance, 0 to 1.

    Returns:
        a function from (K, D) features to (K,) scores: positive on the side of the positives, in standard deviations
        within a class, so that scores of different fits can be averaged.
    """
    together = np.concatenate([negative, positive])
    middle, scale = together.mean(0), together.std(0) + 1e-9

    def scaled(values: np.ndarray) -> np.ndarray:
        return np.clip((values - middle) / scale, -FURTHEST_SD, FURTHEST_SD)

    a, b = scaled(negative), scaled(positive)
    covariance = (np.cov(a.T) + np.cov(b.T)) / 2.0
    identity = np.eye(len(covariance)) * max(np.trace(covariance) / len(covariance), 1e-9)
    covariance = (1.0 - shrinkage) * covariance + shrinkage * identity
    direction = np.linalg.solve(covariance, b.mean(0) - a.mean(0))
    direction /= max(np.sqrt(direction @ covariance @ direction), 1e-12)
    threshold = (a.mean(0) + b.mean(0)) / 2.0 @ direction
    return lambda values: scaled(values) @ direction - threshold
