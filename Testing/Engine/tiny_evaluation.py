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


LIMB_VALUES = {"body": 1, "fat": 2, "muscle": 3, "bone": 4, "tumour": 5}
LIMB_RANGE = (-1000.0, 1000.0)
LIMB_SPACING = (2.0, 2.0, 3.0)
LIMB_BORDER = (5, 5, 3)  # voxels between the tumour and the ends of its volume


def limb_case(number: int, prefix: str = "s") -> Case:
    """A limb with a bone, fat round muscle, and a tumour in the middle of a volume that was cut at one distance round
    it; another size for every number, as the tumour has."""
    from scipy import ndimage

    rng = np.random.default_rng([78, number])
    radii = rng.integers((3, 3, 2), (7, 7, 5))
    shape = tuple(int(2 * r + 1 + 2 * b) for r, b in zip(radii, LIMB_BORDER))
    middle = (np.array(shape) - 1) / 2
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    across = [(grid[a] - middle[a]) / (shape[a] / 2) for a in range(2)]
    limb = across[0] ** 2 + across[1] ** 2
    classes = np.select([limb < 0.05, limb < 0.6, limb < 0.75, limb < 0.95], [4, 3, 2, 1], 0).astype(np.uint8)
    inside = (((grid - middle[:, None, None, None]) / (radii + 0.5)[:, None, None, None]) ** 2).sum(0) <= 1.0
    classes[inside] = LIMB_VALUES["tumour"]
    hu = np.select([classes == v for v in range(6)], [-1000.0, -100.0, -90.0, 60.0, 500.0, 150.0])
    texture = 40.0 * ndimage.gaussian_filter(rng.standard_normal(shape), 0.7)
    hu = ndimage.gaussian_filter(hu, 0.5) + np.where(classes > 0, texture, 0.0)
    image = Volume(np.clip(np.rint(hu), -1000, 3000).astype(np.int16), np.diag([*LIMB_SPACING, 1.0]), "HU")
    name = f"{prefix}{number}"
    return Case(f"{name}_a", name, image, Volume(classes, image.affine, "label"))


def limb_data(folder: Path = Path("nowhere"), train: int = 12, validation: int = 5, test: int = 6) -> EvaluationData:
    """Training, validation and test limbs of different patients and sizes."""
    numbers = iter(range(train + validation + test))
    parts = [[limb_case(next(numbers)) for _ in range(n)] for n in (train, validation, test)]
    leak = {"shared_patients": 0}
    return EvaluationData(folder, "test", parts[2], parts[0], parts[1], LIMB_VALUES, "tumour", LIMB_RANGE, leak)
