"""Dice of several networks on the same test patients: means, paired differences, intervals, tests.

What is drawn anew in a resample: patients, and the networks of each arm (within its fold), so that an interval holds
both who was tested and how a training happened to go. Tests are of patients: each patient's Dice is averaged over the
networks of an arm, and the differences of two arms go through Wilcoxon's signed-rank test (Biometrics Bulletin 1945);
they say how sure a difference of *these* networks is over patients. The interval is the harder of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.statistics import CONFIDENCE, RESAMPLES, SEED, Estimate, interval


@dataclass(frozen=True)
class Scores:
    """Dice of one arm.

    Args:
        values: (N networks, P patients), each the mean over the patient's cases and the targets.
        patients: in the order of the columns.
        folds: (N,) which draw of patients each network was trained on.
    """

    values: np.ndarray
    patients: tuple[str, ...]
    folds: np.ndarray

    @property
    def by_patient(self) -> np.ndarray:
        """(P,) mean over the networks."""
        return self.values.mean(0)


def scores_of(networks: Sequence[Mapping[str, Any]], arm: str, part: str = "test", target: str | None = None) -> Scores:
    """The scores of an arm on one part.

    Args:
        networks: of `Store.network`.
        target: one of several; their mean where None.
    """
    own = [n for n in networks if n["arm"] == arm]
    patients = tuple(dict.fromkeys(s["patient"] for s in own[0]["scores"][part]))
    rows = []
    for network in own:
        found: dict[str, list[float]] = {p: [] for p in patients}
        for s in network["scores"][part]:
            dice = s["dice"]
            found[s["patient"]].append(float(np.mean(list(dice.values())) if target is None else dice[target]))
        rows.append([np.mean(found[p]) for p in patients])
    return Scores(np.array(rows), patients, np.array([n["fold"] for n in own]))


def _draws(count: int, folds: np.ndarray | None, salt: int) -> np.ndarray:
    """(RESAMPLES, count) weights that sum to 1; within folds where there are some."""
    rng = np.random.default_rng([SEED, salt, count])
    if folds is None:
        return rng.multinomial(count, np.full(count, 1.0 / count), size=RESAMPLES) / count
    weights = np.zeros((RESAMPLES, count))
    for fold in np.unique(folds):
        own = np.flatnonzero(folds == fold)
        weights[:, own] = rng.multinomial(len(own), np.full(len(own), 1.0 / len(own)), size=RESAMPLES)
    return weights / count


def _resampled(scores: Scores, salt: int) -> np.ndarray:
    """(RESAMPLES,) means; patients are drawn alike for all arms, networks on their own."""
    patients = _draws(len(scores.patients), None, 0)
    return np.einsum("bn,np,bp->b", _draws(len(scores.values), scores.folds, salt), scores.values, patients)


def mean(scores: Scores, salt: int = 1) -> Estimate:
    """Mean Dice with its interval over patients and networks."""
    return interval(float(scores.values.mean()), _resampled(scores, salt))


def difference(one: Scores, other: Scores) -> Estimate:
    """`one` minus `other`, patients paired.

    Raises:
        ValueError: of different patients.
    """
    if one.patients != other.patients:
        raise ValueError("The two arms were tested on different patients")
    return interval(float(one.values.mean() - other.values.mean()), _resampled(one, 1) - _resampled(other, 2))


def ratio(one: Scores, other: Scores, same_networks: bool) -> Estimate:
    """`one` divided by `other`, patients paired.

    Args:
        same_networks: both are scores of the same networks, drawn together.
    """
    top, bottom = _resampled(one, 1), _resampled(other, 1 if same_networks else 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval(float(one.values.mean() / other.values.mean()), top / bottom)


def difference_of_sets(one: Scores, other: Scores) -> Estimate:
    """`one` minus `other` for two sets of images seen by the same networks."""
    return interval(float(one.values.mean() - other.values.mean()), _resampled(one, 1) - _resampled(other, 1))


def signed_rank(one: Scores, other: Scores) -> float:
    """Two-sided P of Wilcoxon's signed-rank test on the patients' differences; 1 where all are 0."""
    from scipy.stats import wilcoxon

    differences = one.by_patient - other.by_patient
    return 1.0 if not differences.any() else float(wilcoxon(differences).pvalue)


def settings() -> dict[str, Any]:
    """For the results."""
    return {"resamples": RESAMPLES, "confidence": CONFIDENCE, "bootstrap_seed": SEED}
