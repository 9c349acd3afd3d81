"""No-skill sets made from the real one: what a distance does to images that are known to be wrong.

A figure of merit says something only as far as it tells the synthetic set from these. Each image belongs to the patient
of the real image it was made from, with whose other images it is never compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from SynthDiffusionLib.evaluation.sets import copies
from SynthDiffusionLib.evaluation.sets.extraction import Source
from SynthDiffusionLib.evaluation.sets.image_set import ImageSet, SetCase

BLUR_VOXELS = 1.0
NOISE_SHARE = 0.05  # of the intensity range
BLOCKS = 4  # along each axis
MOST = 100  # images of a cartoon

LABELS = {
    "blurred": f"blurred real (Gaussian of {BLUR_VOXELS:g} voxel)",
    "noisy": f"noisy real ({100 * NOISE_SHARE:g} % of the range)",
    "shuffled": f"shuffled real ({BLOCKS}x{BLOCKS}x{BLOCKS} blocks)",
    "mean": "mean real image plus noise",
    "flat": "flat classes plus noise",
    "repeated": "one real volume repeated",
}
DEFINITIONS = {
    "blurred": f"each real volume, smoothed by a Gaussian of {BLUR_VOXELS:g} voxel standard deviation",
    "noisy": f"each real volume with independent normal noise of {100 * NOISE_SHARE:g} % of the intensity range added, "
    "clipped to the range",
    "shuffled": f"each real volume cut to a multiple of {BLOCKS} along each axis and into {BLOCKS**3} blocks, which "
    "change places at random: right tissue in the wrong places, with seams",
    "mean": "the mean of the real volumes, cut at the middle to the smallest size, with normal noise of the standard "
    "deviation of the real volumes' fine detail (the volume less its 3x3x3 mean)",
    "flat": f"each real volume as flat areas of {copies.CARTOON_CLASSES} intensities (k-means of the real voxels, "
    "after a Gaussian of 1 voxel), each with independent normal noise of the standard deviation of its class, clipped "
    "to the range: right shapes and tissue values, no texture. No labels are needed",
    "repeated": "the real volume nearest to the middle of the real set (standardised radiomics), as often as there are "
    "volumes: perfect images of one patient, no variety",
}


def blurred(image: np.ndarray, sigma: float = BLUR_VOXELS) -> np.ndarray:
    """Gaussian of `sigma` voxels; edges are repeated."""
    from scipy import ndimage

    return ndimage.gaussian_filter(image, sigma, mode="nearest")


def noisy(
    image: np.ndarray, intensity_range: tuple[float, float], rng: np.random.Generator, share: float = NOISE_SHARE
) -> np.ndarray:
    """White noise of a share of the range."""
    sd = share * (intensity_range[1] - intensity_range[0])
    return np.clip(image + rng.normal(0.0, sd, image.shape), *intensity_range).astype(np.float32)


def shuffled(image: np.ndarray, rng: np.random.Generator, blocks: int = BLOCKS) -> np.ndarray:
    """Blocks in random places; along an axis that is shorter than `blocks`, one block."""
    counts = [blocks if n >= 2 * blocks else 1 for n in image.shape]
    sides = [n // c for n, c in zip(image.shape, counts)]
    cut = image[tuple(slice(0, s * c) for s, c in zip(sides, counts))]
    (a, b, c), (i, j, k) = counts, sides
    parts = cut.reshape(a, i, b, j, c, k).transpose(0, 2, 4, 1, 3, 5).reshape(a * b * c, i, j, k)
    parts = parts[rng.permutation(len(parts))]
    return np.ascontiguousarray(
        parts.reshape(a, b, c, i, j, k).transpose(0, 3, 1, 4, 2, 5).reshape(cut.shape), np.float32
    )


def middle(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The middle part of an image, of a size that fits into it."""
    first = [(n - s) // 2 for n, s in zip(image.shape, shape)]
    return image[tuple(slice(f, f + s) for f, s in zip(first, shape))]


def smallest_shape(*sets: ImageSet) -> tuple[int, ...]:
    """(3,) the smallest size along each axis of all volumes."""
    return tuple(int(n) for n in np.min([c.image.shape for s in sets for c in s.cases], axis=0))


def mean_image(real: ImageSet) -> tuple[np.ndarray, float]:
    """The mean of the middles of all volumes, and the standard deviation of their fine detail."""
    from scipy import ndimage

    shape = smallest_shape(real)
    total = np.zeros(shape)
    detail = []
    for case in real.cases:
        total += middle(case.image, shape)
        detail.append(float(np.std(case.image - ndimage.uniform_filter(case.image, 3, mode="nearest"))))
    return (total / len(real.cases)).astype(np.float32), float(np.mean(detail))


def cartoon_cases(real: ImageSet, number: int, seed: int) -> list[SetCase]:
    """The real volumes that cartoons are made of: one a patient, `number` of them at random, at most `MOST`."""
    first = {case.patient: case for case in reversed(real.cases)}
    cases = [first[p] for p in dict.fromkeys(real.patients)]
    chosen = np.random.default_rng([seed, 13]).permutation(len(cases))[: min(number, MOST)]
    return [cases[i] for i in sorted(chosen)]


def cartoons(real: ImageSet, cases: Sequence[SetCase], typical: SetCase, seed: int) -> dict[str, list[Source]]:
    """Sources of every no-skill row.

    Args:
        real: whose mean is taken, and whose intensities make the classes.
        cases: of `cartoon_cases`.
        typical: the volume that is repeated.
        seed: of noise and shuffles.
    """
    mean, sd = mean_image(real)
    limits = real.frame.intensity_range
    whole = real.summary()["sha256"]
    classes = copies.flat_classes([case.image for case in real.cases], seed)

    def rng(case: SetCase, number: int) -> np.random.Generator:
        return np.random.default_rng([seed, number, int(case.sha256[:8], 16)])

    def key(name: str, case: SetCase, **settings) -> str:
        return json.dumps([name, case.sha256, seed, settings], sort_keys=True)

    def mean_of(case: SetCase) -> np.ndarray:
        return np.clip(mean + rng(case, 3).normal(0.0, sd, mean.shape), *limits).astype(np.float32)

    def flat(case: SetCase) -> np.ndarray:
        return np.clip(copies.noisy_cartoon(case.image, classes, rng(case, 4)), *limits).astype(np.float32)

    found: dict[str, list[Source]] = {name: [] for name in LABELS}
    for case in cases:
        made = {
            "blurred": (key("blurred", case, sigma=BLUR_VOXELS), lambda c=case: blurred(c.image)),
            "noisy": (key("noisy", case, share=NOISE_SHARE), lambda c=case: noisy(c.image, limits, rng(c, 1))),
            "shuffled": (key("shuffled", case, blocks=BLOCKS), lambda c=case: shuffled(c.image, rng(c, 2))),
            "mean": (key("mean", case, real=whole), lambda c=case: mean_of(c)),
            "flat": (key("flat", case, real=whole, classes=copies.CARTOON_CLASSES), lambda c=case: flat(c)),
            "repeated": (typical.sha256, lambda: typical.image),
        }
        for name, (text, image) in made.items():
            found[name].append(Source(case.patient, text, image))
    return found
