"""MR phantoms for the evaluation: an organ in two parts without a class round it, and tumours on the grid of the tiny
model that makes image and mask together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from test_evaluation_samples import write_prepared
from tiny_slice_ldm import AFFINE, SHAPE

from SynthDiffusionLib.evaluation.cases import EvaluationData
from SynthDiffusionLib.training.dataset import Case
from SynthDiffusionLib.volumes import Volume

PARTS = {"anterior hippocampus": 1, "posterior hippocampus": 2}
MR_RANGE = (0.0, 1500.0)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TUMOUR = {"tumour": 7}


def organ_case(number: int, prefix: str = "h") -> Case:
    """Two touching ellipsoids, a dark and a bright one, in grey texture; every number has other sizes."""
    from scipy import ndimage

    rng = np.random.default_rng([79, number])
    shape = tuple(int(n) for n in rng.integers((24, 32, 24), (30, 38, 30)))
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    middle = (np.array(shape) - 1) / 2 + rng.uniform(-1, 1, 3)
    classes = np.zeros(shape, np.uint8)
    for value, side in ((1, -1), (2, 1)):
        radii = rng.uniform((4.0, 5.0, 4.0), (6.0, 7.0, 6.0))
        inside = (((grid - middle - [0, side * 6.0, 0]) / radii) ** 2).sum(-1) <= 1.0
        classes[inside & (classes == 0)] = value
    image = np.choose(classes, [600.0, 200.0, 1000.0])
    image = image + 60.0 * ndimage.gaussian_filter(rng.standard_normal(shape), 0.7)
    name = f"{prefix}{number}"
    volume = Volume(np.clip(np.rint(image), 0, 1500).astype(np.int16), LPS, "arbitrary")
    return Case(f"{name}_a", name, volume, Volume(classes, LPS, "label"))


def tumour_case(number: int, prefix: str = "t") -> Case:
    """A bright ellipsoid somewhere near the middle of a textured volume of the tiny joint model's grid."""
    from scipy import ndimage

    rng = np.random.default_rng([80, number])
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    middle = (np.array(SHAPE) - 1) / 2 + rng.uniform(-1.5, 1.5, 3)
    mask = (((grid - middle) / (rng.uniform(2.0, 5.0) * rng.uniform(0.7, 1.1, 3))) ** 2).sum(-1) <= 1
    image = np.where(mask, 900.0, 300.0) + 60.0 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 0.7)
    volume = Volume(np.clip(np.rint(image), 0, 1500).astype(np.int16), AFFINE, "arbitrary")
    name = f"{prefix}{number}"
    return Case(f"{name}_a", name, volume, Volume(mask.astype(np.uint8) * 7, AFFINE, "label"))


def organ_data(train: int = 10, validation: int = 5, test: int = 6) -> EvaluationData:
    """Organs of different patients, both parts targets."""
    numbers = iter(range(train + validation + test))
    parts = [[organ_case(next(numbers)) for _ in range(n)] for n in (train, validation, test)]
    names = tuple(PARTS)
    return EvaluationData(
        Path("nowhere"), "test", parts[2], parts[0], parts[1], PARTS, names[0], MR_RANGE, {}, "arbitrary", names
    )


def tumour_data(train: int = 12, validation: int = 5, test: int = 6) -> EvaluationData:
    """Tumours of different patients."""
    numbers = iter(range(train + validation + test))
    parts = [[tumour_case(next(numbers)) for _ in range(n)] for n in (train, validation, test)]
    return EvaluationData(
        Path("nowhere"), "test", parts[2], parts[0], parts[1], TUMOUR, "tumour", MR_RANGE, {}, "arbitrary"
    )


def write_mr(folder: Path, sizes: tuple[int, int, int], make, classes: dict[str, int], spacing) -> Path:
    """A prepared MR data set of phantoms, as files."""
    prepared = write_prepared(folder, sizes, make, classes, next(iter(classes)), spacing)
    path = prepared / "dataset.json"
    description = json.loads(path.read_text(encoding="utf-8")) | {"unit": "arbitrary"}
    path.write_text(json.dumps(description), encoding="utf-8")
    return prepared
