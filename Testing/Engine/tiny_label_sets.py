"""Small sets of volumes with label maps, and a segmenter that needs no network: for the measures of any two folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from SynthDiffusionLib.evaluation.sets.image_set import Frame, ImageSet, SetCase
from SynthDiffusionLib.volumes import Volume, write_volume

FRAME = Frame("CT", None, (-1000.0, 1000.0))
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
CLASSES = {1: "liver", 2: "spleen"}
LEVELS = {0: -100.0, 1: 100.0, 2: 300.0}


def boxes(rng: np.random.Generator, shape: tuple[int, int, int] = (20, 22, 16), scale: float = 1.0) -> np.ndarray:
    """A label map of a large and a small box, each of a random size and place; `scale` changes the small one's side."""
    labels = np.zeros(shape, np.uint16)
    a = rng.integers(6, 10, 3)
    start = rng.integers(2, 4, 3)
    labels[tuple(slice(s, s + n) for s, n in zip(start, a))] = 1
    b = np.maximum(np.rint(rng.uniform(3, 5, 3) * scale), 1).astype(int)
    labels[13 : 13 + b[0], 13 : 13 + b[1], 9 : 9 + b[2]] = 2
    return labels


def image_of(labels: np.ndarray, rng: np.random.Generator, noise: float = 20.0) -> np.ndarray:
    """HU of a label map, with noise that a threshold midway between classes does not mind."""
    hu = sum(np.where(labels == v, level, 0.0) for v, level in LEVELS.items())
    return (hu + noise * rng.standard_normal(labels.shape)).astype(np.float32)


def case(name: str, labels: np.ndarray | None, image: np.ndarray, patient: str | None = None) -> SetCase:
    """A case of a set."""
    return SetCase(name, patient or name, Path(f"{name}.nii.gz"), name, image, labels, AFFINE)


def phantom_set(role: str, count: int, seed: int = 1, prefix: str = "p", noise: float = 20.0) -> ImageSet:
    """A set of phantoms, one per patient."""
    cases = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        labels = boxes(rng)
        cases.append(case(f"{prefix}{i:02d}", labels, image_of(labels, rng, noise)))
    return as_set(role, cases)


def as_set(role: str, cases: list[SetCase]) -> ImageSet:
    """Cases as a set."""
    return ImageSet(role, Path(role), tuple(cases), (), FRAME, CLASSES)


class Thresholds:
    """Finds the classes of the phantoms by their HU.

    Args:
        fails: names of cases, by their first voxel's HU, that it fails on.
    """

    name = "thresholds"
    identity = "thresholds"
    values = (1, 2)

    def __init__(self, fails: frozenset[float] = frozenset()) -> None:
        self.fails, self.calls = fails, 0

    def __call__(self, image: Volume, on_event) -> tuple[np.ndarray, ...]:
        from SynthDiffusionLib.evaluation.sets.segmenters import SegmenterFailed

        self.calls += 1
        if float(image.array.flat[0]) in self.fails:
            raise SegmenterFailed("it does not like this volume")
        return (np.digitize(image.array, [0.0, 200.0]).astype(np.uint16),)


def write_set(folder: Path, whole: ImageSet, suffix: str = "") -> tuple[Path, Path]:
    """Images and label maps as files; returns the two folders."""
    images, labels = folder / "images", folder / "labels"
    for one in (images, labels):
        one.mkdir(parents=True)
    for c in whole.cases:
        write_volume(Volume(np.rint(c.image).astype(np.int16), c.affine, "HU"), images / f"{c.name}{suffix}.nii.gz")
        write_volume(Volume(c.labels, c.affine, "label"), labels / f"{c.name}.nii.gz")
    return images, labels
