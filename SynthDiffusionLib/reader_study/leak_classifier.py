"""Can a classifier tell real from synthetic by a table of features? Cross-validated AUC, 0.5 when it cannot.

Two classifiers: a linear discriminant with a ridge, which adds up many weak hints, and boosted stumps (AdaBoost, Freund
and Schapire 1997; trees of one split), which see what is not linear, such as a value that only one kind has. Both are
tested on patients that they were not trained on. The P value comes from relabelling and doing everything again, the
choice of the better classifier too (Ojala and Garriga 2010, J Mach Learn Res 11:1833), so that it needs no assumption
on the features but that patients are drawn alike: a patient with both kinds has labels exchanged within, all volumes of
others change their label together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.statistics import Estimate, auc, bootstrap_auc

FOLDS = 5
PERMUTATIONS = 199
ROUNDS = 15
RIDGE = 0.5
SEED = 2026


@dataclass(frozen=True)
class Leak:
    """How well a group of features tells the kinds apart.

    Args:
        auc: of the better of the two classifiers, with its interval over patients.
        classifier: which one that is, "linear" or "stumps".
        aucs: of both.
        p: by relabelling: how often the better classifier of relabelled data is as good.
        smallest_p: that so few volumes allow; above 0.05 no leak can be found.
        chance_mean: mean AUC of the better classifier of relabelled data.
        chance_95: AUC that chance alone stays below in 95 % of relabellings: smaller leaks cannot be seen.
        features: names, AUC and P values of single features, most telling first.
        volumes: (real, synthetic).
        patients: number of patients.
    """

    auc: Estimate
    classifier: str
    aucs: dict[str, float]
    p: float
    smallest_p: float
    chance_mean: float
    chance_95: float
    features: tuple[dict[str, Any], ...]
    volumes: tuple[int, int]
    patients: int

    def to_json(self) -> dict[str, Any]:
        return {
            "auc": self.auc.to_json(),
            "classifier": self.classifier,
            "aucs": self.aucs,
            "p": self.p,
            "smallest_p": self.smallest_p,
            "chance_mean": self.chance_mean,
            "chance_95": self.chance_95,
            "volumes": {"real": self.volumes[0], "synthetic": self.volumes[1]},
            "patients": self.patients,
            "features": list(self.features),
        }


def find_leak(
    values: np.ndarray,
    names: Sequence[str],
    truths: Sequence[int],
    patients: Sequence[Hashable],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = SEED,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Leak:
    """Tries to tell synthetic from real volumes by their features.

    Args:
        values: (N, F).
        names: of the features.
        truths: (N,) 0 real, 1 synthetic.
        patients: of each volume; they are kept together.
        permutations: relabellings behind the P value.
        seed: of folds and relabellings.
        on_step: called with (relabellings done, all).

    Returns:
        the leak. With features that are all constant: AUC 0.5, P 1.
    """
    values, truth = np.asarray(values, float), np.asarray(truths, int)
    folds = patient_folds(patients, truth, FOLDS, seed)
    scores = {name: _cross_validated(fit, values, truth, folds) for name, fit in _CLASSIFIERS.items()}
    found = {name: auc(s[truth == 0], s[truth == 1]) for name, s in scores.items()}
    best = max(found, key=lambda name: found[name])
    group = list(patients)
    estimate = bootstrap_auc(
        scores[best][truth == 0],
        [p for p, t in zip(group, truth) if t == 0],
        scores[best][truth == 1],
        [p for p, t in zip(group, truth) if t == 1],
    )
    rng = np.random.default_rng([seed, 7])
    chance = np.empty(permutations)
    for n in range(permutations):
        relabelled = _relabelled(truth, group, rng)
        again = patient_folds(patients, relabelled, FOLDS, seed)
        tried = [_cross_validated(fit, values, relabelled, again) for fit in _CLASSIFIERS.values()]
        chance[n] = max(auc(s[relabelled == 0], s[relabelled == 1]) for s in tried)
        on_step(n + 1, permutations)
    p = (1 + int((chance >= found[best] - 1e-12).sum())) / (1 + permutations)
    return Leak(
        estimate,
        best,
        found,
        float(p),
        min(1.0, max(1 / (1 + permutations), 2 / _relabellings(truth, group))),
        float(chance.mean()),
        float(np.quantile(chance, 0.95)),
        single_features(values, names, truth),
        (int((truth == 0).sum()), int((truth == 1).sum())),
        len(set(group)),
    )


def single_features(values: np.ndarray, names: Sequence[str], truth: np.ndarray) -> tuple[dict[str, Any], ...]:
    """AUC of each feature by itself, with the P value of the Mann-Whitney test, corrected by Holm (1979).

    The test takes volumes for independent, which those of one patient are not: it points to features, and proves
    nothing.

    Returns:
        {"name", "auc", "p", "p_holm", "real", "synthetic" (medians)}, most telling first.
    """
    from scipy.stats import mannwhitneyu

    rows = []
    for name, column in zip(names, values.T):
        real, synthetic = column[truth == 0], column[truth == 1]
        constant = column.min() == column.max()
        rows.append(
            {
                "name": name,
                "auc": 0.5 if constant else auc(real, synthetic),
                "p": 1.0 if constant else float(mannwhitneyu(real, synthetic).pvalue),
                "real": float(np.median(real)),
                "synthetic": float(np.median(synthetic)),
            }
        )
    rows.sort(key=lambda r: (r["p"], -abs(r["auc"] - 0.5), r["name"]))
    worst = 0.0
    for rank, row in enumerate(rows):
        worst = max(worst, min(1.0, (len(rows) - rank) * row["p"]))
        row["p_holm"] = worst
    return tuple(rows)


def patient_folds(patients: Sequence[Hashable], truth: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Deals patients to folds, those of the same number of real and synthetic volumes in turn, so that each fold has
    the kinds in nearly the same shares: with others, a classifier that sees nothing gets an AUC below one half.

    Returns:
        (N,) fold of each volume.
    """
    unique = list(dict.fromkeys(patients))
    counts = {p: (0, 0) for p in unique}
    for p, t in zip(patients, truth):
        real, synthetic = counts[p]
        counts[p] = (real + (t == 0), synthetic + (t == 1))
    drawn = [unique[i] for i in np.random.default_rng([seed, 3]).permutation(len(unique))]
    dealt = sorted(drawn, key=lambda p: counts[p])
    fold_of = {p: i % min(folds, len(unique)) for i, p in enumerate(dealt)}
    return np.array([fold_of[p] for p in patients])


def _cross_validated(fit: Callable, values: np.ndarray, truth: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Scores of volumes by classifiers that were trained without their patients."""
    scores = np.zeros(len(truth))
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        if len(np.unique(truth[train])) < 2:
            continue  # nothing can be learnt from one kind: all scores stay equal
        centre, spread = values[train].mean(0), values[train].std(0)
        kept = spread > 1e-9 * np.maximum(1.0, np.abs(centre))
        if not kept.any():
            # What is constant in training may still be another value in the test: nobody could have learnt it.
            continue
        scaled = (values[:, kept] - centre[kept]) / spread[kept]
        scores[test] = fit(scaled[train], truth[train])(np.clip(scaled[test], -6, 6))
    return scores


def _fit_linear(x: np.ndarray, truth: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fisher's linear discriminant, the covariance within the kinds drawn towards its diagonal of ones."""
    weight = np.where(truth == 1, 0.5 / max(1, (truth == 1).sum()), 0.5 / max(1, (truth == 0).sum()))
    means = [x[truth == t].mean(0) for t in (0, 1)]
    centred = x - np.where((truth == 1)[:, None], means[1], means[0])
    covariance = (centred * weight[:, None]).T @ centred
    direction = np.linalg.solve(covariance + RIDGE * np.eye(x.shape[1]), means[1] - means[0])
    middle = (means[0] + means[1]) / 2
    scale = max(float(np.linalg.norm(direction)), 1e-12)
    return lambda t: (t - middle) @ direction / scale


def _fit_stumps(x: np.ndarray, truth: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """AdaBoost with stumps."""
    sign = np.where(truth == 1, 1.0, -1.0)
    weight = np.where(truth == 1, 0.5 / max(1, (truth == 1).sum()), 0.5 / max(1, (truth == 0).sum()))
    order = np.argsort(x, axis=0, kind="stable")
    ordered = np.take_along_axis(x, order, 0)
    gap = ordered[1:] > ordered[:-1] + 1e-9  # only between different values can be split
    stumps: list[tuple[int, float, float]] = []
    for _ in range(ROUNDS if gap.any() else 0):
        # Weighted sum of signs at and below each split; the rest is above.
        below = np.cumsum((weight * sign)[order], axis=0)[:-1]
        gain = np.where(gap, (weight * sign).sum() - 2 * below, 0.0)
        row, column = np.unravel_index(np.argmax(np.abs(gain)), gain.shape)
        # The vote is between 0 and 1: what is never wrong in training gets no infinite weight.
        edge = float(np.clip(gain[row, column], -0.98, 0.98))
        if abs(edge) < 1e-9:
            break
        vote = 0.5 * np.log((1 + edge) / (1 - edge))
        split = (ordered[row, column] + ordered[row + 1, column]) / 2
        stumps.append((int(column), float(split), float(vote)))
        weight = weight * np.exp(-vote * sign * np.where(x[:, column] > split, 1.0, -1.0))
        weight /= weight.sum()

    def score(t: np.ndarray) -> np.ndarray:
        total = np.zeros(len(t))
        for column, split, vote in stumps:
            total += vote * np.where(t[:, column] > split, 1.0, -1.0)
        # Scores of different folds are ranked together: their sizes must not depend on the number of rounds.
        return total / max(sum(abs(s[2]) for s in stumps), 1e-12)

    return score


_CLASSIFIERS = {"linear": _fit_linear, "stumps": _fit_stumps}


def _patients(truth: np.ndarray, patients: Sequence[Hashable]) -> tuple[list[list[int]], list[list[int]]]:
    """Volumes of each patient with both kinds, and of each with one."""
    groups: dict[Hashable, list[int]] = {}
    for i, p in enumerate(patients):
        groups.setdefault(p, []).append(i)
    both = [rows for rows in groups.values() if len(set(truth[rows])) == 2]
    return both, [rows for rows in groups.values() if len(set(truth[rows])) == 1]


def _relabelled(truth: np.ndarray, patients: Sequence[Hashable], rng: np.random.Generator) -> np.ndarray:
    both, one = _patients(truth, patients)
    relabelled = truth.copy()
    for rows in both:
        relabelled[rows] = rng.permutation(truth[rows])
    for rows, label in zip(one, rng.permutation([truth[rows[0]] for rows in one])):
        relabelled[rows] = label
    return relabelled


def _relabellings(truth: np.ndarray, patients: Sequence[Hashable]) -> int:
    """How many there are. As good as the truth is at least the truth itself with both labels exchanged."""
    both, one = _patients(truth, patients)
    number = math.comb(len(one), sum(int(truth[rows[0]]) for rows in one))
    return math.prod([number, *(math.comb(len(rows), int(truth[rows].sum())) for rows in both)])
