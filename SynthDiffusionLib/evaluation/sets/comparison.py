"""One set of volumes against the real one: every distance with its interval, and real against real at the same numbers.

Features are standardised, so that no unit outweighs another: for figures by the real set's mean and standard deviation,
the same for every row; for tests by those of the two sets together, the same for every deal. In the real set's units no
test would be exact: an odd volume widens them where it is real, and lies far off where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from SynthDiffusionLib.evaluation.discriminant import auc_by_features, discriminate_by_features
from SynthDiffusionLib.evaluation.sets import distances, exchange, resampling
from SynthDiffusionLib.evaluation.sets.extraction import SetFeatures
from SynthDiffusionLib.evaluation.statistics import Estimate, interval
from SynthDiffusionLib.reports.sections import holm

MANY_FEATURES = 100  # above, fewer draws: a Fréchet distance of 2048 features takes seconds
PARTS_OF_MANY = 20
AUC_SPLITS = 20
DRAWS_WITHOUT_FLOOR = 4  # a quarter of the draws where only their mean is shown
# Share of random deals of real patients in which the AUC's bootstrap interval leaves out 0.5 (nominal: 0.05), as
# Testing/Benchmarks/fidelity_tests.py measures.
AUC_MISSES, AUC_MISSES_SIZES = 0.17, "67 and 20"
NEIGHBOURS, FEW_NEIGHBOURS, FEWER_THAN = 5, 3, 15
KERNELS = ("energy", "polynomial", "gaussian")
PLAUSIBLE, VARIED = ("precision", "density"), ("recall", "coverage")
TESTED = ("energy", "polynomial")  # kernel distances with a permutation test


@dataclass(frozen=True)
class Standard:
    """Mean and standard deviation of features.

    Args:
        mean, sd: (D,); used: (D,) bool, features that vary.
    """

    mean: np.ndarray
    sd: np.ndarray
    used: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(N, D') standardised features that vary."""
        return (values[:, self.used] - self.mean[self.used]) / self.sd[self.used]


def standard_of(values: np.ndarray) -> Standard:
    """Args: values: (N, D) features, of the real set or of two sets together."""
    mean, sd = values.mean(0), values.std(0, ddof=1)
    used = sd > 1e-9 * np.maximum(np.abs(mean), 1e-6)
    if not used.any():
        used[:] = True
        sd = np.ones_like(sd)
    return Standard(mean, sd, used)


def pooled(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) and (M, D) of two sets in units that no deal changes: standardised by both sets together.

    One that is the same in all volumes of both sets tells nothing and is left out.
    """
    standard = standard_of(np.concatenate([x, y]))
    return standard(x), standard(y)


@dataclass(frozen=True)
class View:
    """The real set in one kind of features.

    Args:
        features: of the real set, as measured.
        standard: by part.
        bandwidth: of the Gaussian kernel, by part: median distance of real rows.
        seed: of all draws.
    """

    features: SetFeatures
    standard: dict[str, Standard]
    bandwidth: dict[str, float]
    seed: int

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.standard)


def view_of(real: SetFeatures, seed: int) -> View:
    """Standardises by every part of the real set."""
    rows = {part: real.rows(part)[0] for part in real.parts}
    standard = {part: standard_of(values) for part, values in rows.items()}
    return View(real, standard, {p: distances.median_distance(standard[p](v)) for p, v in rows.items()}, seed)


def compare(view: View, row: SetFeatures, floor: bool = True) -> dict[str, dict[str, Any]]:
    """Distances of a row from the real set, by part and, for several parts, "mean".

    Args:
        floor: also of parts of the real set; left out for rows that have the same numbers as another.

    Returns:
        part to {"volumes", "rows", "patients", "real_volumes", "real_rows", "features", "polynomial", "gaussian",
        "frechet"}. A distance is {"value", "low", "high", "at", "at_low", "at_high", "floor": {"mean", "low",
        "high"}, "numbers"}: of all volumes with its interval, and of parts with what 95 % of the draws give, beside
        parts of the real set of the same numbers. Those of `TESTED` have a "test", see `exchange.result`.
    """
    number = resampling.PARTS if floor else max(1, resampling.PARTS // DRAWS_WITHOUT_FLOOR)
    cut = resampling.splits(view.features.patients, row.patients, number, view.seed)
    people = [len(set(f.patients)) for f in (view.features, row)]
    found: dict[str, dict[str, Any]] = {}
    draws: dict[str, list[dict[str, np.ndarray]]] = {k: [] for k in KERNELS}
    for part in view.parts:
        standard = view.standard[part]
        real, of_real = view.features.rows(part)
        ours, of_ours = row.rows(part)
        real, ours = standard(real), standard(ours)
        result = {
            "volumes": len(row.patients),
            "rows": len(ours),
            "patients": len(set(row.patients)),
            "real_volumes": len(view.features.patients),
            "real_rows": len(real),
            "features": int(standard.used.sum()),
        }
        kernels = (
            distances.energy_kernel,
            distances.polynomial_kernel,
            distances.gaussian_kernel(view.bandwidth[part]),
        )
        for name, kernel in zip(KERNELS, kernels):
            sums = distances.pair_sums(real, of_real, ours, of_ours, kernel)
            drawn = _kernel_draws(sums, of_real, of_ours, view, row, cut, floor)
            if name in TESTED and exchange.enough(of_real, of_ours):
                drawn |= dealt_kernel(view, row, part, kernel)
            draws[name].append(drawn)
            result[name] = _kernel_result(drawn, cut, people)
        result["frechet"] = _frechet(view, row, [part], cut, floor)
        found[part] = result
    if len(view.parts) > 1:
        whole = {k: found[view.parts[0]][k] for k in ("volumes", "patients", "real_volumes", "features")}
        whole |= {k: sum(found[p][k] for p in view.parts) for k in ("rows", "real_rows")}
        for name in KERNELS:
            mean = {key: np.mean([d[key] for d in draws[name]], axis=0) for key in draws[name][0]}
            whole[name] = _kernel_result(mean, cut, people)
        whole["frechet"] = _frechet(view, row, list(view.parts), cut, floor)
        found["mean"] = whole
    return found


def _kernel_draws(sums: distances.PairSums, of_real, of_ours, view: View, row, cut, floor: bool) -> dict[str, Any]:
    weights = resampling.bootstrap_weights(sums.patients, of_real, of_ours, seed=view.seed)
    drawn = {"value": np.array([sums.value()]), "resampled": sums.mmd2(weights, weights)}
    if cut:
        index = {p: i for i, p in enumerate(sums.patients)}

        def chosen(patients: Sequence[str], rows: Sequence[np.ndarray]) -> np.ndarray:
            w = np.zeros((len(rows), len(sums.patients)))
            for i, own in enumerate(rows):
                w[i, [index[patients[j]] for j in own]] = 1.0
            return w

        one = chosen(view.features.patients, [c.one for c in cut])
        drawn["at"] = sums.mmd2(one, chosen(row.patients, [c.synthetic for c in cut]))
        if not floor:
            return drawn
        within = distances.PairSums(sums.patients, sums.xx, sums.xx, sums.xx, sums.nx, sums.nx)
        drawn["floor"] = within.mmd2(one, chosen(view.features.patients, [c.other for c in cut]))
    return drawn


def dealt_kernel(view: View, row: SetFeatures, part: str, kernel: distances.Kernel) -> dict[str, np.ndarray]:
    """A kernel distance of `pooled` features where each patient counts once ("tested"), and that of deals ("dealt");
    the same deals in every part, so that their means over parts are those of deals."""
    observed, dealt = exchange.kernel_deals(distances.pair_sums(*_dealt_rows(view, row, part), kernel), view.seed)
    return {"tested": np.array([observed]), "dealt": dealt}


def _dealt_rows(view: View, row: SetFeatures, part: str) -> tuple[np.ndarray, list[str], np.ndarray, list[str]]:
    """`pooled` features of the volumes that are dealt and the patient of each, of the real set and of a row."""
    one, two = exchange.block_rows(view.features.patients, row.patients, view.seed)
    (x, of_x), (y, of_y) = view.features.rows(part, one), row.rows(part, two)
    x, y = pooled(x, y)
    return x, of_x, y, of_y


def _kernel_result(
    drawn: dict[str, np.ndarray], cut: Sequence[resampling.Split], people: Sequence[int]
) -> dict[str, Any]:
    estimate = interval(float(drawn["value"][0]), drawn["resampled"])
    found = _distance(estimate, drawn.get("at", ()), drawn.get("floor", ()), cut)
    if "dealt" in drawn:
        found["test"] = exchange.result(float(drawn["tested"][0]), drawn["dealt"], people)
    return found


def correct(*tests: dict[str, Any] | None) -> None:
    """Adds "p_holm", and "p_low_holm" of "p_low", to tests of `exchange.result`, for as many as there are."""
    known = [test for test in tests if test]
    for key in ("p", "p_low"):
        own = [test for test in known if key in test]
        for test, p in zip(own, holm([test[key] for test in own])):
            test |= {f"{key}_holm": float(p), "family": len(known)}


def _distance(estimate: Estimate, at: Sequence[float], floor: Sequence[float], cut: Sequence) -> dict[str, Any]:
    inner = resampling.spread(at)
    return estimate.to_json() | {
        "at": inner["mean"] if inner else None,
        "at_low": inner["low"] if inner else None,
        "at_high": inner["high"] if inner else None,
        "floor": resampling.spread(floor),
        "numbers": [len(cut[0].one), len(cut[0].other)] if cut else None,
    }


def _frechet(
    view: View, row: SetFeatures, parts: Sequence[str], cut: Sequence[resampling.Split], floor: bool
) -> dict[str, Any]:
    """Mean over parts; refused ("reason") where a set has not more rows than features."""
    features = max(int(view.standard[p].used.sum()) for p in parts)

    def rows(of: SetFeatures, part: str, volumes: np.ndarray | None) -> np.ndarray:
        return view.standard[part](of.rows(part, volumes)[0])

    def between(x: SetFeatures, i: np.ndarray | None, y: SetFeatures, j: np.ndarray | None) -> float:
        return float(np.mean([distances.frechet(rows(x, p, i), rows(y, p, j)) for p in parts]))

    real = view.features
    numbers = [min(sum(map(len, s.parts[p])) for p in parts) for s in (real, row)]
    if not distances.enough_for_frechet(*numbers, features=features):
        what = "volumes" if parts == ["volume"] else "slices"
        return {
            "value": None,
            "reason": f"{features} features need more than {features} {what} in each set; there are {numbers[0]} real "
            f"and {numbers[1]} others",
        }
    parts_drawn = resampling.PARTS if features <= MANY_FEATURES else PARTS_OF_MANY
    least = min(len(block) for s in (real, row) for p in parts for block in s.parts[p])
    fewest = features // max(least, 1) + 1  # volumes that have more rows than there are features
    estimate = resampling.kept_parts_interval(
        lambda i, j: between(real, i, row, j), real.patients, row.patients, fewest, parts_drawn, view.seed
    )
    at, within = [], []
    usable = cut[:parts_drawn] if cut and min(len(cut[0].one), len(cut[0].other)) >= fewest else []
    for split in usable:
        at.append(between(real, split.one, row, split.synthetic))
        if floor:
            within.append(between(real, split.one, real, split.other))
    return _distance(estimate, at, within, usable)


def neighbours(*patients: Sequence[str]) -> int:
    """k of `compare_clouds`: 5, or 3 where half of the smallest set is fewer than 15 patients."""
    return FEW_NEIGHBOURS if min(len(set(p)) // 2 for p in patients) < FEWER_THAN else NEIGHBOURS


def compare_clouds(view: View, row: SetFeatures, k: int, floor: bool = True) -> dict[str, Any]:
    """Precision, recall, density and coverage of volumes, each like a distance of `compare`.

    The intervals are conditional on the manifold: the clouds stay, and the patients whose volumes are asked about are
    drawn: synthetic ones for precision and density, real ones for recall and coverage. The test ("test" of each, where
    there are patients enough) asks of `pooled` features whether the figure is lower than if the patients of both sets
    were dealt anew, and is corrected for the two figures of one question (`PLAUSIBLE`, `VARIED`).
    """
    (part,) = view.parts
    standard = view.standard[part]
    real, of_real = view.features.rows(part)
    ours, of_ours = row.rows(part)
    real, ours = standard(real), standard(ours)
    whole = distances.overlap(real, of_real, ours, of_ours, k)
    number = resampling.PARTS if floor else max(1, resampling.PARTS // DRAWS_WITHOUT_FLOOR)
    cut = resampling.splits(view.features.patients, row.patients, number, view.seed)
    cut = cut if cut and min(len(cut[0].one), len(cut[0].other)) > k else []
    at, within = [], []
    for c in cut:
        names, others = [("a", i) for i in range(len(c.one))], [("b", i) for i in range(len(c.other))]
        at.append(distances.overlap(real[c.one], names, ours[c.synthetic], others, k).to_json())
        if floor:
            within.append(distances.overlap(real[c.one], names, real[c.other], others, k).to_json())
    asked = {"precision": (whole.precise, of_ours), "recall": (whole.recalled, of_real),
             "density": (whole.dense, of_ours), "coverage": (whole.covered, of_real)}  # fmt: skip
    result: dict[str, Any] = {"k": k, "volumes": len(ours), "patients": len(set(of_ours))}
    for name, (values, owners) in asked.items():
        if name == "density":
            estimate = resampling.weighted_mean(values, owners, view.seed)
        else:
            estimate = resampling.weighted_share(values, owners)
        result[name] = _distance(estimate, [a[name] for a in at], [w[name] for w in within], cut)
    people = [len(set(of_real)), len(set(of_ours))]
    if exchange.enough(of_real, of_ours) and min(people) > k:
        x, of_x, y, of_y = _dealt_rows(view, row, part)
        observed, dealt = exchange.cloud_deals(np.concatenate([x, y]), len(x), [*of_x, *of_y], k, view.seed)
        for i, name in enumerate(distances.MANIFOLD):
            result[name]["test"] = exchange.result(float(observed[i]), dealt[:, i], people, low=True)
        for question in (PLAUSIBLE, VARIED):
            correct(*(result[name]["test"] for name in question))
    return result


def compare_by_classifier(view: View, row: SetFeatures, floor: bool) -> dict[str, Any]:
    """AUC of a cross-validated linear discriminant on the features, like a distance of `compare`.

    Args:
        floor: also of parts of the real set, and with a test of `pooled` features: the AUC if the patients of both
            sets were dealt anew; left out for rows that have the same numbers as another.
    """
    (part,) = view.parts
    standard = view.standard[part]
    real, of_real = view.features.rows(part)
    ours, of_ours = row.rows(part)
    real, ours = standard(real), standard(ours)
    estimate = discriminate_by_features(real, of_real, ours, of_ours, seed=view.seed).auc
    cut = resampling.splits(view.features.patients, row.patients, AUC_SPLITS, view.seed) if floor else []
    at, between = [], []
    for c in cut:
        names, others = [f"a{i}" for i in range(len(c.one))], [f"b{i}" for i in range(len(c.other))]
        for values, into in ((ours[c.synthetic], at), (real[c.other], between)):
            into.append(auc_by_features(real[c.one], names, values, others, view.seed))
    found = _distance(estimate, at, between, cut)
    if floor and exchange.enough(of_real, of_ours):
        x, of_x, y, of_y = _dealt_rows(view, row, part)

        def score(*sides: Any) -> float:
            return auc_by_features(*sides, view.seed)

        told = exchange.auc_deals(np.concatenate([x, y]), len(x), [*of_x, *of_y], score, view.seed)
        found["test"] = exchange.result(*told, [len(set(of_real)), len(set(of_ours))])
        correct(found["test"])
    return found


def shifts(view: View, row: SetFeatures, names: Sequence[str]) -> list[dict[str, Any]]:
    """How far the mean of each feature lies from the real mean, in real standard deviations, the furthest first.

    The interval draws the patients of both sets.
    """
    (part,) = view.parts
    standard = view.standard[part]
    real, of_real = view.features.rows(part)
    ours, of_ours = row.rows(part)
    patients = list(dict.fromkeys([*of_real, *of_ours]))
    index = {p: i for i, p in enumerate(patients)}
    w = resampling.bootstrap_weights(patients, of_real, of_ours, seed=view.seed)

    def means(values: np.ndarray, owners: Sequence[str]) -> np.ndarray:
        of = np.array([index[p] for p in owners])
        sums = np.zeros((len(patients), values.shape[1]))
        np.add.at(sums, of, values)
        return (w @ sums) / (w @ np.bincount(of, minlength=len(patients)))[:, None]

    x, y = standard(real), standard(ours)
    drawn = means(y, of_ours) - means(x, of_real)
    used = [n for n, u in zip(names, standard.used) if u]
    rows = []
    for i, name in enumerate(used):
        estimate = interval(float(y[:, i].mean() - x[:, i].mean()), drawn[:, i])
        feature = list(names).index(name)
        rows.append(
            {"feature": name, "real": float(real[:, feature].mean()), "synthetic": float(ours[:, feature].mean())}
            | {k: v for k, v in estimate.to_json().items()}
        )
    return sorted(rows, key=lambda r: -abs(r["value"]))
