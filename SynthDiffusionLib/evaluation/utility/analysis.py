"""Dice of several networks on the same test patients: means, paired differences, intervals, tests.

An interval holds both who was tested and how a training happened to go: Student's t about the mean, whose squared
standard error is the variance between patients over their number plus that between an arm's networks (within a fold)
over theirs, with the degrees of freedom of Satterthwaite (Biometrics Bulletin 1946;2:110) for such a sum. What a
network does with a patient in particular is in both terms, so that the interval is rather a little too wide. With
few networks a bootstrap over them would be far too narrow. Where no fold has two networks, those of all folds are one
group: the draw of the training patients is then in it too, so that the interval is rather too wide. Of one network
nothing says how another training would have gone, and there is no interval.

Tests are of patients: each patient's Dice is averaged over the networks of an arm, and the differences of two arms go
through Wilcoxon's signed-rank test (Biometrics Bulletin 1945); they say how sure a difference of *these* networks is
over patients. The interval is the harder of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.statistics import CONFIDENCE, Estimate


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


def _between_patients(by_patient: np.ndarray) -> tuple[float, int]:
    """Squared standard error of a mean over patients, and its degrees of freedom; 0 of one patient."""
    n = len(by_patient)
    return (float(by_patient.var(ddof=1)) / n, n - 1) if n > 1 else (0.0, 0)


def _between_networks(scores: Scores) -> tuple[float, int]:
    """The same of a mean over networks, which differ from others of their fold; of all folds where each is alone in its
    own; NaN of one network."""
    means, folds = scores.values.mean(1), scores.folds
    if len(means) == 1:
        return float("nan"), 0
    if len(np.unique(folds)) == len(folds):
        folds = np.zeros_like(folds)
    squared, freedom = 0.0, 0
    for fold in np.unique(folds):
        own = means[folds == fold]
        if len(own) > 1:
            squared += len(own) * float(own.var(ddof=1)) / len(means) ** 2
            freedom += len(own) - 1
    return squared, freedom


def _interval(value: float, parts: Sequence[tuple[float, int]]) -> Estimate:
    """Student's t about a value; NaN where a part is.

    Args:
        parts: squared standard errors that add up, with their degrees of freedom.
    """
    from scipy.stats import t

    squared = sum(v for v, _ in parts)
    if np.isnan(squared):
        return Estimate(value, float("nan"), float("nan"))
    if squared <= 0:
        return Estimate(value, value, value)
    freedom = squared**2 / sum(v**2 / d for v, d in parts if d)
    half = float(t.ppf((1.0 + CONFIDENCE) / 2.0, freedom)) * squared**0.5
    return Estimate(value, value - half, value + half)


def mean(scores: Scores) -> Estimate:
    """Mean Dice with its interval over patients and networks, within 0 to 1."""
    found = _interval(float(scores.values.mean()), [_between_patients(scores.by_patient), _between_networks(scores)])
    return Estimate(found.value, *(float(np.clip(x, 0.0, 1.0)) for x in (found.low, found.high)))


def difference(one: Scores, other: Scores) -> Estimate:
    """`one` minus `other`, patients paired, networks of either arm on their own.

    Raises:
        ValueError: of different patients.
    """
    _check_paired(one, other)
    gains = one.by_patient - other.by_patient
    parts = [_between_patients(gains), _between_networks(one), _between_networks(other)]
    return _interval(float(gains.mean()), parts)


def difference_of_sets(one: Scores, other: Scores) -> Estimate:
    """`one` minus `other` for two sets of images seen by the same networks.

    Raises:
        ValueError: of different patients.
    """
    _check_paired(one, other)
    both = Scores(one.values - other.values, one.patients, one.folds)
    return _interval(float(both.values.mean()), [_between_patients(both.by_patient), _between_networks(both)])


def ratio_of_sets(one: Scores, other: Scores) -> Estimate:
    """`one` divided by `other` for two sets of images seen by the same networks; the interval is that of the first
    order of the ratio in both means.

    Raises:
        ValueError: of different patients.
    """
    _check_paired(one, other)
    bottom = float(other.values.mean())
    if bottom == 0:
        return Estimate(*[float("nan")] * 3)
    value = float(one.values.mean()) / bottom
    found = difference_of_sets(
        Scores(one.values / bottom, one.patients, one.folds),
        Scores(other.values * value / bottom, other.patients, other.folds),
    )
    return Estimate(value, value + found.low, value + found.high)


def _check_paired(one: Scores, other: Scores) -> None:
    if one.patients != other.patients:
        raise ValueError("The two arms were tested on different patients")


def signed_rank(one: Scores, other: Scores) -> float:
    """Two-sided P of Wilcoxon's signed-rank test on the patients' differences; 1 where all are 0."""
    from scipy.stats import wilcoxon

    differences = one.by_patient - other.by_patient
    return 1.0 if not differences.any() else float(wilcoxon(differences).pvalue)
