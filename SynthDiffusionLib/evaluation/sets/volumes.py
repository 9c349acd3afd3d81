"""Relative regional volumes: is every region's share of the body in synthetic volumes that of real patients?

What is measured depends on where the label maps come from. Those that synthetic volumes were made for say what was
asked for; only label maps that a segmenter found in the images say what was made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.sets import regional
from SynthDiffusionLib.evaluation.sets.image_set import FEWEST_CASES, ImageSet, SetCase
from SynthDiffusionLib.evaluation.sets.segmenters import Event, Failure, Segmented
from SynthDiffusionLib.evaluation.statistics import mean_by_patient
from SynthDiffusionLib.reports.sections import holm, with_holm

TEXTURES = ("mean", "sd", "local_sd", "correlation")
ALPHA = 0.05
BODY = "body"


@dataclass(frozen=True)
class Whole:
    """What regions are a share of.

    Args:
        kind: "union" of all classes, some "classes", or the "body" in the image.
        values: of "classes".
        above: intensity of "body".
    """

    kind: str = "union"
    values: tuple[int, ...] = ()
    above: float = 0.0

    def text(self, names: Mapping[int, str], unit: str) -> str:
        """In words."""
        if self.kind == "union":
            return "all labelled voxels"
        if self.kind == "classes":
            return " and ".join(names[v] for v in self.values)
        return f"the body (largest connected part above {self.above:g} {unit}, holes filled slice by slice)"

    def holds(self, value: int) -> bool:
        """Whether the whole grows when this region grows into what is outside it."""
        return self.kind == "union" or (self.kind == "classes" and value in self.values)


@dataclass(frozen=True)
class CaseRegions:
    """Regions of one volume.

    Args:
        case: its name.
        patient: its patient.
        whole_ml: what shares are of.
        ml: by label value; 0 where it has none of the region.
        textures: by label value, (4,), of `TEXTURES`; see `regional.texture`.
        drawn_ml: by label value, of the label map that was given, where a segmenter found `ml`.
    """

    case: str
    patient: str
    whole_ml: float
    ml: Mapping[int, float]
    textures: Mapping[int, tuple[float, float, float, float]]
    drawn_ml: Mapping[int, float] | None = None

    def share(self, value: int, factor: float = 1.0, grows: bool = False) -> float:
        """Of the whole; NaN without the region or the whole.

        Args:
            value: the region.
            factor: as if it were that many times as large.
            grows: the whole with it.
        """
        own = self.ml[value]
        whole = self.whole_ml + ((factor - 1.0) * own if grows else 0.0)
        return factor * own / whole if own and whole else float("nan")


@dataclass
class Regional:
    """All that was measured.

    Args:
        values: regions.
        names: of them.
        whole: what shares are of.
        real, synthetic: cases by set.
        failures: volumes that the segmenter failed on.
        segmented: whether a segmenter found the regions.
        same_masks: label maps of synthetic volumes that are a real one's, voxel by voxel.
        rows: of the comparison, by region; empty where nothing is compared.
        presence: rows of how often regions are there.
        textures: rows of the comparison of intensities.
        sensitivity: by region.
    """

    values: tuple[int, ...]
    names: Mapping[int, str]
    whole: Whole
    real: list[CaseRegions]
    synthetic: list[CaseRegions]
    failures: list[Failure]
    segmented: bool
    same_masks: int = 0
    rows: Sequence[dict] = ()
    presence: Sequence[dict] = ()
    textures: Sequence[dict] = ()
    sensitivity: Mapping[int, regional.Sensitivity] | None = None

    @property
    def patients(self) -> tuple[int, int]:
        """Of the real and of the synthetic set."""
        return len({c.patient for c in self.real}), len({c.patient for c in self.synthetic})

    @property
    def compared(self) -> bool:
        """Whether distributions are compared: `FEWEST_CASES` patients in both sets."""
        return min(self.patients) >= FEWEST_CASES


def measure_case(case: SetCase, found: Segmented | None, values: Sequence[int], whole: Whole) -> CaseRegions:
    """Regions of a volume.

    Args:
        case: with label maps, where `found` is None.
        found: what a segmenter found in it.
        values: regions.
        whole: what shares are of.
    """
    unit = regional.voxel_ml(case.affine)
    layers = (case.labels,) if found is None else found.layers
    masks = {v: np.logical_or.reduce([a == v for a in layers]) for v in values}
    counts = {v: int(m.sum()) for v, m in masks.items()}
    if whole.kind == "body":
        size = int(regional.body_mask(case.image, whole.above).sum())
    elif whole.kind == "classes":
        size = int(np.logical_or.reduce([np.isin(a, whole.values) for a in layers]).sum())
    else:
        size = int(np.logical_or.reduce([a > 0 for a in layers]).sum())
    drawn = None
    if found is not None and case.labels is not None:
        drawn = dict(zip(values, (regional.region_counts(case.labels, values) * unit).tolist()))
    return CaseRegions(
        case.name,
        case.patient,
        size * unit,
        {v: n * unit for v, n in counts.items()},
        {v: regional.texture(case.image, m) for v, m in masks.items()},
        drawn,
    )


def measure_sets(
    real: ImageSet,
    synthetic: ImageSet | None,
    found: Mapping[str, Sequence[Segmented | None]] | None,
    failures: Sequence[Failure],
    whole: Whole,
    *,
    only: Sequence[int] | None = None,
    names: Mapping[int, str] | None = None,
    permutations: int = regional.PERMUTATIONS,
    seed: int,
    on_event: Event = lambda event: None,
) -> Regional:
    """Measures and compares.

    Args:
        real: real volumes.
        synthetic: synthetic ones; None lists the real ones.
        found: by role what a segmenter found; None takes the label maps.
        failures: of the segmenter.
        whole: what shares are of.
        only: regions to measure; all that occur when None.
        names: of values for which the sets have none: a segmenter's.
        permutations: of every test.
        seed: of what is drawn.

    Raises:
        BadInput: there is no region, or the share of the only one is always 1.
    """
    sets = [real] + ([synthetic] if synthetic is not None else [])
    if found is None:
        layers = [c.labels for s in sets for c in s.cases]
    else:
        layers = [layer for s in sets for one in found[s.role] if one is not None for layer in one.layers]
    there = sorted({int(v) for layer in layers for v in np.unique(layer)} - {0})
    values = tuple(v for v in (there if only is None else only) if v in there)
    if not values:
        raise BadInput("No volume has any of the regions", "Give label maps that have something in them.")
    names = {**(names or {}), **{v: name for s in sets for v, name in s.classes.items()}}
    names = {v: names.get(v, f"class {v}") for v in (*there, *whole.values)}
    if len(there) == 1 and whole.kind != "body":
        raise BadInput(
            f"'{names[there[0]]}' is the only region, so that its share of all labelled voxels is always 1",
            "Give --of body, which takes the whole from the image.",
        )
    result = Regional(values, names, whole, [], [], list(failures), found is not None)
    for s, into in zip(sets, (result.real, result.synthetic)):
        for number, case in enumerate(s.cases):
            on_event({"event": "progress", "stage": f"regions of {s.role}", "step": number, "total": len(s.cases)})
            one = None if found is None else found[s.role][number]
            if found is None or one is not None:
                into.append(measure_case(case, one, values, whole))
    if synthetic is not None and synthetic.cases[0].labels is not None and real.cases[0].labels is not None:
        known = {hashlib.sha256(c.labels.tobytes()).digest() for c in real.cases}
        result.same_masks = sum(hashlib.sha256(c.labels.tobytes()).digest() in known for c in synthetic.cases)
    if result.compared:
        _compare(result, permutations, seed, on_event)
    return result


def by_patient(cases: Sequence[CaseRegions], numbers: Sequence[float]) -> dict[str, float]:
    """Mean of each patient's finite numbers."""
    kept = [(n, c.patient) for n, c in zip(numbers, cases) if np.isfinite(n)]
    means, patients = mean_by_patient([n for n, _ in kept], [p for _, p in kept])
    return dict(zip(map(str, patients), map(float, means)))


def _compare(result: Regional, permutations: int, seed: int, on_event: Event) -> None:
    rows, presence, textures, seen = [], [], [], {}
    for number, value in enumerate(result.values):
        on_event({"event": "progress", "stage": "comparing regions", "step": number, "total": len(result.values)})
        shares = [by_patient(s, [c.share(value) for c in s]) for s in (result.real, result.synthetic)]
        row: dict = {"value": value, "real_n": len(shares[0]), "synthetic_n": len(shares[1])}
        if min(map(len, shares)) >= FEWEST_CASES:
            d = regional.compare(*shares, permutations, seed)
            row |= {"wasserstein": d.wasserstein, "ks": d.ks, "p": d.wasserstein_p, "ks_p": d.ks_p}
            row |= {"difference": d.difference, "mean_p": d.difference_p}
            limits = regional.difference_interval(*shares, seed=seed)
            row |= {"difference_low": limits.low, "difference_high": limits.high}
            # What a model without skill has that gives everybody the real mean: its distance; its mean is right.
            numbers = np.array(list(shares[0].values()))
            row["everyone_alike"] = float(np.abs(numbers - numbers.mean()).mean())
            seen[value] = _sensitivity(result, value, seed)
        rows.append(row)
        presence.append({"value": value, **_presence(result, value)})
        for i, name in enumerate(TEXTURES):
            pair = [by_patient(s, [c.textures[value][i] for c in s]) for s in (result.real, result.synthetic)]
            entry: dict = {"value": value, "figure": name}
            if min(map(len, pair)) >= FEWEST_CASES:
                d = regional.compare(*pair, permutations, seed)
                entry |= {"wasserstein": d.wasserstein, "p": d.wasserstein_p, "mean_p": d.difference_p}
                limits = regional.difference_interval(*pair, seed=seed)
                entry |= {"difference": d.difference, "difference_low": limits.low, "difference_high": limits.high}
            for set_name, numbers in zip(("real", "synthetic"), pair):
                entry[f"{set_name}_n"] = len(numbers)
                entry[set_name] = float(np.mean(list(numbers.values()))) if numbers else None
                entry[f"{set_name}_sd"] = float(np.std(list(numbers.values()), ddof=1)) if len(numbers) > 1 else None
            textures.append(entry)
    _correct(rows)
    with_holm(rows, "ks_p", "ks_p_holm")
    with_holm(presence)
    _correct(textures)
    result.rows, result.presence, result.textures, result.sensitivity = rows, presence, textures, seen


def _correct(rows: Sequence[dict]) -> None:
    """Corrects the two tests of every row, of the distribution and of the mean, for all tests of the rows (Holm)."""
    known = [r for r in rows if r.get("p") is not None]
    adjusted = holm([r["p"] for r in known] + [r["mean_p"] for r in known]) if known else []
    for i, row in enumerate(known):
        row["p_holm"], row["mean_p_holm"] = float(adjusted[i]), float(adjusted[len(known) + i])
        row["differs"] = min(row["p_holm"], row["mean_p_holm"]) < ALPHA


def _sensitivity(result: Regional, value: int, seed: int) -> regional.Sensitivity:
    grows = result.whole.holds(value)
    changed = [
        by_patient(result.real, [c.share(value, factor, grows) for c in result.real]) for factor in (1.0, 1.1, 1.2)
    ]
    return regional.sensitivity(*(np.array([s[p] for p in changed[0]]) for s in changed), seed=seed)


def _presence(result: Regional, value: int) -> dict:
    """How many patients have the region in any of their volumes, with Fisher's exact test where that differs."""
    from scipy.stats import fisher_exact

    counts = []
    for cases in (result.real, result.synthetic):
        everyone = {c.patient for c in cases}
        having = {c.patient for c in cases if c.ml[value] > 0}
        counts.append((len(having), len(everyone) - len(having)))
    p = fisher_exact(counts).pvalue if any(without for _, without in counts) else None
    return {"real": counts[0][0], "synthetic": counts[1][0], "p": None if p is None else float(p)}
