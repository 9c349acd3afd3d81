"""Folders of small phantoms with texture, for measures of sets: as unlike each other as patients, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from SynthDiffusionLib.phantoms import BONE, LUNG, NODULE, PHANTOMS, draw_phantom

HU = {0: -1000.0, 1: 30.0, LUNG: -850.0, BONE: 400.0, NODULE: 20.0}
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def phantom_volume(number: int, side: int = 24) -> np.ndarray:
    """(side, side, side) float32 HU: a piece of a chest at 2 mm at a place of its own, with vessels and noise."""
    from scipy import ndimage

    rng = np.random.default_rng([31, number])
    chest = [p for p in PHANTOMS if p.name != "hippocampus"]
    classes, _ = draw_phantom(chest[number % len(chest)], (28, 28, 28), 2.0)
    start = rng.integers(0, 28 - side + 1, 3)
    classes = classes[tuple(slice(a, a + side) for a in start)]
    hu = np.vectorize(HU.__getitem__)(classes) * rng.uniform(0.94, 1.06)
    vessels = ndimage.gaussian_filter(rng.standard_normal(classes.shape), 1.2)
    hu[(vessels > rng.uniform(1.6, 2.0) * vessels.std()) & (classes == LUNG)] = -200.0
    hu = ndimage.gaussian_filter(hu, 0.5) + rng.uniform(15, 30) * rng.standard_normal(classes.shape)
    return hu.astype(np.float32)


def write_volume(path: Path, hu: np.ndarray, spacing: float = 2.0) -> Path:
    """A NIfTI file in LPS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.rint(hu).astype(np.int16), np.diag([-spacing, -spacing, spacing, 1.0])), path)
    return path


def write_phantoms(
    folder: Path, numbers: range, change: Change | None = None, prefix: str = "p", suffix: str = "", side: int = 24
) -> Path:
    """Phantoms of these numbers as files `pN.nii.gz`, each changed by a function that is given a generator."""
    for number in numbers:
        hu = phantom_volume(number, side)
        if change is not None:
            hu = change(hu, np.random.default_rng([32, number]))
        write_volume(folder / f"{prefix}{number}{suffix}.nii.gz", hu)
    return folder


def vessels(number: int, side: int = 20) -> np.ndarray:
    """(side, side, side) float32 HU: vessels of their own course in lung."""
    from scipy import ndimage

    rough = np.random.default_rng([9, number]).standard_normal((side,) * 3)
    smooth = ndimage.gaussian_filter(rough, 1.5)
    return np.where(smooth > 0.8 * smooth.std(), -200, -850).astype(np.float32)
