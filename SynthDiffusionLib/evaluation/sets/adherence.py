"""Mask adherence of any two folders: does a segmenter find in the synthetic images what was drawn?

The same segmenter is given the real images (the ceiling), the synthetic ones, and cartoons of the same masks that need
no model. Figures are per class and patient; what is missing or failed is counted, never dropped unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.rows import fitted
from SynthDiffusionLib.evaluation.sets import cartoons
from SynthDiffusionLib.evaluation.sets.image_set import ImageSet, SetCase
from SynthDiffusionLib.evaluation.sets.overlap import overlap
from SynthDiffusionLib.evaluation.sets.segmenters import (
    Event,
    Failure,
    Segmented,
    Segmenter,
    image_of,
    segment_images,
    segment_set,
)
from SynthDiffusionLib.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Estimate,
    bootstrap_mean,
    interval,
    mean_by_patient,
)

REAL, SYNTHETIC = "real", "synthetic"
ROWS = {REAL: "real images (the ceiling)", SYNTHETIC: "synthetic images", **cartoons.LABELS}
FEWEST_PATIENTS = 10  # of either set, below which no interval is given
FIGURES = ("dice", "surface_dice")


@dataclass(frozen=True)
class Score:
    """Figures of one class in one volume of a row; see `overlap`."""

    row: str
    case: str
    patient: str
    value: int
    figures: Mapping[str, object]


@dataclass
class Scores:
    """All figures.

    Args:
        values: classes that are measured.
        names: of all classes.
        all: every `Score`.
        failures: volumes that could not be segmented.
        empty: (row, case) of masks without any of the classes.
        not_findable: classes of the masks that the segmenter does not know.
        found: by row and case what the segmenter found, of real and synthetic images.
    """

    values: tuple[int, ...]
    names: Mapping[int, str]
    all: list[Score] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    empty: list[tuple[str, str]] = field(default_factory=list)
    not_findable: tuple[int, ...] = ()
    found: dict[tuple[str, str], Segmented] = field(default_factory=dict)

    def of(self, row: str, value: int) -> list[Score]:
        """The scores of a class in a row."""
        return [s for s in self.all if s.row == row and s.value == value]

    def by_patient(self, row: str, value: int, figure: str) -> dict[str, float]:
        """Mean of each patient's volumes in which the class was drawn."""
        own = [s for s in self.of(row, value) if s.figures["state"] in ("both", "missed")]
        means, patients = mean_by_patient([float(s.figures[figure]) for s in own], [s.patient for s in own])
        return dict(zip(map(str, patients), map(float, means)))


def score_sets(
    real: ImageSet,
    synthetic: ImageSet,
    segmenter: Segmenter,
    cache: Path,
    *,
    only: Sequence[int] | None = None,
    tolerance_mm: float,
    seed: int,
    on_event: Event = lambda event: None,
) -> Scores:
    """Segments and scores everything.

    Args:
        real: with label maps; the ceiling, and what the cartoons know.
        synthetic: with the segmentations that it was made for.
        segmenter: see `segmenters`.
        cache: folder of what it finds.
        only: classes to measure; all that the masks have when None.
        tolerance_mm: of surface Dice.
        seed: of the cartoons.

    Raises:
        BadInput: the masks have none of the classes, or the segmenter finds none of them.
        RunFailed: the segmenter fails on all volumes.
    """
    drawn = {int(v) for s in (real, synthetic) for c in s.cases for v in np.unique(c.labels)} - {0}
    wanted = [v for v in (sorted(drawn) if only is None else only) if v in drawn]
    if not wanted:
        raise BadInput("No mask has any of the classes", "Give label maps that have something in them.")
    if not any(np.isin(c.labels, wanted).any() for c in synthetic.cases):
        raise BadInput("No mask of the synthetic volumes has any of the classes", "Check --synthetic-labels.")
    known = [v for v in wanted if segmenter.values is None or v in segmenter.values]
    names = {**real.classes, **synthetic.classes}
    if not known:
        raise BadInput(
            f"{segmenter.name} finds none of the classes of the masks ({', '.join(names[v] for v in wanted)})",
            "Say with --segmenter-values what its values stand for, or use another one.",
        )
    scores = Scores(tuple(known), names, not_findable=tuple(v for v in wanted if v not in known))
    scored = [(REAL, c) for c in real.cases] + [(SYNTHETIC, c) for c in synthetic.cases]
    scores.empty = [(row, c.name) for row, c in scored if not np.isin(c.labels, known).any()]
    of_real, failed = segment_set(real, segmenter, cache, on_event)
    of_synthetic, more = segment_set(synthetic, segmenter, cache, on_event)
    scores.failures += failed + more

    def add(
        row: str, cases: Sequence[SetCase], found: Sequence[Segmented | None], values: Sequence[int] = tuple(known)
    ) -> None:
        for number, (case, one) in enumerate(zip(cases, found)):
            on_event({"event": "progress", "stage": f"scoring {ROWS[row]}", "step": number, "total": len(cases)})
            for value in values if one is not None else ():
                figures = overlap(one.mask(value), case.labels == value, case.spacing, tolerance_mm)
                scores.all.append(Score(row, case.name, case.patient, value, figures))

    add(REAL, real.cases, of_real)
    add(SYNTHETIC, synthetic.cases, of_synthetic)
    for row, cases, found in ((REAL, real.cases, of_real), (SYNTHETIC, synthetic.cases, of_synthetic)):
        scores.found |= {(row, c.name): f for c, f in zip(cases, found) if f is not None}
    # One cartoon for a mask, however many samples were made for it: they would all be the same.
    masks = _different_masks(synthetic.cases)
    for value in known:
        means = map(cartoons.MeanMasks(real, value), masks)
        labels = [None if m is None else Segmented((m.astype(np.uint16) * np.uint16(value),)) for m in means]
        add("mean_mask", masks, labels, (value,))
    given = cartoons.dealt(masks, real, seed)
    others = [None if n is None else _fitted(of_real[n], case.image.shape) for n, case in zip(given, masks)]
    add("other_patient", masks, others)
    knowledge = cartoons.real_knowledge(real, sorted(drawn))
    limits = real.frame.intensity_range
    painters: dict[str, Callable[[int, SetCase], np.ndarray]] = {
        "means_noise": lambda i, c: cartoons.class_means(c, knowledge, limits, seed + i),
        "blobs": lambda i, c: cartoons.blobs(c, knowledge, limits),
        "painted_real": lambda i, c: cartoons.painted_real(c, real.cases[given[i]].image, known, knowledge, limits),
    }
    for row, paint in painters.items():
        there = [(i, c) for i, c in enumerate(masks) if given[i] is not None]  # there is another patient to know from
        volumes = ((c.name, image_of(paint(i, c), c.affine, real.frame)) for i, c in there)
        found, failed = segment_images(ROWS[row], volumes, len(there), segmenter, cache, on_event)
        scores.failures += failed
        add(row, [c for _, c in there], found)
    return scores


def _different_masks(cases: Sequence[SetCase]) -> list[SetCase]:
    seen: dict[tuple[str, bytes], SetCase] = {}
    for case in cases:
        seen.setdefault((case.patient, case.labels.tobytes()), case)
    return list(seen.values())


def _fitted(found: Segmented | None, shape: tuple[int, ...]) -> Segmented | None:
    return None if found is None else Segmented(tuple(fitted(layer, shape, 0) for layer in found.layers))


@dataclass(frozen=True)
class Ratio:
    """A ratio of two means over patients.

    Args:
        estimate: with its interval; no limits with fewer than `FEWEST_PATIENTS`.
        paired: patients in both sets.
        only_synthetic: patients in the synthetic set alone.
        only_real: patients in the real set alone.
    """

    estimate: Estimate
    paired: int
    only_synthetic: int
    only_real: int

    @property
    def design(self) -> str:
        """How patients were drawn."""
        if not self.only_synthetic and not self.only_real:
            return "paired"
        return "two-sample" if not self.paired else "partly paired"


def ratio_of(
    numerator: Mapping[str, float], denominator: Mapping[str, float], resamples: int = RESAMPLES, seed: int = 2026
) -> Ratio:
    """Ratio of the means of two groups of patients, with a percentile bootstrap interval over patients.

    Patients who are in both are drawn with both of their values (paired); the others are drawn within their group (two
    samples). Efron and Tibshirani 1993, chapters 8 and 13.

    Args:
        numerator: value of each patient.
        denominator: value of each patient.
    """
    both = sorted(set(numerator) & set(denominator))
    first, second = sorted(set(numerator) - set(both)), sorted(set(denominator) - set(both))
    design = (len(both), len(first), len(second))
    if not numerator or not denominator or not any(denominator.values()):
        return Ratio(Estimate(np.nan, np.nan, np.nan), *design)
    rng = np.random.default_rng([seed, *design])
    drawn = [
        rng.multinomial(len(group), np.full(len(group), 1 / len(group)), size=resamples).astype(np.float64)
        if group
        else np.zeros((resamples, 0))
        for group in (both, first, second)
    ]
    top = np.array([numerator[p] for p in (*both, *first)])
    bottom = np.array([denominator[p] for p in (*both, *second)])
    value = float(top.mean() / bottom.mean())
    if min(len(top), len(bottom)) < FEWEST_PATIENTS:
        return Ratio(Estimate(value, np.nan, np.nan), *design)
    w_top, w_bottom = np.hstack(drawn[:2]), np.hstack([drawn[0], drawn[2]])
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = (w_top @ top / w_top.sum(1)) / (w_bottom @ bottom / w_bottom.sum(1))
    return Ratio(interval(value, resampled, CONFIDENCE), *design)


def mean_of(values: Mapping[str, float]) -> Estimate:
    """Mean over patients, with an interval where there are `FEWEST_PATIENTS` of them."""
    numbers = np.array(list(values.values()))
    if len(numbers) == 0:
        return Estimate(np.nan, np.nan, np.nan)
    if len(numbers) < FEWEST_PATIENTS:
        return Estimate(float(numbers.mean()), np.nan, np.nan)
    return bootstrap_mean(numbers)


def difference_of(first: Mapping[str, float], second: Mapping[str, float]) -> Estimate:
    """Mean difference of patients that both have."""
    return mean_of({p: first[p] - second[p] for p in first if p in second})
