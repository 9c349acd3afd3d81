"""Small folders of volumes for the tests of sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from SynthDiffusionLib.volumes import Volume, write_volume

SHAPE = (8, 9, 10)


def ct_array(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """int16 HU: air with a noisy block of soft tissue."""
    rng = np.random.default_rng(seed)
    array = np.full(shape, -1000, np.int16)
    inner = tuple(slice(2, n - 2) for n in shape)
    array[inner] = rng.normal(40, 30, array[inner].shape).astype(np.int16)
    return array


def mr_array(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """int16 without a unit, on a scale of its own."""
    rng = np.random.default_rng(seed)
    return (rng.gamma(2.0, 100.0 * (1 + seed % 7), shape)).astype(np.int16)


def label_array(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """uint8 with the values 1 and 2."""
    array = np.zeros(shape, np.uint8)
    array[2:4, 2:5, 2:5] = 1
    array[4:6, 2:5, 2:5] = 2
    return array


def affine(spacing: tuple[float, float, float] = (1, 1, 1), origin: tuple[float, float, float] = (0, 0, 0)):
    """RAS affine of axes that point to L, P and S."""
    matrix = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    matrix[:3, 3] = origin
    return matrix


def write_set(
    folder: Path,
    n: int = 10,
    *,
    array=ct_array,
    spacing: tuple[float, float, float] = (1, 1, 1),
    labels: Path | None = None,
    names: str = "p{:02d}",
    first: int = 0,
) -> Path:
    """Writes n volumes, and label maps of the same names into `labels`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + n):
        write_volume(Volume(array(seed), affine(spacing)), folder / f"{names.format(seed)}.nii.gz")
        if labels is not None:
            labels.mkdir(parents=True, exist_ok=True)
            write_volume(Volume(label_array(), affine(spacing), "label"), labels / f"{names.format(seed)}.nii.gz")
    return folder
