"""Random training patches for the patch-wise DDPM: crops, coordinates, dropped classes, known regions.

All randomness comes from the generator that is handed in, so that step N of a run draws the same patches whether or not
the run was interrupted before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SynthDiffusionLib.backends.coordinates import coordinate_channels
from SynthDiffusionLib.labels.condition import encode_classes
from SynthDiffusionLib.labels.scheme import LabelScheme
from SynthDiffusionLib.training.coarse_anatomy import smooth_outline


@dataclass(frozen=True)
class PatchConfig:
    """How patches are drawn.

    Args:
        field_sizes: smallest and largest side, in voxels, of the crop that stands for a whole volume. Crops are taken
            at random from the case, so that the target lies anywhere in them; coordinates run over the crop.
        target: class that every second patch is centred on (at a random voxel of it).
        target_probability: how often a patch is centred on the target.
        drop: probability that a class is withheld, by class name.
        drop_anatomy: probability that all classes but the target are withheld together.
        drop_all: probability that every class is withheld (needed for guidance).
        outline_sigmas: range of the extra smoothing of the anatomy's outlines, in voxels.
        inpaint_probability: how often a known image is given.
        blur_probability: how often a known image is blurred like an upsampled coarse scan: along one axis, like thick
            slices, or along all (Gaussian sigma up to `blur_sigma` voxels). What is to be synthesised stays sharp:
            the way back to the scan's own voxels averages it.
    """

    field_sizes: tuple[int, int] = (40, 51)
    target: str = "nodule"
    target_probability: float = 0.5
    drop: dict[str, float] | None = None
    drop_anatomy: float = 0.15
    drop_all: float = 0.05
    outline_sigmas: tuple[float, float] = (0.0, 2.0)
    inpaint_probability: float = 0.5
    blur_probability: float = 0.25
    blur_sigma: float = 2.2


@dataclass(frozen=True)
class Patch:
    """Arrays of one patch of P³ voxels: image (1, P, P, P) in [-1, 1], condition (C, ...), coordinates (3, ...), known
    mask (1, ...), all float32. The known image is `image * known`."""

    image: np.ndarray
    condition: np.ndarray
    coordinates: np.ndarray
    known: np.ndarray


def draw_given(names: Sequence[str], config: PatchConfig, rng: np.random.Generator) -> tuple[str, ...]:
    """Which classes are given: each is withheld on its own, so that any subset works at generation."""
    if rng.random() < config.drop_all:
        return ()
    if rng.random() < config.drop_anatomy:
        return (config.target,)
    drop = config.drop or {}
    return tuple(n for n in names if rng.random() >= drop.get(n, 0.4))


def blunt_anatomy(class_map: np.ndarray, scheme: LabelScheme, target: str, sigma: float, bias: float) -> np.ndarray:
    """The class map with smoother, slightly larger or smaller outlines of everything but the target."""
    blunt = np.zeros_like(class_map)
    for label in scheme.condition_classes:
        mask = np.isin(class_map, scheme.containing(label.name))
        if label.name != target:
            mask = smooth_outline(mask, sigma, bias)
        blunt[mask] = label.value
    return blunt


def draw_unknown_region(target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random blob to be synthesised: around the target, or anywhere.

    Args:
        target: (P, P, P) bool, the target class in the patch.

    Returns:
        (P, P, P) bool.
    """
    side = np.array(target.shape)
    around_target = target.any() and rng.random() < 0.6
    center = np.argwhere(target).mean(0) if around_target else rng.uniform(0.15, 0.85, 3) * side
    radii = rng.uniform(0.12, 0.45, 3) * side
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in side], indexing="ij"))
    distance = np.sqrt((((grid - center[:, None, None, None]) / radii[:, None, None, None]) ** 2).sum(0))
    bumps = ndimage.gaussian_filter(rng.standard_normal(target.shape), 3.0)
    blob = distance + 0.25 * bumps / max(bumps.std(), 1e-6) < 1.0
    if around_target:
        margin = rng.uniform(2.0, 6.0)
        blob |= ndimage.distance_transform_edt(~target) <= margin
    return blob


def blur_like_coarse_scan(image: np.ndarray, largest_sigma: float, rng: np.random.Generator) -> np.ndarray:
    """The image as it looks when it is interpolated from thick slices (one axis) or from large voxels (all axes)."""
    sigma = np.full(3, rng.uniform(0.6, largest_sigma))
    if rng.random() < 0.5:
        sigma[np.arange(3) != rng.integers(3)] = 0.0
    return ndimage.gaussian_filter(image, sigma, mode="nearest")


def draw_patch(
    image: np.ndarray,
    class_map: np.ndarray,
    scheme: LabelScheme,
    size: int,
    config: PatchConfig,
    rng: np.random.Generator,
) -> Patch:
    """Draws one training patch.

    Args:
        image: (I, J, K) float32 in [-1, 1].
        class_map: (I, J, K) label values of `scheme`.
        size: P, side of the patch; a field smaller than that is enlarged to it.
    """
    shape = np.array(image.shape)
    low, high = config.field_sizes
    field = np.array([int(rng.integers(max(size, low), max(size, min(high, n)) + 1)) for n in shape])
    field = np.minimum(field, shape)
    field_start = np.array([int(rng.integers(0, n - f + 1)) for n, f in zip(shape, field)])

    target_value = scheme[config.target].value
    if rng.random() < config.target_probability:
        voxels = np.argwhere(class_map == target_value)
        center = voxels[rng.integers(len(voxels))] - field_start if len(voxels) else field // 2
        jitter = rng.integers(-size // 4, size // 4 + 1, 3)
        start = np.clip(center + jitter - size // 2, 0, field - size)
    else:
        start = np.array([int(rng.integers(0, f - size + 1)) for f in field])
    inside = tuple(slice(a + b, a + b + size) for a, b in zip(field_start, start))

    labels = blunt_anatomy(
        class_map[inside], scheme, config.target, rng.uniform(*config.outline_sigmas), rng.uniform(-0.15, 0.15)
    )
    given = draw_given([c.name for c in scheme.condition_classes], config, rng)
    coordinates = coordinate_channels(tuple(field))[(slice(None), *(slice(a, a + size) for a in start))]
    values = image[inside]
    known = np.zeros_like(values)
    if rng.random() < config.inpaint_probability:
        known = 1.0 - draw_unknown_region(labels == target_value, rng).astype(np.float32)
        if rng.random() < config.blur_probability:
            values = np.where(known > 0, blur_like_coarse_scan(values, config.blur_sigma, rng), values)

    # A mirrored field: a patch of its left end becomes one of its right end, whose coordinates ascend as everywhere.
    flips = tuple(axis + 1 for axis in range(3) if rng.random() < 0.5)
    signs = np.array([-1.0 if axis + 1 in flips else 1.0 for axis in range(3)], np.float32)
    coordinates = coordinates * signs[:, None, None, None]
    arrays = [values[None], encode_classes(labels, scheme, given).astype(np.float32), coordinates, known[None]]
    return Patch(*(np.ascontiguousarray(np.flip(a, flips)) for a in arrays))
