"""A prepared data set of small phantoms for the evaluation, read without files where files do not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from SynthDiffusionLib.evaluation.cases import EvaluationData
from SynthDiffusionLib.training.dataset import Case
from SynthDiffusionLib.volumes import Volume

RANGE = (-1000.0, 400.0)
VALUES = {"body": 1, "lung": 2, "bone": 3, "nodule": 4}
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def phantom_case(number: int, prefix: str = "p", side: int = 24) -> Case:
    """A lung with vessels in soft tissue, a nodule in its middle; different texture and size for every number."""
    from scipy import ndimage

    rng = np.random.default_rng([77, number])
    shape = (side,) * 3
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    middle = (side - 1) / 2
    classes = np.full(shape, VALUES["body"], np.uint8)
    wall = rng.integers(2, side // 4)
    classes[wall:] = VALUES["lung"]
    classes[0, 2:5] = VALUES["bone"]
    radius = rng.uniform(2.5, 4.0)
    classes[((grid - middle) ** 2).sum(0) <= radius**2] = VALUES["nodule"]
    hu = np.select([classes == v for v in (1, 2, 3, 4)], [20.0, -850.0, 350.0, -100.0])
    vessels = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    hu[(vessels > 1.8 * vessels.std()) & (classes == 2)] = -300.0
    hu = ndimage.gaussian_filter(hu, 0.6) + 25.0 * ndimage.gaussian_filter(rng.standard_normal(shape), 0.5)
    name = f"{prefix}{number}"
    image = Volume(np.clip(np.rint(hu), -1200, 400).astype(np.int16), AFFINE, "HU")
    return Case(f"{name}_a", name, image, Volume(classes, AFFINE, "label"))


def phantom_data(folder: Path = Path("nowhere"), train: int = 12, validation: int = 6, test: int = 6) -> EvaluationData:
    """Training, validation and test phantoms of different patients."""
    numbers = iter(range(train + validation + test))
    parts = [[phantom_case(next(numbers)) for _ in range(n)] for n in (train, validation, test)]
    return EvaluationData(folder, "test", parts[2], parts[0], parts[1], VALUES, "nodule", RANGE, {"shared_patients": 0})
