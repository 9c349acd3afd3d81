"""Patients drawn again and again: intervals of distances between sets, and what parts of one set differ by.

Three schemes, since a plain bootstrap draws patients twice, and a patient drawn twice is at distance zero from herself:

* weights: a bootstrap over patients for statistics of pairs (kernel distance, mean similarity); pairs of one patient do
  not count, drawn twice or not. Near zero such an interval is somewhat too wide (a degenerate U-statistic: Arcones and
  Giné 1992, Ann Stat 20:655).
* kept parts: a share of the patients of both sets without repetition, for the Fréchet distance, whose covariance loses
  rank to repeated patients. The spread of parts of half the patients is that of the whole (delete-d jackknife with
  d = n/2: Shao and Wu 1989, Ann Stat 17:1176); other shares are scaled.
* splits: the real set is cut into two parts of different patients, and the second part is set against as many
  synthetic volumes: real-to-real and synthetic-to-real at the same numbers.

Patients of both sets (a synthetic volume belongs to the patient whose mask it was made for) are drawn together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.evaluation.statistics import CONFIDENCE, Estimate, interval

RESAMPLES = 2000
PARTS = 200
FEWEST_PATIENTS_OF_A_PART = 4


def strata(x_patients: Sequence[Hashable], y_patients: Sequence[Hashable]) -> list[list[Hashable]]:
    """Patients of both sets, of the first only, and of the second only; empty groups left out."""
    x, y = dict.fromkeys(x_patients), dict.fromkeys(y_patients)
    groups = [[p for p in x if p in y], [p for p in x if p not in y], [p for p in y if p not in x]]
    return [g for g in groups if g]


def bootstrap_weights(
    patients: Sequence[Hashable],
    x_patients: Sequence[Hashable],
    y_patients: Sequence[Hashable],
    resamples: int = RESAMPLES,
    seed: int = 2026,
) -> np.ndarray:
    """(resamples, P) how often each of `patients` is drawn; each group of `strata` keeps its size."""
    weights = np.zeros((resamples, len(patients)))
    index = {p: i for i, p in enumerate(patients)}
    for number, group in enumerate(strata(x_patients, y_patients)):
        rng = np.random.default_rng([seed, number, len(group)])
        drawn = rng.multinomial(len(group), np.full(len(group), 1.0 / len(group)), size=resamples)
        weights[:, [index[p] for p in group]] = drawn
    return weights


def weighted_share(hits: np.ndarray, patients: Sequence[Hashable]) -> Estimate:
    """Share of volumes for which something is true, with an interval over patients; each volume counts once.

    Clopper and Pearson's interval, which is right at 0 and 1 too, where a bootstrap has no width. With several volumes
    a patient it is that of the number of patients who would tell as much (Korn and Graubard 1998, Surv Methodol
    24:193), and never of more than there are.

    Args:
        hits: (N,) bool.
        patients: of each volume.
    """
    from scipy.stats import beta

    sums, counts, _ = _by_patient(np.asarray(hits, np.float64), patients)
    share, volumes, people = float(sums.sum() / counts.sum()), counts.sum(), len(counts)
    variance = float(((sums - share * counts) ** 2).sum()) / volumes**2
    effective = min(float(people), share * (1.0 - share) / variance) if variance > 0.0 else float(people)
    tail, hit = (1.0 - CONFIDENCE) / 2.0, share * effective
    low = float(beta.ppf(tail, hit, effective - hit + 1.0)) if share > 0.0 else 0.0
    high = float(beta.ppf(1.0 - tail, hit + 1.0, effective - hit)) if share < 1.0 else 1.0
    return Estimate(share, low, high)


def weighted_mean(values: np.ndarray, patients: Sequence[Hashable], seed: int = 2026) -> Estimate:
    """Mean of a value of each volume, with a bootstrap interval over patients; each volume counts once.

    No interval where all values are the same: drawing them again shows nothing.
    """
    sums, counts, names = _by_patient(np.asarray(values, np.float64), patients)
    if np.ptp(values) == 0:
        return Estimate(float(np.mean(values)), float("nan"), float("nan"))
    w = bootstrap_weights(names, names, names, seed=seed)
    return interval(float(np.mean(values)), (w @ sums) / (w @ counts))


def _by_patient(values: np.ndarray, patients: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray, list[Hashable]]:
    """Sum of each patient's values, their number, and the patients."""
    names = list(dict.fromkeys(patients))
    index = {p: i for i, p in enumerate(names)}
    of = np.array([index[p] for p in patients])
    return np.bincount(of, values, len(names)), np.bincount(of, minlength=len(names)).astype(np.float64), names


def kept_parts_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    x_patients: Sequence[Hashable],
    y_patients: Sequence[Hashable],
    fewest: int,
    parts: int = PARTS,
    seed: int = 2026,
) -> Estimate:
    """A statistic of two sets with an interval from parts of their patients, drawn without repetition.

    Args:
        statistic: of row numbers in x and row numbers in y.
        fewest: rows that either set must keep.

    Returns:
        the statistic of all, give or take 1.96 standard errors, not below 0; nan limits where fewer than one patient in
        twenty can be left out.
    """
    of_x, of_y = np.asarray(x_patients, object), np.asarray(y_patients, object)
    value = statistic(np.arange(len(of_x)), np.arange(len(of_y)))
    groups = strata(x_patients, y_patients)
    rng = np.random.default_rng([seed, 7])
    smallest = min(len(set(x_patients)), len(set(y_patients)))
    for share in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        if round(share * smallest) >= smallest:
            break
        found, left = [], []
        for _ in range(parts):
            kept: set[Hashable] = set()
            for group in groups:
                number = max(1, round(share * len(group)))
                kept.update(group[i] for i in rng.permutation(len(group))[:number])
            rows = [np.flatnonzero([p in kept for p in of]) for of in (of_x, of_y)]
            if min(map(len, rows)) < fewest:
                break
            found.append(statistic(*rows))
            left.append(1.0 - len(kept) / sum(map(len, groups)))
        if len(found) == parts:
            gone = float(np.mean(left))
            error = float(np.std(found, ddof=1)) * np.sqrt((1.0 - gone) / gone)
            reach = 1.959964 * error
            return Estimate(value, max(0.0, value - reach), value + reach)
    return Estimate(value, float("nan"), float("nan"))


@dataclass(frozen=True)
class Split:
    """Rows of one draw: two parts of the real set, and as much of the synthetic set as the second part.

    Args:
        one: rows of the real set; other: rows of the real set of other patients; synthetic: rows of the synthetic set,
            of patients that are not in `one`, as many patients as `other` has.
    """

    one: np.ndarray
    other: np.ndarray
    synthetic: np.ndarray


def splits(
    real_patients: Sequence[Hashable],
    synthetic_patients: Sequence[Hashable],
    count: int = PARTS,
    seed: int = 2026,
) -> list[Split]:
    """Draws splits; see the module's text. One volume of each patient is in a split, so that N is the same.

    Returns:
        `count` splits, or none where a part would have fewer than `FEWEST_PATIENTS_OF_A_PART` patients.
    """
    rows_of_real, rows_of_synthetic = _rows(real_patients), _rows(synthetic_patients)
    real, synthetic = list(rows_of_real), list(rows_of_synthetic)
    first = len(real) // 2
    second = min(len(real) - first, max(len(synthetic) // 2, 1))
    if min(first, second, len(synthetic)) < FEWEST_PATIENTS_OF_A_PART:
        return []
    found = []
    for number in range(count):
        rng = np.random.default_rng([seed, 11, number])
        drawn = [synthetic[i] for i in rng.permutation(len(synthetic))[:second]]
        order = [p for p in (real[i] for i in rng.permutation(len(real))) if p not in set(drawn)]
        one = order[:first]
        # A patient of both sets stands on both sides, so that real and synthetic are set against the same.
        other = [p for p in drawn if p in rows_of_real]
        other += order[first : first + second - len(other)]
        pick = [
            np.array([table[p][rng.integers(len(table[p]))] for p in names])
            for table, names in ((rows_of_real, one), (rows_of_real, other), (rows_of_synthetic, drawn))
        ]
        found.append(Split(*pick))
    return found


def _rows(patients: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    rows: dict[Hashable, list[int]] = {}
    for i, patient in enumerate(patients):
        rows.setdefault(patient, []).append(i)
    return rows


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Mean of draws, and the limits between which 95 % of them lie; None without draws."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}
