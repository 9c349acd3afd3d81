"""Answers that need no model, for the masks of synthetic volumes: what a figure of adherence is worth without skill.

* the mean mask: blind to the image, what position alone is worth.
* another patient's real image: realistic, and follows no mask.
* class means plus noise, and the same without noise, blurred: follow the mask, and look like nothing.
* another patient's real image into which the classes of the mask are painted at their means, blurred: what a model
  would be worth that recalls an image and paints.

What they know of real images comes from real cases of other patients than the one whose mask is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from SynthDiffusionLib.evaluation.rows import as_evaluated, fitted
from SynthDiffusionLib.evaluation.sets.image_set import ImageSet, SetCase

BLUR_VOXELS = 1.0
LABELS = {
    "mean_mask": "mean mask of other patients, no image",
    "other_patient": "another patient's real image",
    "means_noise": "class means plus noise, painted on the mask",
    "blobs": "class means, blurred: a cartoon",
    "painted_real": "another patient's real image, the mask painted in",
}


@dataclass(frozen=True)
class RealKnowledge:
    """What is known of the real cases, patient by patient.

    Args:
        patients: of each case.
        sums: class value to (cases, 3): voxels, sum and sum of squares of the intensities.
    """

    patients: tuple[str, ...]
    sums: Mapping[int, np.ndarray]

    def without(self, patient: str, value: int) -> tuple[float, float]:
        """Mean and standard deviation of a class in the images of other patients (every case counts the same); of the
        background where none of them has the class."""
        rows = self.sums.get(value)
        others = np.array([p != patient for p in self.patients])
        if rows is None or not (rows[:, 0] > 0)[others].any():
            return self.without(patient, 0) if value else (0.0, 0.0)
        used = rows[others & (rows[:, 0] > 0)]
        means = used[:, 1] / used[:, 0]
        mean = float(means.mean())
        # Of the voxels about the common mean: within a case, and between cases.
        spread = used[:, 2] / used[:, 0] - 2 * mean * means + mean**2
        return mean, float(np.sqrt(max(spread.mean(), 0.0)))


def real_knowledge(real: ImageSet, values: Sequence[int]) -> RealKnowledge:
    """Measures the real cases.

    Args:
        real: with label maps.
        values: classes; 0, the background, is added.
    """
    sums = {int(v): np.zeros((len(real.cases), 3)) for v in (0, *values)}
    for i, case in enumerate(real.cases):
        voxels = case.image.astype(np.float64).ravel()
        where = case.labels.ravel()
        counts, first, second = (np.bincount(where, weights=w) for w in (None, voxels, voxels**2))
        for value, rows in sums.items():
            if value < len(counts):
                rows[i] = counts[value], first[value], second[value]
    return RealKnowledge(tuple(real.patients), sums)


def class_means(case: SetCase, known: RealKnowledge, limits: tuple[float, float], seed: int) -> np.ndarray:
    """The mask of a case painted with class means and independent noise. (I, J, K) float32."""
    noise = np.random.default_rng([seed, 2]).standard_normal(case.image.shape)
    image = np.zeros(case.image.shape)
    for value in np.unique(case.labels):
        mean, sd = known.without(case.patient, int(value))
        inside = case.labels == value
        image[inside] = mean + sd * noise[inside]
    return as_evaluated(image, limits)


def blobs(case: SetCase, known: RealKnowledge, limits: tuple[float, float]) -> np.ndarray:
    """The mask of a case painted with class means and blurred. (I, J, K) float32."""
    from scipy import ndimage

    image = np.zeros(case.image.shape)
    for value in np.unique(case.labels):
        image[case.labels == value] = known.without(case.patient, int(value))[0]
    return as_evaluated(ndimage.gaussian_filter(image, BLUR_VOXELS, mode="nearest"), limits)


def painted_real(
    case: SetCase, other: np.ndarray, values: Sequence[int], known: RealKnowledge, limits: tuple[float, float]
) -> np.ndarray:
    """Another real image, laid middle on middle, with some classes of a mask painted in. (I, J, K) float32.

    Args:
        case: whose mask it is.
        other: (I, J, K) the other image.
        values: the classes that are measured; painting all of a mask that fills the volume would leave nothing of the
            image.
        known: their means.
        limits: of the intensities.
    """
    from scipy import ndimage

    image = fitted(other, case.image.shape, np.float32(limits[0])).astype(np.float64)
    drawn = np.isin(case.labels, values)
    painted = np.zeros(image.shape)
    for value in np.unique(case.labels[drawn]):
        painted[case.labels == value] = known.without(case.patient, int(value))[0]
    weight = ndimage.gaussian_filter(drawn.astype(np.float64), BLUR_VOXELS, mode="nearest")
    paint = ndimage.gaussian_filter(painted, BLUR_VOXELS, mode="nearest")
    return as_evaluated((1.0 - weight) * image + paint, limits)


class MeanMasks:
    """Share of the real masks that hold a voxel, volumes laid middle on middle, the scored patient left out.

    Args:
        real: with label maps.
        value: the class.
    """

    def __init__(self, real: ImageSet, value: int) -> None:
        cases = [c for c in real.cases if (c.labels == value).any()]
        self._patients = [c.patient for c in cases]
        self._shape = tuple(np.max([c.labels.shape for c in cases], axis=0)) if cases else (1, 1, 1)
        self._masks = [fitted(c.labels == value, self._shape, False) for c in cases]
        self._total = np.sum(self._masks, axis=0, dtype=np.int32) if cases else np.zeros(self._shape, np.int32)

    def __call__(self, case: SetCase) -> np.ndarray | None:
        """The mask that half of the other patients' masks have in common; where they have nothing in common, as many of
        the most frequent voxels as their median mask has. (I, J, K) bool; None where no other patient has the class.
        """
        own = [m for m, p in zip(self._masks, self._patients) if p == case.patient]
        others = [m for m, p in zip(self._masks, self._patients) if p != case.patient]
        if not others:
            return None
        share = (self._total - np.sum(own, axis=0, dtype=np.int32) if own else self._total) / len(others)
        half = share >= 0.5
        if not half.any():
            wanted = int(np.median([m.sum() for m in others]))
            half = np.zeros(share.shape, bool)
            order = np.argsort(-share, axis=None, kind="stable")[:wanted]
            half.flat[order] = True
        return fitted(half, case.image.shape, False)


def dealt(cases: Sequence[SetCase], real: ImageSet, seed: int) -> list[int | None]:
    """For each case the number of a real case of another patient, none twice before all are used once, where that is
    possible; None where there is no other patient."""
    order = list(np.random.default_rng([seed, 1]).permutation(len(real.cases)))
    used = np.zeros(len(real.cases), int)
    given: list[int | None] = []
    for case in cases:
        possible = [i for i in order if real.cases[i].patient != case.patient]
        best = min(possible, key=lambda i: used[i], default=None)
        if best is not None:
            used[best] += 1
        given.append(None if best is None else int(best))
    return given
