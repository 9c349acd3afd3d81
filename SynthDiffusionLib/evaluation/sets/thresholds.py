"""A limit from few real distances that holds for the next ones, and what can be said of it.

The distance of a new volume to the training set and those of V validation patients are exchangeable as long as it is
drawn as they were and the search knows none of them. Then the new one is below the k-th smallest of the V with a
probability of exactly k / (V + 1), whatever the distribution (split conformal prediction: Vovk, Gammerman and Shafer
2005; the order statistics are Wilks 1941, Ann Math Stat 12:91). So the limit at 5 % is the k-th smallest with
k = floor(0.05 (V + 1)); with V < 19 there is none. That is the expectation over validation sets: the rate of the one
limit that was drawn has the distribution Beta(k, V + 1 - k).

Where the search has learnt nothing from the training cases, they can join: the distance of each to the nearest of the
other patients is what a new patient's is, but for two things. It has one case less to be near to; and small distances
come in pairs, since the nearest neighbour of a close pair is the other one. Full conformal prediction counts the
nearest neighbour of the new case once more for that, which is to take the limit one rank lower.
`Testing/Engine/test_set_thresholds.py` simulates that both kinds of limit flag at most 5 % in expectation, and that
without the lower rank the second does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05


@dataclass(frozen=True)
class Threshold:
    """A limit below which a distance is flagged.

    Args:
        value: the distance; flagged is what is smaller.
        rank: it is the so-manyth smallest of the reference.
        patients: of the reference, one distance each.
        level: nominal share.
        exists: False where the reference is too small for the level: the limit is then its smallest distance, which is
            a rank and no limit at the level.
        paired: the reference holds training cases, whose distances come in pairs.
    """

    value: float
    rank: int
    patients: int
    level: float
    exists: bool
    paired: bool = False

    @property
    def safe_rank(self) -> int:
        """The rank that probabilities are computed with: one higher where distances come in pairs."""
        return self.rank + self.paired

    @property
    def expected(self) -> float:
        """Probability that a new distance of the same distribution is flagged; at most that, where distances come in
        pairs."""
        return self.safe_rank / (self.patients + 1)

    @property
    def upper(self) -> float:
        """The rate that 95 % of such limits keep to."""
        from scipy.stats import beta

        return float(beta.ppf(0.95, self.safe_rank, self.patients + 1 - self.safe_rank))

    def to_json(self) -> dict[str, float | int | bool]:
        return {
            "value": self.value,
            "rank": self.rank,
            "patients": self.patients,
            "level": self.level,
            "exists": self.exists,
            "paired": self.paired,
            "safe_rank": self.safe_rank,
            "expected": self.expected,
            "upper": self.upper,
        }


def conformal_rank(patients: int, level: float = LEVEL) -> int:
    """Rank of the distance that is the limit; 0: too few patients for the level."""
    return math.floor((patients + 1) * level + 1e-9)


def fewest(level: float = LEVEL) -> int:
    """Patients from which there is a limit at the level."""
    return math.ceil(1.0 / level - 1e-9) - 1


def threshold_of(reference: Sequence[float], training: Sequence[float] = (), level: float = LEVEL) -> Threshold:
    """The limit.

    Args:
        reference: distances of held-out real patients, one of each.
        training: those of training patients to the nearest other one; only of a search that was not trained on them.
        level: nominal share.
    """
    values = np.sort(np.asarray([*reference, *training], np.float64))
    paired = len(training) > 0
    rank = conformal_rank(len(values), level) - paired
    return Threshold(float(values[max(rank, 1) - 1]), max(rank, 1), len(values), level, rank >= 1, paired)


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share (Clopper and Pearson 1934, Biometrika 26:404)."""
    from scipy.stats import beta

    tail = (1.0 - confidence) / 2.0
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1.0 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def smallest_auc(positives: int, negatives: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest AUC above 0.5 that a two-sided test finds with the given power.

    Normal approximation; the variance without a difference is that of Mann and Whitney, with one that of Hanley and
    McNeil 1982 (Radiology 143:29). 1 where not even that is enough.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    null = math.sqrt((positives + negatives + 1) / (12.0 * positives * negatives))

    def missing(a: float) -> float:
        one, two = a / (2.0 - a), 2.0 * a * a / (1.0 + a)
        variance = a * (1.0 - a) + (positives - 1) * (one - a * a) + (negatives - 1) * (two - a * a)
        deviation = math.sqrt(max(variance, 0.0) / (positives * negatives))
        return (a - 0.5) - norm.ppf(1.0 - alpha / 2.0) * null - norm.ppf(power) * deviation

    return float(brentq(missing, 0.5, 1.0)) if missing(1.0) > 0 else 1.0
